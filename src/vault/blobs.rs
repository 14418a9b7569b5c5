//! Attachments and long bodies: streamed in and out part by part, in bounded memory.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::thread::ScopedJoinHandle;

use super::objects::{judge, named};
use super::{Doing, Error, Vault, layout};
use crate::crypto::{Keyring, Salt, SecretBytes};
use crate::entry::{Blob, PART_BYTES, Part};
use crate::event::Damage;
use crate::format::object::{Object, open_part, seal_part};
use crate::format::{Unsealed, sealed_file_len};
use crate::fs::{VaultFs, WRITE_BYTES};
use crate::host::Host;
use crate::parallel::{self, joined};

/// Parts that are sealed while others wait for the disk.
const PARTS_PER_BATCH: usize = 2;

/// Parts that are read, opened and written at a time.
const PARTS_AT_ONCE: usize = 4;

const FIRST_READ_BYTES: usize = 64 << 10;

impl<H: Host> Vault<H> {
    /// Stores everything `source` gives, durably, and says where it is. It becomes part of an entry when a version
    /// that names it is saved.
    pub fn store_blob(&mut self, source: &mut impl Read) -> Result<Blob, Error> {
        let mut placed = Vec::new();
        let stored = self.place_parts(source, &mut placed);
        let _lock = self.lock()?;
        match stored.and_then(|parts| self.keep_parts(&placed).map(|()| Blob { parts })) {
            Ok(blob) => Ok(blob),
            Err(error) => {
                // A check may have taken some in meanwhile: they stay, like those of an `add` that was killed.
                if self.refresh_locked().is_ok() {
                    self.remove_refused(&placed);
                }
                Err(error)
            }
        }
    }

    /// Writes the parts, and adds them to `placed`, without their bytes. They wait for the disk batch by batch, but
    /// their names are made durable all together in the end.
    fn place_parts(&self, source: &mut impl Read, placed: &mut Vec<Object>) -> Result<Vec<Part>, Error> {
        let keyring = &self.keyring;
        let mut parts = Vec::new();
        // The kernel takes longer to give memory than to fill it.
        let mut used = Vec::new();
        std::thread::scope(|scope| {
            let mut under_way = None;
            loop {
                // While one batch is sealed, the next one is read and the one before it waits for the disk.
                let batch = self.read_batch(source, &mut used)?;
                let sealed = under_way.take().map(joined);
                let is_end = batch.is_empty();
                under_way = (!is_end).then(|| scope.spawn(move || seal_batch(keyring, batch)));
                let (sealed, mut objects): (Vec<_>, Vec<_>) = sealed.into_iter().flatten().unzip();
                parts.extend(sealed);
                self.place_batch(&objects)?;
                used.extend(objects.iter_mut().map(|object| std::mem::take(&mut object.bytes)));
                placed.extend(objects);
                if is_end {
                    return Ok(parts);
                }
            }
        })
    }

