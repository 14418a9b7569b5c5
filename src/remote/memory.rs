//! A mirror in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::meter::Meter;
use super::{
    ByteRange, Item, Listing, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath, Sink, Traffic,
};

/// A mirror that lives as long as the process, for tests and simulations.
///
/// It is as strict as the strictest server: nothing exists before [`make_dir`](Remote::make_dir), and a file needs
/// its directory. Several devices meet through it with [`share`](Self::share); tests look into it and damage it
/// with [`files`](Self::files), [`set_file`](Self::set_file) and [`remove_file`](Self::remove_file).
#[derive(Debug, Default)]
pub struct MemoryRemote {
    store: Arc<Mutex<Store>>,
    meter: Meter,
}

/// Paths as text, the base directory being the empty one.
#[derive(Debug, Default)]
struct Store {
    dirs: BTreeSet<String>,
    files: BTreeMap<String, Bytes>,
}

impl MemoryRemote {
    /// A mirror whose base directory does not exist yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same mirror as another device sees it: one storage, its own [`Traffic`].
    #[must_use]
    pub fn share(&self) -> Self {
        Self { store: Arc::clone(&self.store), meter: Meter::default() }
    }

    /// Every file by its path.
    pub fn files(&self) -> BTreeMap<String, Bytes> {
        self.store().files.clone()
    }

    /// Makes `file` hold `bytes`, behind the back of every device. Nothing is counted or checked.
    pub fn set_file(&self, file: &RemotePath, bytes: Bytes) {
        self.store().files.insert(file.as_str().to_owned(), bytes);
    }

    /// Loses `file`, behind the back of every device. True if it was there.
    pub fn remove_file(&self, file: &RemotePath) -> bool {
        self.store().files.remove(file.as_str()).is_some()
    }

    /// The storage. A test that panicked while holding it left it whole: every change is one insertion or removal.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote for MemoryRemote {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.meter.request();
        let store = self.store();
        if !store.dirs.contains(dir.as_str()) {
            return Ok(None);
        }
        let dirs = store.dirs.iter().map(|path| (path, None));
        let files = store.files.iter().map(|(path, bytes)| (path, Some(bytes.len() as u64)));
        let items = dirs
            .chain(files)
            .filter_map(|(path, len_bytes)| {
                let name = child_of(dir, path)?;
                Some(Item { name: name.to_owned(), len_bytes, is_dir: len_bytes.is_none() })
            })
            .collect();
        Ok(Some(Listing {
            items,
            complete: true,
            marker_seen: Some(store.files.contains_key("espejo.json")),
        }))
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.meter.request();
        let fail = |kind, detail| RemoteError::new(kind, format!("get {file}"), detail);
        let bytes = match self.store().files.get(file.as_str()) {
            Some(bytes) => bytes.clone(),
            None => return Err(fail(RemoteErrorKind::NotFound, "")),
        };
        let part = match range {
            None => bytes,
            Some(range) => match range.within(bytes.len() as u64) {
                Some((from, to)) => bytes.slice(from as usize..to as usize),
                None => return Err(fail(RemoteErrorKind::Malformed, "the file ends before the range does")),
            },
        };
        if part.len() as u64 > max_bytes {
            return Err(fail(RemoteErrorKind::Oversize, ""));
        }
        self.meter.down(part.len());
        sink.take_whole(&part);
        Ok(())
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        self.meter.request();
        self.meter.up(bytes.len());
        let mut store = self.store();
        let (dir, _) = split(file);
        if file.is_root() || !store.dirs.contains(dir) {
            return Err(RemoteError::new(
                RemoteErrorKind::NotFound,
                format!("put {file}"),
                "no such directory",
            ));
        }
        store.files.insert(file.as_str().to_owned(), bytes);
        Ok(Receipt::Accepted)
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.meter.request();
        Ok(self.store().files.get(file.as_str()).map(|bytes| bytes.len() as u64))
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        self.meter.request();
        self.store().files.remove(file.as_str());
        Ok(())
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.meter.request();
        let mut store = self.store();
        let (parent, _) = split(dir);
        if !dir.is_root() && !store.dirs.contains(parent) {
            return Err(RemoteError::new(
                RemoteErrorKind::NotFound,
                format!("make {dir}"),
                "no such directory",
            ));
        }
        Ok(store.dirs.insert(dir.as_str().to_owned()))
    }

    async fn remove_dir(&self, dir: &RemotePath) -> Result<(), RemoteError> {
        self.meter.request();
        let mut store = self.store();
        let below = format!("{dir}/");
        if !store.dirs.iter().chain(store.files.keys()).any(|path| path.starts_with(&below)) {
            store.dirs.remove(dir.as_str());
        }
        Ok(())
    }

    fn traffic(&self) -> Traffic {
        self.meter.read()
    }
}

/// The name of `path` if it lies directly in `dir`.
fn child_of<'p>(dir: &RemotePath, path: &'p str) -> Option<&'p str> {
    let name = match dir.is_root() {
        true => path,
        false => path.strip_prefix(dir.as_str())?.strip_prefix('/')?,
    };
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// A path as its directory and its last name.
fn split(path: &RemotePath) -> (&str, &str) {
    path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()))
}
