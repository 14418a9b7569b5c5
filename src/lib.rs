//! Espejo keeps a journal in an encrypted vault on your disk and mirrors it through any WebDAV server or folder.

pub mod clock;
pub mod crypto;
pub mod entropy;
pub mod id;
pub mod remote;
pub mod version;
