//! Any kind of remote behind one type, and the words that name one.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use url::Url;

use super::webdav::address;
use super::{
    ByteRange, FolderRemote, Listing, MemoryRemote, Receipt, Remote, RemoteError, RemoteErrorKind,
    RemotePath, Sink, Traffic, WebDavRemote,
};

/// Where a mirror is, as a person writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory.
    Folder(PathBuf),
    /// A WebDAV collection: checked, without user name or password, ending in a slash.
    WebDav(Url),
}

impl Target {
    /// Reads `https://…`, `http://…` to this machine, or the path of a directory.
    ///
    /// # Errors
    ///
    /// [`Insecure`](RemoteErrorKind::Insecure) or [`BadAddress`](RemoteErrorKind::BadAddress). Neither repeats the
    /// address, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let refuse = |detail| RemoteError::new(RemoteErrorKind::BadAddress, "", detail);
        match text.split_once("://") {
            Some((scheme, _))
                if ["https", "http"].iter().any(|known| scheme.trim().eq_ignore_ascii_case(known)) =>
            {
                address::base_url(text).map(Self::WebDav)
            }
            Some((scheme, _)) if !scheme.contains(['/', '.']) => {
                Err(refuse("only https:// addresses and paths of directories are known"))
            }
            _ if text.is_empty() => Err(refuse("it is empty")),
            _ => Ok(Self::Folder(PathBuf::from(text))),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            // `parse` lets no credentials in; a URL made otherwise is not trusted to have none.
            Self::WebDav(url) => {
                let mut shown = url.clone();
                let _ = shown.set_username("");
                let _ = shown.set_password(None);
                shown.set_query(None);
                f.write_str(shown.as_str())
            }
        }
    }
}

/// A remote of any kind.
#[derive(Debug)]
pub enum AnyRemote {
    /// A directory.
    Folder(FolderRemote),
    /// A WebDAV server.
    WebDav(WebDavRemote),
    /// Memory, for tests.
    Memory(MemoryRemote),
}

/// Lets others have their turn. A folder's calls never wait, so without this whoever listens for Ctrl-C would hear it
/// only when everything has been transferred.
async fn pause() {
    tokio::task::yield_now().await;
}

impl Remote for AnyRemote {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        match self {
            Self::Folder(remote) => remote.list(dir).await,
            Self::WebDav(remote) => remote.list(dir).await,
            Self::Memory(remote) => remote.list(dir).await,
        }
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        match self {
            Self::Folder(remote) => {
                pause().await;
                remote.get_in_pieces(file, range, max_bytes, sink).await
            }
            Self::WebDav(remote) => remote.get_in_pieces(file, range, max_bytes, sink).await,
            Self::Memory(remote) => remote.get_in_pieces(file, range, max_bytes, sink).await,
        }
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        match self {
            Self::Folder(remote) => {
                pause().await;
                remote.put(file, bytes).await
            }
            Self::WebDav(remote) => remote.put(file, bytes).await,
            Self::Memory(remote) => remote.put(file, bytes).await,
        }
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        match self {
            Self::Folder(remote) => remote.size(file).await,
            Self::WebDav(remote) => remote.size(file).await,
            Self::Memory(remote) => remote.size(file).await,
        }
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        match self {
            Self::Folder(remote) => remote.delete(file).await,
            Self::WebDav(remote) => remote.delete(file).await,
            Self::Memory(remote) => remote.delete(file).await,
        }
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        match self {
            Self::Folder(remote) => remote.make_dir(dir).await,
            Self::WebDav(remote) => remote.make_dir(dir).await,
            Self::Memory(remote) => remote.make_dir(dir).await,
        }
    }

    async fn remove_dir(&self, dir: &RemotePath) -> Result<(), RemoteError> {
        match self {
            Self::Folder(remote) => remote.remove_dir(dir).await,
            Self::WebDav(remote) => remote.remove_dir(dir).await,
            Self::Memory(remote) => remote.remove_dir(dir).await,
        }
    }

    fn traffic(&self) -> Traffic {
        match self {
            Self::Folder(remote) => remote.traffic(),
            Self::WebDav(remote) => remote.traffic(),
            Self::Memory(remote) => remote.traffic(),
        }
    }

    fn clock_ahead_ms(&self) -> Option<i64> {
        match self {
            Self::WebDav(remote) => remote.clock_ahead_ms(),
            Self::Folder(_) | Self::Memory(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_or_a_directory() {
        let shown = |text| Target::parse(text).map(|target| target.to_string());
        assert_eq!(shown("https://cloud.example/dav").unwrap(), "https://cloud.example/dav/");
        assert_eq!(shown("HTTP://localhost:8080").unwrap(), "http://localhost:8080/");
        for path in ["/mnt/nas", "mirror", "./a b", "C:\\mirror", "../x://y"] {
            assert_eq!(Target::parse(path).unwrap(), Target::Folder(path.into()));
        }
        assert_eq!(Target::parse("http://nas/dav").unwrap_err().kind, RemoteErrorKind::Insecure);
        for bad in ["", "ftp://h/", "file:///x", "davs://h/", "https://u:canary@h/"] {
            let error = Target::parse(bad).unwrap_err();
            assert_eq!(error.kind, RemoteErrorKind::BadAddress, "{bad}");
            assert!(!format!("{error} {error:?}").contains("canary"));
        }
    }
}
