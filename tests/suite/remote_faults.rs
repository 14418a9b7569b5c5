//! A server that breaks, lies and attacks. Every answer becomes one error with a meaning, within bounds of time and
//! memory, without a redirect followed and without the password in anything that could be shown.
//!
//! Long, because it is a list of answers, each with the one error that it must become.

#![allow(missing_docs)]

use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use espejo::clock::Clock;
use espejo::remote::{
    ByteRange, Listing, MemoryRemote, Receipt, Remote, RemoteError, RemoteErrorKind as Kind, RemotePath,
    Retrying, Sink, Traffic, WebDavConfig, WebDavRemote,
};
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The password. It may appear in a request's `Authorization` and nowhere else.
const CANARY: &str = "canary-5f2c1d";

/// What a hostile server got.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `PUT /dav/mirror/a HTTP/1.1`.
    pub line: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn verb(&self) -> &str {
        self.line.split(' ').next().unwrap()
    }

    fn head(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut asked = Self::default();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => return Some(asked),
                line if asked.line.is_empty() => line.clone_into(&mut asked.line),
                line => {
                    let (name, value) = line.split_once(':').unwrap();
                    asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
            }
        }
    }

    fn read_body(&mut self, stream: &mut BufReader<TcpStream>) -> Option<()> {
        let len = self.header("content-length").map_or(0, |len| len.parse().unwrap());
        self.body = vec![0; len];
        stream.read_exact(&mut self.body).ok()
    }
}

/// A scripted server: `script` writes the answer to each request, and the connection ends after it.
pub struct Hostile {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Hostile {
    pub fn new(
        script: impl Fn(&Asked, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::with_bodies(true, script)
    }

    /// With `reads_bodies` false, `script` runs before the request's body is read.
    fn with_bodies(
        reads_bodies: bool,
        script: impl Fn(&Asked, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/dav/mirror/", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (asked_log, script) = (Arc::clone(&log), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, script) = (Arc::clone(&asked_log), Arc::clone(&script));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let Some(mut asked) = Asked::head(&mut reader) else { return };
                    if reads_bodies && asked.read_body(&mut reader).is_none() {
                        return;
                    }
                    log.lock().unwrap().push(asked.clone());
                    let stream = reader.get_mut();
                    // A client that has had enough is no failure of the script.
                    let _ = script(&asked, stream);
                    let _ = stream.flush();
                    let _ = stream.shutdown(Shutdown::Write);
                    if reads_bodies {
                        let _ = reader.read(&mut [0; 1]);
                    }
                });
            }
        });
        Self { url, asked: log }
    }

    /// Answers everything with `status`, `headers` and `body`, the length told truly.
    fn answering(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n", body.as_ref().len());
        let body = body.as_ref().to_vec();
        Self::new(move |asked, out| {
            write!(out, "{head}Connection: close\r\n\r\n")?;
            if asked.verb() == "HEAD" { Ok(()) } else { out.write_all(&body) }
        })
    }

    /// Answers everything with these very bytes.
    fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |_, out| out.write_all(&answer))
    }

    pub fn remote(&self) -> WebDavRemote {
        let password = Some(Zeroizing::new(CANARY.to_owned()));
        let base_url = self.url.clone();
        WebDavRemote::new(WebDavConfig { base_url, user: Some("ada".into()), password, ca_file_pem: None })
            .unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn file() -> RemotePath {
    RemotePath::new("objects/a").unwrap()
}

/// Calls all six verbs. Every error is checked for secrets and for what could steer a terminal.
async fn ask_everything(remote: &WebDavRemote) -> Vec<(&'static str, Result<(), Kind>)> {
    let dir = RemotePath::new("objects").unwrap();
    let answers = vec![
        ("list", remote.list(&dir).await.map(drop)),
        ("get", remote.get(&file(), None, 1 << 20).await.map(drop)),
        ("put", remote.put(&file(), Bytes::from_static(b"sealed")).await.map(drop)),
        ("size", remote.size(&file()).await.map(drop)),
        ("delete", remote.delete(&file()).await),
        ("make_dir", remote.make_dir(&dir).await.map(drop)),
    ];
    answers.into_iter().map(|(verb, answer)| (verb, answer.map_err(checked))).collect()
}

/// The kind of `error`, whose every form is fit to be shown.
fn checked(error: RemoteError) -> Kind {
    let basic = BASE64.encode(format!("ada:{CANARY}").as_bytes());
    for shown in [error.to_string(), format!("{error:?}"), format!("{error:#?}").replace('\n', " ")] {
        assert!(!shown.contains(CANARY) && !shown.contains(&basic), "the password is shown: {shown}");
        assert!(
            !shown.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)),
            "{shown:?}"
        );
        assert!(!shown.contains("\\u{1b}") && shown.len() < 2000, "{shown}");
    }
    error.kind
}

