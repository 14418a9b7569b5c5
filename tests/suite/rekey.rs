//! A new master key after a loss: whoever has a copy of the old one reads nothing that is written from then on, and makes
//! nothing that is believed.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use espejo::crypto::{Keyring, MIN_WRITTEN_ITERATIONS};
use espejo::entropy::OsEntropy;
use espejo::event::Finding;
use espejo::format::feed::open_segment;
use espejo::format::keyfile::KeyFileError;
use espejo::format::object::{identify, seal_version};
use espejo::format::read_header;
use espejo::id::{DeviceId, EntryId, VersionId};
use espejo::manifest::Notices;
use espejo::remote::{MemoryRemote, Remote, RemotePath};
use espejo::sync::{self, Guard, Options};
use espejo::vault::{self};
use espejo::version::{Context, Dot, Kind, Version};

use crate::common::cli::{Cli, finish};
use crate::common::dice::Dice;
use crate::common::*;

const NEW: &str = "marble anvil thicket solder 17";

fn opens(dir: &Path, password: &str, clock: &TestClock) -> bool {
    match try_open(dir, password, clock) {
        Ok(mut vault) => vault.entries().is_ok(),
        Err(vault::Error::Key { error: KeyFileError::WrongSecret, .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn rekey(vault: &mut TestVault) {
    vault.rekey(&[secret(NEW)], MIN_WRITTEN_ITERATIONS).unwrap();
}

/// Syncs a device that has not been given the new password: nothing is sent.
fn is_stopped(vault: &mut TestVault, remote: &MemoryRemote) {
    let before = remote.files();
    let (result, _) = try_sync(vault, remote, Options::default());
    let Err(sync::Error::Guard(Guard::Rekeyed { at })) = result else { panic!("{result:?}") };
    assert!((NOW..NOW + YEAR_MS).contains(&at));
    assert_eq!(remote.files(), before, "nothing is sent");
}

fn newcomer(dir: &Path, password: &str, remote: &MemoryRemote) -> Result<TestVault, vault::Error> {
    let mut vault = try_clone(dir, "tablet", password, &TestClock::at(NOW), remote)?;
    set_remote(&mut vault);
    Ok(vault)
}

#[test]
fn a_new_master_key_shuts_the_old_secrets_out_and_the_devices_follow_when_they_are_given_the_new_one() {
    let Two { dirs, clocks, mut a, mut b, remote } = two(&["kept"]);
    let objects = |remote: &MemoryRemote| {
        let names = remote.files().into_keys().filter(|name| name.starts_with("objects/"));
        names.collect::<Vec<_>>()
    };
    let before = objects(&remote);
    let refused = a.rekey(&[secret(PASSWORD)], MIN_WRITTEN_ITERATIONS);
    assert!(matches!(refused, Err(vault::Error::Invalid(_))), "the old password again");
    rekey(&mut a);
    assert!(!opens(dirs[0].path(), PASSWORD, &clocks[0]) && opens(dirs[0].path(), NEW, &clocks[0]));
    add(&mut a, "after the loss");
    assert!(sync(&mut a, &remote).is_settled());
    assert_eq!(objects(&remote).len(), before.len() + 1, "nothing that was there is sent again");

    // Who was away works on, and learns of it at the next sync.
    add(&mut b, "written meanwhile");
    is_stopped(&mut b, &remote);
    add(&mut b, "and after that");
    is_stopped(&mut b, &remote);
    assert!(opens(dirs[1].path(), PASSWORD, &clocks[1]), "what is here can be read as before");
    drop(b);
    let mut b = try_open(dirs[1].path(), NEW, &clocks[1]).unwrap();
    assert!(!opens(dirs[1].path(), PASSWORD, &clocks[1]), "now it has the new key");
    assert!(sync(&mut b, &remote).is_settled());
    assert!(sync(&mut a, &remote).is_settled());
    let all = ["after the loss", "and after that", "kept", "written meanwhile"];
    assert_eq!(
        (titles(&mut a), titles(&mut b)),
        (all.map(String::from).into(), all.map(String::from).into())
    );
    for vault in [&mut a, &mut b] {
        sync(vault, &remote);
        assert!(sync(vault, &remote).is_idle());
    }

    // Whoever comes new needs the new password, and finds everything.
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let Err(vault::Error::Key { error: KeyFileError::WrongSecret, .. }) =
        newcomer(dirs[0].path(), PASSWORD, &remote)
    else {
        panic!("the old password makes a device")
    };
    let mut c = newcomer(dirs[1].path(), NEW, &remote).unwrap();
    assert!(sync(&mut c, &remote).is_settled());
    assert_eq!(titles(&mut c), all);
    // Its index can be lost like any other.
    std::fs::remove_file(dirs[1].path().join("local/manifest")).unwrap();
    assert_eq!(titles(&mut c), all);
    assert!(c.check().unwrap().is_clean());
}

#[test]
fn what_was_announced_under_the_old_key_counts_when_somebody_with_the_new_one_vouches_for_it() {
    let Two { dirs, clocks, mut a, mut b, remote } = two(&["kept"]);
    rekey(&mut a);
    // The other device does not know of it yet, and announces in good faith.
    add(&mut b, "in good faith");
    assert!(sync(&mut b, &remote).is_settled());
    let (report, findings) = try_sync(&mut a, &remote, Options::default());
    assert_eq!(report.unwrap().pending, 1, "it is seen, and waited for");
    assert!(findings.iter().any(|finding| finding.to_string().contains("vouches")), "{findings:?}");
    assert_eq!(titles(&mut a), ["kept"]);
    is_stopped(&mut b, &remote);
    drop(b);
    let mut b = try_open(dirs[1].path(), NEW, &clocks[1]).unwrap();
    assert!(sync(&mut b, &remote).is_settled());
    assert!(sync(&mut a, &remote).is_settled());
    assert_eq!(titles(&mut a), ["in good faith", "kept"]);
    let dir = tempfile::tempdir().unwrap();
    let mut c = newcomer(dir.path(), NEW, &remote).unwrap();
    assert!(sync(&mut c, &remote).is_settled());
    assert_eq!(titles(&mut c), ["in good faith", "kept"]);
}

/// Everything a thief with a copy of the old keys can put on the mirror: an entry of a device that never was, and the
/// same as the next announcement of a device that there is.
fn plant(keyring: &Keyring, as_device: DeviceId, after: Option<(u64, [u8; 32])>, remote: &MemoryRemote) {
    let dot = Dot { device: as_device, updated_at: NOW + YEAR_MS };
    let version = Version {
        entry: EntryId::from_bytes([0xee; 16]),
        id: VersionId::random(&OsEntropy).unwrap(),
        dot,
        context: Context::default(),
        kind: Kind::Live,
    };
    let object = seal_version(keyring, &version, Some(&text("planted", "by a thief")), &OsEntropy).unwrap();
    let announcement = forge::announcement(after, &[&object], Notices::default());
    let (name, segment) = forge::segment(keyring, as_device, &[announcement]);
    let (dir, file) = forge::place(as_device, &object);
    let path = |text: &str| RemotePath::new(text).unwrap();
    block_on(async {
        remote.make_dir(&path(&dir)).await.unwrap();
        remote.put(&path(&file), Bytes::from(object.bytes)).await.unwrap();
        remote.put(&path(&name), Bytes::from(segment)).await.unwrap();
    });
}

#[test]
fn a_copy_of_the_old_keys_reads_nothing_new_and_plants_nothing() {
    let Two { dirs, clocks, mut a, b, remote } = two(&["kept"]);
    let stolen = b.keyring().clone();
    let (a_id, b_id) = (a.device().id, b.device().id);
    rekey(&mut a);
    add(&mut a, "after the loss");
    sync(&mut a, &remote);
    drop(b);
    let mut b = {
        let mut b = try_open(dirs[1].path(), PASSWORD, &clocks[1]).unwrap();
        is_stopped(&mut b, &remote);
        try_open(dirs[1].path(), NEW, &clocks[1]).unwrap()
    };
    sync(&mut b, &remote);
    sync(&mut a, &remote);

    let files = remote.files();
    let is_new = |bytes: &[u8]| read_header(bytes).is_ok_and(|(header, _)| header.epoch == 2);
    let new = files.iter().filter(|(name, bytes)| !name.starts_with("keys/") && is_new(bytes));
    let new = new.map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>();
    assert!(new.len() >= 3, "an entry and two announcements");
    for bytes in new {
        assert!(identify(&stolen, bytes.clone()).is_err() && open_segment(&stolen, &bytes).is_err());
    }

    let tip = |vault: &mut TestVault, device| {
        let tip = vault.manifest().unwrap().feeds()[&device].clone();
        Some((tip.seq, tip.tip))
    };
    let (a_tip, b_tip) = (tip(&mut b, a_id), tip(&mut a, b_id));
    plant(&stolen, DeviceId::from_bytes([0xaa; 16]), None, &remote);
    plant(&stolen, a_id, a_tip, &remote);
    plant(&stolen, b_id, b_tip, &remote);
    let before = (a.device().id, b.device().id);
    for options in [Options::default(), Options { full: true, ..Options::default() }] {
        for vault in [&mut a, &mut b] {
            let (report, findings) = try_sync(vault, &remote, options);
            report.unwrap();
            let said = |finding: &&Finding| finding.to_string().contains("vouches");
            assert!(findings.iter().filter(said).count() >= 1, "{findings:?}");
            assert_eq!(titles(vault), ["after the loss", "kept"]);
        }
    }
    assert_eq!((a.device().id, b.device().id), before, "nor does it cost a device its name");
    let dir = tempfile::tempdir().unwrap();
    let mut c = newcomer(dir.path(), NEW, &remote).unwrap();
    try_sync(&mut c, &remote, Options::default()).0.unwrap();
    assert_eq!(titles(&mut c), ["after the loss", "kept"]);
    // What is genuine goes on beside it.
    edit(&mut a, c.entries().unwrap()[0].id(), "and on");
    try_sync(&mut a, &remote, Options::default()).0.unwrap();
    try_sync(&mut b, &remote, Options::default()).0.unwrap();
    assert!(titles(&mut b).contains(&"and on".to_owned()));
}

#[test]
fn a_server_without_any_key_makes_nobody_believe_in_a_new_one() {
    let Two { dirs: _dirs, mut a, remote, .. } = two(&["kept"]);
    let stranger = tempfile::tempdir().unwrap();
    let mut other = new_vault(stranger.path(), "elsewhere", &TestClock::at(NOW));
    other.rekey(&[secret(NEW)], MIN_WRITTEN_ITERATIONS).unwrap();
    // Of another vault, and with this one's id written over it.
    let theirs = other.key_file().unwrap();
    let mut ours = theirs.clone();
    ours.vault = a.id();
    for file in [theirs, ours] {
        let path = RemotePath::new(&format!("keys/{}", file.file_name())).unwrap();
        block_on(remote.put(&path, Bytes::from(file.encode()))).unwrap();
    }
    let full = Options { full: true, ..Options::default() };
    assert!(try_sync(&mut a, &remote, full).0.unwrap().is_settled());
}

/// How often a `rekey` is killed; `ESPEJO_KILLS` makes it more.
const KILLS: u64 = 20;

#[test]
fn a_rekey_killed_at_any_moment_leaves_everything_readable_and_can_be_made_again() {
    const ENTRIES: usize = 10_000;
    let kills = std::env::var("ESPEJO_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mut cli = Cli::new();
    add_many(&mut cli.new_vault(&cli.vault), ENTRIES);
    let file = |n: u64| cli.file(&format!("secrets/{n}"), format!("{} {n}", crate::common::cli::PASSWORD));
    std::fs::copy(cli.path("secrets/password"), cli.path("secrets/0")).unwrap();
    let files = (1..=kills + 1).map(file).collect::<Vec<_>>();
    let mut current = cli.arg("secrets/0");
    let mut dice = Dice(11);
    let (mut killed, mut changed, mut usual) = (0, 0, Duration::ZERO);
    for (n, next) in files.iter().enumerate() {
        cli.set("ESPEJO_PASSWORD_FILE", &current);
        let start = Instant::now();
        let args = ["rekey", "--new-password-file", next, "--no-recovery", "--allow-weak-password"];
        let mut child = cli.command(&args).spawn().unwrap();
        // The first one opens a vault made with the cheapest derivation; those that follow do not.
        if n < 2 {
            assert_eq!(finish(child, b"").code, 0);
            usual = start.elapsed();
        } else {
            // What takes time before is the password; after that comes what can be interrupted.
            std::thread::sleep(usual * (600 + dice.below(600) as u32) / 1_000);
            child.kill().unwrap();
            killed += u64::from(finish(child, b"").code == -1);
        }
        cli.set("ESPEJO_PASSWORD_FILE", next);
        let by_new = cli.run(&["list", "-n", "1", "--json"]);
        if by_new.code == 0 {
            (current, changed) = (next.clone(), changed + 1);
        } else {
            assert_eq!(by_new.error(12)["kind"], "wrong_password");
            cli.set("ESPEJO_PASSWORD_FILE", &current);
        }
        let listed = cli.json(&["list"]);
        assert_eq!(listed["entries"].as_array().unwrap().len(), ENTRIES, "after {n} times");
    }
    assert_eq!(cli.run(&["check"]).code, 0);
    println!("{killed} killed, {changed} of {} new keys in force", files.len());
    assert!(killed * 2 >= kills, "{killed} of {kills} killed");
}
