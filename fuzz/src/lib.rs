//! What every reader of untrusted bytes must do, whatever the bytes: the body of each fuzz target.
//!
//! Shared by the fuzzers in `fuzz_targets` and by `tests/suite/fuzz_corpus.rs`, which replays the corpus without a fuzzer.
//! Besides not panicking, a reader takes memory in proportion to its input, and what it accepts is written again as it
//! was read. Readers behind a seal get their input sealed with a key holder's key, or no mutation would reach them.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use espejo::crypto::{self, Key, Keyring, Purpose};
use espejo::entropy::{Entropy, EntropyError};
use espejo::entry::{Content, SCHEMA, clean_title, title_from_body};
use espejo::format::feed::{Encoded, Segment, SegmentName, open_segment, seal_segment};
use espejo::format::invitation::{Invitation, with_checksum};
use espejo::format::keyfile::{KeyFile, Secret};
use espejo::format::manifest::{PREAMBLE_LEN, check_preamble, last_frame_start, open_frame, seal_frame};
use espejo::format::marker::{self, Marker};
use espejo::format::object::{identify, open_part, open_version, seal_version};
use espejo::format::{FileType, Header, MIN_SEALED_BYTES, SealedError, pack, read_header, seal_file};
use espejo::id::{DeviceId, EntryId, ObjectName};
use espejo::manifest::{Manifest, Subject};
use espejo::remote::webdav::read_listing;
use espejo::remote::{RemotePath, sanitize};
use espejo::vault::{RemoteSettings, Status, SyncState};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;
use zeroize::Zeroizing;

/// Panics if a reader does with these bytes what it must not.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its fuzzer and of its corpus.
pub const TARGETS: [(&str, Target); 16] = [
    ("sealed_header", sealed_header),
    ("sealed_object", sealed_object),
    ("version", version),
    ("part", part),
    ("manifest_file", manifest_file),
    ("manifest_records", manifest_records),
    ("feed", feed),
    ("announcement", announcement),
    ("key_file", key_file),
    ("marker", marker),
    ("invitation", invitation),
    ("pack", pack),
    ("listing", listing),
    ("remote_name", remote_name),
    ("shown_text", shown_text),
    ("local_state", local_state),
];

/// The vault, keys and files of `fixtures/vectors`. There is nothing secret about them.
pub const VAULT: &str = "36458f4f1cd5fd449e6333cbdbe56fb9";
const MASTER_KEY: &[u8] = b"df944e0fbc938e75629cff14a45363e7d581359d190e16421444b6c25d5a69de";
const RECOVERY_SECRET: &[u8] = b"224944ecc4ae6817c2f3e1943b8061cf96ee6987a1f21ff7c046c917e420ed6f";
const KEY_FILE: &[u8] = include_bytes!("../../fixtures/vectors/vault/keys/1-500179f44af62bb2.key");

macro_rules! vector {
    ($dir:literal, $name:literal) => {
        include_bytes!(concat!("../../fixtures/vectors/", $dir, "/", $name))
    };
}

/// All that was ever sealed with these keys: whatever else opens is a forgery.
pub const SEALED: [&[u8]; 7] = [
    vector!("vault/objects/39", "39b4247312011d8acc783da7a90089e358ea47320ced74daa1d9899d261f4c74"),
    vector!("vault/objects/53", "53a5ea44945d528316344f1680e57fff3018385284287a41f3baa441d7f72134"),
    vector!("vault/objects/5f", "5f5058a793a87cfdcd5c674cc38cfe8cf3b105c4c57b5ecea94a8e1d673b5f8f"),
    vector!("vault/objects/61", "61817083c2076c4c02d7d4576520f73f3e3e4e9edc2412f1fcae53baf372dc84"),
    vector!("vault/objects/bf", "bf57779dcf87b68694ebd8827e19029ab97a9fafeff345dfbe7fdfd09f6a948f"),
    vector!("vault/objects/dc", "dc62f75a2eedf749bd5e1741891472e2c73095d541bfc51652fb0902278b4af6"),
    vector!("mirror/feeds", "a25d886ad5a9a6c7a0f13ea72bfc85de.1-1.9b189f2b0d45f40f"),
];

/// The device whose feed the announcements are put into.
pub const DEVICE: DeviceId = DeviceId::from_bytes([4; 16]);

/// The collection whose listing is read.
pub const ASKED: &str = "http://127.0.0.1:8080/dav/espejo/feeds/";

