//! What older programs wrote is read for ever, is stored in today's form entry by entry, and stays readable to them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::cli::{run, run_with, temp_dir, text_of};
use crate::common::*;
use espejo::crypto::object_name;
use espejo::entropy::OsEntropy;
use espejo::event::Finding;
use espejo::format::{FileType, open_sealed, seal_file};
use espejo::id::EntryId;
use espejo::remote::MemoryRemote;
use espejo::sync::Options;
use espejo::vault;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The schemas of which there are frozen vaults in `fixtures/vaults`, and that of today.
const FROZEN: [u64; 2] = [1, 2];
const TODAY: u64 = espejo::entry::SCHEMA as u64;

/// The SHA-256 of `noise.bin`, where attachments could be kept.
const NOISE: &str = "2bdd2e62";

struct Frozen {
    dir: TempDir,
}

impl Frozen {
    /// A copy of what a program of this schema left behind.
    fn thaw(schema: u64) -> Self {
        let dir = temp_dir();
        let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/vaults/schema-{schema}"));
        copy_dir(&frozen, dir.path());
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn vault(&self) -> PathBuf {
        self.path("vault")
    }

    /// What the program that made it said, by the command it was asked with.
    fn expected(&self, name: &str) -> Value {
        let path = self.path(&format!("expected/{name}.json"));
        serde_json::from_slice(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
            .unwrap()
    }

    fn entries(&self) -> Vec<String> {
        ids(&self.expected("list"))
    }
}

fn ids(list: &Value) -> Vec<String> {
    list["entries"].as_array().unwrap().iter().map(|entry| text_of(&entry["id"])).collect()
}

fn list(vault: &Path) -> Value {
    run(vault, &["list"]).json()
}

/// A list, less what a device may say differently: in which schema it has each entry.
fn meanings(list: &Value) -> Vec<Value> {
    let entries = list["entries"].as_array().unwrap().iter().cloned();
    entries.map(without_schema).collect()
}

fn without_schema(mut shown: Value) -> Value {
    shown.as_object_mut().unwrap().remove("schema").unwrap();
    shown
}

fn schemas(list: &Value) -> Vec<u64> {
    list["entries"].as_array().unwrap().iter().map(|entry| entry["schema"].as_u64().unwrap()).collect()
}

fn objects(vault: &Path) -> BTreeSet<PathBuf> {
    let files = walkdir::WalkDir::new(vault.join("objects")).into_iter().map(Result::unwrap);
    files.filter(|file| file.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

#[test]
fn a_vault_of_every_schema_opens_and_says_what_it_said_then() {
    for schema in FROZEN {
        let frozen = Frozen::thaw(schema);
        let vault = frozen.vault();
        let before = objects(&vault);
        assert_eq!(list(&vault), frozen.expected("list"), "schema {schema}");
        assert_eq!(run(&vault, &["list", "--deleted"]).json(), frozen.expected("deleted"), "schema {schema}");
        assert_eq!(run(&vault, &["conflicts"]).json(), frozen.expected("conflicts"), "schema {schema}");
        assert_eq!(objects(&vault), before, "looking at the list stores nothing");
        for id in frozen.entries() {
            let log = run(&vault, &["log", &id]).json();
            assert_eq!(lasting(log), lasting(frozen.expected(&format!("log-{id}"))));
            let shown = run(&vault, &["show", &id]).json();
            assert_eq!(without_schema(shown), without_schema(frozen.expected(&format!("show-{id}"))));
        }
        let again = list(&vault);
        assert_eq!(meanings(&again), meanings(&frozen.expected("list")), "schema {schema}");
        assert!(schemas(&again).iter().all(|schema| *schema == TODAY), "{again}");
        run(&vault, &["check"]).exits(0);
    }
}

#[test]
fn a_mirror_and_a_backup_of_every_schema_give_the_same_vault() {
    for schema in FROZEN {
        let frozen = Frozen::thaw(schema);
        let mirror = frozen.path("mirror");
        let clone = frozen.path("clone");
        run(&clone, &["clone", mirror.to_str().unwrap(), clone.to_str().unwrap()]).exits(0);
        assert_eq!(meanings(&list(&clone)), meanings(&frozen.expected("list")), "schema {schema}");
        run(&clone, &["check", "--remote"]).exits(0);

        let backup = frozen.path("backup.espejo");
        let restored = frozen.path("restored");
        run(&restored, &["restore", backup.to_str().unwrap(), "--to", restored.to_str().unwrap()]).exits(0);
        assert_eq!(meanings(&list(&restored)), meanings(&frozen.expected("list")), "schema {schema}");
        for id in frozen.entries() {
            let shown = run(&restored, &["show", &id]).json();
            assert_eq!(without_schema(shown), without_schema(frozen.expected(&format!("show-{id}"))));
        }
    }
}

#[test]
fn the_attachments_of_a_frozen_vault_are_whole() {
    let frozen = Frozen::thaw(2);
    let entry = frozen.expected("list")["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|entry| (entry["title"] == "Two files").then(|| text_of(&entry["id"])));
    let entry = entry.unwrap();
    let out = frozen.path("noise.bin");
    run(&frozen.vault(), &["show", &entry, "--attachment", "noise.bin", "-o", out.to_str().unwrap()])
        .exits(0);
    let bytes = fs::read(out).unwrap();
    assert_eq!(bytes.len(), 300_000);
    assert_eq!(object_name(&bytes).to_string()[..8], *NOISE);
}

/// Two devices of today that meet on a frozen mirror: the second has read everything.
fn two_devices(frozen: &Frozen) -> [PathBuf; 2] {
    let mirror = frozen.path("mirror");
    let vaults = [frozen.path("one"), frozen.path("two")];
    for vault in &vaults {
        let dir = vault.to_str().unwrap();
        run(vault, &["clone", mirror.to_str().unwrap(), dir, "--device-name", dir]).exits(0);
    }
    for vault in vaults.iter().chain(&vaults) {
        run(vault, &["sync"]).exits(0);
    }
    vaults
}

#[test]
fn showing_an_entry_stores_it_anew_and_is_an_edit_to_nobody() {
    let frozen = Frozen::thaw(1);
    let [one, two] = two_devices(&frozen);
    let id = &frozen.entries()[1];
    let log = run(&one, &["log", id]).json();
    let objects_before = [objects(&one), objects(&two)];

    // On both, neither knowing of the other.
    for vault in [&one, &two] {
        let first = run(vault, &["show", id]).json();
        let again = run(vault, &["show", id]).json();
        assert_eq!(
            without_schema(again),
            without_schema(first),
            "the second time it is read in today's schema"
        );
    }
    for (vault, before) in [&one, &two].into_iter().zip(&objects_before) {
        let after = objects(vault);
        assert!(after.is_superset(before), "what was there stays");
        assert_eq!(after.len(), before.len() + 1, "it is stored once more, once");
        let list = list(vault);
        assert_eq!(schemas(&list).iter().filter(|schema| **schema == TODAY).count(), 1, "{list}");
    }
    for vault in [&one, &two, &one] {
        run(vault, &["sync"]).exits(0);
    }
    for vault in [&one, &two] {
        let idle = run(vault, &["sync"]).json();
        assert_eq!((&idle["pushed"], &idle["pulled"], &idle["requests"]), (&json!(0), &json!(0), &json!(1)));
        assert_eq!(meanings(&list(vault)), meanings(&frozen.expected("list")));
        assert_eq!(lasting(run(vault, &["log", id]).json()), lasting(log.clone()));
        assert_eq!(run(vault, &["conflicts"]).json(), frozen.expected("conflicts"));
        run(vault, &["check", "--remote"]).exits(0);
    }
    assert_eq!(objects(&one).len(), objects_before[0].len() + 2, "each has the other's too");
}

/// What of a log never changes: not the sizes, for sealed anew an entry may be longer; nor the names of devices, which
/// are known from a mirror.
fn lasting(mut log: Value) -> Value {
    for version in log["versions"].as_array_mut().unwrap() {
        let version = version.as_object_mut().unwrap();
        version.remove("size").unwrap();
        version.remove("device").unwrap();
    }
    log
}

#[test]
fn everything_is_migrated_at_once_when_asked() {
    let frozen = Frozen::thaw(1);
    let vault = frozen.vault();
    let status = run(&vault, &["migrate"]).json();
    // Every version that is not a deletion: six live ones, of which two are older states.
    assert_eq!((&status["schema"], &status["outdated"]), (&json!(TODAY), &json!(7)), "{status}");
    assert_eq!(status["versions"], json!([{ "schema": 1, "count": 7 }]));
    let before = objects(&vault);
    let dry = run(&vault, &["migrate", "--all", "-n"]).json();
    assert_eq!(dry, json!({ "migrated": 0, "would_migrate": 7, "dry_run": true }));
    assert_eq!(objects(&vault), before);

    assert_eq!(run(&vault, &["migrate", "--all"]).json(), json!({ "migrated": 7, "unreadable": 0 }));
    let after = objects(&vault);
    assert!(after.is_superset(&before));
    assert_eq!(after.len(), before.len() + 7);
    assert_eq!(run(&vault, &["migrate", "--all"]).json(), json!({ "migrated": 0, "unreadable": 0 }));
    let status = run(&vault, &["migrate", "--status"]).json();
    assert_eq!(status["versions"], json!([{ "schema": 2, "count": 7 }]), "{status}");
    assert_eq!(status["outdated"], 0);
    assert_eq!(meanings(&list(&vault)), meanings(&frozen.expected("list")));
    for id in frozen.entries() {
        assert_eq!(
            lasting(run(&vault, &["log", &id]).json()),
            lasting(frozen.expected(&format!("log-{id}")))
        );
    }
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_migrated() {
    let frozen = Frozen::thaw(1);
    let vault = frozen.vault();
    let object = objects(&vault).into_iter().next().unwrap();
    let mut bytes = fs::read(&object).unwrap();
    bytes[3_000] ^= 1;
    fs::write(&object, bytes).unwrap();
    let migrated = run(&vault, &["migrate", "--all"]);
    // The one may be the deletion, which has nothing to migrate.
    match migrated.document()["unreadable"].as_u64().unwrap() {
        0 => assert_eq!(migrated.exits(0).document()["migrated"], 7),
        _ => assert_eq!(migrated.exits(3).document(), json!({ "migrated": 6, "unreadable": 1 })),
    }
    run(&vault, &["check"]).exits(14);
}

#[test]
fn an_older_program_and_this_one_share_a_mirror_and_nothing_is_lost() {
    let Some(older) = older::first_schema() else { return };
    let dir = temp_dir();
    let [old, new, mirror] = ["old", "new", "mirror"].map(|name| dir.path().join(name));
    let [old_arg, new_arg, mirror_arg] = [&old, &new, &mirror].map(|path| path.to_str().unwrap());
    let older = |args: &[&str]| run_with(older, &old, args);
    let today = |args: &[&str]| run(&new, args);
    let sync_all = || {
        for _ in 0..2 {
            older(&["sync"]).exits(0);
            today(&["sync"]).exits(0);
        }
    };
    older(&["init", old_arg, "--device-name", "old", "--no-recovery"]).exits(0);
    let add = |title: &str| {
        let added = older(&["add", "-t", title, "-m", title]).json();
        text_of(&added["added"][0]["id"])
    };
    let [shown, edited_here, edited_there, both, deleted, undeleted] =
        ["shown", "edited here", "edited there", "both", "deleted", "undeleted"].map(add);
    older(&["edit", &shown, "-m", "shown, twice written"]).exits(0);
    fs::create_dir(&mirror).unwrap();
    older(&["remote", "set", mirror_arg]).exits(0);
    older(&["sync"]).exits(0);
    today(&["clone", mirror_arg, new_arg, "--device-name", "new"]).exits(0);
    sync_all();
    assert_eq!(meanings(&list(&new)), meanings(&older(&["list"]).json()));

    // What this program only looks at stays readable to the older one, which takes nothing of it for an edit.
    let log = older(&["log", &shown]).json();
    today(&["show", &shown]).exits(0);
    sync_all();
    assert_eq!(older(&["log", &shown]).json(), log);
    assert_eq!(older(&["show", &shown]).json()["body"], "shown, twice written");

    // Edits on both sides, of what was migrated and what was not; a deletion; and one that was taken back.
    today(&["edit", &edited_here, "-m", "by the new one"]).exits(0);
    older(&["edit", &edited_there, "-m", "by the old one"]).exits(0);
    today(&["show", &both]).exits(0);
    older(&["edit", &both, "-m", "both, old"]).exits(0);
    today(&["edit", &both, "-m", "both, new"]).exits(0);
    older(&["rm", &deleted]).exits(0);
    today(&["show", &deleted]).exits(0);
    today(&["rm", &undeleted]).exits(0);
    today(&["undelete", &undeleted]).exits(0);
    let only_new = today(&["add", "-t", "only new", "-m", "in today's schema"]).json();
    let only_new = text_of(&only_new["added"][0]["id"]);
    sync_all();

    assert_eq!(today(&["show", &edited_there]).json()["body"], "by the old one");
    assert_eq!(today(&["list", "--deleted"]).json()["entries"][0]["id"], json!(deleted));
    let conflicts = [older(&["conflicts"]).json(), today(&["conflicts"]).json()];
    let [theirs, ours] = conflicts.map(|mut told| {
        assert_eq!(told["conflicts"].as_array().unwrap().len(), 1, "{told}");
        // To the older program what is current has no title.
        told["conflicts"][0].as_object_mut().unwrap().remove("title").unwrap();
        told
    });
    assert_eq!(theirs, ours);
    let [theirs, ours] = [older(&["list"]).json(), list(&new)].map(|list| BTreeSet::from_iter(ids(&list)));
    assert_eq!(theirs, ours, "nothing is gone and nothing came back");

    // The older one cannot read what is new, says so, and loses nothing of it.
    let refused = older(&["show", &only_new]).error(15);
    assert_eq!(refused["kind"], "newer");
    assert_eq!(older(&["show", &edited_here]).error(15)["kind"], "newer");
    older(&["check", "--remote"]).exits(0);
    // It has to go on passing it on: to a device that has nothing but what the older one sends to another mirror.
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    older(&["remote", "set", elsewhere.to_str().unwrap()]).exits(0);
    older(&["sync"]).exits(0);
    let third = dir.path().join("third");
    run(&third, &["clone", elsewhere.to_str().unwrap(), third.to_str().unwrap()]).exits(0);
    assert_eq!(meanings(&list(&third)), meanings(&list(&new)));
    assert_eq!(run(&third, &["show", &only_new]).json()["body"], "in today's schema");

    // And this one can tell which device that is.
    let status = today(&["migrate", "--status"]).json();
    let device = status["devices"].as_array().unwrap().iter().find(|device| device["name"] == "old").unwrap();
    assert_eq!(device["program"], "espejo 0.0.1");
    assert!(device["unreadable"].as_u64().unwrap() >= 3, "{status}");
    let this = status["devices"].as_array().unwrap().iter().find(|device| device["this"] == true).unwrap();
    assert_eq!(this["unreadable"], 0, "{status}");
}

#[test]
fn an_entry_that_needs_a_newer_program_is_told_once_and_passed_on() {
    let mut two = two(&["readable"]);
    let entry = add(&mut two.a, "from tomorrow");
    in_next_schema(&mut two.a, two.dirs[0].path(), entry);
    two.a = open_vault(two.dirs[0].path(), &two.clocks[0]);
    sync(&mut two.a, &two.remote);
    let told = |findings: &[Finding]| {
        findings.iter().filter(|finding| matches!(finding, Finding::NewerSchema { entries: 1 })).count()
    };
    let (synced, findings) = try_sync(&mut two.b, &two.remote, Options::default());
    assert_eq!((synced.unwrap().pulled, told(&findings)), (1, 1), "{findings:?}");
    let current = two.b.entry(entry).unwrap().version.id;
    assert!(matches!(two.b.content(current), Err(vault::Error::NewerSchema)));
    assert_eq!(two.b.entries().unwrap()[0].id(), entry, "it is listed where it was written, not in 1970");
    assert_eq!(two.b.outdated().unwrap(), [], "it is not taken for an old one");
    let (synced, findings) = try_sync(&mut two.b, &two.remote, Options::default());
    assert_eq!((synced.unwrap().pulled, told(&findings)), (0, 0), "{findings:?}");

    // On a mirror that has nothing yet, it is there for a third.
    let elsewhere = MemoryRemote::new();
    set_remote(&mut two.b);
    sync(&mut two.b, &elsewhere);
    let dir = tempfile::tempdir().unwrap();
    let mut third = clone_vault(dir.path(), "third", &two.clocks[0], &elsewhere);
    set_remote(&mut third);
    sync(&mut third, &elsewhere);
    assert_eq!(third.entry(entry).unwrap().version.id, current);
}

/// Puts the current version of `entry` into a schema that no program writes yet, and nothing else of it.
fn in_next_schema(vault: &mut TestVault, dir: &Path, entry: EntryId) {
    let version = vault.entry(entry).unwrap().version.id;
    let object = vault.manifest().unwrap().encoding_here(version, u32::MAX).unwrap().row.object.to_string();
    let path = |name: &str| dir.join(format!("objects/{}/{name}", &name[..2]));
    let file = fs::read(path(&object)).unwrap();
    let (_, inner) = open_sealed(vault.keyring(), FileType::Version, &file).unwrap();
    let schema = espejo::entry::SCHEMA + 1;
    let newer = seal_file(vault.keyring(), FileType::Version, schema, &inner, &OsEntropy).unwrap();
    fs::remove_file(path(&object)).unwrap();
    let newer_path = path(&object_name(&newer).to_string());
    fs::create_dir_all(newer_path.parent().unwrap()).unwrap();
    fs::write(newer_path, newer).unwrap();
    fs::remove_file(dir.join("local/manifest")).unwrap();
}
