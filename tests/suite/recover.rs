//! `docs/recover.py`, written from `docs/format.md` alone, reads what this program writes.
//!
//! Long, because every kind of thing a vault can hold is made here once, to be read by the other program.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{cli, *};
use espejo::crypto::object_name;
use espejo::entropy::OsEntropy;
use espejo::entry::{Attachment, Body, Content, PART_BYTES, SCHEMA};
use espejo::format::backup::{BLOCK_BYTES, read_tar_header, tar_len};
use espejo::format::{FileType, open_sealed, seal_file};
use espejo::id::{EntryId, VersionId};
use espejo::remote::FolderRemote;
use espejo::vault::{Change, Edit};
use espejo::version::MadeOn;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";

/// The interpreter `tests/servers/install.sh` prepares, or the machine's own.
fn python() -> PathBuf {
    let cache = std::env::var_os("ESPEJO_TEST_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| repository().join("target/test-servers"));
    let prepared = cache.join("venv/bin/python3");
    if prepared.exists() { prepared } else { PathBuf::from("python3") }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(source: &Path, out: &Path, secret: [&Path; 2]) -> Output {
    let run = Command::new(python())
        .arg(repository().join("docs/recover.py"))
        .args([source, out])
        .args(secret)
        .output()
        .unwrap_or_else(|error| panic!("cannot run python3 ({error}): install Python 3.9 or later"));
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(
        !told.contains("Python package cryptography"),
        "{told}hint: tests/servers/install.sh installs it"
    );
    assert!(!told.contains("Traceback"), "{told}");
    run
}

/// What came out of a source, and what was said about it.
struct Recovered {
    _dir: tempfile::TempDir,
    out: PathBuf,
    status: i32,
    told: String,
}

fn recover_with(source: &Path, password: &str) -> Recovered {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("password");
    fs::write(&secret, format!("{password}\n")).unwrap();
    let out = dir.path().join("out");
    let run = run(source, &out, [Path::new("--password-file"), &secret]);
    let told = String::from_utf8(run.stderr).unwrap();
    Recovered { out, _dir: dir, status: run.status.code().unwrap(), told }
}

fn recover(source: &Path) -> Recovered {
    recover_with(source, PASSWORD)
}

/// One recovered text: what stands above it, itself, and its attachments by the name they had.
#[derive(Debug, PartialEq)]
struct Document {
    head: Value,
    body: Vec<u8>,
    attachments: BTreeMap<String, Vec<u8>>,
}

fn read_document(path: &Path) -> Document {
    let file = fs::read(path).unwrap();
    let end = file.windows(6).position(|window| window == b"\n---\n\n").unwrap();
    let lines = std::str::from_utf8(&file[..end]).unwrap().strip_prefix("---\n").unwrap();
    let mut head = serde_json::Map::new();
    for line in lines.split('\n') {
        let (key, value) = line.split_once(": ").unwrap();
        head.insert(key.to_owned(), serde_json::from_str(value).unwrap());
    }
    let dir = path.parent().unwrap();
    let mut body = file[end + 6..].to_vec();
    if let Some(file) = head.remove("body_file") {
        body = fs::read(dir.join(file.as_str().unwrap())).unwrap();
    }
    let attachments = head.remove("attachments").unwrap_or(json!([]));
    let links = b"\n\n<!-- attachments -->\n";
    if let Some(at) = body.windows(links.len()).rposition(|window| window == links) {
        body.truncate(at);
    }
    let attachments = attachments.as_array().unwrap().iter().map(|attachment| {
        let file = dir.join(attachment["file"].as_str().unwrap());
        (attachment["name"].as_str().unwrap().to_owned(), fs::read(file).unwrap())
    });
    Document { attachments: attachments.collect(), body, head: Value::Object(head) }
}

/// The same from the library.
fn expect_document(vault: &mut TestVault, entry: EntryId, version: VersionId) -> Document {
    let content = vault.content(version).unwrap().unwrap();
    let history = vault.history(entry).unwrap();
    let state = history.iter().find(|state| state.version.id == version).unwrap();
    let when = |ms| match jiff::Timestamp::from_millisecond(ms) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => format!("{ms} ms since 1970"),
    };
    let head = json!({
        "espejo_id": entry.to_string(), "title": content.title, "tags": content.tags, "media_type": content.media_type,
        "created": when(content.created), "updated": when(state.version.dot.updated_at),
    });
    let body = match &content.body {
        Body::Text(text) => text.clone().into_bytes(),
        Body::Parts(blob) => vault.blob_bytes(blob, 1 << 30).unwrap(),
    };
    let attachments = content
        .attachments
        .iter()
        .map(|attachment| (attachment.name.clone(), vault.blob_bytes(&attachment.blob, 1 << 30).unwrap()));
    Document { attachments: attachments.collect(), body, head }
}

/// The texts in a directory, by the `parts` at the end of their names that tell entry and version.
fn texts_in(dir: &Path, parts: usize) -> BTreeMap<String, PathBuf> {
    let Ok(items) = fs::read_dir(dir) else { return BTreeMap::new() };
    let paths =
        items.map(|item| item.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "md"));
    let tail = |path: &Path| {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut tail = stem.rsplit('-').take(parts).collect::<Vec<_>>();
        tail.reverse();
        tail.join("-")
    };
    paths.map(|path| (tail(&path), path)).collect()
}

