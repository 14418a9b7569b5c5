//! A disk that can lose power.
//!
//! What is written is seen at once and safe only when it was synced: bytes by syncing the file, names by syncing the
//! directory. A power cut keeps what is safe and, of the rest, whatever the test wants: every legal image.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::rc::Rc;

use espejo::fs::VaultFs;

type Inode = u64;

/// A file's bytes as they are read, and as much of them as is safe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Data {
    now: Rc<Vec<u8>>,
    safe: Rc<Vec<u8>>,
}

/// One change of names that a power cut may undo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum NameChange {
    MakeDir(String),
    Link(String, Inode),
    Move(String, String, Inode),
    Remove(String),
    RemoveDir(String),
}

impl NameChange {
    fn touches(&self, dir: &str) -> bool {
        match self {
            Self::MakeDir(name) | Self::Link(name, _) | Self::Remove(name) | Self::RemoveDir(name) => {
                parent(name) == dir
            }
            Self::Move(from, to, _) => parent(from) == dir || parent(to) == dir,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::MakeDir(name) => {
                names.dirs.insert(name.clone());
            }
            Self::Link(name, inode) => {
                names.files.insert(name.clone(), *inode);
            }
            Self::Move(from, to, inode) => {
                names.files.remove(from);
                names.files.insert(to.clone(), *inode);
            }
            Self::Remove(name) => {
                names.files.remove(name);
            }
            Self::RemoveDir(name) => {
                names.dirs.remove(name);
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Names {
    dirs: BTreeSet<String>,
    files: BTreeMap<String, Inode>,
}

/// What a power cut does to bytes that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// They are gone.
    Dropped,
    /// They happened to reach the disk.
    Kept,
    /// Half of them did.
    Half,
    /// The length reached the disk and the bytes did not.
    Zeros,
}

impl Unsynced {
    pub const ALL: [Self; 4] = [Self::Dropped, Self::Kept, Self::Half, Self::Zeros];

    fn of(self, data: &Data) -> Rc<Vec<u8>> {
        if data.now == data.safe {
            return Rc::clone(&data.safe);
        }
        let same = data.now.iter().zip(data.safe.iter()).take_while(|(a, b)| a == b).count();
        let half = same + (data.now.len() - same) / 2;
        match self {
            Self::Dropped => Rc::clone(&data.safe),
            Self::Kept => Rc::clone(&data.now),
            Self::Half => Rc::new(data.now[..half].to_vec()),
            Self::Zeros => {
                Rc::new(data.now.iter().enumerate().map(|(n, b)| if n < half { *b } else { 0 }).collect())
            }
        }
    }
}

/// Everything on a disk at one moment.
#[derive(Debug, Clone, Default)]
pub struct Image {
    now: Names,
    safe: Names,
    pending: Vec<NameChange>,
    data: BTreeMap<Inode, Data>,
    next_inode: Inode,
}

impl Image {
    /// How many changes of names a power cut may undo.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The disk after a power cut: of the changes of names that were not synced, those `kept` survive.
    pub fn after_power_cut(&self, kept: impl Fn(usize) -> bool, bytes: impl Fn(u64) -> Unsynced) -> Self {
        let mut names = self.safe.clone();
        let kept = self.pending.iter().enumerate().filter(|(n, _)| kept(*n));
        kept.for_each(|(_, change)| change.apply(&mut names));
        // What lies in a directory whose own name was lost is lost with it.
        let (dirs, files) = (names.dirs.clone(), &mut names.files);
        files.retain(|name, _| ancestors(name).all(|dir| dirs.contains(dir)));
        let data = names.files.values().map(|inode| {
            let safe = bytes(*inode).of(&self.data[inode]);
            (*inode, Data { now: Rc::clone(&safe), safe })
        });
        Self {
            data: data.collect(),
            safe: names.clone(),
            now: names,
            pending: Vec::new(),
            next_inode: self.next_inode,
        }
    }

    /// The files as they are read now.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.now.files.iter().map(|(name, inode)| (name.as_str(), &self.data[inode].now[..]))
    }

    /// A number that is equal for equal disks.
    pub fn fingerprint(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        for (name, bytes) in self.files() {
            (name, bytes).hash(&mut hasher);
        }
        self.now.dirs.hash(&mut hasher);
        hasher.finish()
    }
}

/// What goes wrong with the disk, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The machine stops before the n-th step from now.
    Stop(u64),
    /// The n-th step from now fails with this error, and the disk works again after.
    FailOnce(u64, ErrorKind),
    /// Steps that need room fail from the n-th on.
    Full(u64),
}

#[derive(Default)]
struct Disk {
    image: Image,
    locks: BTreeSet<String>,
    trouble: Option<Trouble>,
    stopped: bool,
    temps: u64,
    /// Another for each time the vault's directory was made anew: copied, or restored.
    birth: u64,
    /// The disk after each step, if wanted.
    recorded: Option<Vec<Image>>,
}

/// A simulated disk; clones share it, as processes of one machine do.
#[derive(Clone, Default)]
pub struct SimDisk {
    disk: Rc<RefCell<Disk>>,
    /// Steps taken by everyone.
    steps: Rc<Cell<u64>>,
}

thread_local! {
    static BIRTHS: Cell<u64> = const { Cell::new(0) };
}

/// Held by a simulated process.
pub struct SimLock {
    disk: Rc<RefCell<Disk>>,
    name: String,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.borrow_mut().locks.remove(&self.name);
    }
}

