//! What the crash tests interrupt: one operation after another on a vault small enough to be looked at whole.
//!
//! Long, because it is a list: each operation is a few lines, and none knows of another.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use espejo::crypto::object_name;
use espejo::entry::{Attachment, Body};
use espejo::event::Finding;
use espejo::format::object::open_version;
use espejo::format::{FileType, open_sealed, seal_file};
use espejo::id::{DeviceId, EntryId, VersionId};
use espejo::manifest::Record;
use espejo::remote::{
    ByteRange, Listing, MemoryRemote, Receipt, Remote, RemoteError, RemotePath, Sink, Traffic,
};
use espejo::sync::{self, Options, Report};
use espejo::vault::{self, Change, Edit, Locked, Saved};
use espejo::version::MadeOn;
use serde_json::json;
use zeroize::Zeroizing;

use crate::chance::Chance;
use crate::disk::{Image, SimDisk, Unsynced};
use crate::host::{SimClock, SimEntropy, SimHost};
use crate::net::now;
use crate::promise::Broken;
use crate::vaults::{
    RECOVERY, START_MS, Secrets, SimVault, content, make_vault, open, secret, seeds, set_files, settings,
};

pub const TARGET: &str = "mirror";
const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1_000;

pub type Files = Rc<BTreeMap<String, Bytes>>;

/// Title, body and attachment of a version; of a tombstone, nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub text: Option<String>,
    pub attached: Option<Vec<u8>>,
}

/// What a person was told.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// There is a vault.
    pub vault: bool,
    pub versions: BTreeMap<VersionId, Words>,
    pub target: Option<String>,
    pub device: Option<DeviceId>,
    /// All of these open it.
    pub secrets: Vec<[u8; 32]>,
}

/// How things stood at one moment at which a machine may stop.
pub struct Moment {
    pub disk: Image,
    pub mirror: Files,
    pub known: Known,
    /// Equal for moments that differ in the disk alone.
    pub stage: (usize, usize),
}

/// What happened, and after how many steps of the disk.
#[derive(Default)]
struct Log {
    told: Vec<(usize, Known)>,
    mirror: Vec<(usize, Files)>,
}

/// A machine, a mirror, and what is known of them.
pub struct Stage {
    pub host: SimHost,
    pub mirror: MemoryRemote,
    pub known: Known,
    /// What other devices wrote.
    pub elsewhere: BTreeMap<VersionId, Words>,
    /// Versions whose object was damaged.
    pub harmed: BTreeSet<VersionId>,
    /// The device this vault was copied from.
    pub former: Option<DeviceId>,
    /// What opens it when other devices' changes have come.
    secrets_elsewhere: Vec<[u8; 32]>,
    /// Everything that was ever set, here or elsewhere.
    secrets: Secrets,
    log: Rc<RefCell<Log>>,
}

impl Stage {
    pub fn new() -> Self {
        Self::with_mirror(MemoryRemote::new(), 1)
    }

    fn with_mirror(mirror: MemoryRemote, seed: u64) -> Self {
        let clock = SimClock { world: Rc::new(Cell::new(START_MS)), offset: Rc::default() };
        let host = SimHost { disk: SimDisk::default(), clock, entropy: SimEntropy(Chance::new(seed)) };
        Self {
            host,
            mirror,
            known: Known::default(),
            elsewhere: BTreeMap::new(),
            harmed: BTreeSet::new(),
            former: None,
            secrets_elsewhere: Vec::new(),
            secrets: Rc::new(RefCell::new(vec![RECOVERY])),
            log: Rc::default(),
        }
    }

    /// Everything that was written has reached the disk.
    pub fn rest(&self) {
        let disk = &self.host.disk;
        disk.set_image(disk.image().after_power_cut(|_| true, |_| Unsynced::Kept));
    }

    /// Begins to note how things stand after every step of the disk and every change of the mirror.
    pub fn record(&self) {
        let log = Log { told: Vec::new(), mirror: vec![(0, Rc::new(self.mirror.files()))] };
        *self.log.borrow_mut() = log;
        self.host.disk.record();
        self.tell();
    }

