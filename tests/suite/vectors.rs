//! The format is frozen: files written once and kept under `fixtures/vectors` open for ever and say what they said.
//!
//! `values.json` beside them states every value; `docs/format.md` explains them. If this test fails, the program can
//! no longer read the vaults people have.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{TestClock, copy_dir, pack_of, text};
use espejo::crypto::{Keyring, Password, Purpose, object_name, sha256};
use espejo::entropy::{Entropy, EntropyError};
use espejo::entry::{Attachment, Content};
use espejo::format::feed::{Announcement, Encoded, NO_TIP, SegmentName, open_segment, seal_segment};
use espejo::format::keyfile::{KeyFile, Secret};
use espejo::format::marker::{self, Marker};
use espejo::format::object::{identify, open_part, open_version};
use espejo::format::pack;
use espejo::fs::DiskFs;
use espejo::host::{Host, ThisMachine};
use espejo::id::{EntryId, ObjectName, VersionId};
use espejo::manifest::{Location, Row, Subject};
use espejo::vault::{self, Change, Edit, Locked, NewVault, Vault};
use espejo::version::{Dot, Kind, MadeOn, Version};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// 2026-01-02T03:04:05.006Z.
const WRITTEN_AT: i64 = 1_767_323_045_006;

/// Decomposed, as some keyboards type it: readers compose it first.
const PASSWORD: &str = "contrasen\u{303}a de ejemplo";

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/vectors")
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn typed(name: &str) -> String {
    fs::read_to_string(dir().join(name)).unwrap().trim_end_matches('\n').to_owned()
}

fn secrets() -> [Secret; 2] {
    let words = bip39::Mnemonic::parse(typed("recovery-words.txt")).unwrap();
    [
        Secret::Password(Password::new(&typed("password.txt")).unwrap()),
        Secret::Recovery(Zeroizing::new(words.to_entropy().try_into().unwrap())),
    ]
}

/// Every regular file below `root`, by its path relative to it.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let walk = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    let files = walk.filter(|item| item.file_type().is_file());
    files
        .map(|item| {
            let name = item.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            (name, fs::read(item.path()).unwrap())
        })
        .collect()
}

fn below<'a>(
    files: &'a BTreeMap<String, Vec<u8>>,
    dir: &'a str,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    files.iter().filter(move |(path, _)| path.starts_with(dir)).map(|(path, bytes)| (&path[..], &bytes[..]))
}

/// Everything the files under `root` say, opened with each secret in turn.
fn describe(root: &Path, secrets: &[Secret]) -> Value {
    let vault = files(&root.join("vault"));
    let mirror = files(&root.join("mirror"));
    let Marker::Vault(id) = marker::decode(&vault["espejo.json"]).unwrap() else { panic!("a newer marker") };
    let (key_path, key_file) = below(&vault, "keys/").next().unwrap();
    let key_file = KeyFile::decode(key_file).unwrap();
    assert_eq!(key_path, format!("keys/{}", key_file.file_name()));
    assert_eq!((&mirror["espejo.json"], &mirror[key_path]), (&vault["espejo.json"], &vault[key_path]));
    let keyrings = secrets.iter().map(|secret| key_file.unlock(secret).unwrap()).collect::<Vec<_>>();
    let masters = keyrings.iter().map(|keyring| *keyring.masters()[&1].as_bytes()).collect::<Vec<_>>();
    assert!(masters.windows(2).all(|pair| pair[0] == pair[1]));
    let keyring = &keyrings[0];
    let objects = below(&vault, "objects/").map(|(path, bytes)| describe_object(keyring, path, bytes));
    let objects = objects.collect::<Vec<_>>();
    let packs =
        below(&mirror, "objects/").map(|(path, bytes)| describe_pack(path, bytes)).collect::<Vec<_>>();
    let rows = below(&vault, "objects/").map(|(_, bytes)| identify(keyring, bytes.to_vec()).unwrap().row);
    let rows = rows.collect::<Vec<_>>();
    let feeds = below(&mirror, "feeds/").map(|(path, bytes)| describe_segment(keyring, &rows, path, bytes));
    json!({
        "vault": id.to_string(),
        "key_file": {
            "file": key_path, "generation": key_file.generation, "epoch": key_file.epoch,
            "min_epoch": key_file.min_epoch, "created": key_file.created_ms, "device": key_file.device.to_string(),
        },
        "master_keys": {"1": hex(&masters[0])},
        "subkeys": describe_subkeys(keyring),
        "objects": objects,
        "packs": packs,
        "feeds": feeds.collect::<Vec<_>>(),
    })
}

fn describe_subkeys(keyring: &Keyring) -> Value {
    let labels = [
        ("entry", Purpose::Entry),
        ("attachment", Purpose::Attachment),
        ("manifest", Purpose::Manifest),
        ("feed", Purpose::Feed),
        ("backup", Purpose::Backup),
        ("state", Purpose::State),
        ("keyfile-mac", Purpose::KeyFileMac),
        ("key-id", Purpose::KeyId),
    ];
    let keys = labels.map(|(label, purpose)| (label, hex(keyring.derive(purpose, 1).unwrap().as_bytes())));
    json!(BTreeMap::from(keys))
}

