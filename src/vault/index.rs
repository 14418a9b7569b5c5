//! The manifest file: loaded only when something needs it, appended to, rebuilt when it is not whole.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::keys::has_newer_key;
use super::{Doing, Error, Store, Vault, layout, status};
use crate::crypto::Keyring;
use crate::event::Finding;
use crate::format::feed::{SegmentName, open_segment};
use crate::format::manifest::{
    PREAMBLE_LEN, check_preamble, frame_len, last_frame_start, open_frame, preamble, seal_frame,
};
use crate::format::read_header;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{DeviceId, ObjectName};
use crate::manifest::{FeedTip, Manifest, Record, Subject};
use crate::parallel::joined;

const MAX_MANIFEST_BYTES: u64 = 4 << 30;

/// How much of it is opened at once, while what was read before that is taken in; more if one frame is longer.
const READ_BYTES: u64 = 512 << 10;

/// As much is made of a rewritten manifest before it is written, so that it need not fit into memory twice.
const PIECE_BYTES: usize = 1 << 20;

/// Records in one frame of a rewritten manifest: a frame is opened in one piece, by one thread.
const RECORDS_PER_FRAME: usize = 1_024;

/// Small frames cost more to open than records in a large one. Beyond this many, and a sixteenth of all records,
/// the file is written anew, so the cost per change stays the same at any size.
const MAX_SMALL_FRAMES: u64 = 256;

/// After a sync of more objects than this, and a quarter of all, the file is written anew.
const MANY: u64 = 1_000;

/// The manifest file as far as it was read.
#[derive(Default)]
pub struct Index {
    /// Which file: empty if none was looked at.
    preamble: Vec<u8>,
    /// Where its next frame goes.
    end: u64,
    /// Its content, if it was read.
    manifest: Option<Manifest>,
    /// Frames since the file was last written anew.
    small_frames: u64,
}

/// Where the manifest file stands: unchanged as long as this is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The file's random id.
    pub file: Vec<u8>,
    /// Its length.
    pub len: u64,
}

/// The file is not whole, from beginning to end, as this program writes it.
struct NotWhole;

impl Index {
    /// Starts the manifest of a new vault.
    pub fn create<H: Host>(host: &H, keyring: &Keyring) -> Result<Self, Error> {
        let mut index = Self { manifest: Some(Manifest::default()), ..Self::default() };
        index.rewrite(host, keyring)?;
        Ok(index)
    }

