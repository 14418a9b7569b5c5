//! The mirror's layout: what is where, whether it is ours, and making a new one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Error, Guard, Options, PARALLEL, forget_locations, makes_no_sense};
use crate::crypto::object_name;
use crate::event::{Finding, Observer, short};
use crate::format::feed::SegmentName;
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::host::Host;
use crate::id::{DeviceId, ObjectName, VaultId};
use crate::manifest::{Location, Record};
use crate::remote::{Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::{RemoteSettings, Vault};

pub const FEEDS: &str = "feeds";
pub const KEYS: &str = "keys";
pub const OBJECTS: &str = "objects";

pub fn path(text: &str) -> RemotePath {
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
pub async fn read_marker(remote: &impl Remote) -> Result<Option<VaultId>, Error> {
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

/// What is at the mirror's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// This vault's mirror.
    Ours,
    /// A new mirror, made just now.
    Made,
    /// This vault's mirror, which had lost its content: everything has to be sent again.
    Emptied,
    /// Nothing, and nothing was made, because this is a dry run.
    Nothing,
}

/// Finds out what is at the mirror's address when the feeds do not show what was expected: makes a new mirror,
/// accepts ours, or stops.
pub async fn examine<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    settings: &RemoteSettings,
    has_feeds: bool,
    options: Options,
) -> Result<Found, Error> {
    match read_marker(remote).await? {
        Some(id) if id != vault.id() => return Err(Guard::OtherVault(id).into()),
        Some(_) => {
            if !options.dry_run {
                if !has_feeds {
                    make_dirs(remote).await?;
                }
                remember(vault, settings)?;
            }
            return Ok(Found::Ours);
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
        return Ok(Found::Nothing);
    }
    if children.is_none() {
        remote.make_dir(&RemotePath::root()).await?;
    }
    make_dirs(remote).await?;
    send_key_files(vault, remote, false).await?;
    // The marker comes last: what has it can be cloned.
    remote.put(&path(MARKER_NAME), Bytes::from(marker::encode(vault.id()))).await?;
    if settings.initialised {
        forget_locations(vault)?;
        return Ok(Found::Emptied);
    }
    remember(vault, settings)?;
    Ok(Found::Made)
}

/// Sends the vault's key files; if it may have them, only those that the mirror does not have in full.
pub async fn send_key_files<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    may_have_them: bool,
) -> Result<(), Error> {
    for (name, file) in vault.key_files()? {
        let path = path(&format!("{KEYS}/{name}"));
        if !may_have_them || remote.size(&path).await? != Some(file.len() as u64) {
            remote.put(&path, Bytes::from(file)).await?;
        }
    }
    Ok(())
}

async fn make_dirs(remote: &impl Remote) -> Result<(), Error> {
    for dir in [FEEDS, KEYS, OBJECTS] {
        remote.make_dir(&path(dir)).await?;
    }
    Ok(())
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
    /// Its intact key files, the newest first. Which of them are genuine shows when one opens.
    pub key_files: Vec<Vec<u8>>,
}

/// More key files than this are not looked at.
const MAX_KEY_FILES: usize = 4;

/// Reads what it takes to make a vault for an existing mirror.
pub async fn introduce(remote: &impl Remote) -> Result<Introduction, Error> {
    let vault = read_marker(remote).await?.ok_or(Error::NoMirror)?;
    let listing = remote.list(&path(KEYS)).await?.unwrap_or_default();
    let generation = |name: &str| name.strip_suffix(".key")?.split_once('-')?.0.parse::<u32>().ok();
    let mut names = listing.items.into_iter().map(|item| item.name).collect::<Vec<_>>();
    names.retain(|name| generation(name).is_some());
    names.sort_by_key(|name| std::cmp::Reverse(generation(name)));
    let mut key_files = Vec::new();
    for path in names.iter().filter_map(|name| RemotePath::new(&format!("{KEYS}/{name}"))).take(MAX_KEY_FILES)
    {
        let key_file = remote.get(&path, None, MAX_KEY_FILE_BYTES as u64).await?;
        // A torn or damaged one is passed over for the one before it.
        if KeyFile::decode(&key_file).is_ok_and(|parsed| path.as_str().ends_with(&parsed.file_name())) {
            key_files.push(key_file);
        }
    }
    if key_files.is_empty() {
        return Err(crate::vault::Error::KeyFileMissing.into());
    }
    Ok(Introduction { vault, key_files })
}

/// A file on the mirror: its batch and its name.
pub type MirrorFile = ((DeviceId, u32), ObjectName);

/// Looks for every file the feeds name that holds something this vault has too: by one listing per batch, and if
/// `read` by reading it whole. What is not there, cut short or damaged is forgotten, so that it is sent again.
/// Gives the objects that were in it.
pub async fn find_lost<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    read: bool,
    observer: &mut impl Observer,
) -> Result<Vec<ObjectName>, Error> {
    let manifest = vault.manifest()?;
    let here = || manifest.objects().values().filter(|state| state.here).filter_map(|state| state.mirrored);
    let files = here().map(|at| (((at.writer, at.batch), at.file), at)).collect::<BTreeMap<MirrorFile, _>>();
    let bad = look_at(remote, &files, |_| read).await?;
    for (file, problem) in &bad {
        let file = file_path(&files[file]).to_string();
        observer.finding(Finding::MirrorDamaged { file, problem: (*problem).to_owned() });
    }
    let lost = manifest.objects().values().filter(|state| state.here).filter_map(|state| {
        let at = state.mirrored?;
        bad.contains_key(&((at.writer, at.batch), at.file)).then_some(state.row.object)
    });
    let lost = lost.collect::<Vec<_>>();
    vault.record(&lost.iter().map(|object| Record::NotMirrored(*object)).collect::<Vec<_>>())?;
    Ok(lost)
}

