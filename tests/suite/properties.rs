//! What holds for every input, tried on generated ones: versions, seals, feeds, the index, names, packs, keys, and a
//! whole vault against a map.
//!
//! Long, because it is a list of laws over the same generated inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::common::{TestClock, YEAR_MS, copy_dir, pack_of, text};
use espejo::crypto::{self, Key, Keyring, Password, object_name};
use espejo::entropy::OsEntropy;
use espejo::entry::Body;
use espejo::format::feed::{Announcement, Encoded, NO_TIP, Seen, SegmentName, open_segment, seal_segment};
use espejo::format::keyfile::{KeyFile, KeyFileError, NewKeyFile, Secret};
use espejo::format::manifest::{PREAMBLE_LEN, open_frame, preamble, seal_frame};
use espejo::format::object::{open_version, seal_version};
use espejo::format::{FileType, MIN_SEALED_BYTES, open_sealed, pack, seal_file, sealed_file_len};
use espejo::host::ThisMachine;
use espejo::id::{DeviceId, EntryId, ObjectName, VaultId, VersionId};
use espejo::manifest::{FeedTip, Location, Manifest, Notices, Record, Row, Subject, Summary};
use espejo::remote::RemotePath;
use espejo::vault::{self, Change, Edit, Locked, NewVault, Vault};
use espejo::version::{Context, Dot, Kind, MadeOn, Version, resolve, succeed};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use zeroize::Zeroizing;

const DEVICE: DeviceId = DeviceId::from_bytes([4; 16]);
const CHUNK: usize = 16 << 10;

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let masters = BTreeMap::from([(1, Key::from_bytes([1; 32])), (2, Key::from_bytes([2; 32]))]);
    Keyring::from_masters(VaultId::from_bytes([9; 16]), masters).unwrap()
});

// Versions.

/// One version by one of three devices, which knows what the steps before have brought it.
#[derive(Debug, Clone)]
struct Step {
    device: usize,
    clock: i64,
    settles: bool,
    deletes: bool,
    /// Of the versions so far, those it receives first.
    receives: Vec<Index>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0..3_usize,
        -50..50_i64,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        vec(any::<Index>(), 0..4),
    );
    let step = step.prop_map(|(device, clock, settles, deletes, receives)| Step {
        device,
        clock,
        settles,
        deletes,
        receives,
    });
    vec(step, 1..24)
}

/// The versions of one entry that these steps write.
fn history(steps: &[Step]) -> Vec<Version> {
    let mut all = Vec::<Version>::new();
    let mut held: [BTreeSet<usize>; 3] = Default::default();
    for step in steps {
        if !all.is_empty() {
            held[step.device].extend(step.receives.iter().map(|index| index.index(all.len())));
        }
        let known = held[step.device].iter().map(|number| &all[*number]).collect::<Vec<_>>();
        let made_on = match resolve(known.iter().copied()) {
            Some(resolved) if !step.settles => MadeOn::Version(resolved.current.id),
            _ => MadeOn::Everything,
        };
        let device = DeviceId::from_bytes([step.device as u8; 16]);
        let (dot, context) = succeed(&known, &[], made_on, device, step.clock);
        let kind = if step.deletes { Kind::Tombstone } else { Kind::Live };
        let id = VersionId::from_bytes([all.len() as u8; 16]);
        held[step.device].insert(all.len());
        all.push(Version { entry: EntryId::from_bytes([0; 16]), id, dot, context, kind });
    }
    all
}

fn is_superseded(version: &Version, by: &[Version]) -> bool {
    by.iter().any(|other| other.context.covers(version.dot))
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn what_is_shown_does_not_depend_on_the_way_it_came(steps in steps(), order in any::<u64>()) {
        let versions = history(&steps);
        let mut replica = versions.iter().chain(&versions).collect::<Vec<_>>();
        crate::common::dice::Dice(order).shuffle(&mut replica);
        prop_assert_eq!(resolve(replica), resolve(&versions));
    }

    #[test]
    fn the_current_version_wins_against_each_of_the_others(steps in steps()) {
        let versions = history(&steps);
        let current = resolve(&versions).unwrap().current;
        for other in &versions {
            prop_assert_eq!(resolve([current, other]).unwrap().current, current);
            prop_assert_eq!(resolve([other, current]).unwrap().current, current);
        }
    }

    #[test]
    fn forgetting_what_is_superseded_changes_nothing(steps in steps(), kept in vec(any::<bool>(), 24)) {
        let versions = history(&steps);
        let rest = versions.iter().zip(kept).filter(|(version, kept)| *kept || !is_superseded(version, &versions));
        prop_assert_eq!(resolve(rest.map(|(version, _)| version)), resolve(&versions));
    }

    #[test]
    fn every_version_is_shown_superseded_or_a_loser(steps in steps()) {
        let versions = history(&steps);
        let resolved = resolve(&versions).unwrap();
        prop_assert!(!is_superseded(resolved.current, &versions));
        for version in versions.iter().filter(|version| *version != resolved.current) {
            let both_deleted = (version.kind, resolved.current.kind) == (Kind::Tombstone, Kind::Tombstone);
            let open = !is_superseded(version, &versions) && !both_deleted;
            prop_assert_eq!(resolved.losers.contains(&version), open);
        }
    }

    #[test]
    fn settling_ends_every_conflict(steps in steps(), clock in any::<i64>()) {
        let mut versions = history(&steps);
        let known = versions.iter().collect::<Vec<_>>();
        let (dot, context) = succeed(&known, &[], MadeOn::Everything, DEVICE, clock);
        let id = VersionId::from_bytes([255; 16]);
        versions.push(Version { id, dot, context, kind: Kind::Live, entry: versions[0].entry });
        let resolved = resolve(&versions).unwrap();
        prop_assert_eq!((resolved.current.id, resolved.losers), (id, Vec::new()));
    }
}