/// Compares everything that came out with everything the vault shows.
fn assert_same(recovered: &Recovered, vault: &mut TestVault) {
    let out = &recovered.out;
    let entries = vault.entries().unwrap();
    let texts = texts_in(out, 1);
    let lost = texts_in(&out.join("conflicts"), 2);
    let (mut live, mut losers) = (0, 0);
    for entry in &entries {
        let id = entry.id().to_string();
        if !entry.deleted() {
            let expected = expect_document(vault, entry.id(), entry.version.id);
            assert_eq!(read_document(&texts[&id[..8]]), expected);
            live += 1;
        }
        for loser in &entry.losers {
            let expected = expect_document(vault, entry.id(), *loser);
            assert_eq!(read_document(&lost[&format!("{}-{}", &id[..8], &loser.to_string()[..8])]), expected);
            losers += 1;
        }
    }
    assert_eq!((texts.len(), lost.len()), (live, losers));
}

/// Bytes that do not repeat.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn attach(vault: &mut TestVault, name: &str, bytes: &[u8]) -> Attachment {
    let blob = vault.store_blob(&mut &bytes[..]).unwrap();
    Attachment { name: name.to_owned(), media_type: "application/octet-stream".to_owned(), blob }
}

fn save(vault: &mut TestVault, content: Content) -> EntryId {
    let edit = Edit { entry: None, made_on: MadeOn::Everything, change: Change::Content(content) };
    vault.save(&[edit]).unwrap()[0].entry
}

/// Entries of every kind.
fn write_entries(vault: &mut TestVault) {
    for n in 0..20 {
        add(vault, &format!("entry {n}"));
    }
    for (n, title) in ["Ñandú — 鏡 🪞", "\u{202e}backwards", "\"quoted\": \\ title", ""].iter().enumerate()
    {
        let mut content = text(title, "---\ntitle: \"not this one\"\n---\n\r\nline\u{2028}line\0end");
        content.created = [-1, -60_000_000_000_000, 253_402_000_000_000, i64::MAX][n];
        content.tags = vec!["día".to_owned(), "a, b".to_owned()];
        save(vault, content);
    }
    let mut content = text("attachments", "text");
    let names = [
        "photo.jpg",
        "PHOTO.JPG",
        "../../etc/passwd",
        "/etc/passwd",
        "",
        ".hidden",
        "a\nb",
        "con.txt",
        "-rf",
    ];
    content.attachments = names.map(|name| attach(vault, name, name.as_bytes())).into();
    content.attachments.push(attach(vault, "empty", b""));
    content.attachments.push(attach(vault, &"é".repeat(300), b"long name"));
    content.attachments.push(attach(vault, "exactly one part", &noise(PART_BYTES)));
    content.attachments.push(attach(vault, "more than two parts", &noise(2 * PART_BYTES + 12_345)));
    save(vault, content);
    let mut content = text("a body in parts", "");
    content.body = Body::Parts(vault.store_blob(&mut &noise(100_000)[..]).unwrap());
    "image/png".clone_into(&mut content.media_type);
    save(vault, content);
    let edited = add(vault, "edited");
    (0..5).for_each(|n| edit(vault, edited, &format!("edited {n}")));
    let deleted = add(vault, "deleted");
    delete(vault, deleted);
    let restored = add(vault, "restored");
    delete(vault, restored);
    let content = Change::Content(text("restored", "again"));
    vault.save(&[Edit { entry: Some(restored), made_on: MadeOn::Everything, change: content }]).unwrap();
}

