//! Names of things: random 128-bit ids, and objects named by their hash.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::entropy::{Entropy, EntropyError};

/// The text is not an id: ids are lower-case hexadecimal of a fixed length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id")]
pub struct InvalidId;

macro_rules! byte_name {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes; the text form is twice as long.
            pub const LEN: usize = $len;

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| InvalidId)?;
                bytes.try_into().map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

byte_name! {
    /// A vault: the same on every device and on the mirror. Random, never secret.
    VaultId, 16
}
byte_name! {
    /// A document a person cares about. Random, so the mirror learns nothing from it.
    EntryId, 16
}
byte_name! {
    /// One saved state of an entry. Random, never from a counter: a restored disk image would repeat a counter.
    VersionId, 16
}
byte_name! {
    /// One vault directory on one machine, and its feed.
    DeviceId, 16
}
byte_name! {
    /// The SHA-256 of a sealed file: its checksum, identity and file name at once.
    ObjectName, 32
}

macro_rules! random_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// A fresh random id.
            pub fn random(entropy: &impl Entropy) -> Result<Self, EntropyError> {
                entropy.array().map(Self)
            }
        }
    )*};
}
random_id!(VaultId, EntryId, VersionId, DeviceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written_and_nothing_else_reads() {
        let id = EntryId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "AB", &"AB".repeat(16), &"ab".repeat(15), &"ab".repeat(17), &"zz".repeat(16)] {
            assert_eq!(bad.parse::<EntryId>(), Err(InvalidId));
        }
    }
}