// Seals.

/// Lengths at which blocks, chunks and padding begin and end, and any other.
fn content_len() -> impl Strategy<Value = usize> {
    let edges = vec![
        0,
        1,
        15,
        16,
        17,
        3_979,
        3_980,
        3_981,
        CHUNK - 9,
        CHUNK - 8,
        CHUNK - 7,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
    ];
    prop_oneof![prop::sample::select(edges), 0..100_000_usize]
}

fn sealed(file_type: FileType, content: &[u8]) -> Vec<u8> {
    seal_file(&*KEYRING, file_type, 2, content, &OsEntropy).unwrap()
}

fn opens(file: &[u8]) -> bool {
    open_sealed(&*KEYRING, FileType::Version, file).is_ok()
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn padding_hides_lengths_and_costs_little(len in 0..5_000_000_usize, more in 0..10_000_usize) {
        let padded = sealed_file_len(len);
        prop_assert!(padded >= MIN_SEALED_BYTES && padded <= sealed_file_len(len + more));
        let bare = 36 + crypto::sealed_len(8 + len);
        prop_assert!(padded == MIN_SEALED_BYTES || padded as f64 <= bare as f64 * 1.12, "{} for {}", padded, bare);
    }

    #[test]
    fn a_small_edit_and_a_deletion_look_alike(title in ".{0,100}", body in "[^\0-\u{1f}]{0,400}", steps in steps()) {
        let version = history(&steps).pop().unwrap();
        let live = Version { kind: Kind::Live, ..version.clone() };
        let live = seal_version(&KEYRING, &live, Some(&text(&title, &body)), &OsEntropy).unwrap();
        let gone = Version { kind: Kind::Tombstone, ..version };
        let gone = seal_version(&KEYRING, &gone, None, &OsEntropy).unwrap();
        prop_assert_eq!((live.bytes.len(), gone.bytes.len()), (MIN_SEALED_BYTES, MIN_SEALED_BYTES));
    }

    #[test]
    fn a_version_says_what_was_sealed(title in ".{0,100}", body in any::<String>(), tags in vec(any::<String>(), 0..4), steps in steps()) {
        let version = Version { kind: Kind::Live, ..history(&steps).pop().unwrap() };
        let content = espejo::entry::Content { tags, ..text(&title, &body) };
        let object = seal_version(&KEYRING, &version, Some(&content), &OsEntropy).unwrap();
        let opened = open_version(&KEYRING, &object.bytes).unwrap();
        prop_assert_eq!((opened.version, opened.content), (version, Some(content)));
    }

    #[test]
    fn what_is_sealed_opens_at_every_length(len in content_len(), byte in any::<u8>()) {
        let content = vec![byte; len];
        let file = sealed(FileType::Version, &content);
        prop_assert_eq!(file.len(), sealed_file_len(len));
        let (header, opened) = open_sealed(&*KEYRING, FileType::Version, &file).unwrap();
        prop_assert_eq!((header.epoch, &opened[..]), (2, &content[..]));
    }

    #[test]
    fn a_changed_bit_never_opens(len in content_len(), at in any::<Index>(), bit in 0..8_u8) {
        let mut file = sealed(FileType::Version, &vec![7; len]);
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(!opens(&file), "byte {}", at);
    }

    #[test]
    fn what_is_cut_or_longer_never_opens(len in content_len(), at in any::<Index>(), tail in vec(any::<u8>(), 1..40)) {
        let file = sealed(FileType::Version, &vec![7; len]);
        prop_assert!(!opens(&file[..at.index(file.len())]));
        prop_assert!(!opens(&[file, tail].concat()));
    }

    #[test]
    fn two_files_cannot_be_made_into_a_third(len in content_len(), at in any::<Index>()) {
        let [one, other] = [7, 8].map(|byte| sealed(FileType::Version, &vec![byte; len]));
        let at = at.index(one.len());
        let spliced = [&one[..at], &other[at..]].concat();
        // Up to the salt they are the same.
        prop_assert!(!opens(&spliced) || spliced == other || spliced == one);
        let part = sealed(FileType::Part, &vec![7; len]);
        prop_assert!(!opens(&part) && !opens(&[&one[..36], &part[36..]].concat()));
        prop_assert!(!opens(&[&part[..36], &one[36..]].concat()));
    }
}