impl SimDisk {
    pub fn from_image(image: Image) -> Self {
        let disk = Disk { image, ..Disk::default() };
        Self { disk: Rc::new(RefCell::new(disk)), steps: Rc::default() }
    }

    pub fn image(&self) -> Image {
        self.disk.borrow().image.clone()
    }

    /// What `look` sees on the disk.
    pub fn look<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&self.disk.borrow().image)
    }

    /// The disk has this on it from now on: restored from an image, or after a power cut.
    pub fn set_image(&self, image: Image) {
        let mut disk = self.disk.borrow_mut();
        disk.image = image;
        (disk.stopped, disk.trouble) = (false, None);
    }

    /// What lies here was copied here: its files are other files than those they were copied from.
    pub fn reborn(&self) {
        BIRTHS.with(|births| {
            births.set(births.get() + 1);
            self.disk.borrow_mut().birth = births.get();
        });
    }

    pub fn trouble(&self, trouble: Option<Trouble>) {
        self.disk.borrow_mut().trouble = trouble;
    }

    pub fn stopped(&self) -> bool {
        self.disk.borrow().stopped
    }

    /// Nothing reaches the disk any more.
    pub fn stop(&self) {
        self.disk.borrow_mut().stopped = true;
    }

    /// Steps that changed something, so far.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// From now on every step is recorded.
    pub fn record(&self) {
        self.disk.borrow_mut().recorded = Some(Vec::new());
    }

    /// Steps recorded so far.
    pub fn recorded(&self) -> usize {
        self.disk.borrow().recorded.as_ref().map_or(0, Vec::len)
    }

    pub fn take_recorded(&self) -> Vec<Image> {
        self.disk.borrow_mut().recorded.take().unwrap_or_default()
    }

    /// Changes a file behind everyone's back, safely on the disk: rot, or a person's hand.
    pub fn tamper(&self, name: &str, bytes: Option<Vec<u8>>) {
        let image = &mut self.disk.borrow_mut().image;
        match bytes {
            Some(bytes) => {
                let bytes = Rc::new(bytes);
                let inode = image.next_inode;
                image.next_inode += 1;
                image.data.insert(inode, Data { now: Rc::clone(&bytes), safe: bytes });
                for names in [&mut image.now, &mut image.safe] {
                    names.files.insert(name.to_owned(), inode);
                    names.dirs.extend(ancestors(name).map(str::to_owned));
                }
            }
            None => {
                image.now.files.remove(name);
                image.safe.files.remove(name);
            }
        }
        image.pending.retain(
            |change| !matches!(change, NameChange::Link(n, _) | NameChange::Move(_, n, _) if n == name),
        );
    }

    /// One step: what a machine may stop before, and a disk may refuse.
    fn step(&self, needs_room: bool, change: impl FnOnce(&mut Image) -> io::Result<()>) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        disk.alive()?;
        match disk.trouble {
            Some(Trouble::Stop(0)) => {
                disk.stopped = true;
                return disk.alive();
            }
            Some(Trouble::FailOnce(0, kind)) => {
                disk.trouble = None;
                return Err(kind.into());
            }
            Some(Trouble::Full(0)) if needs_room => return Err(ErrorKind::StorageFull.into()),
            Some(Trouble::Stop(n)) => disk.trouble = Some(Trouble::Stop(n - 1)),
            Some(Trouble::FailOnce(n, kind)) => disk.trouble = Some(Trouble::FailOnce(n - 1, kind)),
            Some(Trouble::Full(n)) => disk.trouble = Some(Trouble::Full(n.saturating_sub(1))),
            None => {}
        }
        self.steps.set(self.steps.get() + 1);
        change(&mut disk.image)?;
        let Disk { image, recorded, .. } = &mut *disk;
        recorded.iter_mut().for_each(|recorded| recorded.push(image.clone()));
        Ok(())
    }

    fn set_bytes(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.step(true, |image| {
            let data = image.file_mut(name)?;
            let mut bytes = data.now.to_vec();
            change(&mut bytes);
            data.now = Rc::new(bytes);
            Ok(())
        })
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        self.step(false, |image| {
            let data = image.file_mut(name)?;
            data.safe = Rc::clone(&data.now);
            Ok(())
        })
    }
}

