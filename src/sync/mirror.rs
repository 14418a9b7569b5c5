//! The mirror's layout: what is where, whether it is ours, and making a new one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::{try_join, try_join_all};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::scrub::get;
use super::{Error, Guard, Options, PARALLEL, forget_locations, keys, makes_no_sense};
use crate::crypto::object_name;
use crate::event::{Finding, Observer, short};
use crate::format::feed::SegmentName;
use crate::format::keyfile::{KeyFile, MAX_KEY_FILE_BYTES};
use crate::format::marker::{self, MARKER_NAME, MAX_MARKER_BYTES, Marker};
use crate::host::Host;
use crate::id::{DeviceId, ObjectName, VaultId};
use crate::manifest::{Location, ObjectState, Record};
use crate::remote::{Listing, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::{RemoteSettings, SyncState, Vault, generation_of};

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

/// What a mirror's marker says.
pub enum MirrorMarker {
    /// It is the mirror of this vault.
    Of(VaultId),
    /// There is one, and it is torn or rotten.
    Damaged,
    /// There is none.
    Missing,
}

/// Reads a mirror's marker.
pub async fn read_marker(remote: &impl Remote) -> Result<MirrorMarker, Error> {
    let read = remote.get(&path(MARKER_NAME), None, MAX_MARKER_BYTES as u64).await;
    match read.map(|bytes| marker::decode(&bytes)) {
        Ok(Ok(Marker::Vault(vault))) => Ok(MirrorMarker::Of(vault)),
        Ok(Ok(Marker::Newer)) => Err(Error::Newer),
        Ok(Err(_)) => Ok(MirrorMarker::Damaged),
        Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }) => Ok(MirrorMarker::Missing),
        Err(error) if makes_no_sense(&error) => Ok(MirrorMarker::Damaged),
        Err(error) => Err(error.into()),
    }
}

/// The marker makes no sense; nothing follows from it.
fn senseless_marker(detail: &str) -> Error {
    RemoteError::new(RemoteErrorKind::Malformed, format!("GET {MARKER_NAME}"), detail).into()
}

const DAMAGED_MARKER: &str = "espejo.json on the mirror is damaged; `espejo sync --full` on a device that has the vault writes it again";

/// The making of a mirror begins with a key file, so that what has none and cannot be read is nobody's, or has lost all.
const ORPHANED_MARKER: &str = "espejo.json on the mirror is damaged, and no key file is there to tell whose it is; \
                               nothing was changed. If the folder is yours, empty it, then `espejo sync --reseed`";

const CONTRADICTED_MARKER: &str =
    "the server's answers contradict each other; nothing was changed. Try again later";

/// Stops if the marker of a mirror that is this vault's by its feeds is gone or another vault's. A damaged one is
/// written again.
pub async fn require_marker<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    match read_marker(remote).await? {
        MirrorMarker::Of(id) if id == vault.id() => Ok(()),
        MirrorMarker::Of(id) => Err(Guard::OtherVault(id).into()),
        MirrorMarker::Missing => Err(Guard::MirrorGone.into()),
        MirrorMarker::Damaged => mend_marker(vault, remote, observer).await,
    }
}

async fn mend_marker<H: Host, R: Remote>(
    vault: &Vault<H>,
    remote: &R,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    put_surely(remote, path(MARKER_NAME), marker::encode(vault.id())).await?;
    observer.finding(Finding::MirrorHealed { file: MARKER_NAME.to_owned() });
    Ok(())
}

/// Puts a file into its directory, and makes that if the mirror lost it: some tools remove empty ones.
pub async fn put(remote: &impl Remote, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
    match (remote.put(file, bytes.clone()).await, file.parent()) {
        (Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }), Some(dir)) if !dir.is_root() => {
            make_dir(remote, &dir).await?;
            remote.put(file, bytes).await
        }
        (answer, _) => answer,
    }
}

/// Makes a directory, and the one it lies in if the mirror lost that.
pub async fn make_dir(remote: &impl Remote, dir: &RemotePath) -> Result<(), RemoteError> {
    match (remote.make_dir(dir).await, dir.parent()) {
        (Err(RemoteError { kind: RemoteErrorKind::NotFound, .. }), Some(parent)) if !parent.is_root() => {
            remote.make_dir(&parent).await?;
            remote.make_dir(dir).await.map(drop)
        }
        (answer, _) => answer.map(drop),
    }
}