// Feeds.

fn id() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![(0..4_u8).prop_map(|n| [n; 16]), any::<[u8; 16]>()]
}

fn dot() -> impl Strategy<Value = Dot> {
    (id(), any::<i64>())
        .prop_map(|(device, updated_at)| Dot { device: DeviceId::from_bytes(device), updated_at })
}

fn any_version() -> impl Strategy<Value = Version> {
    let context = (vec(dot(), 0..4), btree_set(dot(), 0..4)).prop_map(|(seen, except)| Context {
        seen: seen.into_iter().map(|dot| (dot.device, dot.updated_at)).collect(),
        except,
    });
    (id(), id(), dot(), context, any::<bool>()).prop_map(|(entry, id, dot, context, live)| Version {
        entry: EntryId::from_bytes(entry),
        id: VersionId::from_bytes(id),
        dot,
        context,
        kind: if live { Kind::Live } else { Kind::Tombstone },
    })
}

fn any_row() -> impl Strategy<Value = Row> {
    let subject =
        prop_oneof![Just(Subject::Part), any_version().prop_map(|version| Subject::Version(version.into()))];
    let object = any::<[u8; 32]>().prop_map(ObjectName::from_bytes);
    (object, 0..1_u32 << 24, any::<u32>(), any::<u32>(), subject).prop_map(
        |(object, len_bytes, schema, epoch, subject)| Row { object, len_bytes, schema, epoch, subject },
    )
}

fn placed_row() -> impl Strategy<Value = (Row, Location)> {
    (any_row(), 0..3_u32, 0..3_u8, 0..1_u64 << 32).prop_map(|(row, batch, file, offset)| {
        let file = ObjectName::from_bytes([file; 32]);
        let file_len_bytes = offset + u64::from(row.len_bytes);
        (row, Location { writer: DEVICE, batch, file, file_len_bytes, offset })
    })
}

fn any_announcement() -> impl Strategy<Value = Announcement> {
    let seen = (any::<u64>(), any::<[u8; 32]>()).prop_map(|(seq, tip)| Seen { seq, tip });
    let seen = btree_map(id().prop_map(DeviceId::from_bytes), seen, 0..4);
    (any::<i64>(), any::<String>(), any::<String>(), ".{0,20}", seen, vec(placed_row(), 0..6), notices())
        .prop_map(|(written_at, name, program, key_file, seen, rows, notices)| Announcement {
            seq: 1,
            previous: NO_TIP,
            written_at,
            name,
            program,
            key_file,
            seen,
            rows,
            notices,
        })
}

fn notices() -> impl Strategy<Value = Notices> {
    let released = vec((any::<u32>(), any::<[u8; 32]>().prop_map(ObjectName::from_bytes)), 0..3);
    let buried = vec(
        any_row().prop_filter_map("a deletion", |row| match row.subject {
            Subject::Version(version) => Some(Version { kind: Kind::Tombstone, ..(*version).clone() }),
            Subject::Part => None,
        }),
        0..3,
    );
    let retired = btree_map(id().prop_map(DeviceId::from_bytes), any::<u64>(), 0..3);
    (released, buried, retired).prop_map(|(released, buried, retired)| Notices { released, buried, retired })
}

/// Announcements that follow each other from the first, with the tip of each.
fn chained(mut announcements: Vec<Announcement>) -> (Vec<(Announcement, [u8; 32])>, Vec<Encoded>) {
    let mut before = (0, NO_TIP);
    let mut encoded = Vec::new();
    let mut told = Vec::new();
    for announcement in &mut announcements {
        (announcement.seq, announcement.previous) = (before.0 + 1, before.1);
        let bytes = Encoded::new(announcement, DEVICE, &*KEYRING);
        before = (announcement.seq, bytes.tip(DEVICE));
        told.push((announcement.clone(), before.1));
        encoded.push(bytes);
    }
    (told, encoded)
}