    /// A person was told what is known.
    fn tell(&self) {
        let mut log = self.log.borrow_mut();
        if !log.mirror.is_empty() {
            log.told.push((self.host.disk.recorded(), self.known.clone()));
        }
    }

    /// Every moment since `record`, when the disk was like `start`.
    pub fn take_moments(&self, start: Image) -> Vec<Moment> {
        let log = self.log.take();
        let mut moments = Vec::new();
        for (step, disk) in std::iter::once(start).chain(self.host.disk.take_recorded()).enumerate() {
            let told = log.told.partition_point(|(at, _)| *at <= step) - 1;
            let before = log.mirror.partition_point(|(at, _)| *at < step).saturating_sub(1);
            let after = log.mirror.partition_point(|(at, _)| *at <= step);
            for (mirror, (_, files)) in log.mirror.iter().enumerate().take(after).skip(before) {
                let (disk, known) = (disk.clone(), log.told[told].1.clone());
                moments.push(Moment { disk, mirror: Rc::clone(files), known, stage: (told, mirror) });
            }
        }
        moments
    }

    pub fn make(&mut self) -> Result<(), vault::Error> {
        let vault = make_vault(self.host.clone(), "this")?;
        (self.known.vault, self.known.device) = (true, Some(vault.device().id));
        self.known.secrets = vec![RECOVERY];
        self.tell();
        Ok(())
    }

    /// As a command opens it.
    pub fn open(&self) -> Result<SimVault, vault::Error> {
        let mut vault = open(self.host.clone(), &self.secrets)?;
        if vault.has_arrivals() {
            // What cannot be taken in now waits for the next time.
            let _ = now(sync::take_in(&mut vault, &mut Vec::<Finding>::new()));
        }
        Ok(vault)
    }

    pub fn save(&mut self, vault: &mut SimVault, edits: &[Edit]) -> Result<Vec<Saved>, vault::Error> {
        let mut words = Vec::new();
        for edit in edits {
            let Change::Content(content) = &edit.change else {
                words.push(Words { text: None, attached: None });
                continue;
            };
            let attached = content.attachments.first();
            let attached =
                attached.map(|attachment| vault.blob_bytes(&attachment.blob, 1 << 20)).transpose()?;
            words.push(Words { text: Some(content.title.clone()), attached });
        }
        let saved = vault.save(edits)?;
        self.known.versions.extend(saved.iter().map(|saved| saved.version).zip(words));
        self.tell();
        Ok(saved)
    }

    fn edit(&mut self, entry: Option<EntryId>, made_on: MadeOn, text: &str) -> Result<Saved, vault::Error> {
        let edit = edit(entry, made_on, text);
        let mut vault = self.open()?;
        Ok(self.save(&mut vault, &[edit])?.remove(0))
    }

    fn add(&mut self, text: &str) -> Result<Saved, vault::Error> {
        self.edit(None, MadeOn::Everything, text)
    }

    fn add_attached(&mut self, text: &str, len: usize) -> Result<Saved, vault::Error> {
        let mut vault = self.open()?;
        let bytes = text.bytes().cycle().take(len).collect::<Vec<_>>();
        let blob = vault.store_blob(&mut &bytes[..])?;
        let mut edit = edit(None, MadeOn::Everything, text);
        if let Change::Content(content) = &mut edit.change {
            let media_type = "application/octet-stream".to_owned();
            content.attachments.push(Attachment { name: "file.bin".to_owned(), media_type, blob });
        }
        Ok(self.save(&mut vault, &[edit])?.remove(0))
    }

    fn change_secret(&mut self, secret: u8) -> Result<(), vault::Error> {
        let mut vault = self.open()?;
        let secret = [secret; 32];
        self.secrets.borrow_mut().push(secret);
        vault.change_recovery(&Zeroizing::new(secret))?;
        self.known.secrets = vec![secret];
        self.tell();
        Ok(())
    }

