//! Attachments and long bodies: streamed in and out part by part, in bounded memory.

use std::io::{self, Read, Write};

use zeroize::Zeroizing;

use super::{Error, Vault};
use crate::entry::{Blob, PART_BYTES, Part};
use crate::event::Damage;
use crate::format::object::{Object, open_part, seal_part};
use crate::host::Host;

/// Parts that share their syncs.
const PARTS_PER_BATCH: usize = 2;

const FIRST_READ_BYTES: usize = 64 << 10;

impl<H: Host> Vault<H> {
    /// Stores everything `source` gives, durably, and says where it is. It becomes part of an entry when a version
    /// that names it is saved.
    pub fn store_blob(&mut self, source: &mut impl Read) -> Result<Blob, Error> {
        let mut parts = Vec::new();
        loop {
            let mut batch = Vec::<Object>::with_capacity(PARTS_PER_BATCH);
            while batch.len() < PARTS_PER_BATCH {
                let content = read_part(source).map_err(Error::Source)?;
                if content.is_empty() {
                    break;
                }
                let object = seal_part(&self.keyring, &content, self.host.entropy())?;
                parts.push(Part { object: object.name(), len_bytes: content.len() as u64 });
                batch.push(object);
            }
            if batch.is_empty() {
                return Ok(Blob { parts });
            }
            let _lock = self.lock()?;
            self.store_locked(&batch)?;
            // As in `save`.
            let _ = self.count_added(0, batch.len() as u64);
        }
    }

    /// Writes a blob to `sink`, each part verified before any of it is released. After an error the sink holds a
    /// beginning and must be thrown away.
    pub fn read_blob(&mut self, blob: &Blob, sink: &mut impl Write) -> Result<(), Error> {
        // So that damage can be told by the entry it belongs to.
        self.manifest()?;
        for part in &blob.parts {
            // Asked first: `object_bytes` would note it as lost.
            if self.is_pending(part) && self.read_object(&part.object)? == Err(Damage::Missing) {
                return Err(Error::Pending);
            }
            let bytes = self.object_bytes(&part.object)?;
            match open_part(&self.keyring, &bytes) {
                Ok(content) if content.len() as u64 == part.len_bytes => {
                    sink.write_all(&content).map_err(|source| Error::Io { doing: "writing", source })?;
                }
                Ok(_) | Err(_) => return Err(self.damaged(part.object, Damage::Tampered)),
            }
        }
        Ok(())
    }

    /// A blob in memory.
    pub fn blob_bytes(&mut self, blob: &Blob, max_bytes: u64) -> Result<Vec<u8>, Error> {
        if blob.len_bytes() > max_bytes {
            let source = io::ErrorKind::FileTooLarge.into();
            return Err(Error::Io { doing: "reading it into memory", source });
        }
        let mut bytes = Vec::with_capacity(blob.len_bytes() as usize);
        self.read_blob(blob, &mut bytes)?;
        Ok(bytes)
    }

    fn is_pending(&self, part: &Part) -> bool {
        let state = self.known().and_then(|manifest| manifest.object(&part.object));
        state.is_none_or(|state| !state.was_here)
    }
}

/// The next part's content: empty at the end. Most files are far shorter than a part, and all of the buffer is wiped.
fn read_part(source: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::with_capacity(FIRST_READ_BYTES));
    source.take(FIRST_READ_BYTES as u64).read_to_end(&mut content)?;
    if content.len() == FIRST_READ_BYTES {
        // A buffer that grew would leave a copy behind that nobody wipes.
        let mut whole = Zeroizing::new(Vec::with_capacity(PART_BYTES));
        whole.extend_from_slice(&content);
        source.take((PART_BYTES - FIRST_READ_BYTES) as u64).read_to_end(&mut whole)?;
        return Ok(whole);
    }
    Ok(content)
}
