//! One bit of every byte of every file: damage is noticed, wrong content is never returned, and the intact mirror
//! heals it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::cli::{files, temp_dir};
use crate::common::*;
use espejo::crypto::{Keyring, MIN_WRITTEN_ITERATIONS, object_name};
use espejo::entry::{Attachment, Content};
use espejo::event::{Damage, Finding};
use espejo::format::feed::{SegmentName, open_segment};
use espejo::format::keyfile::{KeyFile, KeyFileError, Secret};
use espejo::format::marker::{self, Marker};
use espejo::format::object::identify;
use espejo::format::{FileType, open_sealed};
use espejo::host::ThisMachine;
use espejo::remote::FolderRemote;
use espejo::sync::Options;
use espejo::vault::{self, Change, Edit, Locked, NewVault, RemoteSettings};
use espejo::version::MadeOn;
use zeroize::Zeroizing;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A vault and its mirror, as they were when everything was well. The recovery key opens it: that is cheap.
struct World {
    temp: tempfile::TempDir,
    recovery: Zeroizing<[u8; 32]>,
    vault: Files,
    mirror: Files,
    /// What there is to read, by what it is called.
    content: BTreeMap<String, Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let temp = temp_dir();
        let clock = TestClock::at(NOW);
        let new = NewVault {
            password: password(),
            recovery: true,
            device_name: "laptop".to_owned(),
            iterations: MIN_WRITTEN_ITERATIONS,
        };
        let host = ThisMachine::with_clock(temp.path().join("vault"), clock.clone());
        let created = vault::create(host, &new).unwrap();
        let (mut a, recovery) = (created.vault, created.recovery.unwrap());
        let mirror = FolderRemote::new(temp.path().join("mirror"));
        a.set_remote(&settings(temp.path())).unwrap();
        let entry = add(&mut a, "first");
        edit(&mut a, entry, "first, edited");
        let attachment = Attachment {
            name: "note.txt".to_owned(),
            media_type: "text/plain".to_owned(),
            blob: a.store_blob(&mut &b"what is attached"[..]).unwrap(),
        };
        let content = Content { attachments: vec![attachment], ..text("second", "with an attachment") };
        let change = Change::Content(content);
        a.save(&[Edit { entry: None, made_on: MadeOn::Everything, change }]).unwrap();
        let deleted = add(&mut a, "third");
        delete(&mut a, deleted);
        sync(&mut a, &mirror);
        let introduction = block_on(espejo::sync::introduce(&mirror)).unwrap();
        let host = ThisMachine::with_clock(temp.path().join("other"), clock.clone());
        let secret = Secret::Recovery(recovery.clone());
        let (id, key_files) = (introduction.vault, introduction.key_files);
        let mut b = vault::create_from_mirror(host, id, &key_files, &secret, "desktop").unwrap();
        b.set_remote(&settings(temp.path())).unwrap();
        sync(&mut b, &mirror);
        add(&mut b, "from the desktop");
        sync(&mut b, &mirror);
        sync(&mut a, &mirror);
        let content = read_all(&mut a).into_iter().map(|(name, read)| (name, read.unwrap())).collect();
        drop(a);
        let (vault, mirror) = (files(&temp.path().join("vault")), files(&temp.path().join("mirror")));
        Self { temp, recovery, vault, mirror, content }
    }

    fn path(&self, name: &Path) -> PathBuf {
        self.temp.path().join("vault").join(name)
    }

    fn remote(&self) -> FolderRemote {
        FolderRemote::new(self.temp.path().join("mirror"))
    }

    fn open(&self) -> Result<TestVault, vault::Error> {
        let host = ThisMachine::with_clock(self.temp.path().join("vault"), TestClock::at(NOW + 60_000));
        Locked::find(host)?.unlock(&Secret::Recovery(self.recovery.clone()))
    }

    /// Puts every file back as it was.
    fn restore(&self) {
        for (dir, before) in [("vault", &self.vault), ("mirror", &self.mirror)] {
            let dir = self.temp.path().join(dir);
            let now = files(&dir);
            now.keys().filter(|name| !before.contains_key(*name)).for_each(|name| {
                fs::remove_file(dir.join(name)).unwrap();
            });
            for (name, bytes) in before.iter().filter(|(name, bytes)| now.get(*name) != Some(bytes)) {
                fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
                fs::write(dir.join(name), bytes).unwrap();
            }
        }
    }

    fn flip(&self, name: &Path, position: usize) {
        fs::write(self.path(name), flipped(&self.vault[name], position)).unwrap();
    }

    /// The files of a kind.
    fn of(&self, kind: Kind) -> Vec<PathBuf> {
        self.vault.keys().filter(|name| Kind::of(name) == Some(kind)).cloned().collect()
    }

    /// Everything that can be read is what was written. True if something could not be read.
    fn is_incomplete(&self, vault: &mut TestVault, place: &str) -> bool {
        let read = read_all(vault);
        for (name, read) in &read {
            if let Ok(bytes) = read {
                assert_eq!(Some(bytes), self.content.get(name), "wrong content returned: {name}, {place}");
            }
        }
        read.values().any(Result::is_err) || read.len() < self.content.len()
    }

    /// Flips one bit, opens the vault, reads, syncs, reads again.
    fn try_one(&self, kind: Kind, name: &Path, position: usize) {
        let place = format!("{} byte {position}", name.display());
        self.restore();
        self.flip(name, position);
        let mut vault = match self.open() {
            Ok(vault) => vault,
            Err(vault::Error::Newer) if kind == Kind::Marker => {
                // The format number itself: it cannot be told from a later format, so nothing is touched. The
                // mirror's marker is the same file.
                fs::copy(self.temp.path().join("mirror/espejo.json"), self.path(name)).unwrap();
                assert!(!self.is_incomplete(&mut self.open().unwrap(), &place), "{place}");
                return;
            }
            Err(error) => panic!("{place}: {error}"),
        };
        let mut noticed = self.is_incomplete(&mut vault, &place);
        let mut findings = vault.take_findings();
        let (result, more) = try_sync(&mut vault, &self.remote(), Options::default());
        findings.extend(more);
        match result {
            Ok(_) => {}
            Err(espejo::sync::Error::Vault(vault::Error::StateDamaged { .. })) if kind == Kind::Remote => {
                noticed = true;
                vault.set_remote(&settings(self.temp.path())).unwrap();
                sync(&mut vault, &self.remote());
            }
            Err(error) => panic!("{place}: {error}"),
        }
        noticed |= findings.iter().any(|finding| match kind {
            Kind::Key | Kind::KeyCopy => *finding == Finding::KeyFileRestored,
            Kind::Marker => *finding == Finding::MarkerRestored,
            Kind::Manifest => matches!(finding, Finding::ManifestRebuilt { .. }),
            Kind::Device => *finding == Finding::IdentityLost,
            _ => false,
        });
        if kind == Kind::Object {
            let object = name.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let healed =
                |finding: &Finding| matches!(finding, Finding::Healed { object: it, .. } if *it == object);
            assert!(noticed && findings.iter().any(healed), "{place}: {findings:?}");
        }
        assert!(noticed || kind.is_cache(), "not noticed: {place}: {findings:?}");
        assert!(!self.is_incomplete(&mut vault, &place), "not healed: {place}: {findings:?}");
        if matches!(kind, Kind::Object | Kind::Key | Kind::KeyCopy | Kind::Marker) {
            assert_eq!(fs::read(self.path(name)).unwrap(), self.vault[name], "{place}");
        }
    }
}

