//! A vault that is mirrored while it is locked: what it does without the password, what it leaves alone, and what somebody
//! with the keys it keeps can do.

#![allow(missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use espejo::crypto::FeedKeys;
use espejo::format::outgoing::open_outgoing;
use espejo::format::{FileType, open_sealed, read_header};
use espejo::id::VaultId;
use serde_json::{Value, json};

use crate::common::cli::{Cli, ESPEJO, Output, PASSWORD, files, finish};
use crate::common::servers::RealServer;

/// Two devices and a mirror in a folder, both mirrored while locked.
struct Pair {
    cli: Cli,
}

impl Pair {
    fn new() -> Self {
        let cli = Cli::with_vault();
        cli.add("the first page");
        let mirror = cli.arg("mirror");
        cli.json(&["remote", "set", &mirror, "--unattended"]);
        cli.json(&["sync"]);
        let other = cli.arg("other");
        cli.json(&["clone", &mirror, &other, "--device-name", "desktop"]);
        let pair = Self { cli };
        pair.at("other", &["remote", "set", "--unattended"]).exits(0);
        pair
    }

    /// A command on a vault, with its password.
    fn at(&self, vault: &str, args: &[&str]) -> Output {
        let vault = self.cli.arg(vault);
        self.cli.run(&[&["--vault", &vault, "--json"][..], args].concat())
    }

    /// A command on a vault by somebody who has no password and whom nobody can ask.
    fn locked(&self, vault: &str, args: &[&str]) -> Output {
        let vault = self.cli.arg(vault);
        let args = [&["--vault", &vault, "--json", "--no-input"][..], args].concat();
        finish(self.cli.bare_command(ESPEJO, &args).spawn().unwrap(), b"")
    }

    fn titles(&self, vault: &str) -> Vec<String> {
        let entries = self.at(vault, &["list"]).json()["entries"].clone();
        let title = |entry: &Value| entry["title"].as_str().unwrap().to_owned();
        let mut titles = entries.as_array().unwrap().iter().map(title).collect::<Vec<_>>();
        titles.sort();
        titles
    }

    fn outgoing(&self, vault: &str) -> usize {
        files(&self.cli.path(vault).join("local/unattended/outgoing")).len()
    }
}

fn counts(output: &Value) -> (u64, u64, u64) {
    let count = |name: &str| output[name].as_u64().unwrap();
    (count("pushed"), count("pulled"), count("requests"))
}

#[test]
fn what_was_saved_goes_and_what_came_is_read_when_the_vault_is_opened() {
    let pair = Pair::new();
    let picture = pair.cli.file("picture.bin", vec![7; 3 << 20]);
    pair.at("vault", &["add", "-m", "written here", "-a", &picture]).exits(0);
    pair.at("other", &["add", "-m", "written there"]).exits(0);
    assert_eq!(pair.outgoing("vault"), 2, "the attachment's part, and the page");

    let sent = pair.locked("vault", &["sync"]).json();
    assert_eq!((sent["pushed"].clone(), sent["locked"].clone()), (json!(2), json!(true)));
    assert_eq!(pair.outgoing("vault"), 0);
    // One edit in four requests; what is new in three.
    assert_eq!(counts(&pair.locked("other", &["sync"]).json()), (1, 2, 7));
    assert_eq!(counts(&pair.locked("vault", &["sync"]).json()), (0, 1, 3));
    for vault in ["vault", "other"] {
        assert_eq!(counts(&pair.locked(vault, &["sync"]).json()), (0, 0, 1), "nothing is new");
    }

    // Opened with the mirror out of reach: it is all here.
    let (mirror, away) = (pair.cli.path("mirror"), pair.cli.path("away"));
    fs::rename(&mirror, &away).unwrap();
    for vault in ["vault", "other"] {
        assert_eq!(pair.titles(vault), ["the first page", "written here", "written there"]);
    }
    let shown = pair.at("other", &["show", "written"]).code;
    assert_eq!(shown, 4, "no id begins so");
    let id = pair.at("other", &["search", "written here"]).json()["matches"][0]["id"].clone();
    let out = pair.cli.arg("out.bin");
    pair.at("other", &["show", id.as_str().unwrap(), "--attachment", "picture.bin", "-o", &out]).exits(0);
    assert_eq!(fs::read(out).unwrap(), vec![7; 3 << 20]);
    fs::rename(&away, &mirror).unwrap();

    // With all the keys there is nothing left to do, and nothing to complain of.
    for vault in ["vault", "other"] {
        let synced = pair.at(vault, &["sync"]).json();
        assert_eq!((synced["pushed"].clone(), synced["pulled"].clone()), (json!(0), json!(0)), "{synced}");
        pair.at(vault, &["check", "--remote"]).exits(0);
    }
}