/// A vault and its mirror in a folder, with everything in them: history, deletions, conflicts, packs.
struct World {
    dir: tempfile::TempDir,
    vault: TestVault,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let remote = FolderRemote::new(dir.path().join("mirror"));
        let mut a = new_vault(&dir.path().join("vault"), "laptop", &TestClock::at(NOW));
        set_remote(&mut a);
        write_entries(&mut a);
        let both = add(&mut a, "edited on both sides");
        let gone = add(&mut a, "edited here, deleted there");
        let twice = add(&mut a, "deleted on both sides");
        sync(&mut a, &remote);
        let other = TestClock::at(NOW + YEAR_MS);
        let mut b = clone_vault(&dir.path().join("other"), "desktop", &other, &remote);
        set_remote(&mut b);
        sync(&mut b, &remote);
        edit(&mut a, both, "from the laptop");
        edit(&mut b, both, "from the desktop");
        edit(&mut a, gone, "from the laptop, too");
        delete(&mut b, gone);
        delete(&mut a, twice);
        delete(&mut b, twice);
        sync(&mut a, &remote);
        sync(&mut b, &remote);
        // The conflict stays open: an exception goes into the context.
        edit(&mut b, both, "from the desktop, once more");
        sync(&mut b, &remote);
        assert_eq!(sync(&mut a, &remote).conflicts, 2);
        Self { dir, vault: a }
    }

    fn vault_dir(&self) -> PathBuf {
        self.dir.path().join("vault")
    }

    fn mirror_dir(&self) -> PathBuf {
        self.dir.path().join("mirror")
    }

    /// Every object file or pack on the mirror, the longest last.
    fn mirrored_files(&self) -> Vec<PathBuf> {
        let items = walkdir::WalkDir::new(self.mirror_dir().join("objects")).into_iter().map(Result::unwrap);
        let files = items.filter(|item| item.file_type().is_file()).map(walkdir::DirEntry::into_path);
        let mut files = files.collect::<Vec<_>>();
        files.sort_by_key(|file| fs::metadata(file).unwrap().len());
        files
    }
}

fn is_pack(file: &Path) -> bool {
    fs::read(file).unwrap()[10] == 8
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_vault_and_its_mirror_can_be_read_without_this_program() {
    let mut world = World::new();
    assert!(world.mirrored_files().iter().any(|file| is_pack(file)), "the mirror has no pack");
    for source in [world.vault_dir(), world.mirror_dir()] {
        let recovered = recover(&source);
        assert_eq!((recovered.status, recovered.told.as_str()), (0, ""));
        assert_same(&recovered, &mut world.vault);
    }
}

#[test]
fn it_writes_what_export_writes_byte_for_byte() {
    let mut world = World::new();
    let mut content =
        text("with its own fields", "---\naliases: [x]\nsun: true\n---\nsee [it](attachment:a%20b.txt)\n");
    content.attachments = vec![
        attach(&mut world.vault, "a b.txt", b"linked"),
        attach(&mut world.vault, "c.png", b"not linked"),
    ];
    save(&mut world.vault, content);
    let mut content = text("a long text", "");
    content.body = Body::Parts(world.vault.store_blob(&mut "línea\n".repeat(200_000).as_bytes()).unwrap());
    save(&mut world.vault, content);
    let recovered = recover(&world.vault_dir());
    assert_eq!((recovered.status, recovered.told.as_str()), (0, ""));
    let backup = world.dir.path().join("backup.tar");
    world.vault.backup(&backup).unwrap();
    let from_backup = recover(&backup);
    assert_eq!((from_backup.status, from_backup.told.as_str()), (0, ""));
    assert!(
        cli::files(&from_backup.out) == cli::files(&recovered.out),
        "a backup holds what its vault holds"
    );
    let out = world.dir.path().join("export");
    let exported = cli::run(&world.vault_dir(), &["export", out.to_str().unwrap()]);
    assert_eq!(exported.json()["skipped"], json!([]));
    let [theirs, ours] = [&recovered.out, &out].map(|dir| cli::files(dir));
    assert!(ours.len() > 40, "{}", ours.len());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, bytes) in &ours {
        assert!(
            theirs[name] == *bytes,
            "{}: {} / {}",
            name.display(),
            String::from_utf8_lossy(bytes),
            String::from_utf8_lossy(&theirs[name])
        );
    }
}

