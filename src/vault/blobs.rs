//! Attachments and long bodies: streamed in and out part by part, in bounded memory.

use std::io::{self, Read, Write};
use std::thread::ScopedJoinHandle;

use zeroize::Zeroizing;

use super::objects::named;
use super::{Doing, Error, Vault, layout};
use crate::crypto::{Keyring, Salt};
use crate::entry::{Blob, PART_BYTES, Part};
use crate::event::Damage;
use crate::format::object::{Object, open_part, seal_part};
use crate::fs::{VaultFs, WRITE_BYTES};
use crate::host::Host;
use crate::parallel;

/// Parts that are sealed while others wait for the disk, and opened while others are written.
const PARTS_PER_BATCH: usize = 2;

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
        let mut spare = Buffers::default();
        let mut contents = self.read_batch(source, &mut spare)?;
        let mut sealed = Vec::<Object>::new();
        while !contents.is_empty() || !sealed.is_empty() {
            let into = std::mem::take(&mut spare.sealed);
            let is_end = contents.is_empty();
            // While one batch is sealed, the one before it waits for the disk and the next one is read.
            let (stored, ahead, next) = std::thread::scope(|scope| {
                let next = scope.spawn(move || seal_batch(keyring, contents, into));
                let stored = self.place_batch(&sealed);
                let ahead = (stored.is_ok() && !is_end).then(|| self.read_batch(source, &mut spare));
                (stored, ahead, joined(next))
            });
            stored?;
            for mut object in sealed.drain(..) {
                spare.sealed.push(std::mem::take(&mut object.bytes));
                placed.push(object);
            }
            for (object, content) in next {
                parts.push(Part { object: object.name(), len_bytes: content.len() as u64 });
                sealed.push(object);
                spare.contents.push(content);
            }
            contents = ahead.unwrap_or_else(|| Ok(Vec::new()))?;
        }
        Ok(parts)
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

    /// The next parts' contents, each with the salt it is to be sealed with; none at the end.
    fn read_batch(&self, source: &mut impl Read, spare: &mut Buffers) -> Result<Vec<(Content, Salt)>, Error> {
        let mut batch = Vec::with_capacity(PARTS_PER_BATCH);
        while batch.len() < PARTS_PER_BATCH {
            let content = read_part(source, spare.contents.pop()).map_err(Error::Source)?;
            if content.is_empty() {
                break;
            }
            batch.push((content, Salt::draw(self.host.entropy())?));
        }
        Ok(batch)
    }

    /// Writes a blob to `sink`, each part verified before any of it is released. After an error the sink holds a
    /// beginning and must be thrown away.
    pub fn read_blob(&mut self, blob: &Blob, sink: &mut impl Write) -> Result<(), Error> {
        // So that damage can be told by the entry it belongs to.
        self.manifest()?;
        let keyring = self.keyring.clone();
        let mut batches = blob.parts.chunks(PARTS_PER_BATCH);
        let mut files = self.read_files(batches.next())?;
        let mut verified = Vec::<Content>::new();
        while !files.is_empty() || !verified.is_empty() {
            let keyring = &keyring;
            // While one batch is verified, the one before it is written and the next one is read.
            let (written, ahead, next) = std::thread::scope(|scope| {
                let next = scope.spawn(move || {
                    parallel::map(files, 1, |(part, file)| {
                        (part, file.and_then(|bytes| open_named_part(keyring, part, bytes)))
                    })
                });
                let written = release(sink, std::mem::take(&mut verified));
                let ahead = written.is_ok().then(|| self.read_files(batches.next()));
                (written, ahead, joined(next))
            });
            written?;
            for (part, content) in next {
                verified.push(content.map_err(|problem| self.damaged(part.object, problem))?);
            }
            files = ahead.unwrap_or_else(|| Ok(Vec::new()))?;
        }
        Ok(())
    }

    /// What the files of these parts hold, or what is wrong with each.
    fn read_files<'a>(&self, parts: Option<&'a [Part]>) -> Result<Vec<PartFile<'a>>, Error> {
        let mut files = Vec::with_capacity(PARTS_PER_BATCH);
        for part in parts.unwrap_or_default() {
            // Asked first: it would be noted as lost.
            let file = self.read_object(&part.object)?;
            if self.is_pending(part) && file == Err(Damage::Missing) {
                return Err(Error::Pending);
            }
            files.push((part, file));
        }
        Ok(files)
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

/// A part's content.
type Content = Zeroizing<Vec<u8>>;

/// A part and what its file holds.
type PartFile<'a> = (&'a Part, Result<Vec<u8>, Damage>);

/// What was used and may be again: the kernel takes longer to give memory than to fill it.
#[derive(Default)]
struct Buffers {
    contents: Vec<Content>,
    sealed: Vec<Vec<u8>>,
}

/// Sealed parts, each with its content.
fn seal_batch(
    keyring: &Keyring,
    contents: Vec<(Content, Salt)>,
    mut into: Vec<Vec<u8>>,
) -> Vec<(Object, Content)> {
    let unsealed = contents.into_iter().map(|it| (it, into.pop().unwrap_or_default())).collect();
    parallel::map(unsealed, 1, |((content, salt), into)| (seal_part(keyring, &content, salt, into), content))
}

/// The content of a part, every check passed.
fn open_named_part(keyring: &Keyring, part: &Part, bytes: Vec<u8>) -> Result<Content, Damage> {
    let content = open_part(keyring, &named(&part.object, bytes)?)
        .ok()
        .filter(|content| content.len() as u64 == part.len_bytes);
    content.ok_or(Damage::Tampered)
}

/// What a thread has done.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Gives out what was verified, and lets go of it.
fn release(sink: &mut impl Write, contents: Vec<Content>) -> Result<(), Error> {
    for content in contents {
        content
            .chunks(WRITE_BYTES)
            .try_for_each(|piece| sink.write_all(piece))
            .map_err(|source| Error::Io { doing: "writing", source })?;
    }
    Ok(())
}

/// The next part's content: empty at the end. Most files are far shorter than a part, and all of the buffer is wiped.
fn read_part(source: &mut impl Read, used: Option<Content>) -> io::Result<Content> {
    let mut content = match used {
        Some(mut content) => {
            content.clear();
            content
        }
        None => Zeroizing::new(Vec::with_capacity(FIRST_READ_BYTES)),
    };
    if content.capacity() < PART_BYTES {
        source.take(FIRST_READ_BYTES as u64).read_to_end(&mut content)?;
        if content.len() < FIRST_READ_BYTES {
            return Ok(content);
        }
        // A buffer that grew would leave a copy behind that nobody wipes.
        let mut whole = Zeroizing::new(Vec::with_capacity(PART_BYTES));
        whole.extend_from_slice(&content);
        content = whole;
    }
    source.take((PART_BYTES - content.len()) as u64).read_to_end(&mut content)?;
    Ok(content)
}
