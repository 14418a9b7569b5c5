//! Espejo keeps a journal in an encrypted vault on your disk and mirrors it through any WebDAV server or folder.

pub mod clock;
pub mod crypto;
pub mod embedded;
pub mod entropy;
pub mod entry;
pub mod event;
pub mod format;
pub mod fs;
pub mod history;
pub mod host;
pub mod id;
pub mod manifest;
mod parallel;
pub mod remote;
pub mod sync;
pub mod vault;
pub mod version;