fn settings(temp: &Path) -> RemoteSettings {
    let target = temp.join("mirror").to_str().unwrap().to_owned();
    RemoteSettings { target, user: None, password: None, ca_pem: None, initialised: false }
}

fn flipped(bytes: &[u8], position: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[position] ^= 1 << (position % 8);
    flipped
}

/// Every version's content and every attachment, as it can be read.
fn read_all(vault: &mut TestVault) -> BTreeMap<String, Result<Vec<u8>, vault::Error>> {
    let mut all = BTreeMap::new();
    for entry in vault.entries().unwrap() {
        for state in vault.history(entry.id()).unwrap() {
            let read = vault.content(state.version.id);
            if let Ok(Some(content)) = &read {
                for attachment in &content.attachments {
                    let bytes = vault.blob_bytes(&attachment.blob, 1 << 20);
                    all.insert(format!("{} of {}", attachment.name, state.version.id), bytes);
                }
            }
            let json = read.map(|content| serde_json::to_vec(&content).unwrap());
            all.insert(format!("version {}", state.version.id), json);
        }
    }
    all
}

/// A kind of file in a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Marker,
    Key,
    KeyCopy,
    Object,
    Feed,
    Manifest,
    Device,
    Remote,
    Sync,
}

impl Kind {
    fn of(name: &Path) -> Option<Self> {
        let name = name.to_str().unwrap();
        Some(match name {
            "espejo.json" => Self::Marker,
            "local/key" => Self::KeyCopy,
            "local/manifest" => Self::Manifest,
            "local/device" => Self::Device,
            "local/remote" => Self::Remote,
            "local/sync" => Self::Sync,
            _ if name.starts_with("keys/") => Self::Key,
            _ if name.starts_with("objects/") => Self::Object,
            _ if name.starts_with("local/feeds/") => Self::Feed,
            _ => return None,
        })
    }

