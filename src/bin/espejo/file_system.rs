//! What kind of file system a directory is on: what can be kept there, and what can be noticed.

use std::path::Path;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// On this machine, for good.
    Disk,
    /// Gone when the machine is turned off.
    Memory,
    /// Changed by other machines, of which this one is not told; and locks may not hold.
    Network,
    /// It does not say, or this program does not know.
    Unknown,
}

/// tmpfs and ramfs, from statfs(2).
#[cfg(target_os = "linux")]
const MEMORY_MAGICS: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// NFS, SMB, SMB2, CIFS, FUSE (sshfs, rclone, virtiofs), 9p, AFS, AuriStor, Coda, Ceph, NCP, VirtualBox; from statfs(2).
#[cfg(target_os = "linux")]
const NETWORK_MAGICS: [u32; 12] = [
    0x6969,
    0x517B,
    0xFE53_4D42,
    0xFF53_4D42,
    0x6573_5546,
    0x0102_1997,
    0x5346_414F,
    0x6B41_4653,
    0x7375_7245,
    0x00C3_6400,
    0x564C,
    0x786F_4256,
];

#[cfg(target_os = "linux")]
impl FileSystem {
    /// That of `dir`.
    pub fn of(dir: &Path) -> Self {
        // A signed word on some machines, of which 32 bits count.
        match rustix::fs::statfs(dir).map(|stat| stat.f_type as u32) {
            Ok(magic) if MEMORY_MAGICS.contains(&magic) => Self::Memory,
            Ok(magic) if NETWORK_MAGICS.contains(&magic) => Self::Network,
            Ok(_) => Self::Disk,
            Err(_) => Self::Unknown,
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl FileSystem {
    /// That of `dir`.
    pub fn of(_: &Path) -> Self {
        Self::Unknown
    }
}

impl FileSystem {
    /// Whether the kernel tells of every change there. Where that cannot be found out it does not.
    pub fn tells(self) -> bool {
        matches!(self, Self::Disk | Self::Memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_this_machine_tells_of_changes() {
        assert!(FileSystem::of(&std::env::temp_dir()).tells() || cfg!(not(target_os = "linux")));
        assert!(
            !FileSystem::of(Path::new("/nowhere/at/all")).tells(),
            "what cannot be told counts as another's"
        );
    }
}
