//! All of Espejo's cryptography. No other module imports a cipher, a MAC or a key derivation function.
//!
//! One construction seals everything (`cobblestone`), one random master key per epoch is never derived from
//! anything (`keys`), and passwords only ever wrap it (`password`). No function here takes a nonce.

mod cobblestone;
mod keys;
mod password;
mod secret;

use sha2::{Digest, Sha256};

pub use cobblestone::{
    OVERHEAD_BYTES, PREFIX_LEN, Salt, Sealed, open, open_in_place, seal, seal_in_place, sealed_len,
};
pub use keys::{Epoch, FeedKeys, Key, KeySource, Keyring, Purpose};
pub use password::{
    ACCEPTED_ITERATIONS, MIN_WRITTEN_ITERATIONS, Password, calibrated_iterations, password_key, recovery_key,
};
pub use secret::SecretBytes;

#[cfg(test)]
pub use password::DERIVATIONS;

use crate::id::ObjectName;

/// The SHA-256 of `bytes`, which is the name of an object with these bytes.
pub fn object_name(bytes: &[u8]) -> ObjectName {
    ObjectName::from_bytes(sha256(&[bytes]))
}

/// The SHA-256 of the concatenation of `parts`.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Why sealed bytes did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not sealed with this key for this purpose and context: another key, another vault, or tampered with.
    #[error("the seal does not belong to this key")]
    Commitment,
    /// This chunk was altered, moved, or belongs to another object.
    #[error("chunk {0} was altered")]
    Chunk(u64),
    /// Ends before its end.
    #[error("the sealed data is cut short")]
    Truncated,
}