    /// Whether losing it costs a second look at the mirror and nothing else.
    fn is_cache(self) -> bool {
        matches!(self, Self::Feed | Self::Sync)
    }

    /// Whether the reader of this kind of file refuses these bytes, which are not those that were written.
    fn refuses(self, keyring: &Keyring, name: &Path, bytes: &[u8]) -> bool {
        let file_name = name.file_name().unwrap().to_str().unwrap();
        match self {
            // By its name and, all by itself, by its seal.
            Self::Object => {
                object_name(bytes).to_string() != file_name && identify(keyring, bytes.to_vec()).is_err()
            }
            Self::Key | Self::KeyCopy => KeyFile::decode(bytes) == Err(KeyFileError::Damaged),
            Self::Feed => {
                let name = SegmentName::parse(file_name).unwrap();
                !name.matches(bytes) && open_segment(keyring, bytes).is_err()
            }
            Self::Device | Self::Remote | Self::Sync => open_sealed(keyring, FileType::State, bytes).is_err(),
            Self::Marker => marker::decode(bytes) != Ok(Marker::Vault(keyring.vault())),
            Self::Manifest => panic!("read only as a whole"),
        }
    }
}

const ALL: [Kind; 9] = [
    Kind::Marker,
    Kind::Key,
    Kind::KeyCopy,
    Kind::Object,
    Kind::Feed,
    Kind::Manifest,
    Kind::Device,
    Kind::Remote,
    Kind::Sync,
];

/// Sweeps end to end every `step`th byte, and every byte of the first `whole`, of each file of these kinds.
fn sweep(world: &World, kinds: &[Kind], whole: usize, step: usize) {
    for kind in kinds {
        let mut positions = 0;
        let names = world.of(*kind);
        assert!(!names.is_empty(), "{kind:?}");
        for name in &names {
            let len = world.vault[name].len();
            for position in (0..len).filter(|at| *at < whole || at % step == 0 || *at + 1 == len) {
                world.try_one(*kind, name, position);
                positions += 1;
            }
        }
        println!("end to end: {kind:?}: {positions} positions in {} files", names.len());
    }
}

#[test]
fn no_reader_accepts_a_flipped_bit_anywhere() {
    let world = World::new();
    let vault = world.open().unwrap();
    let keyring = vault.keyring();
    for kind in ALL.into_iter().filter(|kind| *kind != Kind::Manifest) {
        let mut positions = 0;
        for name in world.of(kind) {
            let intact = &world.vault[&name];
            assert!(!kind.refuses(keyring, &name, intact), "{}", name.display());
            for position in 0..intact.len() {
                let refused = kind.refuses(keyring, &name, &flipped(intact, position));
                assert!(refused, "{} byte {position}", name.display());
                positions += 1;
            }
        }
        println!("reader: {kind:?}: {positions} positions");
    }
    let swept = world.vault.keys().filter(|name| Kind::of(name).is_none()).collect::<Vec<_>>();
    assert_eq!(swept, [Path::new("local/status")], "the numbers of `status` are all that is not swept");
}

