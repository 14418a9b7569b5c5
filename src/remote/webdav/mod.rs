//! A mirror on a WebDAV server.
//!
//! Uses what all measured servers do alike: PUT with a length to a fresh name, GET, HEAD, DELETE, MKCOL and PROPFIND
//! of depth 0 and 1. No MOVE, no LOCK, no conditional request, no ETag, no redirect.

use std::fmt;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, SERVER};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use super::{
    ByteRange, Item, Listing, Receipt, Remote, RemoteError, RemoteErrorKind, RemotePath, Sink, Traffic,
    sanitize,
};
use client::{HttpClient, Request};
use propfind::Multistatus;
use status::Verb;

pub(super) mod address;
pub(super) mod client;
mod propfind;
pub(super) mod status;

/// How far up a base directory's missing parents are made.
const MAX_PARENTS: usize = 32;

/// What `body`, a server's answer to a PROPFIND of depth 1 of the collection `asked`, says is in it.
///
/// # Errors
///
/// [`NotDav`](RemoteErrorKind::NotDav) if it is no listing at all, [`Malformed`](RemoteErrorKind::Malformed) if it is
/// one that no server makes.
pub fn read_listing(body: &[u8], asked: &Url) -> Result<Listing, RemoteErrorKind> {
    propfind::parse(body, asked).map(Listing::from)
}

impl From<Multistatus> for Listing {
    fn from(found: Multistatus) -> Self {
        Self { items: found.items, complete: found.complete, marker_seen: None }
    }
}

/// Where a server is and how to sign in there.
pub struct WebDavConfig {
    /// The mirror's base collection, e.g. `https://cloud.example/remote.php/dav/files/ada/espejo`.
    pub base_url: String,
    /// The user name, if the server wants one.
    pub user: Option<String>,
    /// The password; on Nextcloud an app password.
    pub password: Option<Zeroizing<String>>,
    /// Certificates in PEM that are trusted besides the machine's own, for a server with a private authority.
    pub ca_file_pem: Option<Vec<u8>>,
}

impl fmt::Debug for WebDavConfig {
    /// Shows no password, and no address that may hold one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base_url = address::base_url(&self.base_url).map(String::from);
        f.debug_struct("WebDavConfig")
            .field("base_url", &base_url.as_deref().unwrap_or("(not usable)"))
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a server tells of itself. None of it is relied upon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Its `Server` header.
    pub server: Option<String>,
    /// Whether the collection has an ETag.
    pub has_etags: Option<bool>,
    /// Room for more, in bytes.
    pub room_bytes: Option<u64>,
}

/// A collection on a WebDAV server as a mirror.
#[derive(Debug)]
pub struct WebDavRemote {
    http: HttpClient,
}

impl WebDavRemote {
    /// A mirror at `config.base_url`, which need not exist yet. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`Insecure`](RemoteErrorKind::Insecure) for plain `http://` to another machine;
    /// [`BadAddress`](RemoteErrorKind::BadAddress) for an address with user name, password, query or fragment;
    /// [`Untrusted`](RemoteErrorKind::Untrusted) if the CA file holds no usable certificate.
    pub fn new(config: WebDavConfig) -> Result<Self, RemoteError> {
        let base = address::base_url(&config.base_url)?;
        let http = HttpClient::new(base, config.user, config.password, config.ca_file_pem.as_deref())?;
        Ok(Self { http })
    }

    fn file_path(&self, file: &RemotePath) -> String {
        format!("{}{file}", self.http.base().path())
    }

    /// A directory's path ends in a slash: without it apache redirects and nginx refuses.
    fn dir_path(&self, dir: &RemotePath) -> String {
        let slash = if dir.is_root() { "" } else { "/" };
        format!("{}{dir}{slash}", self.http.base().path())
    }

    /// Whether the base collection is there.
    pub(super) async fn is_there(&self) -> Result<bool, RemoteError> {
        Ok(self.propfind(self.http.base().path(), 0).await?.is_some())
    }

