//! What opens the simulated vaults, as the model remembers it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use espejo::format::keyfile::KeyFile;

use crate::disk::Image;
use crate::promise::Broken;
use crate::seen::segment;
use crate::vaults::{RECOVERY, Secrets, secret, seeds};

/// One change of the secret.
struct Change {
    secret: [u8; 32],
    generation: u32,
    /// It was reported as done.
    acknowledged: bool,
    /// Every copy of it was destroyed.
    excused: bool,
}

/// All that were ever made or tried.
pub struct Keys {
    pub secrets: Secrets,
    changes: Vec<Change>,
}

impl Default for Keys {
    fn default() -> Self {
        let first = Change { secret: RECOVERY, generation: 1, acknowledged: true, excused: false };
        let secrets = Secrets::default();
        secrets.borrow_mut().push(RECOVERY);
        Self { secrets, changes: vec![first] }
    }
}

/// A key file that its holder may believe: whole, and under its name if it has one.
fn read(name: &str, bytes: &[u8]) -> Option<KeyFile> {
    let file = KeyFile::decode(bytes).ok().filter(|file| file.is_authentic(&seeds().keyring))?;
    let name = name.strip_prefix("keys/");
    name.is_none_or(|name| name == file.file_name()).then_some(file)
}

/// Whether a key file on the mirror is what its name says.
pub fn is_intact_key(name: &str, bytes: &[u8]) -> bool {
    name.starts_with("keys/") && read(name, bytes).is_some()
}

/// The key files an intact feed segment names.
fn announced_in(name: &str, bytes: &[u8]) -> Vec<String> {
    let segment = segment(name, bytes);
    let announcements = segment.iter().flat_map(|segment| &segment.announcements);
    announcements.map(|(announcement, _)| format!("keys/{}", announcement.key_file)).collect()
}

impl Keys {
    pub fn changes(&self) -> usize {
        self.changes.len() - 1
    }

    /// A secret is about to be set; it may open a vault from now on, whatever becomes of it.
    pub fn try_secret(&self, secret: [u8; 32]) {
        self.secrets.borrow_mut().push(secret);
    }

    pub fn note(&mut self, secret: [u8; 32], generation: u32, acknowledged: bool) {
        self.changes.push(Change { secret, generation, acknowledged, excused: false });
    }

    /// Which changes still have a copy, after something was destroyed. What lies on a mirror and was never announced is
    /// nowhere.
    pub fn reassess<'a>(
        &mut self,
        disks: impl Iterator<Item = &'a Image>,
        mirrors: impl Iterator<Item = &'a BTreeMap<String, Bytes>>,
    ) {
        let mut announced = BTreeSet::new();
        let mut there = Vec::new();
        for image in disks {
            let files = || image.files();
            files().filter(|(name, _)| name.starts_with("local/feeds/")).for_each(|(name, bytes)| {
                announced.extend(announced_in(name, bytes));
            });
            let keys = files().filter(|(name, _)| name.starts_with("keys/") || *name == "local/key");
            there.extend(keys.filter_map(|(name, bytes)| read(name, bytes)));
        }
        for files in mirrors {
            files.iter().for_each(|(name, bytes)| announced.extend(announced_in(name, bytes)));
            let keys = files.iter().filter(|(name, _)| announced.contains(*name));
            there.extend(keys.filter_map(|(name, bytes)| read(name, bytes)));
        }
        for change in self.changes.iter_mut().filter(|change| !change.excused) {
            change.excused = !there.iter().any(|file| file.unlock(&secret(&change.secret)).is_ok());
        }
    }

    /// Every device has the key file `last`: what was set last opens it, and nothing that was replaced.
    pub fn judge(&self, last: &KeyFile) -> Result<(), Broken> {
        let opens = |change: &Change| last.unlock(&secret(&change.secret)).is_ok();
        let binding = || self.changes.iter().filter(|change| change.acknowledged && !change.excused);
        let newest = binding().map(|change| change.generation).max().unwrap_or(0);
        // What was not acknowledged, or was thought destroyed, may be there all the same.
        let newer = self.changes.iter().any(|change| change.generation > newest && opens(change));
        let lost = binding().find(|change| change.generation == newest && !opens(change));
        promise!(
            newer || lost.is_none(),
            "a secret set in generation {newest} opens nothing: generation {} is in force",
            last.generation
        );
        let old = self.changes.iter().find(|change| change.generation < newest && opens(change));
        promise!(
            old.is_none(),
            "a secret of generation {:?} opens, and one of {newest} was set",
            old.map(|change| change.generation)
        );
        Ok(())
    }

    /// Those that open `last`, which a newcomer may be given.
    pub fn opening(&self, last: &KeyFile) -> Vec<[u8; 32]> {
        let opens = |change: &&Change| last.unlock(&secret(&change.secret)).is_ok();
        self.changes.iter().filter(opens).map(|change| change.secret).collect()
    }

    pub fn shared(&self) -> Secrets {
        Rc::clone(&self.secrets)
    }
}
