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
/// The keys of an open session, sealed under a key that is elsewhere.
pub const SESSION: &str = "local/session";

/// Where an object is: the first two digits of its name are its directory.
pub fn object_path(name: &ObjectName) -> String {
    let hex = name.to_string();
    format!("{OBJECTS}/{}/{hex}", &hex[..2])
}