#[test]
fn it_reads_the_frozen_vaults_of_every_schema_as_export_does() {
    for schema in ["schema-1", "schema-2"] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&repository().join("fixtures/vaults").join(schema), dir.path());
        let recovered = recover(&dir.path().join("vault"));
        assert_eq!((recovered.status, recovered.told.as_str()), (0, ""), "{schema}");
        for other in ["mirror", "backup.espejo"] {
            let from_other = recover(&dir.path().join(other));
            assert_eq!((from_other.status, from_other.told.as_str()), (0, ""), "{schema} {other}");
            assert!(cli::files(&from_other.out) == cli::files(&recovered.out), "{schema} {other}");
        }
        let out = dir.path().join("export");
        let exported = cli::run(&dir.path().join("vault"), &["export", out.to_str().unwrap()]);
        assert_eq!(exported.json()["skipped"], json!([]));
        let ours = cli::files(&out);
        assert!(ours.len() >= 4, "{ours:?}");
        assert!(ours == cli::files(&recovered.out), "{schema}");
    }
}

#[test]
fn damage_is_named_and_the_rest_is_read() {
    let mut world = World::new();
    let entries = world.vault.entries().unwrap().iter().filter(|entry| !entry.deleted()).count();
    // One object in a pack: what lies at the end of the file is the pack's last object.
    let pack = world.mirrored_files().into_iter().find(|file| is_pack(file)).unwrap();
    flip(&pack, fs::read(&pack).unwrap().len() - 1);
    let recovered = recover(&world.mirror_dir());
    assert_eq!(recovered.status, 1);
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(recovered.told.contains(name) && recovered.told.contains("damaged"), "{}", recovered.told);
    assert!(texts_in(&recovered.out, 1).len() >= entries - 1);
    // A part that is gone costs one attachment.
    let vault_dir = world.vault_dir();
    let entry =
        world.vault.entries().unwrap().into_iter().find(|it| it.summary.title == "attachments").unwrap();
    let part = entry.summary.parts.last().unwrap().to_string();
    fs::remove_file(vault_dir.join("objects").join(&part[..2]).join(&part)).unwrap();
    let recovered = recover(&vault_dir);
    assert_eq!(recovered.status, 1);
    assert!(recovered.told.contains(&part), "{}", recovered.told);
    assert_eq!(texts_in(&recovered.out, 1).len(), entries);
}

/// Where each file of a backup lies, from its header to the next one's.
fn places(tar: &[u8]) -> Vec<(String, Range<usize>)> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some((path, len)) = tar.get(at..at + BLOCK_BYTES).and_then(read_tar_header) {
        let end = at + tar_len(len) as usize;
        places.push((path, at..end));
        at = end;
    }
    places
}

