//! Key files on the mirror: telling of a password change and learning of one.
//!
//! An ordinary sync reads the key files that others announce and does not look for more. What lies there beside them is
//! looked for once a day: whoever made it may never come to announce it.

use std::collections::{BTreeMap, BTreeSet};

use super::mirror::{KEYS, path, put_surely};
use super::push::last_said;
use super::scrub::get;
use super::{Error, Guard, no_room};
use crate::event::{ChangedBy, Finding, Observer};
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::host::Host;
use crate::id::DeviceId;
use crate::remote::{Item, Remote, RemoteError, RemotePath};
use crate::vault::{self, SyncState, Taken, Vault, generation_of};

/// Key files that are looked at in one day's housekeeping.
const MAX_LOOKED_AT: usize = 16;

/// How closely to look at the key file on the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Only if it is not known to be there.
    No,
    /// At its length.
    Length,
    /// At its bytes.
    Bytes,
}

/// What a look at the mirror's key files came to.
pub struct PickedUp {
    /// How many that were announced are not there, or not whole.
    pub pending: u64,
    /// Whether the one in force is there and as long as it is, as far as a listing was asked for.
    pub is_whole: bool,
    /// Those that were announced last by one device or another.
    pub announced: BTreeSet<String>,
}

impl Look {
    /// Whether everything is looked at in `full`, or only what a mirror that went back may have lost.
    pub fn after(full: bool, closer: bool) -> Self {
        match (full, closer) {
            (true, _) => Self::Bytes,
            (false, true) => Self::Length,
            (false, false) => Self::No,
        }
    }
}

fn key_path(name: &str) -> Option<RemotePath> {
    RemotePath::new(&format!("{KEYS}/{name}"))
}

/// The key file that each device named in its last announcement.
pub fn announced<H: Host>(vault: &mut Vault<H>) -> Result<BTreeMap<DeviceId, String>, vault::Error> {
    let feeds = vault.manifest()?.feeds().clone();
    let mut announced = BTreeMap::new();
    for (device, tip) in feeds {
        let last = last_said(vault, device, tip.seq)?;
        announced.extend(last.map(|last| (device, last.key_file)));
    }
    Ok(announced)
}

/// Takes in the key files that were announced and are not older than the one here. Gives how many have not arrived.
/// `known` becomes the one in force if that came from the mirror. `all` are taken in that lie there: whoever changed the
/// password may have stopped before it was announced, and those who come new would be asked for it.
pub async fn pick_up<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    known: &mut String,
    all: bool,
    observer: &mut dyn Observer,
) -> Result<PickedUp, Error> {
    let before = vault.key_file()?;
    let here = vault.key_files()?.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    let announced = announced(vault)?.into_values().collect::<BTreeSet<_>>();
    let mut wanted = announced.clone();
    let mut is_whole = true;
    if all {
        let listing = remote.list(&path(KEYS)).await?.unwrap_or_default();
        let (name, len) = (before.file_name(), before.encode().len() as u64);
        let is_it = |item: &Item| item.name == name && item.len_bytes.is_none_or(|it| it == len);
        is_whole = listing.items.iter().any(is_it);
        wanted.extend(listing.items.into_iter().map(|item| item.name).take(MAX_LOOKED_AT));
    }
    wanted
        .retain(|name| generation_of(name).is_some_and(|it| it >= before.generation) && !here.contains(name));
    let mut pending = 0;
    let mut rekeyed = None;
    let mut taken = Vec::new();
    // One after the other: a key file of a later epoch is known for one only after the one before it.
    let mut wanted = wanted.into_iter().collect::<Vec<_>>();
    wanted.sort_by_key(|name| generation_of(name));
    for name in wanted {
        let Some(at) = key_path(&name) else { continue };
        let is_announced = announced.contains(&name);
        let Some(bytes) = get(remote, &at, MAX_KEY_FILE_BYTES).await? else {
            pending += u64::from(is_announced);
            continue;
        };
        let named = KeyFile::decode(&bytes).is_ok_and(|file| file.file_name() == name);
        let problem = match named.then(|| vault.take_key_file(&bytes)).transpose()? {
            Some(Taken::Nothing) => continue,
            Some(Taken::Changed(file)) => {
                taken.push(file);
                continue;
            }
            Some(Taken::NewMaster(file)) => {
                rekeyed = rekeyed.max(Some(file.created_ms));
                continue;
            }
            Some(Taken::Refused(error)) => format!("{error}; it was not used"),
            None => "damaged (its bytes are not those its name promises)".to_owned(),
        };
        // What nobody announced may be on its way.
        if is_announced {
            pending += 1;
            observer.finding(Finding::MirrorDamaged { file: at.to_string(), problem });
        }
    }
    if let Some(at) = rekeyed {
        return Err(Guard::Rekeyed { at }.into());
    }
    if let Some(last) = taken.iter().max_by_key(|file| file.created_ms) {
        let after = vault.key_file()?;
        tell(vault, last, &before, &after, observer);
        if taken.contains(&after) {
            *known = after.file_name();
        }
    }
    Ok(PickedUp { pending, is_whole, announced })
}