fn segment_name() -> impl Strategy<Value = SegmentName> {
    (0..2_u8, 1..9_u64, 0..4_u64, any::<[u8; 4]>()).prop_map(|(device, from, more, file)| {
        SegmentName::new(DeviceId::from_bytes([device; 16]), from, from + more, &file)
    })
}

fn segment(announcements: &[Encoded]) -> Result<espejo::format::feed::Segment, espejo::format::SealedError> {
    open_segment(&*KEYRING, &seal_segment(&*KEYRING, DEVICE, announcements, &OsEntropy).unwrap())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn announcements_say_the_same_however_they_are_cut_into_files(all in vec(any_announcement(), 1..5), cut in any::<Index>()) {
        let (told, encoded) = chained(all);
        let whole = segment(&encoded).unwrap();
        prop_assert_eq!((&whole.announcements, &whole.encoded), (&told, &encoded));
        let at = cut.index(told.len());
        if at > 0 {
            let [first, second] = [&encoded[..at], &encoded[at..]].map(|piece| segment(piece).unwrap());
            prop_assert_eq!([first.announcements, second.announcements].concat(), told);
            let joined = segment(&[first.encoded, second.encoded].concat()).unwrap();
            prop_assert_eq!(joined, whole);
        }
    }

    #[test]
    fn a_chain_with_a_link_missing_doubled_or_moved_is_refused(all in vec(any_announcement(), 3..6), at in any::<Index>()) {
        let (_, encoded) = chained(all);
        let at = at.index(encoded.len() - 2);
        let mut missing = encoded.clone();
        missing.remove(at + 1);
        let mut doubled = encoded.clone();
        doubled.insert(at, encoded[at].clone());
        let mut moved = encoded;
        moved.swap(at, at + 1);
        for broken in [missing, doubled, moved] {
            prop_assert!(segment(&broken).is_err());
        }
    }

    #[test]
    fn segment_names_read_back(name in segment_name()) {
        prop_assert_eq!(SegmentName::parse(&name.to_string()), Some(name.clone()));
        prop_assert!(RemotePath::new(&name.to_string()).is_some());
    }

    #[test]
    fn what_reads_as_a_segment_name_is_written_so(name in segment_name(), at in any::<Index>(), to in "[0-9a-f.+-]{0,3}") {
        let mut text = name.to_string();
        let at = at.index(text.len());
        text.replace_range(at..=at, &to);
        if let Some(read) = SegmentName::parse(&text) {
            prop_assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn repeating_is_an_order(a in segment_name(), b in segment_name(), c in segment_name()) {
        prop_assert!(!a.repeats(&a));
        prop_assert!(!(a.repeats(&b) && b.repeats(&a)));
        prop_assert!(!(a.repeats(&b) && b.repeats(&c)) || a.repeats(&c));
        let numbers = |name: &SegmentName| (name.from..=name.to).collect::<BTreeSet<_>>();
        let covers = a.device == b.device && numbers(&a).is_superset(&numbers(&b));
        prop_assert_eq!(a.repeats(&b), covers && numbers(&a) != numbers(&b));
    }
}

// The index.

/// Objects of one entry's history, each version in one or two encodings, and parts: as they truly are.
fn objects(versions: &[Version]) -> Vec<(Row, Option<Summary>)> {
    let row = |number: usize, schema, subject| {
        let object = object_name(&number.to_be_bytes());
        Row { object, len_bytes: 4_096, schema, epoch: 1, subject }
    };
    let encodings = versions.iter().chain(versions.iter().step_by(3)).enumerate();
    let mut objects = encodings
        .map(|(number, version)| {
            // Whatever the encoding, the summary is of the version.
            let title = version.id.to_string();
            let live = version.kind == Kind::Live;
            let summary = live.then(|| Summary { title, ..Summary::default() });
            (
                row(number, 2 + (number / versions.len()) as u32, Subject::Version(version.clone().into())),
                summary,
            )
        })
        .collect::<Vec<_>>();
    objects.extend((100..103).map(|number| (row(number, 0, Subject::Part), None)));
    objects
}

fn location(batch: u32) -> Location {
    Location {
        writer: DEVICE,
        batch,
        file: ObjectName::from_bytes([7; 32]),
        file_len_bytes: 1 << 20,
        offset: 0,
    }
}

/// What one record is about: its kind, an object, a place.
fn choices() -> impl Strategy<Value = Vec<(u8, Index, u32)>> {
    vec((0..16_u8, any::<Index>(), 0..4_u32), 0..60)
}

fn records(objects: &[(Row, Option<Summary>)], choices: &[(u8, Index, u32)]) -> Vec<Record> {
    let record = |(kind, object, place): &(u8, Index, u32)| {
        let (row, summary) = object.get(objects).clone();
        match kind {
            0..=3 => Record::Stored(row, summary),
            4..=7 => Record::Mirrored(row, location(*place)),
            8 => Record::Lost(row.object),
            9 => Record::NotMirrored(row.object),
            10 => Record::NewMirror,
            12 => Record::Released(location(*place).file_place(), *place > 1),
            13 => Record::Retired(row.object, *place > 1),
            14 => Record::Dropped(row.object),
            15 => match row.subject {
                Subject::Version(version) if version.kind == Kind::Tombstone => {
                    Record::Buried((*version).clone(), *place > 1)
                }
                Subject::Version(_) => Record::Lost(row.object),
                Subject::Part => Record::DeviceRetired(DEVICE, u64::from(*place), *place > 1),
            },
            _ => {
                let tip =
                    FeedTip { seq: 1, tip: [1; 32], written_at: 1, name: "a".into(), program: "b".into() };
                Record::Feed(
                    DeviceId::from_bytes([*place as u8; 16]),
                    FeedTip { seq: u64::from(*place), ..tip },
                )
            }
        }
    };
    choices.iter().map(record).collect()
}

fn amounting(records: impl IntoIterator<Item = Record>) -> Manifest {
    let mut manifest = Manifest::default();
    records.into_iter().for_each(|record| manifest.apply(record));
    manifest
}

/// All that a manifest is asked for, of objects that are or were here or are on the mirror.
fn told(manifest: &Manifest) -> String {
    let objects = manifest.objects_by_name().into_iter();
    let objects = objects.filter(|state| state.was_here || state.is_mirrored());
    let opened = manifest.versions().filter(|state| state.opened);
    let opened = opened.map(|state| {
        let encoding = manifest.encoding_here(state.version.id, 9);
        (state.version.id, (&state.version, &state.summary, encoding))
    });
    let entries = manifest.entry_ids().filter_map(|entry| Some((entry, manifest.resolve(entry)?)));
    let plan = espejo::sync::plan(manifest, &[]);
    let objects = objects.filter(|state| state.is_mirrored() || is_opened(manifest, &state.row));
    let told = (
        objects.collect::<Vec<_>>(),
        opened.collect::<BTreeMap<_, _>>(),
        entries.collect::<BTreeMap<_, _>>(),
    );
    format!("{told:?} {:?} {plan:?}", manifest.feeds())
}

fn is_opened(manifest: &Manifest, row: &Row) -> bool {
    match &row.subject {
        Subject::Version(version) => manifest.version(version.id).is_some_and(|state| state.opened),
        Subject::Part => true,
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn an_index_written_anew_says_the_same(steps in steps(), choices in choices()) {
        let manifest = amounting(records(&objects(&history(&steps)), &choices));
        let again = amounting(manifest.to_records());
        prop_assert_eq!(told(&again), told(&manifest));
        let thrice = amounting(again.to_records());
        prop_assert_eq!(told(&thrice), told(&manifest));
    }

    #[test]
    fn a_record_applied_twice_changes_nothing(steps in steps(), choices in choices()) {
        let records = records(&objects(&history(&steps)), &choices);
        let twice = records.iter().flat_map(|record| [record.clone(), record.clone()]);
        prop_assert_eq!(told(&amounting(twice)), told(&amounting(records.clone())));
    }

    #[test]
    fn what_is_here_and_there_may_be_learnt_in_any_order(steps in steps(), choices in choices(), order in any::<u64>()) {
        let objects = objects(&history(&steps));
        let mut learnt = BTreeMap::new();
        for (kind, object, _) in choices {
            let (row, summary) = object.get(&objects).clone();
            let here = kind % 2 == 0;
            let record = if here { Record::Stored(row.clone(), summary) } else { Record::Mirrored(row.clone(), location(1)) };
            learnt.insert((row.object, here), record);
        }
        let mut records = learnt.into_values().collect::<Vec<_>>();
        let manifest = amounting(records.clone());
        crate::common::dice::Dice(order).shuffle(&mut records);
        prop_assert_eq!(told(&amounting(records)), told(&manifest));
    }

    #[test]
    fn a_wrong_announcement_hides_nothing_that_was_opened(steps in steps(), lies in vec((any::<Index>(), any::<Index>(), any::<bool>()), 1..6)) {
        let objects = objects(&history(&steps));
        let stored = objects.iter().map(|(row, summary)| Record::Stored(row.clone(), summary.clone()));
        let stored = stored.collect::<Vec<_>>();
        let lies = lies.iter().map(|(object, subject, other_entry)| {
            let mut row = Row { subject: subject.get(&objects).0.subject.clone(), ..object.get(&objects).0.clone() };
            if let (Subject::Version(version), true) = (&mut row.subject, other_entry) {
                Arc::make_mut(version).entry = EntryId::from_bytes([1; 16]);
            }
            Record::Mirrored(row, location(1))
        });
        let lies = lies.collect::<Vec<_>>();
        let truth = amounting(stored.clone());
        for records in [[lies.clone(), stored.clone()].concat(), [stored.clone(), lies].concat()] {
            let manifest = amounting(records);
            prop_assert_eq!(manifest.resolve(EntryId::from_bytes([0; 16])), truth.resolve(EntryId::from_bytes([0; 16])));
            for state in truth.versions() {
                let [one, other] = [&manifest, &truth].map(|it| it.encoding_here(state.version.id, 9));
                prop_assert_eq!(one.map(|object| &object.row), other.map(|object| &object.row));
            }
        }
    }

    #[test]
    fn frames_read_back_and_only_at_their_place(rows in vec(placed_row(), 0..6), moved in 1..1_000_u64) {
        let preamble = preamble(&KEYRING, &OsEntropy).unwrap();
        let offset = PREAMBLE_LEN as u64;
        let records = rows.into_iter().map(|(row, at)| Record::Mirrored(row, at)).collect::<Vec<_>>();
        let frame = seal_frame(&KEYRING, &preamble, offset, &records, &OsEntropy).unwrap();
        prop_assert_eq!(open_frame(&KEYRING, &preamble, offset, &frame), Ok((records, frame.len())));
        prop_assert!(open_frame(&KEYRING, &preamble, offset + moved, &frame).is_err());
    }
}

// Names and packs.

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn a_remote_path_is_made_of_safe_names(path in "[a-z0-9.-]{0,4}(/?[a-zA-Z0-9._ -]{0,3}){0,5}") {
        let name = "[a-z0-9]([a-z0-9.-]{0,97}[a-z0-9-])?";
        let safe = regex::Regex::new(&format!("^{name}(/{name}){{0,3}}$")).unwrap();
        prop_assert_eq!(RemotePath::new(&path).is_some(), safe.is_match(&path));
    }

    #[test]
    fn no_name_is_longer_than_99(len in 90..110_usize) {
        prop_assert_eq!(RemotePath::new(&"a".repeat(len)).is_some(), len <= 99);
    }

    #[test]
    fn a_pack_gives_back_its_objects(objects in vec((any::<[u8; 32]>(), vec(any::<u8>(), 0..60)), 0..8)) {
        let objects = objects.into_iter().map(|(name, bytes)| (ObjectName::from_bytes(name), bytes));
        let objects = objects.collect::<Vec<_>>();
        let (file, offsets) = pack_of(&objects);
        let read = pack::read(&file).unwrap();
        prop_assert_eq!(read.len(), objects.len());
        for (((name, bytes), offset), (read_name, read_bytes)) in objects.iter().zip(offsets).zip(read) {
            prop_assert_eq!((name, &bytes[..]), (&read_name, read_bytes));
            prop_assert_eq!(&file[offset as usize..][..bytes.len()], &bytes[..]);
        }
    }

    #[test]
    fn a_pack_whose_table_does_not_fit_is_refused(objects in vec(vec(any::<u8>(), 0..60), 1..8), which in any::<Index>(), by in any::<u32>(), cut in any::<Index>()) {
        let objects = objects.into_iter().map(|bytes| (object_name(&bytes), bytes)).collect::<Vec<_>>();
        let (file, _) = pack_of(&objects);
        prop_assert!(pack::read(&file[..cut.index(file.len())]).is_err());
        prop_assert!(pack::read(&[&file[..], &[0]].concat()).is_err());
        // The length of one object, at the end of its row.
        let end = pack::table_len(which.index(objects.len()) + 1);
        let mut wrong = file;
        let len = u32::from_be_bytes(wrong[end - 4..end].try_into().unwrap());
        wrong[end - 4..end].copy_from_slice(&len.wrapping_add(by.max(1)).to_be_bytes());
        prop_assert!(pack::read(&wrong).is_err());
    }
}

// Keys.

const KEY_FILE: &[u8] = include_bytes!("../../fixtures/vectors/vault/keys/1-500179f44af62bb2.key");

/// With the fewest rounds: such a file is refused when read, and these are not read.
fn wrapped(generation: u32, recovery: [u8; 32]) -> KeyFile {
    let new = NewKeyFile {
        generation,
        created_ms: 0,
        device: DEVICE,
        password: &Password::new("p").unwrap(),
        iterations: 1,
        recovery: Some(&Zeroizing::new(recovery)),
    };
    KeyFile::new(&KEYRING, &new, &OsEntropy).unwrap()
}

fn recovery(secret: [u8; 32]) -> Secret {
    Secret::Recovery(Zeroizing::new(secret))
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_changed_or_cut_key_file_is_damaged(at in any::<Index>(), by in 1..=255_u8) {
        let at = at.index(KEY_FILE.len());
        let mut altered = KEY_FILE.to_vec();
        altered[at] ^= by;
        prop_assert_eq!(KeyFile::decode(&altered), Err(KeyFileError::Damaged));
        prop_assert_eq!(KeyFile::decode(&KEY_FILE[..at]), Err(KeyFileError::Damaged));
    }

    #[test]
    fn only_the_secret_it_was_made_with_opens_a_key_file(secret in any::<[u8; 32]>(), at in any::<Index>(), by in 1..=255_u8) {
        let key_file = wrapped(1, secret);
        let keyring = key_file.unlock(&recovery(secret)).unwrap();
        prop_assert_eq!(keyring.masters().len(), 2);
        prop_assert!(keyring.masters().iter().all(|(epoch, key)| key.as_bytes() == KEYRING.masters()[epoch].as_bytes()));
        let mut other = secret;
        other[at.index(32)] ^= by;
        prop_assert_eq!(key_file.unlock(&recovery(other)).err(), Some(KeyFileError::WrongSecret));
    }

    #[test]
    fn keys_wrapped_anew_open_with_the_new_secret_alone(old in any::<[u8; 32]>(), new in any::<[u8; 32]>()) {
        prop_assume!(old != new);
        let rewrapped = wrapped(2, new);
        prop_assert_eq!(rewrapped.unlock(&recovery(old)).err(), Some(KeyFileError::WrongSecret));
        let keyring = rewrapped.unlock(&recovery(new)).unwrap();
        prop_assert!(wrapped(1, old).is_authentic(&keyring) && rewrapped.is_authentic(&KEYRING));
        let foreign = Keyring::generate(KEYRING.vault(), &OsEntropy).unwrap();
        prop_assert!(!rewrapped.is_authentic(&foreign));
        let file = sealed(FileType::Version, b"sealed before");
        prop_assert!(open_sealed(&keyring, FileType::Version, &file).is_ok());
    }
}

// A vault.

/// What is done to a vault and to the map it is compared with.
#[derive(Debug, Clone)]
enum Act {
    Add(String, String),
    Edit(Index, String),
    Delete(Index),
    Attach(Vec<u8>),
    /// Close and open it.
    Reopen,
    /// Close it, lose this much of the index, open it.
    LoseIndex(Index),
    Check,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (".{0,12}", any::<String>()).prop_map(|(title, body)| Act::Add(title, body)),
        4 => (any::<Index>(), any::<String>()).prop_map(|(entry, body)| Act::Edit(entry, body)),
        2 => any::<Index>().prop_map(Act::Delete),
        1 => vec(any::<u8>(), 0..200).prop_map(Act::Attach),
        2 => Just(Act::Reopen),
        1 => any::<Index>().prop_map(Act::LoseIndex),
        1 => Just(Act::Check),
    ];
    vec(act, 1..25)
}

type ModelVault = Vault<ThisMachine<TestClock>>;

struct Template {
    dir: tempfile::TempDir,
    recovery: Zeroizing<[u8; 32]>,
}

/// An empty vault to copy: making one takes a slow derivation.
static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let new = NewVault {
        password: crate::common::password(),
        recovery: true,
        device_name: "template".to_owned(),
        iterations: crypto::MIN_WRITTEN_ITERATIONS,
    };
    let created = vault::create(ThisMachine::new(dir.path()), &new).unwrap();
    Template { dir, recovery: created.recovery.unwrap() }
});

