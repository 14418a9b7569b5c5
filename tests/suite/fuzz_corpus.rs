//! Every fuzz target again, without a fuzzer: each file of the committed corpus, and what chance makes of it.
//!
//! `ESPEJO_SEEDS=N` runs N mutations of each target's corpus instead of 20,000. `docs/architecture.md` tells how to let
//! a fuzzer look for more.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::common::dice::Dice;
use crate::common::{pack_of, text};
use espejo::crypto::{self, Purpose, object_name};
use espejo::entry::{Blob, Body, Content, Part};
use espejo::format::feed::{Announcement, Encoded, NO_TIP, SegmentName, seal_segment};
use espejo::format::manifest::{PREAMBLE_LEN, seal_frame};
use espejo::format::object::identify;
use espejo::format::{FileType, Header, open_sealed, pack};
use espejo::id::{DeviceId, ObjectName, VaultId};
use espejo::manifest::{FeedTip, Location, Notices, Record};
use espejo::vault::{RemoteSettings, Status, SyncState};
use targets::{DEVICE, SALT, SEALED, TARGETS, Target, VAULT, keyring};

const MUTATIONS: u64 = 20_000;
const MAX_CORPUS_BYTES: usize = 100 << 10;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The files of a target's corpus, in the order of their names: chance falls the same way everywhere.
fn files(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(corpus(target)).unwrap().map(|file| file.unwrap().path());
    files.collect::<BTreeSet<_>>().into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs one input; a panic names it.
fn run(name: &str, target: Target, input: &[u8]) {
    assert!(
        catch_unwind(AssertUnwindSafe(|| target(input))).is_ok(),
        "{name} fails on {}",
        data_encoding::HEXLOWER.encode(input)
    );
}

/// Numbers that lengths and counts go wrong at.
fn edge(dice: &mut Dice, len: usize) -> u64 {
    let near = len as u64 + dice.next() % 5;
    let edges =
        [0, 1, near.saturating_sub(2), 1 << 31, (1 << 31) - 1, u64::from(u32::MAX), u64::MAX, 1 << 63];
    edges[dice.below(edges.len())]
}

/// One to four changes: bits, lengths, cuts, repetitions, and pieces of another input.
fn mutated(dice: &mut Dice, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below(bytes.len() - at + 1);
        match dice.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => {
                let number = edge(dice, bytes.len()).to_be_bytes();
                let number = if dice.below(2) == 0 { &number[..] } else { &number[4..] };
                let end = bytes.len().min(at + number.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = dice.below(other.len() + 1);
                bytes.splice(at..end, other[from..].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn readers_hold_on_every_file_of_the_corpus_and_what_chance_makes_of_it() {
    let mutations = std::env::var("ESPEJO_SEEDS").map_or(MUTATIONS, |count| count.parse().unwrap());
    std::thread::scope(|scope| {
        for (number, (name, target)) in TARGETS.into_iter().enumerate() {
            scope.spawn(move || {
                let files = files(name);
                files.iter().for_each(|file| run(name, target, file));
                let mut dice = Dice(number as u64);
                for _ in 0..mutations {
                    let [input, other] = [0, 1].map(|_| &files[dice.below(files.len())]);
                    run(name, target, &mutated(&mut dice, input, other));
                }
            });
        }
    });
}

#[test]
fn every_target_has_a_fuzzer_and_the_corpus_is_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    for (name, _) in TARGETS {
        let fuzzer = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(fuzzer.contains(&format!("espejo_fuzz::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        assert!(!files(name).is_empty(), "{name}");
    }
    let bytes = TARGETS.iter().flat_map(|(name, _)| files(name)).map(|file| file.len()).sum::<usize>();
    assert!(bytes <= MAX_CORPUS_BYTES, "{bytes}");
}

/// The seeds of the corpus, from the frozen vectors and the captured answers of servers. Fuzzers found the rest.
#[test]
#[ignore = "writes the seeds of the corpus; only for a new target"]
fn make() {
    let mut seeds = BTreeMap::<&str, Vec<Vec<u8>>>::new();
    sealed_seeds(&mut seeds);
    record_seeds(&mut seeds);
    feed_seeds(&mut seeds);
    clear_seeds(&mut seeds);
    for (target, seeds) in seeds {
        fs::create_dir_all(corpus(target)).unwrap();
        for seed in seeds {
            let name = &object_name(&seed).to_string()[..16];
            fs::write(corpus(target).join(name), seed).unwrap();
        }
    }
}

fn sealed_seeds(seeds: &mut BTreeMap<&str, Vec<Vec<u8>>>) {
    let keyring = keyring();
    let types = [FileType::Version, FileType::Part, FileType::Manifest, FileType::Feed, FileType::State];
    let vault = VAULT.parse::<VaultId>().unwrap();
    let headers = types.map(|file_type| Header { file_type, schema: 2, epoch: 1, vault }.encode());
    seeds.insert("sealed_header", headers.to_vec());
    let opens = |file_type, file: &&&[u8]| open_sealed(&keyring, file_type, file).is_ok();
    let one = |file_type| SEALED.iter().find(|file| opens(file_type, file)).unwrap().to_vec();
    seeds.insert("sealed_object", [FileType::Version, FileType::Part, FileType::Feed].map(one).to_vec());
    for file in SEALED {
        if let Ok((header, inner)) = open_sealed(&keyring, FileType::Version, file) {
            seeds.entry("version").or_default().push([&[header.schema as u8], &inner[..]].concat());
        }
    }
    let huge = Part { object: ObjectName::from_bytes([1; 32]), len_bytes: u64::MAX };
    let blob = Blob { parts: vec![huge, huge] };
    let content = Content { body: Body::Parts(blob), ..text("t", "") };
    let json = |seed: &Vec<u8>| seed.windows(2).position(|two| two == b"{\"");
    let (live, json) = seeds["version"].iter().find_map(|seed| Some((seed, json(seed)?))).unwrap();
    let huge = [&live[..json], &serde_json::to_vec(&content).unwrap()].concat();
    let first = br#"{"title":"t","body":"b","tags":["x","x"],"created":1,"updated":2}"#;
    let first = [&[1], &live[1..json], &first[..]].concat();
    seeds.entry("version").or_default().extend([huge, first]);
    for content in [&b""[..], b"leche, pan, sal\n"] {
        let part = [&(content.len() as u64).to_be_bytes(), content].concat();
        seeds.entry("part").or_default().push(part);
    }
}

fn location(offset: u64) -> Location {
    let file = ObjectName::from_bytes([7; 32]);
    Location { writer: DEVICE, batch: 3, file, file_len_bytes: 1 << 20, offset }
}

fn record_seeds(seeds: &mut BTreeMap<&str, Vec<Vec<u8>>>) {
    let keyring = keyring();
    let objects = SEALED.iter().filter_map(|file| identify(&keyring, file.to_vec()).ok());
    let objects = objects.collect::<Vec<_>>();
    let stored = objects.iter().map(|object| Record::Stored(object.row.clone(), object.summary.clone()));
    let mirrored = objects.iter().map(|object| Record::Mirrored(object.row.clone(), location(88)));
    let tip = FeedTip { seq: 4, tip: [8; 32], written_at: 1, name: "a".into(), program: "b".into() };
    let other = vec![
        Record::Lost(objects[0].name()),
        Record::Feed(DEVICE, tip),
        Record::NotMirrored(objects[1].name()),
        Record::NewMirror,
    ];
    let header = Header { file_type: FileType::Manifest, schema: 0, epoch: 1, vault: keyring.vault() };
    let preamble = [header.encode(), vec![0; 16]].concat();
    let mut file = preamble.clone();
    let key = keyring.derive(Purpose::Manifest, 1).unwrap();
    for records in [stored.collect::<Vec<_>>(), mirrored.collect(), other] {
        let start = PREAMBLE_LEN as u64;
        let frame = seal_frame(&keyring, &preamble, start, &records, &SALT).unwrap();
        let context = [&preamble[..], &start.to_be_bytes()].concat();
        let content = crypto::open(&key, &context, &frame[4..frame.len() - 4]).unwrap();
        seeds.entry("manifest_records").or_default().push(content.to_vec());
        file.extend(seal_frame(&keyring, &preamble, file.len() as u64, &records, &SALT).unwrap());
    }
    seeds.insert("manifest_file", vec![preamble, file]);
}

fn feed_seeds(seeds: &mut BTreeMap<&str, Vec<Vec<u8>>>) {
    let keyring = keyring();
    let rows = SEALED.iter().filter_map(|file| identify(&keyring, file.to_vec()).ok());
    let rows = rows.take(2).enumerate().map(|(n, object)| (object.row, location(88 + 4_096 * n as u64)));
    let mut last = Announcement {
        seq: 1,
        previous: NO_TIP,
        written_at: 5,
        name: "laptop".to_owned(),
        program: "espejo".to_owned(),
        key_file: "1-00.key".to_owned(),
        seen: BTreeMap::new(),
        rows: rows.collect(),
        notices: Notices::default(),
    };
    let mut encoded = vec![Encoded::new(&last, DEVICE, &keyring)];
    (last.seq, last.previous) = (2, encoded[0].tip(DEVICE));
    encoded.push(Encoded::new(&last, DEVICE, &keyring));
    let two = seal_segment(&keyring, DEVICE, &encoded, &SALT).unwrap();
    // The last number there is, and one more.
    (last.seq, last.previous) = (u64::MAX, [1; 32]);
    encoded = vec![Encoded::new(&last, DEVICE, &keyring)];
    (last.seq, last.previous) = (0, encoded[0].tip(DEVICE));
    encoded.push(Encoded::new(&last, DEVICE, &keyring));
    let endless = seal_segment(&keyring, DEVICE, &encoded, &SALT).unwrap();
    for file in [SEALED.last().unwrap(), &two[..], &endless] {
        let (_, content) = open_sealed(&keyring, FileType::Feed, file).unwrap();
        let len = u32::from_be_bytes(content[20..24].try_into().unwrap()) as usize;
        seeds.entry("announcement").or_default().push(content[24..24 + len].to_vec());
        seeds.entry("feed").or_default().push(content.to_vec());
    }
    // As many rows as a count can say, and none of them.
    let announcement = [&[0; 7][..], &[1], &[0; 32], &[0; 8], &[0; 20], &[0xff; 4], &[0; 8_000]].concat();
    seeds.entry("announcement").or_default().push(announcement);
}

fn clear_seeds(seeds: &mut BTreeMap<&str, Vec<Vec<u8>>>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let key_file = fs::read(fixtures.join("vectors/vault/keys/1-500179f44af62bb2.key")).unwrap();
    seeds.insert("key_file", vec![key_file]);
    let marker = fs::read(fixtures.join("vectors/vault/espejo.json")).unwrap();
    let newer = br#"{"espejo":2,"vault":"in a later format","more":[]}"#.to_vec();
    seeds.insert("marker", vec![marker, newer, b"<html>Sign in".to_vec()]);
    let of = |user: &[u8], target: &[u8]| [&[7; 16], &[user.len() as u8][..], user, target].concat();
    let invitations =
        [of(b"ana", b"https://cloud.example/dav/"), of(b"", b"/mnt/nas"), b"espejo1-aaaa".to_vec()];
    seeds.insert("invitation", invitations.to_vec());
    let objects = [(1, 10), (2, 0), (3, 300)].map(|(n, len)| (ObjectName::from_bytes([n; 32]), vec![n; len]));
    seeds.insert("pack", vec![pack::Builder::default().finish().0, pack_of(&objects).0]);
    for server in ["apache", "nginx", "lighttpd", "wsgidav", "sabre", "rclone-partial"] {
        let body = fs::read(fixtures.join(format!("dav/made/{server}.xml"))).unwrap();
        seeds.entry("listing").or_default().push(body);
    }
    let segment = SegmentName::new(DeviceId::from_bytes([1; 16]), 1, 42, b"file").to_string();
    let names = ["objects/0a-1/ff", "..", "feeds/a.1-2.00", ".hid", "con.", "espejo.json", "a/b/c/d/e"];
    let names = names.map(str::to_owned).into_iter().chain([segment, "ab".repeat(16), "ab".repeat(32)]);
    seeds.insert("remote_name", names.map(String::into_bytes).collect());
    let texts =
        ["# A heading\ntext", "Rain. Stayed in.", "\x1b[2Jred\x07 \u{9b}31m\u{202e}txt\u{2066}\r\nnext\0"];
    let texts = texts.map(str::to_owned).into_iter().chain(["\u{200b}é ".repeat(120)]);
    seeds.insert("shown_text", texts.map(String::into_bytes).collect());
    let settings = RemoteSettings {
        target: "https://cloud.example/dav".to_owned(),
        user: Some("ada".to_owned()),
        password: None,
        ca_pem: None,
        initialised: true,
    };
    let state = SyncState { manifest: vec![1; 16], manifest_len: 9, ..SyncState::default() };
    let json = [
        serde_json::to_vec(&Status::default()),
        serde_json::to_vec(&state),
        serde_json::to_vec(&settings),
        serde_json::to_vec(&text("title", "body")),
    ];
    seeds.insert("local_state", json.map(Result::unwrap).to_vec());
}