fn describe_object(keyring: &Keyring, path: &str, bytes: &[u8]) -> Value {
    let object = identify(keyring, bytes.to_vec()).unwrap();
    let name = object.name().to_string();
    assert_eq!(path, format!("objects/{}/{name}", &name[..2]));
    let row = &object.row;
    let mut told = json!({"object": name, "len": row.len_bytes, "schema": row.schema, "epoch": row.epoch});
    match &row.subject {
        Subject::Part => {
            told["content_hex"] = json!(hex(&open_part(keyring, bytes.to_vec().into()).unwrap()));
        }
        Subject::Version(version) => {
            told["version"] = describe_version(version);
            told["content"] = json!(open_version(keyring, bytes).unwrap().content);
        }
    }
    told
}

fn describe_version(version: &Version) -> Value {
    let dot = |dot: &Dot| json!([dot.device.to_string(), dot.updated_at]);
    let seen = version.context.seen.iter().map(|(device, at)| json!([device.to_string(), at]));
    json!({
        "kind": match version.kind { Kind::Live => "live", Kind::Tombstone => "tombstone" },
        "entry": version.entry.to_string(), "id": version.id.to_string(), "dot": dot(&version.dot),
        "seen": seen.collect::<Vec<_>>(),
        "except": version.context.except.iter().map(dot).collect::<Vec<_>>(),
    })
}

fn describe_pack(path: &str, bytes: &[u8]) -> Value {
    assert!(path.ends_with(&format!("/{}", object_name(bytes))));
    let offset = |part: &[u8]| part.as_ptr() as usize - bytes.as_ptr() as usize;
    let objects = pack::read(bytes).unwrap();
    let rows = objects.iter().map(|(name, object)| {
        assert_eq!(*name, object_name(object));
        json!({"object": name.to_string(), "offset": offset(object), "len": object.len()})
    });
    json!({"file": path, "len": bytes.len(), "objects": rows.collect::<Vec<_>>()})
}

/// Its rows say of the objects what these say themselves.
fn describe_segment(keyring: &Keyring, objects: &[Row], path: &str, bytes: &[u8]) -> Value {
    let name = SegmentName::parse(path.strip_prefix("feeds/").unwrap()).unwrap();
    assert!(name.matches(bytes));
    let segment = open_segment(keyring, bytes).unwrap();
    let announcements = segment.announcements.iter().map(|(it, tip)| {
        let rows = it.rows.iter().map(|(row, at)| {
            assert!(objects.contains(row));
            let file = format!("objects/{}-{}/{}", &at.writer.to_string()[..8], at.batch, at.file);
            json!({"object": row.object.to_string(), "file": file, "file_len": at.file_len_bytes, "offset": at.offset})
        });
        json!({
            "seq": it.seq, "previous": hex(&it.previous), "tip": hex(tip), "written_at": it.written_at,
            "name": it.name, "program": it.program, "key_file": it.key_file, "seen": it.seen.len(),
            "rows": rows.collect::<Vec<_>>(),
        })
    });
    json!({"file": path, "device": segment.device.to_string(), "announcements": announcements.collect::<Vec<_>>()})
}

#[test]
fn frozen_files_open_and_say_what_they_said() {
    let stated = serde_json::from_slice::<Value>(&fs::read(dir().join("values.json")).unwrap()).unwrap();
    assert_eq!(describe(&dir(), &secrets()), stated);
}

#[test]
fn the_frozen_vault_opens_as_a_vault() {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&dir().join("vault"), copy.path());
    let locked = Locked::find(ThisMachine::new(copy.path())).unwrap();
    let mut vault = locked.unlock(&secrets()[0]).unwrap();
    let entries = vault.entries().unwrap();
    let [live, deleted] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((live.summary.title.as_str(), live.losers.len()), ("Mañana en el espejo 🪞", 1));
    assert!(deleted.deleted());
    let content = vault.content(live.version.id).unwrap().unwrap();
    assert_eq!(vault.blob_bytes(&content.attachments[0].blob, 100).unwrap(), b"leche, pan, sal\n");
}

/// Random bytes that are the same in every run. For these files only.
struct Counted(Cell<u64>);

