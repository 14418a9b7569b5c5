//! Espejo keeps a journal in an encrypted vault on your disk and mirrors it through any WebDAV server or folder.

pub mod clock;
pub mod embedded;
pub mod entropy;
pub mod remote;
