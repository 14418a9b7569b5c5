//! The one HTTP client, hardened, and how its failures are told.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::BASE64;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, redirect};
use reqwest_dav::{Auth, ClientBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use url::{Position, Url};
use zeroize::Zeroizing;

use super::super::meter::Meter;
use super::super::{ByteRange, RemoteError, RemoteErrorKind, Sink, sanitize};
use super::address::is_loopback;
use super::status::{Answer, Verb, carries_range, date_ms, judge};
use crate::clock::{Clock, SystemClock};

/// No clock is that far behind.
const NOT_TOLD: i64 = i64::MIN;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer, or the next part of it, may be awaited. A throttling Nextcloud thinks for 30 s.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// The slowest transfer that is waited for, in bytes a second, over and above the time-outs.
const SLOWEST_BYTES_PER_SEC: u64 = 1 << 10;
/// Connections unused for longer are closed: apache closes them after 5 s, and a request that crosses that is lost.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// As much of an error page is read as an explanation may need.
const EXPLANATION_BYTES: u64 = 16 << 10;

/// Sends requests to one server with one person's credentials.
pub(in crate::remote) struct HttpClient {
    dav: reqwest_dav::Client,
    /// The base collection, ending in a slash.
    base: Url,
    /// What must never be shown, should a server repeat it.
    secrets: Vec<Zeroizing<String>>,
    pub(in crate::remote) meter: Meter,
    /// [`NOT_TOLD`] until a server has told.
    clock_ahead_ms: AtomicI64,
}

impl fmt::Debug for HttpClient {
    /// `reqwest_dav::Client` would print the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// A request, before it is sent.
pub(in crate::remote) struct Request<'a> {
    pub(in crate::remote) verb: Verb,
    /// Where to, from the root of the server, percent-encoded.
    pub(in crate::remote) path: &'a str,
    pub(in crate::remote) headers: HeaderMap,
    pub(in crate::remote) body: Option<Bytes>,
    /// The longest body of a successful answer that is read.
    pub(in crate::remote) max_bytes: u64,
    /// Only this part of the file is asked for.
    pub(in crate::remote) range: Option<ByteRange>,
}

impl<'a> Request<'a> {
    /// A request without body, whose answer needs none.
    pub(in crate::remote) fn new(verb: Verb, path: &'a str) -> Self {
        Self { verb, path, headers: HeaderMap::new(), body: None, max_bytes: EXPLANATION_BYTES, range: None }
    }

    pub(in crate::remote) fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// An answer that grants what was asked.
pub(in crate::remote) struct Granted {
    pub(in crate::remote) status: u16,
    pub(in crate::remote) headers: HeaderMap,
}

/// What is known of an answer before its body.
struct Head<'a> {
    verb: Verb,
    path: &'a str,
    status: u16,
    headers: HeaderMap,
}

impl HttpClient {
    /// A client for the collection `base`, which is already checked.
    pub(in crate::remote) fn new(
        base: Url,
        user: Option<String>,
        password: Option<Zeroizing<String>>,
        ca_file_pem: Option<&[u8]>,
    ) -> Result<Self, RemoteError> {
        let refuse = |detail: String| RemoteError::new(RemoteErrorKind::BadAddress, "", &detail);
        let agent = agent(&base, ca_file_pem)?;
        let builder = ClientBuilder::new().set_agent(agent).set_host(base[..Position::BeforePath].to_owned());
        let mut secrets = Vec::new();
        let auth = match (user, password) {
            (None, None) => Auth::Anonymous,
            (user, password) => {
                let (user, password) = (user.unwrap_or_default(), password.unwrap_or_default());
                let pair = Zeroizing::new(format!("{user}:{}", *password));
                secrets.push(Zeroizing::new(BASE64.encode(pair.as_bytes())));
                // A copy that is not wiped: `Auth` holds plain strings.
                let auth = Auth::Basic(user, (*password).clone());
                secrets.push(password);
                auth
            }
        };
        secrets.retain(|secret| !secret.is_empty());
        let dav = builder.set_auth(auth).build().map_err(|error| refuse(error.to_string()))?;
        Ok(Self { dav, base, secrets, meter: Meter::default(), clock_ahead_ms: AtomicI64::new(NOT_TOLD) })
    }

    /// The base collection.
    pub(in crate::remote) fn base(&self) -> &Url {
        &self.base
    }

    /// Sends `request` and reads its answer. `sink` is given the body of a GET, POST or PROPFIND that was granted.
    ///
    /// # Errors
    ///
    /// Whatever is not in the short list of successes for the verb ([`judge`]), and every way a connection fails.
    pub(in crate::remote) async fn send(
        &self,
        request: Request<'_>,
        sink: &mut dyn Sink,
    ) -> Result<Granted, RemoteError> {
        let Request { verb, path, headers, body, max_bytes, range } = request;
        let fail = |kind, detail: &str| self.error(kind, verb, path, detail);
        let method = Method::from_bytes(verb.as_str().as_bytes())
            .map_err(|_| fail(RemoteErrorKind::Malformed, "no such method"))?;
        let mut builder = self
            .dav
            .start_request(method, path)
            .await
            .map_err(|error| fail(RemoteErrorKind::BadAddress, &error.to_string()))?
            // Nothing may come compressed: hashes are of what is stored, and lengths must be told.
            .header(ACCEPT_ENCODING, "identity")
            .headers(headers);
        if let Some(range) = range {
            let Some((first, end)) = range.within(u64::MAX) else {
                return Err(fail(RemoteErrorKind::Malformed, "an empty or endless range"));
            };
            builder = builder.header(RANGE, format!("bytes={first}-{}", end - 1));
        }
        let len_bytes = body.as_ref().map_or(0, Bytes::len);
        if let Some(body) = body {
            // A body in memory travels with its Content-Length; chunked uploads are stored as 0 bytes by some.
            builder = builder.header(CONTENT_LENGTH, len_bytes).body(body);
        }
        self.meter.request();
        self.meter.up(len_bytes);
        let patience = READ_TIMEOUT + transfer_time(len_bytes as u64);
        let mut response = match tokio::time::timeout(patience, builder.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let (kind, detail) = transport(verb, &error);
                return Err(fail(kind, &detail));
            }
            Err(_) => return Err(fail(RemoteErrorKind::Interrupted, "no answer in time")),
        };
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        if let Some(server_ms) = date_ms(&headers) {
            self.clock_ahead_ms.store(server_ms.saturating_sub(SystemClock.now_ms()), Ordering::Relaxed);
        }
        let head = Head { verb, path, status, headers };
        let has_body = match (verb, status) {
            (Verb::Get, 200) => range.is_none(),
            (Verb::Get, 206) => range.is_some_and(|range| carries_range(&head.headers, range)),
            (Verb::Post, 200) | (Verb::Propfind, 207) => true,
            _ => false,
        };
        if has_body {
            // What is wrong by its headers alone is not read at all.
            self.judge(&head, b"\x89")?;
            self.read(&head, &mut response, range, max_bytes, sink).await?;
        } else {
            let start = self.read_start(&mut response).await;
            self.judge(&head, &start)?;
            if verb == Verb::Get {
                return Err(fail(RemoteErrorKind::Malformed, "this is not the range that was asked for"));
            }
        }
        Ok(Granted { status, headers: head.headers })
    }

    /// How far the server's clock was ahead at its last answer.
    pub(in crate::remote) fn clock_ahead_ms(&self) -> Option<i64> {
        Some(self.clock_ahead_ms.load(Ordering::Relaxed)).filter(|ahead| *ahead != NOT_TOLD)
    }

    fn judge(&self, head: &Head, body_start: &[u8]) -> Result<(), RemoteError> {
        let Head { verb, path, status, headers } = head;
        let mut asked = self.base.clone();
        asked.set_path(path);
        let now_ms = SystemClock.now_ms();
        let answer = Answer { status: *status, headers, body_start, asked: &asked, now_ms };
        judge(*verb, &answer).map_err(|kind| self.error(kind, *verb, path, &explanation(headers, body_start)))
    }

    /// Gives `sink` a body of at most `max_bytes`, which must have the length of `range`, if there is one.
    async fn read(
        &self,
        head: &Head<'_>,
        response: &mut Response,
        range: Option<ByteRange>,
        max_bytes: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        let fail = |kind, detail: &str| self.error(kind, head.verb, head.path, detail);
        let length =
            head.headers.get(CONTENT_LENGTH).and_then(|told| told.to_str().ok()?.parse::<u64>().ok());
        let told = range.map(|range| range.len_bytes).or(length);
        if told.into_iter().chain(length).any(|told| told > max_bytes) {
            return Err(fail(RemoteErrorKind::Oversize, ""));
        }
        let started = Instant::now();
        let mut len_bytes = 0;
        sink.begin(told);
        loop {
            let chunk = in_time(response.chunk()).await;
            let chunk = chunk.map_err(|(kind, detail)| fail(kind, &detail))?;
            self.meter.down(chunk.as_ref().map_or(0, Bytes::len));
            if len_bytes == 0 {
                self.judge(head, chunk.as_deref().unwrap_or_default())?;
            }
            let Some(chunk) = chunk else { break };
            len_bytes += chunk.len() as u64;
            if len_bytes > max_bytes {
                return Err(fail(RemoteErrorKind::Oversize, ""));
            }
            sink.take(&chunk);
            if started.elapsed() > 2 * READ_TIMEOUT + transfer_time(len_bytes) {
                return Err(fail(RemoteErrorKind::Interrupted, "the answer trickles"));
            }
            // What was taken may have to be put somewhere before more is.
            tokio::task::yield_now().await;
        }
        match told {
            Some(told) if len_bytes < told => {
                Err(fail(RemoteErrorKind::Interrupted, "the answer ended early"))
            }
            _ => Ok(()),
        }
    }

    /// Reads the beginning of a body, as far as it comes without trouble.
    async fn read_start(&self, response: &mut Response) -> Vec<u8> {
        let started = Instant::now();
        let mut body = Vec::new();
        while (body.len() as u64) < EXPLANATION_BYTES && started.elapsed() < CONNECT_TIMEOUT {
            match tokio::time::timeout(CONNECT_TIMEOUT, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.meter.down(chunk.len());
                    body.extend_from_slice(&chunk);
                }
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            }
        }
        body
    }

    /// An error of `verb path` that shows no secret, even if the server repeats one.
    pub(in crate::remote) fn error(
        &self,
        kind: RemoteErrorKind,
        verb: Verb,
        path: &str,
        detail: &str,
    ) -> RemoteError {
        let clean = |text: &str| match self.secrets.iter().any(|secret| text.contains(secret.as_str())) {
            true => "(hidden: it holds the password)".to_owned(),
            false => sanitize(text),
        };
        let kind = match kind {
            RemoteErrorKind::Redirected { to } => RemoteErrorKind::Redirected { to: clean(&to) },
            kind => kind,
        };
        let shown_path = path.strip_prefix(self.base.path()).filter(|rest| !rest.is_empty()).unwrap_or(path);
        RemoteError::new(kind, format!("{} {shown_path}", verb.as_str()), &clean(detail))
    }
}