impl Entropy for Counted {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in buffer.chunks_mut(32) {
            self.0.set(self.0.get() + 1);
            let block = sha256(&[b"espejo test vectors", &self.0.get().to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}

struct Maker {
    fs: DiskFs,
    clock: TestClock,
    entropy: Counted,
}

impl Host for Maker {
    type Fs = DiskFs;
    type Clock = TestClock;
    type Entropy = Counted;

    fn fs(&self) -> &DiskFs {
        &self.fs
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn entropy(&self) -> &Counted {
        &self.entropy
    }
}

fn save(
    vault: &mut Vault<Maker>,
    entry: Option<EntryId>,
    made_on: MadeOn,
    change: Change,
) -> (EntryId, VersionId) {
    let saved = vault.save(&[Edit { entry, made_on, change }]).unwrap();
    (saved[0].entry, saved[0].version)
}

fn content(title: &str, body: &str) -> Content {
    Content { created: WRITTEN_AT - 86_400_000, ..text(title, body) }
}

/// Two entries: one with a first version, a conflict's loser and its winner, which has an attachment; one deleted.
fn write_entries(vault: &mut Vault<Maker>) {
    let first = Change::Content(content("Borrador", "Llueve.\n"));
    let (entry, first) = save(vault, None, MadeOn::Everything, first);
    let loser = Change::Content(content("Otra mañana", "Llueve otra vez.\n"));
    save(vault, Some(entry), MadeOn::Version(first), loser);
    let blob = vault.store_blob(&mut &b"leche, pan, sal\n"[..]).unwrap();
    let mut winner = content("Mañana en el espejo 🪞", "# Sol\n\nPor fin.\n");
    winner.tags = vec!["viaje".to_owned(), "día 1".to_owned()];
    winner.attachments =
        vec![Attachment { name: "lista.txt".to_owned(), media_type: "text/plain".to_owned(), blob }];
    save(vault, Some(entry), MadeOn::Version(first), Change::Content(winner));
    let (entry, version) =
        save(vault, None, MadeOn::Everything, Change::Content(content("Adiós", "Sobra.\n")));
    save(vault, Some(entry), MadeOn::Version(version), Change::Delete);
}

/// A mirror of `vault` with everything but history, in one pack.
fn write_mirror(vault: &mut Vault<Maker>, root: &Path) {
    let entries = vault.entries().unwrap();
    let heads = entries.iter().flat_map(|entry| entry.losers.iter().copied().chain([entry.version.id]));
    let heads = heads.collect::<Vec<_>>();
    let (keyring, device) = (vault.keyring(), vault.device().clone());
    let of_vault = files(&root.join("vault"));
    let wanted = |bytes: &[u8]| match identify(keyring, bytes.to_vec()).unwrap().row.subject {
        Subject::Version(version) => heads.contains(&version.id),
        Subject::Part => true,
    };
    let objects = below(&of_vault, "objects/").filter(|(_, bytes)| wanted(bytes));
    let objects = objects.map(|(_, bytes)| (object_name(bytes), bytes.to_vec()));
    let objects = objects.collect::<Vec<(ObjectName, Vec<u8>)>>();
    let (packed, offsets) = pack_of(&objects);
    let file = object_name(&packed);
    let rows = objects.iter().zip(offsets).map(|((_, bytes), offset)| {
        let file_len_bytes = packed.len() as u64;
        let at = Location { writer: device.id, batch: 1, file, file_len_bytes, offset };
        (identify(keyring, bytes.clone()).unwrap().row, at)
    });
    let key_file = vault.key_files().unwrap().pop().unwrap().0;
    let announcement = Announcement {
        notices: espejo::manifest::Notices::default(),
        seq: 1,
        previous: NO_TIP,
        written_at: WRITTEN_AT + 60_000,
        name: device.name.clone(),
        program: "espejo 0.1.0".to_owned(),
        key_file: key_file.clone(),
        seen: BTreeMap::new(),
        rows: rows.collect(),
    };
    let encoded = [Encoded::new(&announcement, device.id, keyring)];
    let segment = seal_segment(keyring, device.id, &encoded, vault.host().entropy()).unwrap();
    let name = SegmentName::new(device.id, 1, 1, &segment);
    let batch = format!("objects/{}-1", &device.id.to_string()[..8]);
    let keys = format!("keys/{key_file}");
    for (path, bytes) in [
        ("espejo.json", &of_vault["espejo.json"]),
        (&keys, &of_vault[&keys]),
        (&format!("{batch}/{file}"), &packed),
        (&format!("feeds/{name}"), &segment),
    ] {
        let path = root.join("mirror").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
#[ignore = "makes the frozen files; only for a new format, beside the old ones"]
fn make() {
    let root = dir();
    assert!(!root.join("vault").exists(), "what is frozen is not written again");
    fs::create_dir_all(&root).unwrap();
    let fs_door = DiskFs::new(root.join("vault"));
    let host = Maker { fs: fs_door, clock: TestClock::at(WRITTEN_AT), entropy: Counted(Cell::new(0)) };
    let new = NewVault {
        password: Password::new(PASSWORD).unwrap(),
        recovery: true,
        device_name: "portátil".to_owned(),
        iterations: 600_000,
    };
    let vault::Created { mut vault, recovery } = vault::create(host, &new).unwrap();
    let words = bip39::Mnemonic::from_entropy(&recovery.unwrap()[..]).unwrap();
    fs::write(root.join("password.txt"), format!("{PASSWORD}\n")).unwrap();
    fs::write(root.join("recovery-words.txt"), format!("{words}\n")).unwrap();
    write_entries(&mut vault);
    write_mirror(&mut vault, &root);
    fs::remove_dir_all(root.join("vault/local")).unwrap();
    let mut values = serde_json::to_string_pretty(&describe(&root, &secrets())).unwrap();
    values.push('\n');
    fs::write(root.join("values.json"), values).unwrap();
}