#[test]
fn of_a_damaged_backup_it_takes_what_is_whole_and_names_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = new_vault(&dir.path().join("vault"), "laptop", &TestClock::at(NOW));
    add_many(&mut vault, 3);
    let path = dir.path().join("backup.tar");
    vault.backup(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let places = places(&good);
    let of = |prefix: &str, n: usize| {
        let found = places.iter().filter(|(path, _)| path.starts_with(prefix)).nth(n);
        found.unwrap_or_else(|| panic!("{prefix} {n}")).clone()
    };
    // What is done to the backup, how many texts come of it, and what is named.
    let mut cases = Vec::<(Vec<u8>, usize, String)>::new();
    for (prefix, n, texts) in [("backup-index", 0, 3), ("keys/", 0, 3), ("keys/", 1, 3), ("objects/", 1, 2)] {
        let (name, at) = of(prefix, n);
        let mut flipped = good.clone();
        flipped[at.start + BLOCK_BYTES + 100] ^= 1;
        cases.push((flipped, texts, name));
    }
    // With the index, what only lost its header is found by its place.
    let (name, at) = of("objects/", 1);
    let mut headless = good.clone();
    headless[at.start..at.start + BLOCK_BYTES].fill(0);
    cases.push((headless.clone(), 3, String::new()));
    // Without it, nobody knows what is missing: that is said.
    headless[BLOCK_BYTES + 100] ^= 1;
    cases.push((headless, 2, "cannot be told".to_owned()));
    let cut = good[..of("objects/", 2).1.start].to_vec();
    cases.push((cut, 2, of("objects/", 2).0));
    // Everything behind a block that is gone is elsewhere.
    let block = at.start + 2 * BLOCK_BYTES;
    cases.push(([&good[..block], &good[block + BLOCK_BYTES..]].concat(), 2, name));
    for (bytes, texts, named) in cases {
        fs::write(&path, bytes).unwrap();
        let recovered = recover(&path);
        let told = format!("{named}: {}", recovered.told);
        assert_eq!(texts_in(&recovered.out, 1).len(), texts, "{told}");
        assert_eq!(recovered.status, i32::from(!named.is_empty()), "{told}");
        assert!(recovered.told.contains(&named), "{told}");
    }
    fs::write(&path, [0; 4_096]).unwrap();
    assert_eq!(recover(&path).status, 2, "nothing is left of it");
}

#[test]
fn odd_dates_and_ids_lose_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let vault_dir = dir.path().join("vault");
    let mut vault = new_vault(&vault_dir, "laptop", &TestClock::at(NOW));
    let (first, last) = (-62_135_596_800_000, 253_402_207_199_999);
    let dates = [first - 1, first, last, last + 1, i64::MIN];
    for (n, created) in dates.into_iter().enumerate() {
        // All digits of their names are the same.
        let mut id = [0xab; 16];
        id[15] = n as u8;
        let mut content = text("same", "same");
        content.created = created;
        content.attachments.push(attach(&mut vault, "file.txt", &[n as u8]));
        let entry = Some(EntryId::from_bytes(id));
        vault.save(&[Edit { entry, made_on: MadeOn::Everything, change: Change::Content(content) }]).unwrap();
    }
    let recovered = recover(&vault_dir);
    assert_eq!((recovered.status, recovered.told.as_str()), (0, ""));
    let texts = texts_in(&recovered.out, 1).into_values().map(|path| read_document(&path));
    let mut files = texts.flat_map(|text| text.attachments.into_values()).collect::<Vec<_>>();
    files.sort();
    assert_eq!(files, (0..dates.len()).map(|n| vec![n as u8]).collect::<Vec<_>>());
    let out = dir.path().join("export");
    assert_eq!(cli::run(&vault_dir, &["export", out.to_str().unwrap()]).json()["exported"], dates.len());
    assert!(cli::files(&out) == cli::files(&recovered.out));
}

