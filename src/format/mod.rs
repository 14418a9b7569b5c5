//! Bytes in, bytes out: every file Espejo writes, as `docs/format.md` states it. Nothing else knows an offset.
//!
//! Readers are total: whatever the input, they return a value or an error, and allocate no more than the input
//! justifies.

pub mod backup;
pub mod content;
pub mod feed;
pub mod invitation;
pub mod keyfile;
pub mod manifest;
pub mod marker;
pub mod object;
pub mod outgoing;
pub mod pack;
pub mod session;

mod codec;
mod row;
mod sealed;

pub use codec::Malformed;
pub use sealed::{
    FileType, Header, MIN_SEALED_BYTES, SealedError, Unsealed, open_sealed, open_sealed_in_place,
    read_header, seal_file, sealed_file_len,
};