fn open(dir: &Path) -> ModelVault {
    let clock = TestClock::at(crate::common::NOW + YEAR_MS);
    let locked = Locked::find(ThisMachine::with_clock(dir, clock)).unwrap();
    locked.unlock(&recovery(*TEMPLATE.recovery)).unwrap()
}

fn save(vault: &mut ModelVault, entry: Option<EntryId>, change: Change) -> EntryId {
    let made_on = match entry {
        Some(entry) => MadeOn::Version(vault.entry(entry).unwrap().version.id),
        None => MadeOn::Everything,
    };
    vault.save(&[Edit { entry, made_on, change }]).unwrap()[0].entry
}

/// Live entries with title and body; deleted ones without. And how many versions each has.
type Model = BTreeMap<EntryId, (Option<(String, Vec<u8>)>, usize)>;

fn act(vault: ModelVault, dir: &Path, model: &mut Model, act: Act) -> ModelVault {
    let mut vault = vault;
    let entry = |index: &Index, model: &Model| {
        let ids = model.keys().copied().collect::<Vec<_>>();
        (!ids.is_empty()).then(|| *index.get(&ids))
    };
    match act {
        Act::Add(title, body) => {
            let id = save(&mut vault, None, Change::Content(text(&title, &body)));
            model.insert(id, (Some((title, body.into_bytes())), 1));
        }
        Act::Edit(index, body) => {
            if let Some(id) = entry(&index, model) {
                save(&mut vault, Some(id), Change::Content(text("edited", &body)));
                let state = model.get_mut(&id).unwrap();
                *state = (Some(("edited".to_owned(), body.into_bytes())), state.1 + 1);
            }
        }
        Act::Delete(index) => {
            if let Some(id) = entry(&index, model) {
                save(&mut vault, Some(id), Change::Delete);
                let state = model.get_mut(&id).unwrap();
                *state = (None, state.1 + 1);
            }
        }
        Act::Attach(bytes) => {
            let blob = vault.store_blob(&mut &bytes[..]).unwrap();
            let content = espejo::entry::Content { body: Body::Parts(blob), ..text("in parts", "") };
            let id = save(&mut vault, None, Change::Content(content));
            model.insert(id, (Some(("in parts".to_owned(), bytes)), 1));
        }
        Act::Reopen => {
            drop(vault);
            vault = open(dir);
        }
        Act::LoseIndex(at) => {
            drop(vault);
            let index = dir.join("local/manifest");
            let bytes = std::fs::read(&index).unwrap();
            std::fs::write(&index, &bytes[..at.index(bytes.len())]).unwrap();
            vault = open(dir);
        }
        Act::Check => assert!(vault.check().unwrap().is_clean()),
    }
    vault
}

