//! What tests of crashes, failing disks and power cuts share: vaults that open at once, what they show, and whether
//! anything is amiss in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use espejo::crypto::object_name;
use espejo::entry::{Attachment, Body, Content};
use espejo::format::keyfile::Secret;
use espejo::host::ThisMachine;
use espejo::remote::FolderRemote;
use espejo::sync::{self, Options};
use espejo::vault::{self, Change, Edit, Locked, NewVault, RemoteSettings, Vault};
use espejo::version::MadeOn;
use zeroize::Zeroizing;

use super::cli::{ESPEJO, Output, clean, finish};

pub type ThisVault = Vault<ThisMachine>;

/// Where things are in the directory of a case.
pub const VAULT: &str = "vault";
pub const MIRROR: &str = "mirror";
const WORDS: &str = "words";
pub const PASSWORD: &str = "password";
pub const PAPER: &str = "paper";

/// What opens a test vault. A recovery key costs nothing to derive, unlike a password.
#[derive(Clone)]
pub enum Key {
    Recovery(Zeroizing<[u8; 32]>),
    Password,
}

impl Key {
    pub fn secret(&self) -> Secret {
        match self {
            Self::Recovery(secret) => Secret::Recovery(secret.clone()),
            Self::Password => Secret::Password(super::password()),
        }
    }

    /// The words of the command line that give it.
    fn arguments(&self) -> [&'static str; 2] {
        match self {
            Self::Recovery(_) => ["--recovery-key-file", WORDS],
            Self::Password => ["--password-file", PASSWORD],
        }
    }
}

/// The key that `init` wrote down in `dir/paper`, if it came that far: it must open the vault as any other does.
pub fn key_on_paper(dir: &Path) -> Option<Key> {
    let words = fs::read_to_string(dir.join(PAPER)).ok()?;
    let secret = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, words.trim_end()).ok()?;
    fs::write(dir.join(WORDS), words).unwrap();
    Some(Key::Recovery(Zeroizing::new(secret.to_entropy().try_into().unwrap())))
}

/// A vault in `dir/vault` whose mirror is to be `dir/mirror`, and its recovery words in `dir/words`.
pub fn create(dir: &Path) -> (ThisVault, Key) {
    let new = NewVault {
        password: super::password(),
        recovery: true,
        device_name: "laptop".to_owned(),
        iterations: espejo::crypto::MIN_WRITTEN_ITERATIONS,
    };
    let created = vault::create(ThisMachine::new(dir.join(VAULT)), &new).unwrap();
    let secret = created.recovery.unwrap();
    let words = bip39::Mnemonic::from_entropy_in(bip39::Language::English, &*secret).unwrap();
    fs::write(dir.join(WORDS), words.to_string()).unwrap();
    let mut vault = created.vault;
    set_mirror(&mut vault);
    (vault, Key::Recovery(secret))
}

/// The mirror is a path from the directory the command runs in, so that a copy of the case has a mirror of its own.
pub fn set_mirror(vault: &mut ThisVault) {
    let target = MIRROR.to_owned();
    let settings = RemoteSettings { target, user: None, password: None, ca_pem: None, initialised: false };
    vault.set_remote(&settings).unwrap();
}

pub fn open(dir: &Path, key: &Key) -> Result<ThisVault, String> {
    let mut vault = Locked::find(ThisMachine::new(dir)).and_then(|locked| locked.unlock(&key.secret()));
    if let Ok(vault) = &mut vault {
        let findings = vault.take_findings();
        if !findings.is_empty() {
            return Err(format!("opening it finds {findings:?}"));
        }
    }
    vault.map_err(|error| format!("it does not open: {error:?}"))
}

pub fn clone_mirror(mirror: &Path, to: &Path, key: &Key) -> Result<ThisVault, String> {
    let remote = FolderRemote::new(mirror.to_owned());
    let said = super::block_on(sync::introduce(&remote)).map_err(|error| format!("no clone: {error:?}"))?;
    let host = ThisMachine::new(to);
    let cloned = vault::create_from_mirror(host, said.vault, &said.key_files, &key.secret(), "another");
    let mut vault = cloned.map_err(|error| format!("no clone: {error:?}"))?;
    set_mirror(&mut vault);
    sync_with(&mut vault, mirror)?;
    Ok(vault)
}

/// A sync that must settle everything and find nothing wrong.
pub fn sync_with(vault: &mut ThisVault, mirror: &Path) -> Result<(), String> {
    let remote = FolderRemote::new(mirror.to_owned());
    let (report, mut findings) = super::try_sync(vault, &remote, Options::default());
    let report = report.map_err(|error| format!("the next sync fails: {error:?}"))?;
    // An announcement that was kept here and did not arrive is sent again.
    findings.retain(|finding| !["manifest_rebuilt", "mirror_healed"].contains(&finding.kind()));
    match report.is_settled() && findings.is_empty() {
        true => Ok(()),
        false => Err(format!("the next sync does not settle: {report:?} {findings:?}")),
    }
}

/// Stands for a text or a file that was announced and has not arrived.
pub const NOT_HERE: &str = "(not here yet)";

/// An entry as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    pub text: String,
    pub deleted: bool,
    /// Names and hashes.
    pub attachments: BTreeMap<String, String>,
    /// The texts of an open conflict's other sides.
    pub losers: Vec<String>,
}

impl Shown {
    /// Whether something of it has not arrived yet.
    pub fn is_on_its_way(&self) -> bool {
        let files = self.attachments.values();
        files.chain(&self.losers).chain([&self.text]).any(|text| text == NOT_HERE)
    }
}