    /// Whether each of these opens the vault.
    pub fn opens_with(&self, secrets: &[[u8; 32]]) -> bool {
        let opens = |given| Locked::find(self.host.clone())?.unlock(&secret(given));
        secrets.iter().all(|given| opens(given).is_ok())
    }

    /// The entry written last, and what it shows.
    fn newest(&self) -> Result<(EntryId, VersionId), vault::Error> {
        let entries = self.open()?.entries()?;
        let newest = entries.first().expect("something was written before");
        Ok((newest.id(), newest.version.id))
    }

    fn set_remote(&mut self, target: &str) -> Result<(), vault::Error> {
        let mut vault = self.open()?;
        vault.set_remote(&settings(target))?;
        // On another mirror it is another device.
        self.known.device = Some(vault.device().id);
        self.known.target = Some(target.to_owned());
        self.tell();
        Ok(())
    }

    pub fn sync(&mut self) -> Result<Report, sync::Error> {
        let mut vault = self.open()?;
        let remote =
            Watched { mirror: self.mirror.share(), disk: self.host.disk.clone(), log: Rc::clone(&self.log) };
        let mut findings = Vec::<Finding>::new();
        let report = now(sync::sync(&mut vault, &remote, Options::default(), &mut findings))?;
        if report.is_settled() {
            self.known.versions.extend(self.elsewhere.clone());
            if !self.secrets_elsewhere.is_empty() {
                self.known.secrets = self.secrets_elsewhere.clone();
            }
            self.tell();
        }
        Ok(report)
    }

    /// What a service does that has not got the password.
    fn sync_locked(&mut self) -> Result<Report, sync::Error> {
        let mut vault = Locked::find(self.host.clone())?.unattended()?;
        let remote =
            Watched { mirror: self.mirror.share(), disk: self.host.disk.clone(), log: Rc::clone(&self.log) };
        let report = now(sync::sync_locked(&mut vault, &remote, &mut Vec::<Finding>::new()))?;
        if report.is_settled() {
            // It is read when the vault is opened.
            self.known.versions.extend(self.elsewhere.clone());
            self.tell();
        }
        Ok(report)
    }

    /// Another device with the same mirror.
    pub fn peer(&self) -> Result<Self, Broken> {
        let mut peer = Self::with_mirror(self.mirror.share(), 2);
        peer.host.clock = self.host.clock.clone();
        peer.secrets = Rc::clone(&self.secrets);
        peer.join()?;
        peer.set_remote(TARGET)?;
        peer.sync()?;
        Ok(peer)
    }

    /// A vault for what is on the mirror, opened by the newest secret that opens it.
    fn join(&mut self) -> Result<(), Broken> {
        let Ok(said) = now(sync::introduce(&self.mirror)) else { return Ok(self.make()?) };
        let secrets = self.secrets.borrow().clone();
        let joined = secrets.iter().rev().find_map(|given| {
            let host = self.host.clone();
            vault::create_from_mirror(host, said.vault, &said.key_files, &secret(given), "this").ok()
        });
        let device = joined.map(|vault| vault.device().id);
        promise!(device.is_some(), "nothing that was ever set opens what is on the mirror");
        (self.known.vault, self.known.device) = (true, device);
        self.tell();
        Ok(())
    }

    fn rekey(&mut self, new: u8) -> Result<(), vault::Error> {
        let mut vault = self.open()?;
        let new = [new; 32];
        self.secrets.borrow_mut().push(new);
        vault.rekey(&[secret(&new)], espejo::crypto::MIN_WRITTEN_ITERATIONS)?;
        self.known.secrets = vec![new];
        self.tell();
        Ok(())
    }

    /// One bit of the object of `version` flips.
    fn rot(&mut self, version: VersionId) {
        let objects = self.open().and_then(|mut vault| {
            Ok(vault.manifest()?.version(version).expect("it was just saved").objects.clone())
        });
        let object = objects.expect("nothing is wrong").first().expect("a version has an object").to_string();
        self.flip(&format!("objects/{}/{object}", &object[..2]));
        self.harmed.insert(version);
    }

