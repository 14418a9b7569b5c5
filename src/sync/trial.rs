//! Whether a mirror does what a sync asks of it: tried with a file that is removed again.

use bytes::Bytes;

use super::Error;
use super::mirror::{FEEDS, KEYS, MirrorMarker, OBJECTS, path, read_marker};
use crate::entropy::Entropy;
use crate::format::marker::MARKER_NAME;
use crate::host::Host;
use crate::id::VaultId;
use crate::remote::{Listing, Remote, RemoteError, RemoteErrorKind, RemotePath};
use crate::vault::Vault;

/// As long as the longest uploads are, or more than the servers take that take little.
const TRIED_BYTES: usize = 2 << 20;

/// What is at a mirror's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This vault's mirror.
    Ours,
    /// Another vault's.
    OtherVault(VaultId),
    /// A mirror of a newer format.
    Newer,
    /// A mirror whose marker is damaged.
    Damaged,
    /// Nothing: not even a directory.
    Missing,
    /// A directory with nothing in it, or what an interrupted first sync left.
    Empty,
    /// Other files, some of them by name.
    Foreign(Vec<String>),
}

/// What was tried, and how it went.
#[derive(Debug, Clone)]
pub struct Step {
    /// As servers call it.
    pub verb: &'static str,
    /// How it went.
    pub outcome: Result<(), RemoteError>,
}

/// What a mirror does.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What is there.
    pub place: Place,
    /// What was tried; nothing where nothing may be written.
    pub steps: Vec<Step>,
    /// Bytes of the file that was written and read back.
    pub tried_bytes: u64,
}

/// Finds out what is at a mirror's address.
pub async fn place<H: Host>(vault: &Vault<H>, remote: &impl Remote) -> Result<Place, Error> {
    let Some(Listing { items, .. }) = remote.list(&RemotePath::root()).await? else {
        return Ok(Place::Missing);
    };
    if items.iter().any(|item| item.name == MARKER_NAME) {
        return match read_marker(remote).await {
            Ok(MirrorMarker::Of(id)) if id == vault.id() => Ok(Place::Ours),
            Ok(MirrorMarker::Of(id)) => Ok(Place::OtherVault(id)),
            Ok(MirrorMarker::Damaged | MirrorMarker::Missing) => Ok(Place::Damaged),
            Err(Error::Newer) => Ok(Place::Newer),
            Err(error) => Err(error),
        };
    }
    let names = items.into_iter().map(|item| item.name).filter(|name| !name.starts_with('.'));
    let foreign = names.filter(|name| ![FEEDS, KEYS, OBJECTS].contains(&name.as_str())).collect::<Vec<_>>();
    Ok(if foreign.is_empty() { Place::Empty } else { Place::Foreign(foreign) })
}

/// Tries a mirror: writes a file, finds it, reads it, and removes it. Nothing is written where something else is than
/// this vault's mirror, where a mirror was and is gone, or where a directory is missing and `may_make` is false.
pub async fn trial<H: Host>(vault: &Vault<H>, remote: &impl Remote, may_make: bool) -> Result<Trial, Error> {
    let was_there = vault.remote_settings()?.is_some_and(|settings| settings.initialised);
    let place = place(vault, remote).await?;
    let mut steps = Steps::default();
    steps.note("PROPFIND", Ok(()));
    let may_write = match place {
        Place::Ours => true,
        Place::Empty => !was_there,
        Place::Missing => may_make && !was_there,
        Place::OtherVault(_) | Place::Newer | Place::Damaged | Place::Foreign(_) => false,
    };
    if !may_write {
        return Ok(Trial { place, steps: steps.0, tried_bytes: 0 });
    }
    let mut name = [0; 8];
    vault.host().entropy().fill(&mut name).map_err(crate::vault::Error::from)?;
    let name = u64::from_le_bytes(name);
    // Where an interrupted first sync leaves something too: it is in nobody's way, should this be interrupted.
    let dir = path(&format!("{OBJECTS}/probe-{name:016x}"));
    if steps.make(remote, &place, &dir).await {
        let file = path(&format!("{dir}/probe"));
        let bytes = Bytes::from(name.to_le_bytes().repeat(TRIED_BYTES / 8));
        let is_put = steps.note("PUT", remote.put(&file, bytes.clone()).await.map(drop));
        if is_put {
            steps.look(remote, &dir, &file, &bytes).await;
        }
        // What was refused may lie there by half.
        let removed = remove(remote, &file).await;
        if is_put {
            steps.note("DELETE", removed);
        }
        // A server that keeps an empty directory does no harm.
        let _ = remote.remove_dir(&dir).await;
    }
    if place != Place::Ours {
        let _ = remote.remove_dir(&path(OBJECTS)).await;
    }
    Ok(Trial { place, steps: steps.0, tried_bytes: TRIED_BYTES as u64 })
}

/// Removes a file and makes sure that it is gone.
async fn remove(remote: &impl Remote, file: &RemotePath) -> Result<(), RemoteError> {
    remote.delete(file).await?;
    match remote.size(file).await? {
        None => Ok(()),
        Some(_) => Err(senseless("DELETE", file, "the server said it is removed, and it is still there")),
    }
}

fn senseless(verb: &str, path: &RemotePath, detail: &str) -> RemoteError {
    RemoteError::new(RemoteErrorKind::Malformed, format!("{verb} {path}"), detail)
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    /// Whether it went well.
    fn note(&mut self, verb: &'static str, outcome: Result<(), RemoteError>) -> bool {
        let went_well = outcome.is_ok();
        self.0.push(Step { verb, outcome });
        went_well
    }

    async fn make(&mut self, remote: &impl Remote, place: &Place, dir: &RemotePath) -> bool {
        let made = async {
            if *place == Place::Missing {
                remote.make_dir(&RemotePath::root()).await?;
            }
            remote.make_dir(&path(OBJECTS)).await?;
            remote.make_dir(dir).await
        };
        self.note("MKCOL", made.await.map(drop))
    }

    /// Whether what was written is listed, as long as it is, and comes back as it was.
    async fn look(&mut self, remote: &impl Remote, dir: &RemotePath, file: &RemotePath, bytes: &Bytes) {
        let len_bytes = bytes.len() as u64;
        let listed = match remote.list(dir).await {
            Err(error) => Err(error),
            Ok(listing) => {
                let items = listing.into_iter().flat_map(|listing| listing.items);
                let lens = items.filter(|item| item.name == "probe").map(|item| item.len_bytes);
                match lens.collect::<Vec<_>>().as_slice() {
                    [Some(len)] if *len == len_bytes => Ok(()),
                    _ => Err(senseless(
                        "PROPFIND",
                        dir,
                        "the file that was just written is not listed in full",
                    )),
                }
            }
        };
        self.0.retain(|step| step.verb != "PROPFIND");
        self.note("PROPFIND", listed);
        let size = remote.size(file).await.and_then(|size| match size == Some(len_bytes) {
            true => Ok(()),
            false => Err(senseless("HEAD", file, "the file that was just written has another length")),
        });
        self.note("HEAD", size);
        let read = remote.get(file, None, len_bytes).await.and_then(|read| match read == *bytes {
            true => Ok(()),
            false => Err(senseless("GET", file, "what was just written comes back changed")),
        });
        self.note("GET", read);
    }
}