#[test]
fn the_part_of_another_attachment_is_damage_and_never_content() {
    let temp = temp_dir();
    let mut vault = new_vault(temp.path(), "laptop", &TestClock::at(NOW));
    let [mine, other] =
        [b"my own words", b"another text"].map(|bytes| vault.store_blob(&mut &bytes[..]).unwrap());
    let [mine_at, other_at] = [&mine, &other].map(|blob| {
        let hex = blob.parts[0].object.to_string();
        temp.path().join("objects").join(&hex[..2]).join(hex)
    });
    fs::copy(other_at, mine_at).unwrap();
    // Its seal holds, its length fits: only its name tells.
    let read = vault.blob_bytes(&mine, 100);
    let noticed = matches!(&read, Err(vault::Error::Damaged { problem: Damage::BitRot, .. }));
    assert!(noticed, "wrong content returned: {read:?}");
    assert_eq!(vault.blob_bytes(&other, 100).unwrap(), b"another text");
}

#[test]
fn damage_to_an_object_is_noticed_and_healed() {
    sweep(&World::new(), &[Kind::Object], 96, 67);
}

#[test]
fn damage_to_keys_and_marker_is_noticed_and_healed() {
    sweep(&World::new(), &[Kind::Marker, Kind::Key, Kind::KeyCopy], usize::MAX, 1);
}

#[test]
fn damage_to_the_index_is_noticed_and_healed() {
    sweep(&World::new(), &[Kind::Manifest], usize::MAX, 1);
}

#[test]
fn damage_to_what_only_this_device_keeps_is_noticed_and_healed() {
    sweep(&World::new(), &[Kind::Device, Kind::Remote, Kind::Sync, Kind::Feed], 64, 101);
}

/// Every byte of every file, end to end: some minutes.
#[test]
#[ignore = "takes minutes"]
fn every_byte_end_to_end() {
    sweep(&World::new(), &ALL, usize::MAX, 1);
}

#[test]
fn a_damaged_cached_segment_and_a_lost_index_are_made_good_by_the_mirror() {
    let world = World::new();
    let mut positions = 0;
    for name in world.of(Kind::Feed) {
        for position in (0..world.vault[&name].len()).step_by(301) {
            world.restore();
            world.flip(&name, position);
            fs::remove_file(world.path(Path::new("local/manifest"))).unwrap();
            let place = format!("{} byte {position}", name.display());
            let mut vault = world.open().unwrap();
            assert!(!world.is_incomplete(&mut vault, &place), "{place}");
            let entry = add(&mut vault, "written after");
            let (result, findings) = try_sync(&mut vault, &world.remote(), Options::default());
            result.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(!findings.iter().any(|it| matches!(it, Finding::Forked { .. })), "{place}: {findings:?}");
            assert_eq!(fs::read(world.path(&name)).unwrap(), world.vault[&name], "fetched again: {place}");
            // The other device reads on where it was: this one's feed goes on, it does not begin anew.
            let host = ThisMachine::with_clock(world.temp.path().join("other"), TestClock::at(NOW + 120_000));
            let secret = Secret::Recovery(world.recovery.clone());
            let mut other = Locked::find(host).unwrap().unlock(&secret).unwrap();
            let before = files(&world.temp.path().join("other"));
            let (result, findings) = try_sync(&mut other, &world.remote(), Options::default());
            result.unwrap();
            assert!(!findings.iter().any(|it| matches!(it, Finding::Forked { .. })), "{place}: {findings:?}");
            assert!(other.entry(entry).is_ok(), "{place}");
            put_back(&world.temp.path().join("other"), &before);
            positions += 1;
        }
    }
    println!("cached segment and index: {positions} positions");
}

fn put_back(dir: &Path, before: &Files) {
    files(dir).keys().filter(|name| !before.contains_key(*name)).for_each(|name| {
        fs::remove_file(dir.join(name)).unwrap();
    });
    before.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
}