    /// Writes the whole file anew from what is in memory.
    fn rewrite<H: Host>(&mut self, host: &H, keyring: &Keyring) -> Result<(), Error> {
        let manifest = self.manifest.get_or_insert_default();
        let mut records = manifest.to_records();
        let preamble = preamble(keyring, host.entropy())?;
        let mut piece = preamble.clone();
        let mut end = piece.len() as u64;
        let pieces = std::iter::from_fn(|| {
            // And a frame that goes beyond it.
            piece.reserve_exact(PIECE_BYTES + PIECE_BYTES / 4);
            while piece.len() < PIECE_BYTES {
                let frame = records.by_ref().take(RECORDS_PER_FRAME).collect::<Vec<_>>();
                if frame.is_empty() {
                    break;
                }
                match seal_frame(keyring, &preamble, end, &frame, host.entropy()) {
                    Ok(frame) => {
                        end += frame.len() as u64;
                        piece.extend(frame);
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            (!piece.is_empty()).then(|| Ok(std::mem::take(&mut piece)))
        });
        host.fs().put_in_pieces(layout::MANIFEST, pieces)?.doing("writing the index")?;
        drop(records);
        (self.preamble, self.end, self.small_frames) = (preamble, end, 0);
        Ok(())
    }

    /// Brings what is in memory up to the file's end, reading only what is new.
    fn refresh<H: Host>(&mut self, host: &H, keyring: &Keyring) -> Result<Result<(), NotWhole>, Error> {
        let Some((preamble, len)) = read_mark(host)? else { return Ok(Err(NotWhole)) };
        require_known(host, keyring, &preamble)?;
        if self.manifest.is_none() || preamble != self.preamble || len < self.end {
            if was_longer(host, &preamble, len) {
                return Ok(Err(NotWhole));
            }
            *self = Self {
                preamble,
                end: PREAMBLE_LEN as u64,
                manifest: Some(Manifest::default()),
                small_frames: 0,
            };
        }
        if len == self.end {
            return Ok(check_preamble(keyring, &self.preamble).map_err(|_| NotWhole));
        }
        match len - self.end {
            rest @ ..=READ_BYTES => {
                let frames = read_frames(host, self.end, rest)?;
                if (frames.len() as u64) < rest {
                    return Ok(Err(NotWhole));
                }
                Ok(self.take_in(open_frames(keyring, &self.preamble, self.end, &frames)))
            }
            _ => self.read_on(host, keyring, len),
        }
    }

    /// Reads on, up to `len`. While some frames are opened, what was in those before them is taken in.
    fn read_on<H: Host>(
        &mut self,
        host: &H,
        keyring: &Keyring,
        len: u64,
    ) -> Result<Result<(), NotWhole>, Error> {
        let preamble = &self.preamble.clone();
        let mut at = self.end;
        std::thread::scope(|scope| {
            let mut under_way = None;
            loop {
                let start = at;
                let read = match start < len {
                    true => read_frames(host, start, len - start),
                    false => Ok(Vec::new()),
                };
                let opened = under_way.take().map_or_else(|| Ok(Vec::new()), joined);
                let read = read.map(|frames| {
                    at += frames.len() as u64;
                    under_way = (!frames.is_empty())
                        .then(|| scope.spawn(move || open_frames(keyring, preamble, start, &frames)));
                });
                // What is wrong with these comes before what is wrong with the next ones.
                if let Err(not_whole) = self.take_in(opened) {
                    return Ok(Err(not_whole));
                }
                read?;
                if under_way.is_none() {
                    return Ok(if at == len { Ok(()) } else { Err(NotWhole) });
                }
            }
        })
    }

    /// Takes in what was in the frames behind those before.
    fn take_in(&mut self, opened: Result<Vec<OpenedFrame>, NotWhole>) -> Result<(), NotWhole> {
        let manifest = self.manifest.get_or_insert_default();
        for (records, frame_len) in opened? {
            self.small_frames += u64::from(records.len() < RECORDS_PER_FRAME / 2);
            records.into_iter().for_each(|record| manifest.apply(record));
            self.end += frame_len as u64;
        }
        Ok(())
    }

    /// Finds the end of the file without reading it all: only the last frame is checked.
    fn find_end<H: Host>(&mut self, host: &H, keyring: &Keyring) -> Result<Result<(), NotWhole>, Error> {
        let Some((preamble, len)) = read_mark(host)? else { return Ok(Err(NotWhole)) };
        require_known(host, keyring, &preamble)?;
        if check_preamble(keyring, &preamble).is_err() || was_longer(host, &preamble, len) {
            return Ok(Err(NotWhole));
        }
        if len > PREAMBLE_LEN as u64 {
            let read =
                |offset, len| host.fs().read_at(layout::MANIFEST, offset, len).doing("reading the index");
            let last_four = read(len.saturating_sub(4), 4)?.try_into().unwrap_or_default();
            let Some(start) = last_frame_start(len, last_four) else { return Ok(Err(NotWhole)) };
            if open_frame(keyring, &preamble, start, &read(start, len - start)?).is_err() {
                return Ok(Err(NotWhole));
            }
        }
        *self = Self { preamble, end: len, manifest: None, small_frames: 0 };
        Ok(Ok(()))
    }
}

/// Whether the file with this preamble was longer when the status was written. One that was cut between two frames, or
/// put back from yesterday, is whole, and would hide what came after.
fn was_longer<H: Host>(host: &H, preamble: &[u8], len: u64) -> bool {
    let known = status::read(host).index;
    known.is_some_and(|known| known.len > len && known.file == preamble)
}

/// Whole frames, as many as are opened at once, from `offset` of a file that goes on for `rest` bytes there; none if it
/// is cut off before the end of one.
fn read_frames<H: Host>(host: &H, offset: u64, rest: u64) -> Result<Vec<u8>, Error> {
    let read = |len: u64| host.fs().read_at(layout::MANIFEST, offset, len).doing("reading the index");
    let mut bytes = read(rest.min(READ_BYTES))?;
    // Only now the frame tells how long it is.
    if let Some(len) = frame_len(&bytes).filter(|len| (READ_BYTES + 1..=rest).contains(len)) {
        bytes = read(len)?;
    }
    bytes.truncate(whole_frames(&bytes).map(<[u8]>::len).sum());
    Ok(bytes)
}

/// The whole frames at the front of `bytes`.
fn whole_frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (frame, rest) = bytes.split_at_checked(usize::try_from(frame_len(bytes)?).ok()?)?;
        bytes = rest;
        Some(frame)
    })
}

/// What is in a frame, and how long it is.
type OpenedFrame = (Vec<Record>, usize);

