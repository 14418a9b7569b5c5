//! Sessions whose key is in the operating system's keyring: never the vault's own keys, which stay on the disk, sealed.

use std::time::Duration;

use espejo::crypto::Key;
use espejo::format::session::SessionId;
use espejo::host::ThisMachine;
use espejo::vault::{self, Locked};
use keyring::{Entry, Error};
use zeroize::Zeroizing;

use crate::context::ThisVault;
use crate::failure::{Code, Failure};
use crate::output::warn;

const SERVICE: &str = "espejo";

/// Begins a session of `vault`, in place of any that `locked`, the same one, has. Gives when it ends.
pub fn begin(locked: &Locked<ThisMachine>, vault: &ThisVault, lasting: Duration) -> Result<i64, Failure> {
    end(locked)?;
    // Without a keyring nothing is written.
    if let Err(error) = Entry::store_status() {
        return Err(no_keyring(error));
    }
    let for_ms = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX);
    let (id, key, until_ms) = vault.begin_session(for_ms)?;
    if let Err(error) = entry(id).and_then(|entry| entry.set_secret(key.as_bytes())) {
        locked.end_session()?;
        return Err(no_keyring(&error));
    }
    Ok(until_ms)
}

/// The vault by its session, or still locked if there is none that counts.
pub fn resume(locked: Locked<ThisMachine>) -> Result<Result<ThisVault, Locked<ThisMachine>>, vault::Error> {
    let Some(id) = locked.session() else { return Ok(Err(locked)) };
    let secret = match entry(id).and_then(|entry| entry.get_secret()) {
        Ok(secret) => Zeroizing::new(secret),
        Err(Error::NoEntry) => return Ok(Err(locked)),
        Err(error) => {
            warn(format!("the session cannot be used: {error}"));
            return Ok(Err(locked));
        }
    };
    let Ok(key) = <[u8; 32]>::try_from(&secret[..]) else { return Ok(Err(locked)) };
    match locked.resume(&Key::from_bytes(key))? {
        Ok(vault) => Ok(Ok(vault)),
        Err(locked) => {
            // It is over: its key need not be kept any longer.
            end(&locked)?;
            Ok(Err(locked))
        }
    }
}

/// Ends the session, if there is one. Gives whether there was.
pub fn end(locked: &Locked<ThisMachine>) -> Result<bool, vault::Error> {
    let Some(id) = locked.session() else { return Ok(false) };
    // What the key would open goes first: if the keyring cannot be asked, its key is good for nothing.
    locked.end_session()?;
    match entry(id).and_then(|entry| entry.delete_credential()) {
        Ok(()) | Err(Error::NoEntry) => {}
        Err(error) => {
            warn(format!("the session's key stays in the keyring, where it opens nothing: {error}"));
        }
    }
    Ok(true)
}

fn entry(id: SessionId) -> Result<Entry, Error> {
    Entry::new(SERVICE, &format!("session {id}"))
}

fn no_keyring(error: &Error) -> Failure {
    Failure::new(
        Code::Other,
        "no_keyring",
        format!("there is no keyring to keep a session's key in ({error}); the vault stays locked"),
    )
    .hint("--password-command CMD or ESPEJO_PASSWORD_COMMAND asks a password manager each time")
}
