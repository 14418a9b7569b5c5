//! Two devices and a mirror in memory: what a sync promises, counted in requests.

use crate::common::uploads::Uploads;
use crate::common::*;
use bytes::Bytes;
use espejo::event::Finding;
use espejo::remote::{MemoryRemote, Remote, RemotePath};
use espejo::sync::{Error, Guard, Options};

struct Two {
    _dirs: [tempfile::TempDir; 2],
    a: TestVault,
    b: TestVault,
    remote: MemoryRemote,
}

/// Two devices that have met; the second one's clock is three years ahead.
fn two() -> Two {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let remote = MemoryRemote::new();
    let clocks = [TestClock::at(NOW), TestClock::at(NOW + 3 * YEAR_MS)];
    let [a, b] = meet([dirs[0].path(), dirs[1].path()], &clocks, &remote, &[]);
    Two { _dirs: dirs, a, b, remote }
}

/// Requests of one sync.
fn requests(vault: &mut TestVault, remote: &MemoryRemote) -> u64 {
    let before = remote.traffic().requests;
    sync(vault, remote);
    remote.traffic().requests - before
}

#[test]
fn what_one_device_writes_the_other_reads() {
    let Two { _dirs, mut a, mut b, remote } = two();
    let entry = add(&mut a, "first day");
    sync(&mut a, &remote);
    assert_eq!(sync(&mut b, &remote).pulled, 1);
    assert_eq!(titles(&mut b), ["first day"]);
    edit(&mut b, entry, "first day, corrected");
    sync(&mut b, &remote);
    sync(&mut a, &remote);
    assert_eq!(titles(&mut a), ["first day, corrected"]);
    delete(&mut a, entry);
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    assert_eq!(titles(&mut b), [""; 0]);
    assert_eq!(b.history(entry).unwrap().len(), 3);
}

#[test]
fn requests_stay_few() {
    let Two { _dirs, mut a, mut b, remote } = two();
    assert_eq!(requests(&mut a, &remote), 1, "nothing to do");
    let entries = add_many(&mut a, 1_000);
    let push = requests(&mut a, &remote);
    assert!(push <= 20, "first push of 1,000: {push}");
    assert_eq!(requests(&mut a, &remote), 1, "nothing to do after a push");
    let pull = requests(&mut b, &remote);
    assert!(pull <= 20, "pull of 1,000: {pull}");
    assert_eq!(requests(&mut b, &remote), 1, "nothing to do after a pull");
    for (n, entry) in entries.iter().take(40).enumerate() {
        edit(&mut a, *entry, "edited");
        let push = requests(&mut a, &remote);
        assert!(push <= 4, "push of one edit, the {n}th: {push}");
    }
    let pull = requests(&mut b, &remote);
    assert!(pull <= 50, "pull of forty edits: {pull}");
    assert_eq!(titles(&mut a), titles(&mut b));
}

#[test]
fn after_a_large_sync_the_index_says_what_each_object_is_once() {
    const COUNT: usize = 1_100;
    let Two { _dirs, mut a, mut b, remote } = two();
    add_many(&mut a, COUNT);
    let before = a.mark().unwrap().len;
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    for (vault, len) in [&a, &b].map(|vault| vault.mark().unwrap().len).into_iter().enumerate() {
        // Where an object lies takes 69 bytes; what it is would take as many again.
        let limit = before + 80 * COUNT as u64;
        assert!(len <= limit, "device {vault}: {len} bytes, {limit} at most");
    }
    assert_eq!([requests(&mut a, &remote), requests(&mut b, &remote)], [1, 1], "nothing to do");
    assert_eq!([titles(&mut a).len(), titles(&mut b).len()], [COUNT; 2]);
}

#[test]
fn a_new_device_reads_few_segments_however_often_was_pushed() {
    let Two { _dirs, mut a, remote, b: _b } = two();
    for n in 0..100 {
        add(&mut a, &format!("entry {n}"));
        sync(&mut a, &remote);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut c = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), &remote);
    set_remote(&mut c);
    let before = remote.traffic().requests;
    sync(&mut c, &remote);
    let requests = remote.traffic().requests - before;
    assert_eq!(titles(&mut c).len(), 100);
    assert!(requests <= 100 + 20, "{requests}: about one for each single object and a handful of segments");
}

#[test]
fn concurrent_edits_keep_the_loser_on_both_devices() {
    let Two { _dirs, mut a, mut b, remote } = two();
    let entry = add(&mut a, "shared");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    edit(&mut a, entry, "from the laptop");
    edit(&mut b, entry, "from the desktop");
    sync(&mut a, &remote);
    assert_eq!(sync(&mut b, &remote).conflicts, 1);
    assert_eq!(sync(&mut a, &remote).conflicts, 1);
    for vault in [&mut a, &mut b] {
        let state = vault.entry(entry).unwrap();
        assert_eq!(state.summary.title, "from the desktop");
        let loser = vault.content(state.losers[0]).unwrap().unwrap();
        assert_eq!(loser.title, "from the laptop");
    }
}

