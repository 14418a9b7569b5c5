//! Names on a mirror.

use std::fmt;

/// A path below a mirror's base directory that is safe on every server and file system: at most four names joined
/// by `/`, each of 1 to 99 characters from `a-z 0-9 . -`, starting with a letter or digit and not ending in a dot.
///
/// Whatever comes from outside becomes a `RemotePath` before it is used in a request or touches a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemotePath(String);

impl RemotePath {
    /// The mirror's base directory.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Checks `path`; `None` if any name in it is not safe.
    pub fn new(path: &str) -> Option<Self> {
        let names = path.split('/').collect::<Vec<_>>();
        (names.len() <= 4 && names.iter().all(|name| is_safe_name(name))).then(|| Self(path.to_owned()))
    }

    /// `self/name`; `None` if `name` is not safe.
    pub fn join(&self, name: &str) -> Option<Self> {
        if self.is_root() { Self::new(name) } else { Self::new(&format!("{}/{name}", self.0)) }
    }

    /// The directory it lies in; `None` for the base directory.
    pub fn parent(&self) -> Option<Self> {
        let dir = self.0.rsplit_once('/').map_or("", |(dir, _)| dir);
        (!self.is_root()).then(|| Self(dir.to_owned()))
    }

    /// True for the base directory itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as text, without a leading slash; empty for the base directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` may be one segment of a [`RemotePath`].
pub fn is_safe_name(name: &str) -> bool {
    (1..=99).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
        && !name.starts_with(['.', '-'])
        && !name.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_mirror_or_collide_are_refused() {
        for bad in
            ["", "..", ".", "a/../b", "/a", "a/", "A", "a b", "a\\b", "a\0", "é", ".hid", "con.", "a/b/c/d/e"]
        {
            assert_eq!(RemotePath::new(bad), None, "{bad:?}");
        }
        assert!(RemotePath::new(&"a".repeat(100)).is_none());
        assert_eq!(RemotePath::new("objects/0a-1/ff").unwrap().as_str(), "objects/0a-1/ff");
    }
}
