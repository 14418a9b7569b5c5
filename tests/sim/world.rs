//! Devices, a mirror between them, and everything that happens to them, by one seed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use espejo::entry::{Attachment, SCHEMA};
use espejo::event::Finding;
use espejo::format::feed::SegmentName;
use espejo::format::keyfile::{KeyFile, KeyFileError};
use espejo::format::{FileType, open_sealed, pack, seal_file};
use espejo::history::Retention;
use espejo::id::{EntryId, ObjectName, VaultId, VersionId};
use espejo::remote::{MemoryRemote, Remote, RemotePath, Retrying};
use espejo::sync::{self, Guard, Options, Report};
use espejo::vault::{self, Change, Edit};
use espejo::version::{Dot, Kind, MadeOn, Version};
use zeroize::Zeroizing;

use crate::chance::Chance;
use crate::disk::{Image, SimDisk, Trouble, Unsynced};
use crate::host::{SimClock, SimEntropy, SimHost};
use crate::keys::{Keys, is_intact_key};
use crate::net::{Fate, Net, SimRemote, now, step};
use crate::promise::Broken;
use crate::seen::{object_name, segment};
use crate::vaults::{
    START_MS, SimVault, content, make_vault, open, path, put_file, secret, seeds, set_files, settings,
};

pub const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
const YEAR_MS: i64 = 365 * DAY_MS;
const MAX_DEVICES: usize = 5;

/// How long history is kept here.
const KEEP: Retention = Retention { age_ms: 30 * DAY_MS, versions: 2 };

/// Words that only ever stand in what a person wrote.
pub const CANARY: &str = "canary";

/// What a schedule is made of. Each has its own chance, so that leaving one out leaves the others as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Write,
    Sync,
    FullSync,
    Proceed,
    Finish,
    Read,
    Check,
    Kill,
    PowerCut,
    StopSoon,
    DiskFull,
    DiskFails,
    DiskHeals,
    Rot,
    LoseFile,
    ClockJump,
    ClockFar,
    TimePasses,
    TakeImage,
    Restore,
    Copy,
    Destroy,
    Join,
    MirrorImage,
    MirrorBack,
    MirrorLoses,
    MirrorRots,
    MirrorCuts,
    MirrorEmptied,
    MirrorSwapped,
    Arrive,
    Replicate,
    NewerProgram,
    ChangeSecret,
    MonthsPass,
    Season,
    RetireDevice,
}

type Outcome = (Result<Report, sync::Error>, Vec<Finding>);

struct Job {
    work: Pin<Box<dyn Future<Output = Option<Outcome>>>>,
    /// What was saved here when it began.
    before: BTreeSet<VersionId>,
    /// The harms to the mirror that it looks for: a full sync, those before it began.
    looks_for: u64,
}

struct Device {
    host: SimHost,
    mirror: usize,
    job: Option<Job>,
    images: Vec<Image>,
    gone: bool,
    reseed: bool,
    /// Its disk is an older one: what it told the others it may not know any more.
    rewound: bool,
    /// What its last sync that went well had sent. A server that lies about a feed segment is found out by the listing
    /// that the next one begins with.
    sent: BTreeSet<VersionId>,
}

/// One acknowledged save, as the model remembers it.
pub struct Write {
    pub entry: EntryId,
    /// When it was saved, by the world's clock, and by its device's.
    at: i64,
    dot: Dot,
    /// Every version it was made on, directly or not.
    pub ancestors: BTreeSet<VersionId>,
    /// Title and body; `None` for a tombstone.
    pub text: Option<String>,
    objects: BTreeSet<ObjectName>,
    /// A sync said that it is on the mirror, and the mirror lost nothing since.
    pub stored: bool,
    /// Every copy of it was destroyed.
    pub excused: bool,
    /// There is no copy of it, and nobody needs it any more.
    pub retired: bool,
    /// Its save was reported as done. What was not, and is there all the same, may have been written over since.
    acknowledged: bool,
}

/// A save whose outcome is not known.
struct Attempt {
    entry: Option<EntryId>,
    ancestors: BTreeSet<VersionId>,
    text: Option<String>,
}

pub struct World {
    pub chance: Chance,
    entropy: Chance,
    time: Rc<Cell<i64>>,
    pub net: Rc<RefCell<Net>>,
    devices: Vec<Device>,
    /// One, or one per device with a replicator between them.
    mirrors: Vec<MemoryRemote>,
    mirror_images: Vec<Vec<BTreeMap<String, Bytes>>>,
    /// Files that were in every mirror: one that is in one of them no more was deleted there.
    everywhere: BTreeSet<String>,
    pub writes: BTreeMap<VersionId, Write>,
    attempts: Vec<Attempt>,
    pub keys: Keys,
    texts: u64,
    /// Files the mirror lost, rotted, or brought back: an ordinary sync does not look for them.
    pub mirror_harmed: bool,
    /// How often.
    harms: u64,
    /// Files on a disk rotted or went away: that is noticed when they are read.
    pub disk_harmed: bool,
    /// A clock was set: how long ago something was is not known any more.
    clock_harmed: bool,
    /// So much time passed that history goes.
    long: bool,
    pub findings: Vec<Finding>,
    pub errors: BTreeMap<String, u64>,
    /// What was opened and said what was written.
    read: BTreeSet<VersionId>,
}

impl World {
    pub fn new(seed: u64, trouble: usize, fates: Vec<Fate>, devices: usize, replicated: bool) -> Self {
        let chance = Chance::new(seed);
        let mut world = Self {
            net: Net::new(chance.clone(), trouble, fates),
            chance,
            entropy: Chance::new(!seed),
            time: Rc::new(Cell::new(START_MS)),
            devices: Vec::new(),
            mirrors: Vec::new(),
            mirror_images: Vec::new(),
            everywhere: BTreeSet::new(),
            writes: BTreeMap::new(),
            attempts: Vec::new(),
            keys: Keys::default(),
            texts: 0,
            mirror_harmed: false,
            harms: 0,
            disk_harmed: false,
            clock_harmed: false,
            long: false,
            findings: Vec::new(),
            errors: BTreeMap::new(),
            read: BTreeSet::new(),
        };
        for device in 0..devices {
            if device == 0 || replicated {
                world.mirrors.push(MemoryRemote::new());
                world.mirror_images.push(Vec::new());
            }
            world.add_device(SimDisk::default(), if replicated { device } else { 0 });
            world.make_vault(device);
        }
        world
    }

    fn add_device(&mut self, disk: SimDisk, mirror: usize) {
        let clock = SimClock { world: Rc::clone(&self.time), offset: Rc::default() };
        let host = SimHost { disk, clock, entropy: SimEntropy(self.entropy.clone()) };
        self.devices.push(Device {
            host,
            mirror,
            job: None,
            images: Vec::new(),
            gone: false,
            reseed: false,
            rewound: false,
            sent: BTreeSet::new(),
        });
    }

