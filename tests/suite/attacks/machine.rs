//! The machine it runs on.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::run_after;
use crate::common::cli::{Cli, ESPEJO, files, text_of};

/// The files of all objects of a vault, the parts of its newest entry first.
fn objects(cli: &Cli) -> Vec<PathBuf> {
    let mut vault = cli.open();
    let entry = vault.entries().unwrap().remove(0);
    let content = vault.content(entry.version.id).unwrap().unwrap();
    let parts = content.blobs().flat_map(|blob| &blob.parts).map(|part| part.object).collect::<Vec<_>>();
    let version = *vault.history(entry.id()).unwrap()[0].objects.first().unwrap();
    let path = |hex: String| cli.vault.join("objects").join(&hex[..2]).join(hex);
    parts.into_iter().chain([version]).map(|object| path(object.to_string())).collect()
}

#[test]
fn row_58_a_file_of_a_terabyte_is_damage_and_is_not_read() {
    const TERABYTE: u64 = 1 << 40;
    let cli = Cli::with_vault();
    let id = cli.add("kept");
    let mirror = cli.arg("mirror");
    cli.json(&["remote", "set", &mirror]);
    cli.json(&["sync"]);
    let object = objects(&cli).remove(0);
    let there = files(Path::new(&mirror)).into_keys().find(|path| path.starts_with("objects")).unwrap();
    let there = Path::new(&mirror).join(there);
    let grow = |path: &Path| File::options().write(true).open(path).unwrap().set_len(TERABYTE).unwrap();
    // With so little memory, reading any more of it than an object may have would end the program.
    let run = |args: &[&str]| run_after(&cli, "ulimit -v 1000000", args);
    grow(&object);
    assert_eq!(run(&["show", &id, "--json"]).error(14)["kind"], "damaged");
    assert_eq!(run(&["sync", "--json"]).json()["repaired"], 1);
    assert_eq!(run(&["show", &id, "--raw"]).text(), "kept");
    // On the mirror it is seen by its length, and put right by whoever has it.
    grow(&there);
    let sync = run(&["sync", "--full", "--json"]);
    assert!(text_of(&sync.document()["warnings"][0]["message"]).contains("on the mirror"), "{sync:?}");
    assert_eq!(run(&["check", "--remote"]).code, 0);
    // A newcomer meets one where an object should be, and another where a feed should be.
    let feed = files(&Path::new(&mirror).join("feeds")).into_keys().next().unwrap();
    for path in [there, Path::new(&mirror).join("feeds").join(feed)] {
        grow(&path);
        let to = cli.arg("newcomer");
        let clone = run(&["clone", &mirror, &to, "--json"]);
        assert!([0, 3].contains(&clone.code), "{clone:?}");
        assert!(
            clone.stderr.contains("on the mirror") || clone.text().contains("on the mirror"),
            "{clone:?}"
        );
        fs::remove_dir_all(to).unwrap();
    }
}

#[test]
fn row_59_whatever_the_umask_says_the_vault_is_for_its_owner_alone() {
    let cli = Cli::new();
    let note = cli.file("note.txt", "attached");
    let (vault, words, mirror) = (cli.vault.to_str().unwrap(), cli.arg("words"), cli.arg("mirror"));
    for args in [
        &["init", vault, "--recovery-out", &words][..],
        &["add", "-m", "text", "-a", &note],
        &["remote", "set", &mirror],
        &["sync"],
        &["check"],
        &["backup", "create"],
    ] {
        let output = run_after(&cli, "umask 000", args);
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
    }
    let backups = format!("{vault}-backups");
    let mut seen = 0;
    for item in [vault, &backups, &words].iter().flat_map(walkdir::WalkDir::new) {
        let item = item.unwrap();
        let mode = item.metadata().unwrap().permissions().mode() & 0o777;
        let expected = if item.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{} is {mode:o}", item.path().display());
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn row_62_of_an_attachment_with_a_damaged_end_no_file_is_made() {
    let cli = Cli::with_vault();
    let large = cli.file("large.bin", vec![5; 9 << 20]);
    cli.json(&["add", "-m", "text", "-a", &large]);
    let parts = objects(&cli);
    assert_eq!(parts.len(), 4, "three parts and the version");
    let mut bytes = fs::read(&parts[2]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&parts[2], bytes).unwrap();
    fs::create_dir(cli.path("out")).unwrap();
    let error = cli.error(14, &["show", "@", "--attachment", "large.bin", "-o", &cli.arg("out/large.bin")]);
    assert_eq!(error["kind"], "damaged", "{error}");
    assert_eq!(fs::read_dir(cli.path("out")).unwrap().count(), 0, "not even a beginning of it");
    let printed = cli.run(&["show", "@", "--attachment", "large.bin"]);
    assert_eq!((printed.code, printed.stdout.len()), (14, 0));
}

#[test]
fn row_63_neither_a_title_nor_the_editors_name_reaches_a_shell() {
    let mut cli = Cli::with_vault();
    let title = "$(touch x) `touch x` ;touch x; \"; touch x; '";
    cli.json(&["add", "-m", "text", "-t", title]);
    cli.program("recorder", &format!("printf '%s\\n' \"$@\" > {}; echo more >> \"$1\"", cli.arg("argv")));
    cli.set("EDITOR", "recorder");
    let edited = cli.on_terminal(&["edit", "@"]);
    assert_eq!(edited.code, 0, "{edited:?}");
    let argv = fs::read_to_string(cli.path("argv")).unwrap();
    assert!(argv.lines().count() == 1 && argv.trim_end().ends_with("/entry.md"), "{argv}");
    assert_eq!(cli.json(&["show", "@"])["title"], title);
    // What a shell would take for a second command is an argument, or the name of no program.
    for editor in ["recorder; touch x", "recorder $(touch x)", "recorder `touch x`", "recorder & touch x"] {
        cli.set("EDITOR", editor);
        let output = cli.on_terminal(&["edit", "@"]);
        assert_ne!(output.code, 101, "{ESPEJO} {editor}: {output:?}");
    }
    let made = walkdir::WalkDir::new(&cli.dir).into_iter().map(Result::unwrap);
    assert_eq!(made.filter(|item| item.file_name() == "x").count(), 0, "a shell has read it");
}