/// What is in whole frames that stand at `offset` of the file.
fn open_frames(
    keyring: &Keyring,
    preamble: &[u8],
    mut offset: u64,
    frames: &[u8],
) -> Result<Vec<OpenedFrame>, NotWhole> {
    let open = |frame: &[u8]| {
        let opened = open_frame(keyring, preamble, offset, frame).map_err(|_| NotWhole);
        offset += frame.len() as u64;
        opened
    };
    whole_frames(frames).map(open).collect()
}

pub(super) fn read_mark<H: Host>(host: &H) -> Result<Option<(Vec<u8>, u64)>, Error> {
    let fs = host.fs();
    match fs.len(layout::MANIFEST).doing("looking for the index")? {
        Some(len) if (PREAMBLE_LEN as u64..=MAX_MANIFEST_BYTES).contains(&len) => {
            match fs.read_at(layout::MANIFEST, 0, PREAMBLE_LEN as u64) {
                Ok(preamble) if preamble.len() == PREAMBLE_LEN => Ok(Some((preamble, len))),
                Ok(_) => Ok(None),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error).doing("reading the index"),
            }
        }
        _ => Ok(None),
    }
}

/// Stops whoever has only keys that were replaced: what is sealed under the new one would look damaged.
fn require_known<H: Host>(host: &H, keyring: &Keyring, preamble: &[u8]) -> Result<(), Error> {
    // An epoch is in clear and may be rotten; a key file that has it is not.
    let is_newer = read_header(preamble).is_ok_and(|(header, _)| header.epoch > keyring.current_epoch());
    match is_newer && has_newer_key(host, keyring)? {
        true => Err(Error::Rekeyed),
        false => Ok(()),
    }
}

impl<H: Host> Vault<H> {
    /// Writes the index anew, under the newest key. The lock is held.
    pub(super) fn rewrite_index(&mut self) -> Result<(), Error> {
        self.index.rewrite(&self.host, &self.keyring)
    }

    /// Writes the index anew if a sync of so many `objects` was a large one: what was learnt of one object in two steps is
    /// in one place then, and is said once. Everything is in the file already; without room for another it stays as it is.
    pub fn condense_after(&mut self, objects: u64) -> Result<(), Error> {
        if objects <= MANY || objects <= self.manifest()?.objects().count() as u64 / 4 {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.refresh_locked()?;
        let _ = self.rewrite_index();
        Ok(())
    }

    /// The manifest, up to date with what other processes added. Rebuilt first if it is not whole.
    pub fn manifest(&mut self) -> Result<&Manifest, Error> {
        if self.index.refresh(&self.host, &self.keyring)?.is_err() {
            // Perhaps another process is in the middle of a change: then it is whole once the lock is free.
            match self.lock() {
                Ok(_lock) => match self.refresh_locked() {
                    // A full disk takes no new index; reading goes on with the one in memory.
                    Err(Error::Io { .. }) => self.rebuild(false)?,
                    result => result?,
                },
                Err(Error::Io { .. }) => self.rebuild(false)?,
                Err(error) => return Err(error),
            }
        }
        Ok(self.index.manifest.get_or_insert_default())
    }

    /// The manifest, while the lock is held.
    pub(super) fn refresh_locked(&mut self) -> Result<(), Error> {
        match self.index.refresh(&self.host, &self.keyring)? {
            Ok(()) => Ok(()),
            Err(NotWhole) => self.rebuild(true),
        }
    }

    /// What was last read of the manifest.
    pub(super) fn known(&self) -> Option<&Manifest> {
        self.index.manifest.as_ref()
    }

    /// Adds records at the end of the file and to what is in memory. The lock is held.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        let whole = match self.index.manifest.is_some() {
            true => self.index.refresh(&self.host, &self.keyring)?,
            false => self.index.find_end(&self.host, &self.keyring)?,
        };
        if whole.is_err() {
            self.rebuild(true)?;
        }
        let (end, preamble) = (self.index.end, &self.index.preamble);
        let mut frames = Vec::new();
        for records in records.chunks(RECORDS_PER_FRAME) {
            let at = end + frames.len() as u64;
            frames.extend(seal_frame(&self.keyring, preamble, at, records, self.host.entropy())?);
        }
        self.host.fs().append(layout::MANIFEST, end, &frames).doing("writing the index")?;
        self.index.end += frames.len() as u64;
        self.index.small_frames += 1;
        if let Some(manifest) = &mut self.index.manifest {
            records.iter().for_each(|record| manifest.apply(record.clone()));
            if self.index.small_frames > MAX_SMALL_FRAMES.max(manifest.records() / 16) {
                // The records are in the file already; a shorter file can wait until there is room for it.
                let _ = self.index.rewrite(&self.host, &self.keyring);
            }
        }
        Ok(())
    }

    /// Where the manifest file stands now, without reading it.
    pub fn mark(&self) -> Result<Mark, Error> {
        let (file, len) = read_mark(&self.host)?.unwrap_or_default();
        Ok(Mark { file, len })
    }

    /// Where the manifest file stood when it was last read: what came since is not part of it.
    pub fn known_mark(&self) -> Mark {
        Mark { file: self.index.preamble.clone(), len: self.index.end }
    }

    /// Builds the manifest of a vault whose objects were just put there.
    pub(super) fn rebuild_now(&mut self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.rebuild(true)
    }

    /// Builds the manifest again from the objects and the cached feeds, and writes it if `write`.
    pub(super) fn rebuild(&mut self, write: bool) -> Result<(), Error> {
        let mut manifest = Manifest::default();
        let mut in_released = Vec::new();
        for record in cached_feeds(self)? {
            if matches!(&record, Record::Mirrored(_, at) if manifest.released().contains_key(&at.file_place()))
            {
                in_released.push(record.clone());
            }
            manifest.apply(record);
        }
        let mut names = Vec::new();
        for shard in self.host.fs().list(layout::OBJECTS).doing("reading the objects")? {
            let dir = format!("{}/{shard}", layout::OBJECTS);
            let files = self.host.fs().list(&dir).doing("reading the objects")?;
            let files = files.iter().filter(|file| file.starts_with(&shard));
            names.extend(files.filter_map(|file| file.parse::<ObjectName>().ok()));
        }
        while !names.is_empty() {
            let batch = self.batch_of(&mut names)?;
            for (name, object) in self.identify_many(batch)? {
                match object {
                    Ok(object) => manifest.apply(Record::Stored(object.row, object.summary)),
                    Err(problem) => {
                        let entry = manifest.object(&name).and_then(|state| match &state.row.subject {
                            Subject::Version(version) => Some(version.entry),
                            Subject::Part => None,
                        });
                        if write {
                            self.set_aside(&name);
                        }
                        self.findings.push(Finding::Damaged { object: name, entry, problem });
                    }
                }
            }
        }
        // Said again of what is here: whether it was in files that were released.
        in_released.into_iter().for_each(|record| manifest.apply(record));
        self.findings.push(Finding::ManifestRebuilt { entries: manifest.entry_ids().count() });
        self.index = Index { manifest: Some(manifest), ..Index::default() };
        if write {
            self.index.rewrite(&self.host, &self.keyring)?;
            self.write_status()?;
        }
        Ok(())
    }
}