/// What a vault shows, by title.
pub type State = BTreeMap<String, Shown>;

pub fn shown(vault: &mut ThisVault) -> Result<State, String> {
    let problem = |error: vault::Error| format!("it cannot be read: {error:?}");
    let mut state = State::new();
    for entry in vault.entries().map_err(problem)? {
        // Of one without a title no text has arrived yet.
        if entry.summary.title.is_empty() {
            continue;
        }
        let current = match vault.content(entry.version.id) {
            Err(vault::Error::Pending) => Some(super::text(&entry.summary.title, NOT_HERE)),
            content => content.map_err(problem)?,
        };
        let mut losers = Vec::new();
        for loser in &entry.losers {
            losers.push(match vault.content(*loser) {
                Err(vault::Error::Pending) => NOT_HERE.to_owned(),
                content => content.map_err(problem)?.map(text_of).unwrap_or_default(),
            });
        }
        losers.sort();
        let mut attachments = BTreeMap::new();
        for attachment in current.iter().flat_map(|content| &content.attachments) {
            let hash = match vault.blob_bytes(&attachment.blob, 1 << 20) {
                Err(vault::Error::Pending) => NOT_HERE.to_owned(),
                bytes => object_name(&bytes.map_err(problem)?).to_string(),
            };
            attachments.insert(attachment.name.clone(), hash);
        }
        let text = current.map(text_of).unwrap_or_default();
        let shown = Shown { text, deleted: entry.deleted(), attachments, losers };
        if let Some(twice) = state.insert(entry.summary.title.clone(), shown) {
            return Err(format!("{:?} is there twice: {twice:?}", entry.summary.title));
        }
    }
    Ok(state)
}

/// What differs between two states.
pub fn difference(one: &State, other: &State) -> String {
    let titles = one.keys().chain(other.keys()).collect::<BTreeSet<_>>();
    let different = titles.into_iter().filter(|title| one.get(*title) != other.get(*title));
    different.map(|title| format!("{title}: {:?} and {:?}; ", one.get(title), other.get(title))).collect()
}

fn text_of(content: Content) -> String {
    match content.body {
        Body::Text(text) => text,
        Body::Parts(_) => panic!("the tests write short texts"),
    }
}

/// Opens every object: nothing is damaged, missing, or not ours.
pub fn check(vault: &mut ThisVault) -> Result<(), String> {
    let report = vault.check().map_err(|error| format!("the check fails: {error:?}"))?;
    match report.is_clean() && report.foreign.is_empty() {
        true => Ok(()),
        false => Err(format!("the check finds {report:?}")),
    }
}

/// Nobody holds a lock, though whoever held it was killed.
pub fn locks_are_free(vault: &Path) -> Result<(), String> {
    for name in ["local/lock", "local/sync-lock"] {
        let Ok(lock) = File::options().write(true).open(vault.join(name)) else { continue };
        // A process that another test is just starting holds copies of this one's files for a moment.
        let mut tries = 200;
        while let Err(error) = lock.try_lock() {
            tries -= 1;
            if tries == 0 {
                return Err(format!("{name}: {error}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// After a change nothing lies in the vault but what belongs there.
pub fn no_leftovers(vault: &Path) -> Result<(), String> {
    let names = |dir: &str| {
        let items = fs::read_dir(vault.join(dir)).into_iter().flatten();
        items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let known = [
        "activity",
        "device",
        "feeds",
        "incoming",
        "key",
        "lock",
        "manifest",
        "others",
        "remote",
        "status",
        "sync",
        "sync-lock",
    ];
    let mut strays = names("local/incoming");
    strays.extend(names("local").into_iter().filter(|name| !known.contains(&&name[..])));
    let ours = ["espejo.json", "keys", "local", "objects"];
    strays.extend(names("").into_iter().filter(|name| !ours.contains(&&name[..])));
    if strays.is_empty() { Ok(()) } else { Err(format!("left over: {strays:?}")) }
}

/// An entry with a title of its own.
pub fn written(title: &str, text: &str) -> Edit {
    let content = super::text(title, text);
    Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) }
}

/// The same with a file.
pub fn with_attachment(vault: &mut ThisVault, edit: Edit, name: &str, bytes: &[u8]) -> Edit {
    let Change::Content(mut content) = edit.change else { panic!("it has content") };
    let blob = vault.store_blob(&mut &bytes[..]).unwrap();
    let media_type = "application/octet-stream".to_owned();
    content.attachments.push(Attachment { name: name.to_owned(), media_type, blob });
    Edit { change: Change::Content(content), ..edit }
}

/// The binary in `dir`, on the vault there, below the program `before`.
pub fn command(dir: &Path, before: &[String], key: &Key, args: &[String]) -> Command {
    let program = before.iter().map(String::as_str).chain([ESPEJO]).collect::<Vec<_>>();
    let mut command = clean(program[0]);
    command.args(&program[1..]).args(args).args(key.arguments()).args(["--json", "--no-input"]);
    command.env("HOME", dir).env("ESPEJO_VAULT", dir.join(VAULT)).current_dir(dir);
    command
}

/// Runs the binary in `dir` undisturbed.
pub fn run(dir: &Path, key: &Key, args: &[&str]) -> Output {
    let args = args.iter().copied().map(str::to_owned).collect::<Vec<_>>();
    finish(command(dir, &[], key, &args).spawn().unwrap(), b"")
}