/// A file that the server said it took, and that nobody has seen there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    path: RemotePath,
    len_bytes: u64,
}

/// What is wrong with a file that is not there in full after all.
pub const TAKEN_AND_NOT_KEPT: &str = "the server said it took the file and does not have it in full";

impl Accepted {
    /// Makes sure that it is there in full.
    pub async fn confirm(&self, remote: &impl Remote) -> Result<(), RemoteError> {
        if remote.size(&self.path).await? == Some(self.len_bytes) {
            return Ok(());
        }
        let request = format!("PUT {}", self.path);
        Err(RemoteError::new(RemoteErrorKind::Malformed, request, TAKEN_AND_NOT_KEPT))
    }
}

/// Puts a file whose absence would matter. Gives what is to be confirmed, unless the server has proved it.
async fn put_unseen(
    remote: &impl Remote,
    path: RemotePath,
    file: Vec<u8>,
) -> Result<Option<Accepted>, RemoteError> {
    let len_bytes = file.len() as u64;
    let receipt = put(remote, &path, Bytes::from(file)).await?;
    Ok((receipt == Receipt::Accepted).then_some(Accepted { path, len_bytes }))
}

/// Puts a file without which nobody can begin, and makes sure that it is there in full.
pub async fn put_surely(remote: &impl Remote, path: RemotePath, file: Vec<u8>) -> Result<(), RemoteError> {
    match put_unseen(remote, path, file).await? {
        Some(accepted) => accepted.confirm(remote).await,
        None => Ok(()),
    }
}

/// What is at the mirror's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This vault's mirror.
    Ours,
    /// A new mirror, or this vault's that had lost its content: made just now, so everything has to be sent.
    Made(Made),
    /// Nothing, and nothing was made, because this is a dry run.
    Nothing,
}

/// A mirror that this sync has made. This device's first batch directory is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Whether not even the directory was there.
    pub anew: bool,
    /// Its marker, to be confirmed before anything is announced.
    pub marker: Option<Accepted>,
}

impl Found {
    /// The mirror that was made, if one was.
    pub fn made(&self) -> Option<&Made> {
        match self {
            Self::Made(made) => Some(made),
            Self::Ours | Self::Nothing => None,
        }
    }
}

/// What is known of the directory at the mirror's address.
pub enum Root {
    /// It was not looked at.
    NotAsked,
    /// It is not there.
    Absent,
    /// It is, with this in it.
    There(Listing),
}

/// Looks at an address that was never seen as a mirror: there may be nothing at all.
pub async fn look(remote: &impl Remote) -> Result<Root, RemoteError> {
    Ok(remote.list(&RemotePath::root()).await?.map_or(Root::Absent, Root::There))
}