/// No reader holds more than this many bytes for each byte of its input, besides [`FIXED_BYTES`].
const BYTES_PER_BYTE: u64 = 16;
const FIXED_BYTES: u64 = 64 << 10;

/// The salt of everything sealed here. What is sealed with the same salt is the same, byte by byte.
pub struct Salt<'a>(&'a [u8]);

/// For what no file has given a salt.
pub const SALT: Salt<'static> = Salt(&[0x5a; 32]);

impl Entropy for Salt<'_> {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        buffer.copy_from_slice(self.0.get(..buffer.len()).ok_or(EntropyError)?);
        Ok(())
    }
}

fn bytes_of(hex: &[u8]) -> [u8; 32] {
    HEXLOWER.decode(hex).expect("a constant").try_into().expect("64 digits")
}

/// The vectors' keyring.
pub fn keyring() -> Keyring {
    let masters = [(1, Key::from_bytes(bytes_of(MASTER_KEY)))];
    Keyring::from_masters(VAULT.parse().expect("a constant"), masters.into()).expect("it has a key")
}

fn header(file_type: FileType) -> Vec<u8> {
    Header { file_type, schema: 0, epoch: 1, vault: VAULT.parse().expect("a constant") }.encode()
}

/// Reads `input`, and counts the memory that takes.
fn in_bounds<T>(input: &[u8], read: impl FnOnce() -> T) -> T {
    let mut value = None;
    let taken = allocation_counter::measure(|| value = Some(read())).bytes_max;
    let allowed = input.len() as u64 * BYTES_PER_BYTE + FIXED_BYTES;
    assert!(taken <= allowed, "{taken} bytes held for {} bytes of input", input.len());
    value.expect("it was read")
}

/// The clear header of any sealed file.
pub fn sealed_header(data: &[u8]) {
    if let Ok((header, rest)) = in_bounds(data, || read_header(data)) {
        assert_eq!([&header.encode(), rest].concat(), data);
    }
}

/// A whole sealed file, as it comes from a mirror.
pub fn sealed_object(data: &[u8]) {
    let (keyring, file) = (keyring(), data.to_vec());
    let object = in_bounds(data, || identify(&keyring, file));
    let segment = in_bounds(data, || open_segment(&keyring, data));
    if object.is_ok() || segment.is_ok() {
        assert!(SEALED.contains(&data), "a forgery opened");
    }
}

/// What is inside a version: its schema, then its content.
pub fn version(data: &[u8]) {
    let Some((schema, inner)) = data.split_first() else { return };
    let keyring = keyring();
    let schema = u32::from(*schema);
    let file = seal_file(&keyring, FileType::Version, schema, inner, &SALT).expect("it has a salt");
    let copy = file.clone();
    let Ok(object) = in_bounds(&file, || identify(&keyring, copy)) else { return };
    let opened = open_version(&keyring, &file).expect("it was identified");
    assert_eq!(
        (&object.bytes, &object.row.subject),
        (&file, &Subject::Version(opened.version.clone().into()))
    );
    if schema <= SCHEMA {
        let again = seal_version(&keyring, &opened.version, opened.content.as_ref(), &SALT);
        let again = open_version(&keyring, &again.expect("it was an object before").bytes);
        let again = again.expect("this program wrote it");
        assert_eq!((again.version, again.content), (opened.version, opened.content));
    }
}

/// A part, with its length and the beginning of its padding.
pub fn part(data: &[u8]) {
    let keyring = keyring();
    let header = header(FileType::Part);
    let key = keyring.derive(Purpose::Attachment, 1).expect("the epoch is there");
    let mut padded = data.to_vec();
    padded.resize(data.len().max(MIN_SEALED_BYTES - header.len() - crypto::OVERHEAD_BYTES), 0);
    let sealed = crypto::seal(&key, &header, &padded, &SALT).expect("it has a salt");
    let file = [header, sealed].concat();
    if let Ok(content) = in_bounds(&file, || open_part(&keyring, file.clone().into())) {
        assert_eq!(seal_file(&keyring, FileType::Part, 0, &content, &SALT), Ok(file));
    }
}

