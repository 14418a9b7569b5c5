//! What befalls machines, disks and mirrors.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use espejo::format::{FileType, open_sealed, seal_file};
use espejo::id::VaultId;
use espejo::remote::{MemoryRemote, Remote, RemotePath};

use super::{Act, Device, MAX_DEVICES, World};
use crate::disk::{SimDisk, Unsynced};
use crate::host::SimEntropy;
use crate::net::now;
use crate::seen::{device_id, intact_on_disk, is_intact, object_name};
use crate::vaults::{path, put_file, seeds, set_files};

impl World {
    /// The machine stops at once; what was not synced is lost, kept or torn, as it falls.
    pub(super) fn power_cut(&mut self, device: usize) {
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
    pub(super) fn harm_disk(&mut self, device: usize, lose: bool) {
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
        self.devices[device].index_harmed |= name == "local/manifest";
        self.forget(device);
        self.reassess(false);
    }

    /// A device that lost its index does not know any more that it saved what it lost too and had not announced. If a copy
    /// of its folder has that, it is taken for superseded by what was saved after it.
    fn forget(&mut self, device: usize) {
        let Device { host, index_harmed: true, .. } = &self.devices[device] else { return };
        let Some(id) = host.disk.look(device_id) else { return };
        let intact = host.disk.look(intact_on_disk);
        let lost =
            self.writes.values_mut().filter(|it| it.dot.device == id && !it.objects.is_subset(&intact));
        lost.for_each(|write| write.forgotten = true);
    }

    pub(super) fn restore(&mut self, device: usize) {
        let images = &self.devices[device].images;
        let Some(image) = self.chance.pick(images).cloned() else { return };
        self.devices[device].job = None;
        let bytes = |_: u64| Unsynced::Kept;
        self.devices[device].host.disk.set_image(image.after_power_cut(|_| true, bytes));
        self.devices[device].host.disk.reborn();
        self.devices[device].rewound = true;
        self.reassess(true);
    }

    pub(super) fn copy(&mut self, device: usize) {
        if self.devices.len() >= MAX_DEVICES {
            return;
        }
        let image = self.devices[device].host.disk.image().after_power_cut(|_| true, |_| Unsynced::Kept);
        let disk = SimDisk::from_image(image);
        disk.reborn();
        self.add_device(disk, self.devices[device].mirror);
    }

    pub(super) fn join(&mut self, device: usize) {
        if self.devices.len() < MAX_DEVICES {
            self.add_device(SimDisk::default(), self.devices[device].mirror);
            self.make_vault(self.devices.len() - 1);
        }
    }

    pub(super) fn harm_mirror(&mut self, device: usize, act: Act) {
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
    pub(super) fn swap_mirror(&mut self, device: usize) {
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
    pub(super) fn replicate(&mut self) {
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

    pub(super) fn replicate_all(&mut self) {
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
    pub(super) fn reencode(&mut self, device: usize) {
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
}
