//! What opens a vault, how it is changed, and how other devices learn of it: through nothing but an untrusted mirror.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use espejo::crypto::{Keyring, MIN_WRITTEN_ITERATIONS, Password};
use espejo::entropy::OsEntropy;
use espejo::event::Finding;
use espejo::format::keyfile::{KeyFile, KeyFileError, NewKeyFile, Secret};
use espejo::host::ThisMachine;
use espejo::id::DeviceId;
use espejo::remote::{MemoryRemote, Remote, RemotePath};
use espejo::sync::{self, Options};
use espejo::vault::{self};
use serde_json::json;

use crate::common::cli::{Cli, Server, finish};
use crate::common::*;

const CHANGED: &str = "marble anvil thicket solder 17";
const ALSO_CHANGED: &str = "saffron ladder quiver bishop 23";

fn change(vault: &mut TestVault, password: &str) {
    vault.change_password(&Password::new(password).unwrap(), MIN_WRITTEN_ITERATIONS).unwrap();
}

fn unlock(dir: &Path, password: &str) -> Result<TestVault, vault::Error> {
    try_open(dir, password, &TestClock::at(NOW))
}

fn opens(dir: &Path, password: &str) -> bool {
    match unlock(dir, password) {
        Ok(mut vault) => vault.entries().unwrap().len() == 1,
        Err(vault::Error::Key { error: KeyFileError::WrongSecret, .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

const OLD: &str = "correct horse battery staple";

fn path(text: &str) -> RemotePath {
    RemotePath::new(text).unwrap()
}

fn keys_on(remote: &MemoryRemote) -> Vec<String> {
    remote.files().into_keys().filter(|name| name.starts_with("keys/")).collect()
}

fn keys_in(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join("keys")).unwrap();
    files.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}

/// A sync that must go well: its requests, and what it found.
fn watched(vault: &mut TestVault, remote: &MemoryRemote, options: Options) -> (u64, Vec<Finding>) {
    let before = remote.traffic().requests;
    let (report, findings) = try_sync(vault, remote, options);
    let report = report.unwrap();
    assert!(report.is_settled(), "{report:?}, {findings:?}");
    (remote.traffic().requests - before, findings)
}

#[test]
fn a_password_changed_elsewhere_is_taken_over_without_being_known() {
    let Two { dirs, mut a, mut b, remote, .. } = two(&["kept"]);
    let objects =
        || remote.files().into_iter().filter(|(name, _)| name.starts_with("objects/")).collect::<Vec<_>>();
    let before = objects();
    change(&mut a, CHANGED);
    assert!(!opens(dirs[0].path(), OLD) && opens(dirs[0].path(), CHANGED), "it counts here at once");
    // The key file comes before the announcement that names it.
    let (requests, findings) = watched(&mut a, &remote, Options::default());
    assert_eq!((requests, findings), (5, Vec::new()), "list, look, key file, confirm, segment");
    assert_eq!(watched(&mut a, &remote, Options::default()).0, 1, "nothing to do");
    // Who was away goes on with the old one, and works.
    assert!(opens(dirs[1].path(), OLD) && !opens(dirs[1].path(), CHANGED));
    let entry = b.entries().unwrap()[0].id();
    edit(&mut b, entry, "kept, and edited away from home");
    let (_, findings) = watched(&mut b, &remote, Options::default());
    let [Finding::PasswordChanged(by)] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((by.device.as_deref(), by.at_once), (Some("laptop"), false));
    assert!((NOW..NOW + 1_000).contains(&by.at), "{}", by.at);
    assert!(findings[0].to_string().contains("\"laptop\""), "{}", findings[0]);
    assert!(!opens(dirs[1].path(), OLD) && opens(dirs[1].path(), CHANGED));
    assert_eq!(keys_in(dirs[1].path()).len(), 1, "the old wrapper is gone");
    let Err(vault::Error::Key { set: Some(set), .. }) = unlock(dirs[1].path(), OLD) else { panic!() };
    assert_eq!((set.changed, set.here, set.by.as_deref()), (true, false, Some("laptop")));
    // Not one object was sent again, but the edit.
    assert_eq!(objects().len(), before.len() + 1);
    assert!(before.iter().all(|object| objects().contains(object)));
    for vault in [&mut a, &mut b] {
        watched(vault, &remote, Options::default());
        assert_eq!(watched(vault, &remote, Options::default()).0, 1, "nothing to do");
    }
    edit(&mut a, entry, "again");
    assert_eq!(watched(&mut a, &remote, Options::default()).0, 4, "one edit");
    // The keys are the same: what was there opens for a newcomer with the new password, and not with the old one.
    let dir = tempfile::tempdir().unwrap();
    let introduction = block_on(sync::introduce(&remote)).unwrap();
    let host = || ThisMachine::with_clock(dir.path(), TestClock::at(NOW));
    let join = |password: &str| {
        let secret = Secret::Password(Password::new(password).unwrap());
        vault::create_from_mirror(host(), introduction.vault, &introduction.key_files, &secret, "tablet")
    };
    assert_eq!(introduction.key_files.len(), 2, "the old one is still there");
    let Err(vault::Error::Key { error: KeyFileError::WrongSecret, .. }) = join(OLD) else { panic!() };
    let mut c = join(CHANGED).unwrap();
    set_remote(&mut c);
    sync(&mut c, &remote);
    assert_eq!(titles(&mut c), ["again"]);
}

#[test]
fn two_passwords_changed_at_once_both_open_until_there_is_a_next_one() {
    let Two { dirs, mut a, mut b, clocks, remote } = two(&["kept"]);
    clocks[1].advance(500_000);
    change(&mut a, CHANGED);
    change(&mut b, ALSO_CHANGED);
    sync(&mut a, &remote);
    for (vault, by) in [(&mut b, Some("laptop")), (&mut a, None)] {
        let (_, findings) = watched(vault, &remote, Options::default());
        let [Finding::PasswordChanged(told)] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((told.device.as_deref(), told.at_once), (by, true));
    }
    for dir in &dirs {
        assert!(opens(dir.path(), CHANGED) && opens(dir.path(), ALSO_CHANGED) && !opens(dir.path(), OLD));
    }
    assert_eq!(a.key_file().unwrap(), b.key_file().unwrap());
    for _ in 0..2 {
        watched(&mut b, &remote, Options::default());
        watched(&mut a, &remote, Options::default());
    }
    assert_eq!(watched(&mut a, &remote, Options::default()).0, 1, "nothing to do");
    // A newcomer may come with either.
    for password in [CHANGED, ALSO_CHANGED] {
        let dir = tempfile::tempdir().unwrap();
        let introduction = block_on(sync::introduce(&remote)).unwrap();
        let host = ThisMachine::with_clock(dir.path(), TestClock::at(NOW));
        let secret = Secret::Password(Password::new(password).unwrap());
        let (id, key_files) = (introduction.vault, &introduction.key_files);
        let vault = vault::create_from_mirror(host, id, key_files, &secret, "tablet").unwrap();
        assert_eq!(vault.key_file().unwrap(), a.key_file().unwrap());
    }
    change(&mut a, "one for all, thistle 44");
    sync(&mut a, &remote);
    sync(&mut b, &remote);
    for dir in &dirs {
        assert!(!opens(dir.path(), CHANGED) && !opens(dir.path(), ALSO_CHANGED));
        assert!(opens(dir.path(), "one for all, thistle 44"));
        assert_eq!(keys_in(dir.path()).len(), 1);
    }
}

#[test]
fn old_wrappers_leave_the_mirror_when_every_device_has_the_new_one_and_not_before() {
    let Two { dirs: _dirs, mut a, mut b, clocks, remote } = two(&["kept"]);
    let first = keys_on(&remote);
    change(&mut a, CHANGED);
    sync(&mut a, &remote);
    let both = keys_on(&remote);
    assert!(both.len() == 2 && both.contains(&first[0]));
    clocks[0].advance(2 * DAY_MS);
    sync(&mut a, &remote);
    assert_eq!(keys_on(&remote), both, "the other device may still need it");
    sync(&mut b, &remote);
    clocks[1].advance(2 * DAY_MS);
    // It says that it has it.
    sync(&mut b, &remote);
    clocks[0].advance(2 * DAY_MS);
    sync(&mut a, &remote);
    clocks[0].advance(2 * DAY_MS);
    sync(&mut a, &remote);
    let left = keys_on(&remote);
    assert_eq!(left, [format!("keys/{}", a.key_file().unwrap().file_name())]);
    // What a server puts back is removed again, and was never read.
    clocks[0].advance(2 * DAY_MS);
    remote.set_file(&path(&first[0]), Bytes::from_static(b"not a key file"));
    sync(&mut a, &remote);
    assert_eq!(keys_on(&remote).len(), 2, "what is not known for an old one is left alone");
}

/// Key files of the same vault that wrap another master key for the same password, authentic under it.
fn impostor(vault: &TestVault, generation: u32) -> KeyFile {
    let keyring = Keyring::generate(vault.id(), &OsEntropy).unwrap();
    let new = NewKeyFile {
        generation,
        created_ms: NOW,
        device: DeviceId::from_bytes([5; 16]),
        password: &password(),
        iterations: MIN_WRITTEN_ITERATIONS,
        recovery: None,
    };
    KeyFile::new(&keyring, &new, &OsEntropy).unwrap()
}

#[test]
fn a_mirror_that_forges_swaps_or_rolls_back_key_files_is_noticed_and_never_believed() {
    let Two { dirs, mut a, mut b, remote, .. } = two(&["kept"]);
    let first = (keys_on(&remote).remove(0), remote.files()[&keys_on(&remote)[0]].clone());
    change(&mut a, CHANGED);
    sync(&mut a, &remote);
    let name = a.key_file().unwrap().file_name();
    let at = path(&format!("keys/{name}"));
    let good = remote.files()[at.as_str()].clone();
    let mut flipped = good.to_vec();
    flipped[200] ^= 4;
    let local = |dir: &Path| (keys_in(dir), fs::read(dir.join("local/key")).unwrap());
    let before = local(dirs[1].path());
    // Under the name that was announced there is something else.
    for wrong in
        [Bytes::from(flipped), first.1.clone(), good.slice(..300), Bytes::from(impostor(&b, 2).encode())]
    {
        remote.set_file(&at, wrong);
        let (report, findings) = try_sync(&mut b, &remote, Options::default());
        assert_eq!(report.unwrap().pending, 1);
        let named =
            |finding: &Finding| matches!(finding, Finding::MirrorDamaged { file, .. } if file == at.as_str());
        assert!(findings.iter().any(named), "{findings:?}");
        assert_eq!(local(dirs[1].path()), before, "the good one here is untouched");
    }
    // It is gone: what was announced is on its way.
    remote.remove_file(&at);
    assert_eq!(try_sync(&mut b, &remote, Options::default()).0.unwrap().pending, 1);
    assert!(opens(dirs[1].path(), OLD));
    // Whoever has it puts it back.
    let (_, findings) = watched(&mut a, &remote, FULL);
    assert!(findings.contains(&Finding::MirrorHealed { file: at.to_string() }), "{findings:?}");
    watched(&mut b, &remote, Options::default());
    assert!(opens(dirs[1].path(), CHANGED) && !opens(dirs[1].path(), OLD));
    // A forged one with a higher generation is nobody's word; an old one that comes back is not either.
    let forged = impostor(&a, 9);
    remote.set_file(&path(&format!("keys/{}", forged.file_name())), Bytes::from(forged.encode()));
    remote.set_file(&path(&first.0), first.1);
    let before = local(dirs[0].path());
    for vault in [&mut a, &mut b] {
        watched(vault, &remote, FULL);
        watched(vault, &remote, Options::default());
    }
    assert_eq!(local(dirs[0].path()), before);
    assert_eq!(local(dirs[1].path()).1, before.1);
    assert!(!opens(dirs[0].path(), OLD) && !opens(dirs[1].path(), OLD));
}

#[test]
fn a_mirror_made_under_the_old_password_is_known_when_it_has_lost_its_marker() {
    let dir = tempfile::tempdir().unwrap();
    let remote = MemoryRemote::new();
    let mut a = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    add(&mut a, "kept");
    set_remote(&mut a);
    sync(&mut a, &remote);
    let files = remote.files();
    remote.remove_file(&path("espejo.json"));
    change(&mut a, CHANGED);
    // As for a device that was told of the mirror again.
    a.forget_remote().unwrap();
    set_remote(&mut a);
    for name in files.keys().filter(|name| name.starts_with("feeds/")) {
        remote.remove_file(&path(name));
    }
    sync(&mut a, &remote);
    assert!(remote.files().contains_key("espejo.json"));
    assert_eq!(keys_on(&remote).len(), 2);
}

#[test]
fn passwd_says_what_it_does_and_what_it_does_not() {
    let mut cli = Cli::with_vault();
    cli.add("kept");
    let new = cli.file("secrets/new", format!("{CHANGED}\n"));
    let weak = cli.file("secrets/weak", "password1\n");
    assert_eq!(cli.error(12, &["passwd", "--new-password-file", &weak])["kind"], "weak_password");
    // The old password is not taken for the new one.
    assert_eq!(cli.error(12, &["passwd"])["kind"], "no_password");
    let output = cli.run(&["passwd", "--new-password-file", &new]);
    assert_eq!((output.code, output.text()), (0, "the password is changed\n"));
    assert!(output.stderr.contains("still opens what was copied before"), "{output:?}");
    assert!(output.stderr.contains("backups"), "{output:?}");
    let error = cli.error(12, &["list"]);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("the key file is intact") && message.contains("changed on this device today"),
        "{error}"
    );
    cli.set("ESPEJO_PASSWORD_FILE", &new);
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);
    let again = cli.json(&["passwd", "--new-password-file", &weak, "--allow-weak-password"]);
    assert_eq!((&again["generation"], &again["mirrored"]), (&json!(3), &json!(false)));
    assert!(again["iterations"].as_u64().unwrap() >= 600_000);
}

#[test]
fn a_device_that_has_not_synced_says_so_and_can_be_given_the_new_key_file() {
    let cli = Cli::with_vault();
    cli.add("kept");
    let mirror = cli.arg("mirror");
    let (new, old) = (cli.file("secrets/new", CHANGED), cli.arg("secrets/password"));
    cli.json(&["remote", "set", &mirror]);
    cli.json(&["sync"]);
    let other = cli.arg("desktop");
    cli.json(&["clone", &mirror, &other, "--device-name", "desktop"]);
    cli.json(&["passwd", "--new-password-file", &new]);
    cli.json(&["sync", "--password-file", &new]);
    // The new password, where it is not known yet.
    let there = |args: &[&str], password: &str| {
        let mut all = vec!["--json", "--vault", other.as_str(), "--password-file", password];
        all.extend(args);
        cli.run(&all)
    };
    let error = there(&["list"], &new).error(12);
    assert!(error["hint"].as_str().unwrap().contains("espejo repair --from remote"), "{error}");
    there(&["list"], &old).json();
    there(&["repair", "--from", "remote"], &new).json();
    there(&["list"], &new).json();
    let error = there(&["list"], &old).error(12);
    assert!(error["message"].as_str().unwrap().contains("The password was changed"), "{error}");
    // The next sync tells who it was.
    there(&["sync"], &new).json();
    let error = there(&["list"], &old).error(12);
    assert!(
        error["message"].as_str().unwrap().contains("changed on laptop today: use the new one"),
        "{error}"
    );
}

#[test]
fn a_lost_key_file_comes_back_from_a_folder_a_server_or_a_backup() {
    let mut cli = Cli::with_vault();
    cli.add("kept");
    let backup = cli.arg("backup.tar");
    cli.json(&["backup", "create", &backup]);
    let lose = |cli: &Cli| {
        fs::remove_dir_all(cli.vault.join("keys")).unwrap();
        fs::write(cli.vault.join("local/key"), b"damaged").unwrap();
    };
    lose(&cli);
    let error = cli.error(15, &["list"]);
    assert_eq!(error["kind"], "key_file_missing");
    assert!(error["hint"].as_str().unwrap().contains("espejo repair"), "{error}");
    // There is no mirror to ask; a dry run puts nothing back.
    assert_eq!(cli.error(15, &["repair"])["kind"], "key_file_missing");
    let from_backup = format!("backup={backup}");
    cli.error(15, &["repair", "-n", "--from", &from_backup]);
    let wrong = cli.file("secrets/wrong", "another one entirely 9");
    cli.error(12, &["repair", "--from", &from_backup, "--password-file", &wrong]);
    cli.json(&["repair", "--from", &from_backup]);
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);

    cli.json(&["remote", "set", &cli.arg("mirror")]);
    cli.json(&["sync"]);
    lose(&cli);
    cli.json(&["repair"]);
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);

    // Of a server only the address is known without the key.
    let server = Server::start(cli.path("server"), "ana", "letmein");
    let login = cli.file("secrets/login", "letmein");
    cli.json(&["remote", "set", &server.url, "--user", "ana", "--remote-password-file", &login]);
    cli.json(&["sync"]);
    lose(&cli);
    assert_eq!(cli.error(15, &["repair"])["kind"], "key_file_missing");
    let refused = cli.error(13, &["repair", "--from", "remote"]);
    assert!(refused["hint"].as_str().unwrap().contains("--user U"), "{refused}");
    cli.json(&["repair", "--from", "remote", "--user", "ana", "--remote-password-file", &login]);
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);
    assert_eq!(cli.json(&["check"])["files"], json!([]));

    // Another vault's key file is not taken for this one's.
    let other = Cli::with_vault();
    let key = fs::read_dir(other.vault.join("keys")).unwrap().next().unwrap().unwrap().path();
    lose(&cli);
    fs::create_dir(cli.vault.join("keys")).unwrap();
    fs::copy(&key, cli.vault.join("keys").join(key.file_name().unwrap())).unwrap();
    assert_eq!(cli.error(15, &["list"])["kind"], "key_file_of_another_vault");
    cli.set("ESPEJO_REMOTE_PASSWORD_FILE", &login);
    cli.json(&["repair", "--user", "ana"]);
    assert_eq!(cli.json(&["list"])["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn recovery_words_are_made_tried_and_replaced() {
    let cli = Cli::with_vault();
    let entry = cli.add("kept");
    let (first, second) = (cli.arg("secrets/first"), cli.arg("secrets/second"));
    // Nobody is there to read them, and a vault or a mirror is no place for them.
    cli.error(2, &["recovery", "new"]);
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    cli.json(&["sync"]);
    for inside in [cli.arg("vault/words"), cli.arg("vault/local/words"), cli.arg("mirror/keys/words")] {
        cli.error(2, &["recovery", "new", "--recovery-out", &inside]);
        assert!(!Path::new(&inside).exists());
    }
    let made = cli.json(&["recovery", "new", "--recovery-out", &first]);
    assert_eq!((&made["generation"], &made["file"]), (&json!(2), &json!(first)));
    assert_eq!(fs::read_to_string(&first).unwrap().split_whitespace().count(), 24);
    cli.error(2, &["recovery", "new", "--recovery-out", &first]);
    let verify = |words: &str| cli.run(&["recovery", "verify", "--recovery-key-file", words, "--json"]);
    assert_eq!(verify(&first).json(), json!({ "opens": true }));
    cli.json(&["recovery", "new", "--recovery-out", &second]);
    assert_eq!(verify(&first).error(12)["kind"], "wrong_password");
    assert_eq!(verify(&second).code, 0);
    // Who forgot the password sets a new one with the words, and the words stay.
    let new = cli.file("secrets/new", CHANGED);
    cli.json(&["passwd", "--recovery-key-file", &second, "--new-password-file", &new]);
    assert_eq!(cli.json(&["list", "--password-file", &new])["entries"][0]["id"], json!(entry));
    assert_eq!(verify(&second).code, 0);
    let not_words = cli.file("secrets/not-words", "abandon abandon");
    assert_eq!(verify(&not_words).error(12)["kind"], "bad_recovery_key");
}

/// On a terminal, answering each prompt when it comes.
fn answer(cli: &Cli, args: &[&str], mut answers: impl FnMut(&str) -> Option<String>) -> (i32, String) {
    use std::io::{Read, Write};
    let mut words = vec![crate::common::cli::ESPEJO];
    words.extend(args);
    let mut command = cli.bare_command("script", &["-qec", &shell_words::join(words), "/dev/null"]);
    command.env("ESPEJO_VAULT", &cli.vault).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().expect("`script` (util-linux) makes the terminal for this test");
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut bytes = [0; 4_096];
    while let Ok(read @ 1..) = screen.read(&mut bytes) {
        shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        if shown.ends_with(": ") {
            match answers(&shown) {
                Some(answer) => keys.write_all(format!("{answer}\r").as_bytes()).unwrap(),
                None => break,
            }
        }
    }
    drop(keys);
    (finish(child, b"").code, shown)
}

/// The words of a numbered table on a terminal.
fn numbered(shown: &str) -> Vec<String> {
    let mut words = shown.split_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        if word == format!("{}.", found.len() + 1) {
            found.extend(words.next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn on_a_terminal_a_phrase_is_offered_and_the_words_are_shown_once_and_asked_back() {
    let cli = Cli::new();
    let mut phrase = String::new();
    let (code, shown) = answer(&cli, &["init"], |shown| {
        let last = shown.rsplit('\n').next().unwrap();
        if last.contains("New password:") {
            let at = shown.lines().position(|line| line.contains("press Enter")).unwrap();
            phrase = shown.lines().nth(at + 1).unwrap().trim().to_owned();
            return Some(String::new());
        }
        if last.contains("The same again:") {
            return Some(phrase.clone());
        }
        let number = last.trim().trim_start_matches("Word ").trim_end_matches(':').parse::<usize>().unwrap();
        Some(numbered(shown)[number - 1].clone())
    });
    assert_eq!(code, 0, "{shown}");
    assert_eq!((phrase.split(' ').count(), shown.matches("Word ").count()), (6, 2), "{shown}");
    let words = numbered(&shown);
    assert_eq!(words.len(), 24, "{shown}");
    let (phrase, words) = (cli.file("secrets/phrase", &phrase), cli.file("secrets/words", words.join(" ")));
    assert_eq!(cli.run(&["list", "--password-file", &phrase]).code, 0);
    assert_eq!(cli.run(&["recovery", "verify", "--recovery-key-file", &words]).code, 0);
    // A wrong word three times: nothing is changed, and the words that were shown open nothing.
    let (code, shown) = answer(&cli, &["recovery", "new", "--password-file", &phrase], |shown| {
        shown.ends_with(": ").then(|| "wrong".to_owned())
    });
    assert_eq!(code, 12, "{shown}");
    assert!(shown.contains("nothing was changed"), "{shown}");
    let shown = cli.file("secrets/shown", numbered(&shown).join(" "));
    assert_eq!(cli.run(&["recovery", "verify", "--recovery-key-file", &shown]).code, 12);
    assert_eq!(cli.run(&["recovery", "verify", "--recovery-key-file", &words]).code, 0);
}