    fn make_vault(&mut self, device: usize) {
        let made = make_vault(self.devices[device].host.clone(), &format!("device {device}"));
        let mut vault = made.expect("an empty disk takes a vault");
        let settings = settings(&format!("mirror {}", self.devices[device].mirror));
        vault.set_remote(&settings).expect("a new disk takes settings");
    }

    /// Writes of which every copy was destroyed.
    pub fn excused(&self) -> u64 {
        self.writes.values().filter(|write| write.excused).count() as u64
    }

    /// Writes that no device and no mirror has any more, and nobody needs.
    pub fn went(&self) -> u64 {
        let mut there = BTreeSet::new();
        self.alive().iter().for_each(|it| there.extend(self.held_by(*it)));
        let lost = self.writes.iter().filter(|(id, write)| !write.excused && !there.contains(id));
        lost.count() as u64
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.devices.len()).filter(|device| !self.devices[*device].gone).collect()
    }

    fn say(&self, what: impl FnOnce() -> String) {
        let mut net = self.net.borrow_mut();
        let number = self.time.get().cast_unsigned();
        net.note(what, number);
    }

    /// Does one act, on the device that chance picks.
    pub fn act(&mut self, act: Act, seed: u64) {
        self.chance.restart(seed);
        let alive = self.alive();
        let device = *self.chance.pick(&alive).expect("one device always stays");
        self.say(|| format!("{act:?} {device}"));
        self.time.set(self.time.get() + 1 + self.chance.below(60_000) as i64);
        let disk = self.devices[device].host.disk.clone();
        match act {
            Act::Write => (0..=self.chance.below(3)).for_each(|_| self.write(device)),
            Act::Sync => self.begin_sync(device, false),
            Act::FullSync => self.begin_sync(device, true),
            Act::Proceed => {
                for _ in 0..self.chance.below(40) {
                    let alive = self.alive();
                    let device = *self.chance.pick(&alive).expect("one device always stays");
                    self.proceed(device);
                }
            }
            Act::Finish => drop(self.finish_sync(device)),
            Act::Read => self.read(device),
            Act::Check => {
                self.command(device, |vault| vault.check().map(|_| ()));
            }
            Act::Kill => self.devices[device].job = None,
            Act::PowerCut => self.power_cut(device),
            Act::StopSoon => disk.trouble(Some(Trouble::Stop(self.chance.below(60) as u64))),
            Act::DiskFull => disk.trouble(Some(Trouble::Full(self.chance.below(20) as u64))),
            Act::DiskFails => {
                let kinds = [ErrorKind::Other, ErrorKind::PermissionDenied, ErrorKind::StorageFull];
                let kind = *self.chance.pick(&kinds).expect("not empty");
                disk.trouble(Some(Trouble::FailOnce(self.chance.below(40) as u64, kind)));
            }
            Act::DiskHeals => disk.trouble(None),
            Act::Rot | Act::LoseFile => self.harm_disk(device, act == Act::LoseFile),
            Act::ClockJump => {
                let offset = &self.devices[device].host.clock.offset;
                offset.set(offset.get() + self.chance.below(4 * DAY_MS as usize) as i64 - 2 * DAY_MS);
                self.clock_harmed = true;
            }
            Act::ClockFar => {
                let far = [13 * YEAR_MS, -20 * YEAR_MS, -70 * YEAR_MS, 0];
                self.devices[device].host.clock.offset.set(*self.chance.pick(&far).expect("not empty"));
                self.clock_harmed = true;
            }
            Act::TimePasses => self.time.set(self.time.get() + self.chance.below(3 * DAY_MS as usize) as i64),
            Act::TakeImage => self.devices[device].images.push(disk.image()),
            Act::Restore => self.restore(device),
            Act::Copy => self.copy(device),
            Act::Destroy => {
                if alive.len() > 1 {
                    self.devices[device].job = None;
                    self.devices[device].gone = true;
                    self.reassess(true);
                }
            }
            Act::Join => self.join(device),
            Act::MirrorImage => {
                let mirror = self.devices[device].mirror;
                self.mirror_images[mirror].push(self.mirrors[mirror].files());
            }
            Act::MirrorBack | Act::MirrorLoses | Act::MirrorRots | Act::MirrorCuts | Act::MirrorEmptied => {
                self.harm_mirror(device, act);
            }
            Act::MirrorSwapped => self.swap_mirror(device),
            Act::Arrive => {
                self.net.borrow_mut().deliver();
            }
            Act::Replicate => self.replicate(),
            Act::NewerProgram => self.reencode(device),
            Act::ChangeSecret => self.change_secret(device),
            Act::MonthsPass => self.months_pass(),
            Act::Season => self.season(),
            Act::RetireDevice => self.retire_device(device, false),
        }
    }

    fn months_pass(&mut self) {
        self.long = true;
        self.learn_all();
        let days = 10 + self.chance.below(200) as i64;
        let years = if self.chance.per_mille(100) { 2 * YEAR_MS } else { 0 };
        self.time.set(self.time.get() + days * DAY_MS + years);
    }

    /// Takes in all that was saved without being acknowledged, before it may go.
    fn learn_all(&mut self) {
        for device in self.alive() {
            let Some(mut vault) = self.open(device) else { continue };
            let Ok(manifest) = vault.manifest() else { continue };
            let unknown =
                manifest.versions().filter(|it| it.opened && !self.writes.contains_key(&it.version.id));
            let unknown =
                unknown.map(|it| (it.version.clone(), it.summary.as_ref().map(|it| it.title.clone())));
            for (version, title) in unknown.collect::<Vec<_>>() {
                let objects = objects_of(&mut vault, version.id).unwrap_or_default();
                self.learn(&version, title, objects);
            }
        }
    }

    /// A few days on which everybody syncs, months on which nobody does, and a few days more.
    fn season(&mut self) {
        self.learn_all();
        for _ in 0..2 {
            for _ in 0..3 {
                self.time.set(self.time.get() + DAY_MS + 60_000);
                for device in self.alive() {
                    self.begin_sync(device, false);
                    self.finish_sync(device);
                }
            }
            self.months_pass();
        }
    }

    /// A person retires a device: one that there is no vault of any more, or any.
    fn retire_device(&mut self, device: usize, lost_only: bool) {
        let alive = self.alive().into_iter().filter_map(|it| Some(self.open(it)?.device().id));
        let alive = alive.collect::<BTreeSet<_>>();
        let chance = self.chance.clone();
        self.command(device, |vault| {
            let this = vault.device().id;
            let known =
                vault.manifest()?.feeds().keys().copied().filter(|id| *id != this).collect::<Vec<_>>();
            let lost = known.iter().copied().filter(|id| !alive.contains(id)).collect::<Vec<_>>();
            if lost_only {
                return lost.into_iter().try_for_each(|id| vault.retire_device(id));
            }
            let choice = if chance.per_mille(700) && !lost.is_empty() { &lost } else { &known };
            chance.pick(choice).map_or(Ok(()), |id| vault.retire_device(*id))
        });
    }

    fn open(&mut self, device: usize) -> Option<SimVault> {
        match open(self.devices[device].host.clone(), &self.keys.secrets) {
            Ok(vault) => Some(vault),
            Err(error) => {
                self.note_error(device, &error.to_string());
                None
            }
        }
    }

    fn note_error(&mut self, device: usize, error: &str) {
        *self.errors.entry(error.to_owned()).or_default() += 1;
        self.say(|| format!("  {device}: {error}"));
    }

    /// Runs what a command of the program would, in a process of its own.
    fn command<T>(
        &mut self,
        device: usize,
        run: impl FnOnce(&mut SimVault) -> Result<T, vault::Error>,
    ) -> Option<T> {
        let result = self.open(device).map(|mut vault| {
            let result = run(&mut vault);
            (result, vault.take_findings())
        });
        let done = match result {
            Some((Ok(done), findings)) => {
                self.findings.extend(findings);
                Some(done)
            }
            Some((Err(error), findings)) => {
                self.findings.extend(findings);
                self.note_error(device, &error.to_string());
                None
            }
            None => None,
        };
        if self.devices[device].host.disk.stopped() {
            self.power_cut(device);
        }
        done
    }

    /// What a person does: a new entry, an edit, a deletion, a settled conflict.
    fn write(&mut self, device: usize) {
        let chance = self.chance.clone();
        self.texts += 1;
        let text = format!("{CANARY} {}", self.texts);
        let attachment = chance.per_mille(30).then(|| chance.below(9_000));
        let mut attempt = None;
        let host = self.devices[device].host.clone();
        let mut unknown = Vec::new();
        let Some(mut vault) = self.open(device) else { return self.after_stop(device) };
        let known = &self.writes;
        let mut save = |vault: &mut SimVault| {
            let entries = vault.entries()?;
            let chosen = chance.pick(&entries).filter(|_| chance.per_mille(700));
            let (entry, made_on) = match chosen {
                None => (None, MadeOn::Everything),
                Some(state) if chance.per_mille(250) => (Some(state.id()), MadeOn::Everything),
                Some(state) => (Some(state.id()), MadeOn::Version(state.version.id)),
            };
            let deletes = chosen.is_some_and(|state| !state.deleted()) && chance.per_mille(200);
            let mut ancestors = BTreeSet::new();
            for state in entry.map_or(Ok(Vec::new()), |entry| vault.history(entry))? {
                let id = state.version.id;
                match known.get(&id) {
                    None => unknown.push((state.version.clone(), state.summary.map(|s| s.title))),
                    Some(_) if made_on != MadeOn::Everything && made_on != MadeOn::Version(id) => {}
                    Some(write) => ancestors.extend(write.ancestors.iter().copied().chain([id])),
                }
            }
            if !unknown.is_empty() {
                // A save that failed was done all the same; the model has to know it first.
                return Ok(None);
            }
            let change = match deletes {
                true => Change::Delete,
                false => {
                    let mut content = content(&text, host.clock.world.get());
                    attempt = Some(Attempt { entry, ancestors: ancestors.clone(), text: Some(text.clone()) });
                    if let Some(len) = attachment {
                        let bytes = text.bytes().cycle().take(len).collect::<Vec<_>>();
                        let blob = vault.store_blob(&mut &bytes[..])?;
                        let (name, media_type) =
                            ("file.bin".to_owned(), "application/octet-stream".to_owned());
                        content.attachments.push(Attachment { name, media_type, blob });
                    }
                    Change::Content(content)
                }
            };
            let text = (!deletes).then(|| text.clone());
            attempt = Some(Attempt { entry, ancestors: ancestors.clone(), text: text.clone() });
            let saved = vault.save(&[Edit { entry, made_on, change }])?.remove(0);
            let objects = objects_of(vault, saved.version)?;
            let dot = vault.manifest()?.version(saved.version).map(|state| state.version.dot);
            let write = Write {
                entry: saved.entry,
                at: host.clock.world.get(),
                dot: dot.expect("it was just saved"),
                ancestors,
                text,
                objects,
                stored: false,
                excused: false,
                retired: false,
                acknowledged: true,
            };
            Ok::<_, vault::Error>(Some((saved.version, write)))
        };
        let result = save(&mut vault);
        self.findings.extend(vault.take_findings());
        match result {
            Ok(Some((version, write))) => {
                self.say(|| format!("  {device} saved {version} of {}", write.entry));
                self.writes.insert(version, write);
            }
            Ok(None) => {
                for (version, title) in unknown {
                    let objects = objects_of(&mut vault, version.id).unwrap_or_default();
                    self.learn(&version, title, objects);
                }
            }
            Err(error) => {
                self.attempts.extend(attempt);
                self.note_error(device, &error.to_string());
            }
        }
        drop(vault);
        self.after_stop(device);
    }

    fn after_stop(&mut self, device: usize) {
        if self.devices[device].host.disk.stopped() {
            self.power_cut(device);
        }
    }

    /// Takes in a version that comes from a save that was not acknowledged. False if there was none such.
    fn learn(&mut self, version: &Version, title: Option<String>, objects: BTreeSet<ObjectName>) -> bool {
        let fits = |attempt: &Attempt| {
            attempt.entry.is_none_or(|entry| entry == version.entry)
                && match version.kind {
                    Kind::Tombstone => attempt.text.is_none(),
                    Kind::Live => attempt.text.is_some() && (title.is_none() || attempt.text == title),
                }
        };
        let covered = self
            .writes
            .iter()
            .filter(|(_, write)| write.entry == version.entry && version.context.covers(write.dot));
        let covered = covered.map(|(id, _)| *id).collect::<BTreeSet<_>>();
        // Two deletions of one entry look the same: the one that was made on what this one says.
        let fitting = self.attempts.iter().enumerate().filter(|(_, attempt)| fits(attempt));
        let nearest =
            fitting.min_by_key(|(_, attempt)| attempt.ancestors.symmetric_difference(&covered).count());
        let Some(at) = nearest.map(|(at, _)| at) else { return false };
        let Attempt { ancestors, text, .. } = self.attempts.remove(at);
        let write = Write {
            entry: version.entry,
            at: self.time.get(),
            dot: version.dot,
            ancestors,
            text,
            objects,
            stored: false,
            excused: false,
            retired: false,
            acknowledged: false,
        };
        self.writes.insert(version.id, write);
        true
    }

    /// A person changes what opens the vault.
    fn change_secret(&mut self, device: usize) {
        let mut secret = [0; 32];
        secret.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.chance.next().to_le_bytes()));
        if let Some(mut vault) = self.open(device) {
            let next = vault.key_file().map(|file| file.generation + 1);
            self.keys.try_secret(secret);
            let changed = next.map(|next| match vault.change_recovery(&Zeroizing::new(secret)) {
                Ok(file) => (file.generation, true),
                Err(error) => {
                    self.note_error(device, &error.to_string());
                    (next, false)
                }
            });
            match changed {
                Ok((generation, acknowledged)) => {
                    self.say(|| format!("  {device} sets generation {generation}: {acknowledged}"));
                    self.keys.note(secret, generation, acknowledged);
                }
                Err(error) => self.note_error(device, &error.to_string()),
            }
        }
        self.after_stop(device);
    }

    fn read(&mut self, device: usize) {
        let chance = self.chance.clone();
        self.command(device, |vault| {
            let entries = vault.entries()?;
            match chance.pick(&entries) {
                Some(state) if !state.deleted() => vault.content(state.version.id).map(|_| ()),
                _ => Ok(()),
            }
        });
    }

    fn begin_sync(&mut self, device: usize, full: bool) {
        if self.devices[device].job.is_some() {
            return;
        }
        let reseed = std::mem::take(&mut self.devices[device].reseed);
        let accept_deletes = self.chance.per_mille(500);
        let options = Options { full, reseed, accept_deletes, retention: KEEP, dry_run: false };
        self.devices[device].job = Some(self.job(device, options));
    }

    fn job(&mut self, device: usize, options: Options) -> Job {
        let before = self.held_by(device);
        let host = self.devices[device].host.clone();
        let mirror = self.mirrors[self.devices[device].mirror].share();
        let remote = SimRemote::new(device, mirror, Rc::clone(&self.net));
        let secrets = self.keys.shared();
        let work = async move {
            let mut vault = open(host.clone(), &secrets).ok()?;
            let remote = Retrying::new(remote, host.clock.clone());
            let mut findings = vault.take_findings();
            let result = sync::sync(&mut vault, &remote, options, &mut findings).await;
            findings.extend(vault.take_findings());
            Some((result, findings))
        };
        let looks_for = if options.full { self.harms } else { 0 };
        Job { work: Box::pin(work), before, looks_for }
    }

    /// Versions whose objects are all on this device's disk, whole.
    fn held_by(&self, device: usize) -> BTreeSet<VersionId> {
        let names = self.devices[device].host.disk.look(intact_on_disk);
        let held = self.writes.iter().filter(|(_, write)| write.objects.is_subset(&names));
        held.map(|(version, _)| *version).collect()
    }

    /// A step of the device's sync, if there is one. The outcome if it ended.
    fn proceed(&mut self, device: usize) -> Option<Result<Report, sync::Error>> {
        let job = self.devices[device].job.as_mut()?;
        let outcome = step(&mut job.work);
        let ended = outcome.is_some();
        let mut result = None;
        if let Some(Some((ended, findings))) = outcome {
            let job = self.devices[device].job.take();
            let (before, looked) =
                job.map(|job| (job.before, job.looks_for == self.harms)).unwrap_or_default();
            for finding in &findings {
                self.say(|| format!("  {device}: {finding}"));
            }
            let healed = findings.iter().any(|finding| matches!(finding, Finding::MirrorHealed { .. }));
            self.findings.extend(findings);
            match &ended {
                Ok(report) => {
                    self.say(|| format!("  {device}: {report:?}"));
                    let held = before.clone();
                    let proven = match self.net.borrow().lies() {
                        false => before.clone(),
                        true if healed => BTreeSet::new(),
                        true => before.intersection(&self.devices[device].sent).copied().collect(),
                    };
                    if report.unsent == 0 {
                        self.devices[device].sent = before;
                    }
                    if report.retired > 0 {
                        self.everybody_knew(device, &held);
                    }
                    if report.unsent == 0 && looked {
                        let stored = self.writes.iter_mut().filter(|(version, _)| proven.contains(version));
                        stored.for_each(|(_, write)| write.stored = true);
                    }
                }
                Err(error) => {
                    self.devices[device].reseed =
                        matches!(error, sync::Error::Guard(Guard::MirrorGone)) && self.chance.per_mille(500);
                    self.note_error(device, &error.to_string());
                }
            }
            result = Some(ended);
        } else if ended {
            self.devices[device].job = None;
        }
        if self.devices[device].host.disk.stopped() {
            self.power_cut(device);
        }
        result
    }

    fn finish_sync(&mut self, device: usize) -> Option<Result<Report, sync::Error>> {
        for _ in 0..200_000 {
            self.devices[device].job.as_ref()?;
            if let Some(result) = self.proceed(device) {
                return Some(result);
            }
        }
        panic!("a sync does not end");
    }

    /// The machine stops at once; what was not synced is lost, kept or torn, as it falls.
    fn power_cut(&mut self, device: usize) {
        let disk = self.devices[device].host.disk.clone();
        disk.stop();
        self.devices[device].job = None;
        let image = disk.image();
        let cut = self.chance.below(image.pending() + 1);
        let ordered = self.chance.per_mille(700);
        let dice = self.chance.next();
        let kept = |n: usize| if ordered { n < cut } else { (dice >> (n % 64)) & 1 == 1 };
        let bytes = |inode: u64| Unsynced::ALL[((dice >> 7).wrapping_add(inode) % 4) as usize];
        disk.set_image(image.after_power_cut(kept, bytes));
        self.say(|| format!("  {device}: power cut"));
    }

    /// Rot, a bad spot, or a file that is gone.
    fn harm_disk(&mut self, device: usize, lose: bool) {
        let disk = self.devices[device].host.disk.clone();
        let image = disk.image();
        let sealed = |name: &str| {
            name.starts_with("objects/") || (name.starts_with("local/") && !name.contains("lock"))
        };
        let files = image.files().filter(|(name, bytes)| sealed(name) && !bytes.is_empty());
        let files = files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect::<Vec<_>>();
        let Some((name, mut bytes)) = self.chance.pick(&files).cloned() else { return };
        self.say(|| format!("  {device}: harms {name}"));
        self.disk_harmed = true;
        if lose {
            disk.tamper(&name, None);
        } else {
            let at = self.chance.below(bytes.len());
            bytes[at] ^= 1 << self.chance.below(8);
            disk.tamper(&name, Some(bytes));
        }
        self.reassess(false);
    }

    fn restore(&mut self, device: usize) {
        let images = &self.devices[device].images;
        let Some(image) = self.chance.pick(images).cloned() else { return };
        self.devices[device].job = None;
        let bytes = |_: u64| Unsynced::Kept;
        self.devices[device].host.disk.set_image(image.after_power_cut(|_| true, bytes));
        self.devices[device].host.disk.reborn();
        self.devices[device].rewound = true;
        self.reassess(true);
    }

    fn copy(&mut self, device: usize) {
        if self.devices.len() >= MAX_DEVICES {
            return;
        }
        let image = self.devices[device].host.disk.image().after_power_cut(|_| true, |_| Unsynced::Kept);
        let disk = SimDisk::from_image(image);
        disk.reborn();
        self.add_device(disk, self.devices[device].mirror);
    }

    fn join(&mut self, device: usize) {
        if self.devices.len() < MAX_DEVICES {
            self.add_device(SimDisk::default(), self.devices[device].mirror);
            self.make_vault(self.devices.len() - 1);
        }
    }

    fn harm_mirror(&mut self, device: usize, act: Act) {
        let at = self.devices[device].mirror;
        let mirror = self.mirrors[at].share();
        let files = mirror.files();
        self.mirror_harmed = true;
        self.harms += 1;
        match act {
            Act::MirrorBack => {
                let Some(image) = self.chance.pick(&self.mirror_images[at]) else { return };
                set_files(&mirror, image);
                self.net.borrow_mut().forget_late();
            }
            Act::MirrorEmptied => {
                if self.chance.per_mille(300) {
                    set_files(&mirror, &BTreeMap::new());
                    self.net.borrow_mut().forget_late();
                }
            }
            _ => {
                for (name, bytes) in files.iter().filter(|(name, _)| *name != "espejo.json") {
                    if !self.chance.per_mille(200) {
                        continue;
                    }
                    self.say(|| format!("  {act:?} {name}"));
                    let path = path(name);
                    match act {
                        Act::MirrorLoses => {
                            mirror.remove_file(&path);
                        }
                        Act::MirrorCuts => mirror.set_file(&path, bytes.slice(..bytes.len() / 2)),
                        _ => {
                            let mut bytes = bytes.to_vec();
                            let bit = self.chance.below(bytes.len() * 8);
                            bytes.get_mut(bit / 8).into_iter().for_each(|byte| *byte ^= 1 << (bit % 8));
                            mirror.set_file(&path, Bytes::from(bytes));
                        }
                    }
                }
            }
        }
        self.writes.values_mut().for_each(|write| write.stored = false);
        self.reassess(false);
    }

    /// For one sync there is another vault's mirror at the address.
    fn swap_mirror(&mut self, device: usize) {
        if self.devices[device].job.is_some() {
            return;
        }
        let at = self.devices[device].mirror;
        let other = MemoryRemote::new();
        for dir in ["", "feeds", "keys", "objects"] {
            now(other.make_dir(&if dir.is_empty() { RemotePath::root() } else { path(dir) }))
                .expect("memory");
        }
        let marker = espejo::format::marker::encode(VaultId::from_bytes([9; 16]));
        other.set_file(&path("espejo.json"), Bytes::from(marker));
        other.set_file(&path("keys/1-0123456789abcdef.key"), Bytes::from_static(b"another vault's"));
        let before = other.files();
        let ours = std::mem::replace(&mut self.mirrors[at], other);
        self.begin_sync(device, false);
        self.finish_sync(device);
        let other = std::mem::replace(&mut self.mirrors[at], ours);
        assert!(other.files() == before, "another vault's mirror was written to");
    }

    /// Something copies a few files from one folder to another, in any order, sometimes only a beginning.
    fn replicate(&mut self) {
        if self.mirrors.len() < 2 {
            return;
        }
        let from = self.chance.below(self.mirrors.len());
        let to = self.chance.below(self.mirrors.len());
        let (source, target) = (self.mirrors[from].share(), self.mirrors[to].share());
        let have = target.files();
        let longer =
            |name: &String, bytes: &Bytes| have.get(name).is_none_or(|there| there.len() < bytes.len());
        for (name, bytes) in source.files().into_iter().filter(|(name, bytes)| longer(name, bytes)) {
            if self.chance.per_mille(600) {
                let half = self.chance.per_mille(150);
                let bytes = if half { bytes.slice(..bytes.len() / 2) } else { bytes };
                put_file(&target, &name, bytes);
            }
        }
    }

    fn replicate_all(&mut self) {
        if self.mirrors.len() < 2 {
            return;
        }
        let mut union = BTreeMap::<String, Bytes>::new();
        // What was written again last reaches everybody in the end.
        let good = |name: &str, bytes: &Bytes| (is_intact(name, bytes), bytes.len());
        for (name, bytes) in self.mirrors.iter().flat_map(MemoryRemote::files) {
            let best = union.entry(name.clone()).or_default();
            if good(&name, best) < good(&name, &bytes) {
                *best = bytes;
            }
        }
        let files = self.mirrors.iter().map(MemoryRemote::files).collect::<Vec<_>>();
        let gone = |name: &String| files.iter().any(|files| !files.contains_key(name));
        let deleted = self.everywhere.iter().filter(|name| gone(name)).cloned().collect::<BTreeSet<_>>();
        union.retain(|name, _| !deleted.contains(name));
        self.mirrors.iter().for_each(|mirror| set_files(mirror, &union));
        self.everywhere = union.into_keys().collect();
    }

    /// A newer program writes some version again in a schema this one cannot read.
    fn reencode(&mut self, device: usize) {
        let disk = self.devices[device].host.disk.clone();
        let image = disk.image();
        let keyring = &seeds().keyring;
        let objects = image.files().filter(|(name, _)| name.starts_with("objects/"));
        let objects =
            objects.filter_map(|(_, bytes)| Some(open_sealed(keyring, FileType::Version, bytes).ok()?.1));
        let objects = objects.collect::<Vec<_>>();
        let Some(inner) = self.chance.pick(&objects) else { return };
        let entropy = SimEntropy(self.entropy.clone());
        let bytes =
            seal_file(keyring, FileType::Version, 3, inner, &entropy).expect("chance does not run out");
        let name = object_name(&bytes).to_string();
        disk.tamper(&format!("objects/{}/{name}", &name[..2]), Some(bytes));
        self.command(device, |vault| vault.check().map(|_| ()));
    }

    /// Which writes still have a copy, after something was destroyed. `promised`: a stored one must have one.
    fn reassess(&mut self, promised: bool) {
        // What lies on the mirror and was never announced is nowhere.
        let mut announced = BTreeSet::new();
        let mut there = BTreeSet::new();
        for device in self.alive() {
            self.devices[device].host.disk.look(|image| {
                let segments = image.files().filter(|(name, _)| name.starts_with("local/feeds/"));
                segments.for_each(|(name, bytes)| announced.extend(announced_in(name, bytes)));
                there.extend(intact_on_disk(image));
            });
        }
        for mirror in &self.mirrors {
            let files = mirror.files();
            files.iter().for_each(|(name, bytes)| announced.extend(announced_in(name, bytes)));
            there.extend(intact_on_mirror(&files).intersection(&announced));
        }
        let images = self.alive().into_iter().map(|device| self.devices[device].host.disk.image());
        let (images, mirrors) =
            (images.collect::<Vec<_>>(), self.mirrors.iter().map(MemoryRemote::files).collect::<Vec<_>>());
        self.keys.reassess(images.iter(), mirrors.iter());
        let buried = self.buried();
        let may_go = self.may_go(&buried);
        // What replaced it must be somewhere, or it did not go: it was destroyed.
        let whole = self.writes.iter().filter(|(id, write)| {
            write.objects.is_subset(&there) || (buried.contains(id) && may_go.contains(id))
        });
        let replaced = whole.flat_map(|(id, write)| {
            let itself = buried.contains(id).then_some(*id);
            write.ancestors.iter().copied().chain(itself)
        });
        let replaced = replaced.collect::<BTreeSet<_>>();
        for (version, write) in &mut self.writes {
            if !write.excused && !write.retired && !write.objects.is_subset(&there) {
                if may_go.contains(version) && replaced.contains(version) {
                    write.retired = true;
                    continue;
                }
                assert!(
                    !(promised && write.stored),
                    "version {version} was called stored and had one copy only"
                );
                write.excused = true;
            }
        }
    }

    /// The deletions that somebody's feed tells of.
    fn buried(&self) -> BTreeSet<VersionId> {
        let mut buried = BTreeSet::new();
        for device in self.alive() {
            self.devices[device].host.disk.look(|image| {
                image.files().for_each(|(name, bytes)| buried.extend(buried_in(name, bytes)));
            });
        }
        for mirror in &self.mirrors {
            mirror.files().iter().for_each(|(name, bytes)| buried.extend(buried_in(name, bytes)));
        }
        buried
    }

    /// What nobody need have any more: superseded by what is old, old itself, and not among the newest of its entry; or
    /// part of what was deleted long ago, as the feeds tell.
    fn may_go(&self, buried: &BTreeSet<VersionId>) -> BTreeSet<VersionId> {
        let is_old = |write: &Write| self.clock_harmed || self.time.get() - write.at > KEEP.age_ms;
        let may_go = |(id, write): &(&VersionId, &Write)| {
            let of_entry = || self.writes.iter().filter(|(_, other)| other.entry == write.entry);
            let deleted = of_entry().any(|(other, it)| {
                let of_it = other == *id || it.ancestors.contains(*id);
                of_it && it.text.is_none() && is_old(it) && buried.contains(other)
            });
            let superseded =
                || of_entry().any(|(_, it)| it.ancestors.contains(*id) && is_old(it) && !it.excused);
            let order = |id: &VersionId, write: &Write| (write.dot.updated_at, write.dot.device, *id);
            let newer = || of_entry().filter(|(other, it)| order(other, it) > order(id, write)).count();
            is_old(write) && (deleted || (superseded() && newer() >= KEEP.versions))
        };
        self.writes.iter().filter(may_go).map(|(id, _)| *id).collect()
    }

    /// A device dropped something it `held`: every device that it waits for knew what came after.
    fn everybody_knew(&mut self, device: usize, held: &BTreeSet<VersionId>) {
        if self.disk_harmed {
            return;
        }
        let now = self.held_by(device);
        let dropped = held.difference(&now).filter_map(|id| self.writes.get(id));
        let dropped = dropped.map(|write| (write.entry, write.dot)).collect::<Vec<_>>();
        let Some(mut vault) = self.open(device) else { return };
        let Ok(manifest) = vault.manifest() else { return };
        let counted = manifest.feeds().keys().filter(|id| !manifest.is_retired(**id)).copied();
        let counted = counted.collect::<BTreeSet<_>>();
        let others = self.alive().into_iter().filter(|it| *it != device && !self.devices[*it].rewound);
        for other in others.collect::<Vec<_>>() {
            let Some(mut vault) = self.open(other) else { continue };
            if !counted.contains(&vault.device().id) {
                continue;
            }
            let Ok(manifest) = vault.manifest() else { continue };
            for (entry, dot) in &dropped {
                let known = manifest.versions().filter(|state| state.version.entry == *entry);
                let mut known = known.map(|state| &state.version);
                let knows =
                    known.any(|it| it.context.covers(*dot) || (it.dot == *dot && it.kind == Kind::Tombstone));
                assert!(
                    knows,
                    "device {device} dropped a version of {entry}, and device {other} does not know why"
                );
            }
        }
    }

    /// Faults end, every device syncs twice, and every promise is looked at.
    pub fn settle(&mut self) -> Result<(), Broken> {
        self.chance.restart(0);
        self.say(|| "settle".to_owned());
        self.net.borrow_mut().trouble = 0;
        for device in self.alive() {
            self.devices[device].job = None;
            self.devices[device].host.disk.trouble(None);
        }
        while self.net.borrow_mut().deliver() {}
        self.time.set(self.time.get() + 2 * DAY_MS);
        let full = self.mirror_harmed;
        if self.disk_harmed {
            // Damage is noticed when it is read.
            for device in self.alive() {
                self.command(device, |vault| vault.check().map(|_| ()));
            }
        }
        let mut rounds = 2;
        let mut round = 0;
        while round < rounds {
            let mut refused = 0;
            for device in self.alive() {
                self.replicate_all();
                match self.sync_for_good(device, full && round == 0) {
                    // A mirror was emptied before this device ever saw it; whoever did has to fill it first.
                    Err(Broken(why)) if why.contains("neither empty") && round == 0 => {
                        (rounds, refused) = (3, refused + 1);
                    }
                    synced => {
                        synced?;
                    }
                }
            }
            if refused == self.alive().len() {
                // Whoever saw it is gone, and what is left of it is nobody's: a person empties the folder.
                self.mirrors.iter().for_each(|mirror| set_files(mirror, &BTreeMap::new()));
                self.everywhere.clear();
                self.reassess(false);
            }
            round += 1;
        }
        self.replicate_all();
        self.compare()?;
        self.compare_keys()?;
        if self.long {
            self.grow_old()?;
        }
        self.idle()?;
        self.newcomer()
    }

    /// All devices and mirrors have the same key file, and it is what the model says.
    fn compare_keys(&mut self) -> Result<KeyFile, Broken> {
        let mut last: Option<KeyFile> = None;
        for device in self.alive() {
            let vault = self.open(device).ok_or_else(|| Broken(format!("device {device} does not open")))?;
            let file = vault.key_file()?;
            let other = last.get_or_insert_with(|| file.clone());
            promise!(
                *other == file,
                "{} is in force, and on device {device} {}",
                other.file_name(),
                file.file_name()
            );
        }
        let last = last.expect("one device always stays");
        self.keys.judge(&last)?;
        let name = format!("keys/{}", last.file_name());
        let is_there =
            |mirror: &MemoryRemote| mirror.files().get(&name).is_some_and(|it| *it == last.encode());
        promise!(self.mirrors.iter().all(is_there), "a mirror lacks {name}");
        Ok(last)
    }

    /// Whoever is lost is waited for no longer, and a season passes in which everything goes that may.
    fn grow_old(&mut self) -> Result<(), Broken> {
        let first = self.alive()[0];
        self.retire_device(first, true);
        for days in [2, 2, 40, 2, 2, 2, 0] {
            self.time.set(self.time.get() + days * DAY_MS);
            for device in self.alive() {
                self.replicate_all();
                self.sync_for_good(device, false)?;
            }
        }
        self.replicate_all();
        self.compare()
    }

    /// What a person does to get a sync through.
    fn sync_for_good(&mut self, device: usize, full: bool) -> Result<Report, Broken> {
        let mut options = Options { full, retention: KEEP, ..Options::default() };
        for _ in 0..4 {
            self.devices[device].job = Some(self.job(device, options));
            match self.finish_sync(device) {
                Some(Ok(report)) => return Ok(report),
                Some(Err(sync::Error::Guard(Guard::MirrorGone))) => options.reseed = true,
                Some(Err(sync::Error::Guard(Guard::MassDelete { .. }))) => options.accept_deletes = true,
                Some(Err(sync::Error::NoRemote | sync::Error::Vault(vault::Error::StateDamaged { .. }))) => {
                    self.set_remote_again(device);
                }
                Some(Err(error)) => {
                    return Err(Broken(format!("device {device} cannot sync any more: {error}")));
                }
                None => {
                    // Its key was destroyed in every copy; a person makes it anew from the mirror.
                    self.devices[device].host.disk.set_image(Image::default());
                    self.make_vault(device);
                    self.reassess(false);
                }
            }
        }
        Err(Broken(format!("device {device} cannot sync any more")))
    }

    fn set_remote_again(&mut self, device: usize) {
        let settings = settings(&format!("mirror {}", self.devices[device].mirror));
        self.command(device, |vault| vault.set_remote(&settings));
    }

    /// All devices show the same, and it is what the model says.
    fn compare(&mut self) -> Result<(), Broken> {
        let mut first: Option<BTreeMap<EntryId, State>> = None;
        for device in self.alive() {
            let states = self.states(device)?;
            let lost = |entry: &EntryId| self.writes.values().any(|w| w.excused && w.entry == *entry);
            if let Some(first) = &first {
                let entries = first.keys().chain(states.keys()).collect::<BTreeSet<_>>();
                for entry in entries.into_iter().filter(|entry| !lost(entry)) {
                    promise!(
                        first.get(entry) == states.get(entry),
                        "devices differ in {entry}: {:?} and on device {device} {:?}",
                        first.get(entry),
                        states.get(entry)
                    );
                }
            }
            first.get_or_insert(states);
        }
        Ok(())
    }

    /// What one device shows, compared with the model.
    fn states(&mut self, device: usize) -> Result<BTreeMap<EntryId, State>, Broken> {
        let mut vault = self.open(device).ok_or_else(|| Broken(format!("device {device} does not open")))?;
        let told = |error: vault::Error| Broken(format!("device {device}: {error}"));
        let entries = vault.entries().map_err(told)?;
        let mut versions = BTreeMap::new();
        for state in &entries {
            for version in vault.history(state.id()).map_err(told)? {
                versions.insert(version.version.id, version);
            }
        }
        for (id, state) in &versions {
            if !self.writes.contains_key(id) {
                let title = state.summary.as_ref().map(|summary| summary.title.clone());
                let objects = objects_of(&mut vault, *id).map_err(told)?;
                promise!(self.learn(&state.version, title, objects), "version {id} was written by nobody");
            }
        }
        let may_go = self.may_go(&self.buried());
        let intact = self.devices[device].host.disk.look(intact_on_disk);
        let mut read = BTreeSet::new();
        for (id, write) in self.writes.iter().filter(|(_, write)| write.acknowledged && !write.excused) {
            if write.retired || (may_go.contains(id) && !versions.contains_key(id)) {
                continue;
            }
            promise!(
                versions.contains_key(id),
                "device {device} lacks version {id} of entry {}",
                write.entry
            );
            // The same bytes were opened before, on another device or at another time, and say the same here.
            let known = self.read.contains(id) && write.objects.is_subset(&intact);
            if known && vault.manifest().map_err(told)?.encoding_here(*id, SCHEMA).is_some() {
                continue;
            }
            let content = match vault.content(*id) {
                // Of what nobody needs it may be that only a newer program's copy is left, or one that rotted here.
                Err(vault::Error::NewerSchema | vault::Error::Damaged { .. }) if may_go.contains(id) => {
                    continue;
                }
                content => content.map_err(|error| {
                    Broken(format!(
                        "device {device} cannot read version {id} of entry {}: {error}",
                        write.entry
                    ))
                })?,
            };
            promise!(
                content.as_ref().map(|c| &c.title) == write.text.as_ref(),
                "version {id} says something else"
            );
            for attachment in content.iter().flat_map(|content| &content.attachments) {
                let bytes = vault.blob_bytes(&attachment.blob, 1 << 20).map_err(told)?;
                let text = write.text.as_deref().unwrap_or_default();
                promise!(
                    bytes.iter().copied().eq(text.bytes().cycle().take(bytes.len())),
                    "an attachment differs"
                );
            }
            read.insert(*id);
        }
        self.read.extend(read);
        let mut states = BTreeMap::new();
        for entry in entries {
            let of_entry =
                || self.writes.iter().filter(|(id, w)| w.entry == entry.id() && versions.contains_key(id));
            let heads =
                of_entry().filter(|(id, _)| !of_entry().any(|(_, other)| other.ancestors.contains(id)));
            let heads = heads.map(|(id, _)| *id).collect::<BTreeSet<_>>();
            let shown = entry.losers.iter().copied().chain([entry.version.id]).collect::<BTreeSet<_>>();
            let tombstone = |id: &VersionId| versions[id].version.kind == Kind::Tombstone;
            let quiet = |id: &&VersionId| !(entry.deleted() && tombstone(id) && **id != entry.version.id);
            let counts = |id: &&VersionId| self.writes[*id].acknowledged || shown.contains(id);
            let expected = heads.iter().filter(quiet).filter(counts).copied().collect::<BTreeSet<_>>();
            let newest = heads.iter().max_by_key(|id| {
                let version = &versions[id].version;
                (version.dot.updated_at, version.dot.device, version.id)
            });
            promise!(
                newest == Some(&entry.version.id),
                "device {device} shows {} of {} and {newest:?} is newest",
                entry.version.id,
                entry.id()
            );
            let replaced = self.writes.values().filter(|write| write.acknowledged && !write.excused);
            let replaced = replaced.flat_map(|write| &write.ancestors).find(|id| shown.contains(id));
            promise!(replaced.is_none(), "device {device} shows {replaced:?} again, which was replaced");
            promise!(
                shown == expected,
                "device {device} shows {shown:?} of {} and not {expected:?}",
                entry.id()
            );
            // Whether an old deletion is still listed depends on what is here of it; that it is one does not.
            if !self.long || !entry.deleted() || shown.len() > 1 {
                states.insert(entry.id(), State { current: entry.version.id, shown });
            }
        }
        Ok(states)
    }

    /// A sync with nothing to do asks once and changes nothing. Before that everybody may read that the others have read
    /// what there was.
    fn idle(&mut self) -> Result<(), Broken> {
        for _ in 0..2 {
            for device in self.alive() {
                let report = self.sync_for_good(device, false)?;
                promise!(report.is_idle(), "a third sync of device {device} did {report:?}");
                self.replicate_all();
            }
        }
        let waits = self.excused() > 0;
        for device in self.alive() {
            let mirror = self.mirrors[self.devices[device].mirror].files();
            let disk = self.devices[device].host.disk.look(quiet_files);
            let report = self.sync_for_good(device, false)?;
            let once = report.requests == 1 || waits || report.pending > 0;
            promise!(report.is_idle() && once, "an idle sync of device {device} did {report:?}");
            promise!(
                self.mirrors[self.devices[device].mirror].files() == mirror,
                "an idle sync changed the mirror"
            );
            let after = self.devices[device].host.disk.look(quiet_files);
            let changed = after.iter().find(|(name, bytes)| disk.get(*name) != Some(bytes));
            let changed = changed.map(|(name, _)| name);
            promise!(after == disk || waits, "an idle sync changed {changed:?} on device {device}");
        }
        Ok(())
    }

    /// A new device, with a secret that opens the vault as the others know it.
    fn make_from_mirror(&mut self, mirror: usize) -> Result<Result<SimVault, vault::Error>, Broken> {
        let last = self.compare_keys()?;
        let given = secret(self.chance.pick(&self.keys.opening(&last)).expect("something opens it"));
        let introduction = now(sync::introduce(&self.mirrors[mirror]))?;
        let device = self.devices.len();
        self.add_device(SimDisk::default(), mirror);
        let host = self.devices[device].host.clone();
        Ok(vault::create_from_mirror(host, introduction.vault, &introduction.key_files, &given, "new"))
    }

    /// Whoever comes with nothing but the key sees everything; the mirror saw no word of it.
    fn newcomer(&mut self) -> Result<(), Broken> {
        let mirror = self.devices[self.alive()[0]].mirror;
        let mut made = self.make_from_mirror(mirror)?;
        if matches!(&made, Err(vault::Error::Key { error: KeyFileError::WrongSecret, .. })) {
            // Whoever set another secret was gone before it was told. The daily look finds it.
            self.devices.pop();
            self.time.set(self.time.get() + 2 * DAY_MS);
            for device in self.alive() {
                self.sync_for_good(device, false)?;
                self.replicate_all();
            }
            made = self.make_from_mirror(mirror)?;
        }
        let device = self.devices.len() - 1;
        made?.set_remote(&settings(&format!("mirror {mirror}")))?;
        self.sync_for_good(device, false)?;
        self.compare().map_err(|Broken(why)| Broken(format!("newcomer: {why}")))?;
        if self.compare_keys().is_err() {
            // Beside what is announced lay a key file of a making that was interrupted: now the others are told of it.
            for other in self.alive() {
                self.replicate_all();
                self.sync_for_good(other, false)?;
            }
            self.replicate_all();
        }
        self.compare_keys().map_err(|Broken(why)| Broken(format!("newcomer: {why}")))?;
        let mut salts = BTreeMap::new();
        for mirror in &self.mirrors {
            for (name, bytes) in mirror.files() {
                promise!(!contains(&bytes, CANARY.as_bytes()), "{name} on the mirror holds plain text");
                promise!(!contains(name.as_bytes(), CANARY.as_bytes()), "{name} is plain text");
                // A key file is not sealed as a whole, and what is carried over in it keeps its salt.
                if name.starts_with("keys/") || !is_intact(&name, &bytes) {
                    continue;
                }
                for object in sealed_files(&bytes) {
                    let salt = object.get(..60).unwrap_or_default().to_vec();
                    let other = salts.insert(salt, object_name(object));
                    promise!(other.is_none_or(|other| other == object_name(object)), "a salt was used twice");
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    current: VersionId,
    shown: BTreeSet<VersionId>,
}

/// The objects a version needs: its own and its attachments' parts.
fn objects_of(vault: &mut SimVault, version: VersionId) -> Result<BTreeSet<ObjectName>, vault::Error> {
    let manifest = vault.manifest()?;
    let Some(state) = manifest.version(version) else { return Ok(BTreeSet::new()) };
    let parts = state.summary.iter().flat_map(|summary| summary.parts.iter().copied());
    let readable = |name: &&ObjectName| manifest.object(name).is_some_and(|object| object.row.schema <= 2);
    Ok(state.objects.iter().filter(readable).copied().chain(parts).collect())
}

fn intact_on_disk(image: &Image) -> BTreeSet<ObjectName> {
    let objects = image.files().filter(|(name, _)| name.starts_with("objects/"));
    let intact = objects.filter(|(name, bytes)| name.ends_with(&object_name(bytes).to_string()));
    intact.map(|(_, bytes)| object_name(bytes)).collect()
}

fn intact_on_mirror(files: &BTreeMap<String, Bytes>) -> BTreeSet<ObjectName> {
    let objects = files.iter().filter(|(name, _)| name.starts_with("objects/"));
    let intact = objects.filter(|(name, bytes)| name.ends_with(&object_name(bytes).to_string()));
    intact.flat_map(|(_, bytes)| sealed_files(bytes)).map(object_name).collect()
}

/// The objects an intact feed segment names.
fn announced_in(name: &str, bytes: &[u8]) -> Vec<ObjectName> {
    let segment = segment(name, bytes);
    let announcements = segment.iter().flat_map(|segment| &segment.announcements);
    announcements.flat_map(|(it, _)| &it.rows).map(|(row, _)| row.object).collect()
}

/// The deletions an intact feed segment tells of.
fn buried_in(name: &str, bytes: &[u8]) -> Vec<VersionId> {
    let segment = segment(name, bytes);
    let announcements = segment.iter().flat_map(|segment| &segment.announcements);
    announcements.flat_map(|(it, _)| &it.notices.buried).map(|version| version.id).collect()
}

/// Whether a file on the mirror is what its name says.
fn is_intact(name: &str, bytes: &[u8]) -> bool {
    let segment = name.split('/').nth(1).and_then(SegmentName::parse);
    is_intact_key(name, bytes)
        || name.ends_with(&object_name(bytes).to_string())
        || segment.is_some_and(|segment| segment.matches(bytes))
}

/// The sealed objects in a file: itself, or what is in the pack.
fn sealed_files(bytes: &[u8]) -> Vec<&[u8]> {
    match pack::read(bytes) {
        Ok(objects) => objects.into_iter().map(|(_, bytes)| bytes).collect(),
        Err(_) => vec![bytes],
    }
}

/// What of a disk must not change when nothing happens.
fn quiet_files(image: &Image) -> BTreeMap<String, Vec<u8>> {
    let quiet = |name: &str| name != "local/status" && name != "local/sync";
    let files = image.files().filter(|(name, _)| quiet(name));
    files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect()
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let beginnings = bytes.iter().enumerate().filter(|(_, byte)| **byte == needle[0]);
    beginnings.map(|(at, _)| at).any(|at| bytes[at..].starts_with(needle))
}