    fn flip(&self, name: &str) {
        let bytes = self.read_raw(name).map(|mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        });
        self.host.disk.tamper(name, Some(bytes.expect("the file is there")));
    }

    fn read_raw(&self, name: &str) -> Option<Vec<u8>> {
        let image = self.host.disk.image();
        image.files().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.to_vec())
    }
}

pub fn edit(entry: Option<EntryId>, made_on: MadeOn, text: &str) -> Edit {
    Edit { entry, made_on, change: Change::Content(content(text, START_MS)) }
}

/// A way to the mirror that notes each change there.
struct Watched {
    mirror: MemoryRemote,
    disk: SimDisk,
    log: Rc<RefCell<Log>>,
}

impl Watched {
    fn note(&self) {
        let mut log = self.log.borrow_mut();
        if !log.mirror.is_empty() {
            log.mirror.push((self.disk.recorded(), Rc::new(self.mirror.files())));
        }
    }
}

impl Remote for Watched {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.mirror.list(dir).await
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        part: Option<ByteRange>,
        max: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.mirror.get_in_pieces(file, part, max, sink).await
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        let receipt = self.mirror.put(file, bytes).await;
        self.note();
        receipt
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.mirror.size(file).await
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        let deleted = self.mirror.delete(file).await;
        self.note();
        deleted
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.mirror.make_dir(dir).await
    }

    fn traffic(&self) -> Traffic {
        self.mirror.traffic()
    }
}

type Done = Result<(), Broken>;

/// One operation to interrupt, and what was there before it.
pub struct Script {
    pub name: &'static str,
    prepare: fn(&mut Stage) -> Done,
    act: fn(&mut Stage) -> Done,
    /// It saves, and saves nothing at all if it fails.
    pub saves: bool,
}

const fn script(name: &'static str, prepare: fn(&mut Stage) -> Done, act: fn(&mut Stage) -> Done) -> Script {
    Script { name, prepare, act, saves: false }
}

const fn saving(name: &'static str, prepare: fn(&mut Stage) -> Done, act: fn(&mut Stage) -> Done) -> Script {
    Script { name, prepare, act, saves: true }
}

/// A vault with two entries.
fn vault(stage: &mut Stage) -> Done {
    stage.make()?;
    for text in ["one", "two"] {
        stage.add(text)?;
    }
    Ok(())
}

/// The same, with a mirror that has everything.
fn mirrored(stage: &mut Stage) -> Done {
    vault(stage)?;
    stage.set_remote(TARGET)?;
    stage.sync()?;
    Ok(())
}

/// The same, and another device has edited and added meanwhile.
fn behind(stage: &mut Stage) -> Done {
    mirrored(stage)?;
    let mut peer = stage.peer()?;
    let (entry, version) = peer.newest()?;
    peer.edit(Some(entry), MadeOn::Version(version), "edited elsewhere")?;
    peer.add_attached("added elsewhere", 700)?;
    peer.add("also added elsewhere")?;
    peer.sync()?;
    stage.elsewhere = peer.known.versions;
    Ok(())
}

/// The same, and this device has written too.
fn diverged(stage: &mut Stage) -> Done {
    behind(stage)?;
    let (entry, version) = stage.newest()?;
    stage.edit(Some(entry), MadeOn::Version(version), "edited here")?;
    stage.add_attached("added here", 700)?;
    Ok(())
}

/// The same, and the vault may be mirrored while it is locked.
fn unattended(stage: &mut Stage) -> Done {
    diverged(stage)?;
    stage.open()?.set_unattended(true)?;
    Ok(())
}

/// The same, and what the others wrote was fetched while the vault was locked.
fn arrived(stage: &mut Stage) -> Done {
    unattended(stage)?;
    stage.sync_locked()?;
    // On a full disk it is not listed.
    stage.known.versions.retain(|version, _| !stage.elsewhere.contains_key(version));
    Ok(())
}

/// An entry with two versions of which neither knew the other.
fn conflict(stage: &mut Stage) -> Done {
    mirrored(stage)?;
    let (entry, version) = stage.newest()?;
    stage.edit(Some(entry), MadeOn::Version(version), "this way")?;
    stage.edit(Some(entry), MadeOn::Version(version), "that way")?;
    Ok(())
}