fn held(vault: &mut ModelVault) -> Model {
    let entries = vault.entries().unwrap();
    let mut held = Model::new();
    for entry in entries {
        assert!(entry.losers.is_empty());
        let content = vault.content(entry.version.id).unwrap();
        assert_eq!(content.is_none(), entry.deleted());
        let content = content.map(|content| match &content.body {
            Body::Text(text) => (content.title.clone(), text.clone().into_bytes()),
            Body::Parts(blob) => (content.title.clone(), vault.blob_bytes(blob, 1 << 20).unwrap()),
        });
        held.insert(entry.id(), (content, vault.history(entry.id()).unwrap().len()));
    }
    held
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn a_vault_holds_what_a_map_would(acts in acts()) {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(TEMPLATE.dir.path(), dir.path());
        let mut vault = open(dir.path());
        let mut model = Model::new();
        for next in acts {
            vault = act(vault, dir.path(), &mut model, next);
            let live = model.values().filter(|(content, _)| content.is_some()).count();
            prop_assert_eq!(vault.manifest().unwrap().counts().entries, live as u64);
        }
        prop_assert_eq!(held(&mut vault), model);
    }
}

#[test]
fn numbers_in_the_status_that_cannot_be_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(TEMPLATE.dir.path(), dir.path());
    let json = format!(r#"{{"entries":{0},"unsynced":{0},"devices":{0}}}"#, u64::MAX);
    std::fs::write(dir.path().join("local/status"), json).unwrap();
    let mut vault = open(dir.path());
    let id = save(&mut vault, None, Change::Content(text("title", "body")));
    assert_eq!(held(&mut vault).into_keys().collect::<Vec<_>>(), [id]);
}

/// The index of a vault with one entry, put back when there are two.
fn put_back() -> (tempfile::TempDir, Vec<EntryId>) {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(TEMPLATE.dir.path(), dir.path());
    let index = dir.path().join("local/manifest");
    let first = save(&mut open(dir.path()), None, Change::Content(text("before", "")));
    let before = std::fs::read(&index).unwrap();
    let second = save(&mut open(dir.path()), None, Change::Content(text("after", "")));
    assert!(std::fs::read(&index).unwrap().starts_with(&before), "it was only added to");
    std::fs::write(&index, &before).unwrap();
    (dir, vec![first, second])
}

#[test]
fn an_index_put_back_from_before_hides_nothing() {
    let (dir, ids) = put_back();
    assert_eq!(held(&mut open(dir.path())).into_keys().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    // Nor when what is done next needs to know nothing but where it ends.
    let (dir, mut ids) = put_back();
    ids.push(save(&mut open(dir.path()), None, Change::Content(text("later", ""))));
    assert_eq!(held(&mut open(dir.path())).into_keys().collect::<BTreeSet<_>>(), ids.into_iter().collect());
}