/// What the cached feed segments say is on the mirror. A feed counts as read up to its first gap. What was released
/// comes first, so that nothing is looked for there.
pub(super) fn cached_feeds<S: Store>(store: &S) -> Result<impl Iterator<Item = Record>, Error> {
    let mut rows = Vec::new();
    let mut noticed = Vec::new();
    let mut tips = BTreeMap::<(DeviceId, u64), FeedTip>::new();
    for file in store.cached_segments()? {
        let Some(name) = SegmentName::parse(&file) else { continue };
        let Ok(bytes) = store.cached_segment(&file) else { continue };
        // A damaged segment costs a second look at the mirror, nothing else.
        let Ok(segment) = open_segment(store.keys(), &bytes) else { continue };
        if !name.matches(&bytes) {
            continue;
        }
        for (announcement, tip) in segment.announcements {
            rows.push((segment.device, announcement.seq, announcement.rows));
            noticed.extend(Record::of_notices(segment.device, announcement.notices));
            let tip = FeedTip {
                seq: announcement.seq,
                tip,
                written_at: announcement.written_at,
                name: announcement.name,
                program: announcement.program,
            };
            tips.insert((segment.device, tip.seq), tip);
        }
    }
    let mut read = BTreeMap::<DeviceId, u64>::new();
    let tips = tips.into_iter().filter_map(move |((device, seq), tip)| {
        let last = read.entry(device).or_default();
        (seq == *last + 1).then(|| {
            *last = seq;
            Record::Feed(device, tip)
        })
    });
    // What was announced last is where to look first; names of segments are in another order. Each announcement's rows are
    // let go of before the next one's: there may be as many as the vault has objects.
    rows.sort_by_key(|(device, seq, _)| (*device, *seq));
    let rows = rows.into_iter().flat_map(|(.., rows)| rows).map(|(row, at)| Record::Mirrored(row, at));
    Ok(noticed.into_iter().chain(rows).chain(tips))
}
