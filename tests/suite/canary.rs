//! No secret ends up where it does not belong: every secret of a journal carries an unmistakable word, and that word
//! is then looked for everywhere, in every encoding a leak might have.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::cli::{Cli, ESPEJO, Server, clean, finish};
use crate::common::dice::Dice;
use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL, HEXLOWER, HEXUPPER};

/// What a leak of `secret` could look like.
fn disguises(secret: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let mut all = vec![
        ("as it is".to_owned(), bytes.to_vec()),
        ("reversed".to_owned(), bytes.iter().rev().copied().collect()),
        ("upper case".to_owned(), secret.to_uppercase().into_bytes()),
        ("lower case".to_owned(), secret.to_lowercase().into_bytes()),
        ("hex".to_owned(), HEXLOWER.encode(bytes).into_bytes()),
        ("HEX".to_owned(), HEXUPPER.encode(bytes).into_bytes()),
        ("UTF-16LE".to_owned(), secret.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("UTF-16BE".to_owned(), secret.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("base32".to_owned(), BASE32_NOPAD.encode(&bytes[..bytes.len() / 5 * 5]).into_bytes()),
    ];
    for skip in 0..3 {
        // Whole groups of three, from each of the places a group may begin.
        let groups = &bytes[skip..];
        let groups = &groups[..groups.len() / 3 * 3];
        all.push((format!("base64 from {skip}"), BASE64.encode(groups).into_bytes()));
        all.push((format!("base64url from {skip}"), BASE64URL.encode(groups).into_bytes()));
    }
    all
}

/// Looks for secrets, and counts where it looked.
struct Search {
    needles: Vec<(String, Vec<u8>)>,
    places: usize,
    bytes: usize,
    found: Vec<String>,
}

impl Search {
    fn new(secrets: &[&str]) -> Self {
        let needles = secrets.iter().flat_map(|secret| {
            disguises(secret).into_iter().map(move |(how, bytes)| (format!("{secret} {how}"), bytes))
        });
        Self { needles: needles.collect(), places: 0, bytes: 0, found: Vec::new() }
    }

    fn look(&mut self, place: &str, haystack: &[u8]) {
        self.places += 1;
        self.bytes += haystack.len();
        for (name, needle) in &self.needles {
            if haystack.windows(needle.len()).any(|window| window == needle) {
                self.found.push(format!("{name}: in {place}"));
            }
        }
    }

    /// Names and contents of everything below `dir`.
    fn look_below(&mut self, dir: &Path) {
        for item in walkdir::WalkDir::new(dir) {
            let Ok(item) = item else { continue };
            let below = item.path().strip_prefix(dir).unwrap();
            self.look(&format!("the name {}", item.path().display()), below.as_os_str().as_bytes());
            if item.file_type().is_file() {
                self.look(&item.path().display().to_string(), &fs::read(item.path()).unwrap());
            }
        }
    }

    /// Command line and environment of a process and of everything it started.
    fn look_at_process(&mut self, pid: u32) -> usize {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            let content = fs::read(&path).unwrap_or_default();
            assert!(!content.is_empty(), "{path}");
            self.look(&path, &content);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        1 + children.split_whitespace().map(|pid| self.look_at_process(pid.parse().unwrap())).sum::<usize>()
    }

    fn assert_nothing(&self) {
        assert!(self.found.is_empty(), "{:#?}", self.found);
    }
}

const TITLE: &str = "Zq7TitleCanary0x9f";
const BODY: &str = "Zq7BodyCanary0x3b";
const EDITED: &str = "Zq7EditedCanary0x71";
const TAG: &str = "Zq7TagCanary0xd4";
const ATTACHMENT_NAME: &str = "Zq7AttachmentNameCanary0x58";
const ATTACHMENT: &str = "Zq7AttachmentCanary0xe0";
const DRAFT: &str = "Zq7DraftCanary0x2a";
const PASSWORD: &str = "Zq7PasswordCanary0xc6 umbra";
const REMOTE_PASSWORD: &str = "Zq7RemoteCanary0x17";
const DEVICE: &str = "Zq7DeviceCanary0x83";

#[test]
fn the_search_finds_what_it_should() {
    let mut search = Search::new(&[BODY]);
    for (_, disguise) in disguises(BODY) {
        let before = search.found.len();
        search.look("a test", &[b"something before ", &disguise[..], b" and after"].concat());
        assert!(search.found.len() > before);
    }
    // As in `Authorization: Basic`, wherever the secret begins.
    for lead in ["", "a", "ab"] {
        let before = search.found.len();
        search.look("a test", BASE64.encode(format!("{lead}{BODY}").as_bytes()).as_bytes());
        assert!(search.found.len() > before, "{lead:?}");
    }
}

#[test]
fn secrets_are_found_nowhere_but_where_the_person_put_them() {
    let mut cli = Cli::new();
    let password = cli.file("secrets/vault-password", PASSWORD);
    let remote_password = cli.file("secrets/remote-password", REMOTE_PASSWORD);
    let words = cli.arg("secrets/words");
    fs::create_dir(cli.path("given")).unwrap();
    let attachment = cli.file(&format!("given/{ATTACHMENT_NAME}.txt"), ATTACHMENT);
    let body = cli.file("given/body.md", format!("{BODY}\nand more"));
    let edited = cli.file("given/edited.md", EDITED);
    cli.set("ESPEJO_PASSWORD_FILE", &password);

    let init = ["init", cli.vault.to_str().unwrap(), "--device-name", DEVICE, "--recovery-out", &words];
    let mut said = vec![cli.run(&init)];
    let mirror = cli.arg("mirror");
    let server = Server::start(cli.path("server"), "ana", REMOTE_PASSWORD);
    let set_server =
        ["remote", "set", &server.url, "--user", "ana", "--remote-password-file", &remote_password];
    for args in [
        &["add", &body, "-t", TITLE, "-T", TAG, "-a", &attachment][..],
        &["remote", "set", &mirror],
        &["sync"],
        &["edit", "@", "--file", &edited],
        &["sync"],
        &set_server,
        &["sync"],
        &["sync", "--full"],
        &["check"],
        &["status"],
        &["remote", "show"],
        &["remote", "test"],
        &["rm", "@"],
        &["sync"],
    ] {
        let output = cli.run(args);
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
        said.push(output);
    }
    // These say content to who asked; on stderr there is none.
    for args in [&["undelete", "--", "@"][..], &["list", "--deleted"], &["search", BODY], &["log", "@"]] {
        let output = cli.run(args);
        said.push(crate::common::cli::Output { stdout: Vec::new(), ..output });
    }
    // Failures have no secrets in them either.
    let wrong = cli.file("secrets/wrong", format!("{PASSWORD} but wrong"));
    said.push(cli.run(&["list", "--password-file", &wrong]));
    let wrong_words =
        cli.file("secrets/wrong-words", fs::read_to_string(&words).unwrap().replacen(' ', " zebra ", 1));
    cli.set("ESPEJO_PASSWORD_FILE", "");
    said.push(cli.run(&["list", "--recovery-key-file", &wrong_words, "--json"]));
    cli.set("ESPEJO_PASSWORD_FILE", &password);

    // A damaged object, its quarantine, its repair.
    let objects = crate::common::cli::files(&cli.vault.join("objects"));
    for (path, mut bytes) in objects {
        bytes[2_000] ^= 4;
        fs::write(cli.vault.join("objects").join(path), bytes).unwrap();
    }
    said.push(cli.run(&["check"]));
    said.push(cli.run(&["sync"]));

    // A draft, written and saved in an editor; while it is open, the processes are looked at.
    cli.program("slow-editor", &format!("echo {DRAFT} > \"$1\"; sleep 3"));
    cli.set("EDITOR", cli.arg("bin/slow-editor"));
    fs::create_dir(cli.path("editor")).unwrap();
    let recovery = fs::read_to_string(&words).unwrap();
    let secrets = [
        TITLE,
        BODY,
        EDITED,
        TAG,
        ATTACHMENT_NAME,
        ATTACHMENT,
        DRAFT,
        PASSWORD,
        REMOTE_PASSWORD,
        DEVICE,
        recovery.trim(),
    ];
    let mut search = Search::new(&secrets);
    let mnemonic = bip39::Mnemonic::parse(recovery.trim()).unwrap().to_entropy();
    search.needles.push(("the recovery key".to_owned(), mnemonic.clone()));
    search.needles.push(("the recovery key in hex".to_owned(), HEXLOWER.encode(&mnemonic).into_bytes()));
    search
        .needles
        .push(("the recovery key in base64".to_owned(), BASE64.encode(&mnemonic[..30]).into_bytes()));
    let mut script =
        cli.bare_command("script", &["-qec", &format!("{} add", crate::common::cli::ESPEJO), "/dev/null"]);
    script.env("ESPEJO_VAULT", &cli.vault);
    let child = script.spawn().expect("`script` (util-linux) makes the terminal for this test");
    let processes = wait_for(|| {
        let tree = tree_of(child.id());
        tree.iter().any(|pid| is_called(*pid, "sleep")).then_some(tree)
    });
    // Their environment has the variables that name the password's file, never the password.
    assert!(search.look_at_process(child.id()) >= 3, "script, espejo and the editor: {processes:?}");
    let drafted = finish(child, b"");
    assert_eq!(drafted.code, 0, "{drafted:?}");

    // A command that has everything unlocked, caught in the middle of a sync.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/remote.php/dav/files/ada/journal", silent.local_addr().unwrap());
    let args = ["remote", "set", &url, "--user", "ana", "--remote-password-file", &remote_password];
    assert_eq!(cli.run(&args).code, 0);
    cli.set("ESPEJO_PASSWORD_FILE", "");
    let slow =
        cli.command(&["sync", "-v", "--password-command", &format!("cat {password}")]).spawn().unwrap();
    let _connection = silent.accept().unwrap();
    search.look_at_process(slow.id());
    let limits = fs::read_to_string(format!("/proc/{}/limits", slow.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core = core.split_whitespace().filter(|word| *word == "0").count();
    assert_eq!(core, 2, "no core dump may be written: {limits}");
    search.look_below(&cli.vault);
    let pid = rustix::process::Pid::from_raw(slow.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    said.push(finish(slow, b""));

    for dir in ["vault", "mirror", "server", "home", "tmp", "run", "config", "data", "state", "cache"] {
        assert!(cli.path(dir).is_dir(), "{dir}");
        search.look_below(&cli.path(dir));
    }
    for output in &said {
        // What `add` and `rm` print for the person names the title; everything else is looked at whole.
        let shown = String::from_utf8_lossy(&output.stdout).replace(TITLE, "");
        search.look(&format!("{:?}", shown.lines().next()), shown.as_bytes());
        search.look(&format!("stderr of {:?}", shown.lines().next()), output.stderr.as_bytes());
    }
    for left in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = left.file_name().to_string_lossy().into_owned();
        if name.starts_with("espejo-") && !name.starts_with("espejo-test-") {
            search.look_below(&left.path());
        }
    }
    println!("{} needles, {} places, {} bytes", search.needles.len(), search.places, search.bytes);
    assert!(search.places > 100, "{} places", search.places);
    search.assert_nothing();
}

/// Every secret here has this in it.
const ANY: &str = "Canary0x";

#[test]
fn no_command_leaves_a_secret_behind_wherever_it_is_killed() {
    const KILLS: usize = 8;
    let mut cli = Cli::new();
    let password = cli.file("secrets/password", PASSWORD);
    fs::create_dir(cli.path("given")).unwrap();
    let attachment = cli.file(&format!("given/{ATTACHMENT_NAME}.txt"), ATTACHMENT.repeat(5_000));
    let body = cli.file("given/body.md", format!("{BODY}\nand more"));
    cli.set("ESPEJO_PASSWORD_FILE", &password);
    let init = ["init", cli.vault.to_str().unwrap(), "--device-name", DEVICE, "--no-recovery"];
    for args in [&init[..], &["remote", "set", &cli.arg("mirror")], &["add", &body, "-t", TITLE], &["sync"]] {
        assert_eq!(cli.run(args).code, 0, "{args:?}");
    }
    let backup = cli.arg("backup.tar");
    assert_eq!(cli.run(&["backup", "create", &backup]).code, 0);

    let mut dice = Dice(7);
    let (mut killed, mut places) = (0, 0);
    for (command, args) in [
        ("add", &[&body[..], "-t", TITLE, "-T", TAG, "-a", &attachment][..]),
        ("edit", &["@", "-m", EDITED]),
        ("sync", &["--full"]),
        ("list", &["--deleted"]),
        ("search", &[BODY]),
        ("check", &["--remote"]),
        ("passwd", &["--new-password-file", &password]),
        ("recovery", &["new", "--yes", "--recovery-out"]),
        ("backup", &["create"]),
        ("restore", &[&backup, "--to"]),
        ("rm", &["@"]),
    ] {
        let mut usual = Duration::ZERO;
        for round in 0..=KILLS {
            // What is made anew needs a new place every time.
            let place = match command {
                "recovery" => Some(cli.arg(&format!("secrets/words-{round}"))),
                "backup" => Some(cli.arg(&format!("backups-{round}.tar"))),
                "restore" => Some(cli.arg(&format!("restored-{round}"))),
                _ => None,
            };
            let all = [&[command], args, &place.as_deref().into_iter().collect::<Vec<_>>()].concat();
            let start = Instant::now();
            let mut child = cli.command(&all).spawn().unwrap();
            if round == 0 {
                assert_eq!(finish(child, b"").code, 0, "{all:?}");
                usual = start.elapsed();
            } else {
                std::thread::sleep(usual * dice.below(1_000) as u32 / 1_000);
                child.kill().unwrap();
                killed += usize::from(finish(child, b"").code == -1);
            }
            let mut search = Search::new(&[ANY]);
            for item in fs::read_dir(&cli.dir).unwrap() {
                let item = item.unwrap().path();
                if !["secrets", "given"].iter().any(|theirs| item.ends_with(theirs)) {
                    search.look_below(&item);
                    search.look(&item.display().to_string(), &fs::read(&item).unwrap_or_default());
                }
            }
            assert!(search.found.is_empty(), "{all:?} killed: {:#?}", search.found);
            places += search.places;
        }
    }
    println!("{killed} kills, {places} places");
    assert!(killed >= 48 && places > 5_000, "{killed} kills, {places} places");
}

fn wait_for<T>(mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = done() {
            return done;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn tree_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut tree = vec![pid];
    children.split_whitespace().for_each(|pid| tree.extend(tree_of(pid.parse().unwrap())));
    tree
}

fn is_called(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}

#[test]
fn no_secret_can_be_given_as_an_argument() {
    // Every flag that takes a secret takes a file or a command instead.
    for command in ["init", "clone", "remote set", "list"] {
        let mut args = command.split(' ').collect::<Vec<_>>();
        args.push("--help");
        let help = clean(ESPEJO).args(&args).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let flags = help.split_whitespace().filter(|word| word.starts_with("--"));
        for flag in flags.filter(|flag| flag.contains("password") || flag.contains("recovery-key")) {
            let flag = flag.trim_end_matches([',', '.']);
            let indirect = ["-file", "-command", "-stdin", "-weak-password"];
            assert!(indirect.iter().any(|end| flag.ends_with(end)), "{command}: {flag}");
        }
    }
}
