//! Where things are in a vault directory.

use crate::id::ObjectName;

pub const KEYS: &str = "keys";
pub const OBJECTS: &str = "objects";
pub const LOCAL: &str = "local";
pub use crate::fs::INCOMING;
pub const QUARANTINE: &str = "local/quarantine";
/// Segments of every device's feed, as they are on the mirror; this device's own are here before they are there.
pub const FEEDS: &str = "local/feeds";
pub const LOCK: &str = "local/lock";
pub const SYNC_LOCK: &str = "local/sync-lock";
/// Held by who watches this vault, as long as that goes on.
pub const WATCH_LOCK: &str = "local/watch-lock";
/// A second copy of the newest key file: without it, one flipped bit would cost everything.
pub const KEY_COPY: &str = "local/key";
/// Key files with a newer master key than is known here: what opens one of them has not been given yet.
pub const NEWER_KEYS: &str = "local/newer-keys";
pub const MANIFEST: &str = "local/manifest";
pub const DEVICE: &str = "local/device";
/// Devices that no feed names any more.
pub const OTHERS: &str = "local/others";
pub const REMOTE: &str = "local/remote";
pub const SYNC_STATE: &str = "local/sync";
/// How often backups are to be made, and where.
pub const BACKUP_PLAN: &str = "local/backup";
pub const STATUS: &str = "local/status";
/// What happened here, for a person to look back on.
pub const ACTIVITY: &str = "local/activity";
/// The keys of an open session, sealed under a key that is elsewhere.
pub const SESSION: &str = "local/session";
/// What lets a device mirror this vault while it is locked: the keys of the feeds and the way to the mirror.
pub const ACCESS: &str = "local/unattended/access";
/// What a round while the vault is locked leaves for the next.
pub const UNATTENDED_NOTE: &str = "local/unattended/note";
/// What was saved and waits to be announced, for when the vault is locked.
pub const OUTGOING: &str = "local/unattended/outgoing";

/// The directory an object lies in: the first two digits of its name.
pub fn object_dir(name: &ObjectName) -> String {
    let hex = name.to_string();
    format!("{OBJECTS}/{}", &hex[..2])
}

/// Where an object is: the path follows from its name.
pub fn object_path(name: &ObjectName) -> String {
    format!("{}/{name}", object_dir(name))
}