#[test]
fn a_wiped_mirror_stops_the_sync_and_can_be_filled_again() {
    let Two { _dirs, mut a, mut b, remote } = two();
    add(&mut a, "one");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    let empty = MemoryRemote::new();
    for vault in [&mut a, &mut b] {
        let (result, _) = try_sync(vault, &empty, Options::default());
        assert!(matches!(result, Err(Error::Guard(Guard::MirrorGone))), "{result:?}");
    }
    assert!(
        block_on(empty.list(&espejo::remote::RemotePath::root())).unwrap().is_none_or(|l| l.items.is_empty())
    );
    let reseed = Options { reseed: true, ..Options::default() };
    try_sync(&mut a, &empty, reseed).0.unwrap();
    add(&mut b, "two");
    let (result, findings) = try_sync(&mut b, &empty, Options::default());
    result.unwrap_or_else(|error| panic!("{error}: {findings:?}"));
    sync(&mut a, &empty);
    assert_eq!(titles(&mut a), ["one", "two"]);
    let dir = tempfile::tempdir().unwrap();
    let mut c = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), &empty);
    set_remote(&mut c);
    sync(&mut c, &empty);
    assert_eq!(titles(&mut c), ["one", "two"]);
}

#[test]
fn many_deletions_at_once_need_a_yes() {
    let Two { _dirs, mut a, mut b, remote } = two();
    let entries = (0..40).map(|n| add(&mut a, &format!("entry {n}"))).collect::<Vec<_>>();
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    entries.iter().take(30).for_each(|entry| delete(&mut a, *entry));
    sync(&mut a, &remote);
    let before = titles(&mut b);
    let (result, _) = try_sync(&mut b, &remote, Options::default());
    let Err(Error::Guard(Guard::MassDelete { deletes: 30, live: 40, by })) = result else {
        panic!("{result:?}")
    };
    assert_eq!(by, [("laptop".to_owned(), 30)]);
    assert_eq!(titles(&mut b), before);
    try_sync(&mut b, &remote, Options { accept_deletes: true, ..Options::default() }).0.unwrap();
    assert_eq!(titles(&mut b).len(), 10);
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be() {
    let Two { _dirs, mut a, mut b, remote } = two();
    add(&mut a, "one");
    let puts = |remote: &MemoryRemote| remote.traffic().bytes_up;
    let before = puts(&remote);
    let dry = Options { dry_run: true, ..Options::default() };
    assert_eq!(try_sync(&mut a, &remote, dry).0.unwrap().pushed, 1);
    assert_eq!(puts(&remote), before);
    sync(&mut a, &remote);
    assert_eq!(try_sync(&mut b, &remote, dry).0.unwrap().pulled, 1);
    assert_eq!(titles(&mut b), [""; 0]);
    assert_eq!(sync(&mut b, &remote).pulled, 1);
}

#[test]
fn a_copied_vault_takes_a_new_identity_before_it_writes() {
    let Two { _dirs: dirs, mut a, mut b, remote } = two();
    add(&mut a, "one");
    sync(&mut a, &remote);
    let copy_dir = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(dirs[0].path().join("."))
        .arg(copy_dir.path())
        .status();
    assert!(copied.unwrap().success());
    let mut copy = open_vault(copy_dir.path(), &TestClock::at(NOW + 5));
    add(&mut a, "from the original");
    sync(&mut a, &remote);
    add(&mut copy, "from the copy");
    let (result, findings) = try_sync(&mut copy, &remote, Options::default());
    result.unwrap();
    assert!(findings.contains(&Finding::NewIdentity), "{findings:?}");
    assert_ne!(copy.device().id, a.device().id);
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    for vault in [&mut a, &mut b, &mut copy] {
        assert_eq!(titles(vault), ["from the copy", "from the original", "one"]);
    }
}

#[test]
fn a_server_restored_from_an_old_backup_is_healed() {
    let Two { _dirs, mut a, mut b, remote } = two();
    add(&mut a, "old");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    let backup = remote.files();
    add(&mut a, "new");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    for path in remote.files().into_keys().filter(|path| !backup.contains_key(path)) {
        remote.remove_file(&espejo::remote::RemotePath::new(&path).unwrap());
    }
    add(&mut b, "later");
    let (result, findings) = try_sync(&mut b, &remote, Options::default());
    result.unwrap();
    assert!(findings.iter().any(|finding| matches!(finding, Finding::WentBack { .. })), "{findings:?}");
    let dir = tempfile::tempdir().unwrap();
    let mut c = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), &remote);
    set_remote(&mut c);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["later", "new", "old"]);
    sync(&mut a, &remote);
    assert_eq!(titles(&mut a), ["later", "new", "old"]);
}

#[test]
fn a_mirror_that_was_set_meanwhile_is_not_taken_for_the_one_that_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryRemote::new();
    let mut vault = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    set_remote(&mut vault);
    let keeps = |file: &RemotePath, bytes: Bytes| {
        if file.as_str() == "espejo.json" {
            let mut vault = open_vault(dir.path(), &TestClock::at(NOW));
            let mut settings = vault.remote_settings().unwrap().unwrap();
            settings.target = "another".to_owned();
            vault.set_remote(&settings).unwrap();
        }
        Ok(Some(bytes))
    };
    // How this sync ends does not matter.
    let _ = try_sync(&mut vault, &Uploads { memory: &memory, keeps }, Options::default());
    let settings = open_vault(dir.path(), &TestClock::at(NOW)).remote_settings().unwrap().unwrap();
    assert_eq!((settings.target.as_str(), settings.initialised), ("another", false));
}
