//! Keys, wrappers, passwords.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use espejo::crypto::{self, Key, MIN_WRITTEN_ITERATIONS, OpenError, sha256};
use espejo::entropy::{Entropy, EntropyError, OsEntropy};
use espejo::format::feed::hash16;
use espejo::format::keyfile::Secret;
use espejo::fs::DiskFs;
use espejo::host::{Host, ThisMachine};
use espejo::sync;
use espejo::vault::{self, Change, Edit, Error, Locked, NewVault};
use espejo::version::MadeOn;
use hmac::{Hmac, Mac};
use sha2::Sha512;

use super::{Two, plant};
use crate::common::cli::{Cli, files, temp_dir};
use crate::common::*;

/// What lies in `keys/` of a vault or a mirror: one file.
fn key_file(dir: &Path) -> (String, Vec<u8>) {
    let (name, bytes) = files(&dir.join("keys")).pop_first().unwrap();
    (format!("keys/{}", name.display()), bytes)
}

#[test]
fn row_02_a_mirror_without_a_sound_key_file_gives_a_newcomer_nothing() {
    let mut two = Two::with(&["kept"]);
    let (name, good) = key_file(&two.path("mirror"));
    let mut without_slots = good.clone();
    without_slots[64] = 0;
    let end = without_slots.len() - 32;
    let checksum = sha256(&[&without_slots[..end]]);
    without_slots[end..].copy_from_slice(&checksum);
    let cuts = (0..good.len()).map(|len| good[..len].to_vec());
    let keys = two.path("mirror/keys");
    for stub in cuts.chain([without_slots]) {
        fs::remove_dir_all(&keys).unwrap();
        // Under the name that its bytes ask for: nothing but what is in it gives it away.
        plant(&two.path("mirror"), &format!("keys/1-{}.key", hash16(&stub)), &stub);
        let before = files(&two.path("mirror"));
        let refused = block_on(sync::introduce(&two.remote));
        assert!(matches!(refused, Err(sync::Error::Vault(Error::KeyFileMissing))), "{} bytes", stub.len());
        assert_eq!(files(&two.path("mirror")), before);
    }
    fs::remove_dir_all(&keys).unwrap();
    fs::create_dir(&keys).unwrap();
    let cli = Cli::new();
    let error = cli.error(15, &["clone", two.path("mirror").to_str().unwrap(), cli.vault.to_str().unwrap()]);
    assert_eq!(error["kind"], "key_file_missing", "{error}");
    assert!(!cli.vault.exists() || files(&cli.vault).is_empty(), "a key came out of nothing");
    assert_eq!(files(&keys).len(), 0);
    // Who has the key keeps it, and gives it back.
    let local = [key_file(&two.path("a")), key_file(&two.path("b"))];
    two.settle();
    assert_eq!([key_file(&two.path("a")), key_file(&two.path("b"))], local);
    assert_eq!(key_file(&two.path("mirror")), (name, good));
}

/// A product in the field that AES-GCM's tags are made in.
fn product(x: u128, y: u128) -> u128 {
    let (mut sum, mut shifted) = (0, y);
    for bit in (0..128).rev() {
        if x >> bit & 1 == 1 {
            sum ^= shifted;
        }
        shifted = (shifted >> 1) ^ ((shifted & 1) * (0xe1 << 120));
    }
    sum
}

/// `x` to the power of 2¹²⁸ − 2.
fn inverse(x: u128) -> u128 {
    let (mut result, mut square) = (1 << 127, x);
    for _ in 1..128 {
        square = product(square, square);
        result = product(result, square);
    }
    result
}

/// What `docs/format.md` §3 makes of a key, a context and a salt, for a text of one chunk.
struct Chunk {
    cipher: Aes256Gcm,
    nonce: [u8; 12],
    commitment: [u8; 32],
}

