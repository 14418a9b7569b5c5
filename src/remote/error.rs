//! What can go wrong between here and the mirror, as kinds a program can act on.

use std::fmt;

use super::sanitize;

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// What to do about it follows from this.
    pub kind: RemoteErrorKind,
    /// What was asked, e.g. `PUT objects/…`. Never holds credentials.
    pub request: String,
    /// What the other side said, stripped of control characters and cut to a line; may be empty.
    pub detail: String,
}

/// The kinds of failure, by what they mean for the person and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteErrorKind {
    /// 401: the credentials are wrong or expired. All traffic stops: servers punish further tries.
    Unauthorized,
    /// 403: signed in, but not allowed (a read-only share; on Nextcloud also the loser of a race).
    Forbidden,
    /// 404, 409 or 410: the file, or the directory it should go to, is not there.
    NotFound,
    /// 423: somebody holds a lock; passes by itself.
    Locked,
    /// 408, 425 or 429: asked too often. With the wait the server asked for, if it did.
    Throttled {
        /// Seconds, from `Retry-After`.
        retry_after_secs: Option<u64>,
    },
    /// 500, 502, 503, 504: maintenance, overload or a fault in the server.
    Unavailable {
        /// The status.
        status: u16,
        /// Seconds, from `Retry-After`.
        retry_after_secs: Option<u64>,
    },
    /// 507, or a full disk under a folder: no room for more.
    Full,
    /// 413: this server takes no body of this size.
    TooLarge,
    /// 3xx: the address is wrong, or a login page stands in between. Never followed.
    Redirected {
        /// The `Location`, without credentials or query.
        to: String,
    },
    /// The answer is not one a WebDAV server gives: a captive portal, a login page, another kind of server.
    NotDav,
    /// The certificate is not trusted.
    Untrusted,
    /// `http://` to somewhere that is not this machine.
    Insecure,
    /// No connection: name, route, refused, timed out before anything was sent.
    Unreachable,
    /// The connection ended after the request was on its way: the outcome is unknown.
    Interrupted,
    /// The answer is longer than it may be.
    Oversize,
    /// The answer cannot be understood (malformed listing, wrong range, compressed body…).
    Malformed,
    /// Any other status.
    Unexpected {
        /// The status.
        status: u16,
    },
    /// The address itself cannot be used: not a URL, or it holds a password, a query, an unknown scheme.
    BadAddress,
    /// The folder could not be read or written.
    Io,
}

impl RemoteError {
    /// An error with `detail` made fit to be shown.
    pub fn new(kind: RemoteErrorKind, request: impl Into<String>, detail: &str) -> Self {
        Self { kind, request: request.into(), detail: sanitize(detail) }
    }
}

impl RemoteErrorKind {
    /// Whether the same request may succeed if it is sent again a little later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Locked
                | Self::Throttled { .. }
                | Self::Unavailable { .. }
                | Self::Unreachable
                | Self::Interrupted
        )
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RemoteErrorKind as K;
        match &self.kind {
            K::Unauthorized => write!(f, "the server refused the user name or password (401)"),
            K::Forbidden => write!(f, "the server does not allow this (403)"),
            K::NotFound => write!(f, "not there"),
            K::Locked => write!(f, "locked on the server by another program (423)"),
            K::Throttled { retry_after_secs: Some(secs) } => {
                write!(f, "the server asks to wait {secs} s before the next request (429)")
            }
            K::Throttled { retry_after_secs: None } => write!(f, "the server was asked too often (429)"),
            K::Unavailable { status, retry_after_secs: Some(secs) } => {
                write!(f, "the server is not available for {secs} s ({status})")
            }
            K::Unavailable { status, retry_after_secs: None } => {
                write!(f, "the server is not available ({status})")
            }
            K::Full => write!(f, "the mirror is full"),
            K::TooLarge => write!(f, "the server takes no upload of this size (413)"),
            K::Redirected { to } => write!(f, "the server answered with a redirect to {to}"),
            K::NotDav => write!(f, "the network answers, but not as a WebDAV server (a login page?)"),
            K::Untrusted => write!(f, "the server's certificate is not trusted"),
            K::Insecure => write!(f, "plain http is refused: the password would travel readable"),
            K::Unreachable => write!(f, "the server cannot be reached"),
            K::Interrupted => write!(f, "the connection broke in the middle"),
            K::Oversize => write!(f, "the server's answer is longer than it may be"),
            K::Malformed => write!(f, "the server's answer makes no sense"),
            K::Unexpected { status } => write!(f, "the server answered {status}"),
            K::BadAddress => write!(f, "this is not an address of a mirror"),
            K::Io => write!(f, "the mirror's folder cannot be used"),
        }?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if self.request.is_empty() { Ok(()) } else { write!(f, " [{}]", self.request) }
    }
}

impl std::error::Error for RemoteError {}