/// The attachment's or the long text's only part is gone.
#[test]
fn what_cannot_be_read_is_nowhere_and_the_rest_is_written_the_same_by_both() {
    let dir = tempfile::tempdir().unwrap();
    let vault_dir = dir.path().join("vault");
    let mut vault = new_vault(&vault_dir, "laptop", &TestClock::at(NOW));
    let mut content = text("half", "see [it](attachment:a) and [the other](attachment:a-b)");
    content.attachments = vec![attach(&mut vault, "a", b"gone"), attach(&mut vault, "a-b", b"here")];
    let gone = content.attachments[0].blob.parts[0].object.to_string();
    save(&mut vault, content);
    let mut content = text("long", "");
    let blob = vault.store_blob(&mut &b"a long text"[..]).unwrap();
    let text_gone = blob.parts[0].object.to_string();
    content.body = Body::Parts(blob);
    save(&mut vault, content);
    // One name is the beginning of another.
    let mut content = text("odd", "---\na: b\n---");
    content.tags = (0..400).map(|n| format!("#{n} {}", "x".repeat(180))).collect();
    content.attachments = vec![attach(&mut vault, "x", b"unlinked"), attach(&mut vault, "x.y", b"linked")];
    let link = "[it](attachment:x.y)";
    let mut linked = content.clone();
    linked.body = Body::Text(link.to_owned());
    save(&mut vault, content);
    save(&mut vault, linked);
    for object in [&gone, &text_gone] {
        fs::remove_file(vault_dir.join("objects").join(&object[..2]).join(object)).unwrap();
    }
    let recovered = recover(&vault_dir);
    assert_eq!((recovered.status, texts_in(&recovered.out, 1).len()), (1, 4), "{}", recovered.told);
    let out = dir.path().join("export");
    let exported = cli::run(&vault_dir, &["export", out.to_str().unwrap()]).exits(3).document();
    assert_eq!((&exported["exported"], exported["skipped"].as_array().unwrap().len()), (&json!(4), 2));
    let [theirs, ours] = [&recovered.out, &out].map(|dir| cli::files(dir));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, bytes) in &ours {
        assert!(theirs[name] == *bytes, "{}: {}", name.display(), String::from_utf8_lossy(bytes));
    }
    let text = |part: &str| {
        let named = ours.iter().find(|(name, _)| name.to_string_lossy().contains(part));
        String::from_utf8_lossy(named.unwrap().1).into_owned()
    };
    assert!(text("half").contains("{\"file\":null,") && text("half").contains("[it](attachment:a)"));
    assert!(text("long").contains("body_file: null\n"));
    // Whoever has the entry does not lose the attachment for it; whoever has not gets the text.
    let path = out.to_str().unwrap();
    let again = cli::run(&vault_dir, &["import", "markdown", path]).exits(3).document();
    assert_eq!((&again["created"], &again["updated"]), (&json!(0), &json!(0)), "{again}");
    let other = dir.path().join("other");
    new_vault(&other, "desktop", &TestClock::at(NOW));
    let come = cli::run(&other, &["import", "markdown", path]).exits(3).document();
    assert_eq!((&come["created"], come["skipped"].as_array().unwrap().len()), (&json!(3), 2), "{come}");
}

#[test]
fn an_encoding_it_cannot_read_hides_none_that_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let vault_dir = dir.path().join("vault");
    let mut vault = new_vault(&vault_dir, "laptop", &TestClock::at(NOW));
    add(&mut vault, "an entry");
    let (name, old) = cli::files(&vault_dir.join("objects")).pop_first().unwrap();
    assert_eq!(name.to_str().unwrap().len(), 67);
    let (_, inner) = open_sealed(vault.keyring(), FileType::Version, &old).unwrap();
    let newer = seal_file(vault.keyring(), FileType::Version, SCHEMA + 1, &inner, &OsEntropy).unwrap();
    let name = object_name(&newer).to_string();
    fs::create_dir_all(vault_dir.join("objects").join(&name[..2])).unwrap();
    fs::write(vault_dir.join("objects").join(&name[..2]).join(&name), newer).unwrap();
    let recovered = recover(&vault_dir);
    assert_eq!((recovered.status, texts_in(&recovered.out, 1).len()), (0, 1), "{}", recovered.told);
}

#[test]
fn a_version_that_is_gone_is_missed() {
    let world = World::new();
    let single = world.mirrored_files().into_iter().find(|file| !is_pack(file)).unwrap();
    fs::remove_file(&single).unwrap();
    let recovered = recover(&world.mirror_dir());
    assert_eq!(recovered.status, 1);
    let name = single.file_name().unwrap().to_str().unwrap();
    assert!(recovered.told.contains(name) && recovered.told.contains("is not here"), "{}", recovered.told);
}