/// The manifest's file, as it lies on the disk.
pub fn manifest_file(data: &[u8]) {
    let keyring = keyring();
    let Some((preamble, mut rest)) = data.split_at_checked(PREAMBLE_LEN) else { return };
    let is_ours = check_preamble(&keyring, preamble).is_ok();
    if let Some(last_four) = data.last_chunk::<4>() {
        let start = last_frame_start(data.len() as u64, *last_four);
        assert!(start.is_none_or(|start| (PREAMBLE_LEN as u64..data.len() as u64).contains(&start)));
    }
    let mut offset = PREAMBLE_LEN as u64;
    while let Ok((records, len)) = in_bounds(rest, || open_frame(&keyring, preamble, offset, rest)) {
        assert!(is_ours, "a frame opened in another vault's manifest");
        let again = seal_frame(&keyring, preamble, offset, &records, &Salt(&rest[4..]));
        assert_eq!(again.expect("the frame has a salt"), rest[..len]);
        offset += len as u64;
        rest = &rest[len..];
    }
}

/// The records inside one frame of the manifest, and what they amount to.
pub fn manifest_records(data: &[u8]) {
    let keyring = keyring();
    let preamble = [header(FileType::Manifest), vec![0; 16]].concat();
    let offset = PREAMBLE_LEN as u64;
    let key = keyring.derive(Purpose::Manifest, 1).expect("the epoch is there");
    let context = [&preamble[..], &offset.to_be_bytes()].concat();
    let sealed = crypto::seal(&key, &context, data, &SALT).expect("it has a salt");
    let len = (sealed.len() as u32).to_be_bytes();
    let frame = [&len[..], &sealed, &len].concat();
    // Without counting: a record can be one byte long, and takes as much memory as any other.
    let Ok((records, frame_len)) = open_frame(&keyring, &preamble, offset, &frame) else { return };
    assert_eq!(frame_len, frame.len());
    assert_eq!(seal_frame(&keyring, &preamble, offset, &records, &SALT), Ok(frame));
    let mut manifest = Manifest::default();
    records.into_iter().for_each(|record| manifest.apply(record));
    // Records that contradict each other may come out otherwise when they are written anew, but come out.
    let mut again = Manifest::default();
    manifest.to_records().for_each(|record| again.apply(record));
    for manifest in [manifest, again] {
        assert_eq!(espejo::sync::plan(&manifest, &[]).live, manifest.counts().entries);
    }
}

/// What is inside a feed segment.
pub fn feed(data: &[u8]) {
    let keyring = keyring();
    let file = seal_file(&keyring, FileType::Feed, 0, data, &SALT).expect("it has a salt");
    if let Ok(segment) = in_bounds(&file, || open_segment(&keyring, &file)) {
        assert_eq!(seal_segment(&keyring, segment.device, &segment.encoded, &SALT), Ok(file));
    }
}

/// One announcement of a feed.
pub fn announcement(data: &[u8]) {
    let keyring = keyring();
    let len = (data.len() as u32).to_be_bytes();
    let content = [DEVICE.as_bytes(), &[0, 0, 0, 1][..], &len, data].concat();
    let file = seal_file(&keyring, FileType::Feed, 0, &content, &SALT).expect("it has a salt");
    let Ok(segment) = in_bounds(&file, || open_segment(&keyring, &file)) else { return };
    let [(announcement, tip)] = &segment.announcements[..] else { panic!("there is one") };
    assert_eq!(*tip, segment.encoded[0].tip(DEVICE));
    let again =
        reopen(&keyring, &Encoded::new(announcement, DEVICE, &keyring)).expect("this program wrote it");
    assert_eq!(again.announcements[0].0, *announcement);
}

fn reopen(keyring: &Keyring, encoded: &Encoded) -> Result<Segment, SealedError> {
    let file = seal_segment(keyring, DEVICE, std::slice::from_ref(encoded), &SALT).expect("it has a salt");
    open_segment(keyring, &file)
}

/// A key file, as it is and with a right checksum.
pub fn key_file(data: &[u8]) {
    let secret = Secret::Recovery(Zeroizing::new(bytes_of(RECOVERY_SECRET)));
    let mut mended = data.to_vec();
    if let Some((content, checksum)) = mended.split_last_chunk_mut::<32>() {
        *checksum = crypto::sha256(&[content]);
    }
    for file in [data, &mended] {
        let Ok(key_file) = in_bounds(file, || KeyFile::decode(file)) else { continue };
        assert_eq!(key_file.encode(), file);
        if in_bounds(file, || key_file.unlock(&secret)).is_ok() {
            // What follows is the checksum, and before it a MAC that only counts after a change of keys.
            let authentic = KEY_FILE.len() - 64;
            assert_eq!(file[..authentic], KEY_FILE[..authentic], "a forgery opened");
        }
    }
}