/// A mirrored vault of which an object has rotted.
fn rotten(stage: &mut Stage) -> Done {
    mirrored(stage)?;
    let version = stage.add("rots")?.version;
    stage.sync()?;
    stage.rot(version);
    Ok(())
}

/// A mirrored vault, and another device has changed what opens it.
fn changed_elsewhere(stage: &mut Stage) -> Done {
    mirrored(stage)?;
    let mut peer = stage.peer()?;
    peer.change_secret(21)?;
    peer.sync()?;
    stage.secrets_elsewhere = vec![[21; 32]];
    Ok(())
}

/// A vault whose two entries an older program wrote, in the first schema.
fn old(stage: &mut Stage) -> Done {
    vault(stage)?;
    let image = stage.host.disk.image();
    let disk = &stage.host.disk;
    for (path, file) in image.files().filter(|(path, _)| path.starts_with("objects/")) {
        let first = in_first_schema(file, &stage.host.entropy);
        let name = object_name(&first).to_string();
        disk.tamper(path, None);
        disk.tamper(&format!("objects/{}/{name}", &name[..2]), Some(first));
    }
    // It knows of none of them: it is made anew.
    disk.tamper("local/manifest", None);
    open_and_list(stage)
}

/// The same version, as an older program would have sealed it.
fn in_first_schema(file: &[u8], entropy: &SimEntropy) -> Vec<u8> {
    let keyring = &seeds().keyring;
    let (_, inner) = open_sealed(keyring, FileType::Version, file).expect("it is intact");
    let json = inner.windows(2).position(|two| two == b"{\"").expect("it is live");
    let content = open_version(keyring, file).expect("it is intact").content.expect("it is live");
    let Body::Text(body) = &content.body else { panic!("it is a text") };
    let (title, tags, created) = (&content.title, &content.tags, content.created);
    let first = json!({ "title": title, "body": body, "tags": tags, "created": created, "updated": created });
    let inner = [&inner[..json], first.to_string().as_bytes()].concat();
    seal_file(keyring, FileType::Version, 1, &inner, entropy).expect("chance does not run out")
}

fn migrate(stage: &mut Stage) -> Done {
    let mut vault = stage.open()?;
    let outdated = vault.outdated()?;
    vault.migrate(&outdated)?;
    Ok(())
}

fn open_and_list(stage: &mut Stage) -> Done {
    stage.open()?.entries()?;
    Ok(())
}