impl Chunk {
    fn new(key: &Key, context: &[u8], salt: &[u8; 24]) -> Self {
        let info = [b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0", &salt[..], context].concat();
        let block = |before: &[u8], number: u8| {
            let mut mac = <Hmac<Sha512> as hmac::KeyInit>::new_from_slice(key.as_bytes()).unwrap();
            [before, &info, &[number]].iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        };
        let first = block(&[], 1);
        let derived = [first.clone(), block(&first, 2)].concat();
        Self {
            cipher: Aes256Gcm::new_from_slice(&derived[..32]).unwrap(),
            nonce: derived[32..44].try_into().unwrap(),
            commitment: derived[44..76].try_into().unwrap(),
        }
    }

    fn tag(&self, associated: &[u8]) -> u128 {
        let nonce = Nonce::from(self.nonce);
        let tag = self.cipher.encrypt_inout_detached(&nonce, associated, InOutBuf::from(&mut [][..]));
        u128::from_be_bytes(tag.unwrap().into())
    }

    /// The mask of every tag, and the secret point at which it is computed.
    fn secrets(&self) -> (u128, u128) {
        let mask = self.tag(b"");
        // Of a block of zeros nothing counts but its length.
        (mask, product(self.tag(&[0; 16]) ^ mask, inverse(128 << 64)))
    }

    fn opens(&self, ciphertext: &[u8], tag: u128) -> bool {
        let mut text = ciphertext.to_vec();
        let (nonce, tag) = (Nonce::from(self.nonce), Tag::from(tag.to_be_bytes()));
        self.cipher.decrypt_inout_detached(&nonce, b"", InOutBuf::from(&mut text[..]), &tag).is_ok()
    }
}

#[test]
fn row_04_a_ciphertext_that_two_keys_open_is_refused_by_the_commitment() {
    let keys = [Key::from_bytes([1; 32]), Key::from_bytes([2; 32])];
    let (context, salt) = (b"espejo/v1/slot", [3; 24]);
    let chunks = keys.each_ref().map(|key| Chunk::new(key, context, &salt));
    let [(mask, h), (other_mask, other_h)] = chunks.each_ref().map(Chunk::secrets);
    // Two blocks of ciphertext. The tag of each key is a sum over them, and the second block makes the sums equal.
    let square = |x| product(x, x);
    let fixed = 7_u128;
    let sum = |mask: u128, h: u128, free: u128| {
        mask ^ product(fixed, product(square(h), h)) ^ product(free, square(h)) ^ product(256, h)
    };
    let differ = sum(mask, h, 0) ^ sum(other_mask, other_h, 0);
    let free = product(differ, inverse(square(h) ^ square(other_h)));
    let tag = sum(mask, h, free);
    let ciphertext = [fixed.to_be_bytes(), free.to_be_bytes()].concat();
    assert!(chunks.iter().all(|chunk| chunk.opens(&ciphertext, tag)), "AES-GCM takes it under both");
    for (mine, other) in [(0, 1), (1, 0)] {
        let sealed = [&salt[..], &chunks[mine].commitment, &ciphertext, &tag.to_be_bytes()].concat();
        assert!(crypto::open(&keys[mine], context, &sealed).is_ok());
        assert_eq!(crypto::open(&keys[other], context, &sealed), Err(OpenError::Commitment));
    }
}

#[test]
fn row_07_one_password_never_makes_the_same_wrapper_twice() {
    let dirs = [temp_dir(), temp_dir()];
    let [mut first, second] = dirs.each_ref().map(|dir| new_vault(dir.path(), "laptop", &TestClock::at(NOW)));
    let made = first.key_file().unwrap().encode();
    first.change_password(&password(), MIN_WRITTEN_ITERATIONS).unwrap();
    let wrappers = [made, first.key_file().unwrap().encode(), second.key_file().unwrap().encode()];
    for file in &wrappers {
        assert!(u32::from_be_bytes(file[76..80].try_into().unwrap()) >= 600_000);
    }
    // Salt, and the sealed keys with a salt of their own.
    for part in [88..120, 136..160, 160..248] {
        let [a, b, c] = wrappers.each_ref().map(|file| &file[part.clone()]);
        assert!(a != b && b != c && a != c, "{part:?}");
    }
}

/// A machine whose source of randomness can run dry.
struct Dry {
    machine: ThisMachine<TestClock>,
    source: Source,
}

#[derive(Clone)]
struct Source(Rc<Cell<bool>>);

impl Entropy for Source {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        if self.0.get() { Err(EntropyError) } else { OsEntropy.fill(buffer) }
    }
}

impl Host for Dry {
    type Fs = DiskFs;
    type Clock = TestClock;
    type Entropy = Source;

    fn fs(&self) -> &DiskFs {
        self.machine.fs()
    }

    fn clock(&self) -> &TestClock {
        self.machine.clock()
    }

    fn entropy(&self) -> &Source {
        &self.source
    }
}

#[test]
fn row_13_without_randomness_nothing_is_saved_and_nothing_is_written() {
    let dir = temp_dir();
    let source = Source(Rc::default());
    let host = |name: &str| Dry {
        machine: ThisMachine::with_clock(dir.path().join(name), TestClock::at(NOW)),
        source: source.clone(),
    };
    new_vault(&dir.path().join("vault"), "laptop", &TestClock::at(NOW));
    let mut vault = Locked::find(host("vault")).unwrap().unlock(&Secret::Password(password())).unwrap();
    let entry = add(&mut vault, "kept");
    let before = files(dir.path());
    source.0.set(true);
    for entry in [None, Some(entry)] {
        let change = Change::Content(text("lost", "without a salt"));
        let saved = vault.save(&[Edit { entry, made_on: MadeOn::Everything, change }]);
        assert!(matches!(saved, Err(Error::Entropy(_))), "{saved:?}");
    }
    assert!(matches!(vault.store_blob(&mut &b"bytes"[..]), Err(Error::Entropy(_))));
    assert!(matches!(vault.change_password(&password(), 0), Err(Error::Entropy(_))));
    assert!(vault.backup(&dir.path().join("backup.tar")).is_err());
    let new = NewVault { password: password(), recovery: true, device_name: "x".to_owned(), iterations: 0 };
    assert!(matches!(vault::create(host("new"), &new).err(), Some(Error::Entropy(_))));
    assert_eq!(files(dir.path()), before);
    source.0.set(false);
    edit(&mut vault, entry, "there is randomness again");
}