/// Finds out what is at the mirror's address when the feeds do not show what was expected: makes a new mirror,
/// accepts ours, or stops.
pub async fn examine<H: Host, R: Remote>(
    vault: &mut Vault<H>,
    remote: &R,
    settings: &RemoteSettings,
    root: Root,
    has_feeds: bool,
    options: Options,
    observer: &mut dyn Observer,
) -> Result<Found, Error> {
    // In what nobody saw and was made just now there is nothing to be found.
    let anew =
        matches!(root, Root::Absent) && !options.dry_run && remote.make_dir(&RemotePath::root()).await?;
    let marker = if anew { MirrorMarker::Missing } else { read_marker(remote).await? };
    let ours = match marker {
        MirrorMarker::Of(id) if id != vault.id() => return Err(Guard::OtherVault(id).into()),
        MirrorMarker::Of(_) => true,
        // Only this vault's own may be written again; what cannot be read may be anybody's.
        MirrorMarker::Damaged => {
            match whose_keys(vault, remote).await? {
                Keys::Ours => {}
                Keys::Others => return Err(senseless_marker(DAMAGED_MARKER)),
                Keys::None => return Err(senseless_marker(ORPHANED_MARKER)),
            }
            if !options.dry_run {
                // The marker comes last here too: whoever stopped before it may have stopped in the middle of the key.
                let known = &mut String::new();
                if let Some(refused) =
                    keys::make_sure(vault, remote, known, keys::Look::Length, observer).await?
                {
                    return Err(refused.into());
                }
                mend_marker(vault, remote, observer).await?;
            }
            true
        }
        MirrorMarker::Missing if settings.initialised && !options.reseed => {
            return Err(Guard::MirrorGone.into());
        }
        MirrorMarker::Missing => false,
    };
    if ours {
        if !options.dry_run {
            if !has_feeds {
                make_dirs(remote).await?;
            }
            remember(vault, settings)?;
        }
        return Ok(Found::Ours);
    }
    let seen = match root {
        Root::There(listing) => Some(names(listing, &RemotePath::root())?),
        Root::NotAsked | Root::Absent => None,
    };
    let lists = |children: &[String], wanted: &str| children.iter().any(|name| name == wanted);
    let children = match seen {
        _ if anew => Some(Vec::new()),
        // Feeds that came after the look are looked for again: what an interrupted sync had asked for may arrive late.
        Some(children) if !has_feeds || lists(&children, FEEDS) => Some(children),
        _ => list_whole(remote, &RemotePath::root()).await?,
    };
    let is_listed = |wanted| children.as_ref().is_some_and(|children| lists(children, wanted));
    if is_listed(MARKER_NAME) || (has_feeds && !is_listed(FEEDS)) {
        return Err(senseless_marker(CONTRADICTED_MARKER));
    }
    if let Some(children) = &children {
        let names = children.iter().filter(|name| !name.starts_with('.'));
        let (layout, mut foreign): (Vec<_>, Vec<_>) =
            names.cloned().partition(|name| [FEEDS, KEYS, OBJECTS].contains(&name.as_str()));
        // What is left of a mirror of ours may be filled again, and one half made may be finished.
        if !layout.is_empty() && !settings.initialised && !is_half_made(vault, remote).await? {
            foreign.extend(layout);
        }
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
    let batch = batch_path(vault.device().id, 1);
    let (marker, ()) = try_join(begin(vault, remote), async { Ok(make_dir(remote, &batch).await?) }).await?;
    // The first push may have stopped after it had announced something.
    if settings.initialised || vault.manifest()?.objects().any(ObjectState::is_mirrored) {
        forget_locations(vault)?;
    }
    Ok(Found::Made(Made { anew, marker }))
}

/// Whose key files a mirror holds.
enum Keys {
    Ours,
    Others,
    None,
}

async fn whose_keys<H: Host, R: Remote>(vault: &Vault<H>, remote: &R) -> Result<Keys, Error> {
    let names = list_whole(remote, &path(KEYS)).await?.unwrap_or_default();
    let ours = vault.key_files()?.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    let names = names.into_iter().filter(|name| name.ends_with(".key")).collect::<Vec<_>>();
    if names.is_empty() || names.iter().any(|name| ours.contains(name)) {
        return Ok(if names.is_empty() { Keys::None } else { Keys::Ours });
    }
    // The password was changed since it was made, or is not known here yet.
    let paths = names.iter().filter_map(|name| RemotePath::new(&format!("{KEYS}/{name}")));
    for path in paths.take(MAX_KEY_FILES) {
        let bytes = get(remote, &path, MAX_KEY_FILE_BYTES).await?.unwrap_or_default();
        if KeyFile::decode(&bytes).is_ok_and(|key_file| key_file.is_authentic(vault.keyring())) {
            return Ok(Keys::Ours);
        }
    }
    Ok(Keys::Others)
}

/// Whether a mirror without its marker is one of this vault whose making was interrupted: it holds a key file of this
/// vault, or nothing that anybody could read.
async fn is_half_made<H: Host, R: Remote>(vault: &Vault<H>, remote: &R) -> Result<bool, Error> {
    match whose_keys(vault, remote).await? {
        Keys::Ours => Ok(true),
        Keys::Others => Ok(false),
        Keys::None => Ok(list_whole(remote, &path(FEEDS)).await?.unwrap_or_default().is_empty()),
    }
}

/// The names in a directory, or `None` if there is none. A listing that may be cut short is an error: nothing follows
/// from what it does not show.
async fn list_whole(remote: &impl Remote, dir: &RemotePath) -> Result<Option<Vec<String>>, Error> {
    let listing = remote.list(dir).await?;
    listing.map(|listing| names(listing, dir)).transpose()
}

fn names(listing: Listing, dir: &RemotePath) -> Result<Vec<String>, Error> {
    if !listing.complete {
        let request = format!("list {dir}").trim_end().to_owned();
        return Err(RemoteError::new(RemoteErrorKind::Malformed, request, "the listing is cut short").into());
    }
    Ok(listing.items.into_iter().map(|item| item.name).collect())
}

/// Sends a new mirror the vault's key files, and when they are surely there the marker: what has it can be cloned, and
/// whoever finds a torn one knows by them whose it is.
async fn begin<H: Host, R: Remote>(vault: &Vault<H>, remote: &R) -> Result<Option<Accepted>, Error> {
    // Another device may be making the same mirror. If this stops in the middle, its file may be the worse for it: the
    // next sync must look again.
    vault.set_sync_state(&SyncState { key_file: String::new(), ..vault.sync_state()? })?;
    for (name, file) in vault.key_files()? {
        put_surely(remote, path(&format!("{KEYS}/{name}")), file).await?;
    }
    Ok(put_unseen(remote, path(MARKER_NAME), marker::encode(vault.id())).await?)
}

async fn make_dirs(remote: &impl Remote) -> Result<(), RemoteError> {
    let dirs = [FEEDS, KEYS, OBJECTS].map(path);
    try_join_all(dirs.iter().map(|dir| remote.make_dir(dir))).await?;
    Ok(())
}

/// Notes that the mirror is there, unless another one was set meanwhile.
pub fn remember<H: Host>(vault: &mut Vault<H>, settings: &RemoteSettings) -> Result<(), Error> {
    match vault.remote_settings()? {
        Some(mut now) if now.target == settings.target && !now.initialised => {
            now.initialised = true;
            Ok(vault.set_remote(&now)?)
        }
        _ => Ok(()),
    }
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
const MAX_KEY_FILES: usize = 8;

/// Reads what it takes to make a vault for an existing mirror.
pub async fn introduce(remote: &impl Remote) -> Result<Introduction, Error> {
    let vault = match read_marker(remote).await? {
        MirrorMarker::Of(vault) => vault,
        MirrorMarker::Damaged => return Err(senseless_marker(DAMAGED_MARKER)),
        MirrorMarker::Missing => return Err(Error::NoMirror),
    };
    let listing = remote.list(&path(KEYS)).await?.unwrap_or_default();
    let mut names = listing.items.into_iter().map(|item| item.name).collect::<Vec<_>>();
    names.retain(|name| generation_of(name).is_some());
    names.sort_by_key(|name| std::cmp::Reverse(generation_of(name)));
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
    observer: &mut dyn Observer,
) -> Result<Vec<ObjectName>, Error> {
    let this = vault.device().id;
    let manifest = vault.manifest()?;
    let here = || manifest.objects().filter(|state| state.here);
    let file = |at: &Location| ((at.writer, at.batch), at.file);
    let files = here().filter_map(ObjectState::mirrored).map(|at| (file(&at), at));
    let files = files.collect::<BTreeMap<MirrorFile, _>>();
    // What other files are to be given up for is read, and not only looked for.
    let own_places = |state: &ObjectState| state.places().filter(|at| at.writer == this).count();
    let relied_on = here().filter(|state| own_places(state) > 1).filter_map(ObjectState::mirrored);
    let relied_on = relied_on.map(|at| file(&at)).collect::<BTreeSet<_>>();
    let bad = look_at(remote, &files, |file| read || relied_on.contains(file)).await?;
    for (file, problem) in &bad {
        let file = file_path(&files[file]).to_string();
        observer.finding(Finding::MirrorDamaged { file, problem: (*problem).to_owned() });
    }
    let lost = here().filter_map(|state| {
        let at = state.mirrored()?;
        bad.contains_key(&file(&at)).then_some(state.row.object)
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
    observer: &mut dyn Observer,
) -> Result<u64, Error> {
    let manifest = vault.manifest()?;
    let again = lost.iter().filter_map(|object| manifest.object(object)?.mirrored()).collect::<Vec<_>>();
    let files = again.iter().map(|at| file_path(at).to_string()).collect::<BTreeSet<_>>();
    files.into_iter().for_each(|file| observer.finding(Finding::MirrorHealed { file }));
    Ok(again.len() as u64)
}
