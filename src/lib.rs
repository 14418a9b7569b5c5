//! Espejo keeps a journal in an encrypted vault on your disk and mirrors it through any WebDAV server or folder.
//!
//! This library knows everything about vaults and nothing about terminals: an app for a journal can be built on it. It
//! spawns nothing and prints nothing; what it finds on the way it tells an [`Observer`](event::Observer).
//!
//! # A vault, an entry, a mirror, another device
//!
//! ```
//! use espejo::crypto::Password;
//! use espejo::entry::Content;
//! use espejo::format::keyfile::Secret;
//! use espejo::host::ThisMachine;
//! use espejo::remote::FolderRemote;
//! use espejo::sync::{self, Options};
//! use espejo::vault::{self, Change, Edit, Locked, NewVault, RemoteSettings};
//! use espejo::version::MadeOn;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let [laptop, phone, mirror] = ["laptop", "phone", "mirror"].map(|name| dir.path().join(name));
//! let password = Password::new("copper lantern orbit meadow").ok_or("an empty password")?;
//! let new = NewVault { password: password.clone(), recovery: false, device_name: "laptop".into(), iterations: 0 };
//! vault::create(ThisMachine::new(&laptop), &new)?;
//!
//! // Later, or in another process. It is unlocked as long as this value lives.
//! let secret = Secret::Password(password);
//! let mut vault = Locked::find(ThisMachine::new(&laptop))?.unlock(&secret)?;
//!
//! // What is saved is on the disk when this returns; several edits are saved together or not at all.
//! let rain = Change::Content(Content::markdown("Rain", "Stayed in.", 1_700_000_000_000));
//! let saved = vault.save(&[Edit { entry: None, made_on: MadeOn::Everything, change: rain }])?;
//! let (entry, first) = (saved[0].entry, saved[0].version);
//!
//! // An edit says on which version it was made: what it did not know of is a conflict, and kept.
//! let more = Change::Content(Content::markdown("Rain", "Stayed in. Read about lighthouses.", 1_700_000_000_000));
//! vault.save(&[Edit { entry: Some(entry), made_on: MadeOn::Version(first), change: more }])?;
//! assert_eq!(vault.history(entry)?.len(), 2);
//!
//! // A folder, or a `WebDavRemote`. The future is driven by whoever calls.
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! let remote = FolderRemote::new(mirror);
//! vault.set_remote(&RemoteSettings::new(remote.base().to_string_lossy()))?;
//! let mut findings = Vec::new();
//! let report = runtime.block_on(sync::sync(&mut vault, &remote, Options::default(), &mut findings))?;
//! assert_eq!((report.pushed, findings.len()), (2, 0));
//!
//! // The other device needs the mirror and the password, and nothing else.
//! let there = runtime.block_on(sync::introduce(&remote))?;
//! let mut other =
//!     vault::create_from_mirror(ThisMachine::new(&phone), there.vault, &there.key_files, &secret, "phone")?;
//! let mut settings = RemoteSettings::new(remote.base().to_string_lossy());
//! settings.initialised = true;
//! other.set_remote(&settings)?;
//! runtime.block_on(sync::sync(&mut other, &remote, Options::default(), &mut findings))?;
//! let shown = other.entries()?.remove(0);
//! let content = other.content(shown.version.id)?.ok_or("a deletion")?;
//! assert_eq!((content.title.as_str(), shown.id()), ("Rain", entry));
//! # Ok(())
//! # }
//! ```
//!
//! `examples/journal.rs` is a program of this kind. Where things are is in `docs/architecture.md`, what the bytes are in
//! `docs/format.md`.

pub mod clock;
pub mod crypto;
pub mod embedded;
pub mod entropy;
pub mod entry;
pub mod event;
pub mod format;
pub mod fs;
pub mod history;
pub mod host;
pub mod id;
pub mod manifest;
mod parallel;
pub mod remote;
pub mod sync;
pub mod vault;
pub mod version;