#[test]
fn what_was_retired_is_not_missed_and_what_was_buried_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mirror, clock) = (dir.path().join("mirror"), TestClock::at(NOW));
    let remote = FolderRemote::new(mirror.clone());
    let mut vault = new_vault(&dir.path().join("vault"), "laptop", &clock);
    set_remote(&mut vault);
    let (gone, kept) = (add(&mut vault, "gone"), add(&mut vault, "kept"));
    sync(&mut vault, &remote);
    for _ in 0..11 {
        edit(&mut vault, kept, "kept, and edited");
        sync(&mut vault, &remote);
    }
    let before = dir.path().join("before");
    fs::create_dir(&before).unwrap();
    copy_dir(&mirror, &before);
    delete(&mut vault, gone);
    sync(&mut vault, &remote);
    for days in [1, 100, 2, 2, 2, 2] {
        clock.advance(days * 24 * 60 * 60 * 1_000);
        sync(&mut vault, &remote);
    }
    assert_eq!(vault.history(kept).unwrap().len(), 10);
    assert_eq!(vault.entries().unwrap().len(), 1);
    for source in [dir.path().join("vault"), mirror.clone()] {
        let recovered = recover(&source);
        assert_eq!((recovered.status, recovered.told.as_str()), (0, ""));
        assert_same(&recovered, &mut vault);
    }
    // Some tool brings the old files back.
    copy_dir(&before.join("objects"), &mirror.join("objects"));
    let recovered = recover(&mirror);
    assert_eq!(recovered.status, 0);
    assert_same(&recovered, &mut vault);
}

#[test]
fn what_is_not_espejos_is_neither_followed_nor_believed() {
    let mut world = World::new();
    let objects = world.mirror_dir().join("objects");
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("0".repeat(64)), "not sealed").unwrap();
    std::os::unix::fs::symlink(&outside, objects.join("linked-1")).unwrap();
    let batch = objects.join("00000000-1");
    fs::create_dir(&batch).unwrap();
    fs::write(batch.join(".abc.part-1-1"), "torn").unwrap();
    fs::write(batch.join("readme.txt"), "hello").unwrap();
    let recovered = recover(&world.mirror_dir());
    assert_eq!(recovered.status, 0, "{}", recovered.told);
    assert!(recovered.told.contains("readme.txt"));
    assert_same(&recovered, &mut world.vault);
    // A link with an object's name leads nowhere.
    std::os::unix::fs::symlink("/etc/passwd", batch.join("1".repeat(64))).unwrap();
    assert_eq!(recover(&world.mirror_dir()).status, 1);
}

#[test]
fn a_wrong_password_writes_nothing() {
    let world = World::new();
    let recovered = recover_with(&world.vault_dir(), "incorrect horse");
    assert_eq!(recovered.status, 2);
    assert!(recovered.told.contains("does not open the key file"), "{}", recovered.told);
    assert!(!recovered.out.exists());
}

#[test]
fn the_frozen_files_open_with_the_password_and_with_the_words() {
    let vectors = repository().join("fixtures/vectors");
    for source in ["vault", "mirror"] {
        for (flag, secret) in
            [("--password-file", "password.txt"), ("--recovery-words-file", "recovery-words.txt")]
        {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let run = run(&vectors.join(source), &out, [Path::new(flag), &vectors.join(secret)]);
            assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
            let texts = texts_in(&out, 1);
            assert_eq!(texts.len(), 1);
            let document = read_document(texts.values().next().unwrap());
            assert_eq!(document.head["title"], "Mañana en el espejo 🪞");
            assert_eq!(document.head["updated"], "2026-01-02T03:04:05.010Z");
            assert_eq!(document.body, "# Sol\n\nPor fin.\n".as_bytes());
            assert_eq!(document.attachments["lista.txt"], b"leche, pan, sal\n");
            assert_eq!(texts_in(&out.join("conflicts"), 2).len(), 1);
        }
    }
}