pub const SCRIPTS: &[Script] = &[
    script("make", |_| Ok(()), |stage| Ok(stage.make()?)),
    saving("add", vault, |stage| Ok(stage.add("three").map(drop)?)),
    saving("add, mirrored", mirrored, |stage| Ok(stage.add("three").map(drop)?)),
    saving("add ten", vault, |stage| {
        let edits = (0..10).map(|n| edit(None, MadeOn::Everything, &format!("of ten, {n}")));
        let mut vault = stage.open()?;
        stage.save(&mut vault, &edits.collect::<Vec<_>>())?;
        Ok(())
    }),
    saving("add with attachment", mirrored, |stage| Ok(stage.add_attached("attached", 9_000).map(drop)?)),
    saving("edit", mirrored, |stage| {
        let (entry, version) = stage.newest()?;
        stage.edit(Some(entry), MadeOn::Version(version), "edited")?;
        Ok(())
    }),
    saving(
        "edit of what was written in the far future",
        |stage| {
            mirrored(stage)?;
            stage.host.clock.world.set(START_MS + 10 * YEAR_MS);
            let (entry, version) = stage.newest()?;
            stage.edit(Some(entry), MadeOn::Version(version), "from the future")?;
            stage.host.clock.world.set(START_MS + 1);
            Ok(())
        },
        |stage| {
            let (entry, version) = stage.newest()?;
            stage.edit(Some(entry), MadeOn::Version(version), "edited")?;
            Ok(())
        },
    ),
    saving("delete", mirrored, |stage| {
        let (entry, version) = stage.newest()?;
        let (entry, made_on) = (Some(entry), MadeOn::Version(version));
        let mut vault = stage.open()?;
        stage.save(&mut vault, &[Edit { entry, made_on, change: Change::Delete }])?;
        Ok(())
    }),
    saving("settle a conflict", conflict, |stage| {
        let (entry, _) = stage.newest()?;
        stage.edit(Some(entry), MadeOn::Everything, "settled")?;
        Ok(())
    }),
    script(
        "first sync",
        |stage| {
            vault(stage)?;
            stage.add_attached("attached", 700)?;
            stage.set_remote(TARGET)?;
            Ok(())
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script(
        "sync of a pack",
        |stage| {
            mirrored(stage)?;
            let edits = (0..10).map(|n| edit(None, MadeOn::Everything, &format!("of ten, {n}")));
            let mut vault = stage.open()?;
            stage.save(&mut vault, &edits.collect::<Vec<_>>())?;
            Ok(())
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script("sync that pulls", behind, |stage| Ok(stage.sync().map(drop)?)),
    script("sync both ways", diverged, |stage| Ok(stage.sync().map(drop)?)),
    script("allow mirroring of the locked vault", diverged, |stage| {
        Ok(stage.open()?.set_unattended(true)?)
    }),
    saving("add where the locked vault is mirrored", unattended, |stage| {
        stage.add("three")?;
        Ok(())
    }),
    script("locked sync both ways", unattended, |stage| Ok(stage.sync_locked().map(drop)?)),
    script("take in what came to the locked vault", arrived, |stage| {
        if !stage.open()?.has_arrivals() {
            stage.known.versions.extend(stage.elsewhere.clone());
            stage.tell();
        }
        Ok(())
    }),
    script("sync after a locked one", arrived, |stage| Ok(stage.sync().map(drop)?)),
    script(
        "clone",
        |stage| {
            let mut peer = stage.peer()?;
            peer.add("one")?;
            peer.add_attached("attached", 700)?;
            peer.sync()?;
            stage.elsewhere = peer.known.versions;
            stage.make()?;
            stage.set_remote(TARGET)?;
            Ok(())
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script(
        "sync that heals",
        |stage| {
            rotten(stage)?;
            stage.open()?.check()?;
            Ok(())
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script("set a mirror", vault, |stage| Ok(stage.set_remote(TARGET)?)),
    script("set another mirror", mirrored, |stage| Ok(stage.set_remote("elsewhere")?)),
    script("forget the mirror", mirrored, |stage| {
        let mut vault = stage.open()?;
        vault.forget_remote()?;
        stage.known.device = Some(vault.device().id);
        stage.known.target = None;
        stage.tell();
        Ok(())
    }),
    script(
        "open a copy",
        |stage| {
            mirrored(stage)?;
            stage.host.disk.reborn();
            stage.former = stage.known.device.take();
            Ok(())
        },
        open_and_list,
    ),
    script("take a new identity", mirrored, |stage| {
        let mut vault = stage.open()?;
        vault.take_new_identity()?;
        stage.known.device = Some(vault.device().id);
        stage.tell();
        Ok(())
    }),
    script(
        "rebuild a cut index",
        |stage| {
            mirrored(stage)?;
            let mut index = stage.read_raw("local/manifest").expect("a vault has an index");
            index.truncate(index.len() - 10);
            stage.host.disk.tamper("local/manifest", Some(index));
            Ok(())
        },
        open_and_list,
    ),
    script(
        "rebuild a lost index",
        |stage| {
            mirrored(stage)?;
            stage.host.disk.tamper("local/manifest", None);
            Ok(())
        },
        open_and_list,
    ),
    script("migrate", old, migrate),
    script(
        "sync of what was migrated",
        |stage| {
            old(stage)?;
            stage.set_remote(TARGET)?;
            stage.sync()?;
            migrate(stage)
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script("check what has rotted", rotten, |stage| Ok(stage.open()?.check().map(drop)?)),
    saving(
        "write the index anew",
        |stage| {
            vault(stage)?;
            // As many frames as the index bears.
            let mut vault = stage.open()?;
            (0..253).try_for_each(|_| vault.record(&[Record::NewMirror]))?;
            Ok(())
        },
        |stage| {
            let (entry, version) = stage.newest()?;
            stage.edit(Some(entry), MadeOn::Version(version), "edited")?;
            Ok(())
        },
    ),
    script("change what opens it", vault, |stage| Ok(stage.change_secret(22)?)),
    script("rekey", mirrored, |stage| Ok(stage.rekey(22)?)),
    script(
        "sync after a rekey",
        |stage| {
            diverged(stage)?;
            stage.sync()?;
            stage.rekey(22)?;
            stage.add("under the new key")?;
            Ok(())
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script(
        "change what opens it again, beside what joined it",
        |stage| {
            changed_elsewhere(stage)?;
            stage.change_secret(22)?;
            stage.secrets_elsewhere.push([22; 32]);
            stage.sync()?;
            stage.secrets_elsewhere.clear();
            Ok(())
        },
        |stage| Ok(stage.change_secret(23)?),
    ),
    script(
        "sync of a change of what opens it",
        |stage| {
            mirrored(stage)?;
            Ok(stage.change_secret(22)?)
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script("sync that brings a change of what opens it", changed_elsewhere, |stage| {
        Ok(stage.sync().map(drop)?)
    }),
    script(
        "sync of two changes at once",
        |stage| {
            changed_elsewhere(stage)?;
            stage.change_secret(22)?;
            stage.secrets_elsewhere.push([22; 32]);
            Ok(())
        },
        |stage| Ok(stage.sync().map(drop)?),
    ),
    script(
        "restore the key file",
        |stage| {
            mirrored(stage)?;
            let key = stage.open()?.key_files()?.remove(0).0;
            stage.flip(&format!("keys/{key}"));
            Ok(())
        },
        open_and_list,
    ),
    script(
        "restore the key's copy",
        |stage| {
            mirrored(stage)?;
            stage.host.disk.tamper("local/key", None);
            Ok(())
        },
        open_and_list,
    ),
    script(
        "restore the marker",
        |stage| {
            mirrored(stage)?;
            stage.flip("espejo.json");
            Ok(())
        },
        open_and_list,
    ),
];

/// A script, ready to be played as often as wanted: each time it falls the same way.
pub struct Play {
    pub stage: Stage,
    act: fn(&mut Stage) -> Done,
    disk: Image,
    mirror: Files,
    known: Known,
}

impl Play {
    pub fn new(script: &Script) -> Self {
        let mut stage = Stage::new();
        (script.prepare)(&mut stage).unwrap_or_else(|Broken(why)| panic!("{}: {why}", script.name));
        stage.rest();
        let (disk, mirror) = (stage.host.disk.image(), Rc::new(stage.mirror.files()));
        let known = stage.known.clone();
        Self { stage, act: script.act, disk, mirror, known }
    }

    /// As it was before.
    pub fn rewind(&mut self) {
        let (disk, mirror, known) = (self.disk.clone(), Rc::clone(&self.mirror), self.known.clone());
        self.stage.set(disk, &mirror, known, 3, START_MS + 1_000);
    }

    pub fn act(&mut self) -> Result<(), Broken> {
        (self.act)(&mut self.stage)
    }

    /// Every moment of it, and all that is known in the end.
    pub fn record(&mut self) -> (Vec<Moment>, Known) {
        self.rewind();
        self.stage.record();
        self.act().unwrap_or_else(|Broken(why)| panic!("nothing is wrong, and yet {why}"));
        (self.stage.take_moments(self.disk.clone()), self.stage.known.clone())
    }
}

impl Stage {
    /// Everything is like this from now on.
    pub fn set(&mut self, disk: Image, mirror: &Files, known: Known, seed: u64, now_ms: i64) {
        self.host.disk.set_image(disk);
        self.mirror = MemoryRemote::new();
        set_files(&self.mirror, mirror);
        self.known = known;
        self.host.entropy.0.restart(seed);
        self.host.clock.world.set(now_ms);
    }
}
