//! The mirror's layout: what is where, whether it is ours, and making a new one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Error, Guard, Options, PARALLEL, forget_locations};
use crate::event::{Finding, Observer, short};
use crate::format::feed::SegmentName;
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::host::Host;
use crate::id::{DeviceId, VaultId};
use crate::manifest::{Location, Record};
use crate::remote::{Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::{RemoteSettings, Vault};

pub const FEEDS: &str = "feeds";
pub const KEYS: &str = "keys";
pub const OBJECTS: &str = "objects";

fn path(text: &str) -> RemotePath {
    RemotePath::new(text).expect("names on the mirror are made of safe characters")
}

pub fn feed_path(name: &SegmentName) -> RemotePath {
    path(&format!("{FEEDS}/{name}"))
}

/// The directory of a batch: the first eight hex digits of its writer's id and a number.
pub fn batch_path(writer: DeviceId, batch: u32) -> RemotePath {
    path(&format!("{OBJECTS}/{}-{batch}", short(writer)))
}

pub fn file_path(location: &Location) -> RemotePath {
    path(&format!("{}/{}", batch_path(location.writer, location.batch), location.file))
}

/// The vault a mirror's marker names; `None` if there is no marker.
async fn read_marker(remote: &impl Remote) -> Result<Option<VaultId>, Error> {
    let read = remote.get(&path(MARKER_NAME), None, MAX_MARKER_BYTES as u64).await;
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match marker::decode(&bytes) {
        Ok(Marker::Vault(vault)) => Ok(Some(vault)),
        Ok(Marker::Newer) => Err(Error::Newer),
        Err(_) => {
            let request = format!("GET {MARKER_NAME}");
            let detail = "espejo.json on the mirror is damaged".to_owned();
            Err(RemoteError { kind: RemoteErrorKind::Malformed, request, detail }.into())
        }
    }
}

/// Stops if the mirror's marker is gone or another vault's.
pub async fn require_marker<H: Host, R: Remote>(vault: &Vault<H>, remote: &R) -> Result<(), Error> {
    match read_marker(remote).await? {
        Some(id) if id == vault.id() => Ok(()),
        Some(id) => Err(Guard::OtherVault(id).into()),
        None => Err(Guard::MirrorGone.into()),
    }
}

/// Finds out what is at the mirror's address when the feeds do not show what was expected: makes a new mirror,
/// accepts ours, or stops. True if everything has to be sent again.
pub async fn examine<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    settings: &RemoteSettings,
    options: Options,
) -> Result<bool, Error> {
    match read_marker(remote).await? {
        Some(id) if id != vault.id() => return Err(Guard::OtherVault(id).into()),
        Some(_) => {
            if !options.dry_run {
                make_dirs(vault, remote, settings).await?;
            }
            return Ok(false);
        }
        None if settings.initialised && !options.reseed => return Err(Guard::MirrorGone.into()),
        None => {}
    }
    let children = remote.list(&RemotePath::root()).await?;
    if let Some(children) = &children {
        // What is left of a mirror of ours may be filled again; hidden files belong to sync tools.
        let ours = |name: &str| [FEEDS, KEYS, OBJECTS].contains(&name) && settings.initialised;
        let foreign = children.items.iter().map(|item| &item.name);
        let foreign =
            foreign.filter(|name| !name.starts_with('.') && !ours(name)).cloned().collect::<Vec<_>>();
        if !foreign.is_empty() {
            return Err(Guard::ForeignFolder(foreign).into());
        }
    }
    if options.dry_run {
        return Ok(false);
    }
    if children.is_none() {
        remote.make_dir(&RemotePath::root()).await?;
    }
    make_dirs(vault, remote, settings).await?;
    for (name, file) in vault.key_files()? {
        remote.put(&path(&format!("{KEYS}/{name}")), Bytes::from(file)).await?;
    }
    // The marker comes last: what has it can be cloned.
    remote.put(&path(MARKER_NAME), Bytes::from(marker::encode(vault.id()))).await?;
    if settings.initialised {
        forget_locations(vault)?;
    } else {
        remember(vault, settings)?;
    }
    Ok(settings.initialised)
}

