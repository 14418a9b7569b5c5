//! The smallest journal on Espejo's library: a page for each run, and all of them shown.
//!
//! ```text
//! cargo run --example journal -- DIR "Rain again. Stayed in."
//! ```
//!
//! It makes the vault if there is none; the password is in the environment, as `PASSWORD`. What it writes `espejo` reads, and
//! the reverse.

use std::error::Error;

use espejo::clock::{Clock, SystemClock};
use espejo::crypto::Password;
use espejo::entry::{Body, Content};
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::vault::{self, Change, Edit, Locked, NewVault, Vault};
use espejo::version::MadeOn;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: journal DIR [TEXT]")?;
    let password = std::env::var("PASSWORD").map_err(|_| "the password is expected in PASSWORD")?;
    let password = Password::new(&password).ok_or("a password has 1 to 1,024 bytes")?;
    let mut vault = open_or_create(&dir, password)?;
    if let Some(text) = args.next() {
        write(&mut vault, &text)?;
    }
    show(&mut vault)
}

fn open_or_create(dir: &str, password: Password) -> Result<Vault<ThisMachine>, vault::Error> {
    match Locked::find(ThisMachine::new(dir)) {
        Ok(locked) => locked.unlock(&Secret::Password(password)),
        Err(vault::Error::NoVault) => {
            let new = NewVault {
                password,
                recovery: false,
                device_name: "example".to_owned(),
                iterations: vault::measure_iterations(),
            };
            vault::create(ThisMachine::new(dir), &new).map(|created| created.vault)
        }
        Err(error) => Err(error),
    }
}

fn write(vault: &mut Vault<ThisMachine>, text: &str) -> Result<(), vault::Error> {
    let title = text.split(['.', '\n']).next().unwrap_or_default().trim();
    let page = Change::Content(Content::markdown(title, text, SystemClock.now_ms()));
    vault.save(&[Edit { entry: None, made_on: MadeOn::Everything, change: page }]).map(|_| ())
}

fn show(vault: &mut Vault<ThisMachine>) -> Result<(), Box<dyn Error>> {
    for entry in vault.entries()?.into_iter().filter(|entry| !entry.deleted()) {
        let Some(content) = vault.content(entry.version.id)? else { continue };
        match content.body {
            Body::Text(text) => println!("# {}\n\n{text}\n", content.title),
            Body::Parts(blob) => println!("# {}\n\n({} bytes)\n", content.title, blob.len_bytes()),
        }
    }
    Ok(())
}
