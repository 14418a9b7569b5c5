//! Devices, a mirror between them, and everything that happens to them, by one seed.
//!
//! Long, because one world has one state; what befalls it and what is expected of it are in files of their own.

mod harm;
mod oracle;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use espejo::entry::Attachment;
use espejo::event::Finding;
use espejo::history::Retention;
use espejo::id::{EntryId, ObjectName, VersionId};
use espejo::remote::{MemoryRemote, Retrying};
use espejo::sync::{self, Guard, Options, Report};
use espejo::vault::{self, Change, Edit, Locked};
use espejo::version::{Dot, Kind, MadeOn, Version};
use zeroize::Zeroizing;

use crate::chance::Chance;
use crate::disk::{Image, SimDisk, Trouble};
use crate::host::{SimClock, SimEntropy, SimHost};
use crate::keys::Keys;
use crate::net::{Fate, Net, SimRemote, now, step};
use crate::seen::intact_on_disk;
use crate::vaults::{START_MS, SimVault, content, make_vault, objects_of, open, settings};

pub const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
const YEAR_MS: i64 = 365 * DAY_MS;
const MAX_DEVICES: usize = 5;

/// How long history is kept here.
const KEEP: Retention = Retention { age_ms: 30 * DAY_MS, versions: 2 };
/// As few small files as make packs at all.
const KEEPING: Options = Options { retention: KEEP, small_files: 8, ..Options::DEFAULT };

/// Words that only ever stand in what a person wrote.
pub const CANARY: &str = "canary";

/// What a schedule is made of. Each has its own chance, so that leaving one out leaves the others as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Write,
    Sync,
    SyncLocked,
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
    /// It knows only what was noted for it, and calls nothing else stored.
    locked: bool,
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
    /// Its index was harmed.
    index_harmed: bool,
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
    /// Its device lost it, and with its index that it ever was.
    forgotten: bool,
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
    /// So much time passed, by some clock, that history goes.
    long: bool,
    pub findings: Vec<Finding>,
    pub errors: BTreeMap<String, u64>,
    /// What was opened and said what was written.
    read: BTreeSet<VersionId>,
    /// The vaults are mirrored while they are locked too.
    unattended: bool,
}

impl World {
    pub fn new(
        seed: u64,
        trouble: usize,
        fates: Vec<Fate>,
        devices: usize,
        replicated: bool,
        unattended: bool,
    ) -> Self {
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
            unattended,
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
            index_harmed: false,
            sent: BTreeSet::new(),
        });
    }

    fn make_vault(&mut self, device: usize) {
        let made = make_vault(self.devices[device].host.clone(), &format!("device {device}"));
        let mut vault = made.expect("an empty disk takes a vault");
        let settings = settings(&format!("mirror {}", self.devices[device].mirror));
        vault.set_remote(&settings).expect("a new disk takes settings");
        if self.unattended {
            vault.set_unattended(true).expect("a new disk takes keys");
        }
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
            Act::SyncLocked => self.begin_locked(device),
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
                self.long = true;
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
            let mut findings = Vec::new();
            let taken = match vault.has_arrivals() {
                true => now(sync::take_in(&mut vault, &mut findings)).map(|_| ()),
                false => Ok(()),
            };
            let result = run(&mut vault);
            findings.extend(vault.take_findings());
            (result, findings, taken)
        });
        let result = result.map(|(result, findings, taken)| {
            if let Err(error) = taken {
                self.note_error(device, &error.to_string());
            }
            (result, findings)
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
                forgotten: false,
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
        // Nobody was promised anything: what was harmed before it was known here is not missed.
        let excused = !objects.is_subset(&self.there());
        let write = Write {
            entry: version.entry,
            at: self.time.get(),
            dot: version.dot,
            ancestors,
            text,
            objects,
            stored: false,
            excused,
            forgotten: false,
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
        let options = Options { full, reseed, accept_deletes, ..KEEPING };
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
        Job { work: Box::pin(work), before, looks_for, locked: false }
    }

    /// What a service does that has not got the password.
    fn begin_locked(&mut self, device: usize) {
        if self.devices[device].job.is_some() {
            return;
        }
        let host = self.devices[device].host.clone();
        let mirror = self.mirrors[self.devices[device].mirror].share();
        let remote = SimRemote::new(device, mirror, Rc::clone(&self.net));
        let work = async move {
            let mut findings = Vec::new();
            let result = match Locked::find(host.clone()).and_then(Locked::unattended) {
                Ok(mut vault) => {
                    let remote = Retrying::new(remote, host.clock.clone());
                    sync::sync_locked(&mut vault, &remote, &mut findings).await
                }
                Err(error) => Err(error.into()),
            };
            Some((result, findings))
        };
        let job = Job { work: Box::pin(work), before: BTreeSet::new(), looks_for: 0, locked: true };
        self.devices[device].job = Some(job);
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
            let locked = job.as_ref().is_some_and(|job| job.locked);
            let (before, looked) =
                job.map(|job| (job.before, job.looks_for == self.harms)).unwrap_or_default();
            for finding in &findings {
                self.say(|| format!("  {device}: {finding}"));
            }
            let healed = findings.iter().any(|finding| matches!(finding, Finding::MirrorHealed { .. }));
            self.findings.extend(findings);
            match &ended {
                Ok(report) if locked => self.say(|| format!("  {device}, locked: {report:?}")),
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
}