async fn make_dirs<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    settings: &RemoteSettings,
) -> Result<(), Error> {
    for dir in [FEEDS, KEYS, OBJECTS] {
        remote.make_dir(&path(dir)).await?;
    }
    remember(vault, settings)
}

fn remember<H: Host>(vault: &mut Vault<H>, settings: &RemoteSettings) -> Result<(), Error> {
    if !settings.initialised {
        let mut settings = settings.clone();
        settings.initialised = true;
        vault.set_remote(&settings)?;
    }
    Ok(())
}

/// What a device that has no vault yet needs to know of a mirror.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The vault.
    pub vault: VaultId,
    /// Its newest key file.
    pub key_file: Vec<u8>,
}

/// Reads what it takes to make a vault for an existing mirror.
pub async fn introduce(remote: &impl Remote) -> Result<Introduction, Error> {
    let vault = read_marker(remote).await?.ok_or(Error::NoMirror)?;
    let listing = remote.list(&path(KEYS)).await?.unwrap_or_default();
    let generation = |name: &str| name.split_once('-').and_then(|(number, _)| number.parse::<u32>().ok());
    let mut names = listing.items.into_iter().map(|item| item.name).collect::<Vec<_>>();
    names.retain(|name| name.ends_with(".key") && generation(name).is_some());
    names.sort_by_key(|name| std::cmp::Reverse(generation(name)));
    for name in &names {
        let Some(path) = RemotePath::new(&format!("{KEYS}/{name}")) else { continue };
        let key_file = remote.get(&path, None, MAX_KEY_FILE_BYTES as u64).await?;
        // A torn or damaged one is passed over for the one before it.
        if KeyFile::decode(&key_file).is_ok_and(|parsed| parsed.file_name() == *name) {
            return Ok(Introduction { vault, key_file });
        }
    }
    Err(crate::vault::Error::KeyFileMissing.into())
}

/// Looks for every file the feeds name, by one listing per batch, and forgets what is not there or has another
/// length, so that whoever has the objects sends them again.
pub async fn find_missing<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    observer: &mut impl Observer,
) -> Result<(), Error> {
    let manifest = vault.manifest()?;
    let mut batches = BTreeMap::<(DeviceId, u32), BTreeMap<String, u64>>::new();
    for location in manifest.objects().values().filter_map(|state| state.mirrored) {
        let files = batches.entry((location.writer, location.batch)).or_default();
        files.insert(location.file.to_string(), location.file_len_bytes);
    }
    let listed = stream::iter(batches.keys().copied().map(|(writer, batch)| async move {
        let listing = remote.list(&batch_path(writer, batch)).await?;
        Ok::<_, RemoteError>(((writer, batch), listing))
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<Vec<_>>()
    .await?;
    let mut gone = BTreeSet::new();
    for (batch, listing) in listed {
        let there = match listing {
            // Nothing may be concluded from a listing that is not whole.
            Some(listing) if !listing.complete => continue,
            Some(listing) => listing.items.into_iter().map(|item| (item.name, item.len_bytes)).collect(),
            None => BTreeMap::new(),
        };
        for (file, len) in &batches[&batch] {
            let intact = there.get(file).is_some_and(|seen| seen.is_none_or(|seen| seen == *len));
            if !intact {
                observer.finding(Finding::MirrorDamaged {
                    file: format!("{}/{file}", batch_path(batch.0, batch.1)),
                    problem: "missing or cut short".to_owned(),
                });
                gone.insert((batch, file.clone()));
            }
        }
    }
    let lost = vault.manifest()?.objects().values().filter_map(|state| {
        let at = state.mirrored?;
        gone.contains(&((at.writer, at.batch), at.file.to_string()))
            .then_some(Record::NotMirrored(state.row.object))
    });
    let lost = lost.collect::<Vec<_>>();
    vault.record(&lost)?;
    Ok(())
}