/// `espejo.json`.
pub fn marker(data: &[u8]) {
    if let Ok(Marker::Vault(vault)) = in_bounds(data, || marker::decode(data)) {
        assert_eq!(marker::decode(&marker::encode(vault)), Ok(Marker::Vault(vault)));
    }
}

/// An invitation, mistyped, and one whose checksum fits whatever is in it.
pub fn invitation(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = in_bounds(data, || Invitation::decode(text));
    }
    let line = with_checksum(data);
    if let Ok(invitation) = Invitation::decode(&line) {
        assert_eq!(invitation.encode(), Some(line));
    }
}

/// A pack and its table.
pub fn pack(data: &[u8]) {
    let Ok(objects) = in_bounds(data, || pack::read(data)) else { return };
    let mut builder = pack::Builder::default();
    objects.iter().for_each(|(name, bytes)| builder.add(*name, bytes));
    let (again, offsets) = builder.finish();
    assert_eq!(again, data);
    for ((_, bytes), offset) in objects.iter().zip(offsets) {
        assert_eq!(data[offset as usize..][..bytes.len()], bytes[..]);
    }
}

/// The listing of a directory on a server.
pub fn listing(data: &[u8]) {
    let asked = Url::parse(ASKED).expect("a constant");
    let Ok(listing) = in_bounds(data, || read_listing(data, &asked)) else { return };
    let names = listing.items.iter().map(|item| &item.name).collect::<BTreeSet<_>>();
    assert_eq!(names.len(), listing.items.len(), "a name is listed twice");
    for item in &listing.items {
        assert_eq!(sanitize(&item.name), item.name);
        assert!((1..=255).contains(&item.name.len()) && ![".", ".."].contains(&&item.name[..]));
        assert!(!item.name.contains(['/', '\\', '\0']));
        assert!(!item.is_dir || item.len_bytes.is_none());
    }
}

/// What comes from outside and names a file, a device or an object.
pub fn remote_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let is_safe = |name: &str| {
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        name.len() <= 99
            && name.bytes().next().is_some_and(lower)
            && name.bytes().all(|b| lower(b) || b == b'.' || b == b'-')
            && !name.ends_with('.')
    };
    let path = in_bounds(data, || RemotePath::new(text));
    assert_eq!(path.is_some(), text.split('/').count() <= 4 && text.split('/').all(is_safe));
    if let Some(path) = path {
        assert_eq!(path.as_str(), text);
        let (dir, name) = (path.parent().expect("it is not the root"), text.rsplit('/').next());
        assert_eq!(dir.join(name.expect("there is one")), Some(path));
    }
    if let Some(name) = in_bounds(data, || SegmentName::parse(text)) {
        assert_eq!(name.to_string(), text);
        assert!(is_safe(text) && 1 <= name.from && name.from <= name.to && name.to < u64::MAX);
    }
    assert!(text.parse::<EntryId>().is_ok_and(|id| id.to_string() == text) == (is_id(text, EntryId::LEN)));
    assert!(
        text.parse::<ObjectName>().is_ok_and(|id| id.to_string() == text) == is_id(text, ObjectName::LEN)
    );
}

fn is_id(text: &str, len: usize) -> bool {
    text.len() == 2 * len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Foreign text that is shown, and text that becomes a title.
pub fn shown_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = in_bounds(data, || sanitize(&text));
    assert!(shown.chars().count() <= 200 && !shown.contains(char::is_control));
    assert!(!shown.contains(
        |c| matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    ));
    assert_eq!(sanitize(&shown), shown);
    let title = in_bounds(data, || title_from_body(&text));
    assert!(title.chars().count() <= 81 && !title.contains(char::is_control));
    assert_eq!(clean_title(&title), title);
}

/// JSON that this program wrote and the disk may have changed.
pub fn local_state(data: &[u8]) {
    reads_its_own::<Status>(data);
    reads_its_own::<SyncState>(data);
    reads_its_own::<RemoteSettings>(data);
    reads_its_own::<Content>(data);
}

fn reads_its_own<T: DeserializeOwned + Serialize>(data: &[u8]) {
    let Ok(value) = in_bounds(data, || serde_json::from_slice::<T>(data)) else { return };
    let json = serde_json::to_vec(&value).expect("plain data");
    let again = serde_json::from_slice::<T>(&json).expect("this program wrote it");
    assert_eq!(serde_json::to_vec(&again).expect("plain data"), json);
}