    /// What the server tells of itself and of the base collection; nothing if that is not there.
    ///
    /// # Errors
    ///
    /// As for a listing.
    pub async fn about(&self) -> Result<About, RemoteError> {
        let (path, body) = (self.http.base().path(), propfind::ABOUT_BODY);
        let Some((headers, found)) = self.ask(path, 0, body).await? else { return Ok(About::default()) };
        let server = headers.get(SERVER).and_then(|told| told.to_str().ok()).map(sanitize);
        Ok(About {
            server: server.filter(|told| !told.is_empty()),
            has_etags: Some(found.about.has_etag),
            // Nextcloud tells the unlimited and the unknown as negative numbers.
            room_bytes: found.about.room_bytes.and_then(|room| u64::try_from(room).ok()),
        })
    }

    /// One PROPFIND, or `None` if nothing is there.
    async fn propfind(&self, path: &str, depth: u8) -> Result<Option<Multistatus>, RemoteError> {
        Ok(self.ask(path, depth, propfind::REQUEST_BODY).await?.map(|(_, found)| found))
    }

    async fn ask(
        &self,
        path: &str,
        depth: u8,
        body: &'static str,
    ) -> Result<Option<(HeaderMap, Multistatus)>, RemoteError> {
        let mut request = Request::new(Verb::Propfind, path)
            .header("depth", HeaderValue::from(u16::from(depth)))
            .header("content-type", HeaderValue::from_static("application/xml; charset=utf-8"));
        request.body = Some(Bytes::from_static(body.as_bytes()));
        request.max_bytes = propfind::MAX_BODY_BYTES;
        let mut body = Vec::new();
        let granted = match self.http.send(request, &mut body).await {
            Err(error) if error.kind == RemoteErrorKind::NotFound => return Ok(None),
            answer => answer?,
        };
        let mut asked = self.http.base().clone();
        asked.set_path(path);
        propfind::parse(&body, &asked)
            .map(|found| Some((granted.headers, found)))
            .map_err(|kind| self.http.error(kind, Verb::Propfind, path, ""))
    }

    /// Whether it was not there before.
    async fn mkcol(&self, path: &str) -> Result<bool, RemoteError> {
        let granted = self.http.send(Request::new(Verb::Mkcol, path), &mut Vec::new()).await?;
        Ok(granted.status == StatusCode::CREATED)
    }

    /// Makes the base collection and what is missing above it. Whether it was not there before.
    async fn make_base(&self) -> Result<bool, RemoteError> {
        let base = self.http.base().path().to_owned();
        let mut missing = Vec::new();
        let mut path = base.as_str();
        // Up, until a collection is there or can be made …
        let mut is_new = loop {
            match self.mkcol(path).await {
                Ok(is_new) => break is_new,
                Err(error) if error.kind == RemoteErrorKind::NotFound && missing.len() < MAX_PARENTS => {
                    missing.push(path);
                    path = match path.trim_end_matches('/').rfind('/') {
                        Some(slash) if slash > 0 => &path[..=slash],
                        _ => return Err(error),
                    };
                }
                Err(error) => return Err(error),
            }
        };
        // … and down again.
        for path in missing.into_iter().rev() {
            is_new = self.mkcol(path).await?;
        }
        Ok(is_new)
    }

    /// The length of a file whose HEAD did not tell it.
    async fn size_by_listing(&self, path: &str) -> Result<Option<u64>, RemoteError> {
        let untold = || self.http.error(RemoteErrorKind::Malformed, Verb::Propfind, path, "no length");
        match self.propfind(path, 0).await? {
            None => Ok(None),
            Some(Multistatus { itself: Some(Item { len_bytes: Some(len_bytes), .. }), .. }) => {
                Ok(Some(len_bytes))
            }
            Some(_) => Err(untold()),
        }
    }
}