/// Says what opens the vault now and did not before, after `last` was taken in.
fn tell<H: Host>(
    vault: &Vault<H>,
    last: &KeyFile,
    before: &KeyFile,
    after: &KeyFile,
    observer: &mut dyn Observer,
) {
    let by = |ways: usize| ChangedBy {
        device: vault.device_name(last.device),
        at: last.created_ms,
        at_once: ways > 1,
    };
    let difference = after.difference(before);
    if difference.password {
        observer.finding(Finding::PasswordChanged(by(after.passwords())));
    }
    if difference.recovery {
        observer.finding(Finding::RecoveryChanged(by(after.recovery_keys())));
    }
}

/// Makes sure that the key file in force is on the mirror before anything names it. `known` is the one that was made
/// sure of last. Gives the refusal if the mirror has no room for it.
pub async fn make_sure<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    known: &mut String,
    look: Look,
    observer: &mut dyn Observer,
) -> Result<Option<RemoteError>, Error> {
    let key_file = vault.key_file()?;
    let (name, bytes) = (key_file.file_name(), key_file.encode());
    if *known == name && look == Look::No {
        return Ok(None);
    }
    let at = path(&format!("{KEYS}/{name}"));
    let whole = match look {
        Look::Bytes => get(remote, &at, MAX_KEY_FILE_BYTES).await?.is_some_and(|there| there == bytes),
        Look::No | Look::Length => remote.size(&at).await? == Some(bytes.len() as u64),
    };
    if !whole {
        if *known == name {
            // If this fails there may be less than there was; the next sync must look again.
            vault.set_sync_state(&SyncState { key_file: String::new(), ..vault.sync_state()? })?;
        }
        match put_surely(remote, at.clone(), bytes).await {
            Ok(()) if *known == name => {
                observer.finding(Finding::MirrorHealed { file: at.to_string() });
            }
            Ok(()) => {}
            Err(error) if no_room(&error) => return Ok(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    *known = name;
    Ok(None)
}

/// Removes key files that every device has left behind: each has announced the one in force.
pub async fn tidy<H: Host, R: Remote>(vault: &mut Vault<H>, remote: &R) -> Result<(), Error> {
    let in_force = vault.key_file()?;
    let name = in_force.file_name();
    let follow = announced(vault)?;
    let manifest = vault.manifest()?;
    let mut waited_for = manifest.feeds().keys().filter(|device| !manifest.is_retired(**device));
    // Before the first change there is nothing to remove.
    if in_force.generation == 1 || waited_for.any(|device| follow.get(device) != Some(&name)) {
        return Ok(());
    }
    let listing = remote.list(&path(KEYS)).await?.unwrap_or_default();
    let older =
        |other: &String| *other != name && generation_of(other).is_some_and(|it| it <= in_force.generation);
    let older = listing.items.into_iter().map(|item| item.name).filter(older).take(MAX_LOOKED_AT);
    for at in older.collect::<Vec<_>>().iter().filter_map(|name| key_path(name)) {
        let Some(bytes) = get(remote, &at, MAX_KEY_FILE_BYTES).await? else { continue };
        // One that says something new is on its way, and will be announced.
        let obsolete = KeyFile::decode(&bytes)
            .is_ok_and(|file| file.is_authentic(vault.keyring()) && in_force.supersedes(&file));
        if obsolete {
            remote.delete(&at).await?;
        }
    }
    Ok(())
}
