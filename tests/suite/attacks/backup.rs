//! Backups.

use std::fs;

use espejo::crypto::{MIN_WRITTEN_ITERATIONS, Password};
use espejo::format::backup::{INDEX_NAME, tar_header};
use espejo::format::keyfile::{KeyFileError, Secret};
use espejo::host::ThisMachine;
use espejo::vault::{self, Backup, Error};

use super::{Two, run_after};
use crate::common::cli::Cli;
use crate::common::*;

#[test]
fn row_66_a_length_no_file_can_have_is_refused_and_costs_nothing() {
    let cli = Cli::with_vault();
    cli.add("kept");
    let backup = cli.arg("backup.tar");
    cli.json(&["backup", "create", &backup]);
    let good = fs::read(&backup).unwrap();
    // Longer than the file, the longest in digits, and one in the binary form that some archives use.
    let longer = tar_header(INDEX_NAME, 200 << 20);
    let digits = tar_header(INDEX_NAME, 0o777_7777_7777);
    let mut binary = tar::Header::from_byte_slice(&digits).clone();
    binary.set_size(u64::MAX);
    binary.set_cksum();
    for header in [longer, digits.clone(), binary.as_bytes().to_vec()] {
        fs::write(&backup, [&header, &good[512..]].concat()).unwrap();
        let to = cli.arg("restored");
        for args in
            [&["backup", "verify", &backup, "--json"][..], &["restore", &backup, "--to", &to, "--json"]]
        {
            // With so little memory, what was set aside for the length would end the program.
            let output = run_after(&cli, "ulimit -v 1000000", args);
            assert!([4, 14].contains(&output.code), "no backup, or a damaged one: {output:?}");
        }
        assert!(!cli.path("restored").exists());
    }
}

#[test]
fn row_67_an_old_backup_takes_nothing_back() {
    let mut two = Two::with(&["deleted later", "edited later", "kept"]);
    let backup = two.path("backup.tar");
    two.a.backup(&backup).unwrap();
    let entries = two.a.entries().unwrap();
    let named = |title: &str| entries.iter().find(|it| it.summary.title == title).unwrap().id();
    two.clocks.iter().for_each(|clock| clock.advance(60_000));
    delete(&mut two.a, named("deleted later"));
    edit(&mut two.a, named("edited later"), "edited");
    sync(&mut two.a, &two.remote);
    let host = |dir: &std::path::Path| ThisMachine::with_clock(dir, TestClock::at(NOW + 120_000));
    let opened = Backup::of_vault(&backup, two.a.keyring()).unwrap();
    let to = two.path("restored");
    vault::restore(&opened, two.a.keyring(), &to, host, "restored").unwrap();
    let mut restored = open_vault(&to, &TestClock::at(NOW + 120_000));
    assert_eq!(titles(&mut restored), ["deleted later", "edited later", "kept"], "as it was");
    set_remote(&mut restored);
    sync(&mut restored, &two.remote);
    for vault in [&mut restored, &mut two.a, &mut two.b] {
        sync(vault, &two.remote);
        assert_eq!(titles(vault), ["edited", "kept"]);
        assert!(vault.entries().unwrap().iter().all(|entry| entry.losers.is_empty()));
    }
}

#[test]
fn row_68_a_backup_opens_with_the_password_of_its_day_alone() {
    let dir = crate::common::cli::temp_dir();
    let mut vault = new_vault(&dir.path().join("vault"), "laptop", &TestClock::at(NOW));
    add(&mut vault, "kept");
    let changed = || Password::new("marble anvil thicket solder 17").unwrap();
    let [before, after] = ["before.tar", "after.tar"].map(|name| dir.path().join(name));
    vault.backup(&before).unwrap();
    vault.change_password(&changed(), MIN_WRITTEN_ITERATIONS).unwrap();
    vault.backup(&after).unwrap();
    for (backup, right, wrong) in [(before, password(), changed()), (after, changed(), password())] {
        let (opened, keyring) = Backup::unlock(&backup, &Secret::Password(right)).unwrap();
        assert_eq!(opened.verify(&keyring).unwrap().objects, 1);
        let refused = Backup::unlock(&backup, &Secret::Password(wrong)).err().unwrap();
        assert!(matches!(refused, Error::Key { error: KeyFileError::WrongSecret, .. }), "{refused}");
    }
}