impl Remote for WebDavRemote {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        let found = self.propfind(&self.dir_path(dir), 1).await?;
        Ok(found.map(Listing::from))
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        let path = self.file_path(file);
        let fail = |kind, detail: &str| self.http.error(kind, Verb::Get, &path, detail);
        if range.is_some_and(|range| range.len_bytes > max_bytes) {
            return Err(fail(RemoteErrorKind::Oversize, ""));
        }
        let mut request = Request::new(Verb::Get, &path);
        request.range = range;
        request.max_bytes = range.map_or(max_bytes, |range| range.len_bytes);
        match self.http.send(request, sink).await {
            Err(error) if range.is_some() && error.kind == RemoteErrorKind::Oversize => {
                Err(fail(RemoteErrorKind::Malformed, "more came than the range"))
            }
            answer => answer.map(drop),
        }
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        let path = self.file_path(file);
        let mut request = Request::new(Verb::Put, &path)
            .header("content-type", HeaderValue::from_static("application/octet-stream"))
            // Nextcloud then tells the hash of what it stored.
            .header("x-hash", HeaderValue::from_static("sha256"));
        request.body = Some(bytes.clone());
        let granted = match self.http.send(request, &mut Vec::new()).await {
            // nginx answers 500 where the directory is missing, and means it.
            Err(error) if matches!(error.kind, RemoteErrorKind::Unavailable { status: 500, .. }) => {
                let dir = &path[..=path.rfind('/').unwrap_or(0)];
                let is_missing = matches!(self.propfind(dir, 0).await, Ok(None));
                return Err(if is_missing {
                    RemoteError { kind: RemoteErrorKind::NotFound, ..error }
                } else {
                    error
                });
            }
            answer => answer?,
        };
        match granted.headers.get("x-hash-sha256") {
            None => Ok(Receipt::Accepted),
            Some(told)
                if told
                    .as_bytes()
                    .eq_ignore_ascii_case(HEXLOWER.encode(&Sha256::digest(&bytes)).as_bytes()) =>
            {
                Ok(Receipt::Proven)
            }
            Some(_) => {
                let detail = "the server stored something else than was sent";
                Err(self.http.error(RemoteErrorKind::Malformed, Verb::Put, &path, detail))
            }
        }
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        let path = self.file_path(file);
        let granted = match self.http.send(Request::new(Verb::Head, &path), &mut Vec::new()).await {
            Err(error) if error.kind == RemoteErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.kind, RemoteErrorKind::Unexpected { status: 405 | 501 }) => {
                return self.size_by_listing(&path).await;
            }
            answer => answer?,
        };
        match granted.headers.get(CONTENT_LENGTH).and_then(|told| told.to_str().ok()?.trim().parse().ok()) {
            Some(len_bytes) => Ok(Some(len_bytes)),
            None => self.size_by_listing(&path).await,
        }
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        let path = self.file_path(file);
        // What the mirror gives up would only fill a Nextcloud's trash bin.
        let request =
            Request::new(Verb::Delete, &path).header("x-nc-skip-trashbin", HeaderValue::from_static("true"));
        self.http.send(request, &mut Vec::new()).await.map(drop)
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        if dir.is_root() { self.make_base().await } else { self.mkcol(&self.dir_path(dir)).await }
    }

    async fn remove_dir(&self, dir: &RemotePath) -> Result<(), RemoteError> {
        // Of a collection a server removes everything in it.
        match self.list(dir).await? {
            Some(Listing { items, complete: true, .. }) if items.is_empty() && !dir.is_root() => self
                .http
                .send(Request::new(Verb::Delete, &self.dir_path(dir)), &mut Vec::new())
                .await
                .map(drop),
            _ => Ok(()),
        }
    }

    fn traffic(&self) -> Traffic {
        self.http.meter.read()
    }

    fn clock_ahead_ms(&self) -> Option<i64> {
        self.http.clock_ahead_ms()
    }
}
