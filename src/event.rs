//! What the engine has to tell while it works. It prints nothing itself.

use std::fmt;

use crate::id::{DeviceId, EntryId, ObjectName};

/// Something a person should know, though the work went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The index was damaged or missing and was rebuilt from the objects.
    ManifestRebuilt {
        /// Entries found.
        entries: usize,
    },
    /// A key file was damaged or missing, and its copy was used.
    KeyFileRestored,
    /// The newest key file is damaged, and an older one was used.
    KeyFileWentBack,
    /// The password was changed on another device.
    PasswordChanged(ChangedBy),
    /// The recovery key was changed on another device.
    RecoveryChanged(ChangedBy),
    /// `espejo.json` was damaged and was written again.
    MarkerRestored,
    /// An object on this disk is damaged or missing.
    Damaged {
        /// The file.
        object: ObjectName,
        /// The entry it belongs to, if that is known.
        entry: Option<EntryId>,
        /// What is wrong with it.
        problem: Damage,
    },
    /// A damaged or missing object was fetched again from the mirror.
    Healed {
        /// The file.
        object: ObjectName,
        /// The entry it belongs to, if that is known.
        entry: Option<EntryId>,
    },
    /// A file on the mirror is damaged or not what its row says.
    MirrorDamaged {
        /// Path on the mirror.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file on the mirror was missing or damaged and was sent again from here.
    MirrorHealed {
        /// Path on the mirror.
        file: String,
    },
    /// A device's feed on the mirror is older than what this device has seen of it.
    WentBack {
        /// Whose feed.
        device: DeviceId,
        /// Its name.
        name: String,
    },
    /// Another device has read more of a feed than the mirror shows.
    Withheld {
        /// Whose feed.
        device: DeviceId,
        /// Its name, or the first digits of its id.
        name: String,
        /// Who has read more of it.
        by: String,
    },
    /// Two different announcements of one number.
    Forked {
        /// Whose feed.
        device: DeviceId,
        /// Its name.
        name: String,
    },
    /// A device that was retired has announced something since: it counts again.
    DeviceReturned {
        /// The device.
        device: DeviceId,
        /// Its name.
        name: String,
    },
    /// This vault is a copy (a copied folder, a restored backup) or its device id is in use elsewhere: it took a new
    /// one.
    NewIdentity,
    /// What this device knew of itself was damaged: it took a new id.
    IdentityLost,
    /// Content in a newer schema arrived: kept and passed on, not readable with this program.
    NewerSchema {
        /// How many entries.
        entries: u64,
    },
    /// The mirror refused or missed something, and the rest went on.
    Postponed {
        /// What and why.
        reason: String,
    },
}

/// Who changed what opens the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedBy {
    /// The device's name; `None` if several did, elsewhere.
    pub device: Option<String>,
    /// When, by its clock, milliseconds since 1970 UTC.
    pub at: i64,
    /// It was changed in another place too, neither knowing of the other: what was set in each opens the vault.
    pub at_once: bool,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// Its bytes are not those its name promises.
    BitRot,
    /// Its bytes are as named and the seal does not hold: not written by a holder of this vault's key.
    Tampered,
}

impl Finding {
    /// A stable word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ManifestRebuilt { .. } => "manifest_rebuilt",
            Self::KeyFileRestored => "key_file_restored",
            Self::KeyFileWentBack => "key_file_went_back",
            Self::PasswordChanged(_) => "password_changed",
            Self::RecoveryChanged(_) => "recovery_key_changed",
            Self::MarkerRestored => "marker_restored",
            Self::Damaged { .. } => "damaged",
            Self::Healed { .. } => "healed",
            Self::MirrorDamaged { .. } => "mirror_damaged",
            Self::MirrorHealed { .. } => "mirror_healed",
            Self::WentBack { .. } => "mirror_went_back",
            Self::Withheld { .. } => "withheld",
            Self::Forked { .. } => "forked",
            Self::DeviceReturned { .. } => "device_returned",
            Self::NewIdentity => "new_identity",
            Self::IdentityLost => "identity_lost",
            Self::NewerSchema { .. } => "newer_schema",
            Self::Postponed { .. } => "postponed",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::BitRot => "damaged",
            Self::Tampered => "tampered with",
        })
    }
}