fn all_are(answers: Vec<(&'static str, Result<(), Kind>)>, kind: Kind) {
    for (verb, answer) in answers {
        assert_eq!(answer, Err(kind.clone()), "{verb}");
    }
}

const PAGE: &str = "<!DOCTYPE html><html><body>Sign in to Hotel-WLAN</body></html>";

#[tokio::test]
async fn a_login_page_stores_and_removes_nothing() {
    let server = Hostile::answering("200 OK", "Content-Type: text/html; charset=utf-8\r\n", PAGE);
    all_are(ask_everything(&server.remote()).await, Kind::NotDav);
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = Hostile::answering("201 Created", "", "");
    for status in [301, 302, 303, 307, 308] {
        let to = elsewhere.url.clone();
        let server =
            Hostile::answering(&format!("{status} Moved"), &format!("Location: {to}?token={CANARY}\r\n"), "");
        all_are(ask_everything(&server.remote()).await, Kind::Redirected { to: to.clone() });
        assert_eq!(server.asked().len(), 6, "each call is one request");
    }
    assert_eq!(elsewhere.asked().len(), 0, "nothing was sent to the other server");
}

#[tokio::test]
async fn every_status_has_its_meaning() {
    let later = |secs| Kind::Throttled { retry_after_secs: secs };
    let down = |status, secs| Kind::Unavailable { status, retry_after_secs: secs };
    for (status, headers, kind) in [
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", Kind::Unauthorized),
        ("403 Forbidden", "", Kind::Forbidden),
        ("413 Too Large", "", Kind::TooLarge),
        ("423 Locked", "", Kind::Locked),
        ("429 Slow down", "Retry-After: 7\r\n", later(Some(7))),
        ("503 Maintenance", "Retry-After: 120\r\n", down(503, Some(120))),
        (
            "503 Maintenance",
            "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:37 GMT\r\n",
            down(503, Some(60)),
        ),
        ("503 Maintenance", "Retry-After: soon\r\n", down(503, None)),
        ("507 Full", "", Kind::Full),
        ("511 Sign in", "", Kind::NotDav),
        ("418 Teapot", "", Kind::Unexpected { status: 418 }),
    ] {
        let server = Hostile::answering(status, headers, "");
        all_are(ask_everything(&server.remote()).await, kind);
    }
}

#[tokio::test]
async fn requests_are_what_every_server_takes() {
    let server = Hostile::answering("423 Locked", "", "");
    let remote = server.remote();
    ask_everything(&remote).await;
    let put = Bytes::from(vec![7; 300_000]);
    remote.put(&file(), put.clone()).await.unwrap_err();
    let asked = server.asked();
    let lines = asked.iter().map(|asked| asked.line.as_str()).collect::<Vec<_>>();
    assert_eq!(
        lines,
        [
            "PROPFIND /dav/mirror/objects/ HTTP/1.1",
            "GET /dav/mirror/objects/a HTTP/1.1",
            "PUT /dav/mirror/objects/a HTTP/1.1",
            "HEAD /dav/mirror/objects/a HTTP/1.1",
            "DELETE /dav/mirror/objects/a HTTP/1.1",
            "MKCOL /dav/mirror/objects/ HTTP/1.1",
            "PUT /dav/mirror/objects/a HTTP/1.1",
        ]
    );
    let basic = format!("Basic {}", BASE64.encode(format!("ada:{CANARY}").as_bytes()));
    for request in &asked {
        assert_eq!(request.header("authorization"), Some(basic.as_str()));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(request.header("user-agent"), Some(concat!("espejo/", env!("CARGO_PKG_VERSION"))));
        for absent in
            ["transfer-encoding", "expect", "cookie", "referer", "if-match", "if-none-match", "x-oc-mtime"]
        {
            assert_eq!(request.header(absent), None, "{}", request.line);
        }
    }
    assert_eq!(asked[0].header("depth"), Some("1"));
    assert_eq!(asked[2].header("x-hash"), Some("sha256"));
    assert_eq!(asked[4].header("x-nc-skip-trashbin"), Some("true"));
    assert_eq!((asked[6].header("content-length"), asked[6].body == put), (Some("300000"), true));
    assert_eq!(remote.traffic().requests, 7);
}

#[tokio::test]
async fn a_cut_upload_has_an_unknown_outcome() {
    let server = Hostile::with_bodies(false, |_, out| {
        out.read_exact(&mut [0; 1000])?;
        out.shutdown(Shutdown::Both)
    });
    let refused = server.remote().put(&file(), Bytes::from(vec![1; 8 << 20])).await.unwrap_err();
    assert_eq!(checked(refused), Kind::Interrupted);
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_interrupted() {
    let server = Hostile::new(|_, _| Ok(()));
    all_are(ask_everything(&server.remote()).await, Kind::Interrupted);
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let server = Hostile { url, asked: Arc::default() };
    all_are(ask_everything(&server.remote()).await, Kind::Unreachable);
}

#[tokio::test]
async fn an_upload_refused_for_its_size_is_told_as_that() {
    // The answer comes while the body is still on its way, as from nginx.
    let server = Hostile::with_bodies(false, |_, out| {
        write!(out, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        out.flush()?;
        // What lingering_close does: the rest is read and dropped, so that the answer is not lost to a reset.
        std::io::copy(out, &mut std::io::sink()).map(drop)
    });
    let refused = server.remote().put(&file(), Bytes::from(vec![1; 8 << 20])).await.unwrap_err();
    assert_eq!(checked(refused), Kind::TooLarge);
}

#[tokio::test]
async fn a_cut_download_is_never_taken_for_a_file() {
    let listing = "PROPFIND";
    for head in ["Content-Length: 5000", "Transfer-Encoding: chunked"] {
        let server = Hostile::new(move |asked, out| {
            let status = if asked.verb() == listing { "207 Multi-Status" } else { "200 OK" };
            write!(out, "HTTP/1.1 {status}\r\n{head}\r\n\r\n")?;
            if head.starts_with("Transfer") {
                write!(out, "400\r\n")?;
            }
            out.write_all(&[0x89; 1024])
        });
        let cut = server.remote().get(&file(), None, 1 << 20).await.unwrap_err();
        assert_eq!(checked(cut), Kind::Interrupted, "{head}");
        let cut = server.remote().list(&RemotePath::root()).await.unwrap_err();
        assert_eq!(checked(cut), Kind::Interrupted, "{head}");
    }
}

#[tokio::test]
async fn an_endless_body_is_left_at_the_cap() {
    let sent = Arc::new(AtomicU64::new(0));
    for framing in ["Transfer-Encoding: chunked\r\n", ""] {
        let counter = Arc::clone(&sent);
        let server = Hostile::new(move |asked, out| {
            let status = if asked.verb() == "PROPFIND" { "207 Multi-Status" } else { "200 OK" };
            write!(out, "HTTP/1.1 {status}\r\n{framing}\r\n")?;
            let block = [b' '; 65_536];
            loop {
                if !framing.is_empty() {
                    write!(out, "10000\r\n")?;
                }
                out.write_all(&block)?;
                if !framing.is_empty() {
                    write!(out, "\r\n")?;
                }
                counter.fetch_add(block.len() as u64, Ordering::Relaxed);
            }
        });
        let remote = server.remote();
        let endless = remote.get(&file(), None, 1 << 20).await.unwrap_err();
        assert_eq!(checked(endless), Kind::Oversize);
        assert!(remote.traffic().bytes_down < 2 << 20, "read on after the cap: {:?}", remote.traffic());
        let endless = remote.list(&RemotePath::root()).await.unwrap_err();
        assert_eq!(checked(endless), Kind::Oversize);
        assert!(remote.traffic().bytes_down < 66 << 20, "read on after the cap: {:?}", remote.traffic());
    }
    assert!(sent.load(Ordering::Relaxed) < 160 << 20, "the connections were left open");
}

#[tokio::test]
async fn an_endless_refusal_is_left_too() {
    let server = Hostile::new(|_, out| {
        write!(out, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\n")?;
        loop {
            out.write_all(&[b'x'; 65_536])?;
        }
    });
    let remote = server.remote();
    let started = Instant::now();
    let refused = remote.get(&file(), None, 1 << 20).await.unwrap_err();
    assert_eq!(checked(refused), Kind::Forbidden);
    assert!(remote.traffic().bytes_down < 1 << 20 && started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn endless_headers_and_nonsense_are_no_http() {
    let endless = Hostile::new(|_, out| {
        write!(out, "HTTP/1.1 200 OK\r\n")?;
        (0_u64..).try_for_each(|n| write!(out, "x-{n}: {}\r\n", "y".repeat(1000)))
    });
    let refused = endless.remote().get(&file(), None, 1 << 20).await.unwrap_err();
    assert_eq!(checked(refused), Kind::Malformed);
    for nonsense in ["SSH-2.0-OpenSSH_9.2\r\n", "\x1b[2J\x07\r\n\r\n", "HTTP/1.1 9999 \r\n\r\n"] {
        for (verb, answer) in ask_everything(&Hostile::saying(nonsense).remote()).await {
            let reads = ["list", "get", "size"].contains(&verb);
            assert_eq!(
                answer,
                Err(if reads { Kind::Malformed } else { Kind::Interrupted }),
                "{verb} {nonsense:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_lying_length_costs_no_memory() {
    let huge = Hostile::saying(*b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n\x89");
    let refused = huge.remote().get(&file(), None, 1 << 20).await.unwrap_err();
    assert_eq!(checked(refused), Kind::Oversize);
    let refused = huge.remote().get(&file(), None, u64::MAX).await.unwrap_err();
    assert_eq!(checked(refused), Kind::Interrupted);
    // Told too short: what is beyond the length is not part of the body.
    let short = Hostile::saying(*b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x89abcdef");
    assert_eq!(short.remote().get(&file(), None, 1 << 20).await.unwrap(), b"\x89ab");
}

/// What a sink was told and given.
#[derive(Debug, Default, PartialEq)]
struct Told(Vec<Result<Vec<u8>, Option<u64>>>);

impl Sink for Told {
    fn begin(&mut self, told: Option<u64>) {
        self.0.push(Err(told));
    }

    fn take(&mut self, bytes: &[u8]) {
        match self.0.last_mut() {
            Some(Ok(before)) => before.extend_from_slice(bytes),
            _ => self.0.push(Ok(bytes.to_vec())),
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_begins_again() {
    let answers = AtomicU64::new(0);
    let server = Hostile::new(move |_, out| {
        let body: &[u8] =
            if answers.fetch_add(1, Ordering::Relaxed) == 0 { b"\x89abc" } else { b"\x89abcdef" };
        out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n")?;
        out.write_all(body)
    });
    let clock = CountingClock::default();
    let remote = Retrying::new(server.remote(), &clock);
    let mut told = Told::default();
    remote.get_in_pieces(&file(), None, 7, &mut told).await.unwrap();
    let begun = Err(Some(7));
    let expected = [begun.clone(), Ok(b"\x89abc".to_vec()), begun, Ok(b"\x89abcdef".to_vec())];
    assert_eq!(told, Told(expected.to_vec()));
}

#[tokio::test]
async fn what_is_not_the_file_or_the_part_is_given_to_nobody() {
    let range = ByteRange { offset: 2, len_bytes: 3 };
    for (status, headers, part) in [
        ("200 OK", "Content-Type: text/html\r\n", None),
        ("200 OK", "", Some(range)),
        ("206 Partial Content", "Content-Range: bytes 3-5/9\r\n", Some(range)),
        ("206 Partial Content", "Content-Range: bytes 2-4/9\r\n", None),
        ("404 Not Found", "", None),
    ] {
        let server = Hostile::answering(status, headers, "abc");
        let mut told = Told::default();
        server.remote().get_in_pieces(&file(), part, 3, &mut told).await.unwrap_err();
        assert!(told.0.iter().all(Result::is_err), "{status} {headers}: {told:?}");
    }
}

#[tokio::test]
async fn compressed_answers_are_refused() {
    for status in ["200 OK", "207 Multi-Status"] {
        let server = Hostile::answering(status, "Content-Encoding: gzip\r\n", b"\x1f\x8b\x08\0bomb");
        let remote = server.remote();
        let refused = match status.starts_with("207") {
            true => remote.list(&RemotePath::root()).await.unwrap_err(),
            false => remote.get(&file(), None, 1 << 20).await.unwrap_err(),
        };
        assert_eq!(checked(refused), Kind::Malformed);
    }
    let server = Hostile::answering("200 OK", "Content-Encoding: gzip\r\n", "");
    assert_eq!(checked(server.remote().size(&file()).await.unwrap_err()), Kind::Malformed);
}

async fn listing_of(body: impl AsRef<[u8]>) -> Result<Option<Listing>, Kind> {
    let server = Hostile::answering("207 Multi-Status", "Content-Type: application/xml\r\n", body);
    server.remote().list(&RemotePath::root()).await.map_err(checked)
}

fn multistatus(entries: &str) -> String {
    let ok = "<D:propstat><D:prop/><D:status>HTTP/1.1 200 OK</D:status></D:propstat>";
    let itself = format!("<D:response><D:href>/dav/mirror/</D:href>{ok}</D:response>");
    format!("<?xml version=\"1.0\"?><D:multistatus xmlns:D=\"DAV:\">{itself}{entries}</D:multistatus>")
}

fn entry(href: &str) -> String {
    format!("<D:response><D:href>{href}</D:href><D:status>HTTP/1.1 200 OK</D:status></D:response>")
}

#[tokio::test]
async fn xml_attacks_are_refused_and_junk_is_noticed() {
    let laughs = r#"<!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]><l>&b;&c;</l>"#;
    assert_eq!(listing_of(laughs).await, Err(Kind::Malformed));
    assert_eq!(
        listing_of("<D:a xmlns:D='DAV:'>".to_owned() + &"<b>".repeat(100_000)).await,
        Err(Kind::NotDav)
    );
    assert_eq!(listing_of(multistatus(&"<b>".repeat(100_000))).await, Err(Kind::Malformed));
    assert_eq!(listing_of(PAGE).await, Err(Kind::NotDav));
    assert_eq!(listing_of("").await, Err(Kind::NotDav));
    let junk =
        listing_of(multistatus(&entry("/dav/mirror/a")) + "Internal Server Error").await.unwrap().unwrap();
    assert_eq!((junk.items.len(), junk.complete), (1, false));
    let whole = listing_of(multistatus(&entry("/dav/mirror/a"))).await.unwrap().unwrap();
    assert_eq!((whole.items.len(), whole.complete), (1, true));
}

#[tokio::test]
async fn hostile_names_never_become_paths() {
    let long = format!("/dav/mirror/{}", "a".repeat(5000));
    let hrefs = [
        "/dav/mirror/../../etc/passwd",
        "/dav/mirror/%2e%2e%2fkeys",
        "/dav/mirror/..%5ckeys",
        "/dav/mirror/%00",
        "/dav/mirror/a%00b",
        "http://evil.example/dav/mirror/a",
        "/dav/mirror/%1b%5b2J%1b%5d0;owned%07",
        "",
        &long,
    ];
    let entries = hrefs.iter().map(|href| entry(href)).collect::<String>() + &entry("/dav/mirror/good");
    let listing = listing_of(multistatus(&entries)).await.unwrap().unwrap();
    assert_eq!(listing.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert!(!listing.complete);
    // A raw escape character is no XML at all, but the parser may let it pass: the name is dropped either way.
    let raw = listing_of(multistatus(&entry("/dav/mirror/\x1b[2J"))).await;
    assert!(raw.is_err() || raw.unwrap().unwrap().items.is_empty());
}

#[tokio::test]
async fn what_a_server_repeats_or_paints_is_not_shown() {
    let basic = BASE64.encode(format!("ada:{CANARY}").as_bytes());
    let painted = "\x1b[2J\x1b]0;owned\x07\u{9b}31m\u{202e}desrever\r\nnext";
    for body in
        [format!("your password {CANARY} is wrong"), format!("Authorization: Basic {basic}"), painted.into()]
    {
        for (kind, body) in [
            ("text/plain", body.clone()),
            ("application/xml", format!("<d:error xmlns:s='s'><s:message>{body}</s:message></d:error>")),
        ] {
            let server = Hostile::answering("403 Nope", &format!("Content-Type: {kind}\r\n"), body);
            all_are(ask_everything(&server.remote()).await, Kind::Forbidden);
        }
    }
    // In the reason phrase, in headers, and in where a redirect leads.
    let server = Hostile::answering(&format!("403 {CANARY} \u{9b}31m"), &format!("X-Echo: {CANARY}\r\n"), "");
    for (verb, answer) in ask_everything(&server.remote()).await {
        assert!(matches!(answer, Err(Kind::Forbidden | Kind::Malformed)), "{verb} {answer:?}");
    }
    for to in [format!("/login/{CANARY}"), format!("http://ada:{CANARY}@evil.example/x?{CANARY}#{CANARY}")] {
        let server = Hostile::answering("302 Found", &format!("Location: {to}\r\n"), "");
        for (verb, answer) in ask_everything(&server.remote()).await {
            assert!(matches!(answer, Err(Kind::Redirected { .. })), "{verb} {answer:?}");
        }
    }
    let explained =
        Hostile::answering("403 Nope", "Content-Type: text/plain\r\n", "this share is read-only\nreally");
    let error = explained.remote().delete(&file()).await.unwrap_err();
    assert_eq!(error.detail, "this share is read-only");
    assert!(!format!("{:?}", explained.remote()).contains(CANARY));
    let config = WebDavConfig {
        base_url: format!("https://ada:{CANARY}@h/"),
        user: Some("ada".into()),
        password: Some(Zeroizing::new(CANARY.into())),
        ca_file_pem: None,
    };
    assert!(!format!("{config:?}").contains(CANARY));
    checked(WebDavRemote::new(config).unwrap_err());
}

#[tokio::test]
async fn a_range_is_exact_or_refused() {
    let range = ByteRange { offset: 10, len_bytes: 5 };
    for (status, headers, body, kind) in [
        ("206 Partial", "Content-Range: bytes 10-14/99\r\n", &b"abcde"[..], None),
        ("206 Partial", "Content-Range: bytes 0-4/99\r\n", b"abcde", Some(Kind::Malformed)),
        ("206 Partial", "Content-Range: bytes 10-13/14\r\n", b"abcd", Some(Kind::Malformed)),
        ("206 Partial", "Content-Range: bytes 10-14/99\r\n", b"abc", Some(Kind::Interrupted)),
        ("206 Partial", "Content-Range: bytes 10-14/99\r\n", b"abcdefgh", Some(Kind::Malformed)),
        ("206 Partial", "", b"abcde", Some(Kind::Malformed)),
        ("200 OK", "", b"abcde", Some(Kind::Malformed)),
        ("200 OK", "", b"the whole file, which is longer than what was asked for", Some(Kind::Malformed)),
        ("416 No", "Content-Range: bytes */12\r\n", b"", Some(Kind::Malformed)),
    ] {
        let server = Hostile::answering(status, headers, body);
        let answer = server.remote().get(&file(), Some(range), 1 << 20).await;
        assert_eq!(server.asked()[0].header("range"), Some("bytes=10-14"));
        assert_eq!(answer.map(|_| ()).map_err(checked).err(), kind, "{status} {headers}");
    }
    let partial = Hostile::answering("206 Partial", "Content-Range: bytes 0-4/99\r\n", b"\x89abcd");
    let unasked = partial.remote().get(&file(), None, 1 << 20).await.unwrap_err();
    assert_eq!(checked(unasked), Kind::Malformed);
}

#[tokio::test]
async fn an_upload_is_proven_only_by_its_own_hash() {
    let bytes = Bytes::from_static(b"sealed");
    let hash = HEXLOWER.encode(&Sha256::digest(&bytes));
    for (headers, receipt) in [
        (format!("X-Hash-SHA256: {hash}\r\n"), Ok(Receipt::Proven)),
        (format!("x-hash-sha256: {}\r\n", hash.to_uppercase()), Ok(Receipt::Proven)),
        (String::new(), Ok(Receipt::Accepted)),
        (format!("X-Hash-SHA256: {}\r\n", "0".repeat(64)), Err(Kind::Malformed)),
        ("X-Hash-SHA256: \r\n".to_owned(), Err(Kind::Malformed)),
    ] {
        let server = Hostile::answering("201 Created", &headers, "");
        assert_eq!(server.remote().put(&file(), bytes.clone()).await.map_err(checked), receipt, "{headers}");
    }
    for status in ["200 OK", "202 Accepted", "206 Partial"] {
        let server = Hostile::answering(status, "", "");
        assert_eq!(
            server.remote().put(&file(), bytes.clone()).await.map_err(checked),
            Err(Kind::NotDav),
            "{status}"
        );
    }
    let partly = Hostile::answering("207 Multi-Status", "", "");
    let refused = partly.remote().put(&file(), bytes).await.map_err(checked);
    assert_eq!(refused, Err(Kind::Unexpected { status: 207 }));
}

#[tokio::test]
async fn a_length_no_head_tells_is_asked_for_otherwise() {
    let server = Hostile::new(|asked, out| match asked.verb() {
        "HEAD" => write!(out, "HTTP/1.1 405 No\r\nConnection: close\r\n\r\n"),
        _ => {
            let body = "<D:multistatus xmlns:D='DAV:'><D:response><D:href>/dav/mirror/objects/a</D:href><D:propstat>\
                <D:prop><D:getcontentlength>4711</D:getcontentlength></D:prop>\
                <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>";
            write!(out, "HTTP/1.1 207 M\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        }
    });
    assert_eq!(server.remote().size(&file()).await, Ok(Some(4711)));
    assert_eq!(server.asked()[1].header("depth"), Some("0"));
}

// Patience, with a clock that only counts.

#[derive(Default)]
struct CountingClock {
    slept_ms: Mutex<Vec<u64>>,
}

impl Clock for &CountingClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }

    async fn sleep(&self, duration: Duration) {
        self.slept_ms.lock().unwrap().push(duration.as_millis() as u64);
    }
}

/// A mirror in memory whose next calls fail as planned.
#[derive(Default)]
struct Failing {
    memory: MemoryRemote,
    /// For each verb in order: the failure, and whether the call takes effect all the same.
    plan: Mutex<Vec<(&'static str, Kind, bool)>>,
    calls: Mutex<Vec<&'static str>>,
}

impl Failing {
    fn new(plan: &[(&'static str, Kind, bool)]) -> Self {
        Self { plan: Mutex::new(plan.to_vec()), ..Self::default() }
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        self.calls.lock().unwrap().push(verb);
        let planned = {
            let mut plan = self.plan.lock().unwrap();
            plan.first().is_some_and(|(planned, ..)| *planned == verb).then(|| plan.remove(0))
        };
        match planned {
            None => work.await,
            Some((_, kind, takes_effect)) => {
                if takes_effect {
                    work.await?;
                }
                Err(RemoteError::new(kind, verb, ""))
            }
        }
    }
}

impl Remote for Failing {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        self.call("list", self.memory.list(dir)).await
    }
    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        self.call("get", self.memory.get_in_pieces(file, range, max, sink)).await
    }
    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        self.call("put", self.memory.put(file, bytes)).await
    }
    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        self.call("size", self.memory.size(file)).await
    }
    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        self.call("delete", self.memory.delete(file)).await
    }
    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        self.call("make_dir", self.memory.make_dir(dir)).await
    }
    fn traffic(&self) -> Traffic {
        self.memory.traffic()
    }
}

/// Puts a file through `plan`: the outcome, the calls that were made, and the waits in between.
async fn put_through(
    plan: &[(&'static str, Kind, bool)],
) -> (Result<Receipt, Kind>, Vec<&'static str>, Vec<u64>) {
    let clock = CountingClock::default();
    let remote = Retrying::new(Failing::new(plan), &clock);
    remote.inner().memory.make_dir(&RemotePath::root()).await.unwrap();
    let answer = remote.put(&RemotePath::new("a").unwrap(), Bytes::from_static(b"sealed")).await;
    let calls = remote.inner().calls.lock().unwrap().clone();
    (answer.map_err(|error| error.kind), calls, clock.slept_ms.lock().unwrap().clone())
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_four_times() {
    let locked = ("put", Kind::Locked, false);
    let (answer, calls, slept) = put_through(&[locked.clone(), locked.clone(), locked.clone()]).await;
    assert_eq!((answer, calls.len()), (Ok(Receipt::Accepted), 4));
    for (slept, full) in slept.iter().zip([200, 400, 800]) {
        assert!((full / 2..=full + full / 2).contains(slept), "{slept} for {full}");
    }
    let (answer, calls, slept) = put_through(&[locked.clone(), locked.clone(), locked.clone(), locked]).await;
    assert_eq!((answer, calls.len(), slept.len()), (Err(Kind::Locked), 4, 3));
    let unreachable = ("put", Kind::Unreachable, false);
    let (answer, calls, _) = put_through(&[unreachable.clone(), unreachable]).await;
    assert_eq!((answer, calls.len()), (Err(Kind::Unreachable), 2));
    for kind in [Kind::Forbidden, Kind::NotFound, Kind::Full, Kind::TooLarge, Kind::NotDav] {
        let (answer, calls, slept) = put_through(&[("put", kind.clone(), false)]).await;
        assert_eq!((answer, calls.len(), slept.len()), (Err(kind), 1, 0));
    }
}

#[tokio::test]
async fn a_wait_the_server_asked_for_is_kept_or_the_call_is_given_up() {
    let asks = |secs| Kind::Unavailable { status: 503, retry_after_secs: Some(secs) };
    let (answer, _, slept) = put_through(&[("put", asks(15), false)]).await;
    assert_eq!(answer, Ok(Receipt::Accepted));
    assert!((15_000..15_500).contains(&slept[0]), "{slept:?}");
    let (answer, calls, slept) = put_through(&[("put", asks(16), false)]).await;
    assert_eq!((answer, calls.len(), slept.len()), (Err(asks(16)), 1, 0));
}

#[tokio::test]
async fn a_put_of_unknown_outcome_is_looked_at_before_it_is_repeated() {
    let cut = |stored| ("put", Kind::Interrupted, stored);
    let gateway = |stored| ("put", Kind::Unavailable { status: 504, retry_after_secs: None }, stored);
    let (answer, calls, _) = put_through(&[cut(true)]).await;
    assert_eq!((answer, calls), (Ok(Receipt::Accepted), vec!["put", "size"]), "stored: not sent again");
    let (answer, calls, _) = put_through(&[gateway(true)]).await;
    assert_eq!((answer, calls), (Ok(Receipt::Accepted), vec!["put", "size"]));
    let (answer, calls, _) = put_through(&[cut(false), cut(false)]).await;
    assert_eq!((answer, calls), (Ok(Receipt::Accepted), vec!["put", "size", "put", "size", "put"]));
    // Still unknown after a failed look: looked at again, not sent again.
    let (answer, calls, _) = put_through(&[cut(true), ("size", Kind::Interrupted, false)]).await;
    assert_eq!((answer, calls), (Ok(Receipt::Accepted), vec!["put", "size", "size"]));
    // The last try is looked at too.
    let (answer, calls, slept) = put_through(&[cut(false), cut(false), cut(false), cut(true)]).await;
    assert_eq!((answer, slept.len()), (Ok(Receipt::Accepted), 3));
    assert_eq!(calls.iter().filter(|call| **call == "put").count(), 4);
    let (answer, calls, _) = put_through(&[cut(false), cut(false), cut(false), cut(false)]).await;
    assert_eq!(answer, Err(Kind::Interrupted));
    assert_eq!(calls.iter().filter(|call| **call == "put").count(), 4);
    let (answer, calls, _) = put_through(&[cut(true), ("size", Kind::Forbidden, false)]).await;
    assert_eq!((answer, calls), (Err(Kind::Forbidden), vec!["put", "size"]));
}

#[tokio::test]
async fn a_put_that_left_a_part_is_sent_again() {
    let clock = CountingClock::default();
    let remote = Retrying::new(Failing::new(&[("put", Kind::Interrupted, false)]), &clock);
    let file = RemotePath::new("a").unwrap();
    remote.make_dir(&RemotePath::root()).await.unwrap();
    remote.inner().memory.set_file(&file, Bytes::from_static(b"sea"));
    assert_eq!(remote.put(&file, Bytes::from_static(b"sealed")).await, Ok(Receipt::Accepted));
    assert_eq!(remote.inner().memory.files()["a"], "sealed");
}

#[tokio::test]
async fn a_server_with_too_much_to_do_is_asked_for_less_at_once() {
    /// How many may be under way at once in each part of the story: the fifth to the eighth request are refused.
    const AT_ONCE: [u64; 5] = [4, 1, 2, 3, 4];
    let part = |number| match number {
        1..=8 => Some(0),
        9..=16 => Some(1),
        17..=24 => Some(2),
        26..=32 => Some(3),
        36.. => Some(4),
        // One of these may be under way together with the part before it, or the one after.
        _ => None,
    };
    #[derive(Default)]
    struct Load {
        requests: u64,
        under_way: u64,
        most: [u64; 5],
    }
    let shared = Arc::new((Mutex::new(Load::default()), Condvar::new()));
    let seen = Arc::clone(&shared);
    let server = Hostile::new(move |_, out| {
        let (load, came) = &*seen;
        let mut load = load.lock().unwrap();
        load.requests += 1;
        load.under_way += 1;
        let (number, under_way) = (load.requests, load.under_way);
        if let Some(part) = part(number) {
            load.most[part] = load.most[part].max(under_way);
            came.notify_all();
            // Held until the others of its part have come, or for long enough to be sure that they do not.
            let lacks = |load: &mut Load| load.most[part] < AT_ONCE[part];
            load = came.wait_timeout_while(load, Duration::from_secs(10), lacks).unwrap().0;
        }
        drop(load);
        // And for long enough that one too many would come.
        std::thread::sleep(Duration::from_millis(20));
        seen.0.lock().unwrap().under_way -= 1;
        let status = if (5..=8).contains(&number) { "423 Locked" } else { "201 Created" };
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    });
    let clock = CountingClock::default();
    let remote = Retrying::new(server.remote(), &clock);
    let file = file();
    let puts = stream::iter(0..56).map(|_| remote.put(&file, Bytes::from_static(b"sealed")));
    let answers = puts.buffer_unordered(16).collect::<Vec<_>>().await;
    assert!(answers.iter().all(|answer| *answer == Ok(Receipt::Accepted)), "{answers:?}");
    let load = shared.0.lock().unwrap();
    assert_eq!(load.requests, 60, "four are asked for twice");
    assert_eq!(load.most, AT_ONCE);
}

#[tokio::test]
async fn after_a_401_nothing_more_is_sent() {
    let server = Hostile::answering("401 Unauthorized", "", "");
    let clock = CountingClock::default();
    let remote = Retrying::new(server.remote(), &clock);
    for _ in 0..3 {
        assert_eq!(checked(remote.list(&RemotePath::root()).await.unwrap_err()), Kind::Unauthorized);
        assert_eq!(checked(remote.put(&file(), Bytes::new()).await.unwrap_err()), Kind::Unauthorized);
        assert_eq!(checked(remote.get(&file(), None, 1).await.unwrap_err()), Kind::Unauthorized);
    }
    assert_eq!((server.asked().len(), remote.traffic().requests), (1, 1));
    assert!(clock.slept_ms.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_lost_answer_to_a_real_upload_costs_one_look() {
    let stored = Arc::new(Mutex::new(None::<usize>));
    let server = Hostile::new(move |asked, out| match asked.verb() {
        // Stored, and the connection ends before the answer.
        "PUT" => {
            *stored.lock().unwrap() = Some(asked.body.len());
            Ok(())
        }
        _ => match *stored.lock().unwrap() {
            Some(len) => write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"),
            None => write!(out, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        },
    });
    let clock = CountingClock::default();
    let remote = Retrying::new(server.remote(), &clock);
    assert_eq!(remote.put(&file(), Bytes::from_static(b"sealed")).await, Ok(Receipt::Accepted));
    assert_eq!(server.asked().iter().map(Asked::verb).collect::<Vec<_>>(), ["PUT", "HEAD"]);
}