    /// Writes sealed parts. If that fails none of them is there.
    fn place_batch(&self, batch: &[Object]) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let files = batch.iter().map(|object| (layout::object_path(&object.name()), &object.bytes[..]));
        let placed = self.host.fs().place(&files.collect::<Vec<_>>()).doing("writing to the vault");
        if placed.is_err() {
            self.remove_refused(batch);
        }
        placed
    }

    /// Lists parts that were written, durably. The lock is held.
    fn keep_parts(&mut self, placed: &[Object]) -> Result<(), Error> {
        if placed.is_empty() {
            return Ok(());
        }
        let names = placed.iter().map(|object| layout::object_path(&object.name())).collect::<Vec<_>>();
        self.host.fs().keep(names.iter()).doing("writing to the vault")?;
        self.list_locked(placed)?;
        // As in `save`.
        let _ = self.count_added(0, placed.len() as u64);
        Ok(())
    }

    /// The next parts, each with the salt it is to be sealed with; none at the end.
    fn read_batch(
        &self,
        source: &mut impl Read,
        used: &mut Vec<Vec<u8>>,
    ) -> Result<Vec<(Unsealed, Salt)>, Error> {
        let mut batch = Vec::with_capacity(PARTS_PER_BATCH);
        while batch.len() < PARTS_PER_BATCH {
            let part = read_part(source, used.pop()).map_err(Error::Source)?;
            if part.content().is_empty() {
                break;
            }
            batch.push((part, Salt::draw(self.host.entropy())?));
        }
        Ok(batch)
    }

    /// Writes a blob to `sink`, each part verified before any of it is released. After an error the sink holds a
    /// beginning and must be thrown away.
    pub fn read_blob(&mut self, blob: &Blob, sink: &mut impl Write) -> Result<(), Error> {
        // So that damage can be told by the entry it belongs to.
        self.manifest()?;
        let keyring = &self.keyring.clone();
        std::thread::scope(|scope| {
            let mut opening = VecDeque::new();
            let mut read = Ok(());
            for part in &blob.parts {
                let oldest = if opening.len() == PARTS_AT_ONCE { opening.pop_front() } else { None };
                let used = oldest.map(|oldest| self.release(oldest, sink)).transpose()?;
                let file = match self.read_part_file(part, used) {
                    Ok(file) => file,
                    Err(error) => {
                        read = Err(error);
                        break;
                    }
                };
                opening.push_back((part, scope.spawn(move || open_named_part(keyring, part, file?))));
            }
            // What is wrong with an earlier part is told first.
            opening.into_iter().try_for_each(|it| self.release(it, sink).map(drop)).and(read)
        })
    }

    /// What the file of a part holds, or what is wrong with it, in memory that may have been used before.
    fn read_part_file(
        &self,
        part: &Part,
        used: Option<SecretBytes>,
    ) -> Result<Result<SecretBytes, Damage>, Error> {
        // What is longer is not the part that was announced. And no larger than that: all of a buffer is wiped.
        let max_bytes = sealed_file_len(part.len_bytes.min(PART_BYTES as u64) as usize);
        let mut file = used
            .filter(|used| used.capacity() >= max_bytes)
            .unwrap_or_else(|| SecretBytes::with_capacity(max_bytes));
        let path = layout::object_path(&part.object);
        let file = judge(self.host.fs().read_into(&path, max_bytes as u64, &mut file).map(|()| file))?;
        // Asked first: it would be noted as lost.
        if self.is_pending(part) && file == Err(Damage::Missing) { Err(Error::Pending) } else { Ok(file) }
    }

    /// Gives out a part's content when it was verified, and its memory back.
    fn release(
        &mut self,
        (part, opening): Opening<'_, '_>,
        sink: &mut impl Write,
    ) -> Result<SecretBytes, Error> {
        let content = joined(opening).map_err(|problem| self.damaged(part.object, problem))?;
        content
            .chunks(WRITE_BYTES)
            .try_for_each(|piece| sink.write_all(piece))
            .map_err(|source| Error::Io { doing: "writing", source })?;
        Ok(content)
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

/// A part that is being opened.
type Opening<'a, 'scope> = (&'a Part, ScopedJoinHandle<'scope, Result<SecretBytes, Damage>>);

/// Sealed parts.
fn seal_batch(keyring: &Keyring, batch: Vec<(Unsealed, Salt)>) -> Vec<(Part, Object)> {
    parallel::map(batch, 1, |(part, salt)| {
        let len_bytes = part.content().len() as u64;
        let sealed = seal_part(keyring, part, salt);
        (Part { object: sealed.name(), len_bytes }, sealed)
    })
}

/// A part's content, every check passed.
fn open_named_part(keyring: &Keyring, part: &Part, file: SecretBytes) -> Result<SecretBytes, Damage> {
    let content = open_part(keyring, named(&part.object, file)?)
        .ok()
        .filter(|content| content.len() as u64 == part.len_bytes);
    content.ok_or(Damage::Tampered)
}

/// The next part: empty at the end.
fn read_part(source: &mut impl Read, used: Option<Vec<u8>>) -> io::Result<Unsealed> {
    let mut part = Unsealed::reusing(used.unwrap_or_default());
    // Most files are far shorter than a part, and all of the memory is wiped.
    part.fill(source, FIRST_READ_BYTES)?;
    if part.content().len() == FIRST_READ_BYTES {
        part.fill(source, PART_BYTES)?;
    }
    Ok(part)
}
