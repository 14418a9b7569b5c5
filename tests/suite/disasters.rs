//! What can happen to a whole mirror. Each time: it is said by name, and after two syncs of two devices nothing is
//! missing anywhere.

use std::collections::BTreeMap;

use crate::common::*;
use bytes::Bytes;
use espejo::event::Finding;
use espejo::remote::{MemoryRemote, RemotePath};
use espejo::sync::{Error, Guard, Options, Share, scrub};

struct Two {
    _dirs: [tempfile::TempDir; 2],
    vaults: [TestVault; 2],
    clocks: [TestClock; 2],
    remote: MemoryRemote,
}

/// Two devices that share entries in packs, as single files, with edits and deletions.
fn two() -> Two {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let clocks = [TestClock::at(NOW), TestClock::at(NOW)];
    let remote = MemoryRemote::new();
    let mut a = new_vault(dirs[0].path(), "laptop", &clocks[0]);
    set_remote(&mut a);
    add_many(&mut a, 40);
    sync(&mut a, &remote);
    let mut b = clone_vault(dirs[1].path(), "desktop", &clocks[1], &remote);
    set_remote(&mut b);
    let mut vaults = [a, b];
    for round in 0..6 {
        for (n, vault) in vaults.iter_mut().enumerate() {
            let entry = add(vault, &format!("entry {round} of {n}"));
            edit(vault, entry, &format!("edited {round} of {n}"));
            if round % 3 == 0 {
                delete(vault, entry);
            }
            sync(vault, &remote);
        }
    }
    for vault in &mut vaults {
        sync(vault, &remote);
    }
    Two { _dirs: dirs, vaults, clocks, remote }
}

impl Two {
    /// A day passes and each device syncs twice. What they reported.
    fn two_syncs(&mut self) -> Vec<Finding> {
        self.clocks.iter().for_each(|clock| clock.advance(2 * DAY_MS));
        let mut findings = Vec::new();
        for _ in 0..2 {
            for vault in &mut self.vaults {
                let (result, found) = try_sync(vault, &self.remote, Options::default());
                result.unwrap();
                findings.extend(found);
            }
        }
        findings
    }

    /// The mirror is whole, and whoever comes new sees what the others see.
    fn nothing_is_missing(&mut self) {
        let expected = titles(&mut self.vaults[0]);
        assert_eq!(titles(&mut self.vaults[1]), expected);
        for vault in &mut self.vaults {
            assert!(vault.check().unwrap().is_clean());
            let report = block_on(scrub(vault, &self.remote, Share::ALL)).unwrap();
            assert!(report.bad.is_empty(), "{report:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let mut c = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), &self.remote);
        set_remote(&mut c);
        assert!(sync(&mut c, &self.remote).is_settled());
        assert_eq!(titles(&mut c), expected);
    }

    fn files(&self) -> BTreeMap<String, Bytes> {
        self.remote.files()
    }

    fn lose(&self, lost: impl Fn(&str) -> bool) -> usize {
        let names = self.files().into_keys().filter(|name| lost(name)).collect::<Vec<_>>();
        names.iter().for_each(|name| assert!(self.remote.remove_file(&path(name))));
        names.len()
    }
}

fn path(name: &str) -> RemotePath {
    RemotePath::new(name).unwrap()
}

#[test]
fn emptied() {
    let mut two = two();
    assert!(two.lose(|_| true) > 20);
    for vault in &mut two.vaults {
        let (result, _) = try_sync(vault, &two.remote, Options::default());
        assert!(matches!(result, Err(Error::Guard(Guard::MirrorGone))), "{result:?}");
    }
    assert!(two.files().is_empty(), "nothing was done");
    try_sync(&mut two.vaults[0], &two.remote, Options { reseed: true, ..Options::default() }).0.unwrap();
    two.two_syncs();
    two.nothing_is_missing();
}

#[test]
fn replaced_by_another_vaults() {
    let mut two = two();
    let before = two.vaults.each_mut().map(titles);
    let strangers = self::two();
    let other = strangers.files();
    for vault in &mut two.vaults {
        let (result, _) = try_sync(vault, &strangers.remote, Options::default());
        assert!(matches!(result, Err(Error::Guard(Guard::OtherVault(_)))), "{result:?}");
    }
    assert_eq!(strangers.files(), other, "nothing was written to it");
    assert_eq!(two.vaults.each_mut().map(titles), before, "nor read from it");
    // The right one is there again.
    two.two_syncs();
    two.nothing_is_missing();
}

#[test]
fn rolled_back_by_a_day() {
    let mut two = two();
    let yesterday = two.files();
    two.clocks.iter().for_each(|clock| clock.advance(DAY_MS));
    for n in [0, 1, 0] {
        add(&mut two.vaults[n], &format!("today, on {n}"));
        sync(&mut two.vaults[n], &two.remote);
    }
    assert!(two.lose(|name| !yesterday.contains_key(name)) > 3);
    yesterday.into_iter().for_each(|(name, bytes)| two.remote.set_file(&path(&name), bytes));
    let findings = two.two_syncs();
    assert!(findings.iter().any(|finding| matches!(finding, Finding::WentBack { .. })), "{findings:?}");
    two.nothing_is_missing();
}

#[test]
fn one_directory_of_objects_deleted() {
    let mut two = two();
    let batch = two.files().into_keys().find(|name| name.starts_with("objects/")).unwrap();
    let batch = batch.rsplit_once('/').unwrap().0.to_owned();
    let lost = two.lose(|name| name.starts_with(&batch));
    assert!(lost > 3);
    let findings = two.two_syncs();
    let named = findings
        .iter()
        .filter(|finding| matches!(finding, Finding::MirrorDamaged { file, .. } if file.starts_with(&batch)));
    assert!(named.count() >= lost, "{findings:?}");
    assert!(findings.iter().any(|finding| matches!(finding, Finding::MirrorHealed { .. })), "{findings:?}");
    two.nothing_is_missing();
}

#[test]
fn every_tenth_object_truncated() {
    let mut two = two();
    let objects = two.files().into_iter().filter(|(name, _)| name.starts_with("objects/"));
    let cut = objects.step_by(10).collect::<Vec<_>>();
    assert!(cut.len() > 1);
    for (name, bytes) in &cut {
        two.remote.set_file(&path(name), bytes.slice(..bytes.len() / 3));
    }
    let findings = two.two_syncs();
    for (name, _) in &cut {
        let named =
            |finding: &Finding| matches!(finding, Finding::MirrorDamaged { file, .. } if file == name);
        assert!(findings.iter().any(named), "{name}: {findings:?}");
    }
    two.nothing_is_missing();
}

#[test]
fn rotten_here_and_there() {
    let mut two = two();
    let objects = two.files().into_iter().filter(|(name, _)| name.starts_with("objects/"));
    for (name, bytes) in objects.step_by(7) {
        let mut bytes = bytes.to_vec();
        bytes[1_000] ^= 4;
        two.remote.set_file(&path(&name), Bytes::from(bytes));
    }
    // Lengths are as they were, so only reading shows it.
    let full = Options { full: true, ..Options::default() };
    let (result, findings) = try_sync(&mut two.vaults[1], &two.remote, full);
    result.unwrap();
    assert!(findings.iter().any(|finding| matches!(finding, Finding::MirrorDamaged { .. })), "{findings:?}");
    two.two_syncs();
    two.nothing_is_missing();
}
