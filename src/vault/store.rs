//! A vault as far as its sealed files go: what mirroring needs, and all that a locked vault can do.

use std::collections::BTreeMap;

use super::open::lock_vault;
use super::{Device, Doing, Error, Received, Vault, layout};
use crate::crypto::{KeySource, Keyring};
use crate::format::feed::MAX_SEGMENT_BYTES;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::ObjectName;
use crate::manifest::{Manifest, Record, Row};

/// Sealed objects, feed segments, and what the feeds say of them. Nothing here reads an entry.
pub trait Store {
    /// The machine it lives on.
    type Host: Host;
    /// The keys of its feeds, perhaps among others.
    type Keys: KeySource;

    /// The machine it lives on.
    fn host(&self) -> &Self::Host;

    /// The keys of its feeds.
    fn keys(&self) -> &Self::Keys;

    /// This device.
    fn device(&self) -> &Device;

    /// What is known of objects and feeds.
    fn manifest(&mut self) -> Result<&Manifest, Error>;

    /// Notes what is known of the mirror.
    fn record(&mut self, records: &[Record]) -> Result<(), Error>;

    /// The bytes of an object, which are those its name promises.
    fn object_bytes(&mut self, name: &ObjectName) -> Result<Vec<u8>, Error>;

    /// Takes in objects fetched from the mirror, as far as they can be checked. What passes is durable when this returns.
    fn receive(&mut self, fetched: Vec<(Row, Vec<u8>)>) -> Result<Received, Error>;

    /// Held during a sync, so that this device's feed has one writer.
    fn sync_lock(&self) -> Result<<<Self::Host as Host>::Fs as VaultFs>::Lock, Error> {
        super::open::lock(self.host(), layout::SYNC_LOCK)
    }

    /// The same, if nobody else holds it.
    fn try_sync_lock(&self) -> Result<Option<<<Self::Host as Host>::Fs as VaultFs>::Lock>, Error> {
        self.host().fs().try_lock(layout::SYNC_LOCK).doing("locking the vault")
    }

    /// The cached feed segments, by file name.
    fn cached_segments(&self) -> Result<Vec<String>, Error> {
        self.host().fs().list(layout::FEEDS).doing("reading the cached feeds")
    }

    /// One cached segment.
    fn cached_segment(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = format!("{}/{name}", layout::FEEDS);
        self.host().fs().read(&path, MAX_SEGMENT_BYTES as u64).doing("reading a cached feed")
    }

    /// The length of a cached segment.
    fn cached_segment_len(&self, name: &str) -> Result<Option<u64>, Error> {
        self.host().fs().len(&format!("{}/{name}", layout::FEEDS)).doing("reading a cached feed")
    }

    /// Keeps segments, durably. This device's own are kept before they are sent, so that after a crash it knows
    /// them for its own.
    fn cache_segments<B: AsRef<[u8]>>(&self, segments: &BTreeMap<String, B>) -> Result<(), Error> {
        let files = segments
            .iter()
            .map(|(name, bytes)| (format!("{}/{name}", layout::FEEDS), bytes.as_ref()))
            .collect::<Vec<_>>();
        // Whoever takes the lock empties `incoming`, so whatever is written needs it.
        let _lock = lock_vault(self.host())?;
        self.host().fs().put(&files).doing("keeping feed segments")
    }

    /// Drops a cached segment whose announcements are in another one.
    fn drop_cached_segment(&self, name: &str) -> Result<(), Error> {
        self.host().fs().remove(&format!("{}/{name}", layout::FEEDS)).doing("dropping a cached feed segment")
    }
}

impl<H: Host> Store for Vault<H> {
    type Host = H;
    type Keys = Keyring;

    fn host(&self) -> &H {
        self.host()
    }

    fn keys(&self) -> &Keyring {
        self.keyring()
    }

    fn device(&self) -> &Device {
        self.device()
    }

    fn manifest(&mut self) -> Result<&Manifest, Error> {
        self.manifest()
    }

    fn record(&mut self, records: &[Record]) -> Result<(), Error> {
        self.record(records)
    }

    fn object_bytes(&mut self, name: &ObjectName) -> Result<Vec<u8>, Error> {
        self.object_bytes(name)
    }

    fn receive(&mut self, fetched: Vec<(Row, Vec<u8>)>) -> Result<Received, Error> {
        self.receive(fetched)
    }
}