/// The time `len_bytes` take at the slowest rate that is put up with.
fn transfer_time(len_bytes: u64) -> Duration {
    Duration::from_secs(len_bytes / SLOWEST_BYTES_PER_SEC)
}

/// The next part of a body, or why there is none.
async fn in_time(
    chunk: impl Future<Output = reqwest::Result<Option<Bytes>>>,
) -> Result<Option<Bytes>, (RemoteErrorKind, String)> {
    match tokio::time::timeout(READ_TIMEOUT, chunk).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err((RemoteErrorKind::Interrupted, root_cause(&error).to_string())),
        Err(_) => Err((RemoteErrorKind::Interrupted, "the answer stopped".into())),
    }
}

/// The client: no redirects (they turn uploads into page views), no decompression, no plain http to other machines.
fn agent(base: &Url, ca_file_pem: Option<&[u8]>) -> Result<reqwest::Client, RemoteError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("espejo/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .https_only(base.scheme() == "https")
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .tls_backend_preconfigured(tls(base, ca_file_pem)?);
    if is_loopback(base) {
        // What stays on this machine must not take the way over a proxy of the environment.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| RemoteError::new(RemoteErrorKind::BadAddress, "", &error.to_string()))
}

/// Whom to trust: the machine's own roots (Mozilla's where it has none), and the person's extra authority.
///
/// There is no way to accept a certificate unchecked.
fn tls(base: &Url, ca_file_pem: Option<&[u8]>) -> Result<ClientConfig, RemoteError> {
    let refuse = |detail: String| RemoteError::new(RemoteErrorKind::Untrusted, "", &detail);
    let mut roots = RootCertStore::empty();
    if base.scheme() == "https" {
        // Certificates of the machine that cannot be read are left out: the others may do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    if let Some(pem) = ca_file_pem {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| refuse(format!("CA file: {error}")))?;
            roots.add(certificate).map_err(|error| refuse(format!("CA file: {error}")))?;
        }
        if roots.len() == before {
            return Err(refuse("the CA file holds no certificate".into()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// What a failure to get any answer means. Of what changes the mirror, no answer also means an unknown outcome.
fn transport(verb: Verb, error: &reqwest::Error) -> (RemoteErrorKind, String) {
    let cause = root_cause(error);
    let detail = cause.to_string();
    let kind = if causes(error).any(is_certificate_failure) {
        RemoteErrorKind::Untrusted
    } else if error.is_builder() {
        RemoteErrorKind::BadAddress
    } else if error.is_connect() {
        RemoteErrorKind::Unreachable
    } else if verb.only_reads() && causes(error).any(is_not_http) {
        RemoteErrorKind::Malformed
    } else {
        RemoteErrorKind::Interrupted
    };
    (kind, detail)
}

/// An error and everything it was caused by. An [`io::Error`] keeps its cause where `source` does not look.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| {
        match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// The last of the [`causes`], which says the most.
fn root_cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

fn is_certificate_failure(error: &(dyn Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<rustls::Error>(),
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}

fn is_not_http(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
}

/// What a server says about its refusal: the message of sabre and Nextcloud, or the first line of plain text.
/// Pages for browsers explain nothing.
fn explanation(headers: &HeaderMap, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(&body[..body.len().min(EXPLANATION_BYTES as usize)]);
    let between = |from: &str, to: &str| Some(body.split_once(from)?.1.split_once(to)?.0.to_owned());
    let is_text = || {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        kind.starts_with("text/plain")
    };
    let line = || is_text().then(|| body.lines().next().unwrap_or("").to_owned());
    between("<s:message>", "</s:message>").or_else(line).unwrap_or_default()
}