/// The first digits of an id: enough to find it again.
pub fn short(id: impl fmt::Display) -> String {
    let mut text = id.to_string();
    text.truncate(8);
    text
}

fn whose(entry: Option<EntryId>) -> String {
    entry.map_or("a file of this vault".to_owned(), |entry| format!("entry {}", short(entry)))
}

fn changed(f: &mut fmt::Formatter<'_>, by: &ChangedBy, what: &str, all: &str, next: &str) -> fmt::Result {
    let place = by.device.as_ref().map_or("several devices".to_owned(), |name| format!("{name:?}"));
    let day = jiff::Timestamp::from_millisecond(by.at)
        .map_or(String::new(), |at| at.strftime(" on %Y-%m-%d").to_string());
    match by.at_once {
        false => write!(
            f,
            "{what} was changed{day} on {place}; the new one opens this vault from now on, the old one does not"
        ),
        true => write!(
            f,
            "{what} was changed on two devices at once, last{day} on {place}; the new {all} of both open this vault until {next} sets one"
        ),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ManifestRebuilt { entries } => {
                write!(f, "the index was damaged; it was rebuilt from the {entries} entries on this disk")
            }
            Self::KeyFileRestored => write!(f, "the key file was damaged; it was restored from its copy"),
            Self::KeyFileWentBack => write!(
                f,
                "the newest key file is damaged; an older one was used, with the password of its day. The next sync brings the newest back"
            ),
            Self::PasswordChanged(by) => changed(f, by, "the password", "passwords", "`espejo passwd`"),
            Self::RecoveryChanged(by) => {
                changed(f, by, "the recovery key", "recovery keys", "`espejo recovery new`")
            }
            Self::MarkerRestored => write!(f, "espejo.json was damaged; it was written again"),
            Self::Damaged { object, entry, problem } => {
                write!(f, "{} is {problem} on this disk (object {})", whose(*entry), short(object))
            }
            Self::Healed { object, entry } => {
                write!(f, "{} was repaired from the mirror (object {})", whose(*entry), short(object))
            }
            Self::MirrorDamaged { file, problem } => write!(f, "{file} on the mirror: {problem}"),
            Self::MirrorHealed { file } => write!(f, "{file} on the mirror was sent again from here"),
            Self::WentBack { name, .. } => {
                write!(
                    f,
                    "the mirror shows an older state of {name:?} than was seen before (server restored?)"
                )
            }
            Self::Withheld { name, by, .. } => {
                write!(f, "the mirror does not show everything that {by:?} has read of {name:?}; it may come")
            }
            Self::Forked { name, .. } => {
                write!(f, "the mirror shows another history of {name:?} than was seen before")
            }
            Self::DeviceReturned { name, .. } => {
                write!(f, "{name:?} was retired and is back: what it has not read is kept for it again")
            }
            Self::NewIdentity => {
                write!(
                    f,
                    "this vault was copied or restored from elsewhere; it is a device of its own from now on"
                )
            }
            Self::IdentityLost => {
                write!(f, "this device's own id was damaged; it took a new one and is called \"this device\"")
            }
            Self::NewerSchema { entries } => write!(
                f,
                "{entries} of the entries that arrived need a newer version of espejo to be read; they are kept and \
                 passed on as they are"
            ),
            Self::Postponed { reason } => f.write_str(reason),
        }
    }
}

/// How far a long piece of work has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Items finished.
    pub done: u64,
    /// Items in all.
    pub total: u64,
}

/// The parts of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading other devices' feeds.
    Reading,
    /// Fetching objects.
    Fetching,
    /// Sending objects.
    Sending,
}

/// Listens to the engine.
pub trait Observer {
    /// Something happened that a person should know.
    fn finding(&mut self, finding: Finding);

    /// Work went on.
    fn progress(&mut self, progress: Progress);
}

/// Keeps findings, ignores progress.
impl Observer for Vec<Finding> {
    fn finding(&mut self, finding: Finding) {
        self.push(finding);
    }

    fn progress(&mut self, _: Progress) {}
}
