//! The local truth: a directory of sealed objects and what can be done with it.
//!
//! [`Locked`] is a vault whose key is not known; unlocking gives a [`Vault`]. Every change is durable when its
//! call returns. Several processes may use one vault: each change takes the lock for as long as it lasts.

use std::io;

use crate::crypto::Keyring;
use crate::entropy::EntropyError;
use crate::event::{Damage, Finding};
use crate::format::keyfile::KeyFileError;
use crate::format::object::SealError;
use crate::fs::VaultFs;
use crate::host::Host;
use crate::id::{EntryId, ObjectName, VaultId};

mod activity;
mod backup;
mod blobs;
mod check;
mod entries;
mod index;
mod keys;
mod layout;
mod migrate;
mod objects;
mod open;
mod quarantine;
mod session;
mod state;
mod status;
mod store;
mod unattended;
mod watched;

pub use activity::{Activity, MAX_ACTIVITIES};
pub use backup::{
    Backup, BackupPlan, BackupSummary, Contents, Difference, Differing, Made, Restored, restore, salvage,
};
pub use check::{CheckReport, FileProblem, Inspected, Quarantine, Remedy};
pub use entries::{Change, Edit, EntryState, Lookup, Saved};
pub use keys::{Taken, generation_of};
pub use migrate::Migrated;
pub use objects::{Received, Refused};
pub use open::{Created, Locked, NewVault, create, create_from_mirror, measure_iterations};
pub use state::{Device, RemoteSettings, SyncState};
pub use status::{PasswordSet, Status};
pub use store::Store;
pub use unattended::{Note, Unattended};
pub use watched::Outline;

use index::Index;

/// An unlocked vault.
pub struct Vault<H: Host> {
    host: H,
    keyring: Keyring,
    device: Device,
    index: Index,
    findings: Vec<Finding>,
}

/// Why an operation on a vault failed. Nothing was changed, unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no vault in this directory.
    #[error("no vault here")]
    NoVault,
    /// There is a vault, or something else, in the directory a new one should go to.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The vault is in a newer format.
    #[error("this vault needs a newer version of espejo")]
    Newer,
    /// The key file could not be used.
    #[error("{error}")]
    Key {
        /// What is wrong.
        error: KeyFileError,
        /// Of an intact one, when its password was set.
        set: Option<PasswordSet>,
    },
    /// There is no key file, nor its copy.
    #[error("the key file is missing")]
    KeyFileMissing,
    /// The key file belongs to another vault.
    #[error("the key file belongs to another vault")]
    KeyFileOfAnotherVault,
    /// The vault has been given a new master key since it was opened.
    #[error("the vault has a new master key")]
    Rekeyed,
    /// This cannot be done while the vault is locked.
    #[error("the password is needed: {0}")]
    PasswordNeeded(&'static str),
    /// Another process holds the lock.
    #[error("another espejo is using this vault")]
    Busy,
    /// The disk said no.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the vault is damaged. It was set aside; the next sync fetches it again if the mirror has it.
    #[error("object {object} is {problem}")]
    Damaged {
        /// The entry it belongs to.
        entry: Option<EntryId>,
        /// The file.
        object: ObjectName,
        /// What is wrong with it.
        problem: Damage,
    },
    /// A file that only this device keeps is damaged. It can be made again.
    #[error("{file} is damaged")]
    StateDamaged {
        /// The file.
        file: &'static str,
    },
    /// The file is not a backup of a vault.
    #[error("this file is not a backup")]
    NotABackup,
    /// The backup's bytes are not those its index promises, or its index does not open.
    #[error("the backup is damaged: {0}")]
    BackupDamaged(String),
    /// The backup is of another vault.
    #[error("this is a backup of another vault")]
    BackupOfAnotherVault,
    /// The backup that would be replaced has what this vault has not.
    #[error("the backup that is there holds {objects} objects that this vault has lost or has not got yet")]
    BackupHoldsMore {
        /// How many.
        objects: u64,
    },
    /// It has been announced by another device and has not arrived yet.
    #[error("not on this device yet")]
    Pending,
    /// The content is in a newer schema.
    #[error("this entry needs a newer version of espejo")]
    NewerSchema,
    /// Nothing has this id.
    #[error("no {what} {id:?}")]
    NotFound {
        /// `entry`, `version`…
        what: &'static str,
        /// As the person gave it.
        id: String,
    },
    /// More than one thing has this id's first digits.
    #[error("{id:?} is ambiguous")]
    Ambiguous {
        /// As the person gave it.
        id: String,
        /// Some that fit.
        candidates: Vec<String>,
    },
    /// What was given cannot be an entry.
    #[error("{0}")]
    Invalid(String),
    /// A file given by the person could not be read.
    #[error("cannot read it: {0}")]
    Source(io::Error),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::TooLong => Self::Invalid(error.to_string()),
            SealError::Entropy(error) => Self::Entropy(error),
        }
    }
}

/// Names an I/O failure by what was being done.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing, source })
    }
}

impl<H: Host> Vault<H> {
    /// The vault's id.
    pub fn id(&self) -> VaultId {
        self.keyring.vault()
    }

    /// This device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The machine it lives on.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The keys, for sealing and opening what goes to and comes from the mirror.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What was found since this was asked last.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Takes the vault's lock, waiting a moment for another process to finish.
    fn lock(&self) -> Result<<H::Fs as VaultFs>::Lock, Error> {
        open::lock_vault(&self.host)
    }
}
