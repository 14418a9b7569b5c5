//! Bytes that nobody is to find in memory later.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zeroize::Zeroize;

/// A buffer that is wiped when it is dropped, all of its capacity. Never printed.
///
/// One that grows leaves a copy behind that is not wiped: make it large enough first. `Zeroizing<Vec<u8>>` goes byte by
/// byte, which takes longer than to decrypt them.
#[derive(Default, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// An empty one with room for `len_bytes`.
    pub fn with_capacity(len_bytes: usize) -> Self {
        Self(Vec::with_capacity(len_bytes))
    }

    /// What is no secret any more: it was sealed where it was.
    pub fn into_sealed(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for SecretBytes {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        // What is spare is wiped as fast as memory takes it.
        self.0.clear();
        self.0.spare_capacity_mut().zeroize();
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}