/// Looks for `files`: by one listing per batch, and those that `read` picks by reading them whole. Gives what is wrong
/// with those that are not as they should be.
pub async fn look_at<R: Remote>(
    remote: &R,
    files: &BTreeMap<MirrorFile, Location>,
    read: impl Fn(&MirrorFile) -> bool,
) -> Result<BTreeMap<MirrorFile, &'static str>, Error> {
    let batches = files.keys().map(|(batch, _)| *batch).collect::<BTreeSet<_>>();
    let listed = stream::iter(batches.into_iter().map(|(writer, batch)| async move {
        let listing = remote.list(&batch_path(writer, batch)).await?;
        Ok::<_, RemoteError>(((writer, batch), listing))
    }))
    .buffer_unordered(PARALLEL)
    .try_collect::<BTreeMap<_, _>>()
    .await?;
    let mut bad = BTreeMap::<MirrorFile, &str>::new();
    for (file, at) in files {
        let there = match &listed[&file.0] {
            // Nothing may be concluded from what a listing that is not whole does not show.
            Some(listing) if !listing.complete => true,
            Some(listing) => listing.items.iter().any(|item| {
                item.name == file.1.to_string() && item.len_bytes.is_none_or(|len| len == at.file_len_bytes)
            }),
            None => false,
        };
        if !there {
            bad.insert(*file, "missing or cut short");
        }
    }
    let unread = files.iter().filter(|(file, _)| read(file) && !bad.contains_key(*file)).collect::<Vec<_>>();
    let mut answers =
        stream::iter(unread.into_iter().map(|(file, at)| async move {
            (*file, remote.get(&file_path(at), None, at.file_len_bytes).await)
        }))
        .buffer_unordered(PARALLEL);
    while let Some((file, answer)) = answers.next().await {
        match answer {
            // Whatever it holds, its name says what its bytes must be.
            Ok(bytes) if object_name(&bytes) == file.1 => {}
            Ok(_) => {
                bad.insert(file, "damaged (its bytes are not those its name promises)");
            }
            Err(error) if error.kind == RemoteErrorKind::NotFound || makes_no_sense(&error) => {
                bad.insert(file, "missing, or its answer makes no sense");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bad)
}

/// Says which of the `lost` objects are on the mirror again, and how many.
pub fn tell_healed<H: Host>(
    vault: &mut Vault<H>,
    lost: &[ObjectName],
    observer: &mut impl Observer,
) -> Result<u64, Error> {
    let manifest = vault.manifest()?;
    let again = lost.iter().filter_map(|object| manifest.object(object)?.mirrored).collect::<Vec<_>>();
    let files = again.iter().map(|at| file_path(at).to_string()).collect::<BTreeSet<_>>();
    files.into_iter().for_each(|file| observer.finding(Finding::MirrorHealed { file }));
    Ok(again.len() as u64)
}
