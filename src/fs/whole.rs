//! A whole file system synced at once: what a batch of many small files costs little.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file system on which one sync of everything makes as durable as a sync of each file.
///
/// It waits for what other programs wrote there, too; so it is for batches only.
pub struct Whole(File);

#[cfg(target_os = "linux")]
impl Whole {
    /// ext4, XFS, Btrfs, F2FS; from statfs(2). Network file systems, FUSE and overlays may say that all is well and have
    /// told nobody to write.
    const MAGICS: [u32; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];

    /// Since this Linux the call tells that something could not be written: syncfs(2).
    const SINCE: (u32, u32) = (5, 8);

    /// That of `dir`, if it can be relied upon. To be asked for before anything is written: only of what fails from
    /// then on it tells.
    pub fn of(dir: &Path) -> Option<Self> {
        let release = rustix::system::uname();
        if version(release.release().to_str().ok()?)? < Self::SINCE {
            return None;
        }
        let dir = File::open(dir).ok()?;
        // A signed word on some machines, of which 32 bits count.
        let magic = rustix::fs::fstatfs(&dir).ok()?.f_type as u32;
        Self::MAGICS.contains(&magic).then_some(Self(dir))
    }

    /// Makes everything on it durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

#[cfg(not(target_os = "linux"))]
impl Whole {
    /// None: no other system promises that much.
    pub fn of(_: &Path) -> Option<Self> {
        None
    }

    /// Makes everything on it durable.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// `6.18.44-fc` is 6.18.
#[cfg(target_os = "linux")]
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart_by_number() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.8-rc1"), Some((5, 8)));
        assert_eq!(version("4.19.0"), Some((4, 19)));
        assert!(version("5.10.1") > version("5.8.0"));
        assert_eq!(version("a kernel of another kind"), None);
    }

    #[test]
    fn a_file_system_that_is_not_known_is_not_relied_upon() {
        assert!(Whole::of(Path::new("/proc")).is_none());
        assert!(Whole::of(Path::new("/nowhere")).is_none());
    }
}
