//! The end of a schedule: the faults stop, everybody syncs, and what is there is held against what was written.

use std::collections::{BTreeMap, BTreeSet};

use espejo::entry::SCHEMA;
use espejo::format::keyfile::{KeyFile, KeyFileError};
use espejo::id::{EntryId, ObjectName, VersionId};
use espejo::remote::MemoryRemote;
use espejo::sync::{self, Guard, Options, Report};
use espejo::vault;
use espejo::version::Kind;

use super::{CANARY, DAY_MS, KEEP, KEEPING, World, Write};
use crate::disk::{Image, SimDisk};
use crate::net::now;
use crate::promise::Broken;
use crate::seen::{
    announced_in, buried_in, cached_segments, intact_on_disk, intact_on_mirror, is_intact, knows_its_mirror,
    object_name, sealed_files, versions_in,
};
use crate::vaults::{SimVault, objects_of, secret, set_files, settings};

impl World {
    /// Which writes still have a copy, after something was destroyed. `promised`: a stored one must have one.
    pub(super) fn reassess(&mut self, promised: bool) {
        let there = self.there();
        let images = self.alive().into_iter().map(|device| self.devices[device].host.disk.image());
        let (images, mirrors) =
            (images.collect::<Vec<_>>(), self.mirrors.iter().map(MemoryRemote::files).collect::<Vec<_>>());
        self.keys.reassess(images.iter(), mirrors.iter());
        let buried = self.buried();
        let may_go = self.may_go(&buried, &BTreeSet::new());
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

    /// The objects that are whole somewhere. What lies on the mirror and was never announced there is nowhere, and a device
    /// that does not know its mirror any more announces nothing.
    pub(super) fn there(&self) -> BTreeSet<ObjectName> {
        let mut announced = BTreeSet::new();
        let mut there = BTreeSet::new();
        for device in self.alive() {
            self.devices[device].host.disk.look(|image| {
                if knows_its_mirror(image) {
                    let segments = cached_segments(image);
                    segments.for_each(|(name, bytes)| announced.extend(announced_in(name, bytes)));
                }
                there.extend(intact_on_disk(image));
            });
        }
        for mirror in &self.mirrors {
            let files = mirror.files();
            files.iter().for_each(|(name, bytes)| announced.extend(announced_in(name, bytes)));
            let intact = intact_on_mirror(&files);
            there.extend(intact.intersection(&announced).map(|(object, _)| *object));
        }
        there
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
    /// part of what was deleted long ago, as the feeds tell. What may be lost supersedes nothing, unless it is `here`.
    fn may_go(&self, buried: &BTreeSet<VersionId>, here: &BTreeSet<VersionId>) -> BTreeSet<VersionId> {
        let is_old = |write: &Write| self.clock_harmed || self.time.get() - write.at > KEEP.age_ms;
        let may_go = |(id, write): &(&VersionId, &Write)| {
            let of_entry = || self.writes.iter().filter(|(_, other)| other.entry == write.entry);
            let deleted = of_entry().any(|(other, it)| {
                let of_it = other == *id || it.ancestors.contains(*id);
                of_it && it.text.is_none() && is_old(it) && buried.contains(other)
            });
            let superseded = || {
                of_entry().any(|(other, it)| {
                    it.ancestors.contains(*id) && is_old(it) && (!it.excused || here.contains(other))
                })
            };
            let order = |id: &VersionId, write: &Write| (write.dot.updated_at, write.dot.device, *id);
            let newer = || of_entry().filter(|(other, it)| order(other, it) > order(id, write)).count();
            is_old(write) && (deleted || (superseded() && newer() >= KEEP.versions))
        };
        self.writes.iter().filter(may_go).map(|(id, _)| *id).collect()
    }

    /// A device dropped something it `held`: every device that it waits for knew what came after.
    pub(super) fn everybody_knew(&mut self, device: usize, held: &BTreeSet<VersionId>) {
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
            // It may have read of it and forgotten, because the file it was in was released before it came here.
            let mut read = Vec::new();
            self.devices[other].host.disk.look(|image| {
                cached_segments(image).for_each(|(name, bytes)| read.extend(versions_in(name, bytes)));
            });
            for (entry, dot) in &dropped {
                let known = manifest.versions().map(|state| &*state.version).chain(&read);
                let mut known = known.filter(|version| version.entry == *entry);
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
        let mut looked = BTreeSet::new();
        while round < rounds {
            let mut refused = 0;
            for device in self.alive() {
                self.replicate_all();
                match self.sync_for_good(device, full && looked.insert(device)) {
                    // A mirror was emptied before this device ever saw it; whoever did has to fill it first.
                    Err(Broken(why)) if is_for_a_person(&why) && round == 0 => {
                        looked.remove(&device);
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
        let mut options = Options { full, ..KEEPING };
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
        let here = versions.keys().copied().collect();
        let may_go = self.may_go(&self.buried(), &here);
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
                let bytes = match vault.blob_bytes(&attachment.blob, 1 << 20) {
                    // Its device let the version go with everything in it, and one that had not heard of it yet kept what it had.
                    Err(vault::Error::Pending | vault::Error::Damaged { .. }) if may_go.contains(id) => {
                        continue;
                    }
                    bytes => bytes.map_err(told)?,
                };
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
            let shown = entry.losers.iter().copied().chain([entry.version.id]).collect::<BTreeSet<_>>();
            let heads = heads.filter(|(id, write)| !write.forgotten || shown.contains(id));
            let heads = heads.map(|(id, _)| *id).collect::<BTreeSet<_>>();
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
            // What replaced one that went was made on all that it was made on, if it is still somewhere.
            let lost = |write: &Write| write.excused || write.retired;
            let replaced = self.writes.values().filter(|write| write.acknowledged && !lost(write));
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

/// Whether somebody has to look into the mirror's folder: what is in it belongs to nobody who is here.
fn is_for_a_person(why: &str) -> bool {
    why.contains("neither empty") || why.contains("to tell whose it is")
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    current: VersionId,
    shown: BTreeSet<VersionId>,
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