impl Disk {
    fn alive(&self) -> io::Result<()> {
        if self.stopped { Err(io::Error::other("the machine has stopped")) } else { Ok(()) }
    }
}

impl Image {
    fn file(&self, name: &str) -> io::Result<&Data> {
        let inode = self.now.files.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(&self.data[inode])
    }

    fn file_mut(&mut self, name: &str) -> io::Result<&mut Data> {
        let inode = self.now.files.get(name).ok_or(ErrorKind::NotFound)?;
        self.data.get_mut(inode).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn require_parent(&self, name: &str) -> io::Result<()> {
        let dir = parent(name);
        if dir.is_empty() || self.now.dirs.contains(dir) { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }
}

impl VaultFs for SimDisk {
    type Lock = SimLock;

    fn read_into(&self, name: &str, max_bytes: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
        let disk = self.disk.borrow();
        disk.alive()?;
        let data = disk.image.file(name)?;
        if data.now.len() as u64 > max_bytes {
            return Err(ErrorKind::FileTooLarge.into());
        }
        bytes.clear();
        bytes.extend_from_slice(&data.now);
        Ok(())
    }

    fn read_at(&self, name: &str, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>> {
        let disk = self.disk.borrow();
        disk.alive()?;
        let bytes = &disk.image.file(name)?.now;
        let from = (offset as usize).min(bytes.len());
        let to = (offset.saturating_add(len_bytes) as usize).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    fn len(&self, name: &str) -> io::Result<Option<u64>> {
        let disk = self.disk.borrow();
        disk.alive()?;
        Ok(disk.image.file(name).ok().map(|data| data.now.len() as u64))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let disk = self.disk.borrow();
        disk.alive()?;
        let names = &disk.image.now;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let dirs = names.dirs.range(prefix.clone()..);
        let files = names.files.range(prefix.clone()..).map(|(name, _)| name);
        let below = |name: &String| name.starts_with(&prefix);
        let dirs = dirs.take_while(|name| below(name));
        let names = dirs.chain(files.take_while(|name| below(name)));
        let own = names.map(|name| &name[prefix.len()..]).filter(|name| !name.contains('/'));
        let mut found = own.map(str::to_owned).collect::<Vec<_>>();
        found.sort();
        Ok(found)
    }

    fn birthmark(&self, name: &str) -> Option<String> {
        self.len(name).ok()??;
        Some(self.disk.borrow().birth.to_string())
    }

    fn try_lock(&self, name: &str) -> io::Result<Option<SimLock>> {
        if self.len(name)?.is_none() {
            self.make_parents(name)?;
            self.step(true, |image| image.link(name, &[]))?;
        }
        let mut disk = self.disk.borrow_mut();
        let free = disk.locks.insert(name.to_owned());
        drop(disk);
        Ok(free.then(|| SimLock { disk: Rc::clone(&self.disk), name: name.to_owned() }))
    }

    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.set_bytes(name, |now| now.truncate(at as usize))?;
        // A full disk may take a beginning.
        let half = bytes.len() / 2;
        let written = self.set_bytes(name, |now| now.extend(&bytes[..half]));
        let written = written.and_then(|()| self.set_bytes(name, |now| now.extend(&bytes[half..])));
        let written = written.and_then(|()| self.sync_file(name));
        if written.is_err() {
            let _ = self.step(false, |image| {
                let data = image.file_mut(name)?;
                data.now = Rc::new(data.now[..data.now.len().min(at as usize)].to_vec());
                Ok(())
            });
        }
        written
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if self.len(name)?.is_none() {
            return Ok(());
        }
        self.step(false, |image| {
            image.change(NameChange::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let below = format!("{dir}/");
        let disk = self.disk.borrow();
        let Names { dirs, files } = &disk.image.now;
        if dirs.iter().chain(files.keys()).any(|name| name.starts_with(&below)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        drop(disk);
        self.step(false, |image| {
            image.change(NameChange::RemoveDir(dir.to_owned()));
            Ok(())
        })
    }

    fn make_dir(&self, dir: &str) -> io::Result<bool> {
        let disk = self.disk.borrow();
        disk.alive()?;
        if dir.is_empty() || disk.image.now.dirs.contains(dir) {
            return Ok(false);
        }
        disk.image.require_parent(dir)?;
        drop(disk);
        self.step(true, |image| {
            image.change(NameChange::MakeDir(dir.to_owned()));
            Ok(())
        })?;
        Ok(true)
    }

    fn temp_name(&self) -> String {
        let mut disk = self.disk.borrow_mut();
        disk.temps += 1;
        format!("{}/{}", espejo::fs::INCOMING, disk.temps)
    }

    fn create(&self, files: &[(String, &[u8])], durable: bool) -> io::Result<()> {
        for (name, bytes) in files {
            self.step(true, |image| image.link(name, &[]))?;
            let half = bytes.len() / 2;
            self.set_bytes(name, |now| now.extend(&bytes[..half]))?;
            self.set_bytes(name, |now| now.extend(&bytes[half..]))?;
            if durable {
                self.sync_file(name)?;
            }
        }
        Ok(())
    }

    fn move_file(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(true, |image| {
            image.require_parent(to)?;
            let inode = *image.now.files.get(from).ok_or(ErrorKind::NotFound)?;
            image.change(NameChange::Move(from.to_owned(), to.to_owned(), inode));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.step(false, |image| {
            let (synced, rest) = image.pending.drain(..).partition(|change: &NameChange| change.touches(dir));
            image.pending = rest;
            let synced: Vec<NameChange> = synced;
            synced.iter().for_each(|change| change.apply(&mut image.safe));
            Ok(())
        })
    }
}

impl SimDisk {
    fn make_parents(&self, name: &str) -> io::Result<()> {
        for dir in ancestors(name).collect::<Vec<_>>().into_iter().rev() {
            if self.make_dir(dir)? {
                self.sync_dir(parent(dir))?;
            }
        }
        Ok(())
    }
}

impl Image {
    fn link(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.require_parent(name)?;
        if self.now.files.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.data.insert(inode, Data { now: Rc::new(bytes.to_vec()), safe: Rc::default() });
        self.change(NameChange::Link(name.to_owned(), inode));
        Ok(())
    }
}

/// The directories a name lies in, the nearest first, without the root.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(parent(name)), |dir| Some(parent(dir))).take_while(|dir| !dir.is_empty())
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}