#[test]
fn edits_conflicts_and_deletions_come_together_though_nobody_syncs_with_the_password() {
    let pair = Pair::new();
    pair.at("vault", &["add", "-m", "to be deleted"]).exits(0);
    pair.locked("vault", &["sync"]).json();
    pair.locked("other", &["sync"]).json();
    let id = |vault: &str, text: &str| {
        let found = pair.at(vault, &["search", text]).json();
        found["matches"][0]["id"].as_str().unwrap_or_else(|| panic!("{found}")).to_owned()
    };
    pair.at("other", &["rm", &id("other", "to be deleted")]).exits(0);
    pair.at("vault", &["edit", &id("vault", "first page"), "-m", "changed here"]).exits(0);
    pair.at("other", &["edit", &id("other", "first page"), "-m", "changed there, later"]).exits(0);
    for vault in ["vault", "other", "vault"] {
        pair.locked(vault, &["sync"]).json();
    }
    for vault in ["vault", "other"] {
        assert_eq!(pair.titles(vault), ["changed there, later"]);
        let conflicts = pair.at(vault, &["conflicts"]).json();
        assert_eq!(conflicts["conflicts"].as_array().unwrap().len(), 1, "{conflicts}");
    }
    let current = id("other", "changed there");
    pair.at("other", &["resolve", &current, "--file", &pair.cli.file("both", "both of it")]).exits(0);
    pair.locked("other", &["sync"]).json();
    pair.locked("vault", &["sync"]).json();
    let found = pair.at("vault", &["search", "both of it"]).json();
    assert_eq!(found["matches"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(pair.at("vault", &["conflicts"]).json()["conflicts"], json!([]));
}

#[test]
fn forty_pages_go_as_a_pack_and_a_killed_round_is_gone_on_with() {
    let pair = Pair::new();
    let dir = pair.cli.path("pages");
    fs::create_dir(&dir).unwrap();
    for page in 0..40 {
        fs::write(dir.join(format!("{page}.md")), format!("page {page}\n\n{}", "words ".repeat(page)))
            .unwrap();
    }
    pair.at("vault", &["import", "markdown", dir.to_str().unwrap()]).exits(0);
    let sent = pair.locked("vault", &["sync"]).json();
    assert!(sent["pushed"] == 40 && sent["requests"].as_u64().unwrap() <= 5, "{sent}");
    // Announced, and killed before that was noted: the announcement is known by its own segment.
    pair.at("vault", &["add", "-m", "one more"]).exits(0);
    let outgoing = files(&pair.cli.path("vault/local/unattended/outgoing"));
    pair.locked("vault", &["sync"]).json();
    for (name, bytes) in outgoing {
        fs::write(pair.cli.path("vault/local/unattended/outgoing").join(name), bytes).unwrap();
    }
    fs::remove_file(pair.cli.path("vault/local/unattended/note")).unwrap();
    assert_eq!(pair.locked("vault", &["sync"]).json()["pushed"], 0);
    assert_eq!(pair.outgoing("vault"), 0);
    pair.locked("other", &["sync"]).json();
    assert_eq!(pair.titles("other").len(), 42);
}

#[test]
fn the_password_is_asked_for_where_it_is_needed_and_nowhere_else() {
    let pair = Pair::new();
    for args in [
        &["list"][..],
        &["sync", "--full"],
        &["sync", "--dry-run"],
        &["sync", "--reseed"],
        &["sync", "--accept-deletes"],
        &["remote", "set", "--no-unattended"],
    ] {
        let error = pair.locked("vault", args).error(12);
        assert_eq!(error["kind"], "no_password", "{args:?}: {error}");
    }
    // A password that is given is used, and a wrong one is not passed over.
    let wrong = pair.cli.file("wrong", "not this one at all");
    let args = ["--password-file", &wrong, "sync"];
    assert_eq!(pair.locked("vault", &args).error(12)["kind"], "wrong_password");
    assert_eq!(pair.at("vault", &["sync"]).json().get("locked"), None);
    // Without leave it is asked for as ever.
    pair.at("vault", &["remote", "set", "--no-unattended"]).exits(0);
    assert_eq!(pair.locked("vault", &["sync"]).error(12)["kind"], "no_password");
    assert!(files(&pair.cli.path("vault/local/unattended")).is_empty());
}

#[test]
fn a_changed_vault_a_copy_and_an_unknown_mirror_wait_for_the_password() {
    let pair = Pair::new();
    let copy = pair.cli.path("copy");
    let copied = std::process::Command::new("cp").arg("-a").arg(&pair.cli.vault).arg(&copy).status();
    assert!(copied.unwrap().success());
    let error = pair.locked("copy", &["sync"]).error(12);
    assert!(error["kind"] == "password_needed" && text(&error["message"]).contains("copied"), "{error}");
    // Opened once, the copy is a device of its own.
    pair.at("copy", &["add", "-m", "from the copy"]).exits(0);
    assert_eq!(pair.locked("copy", &["sync"]).json()["pushed"], 1);

    // A new password, another name: whoever changes it has the vault open.
    let new = pair.cli.file("new-password", "tundra gravel plinth cocoon 14");
    pair.at("vault", &["passwd", "--new-password-file", &new]).exits(0);
    pair.at("other", &["devices", "rename", "attic"]).exits(0);
    for vault in ["vault", "other"] {
        pair.locked(vault, &["sync"]).json();
    }

    // Emptied, or another vault's: nothing goes there.
    let mirror = pair.cli.path("mirror");
    fs::rename(&mirror, pair.cli.path("away")).unwrap();
    assert_eq!(pair.locked("copy", &["sync"]).error(16)["kind"], "mirror_gone");
    let stranger = pair.cli.path("stranger");
    pair.cli.new_vault(&stranger);
    pair.at("stranger", &["remote", "set", mirror.to_str().unwrap()]).exits(0);
    pair.at("stranger", &["sync"]).exits(0);
    let before = files(&mirror);
    pair.at("copy", &["add", "-m", "not for strangers"]).exits(0);
    assert_eq!(pair.locked("copy", &["sync"]).error(16)["kind"], "other_vault");
    assert_eq!(files(&mirror), before);
}

#[test]
fn after_a_new_master_key_the_old_keys_send_nothing_more() {
    let pair = Pair::new();
    let new = pair.cli.file("new-password", "tundra gravel plinth cocoon 14");
    pair.at("vault", &["sync"]).exits(0);
    pair.at("vault", &["rekey", "--no-recovery", "--new-password-file", &new]).exits(0);
    let by_new = |args: &[&str]| {
        let vault = pair.cli.arg("vault");
        pair.cli.run(&[&["--vault", &vault, "--json", "--password-file", &new][..], args].concat())
    };
    by_new(&["sync"]).exits(0);
    by_new(&["add", "-m", "under the new key"]).exits(0);
    assert_eq!(pair.locked("vault", &["sync"]).json()["pushed"], 1);
    pair.at("other", &["add", "-m", "under the old key"]).exits(0);
    let error = pair.locked("other", &["sync"]).error(12);
    assert!(text(&error["message"]).contains("new master key"), "{error}");
}

#[test]
fn a_mirror_that_went_back_is_filled_by_the_next_sync_with_the_password() {
    let pair = Pair::new();
    let mirror = pair.cli.path("mirror");
    let image = files(&mirror);
    for page in 0..3 {
        pair.at("vault", &["add", "-m", &format!("page {page}")]).exits(0);
        pair.locked("vault", &["sync"]).json();
    }
    pair.at("vault", &["sync"]).exits(0);
    // The server is set back to what it was.
    for name in files(&mirror).keys().filter(|name| !image.contains_key(*name)) {
        fs::remove_file(mirror.join(name)).unwrap();
    }
    pair.at("vault", &["add", "-m", "page 3"]).exits(0);
    pair.locked("vault", &["sync"]).json();
    pair.at("vault", &["sync"]).exits(0);
    let fresh = pair.cli.arg("fresh");
    pair.cli.run(&["clone", mirror.to_str().unwrap(), &fresh]).exits(0);
    assert_eq!(pair.titles("fresh"), ["page 0", "page 1", "page 2", "page 3", "the first page"]);
}

#[test]
fn what_is_damaged_or_forged_on_the_way_is_not_kept() {
    let pair = Pair::new();
    pair.at("other", &["add", "-m", "on its way"]).exits(0);
    pair.locked("other", &["sync"]).json();
    let mirror = pair.cli.path("mirror");
    let is_new = |name: &&PathBuf| name.starts_with("objects") && !files(&pair.cli.vault).contains_key(*name);
    let object = files(&mirror)
        .into_keys()
        .filter(|name| is_new(&name))
        .max_by_key(|name| fs::metadata(mirror.join(name)).unwrap().modified().unwrap());
    let object = mirror.join(object.unwrap());
    let intact = fs::read(&object).unwrap();
    let mut rotten = intact.clone();
    rotten[2_000] ^= 1;
    fs::write(&object, &rotten).unwrap();
    let told = pair.locked("vault", &["sync"]).exits(3).document();
    assert!(told["pending"] == 1 && told["warnings"][0]["kind"] == "mirror_damaged", "{told}");
    assert_eq!(pair.titles("vault"), ["the first page"]);
    fs::write(&object, &intact).unwrap();
    assert_eq!(pair.locked("vault", &["sync"]).json()["pulled"], 1);
    assert_eq!(pair.titles("vault"), ["on its way", "the first page"]);
}

/// What is kept for the locked vault, as a thief finds it.
fn stolen(vault: &Path) -> (Value, FeedKeys) {
    let access: Value =
        serde_json::from_slice(&fs::read(vault.join("local/unattended/access")).unwrap()).unwrap();
    let keys = access["feed_keys"].as_object().unwrap().iter().map(|(epoch, hex)| {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_str().unwrap().as_bytes()).unwrap();
        (epoch.parse().unwrap(), espejo::crypto::Key::from_bytes(bytes.try_into().unwrap()))
    });
    let id = access["vault"].as_str().unwrap().parse::<VaultId>().unwrap();
    let keys = FeedKeys::new(id, keys.collect()).unwrap();
    (access, keys)
}

#[test]
fn a_thief_of_what_is_kept_reads_no_word_and_opens_no_object() {
    let pair = Pair::new();
    pair.at("vault", &["add", "-t", "CanaryTitle", "-T", "canarytag", "-m", "canary words"]).exits(0);
    let (access, keys) = stolen(&pair.cli.vault);
    let all = files(&pair.cli.vault);
    let mut opened = 0;
    for (name, bytes) in &all {
        let Ok((header, _)) = read_header(bytes) else { continue };
        let opens = [
            FileType::Version,
            FileType::Part,
            FileType::Manifest,
            FileType::Backup,
            FileType::State,
            FileType::Feed,
            FileType::Outgoing,
        ]
        .into_iter()
        .any(|file_type| open_sealed(&keys, file_type, bytes).is_ok());
        let is_of_feeds = matches!(header.file_type, FileType::Feed | FileType::Outgoing);
        assert_eq!(opens, is_of_feeds, "{name:?}");
        opened += usize::from(opens);
    }
    assert!(opened >= 2, "a segment and what waits");
    // What they open names objects, and holds no word.
    for (name, bytes) in all.iter().filter(|(name, _)| name.starts_with("local/unattended")) {
        let mut seen = bytes.clone();
        if let Ok(waiting) = open_outgoing(&keys, bytes) {
            seen.extend(format!("{waiting:?}").into_bytes());
        }
        let text = String::from_utf8_lossy(&seen).to_lowercase();
        assert!(!text.contains("canary"), "{name:?}");
    }
    assert!(!access.to_string().contains(PASSWORD));
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(pair.cli.vault.join("local/unattended/access")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn damaged_files_of_what_is_kept_cost_a_question_and_nothing_else() {
    let pair = Pair::new();
    let access = pair.cli.path("vault/local/unattended/access");
    let intact = fs::read(&access).unwrap();
    for broken in [Vec::new(), b"{}".to_vec(), intact[..intact.len() / 2].to_vec(), vec![b'['; 2 << 20]] {
        fs::write(&access, broken).unwrap();
        assert_eq!(pair.locked("vault", &["sync"]).error(12)["kind"], "password_needed");
    }
    // The next command that opens the vault puts it right.
    pair.at("vault", &["add", "-m", "once more"]).exits(0);
    assert_eq!(fs::read(&access).unwrap(), intact);
    fs::write(pair.cli.path("vault/local/unattended/note"), "nonsense").unwrap();
    for (name, bytes) in files(&pair.cli.path("vault/local/unattended/outgoing")) {
        fs::write(pair.cli.path("vault/local/unattended/outgoing").join(name), &bytes[..bytes.len() / 2])
            .unwrap();
    }
    assert_eq!(pair.locked("vault", &["sync"]).json()["pushed"], 0);
    assert_eq!(pair.at("vault", &["sync"]).json()["pushed"], 1, "the index knows it too");
}

#[test]
fn on_a_real_server_the_login_is_kept_too() {
    let server = RealServer::start("apache", false);
    let cli = Cli::with_vault();
    let config = server.config("journal");
    let secret = cli.file("login", config.password.unwrap().as_str());
    let (url, user) = (config.base_url, config.user.unwrap());
    cli.json(&["remote", "set", &url, "--user", &user, "--remote-password-file", &secret, "--unattended"]);
    let pair = Pair { cli };
    let error = pair.locked("vault", &["sync"]).error(12);
    assert!(text(&error["message"]).contains("not been synced"), "{error}");
    pair.at("vault", &["sync"]).exits(0);
    pair.at("vault", &["add", "-m", "by the service"]).exits(0);
    assert_eq!(counts(&pair.locked("vault", &["sync"]).json()), (1, 0, 4));
    assert_eq!(counts(&pair.locked("vault", &["sync"]).json()), (0, 0, 1));
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
