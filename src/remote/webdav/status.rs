//! What an answer means, decided from its status line, headers and first bytes alone.

use reqwest::header::{
    CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER,
};
use url::Url;

use super::super::{ByteRange, RemoteErrorKind as Kind, sanitize};

/// The first byte of everything sealed.
const SEALED: u8 = 0x89;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) enum Verb {
    Propfind,
    Get,
    Head,
    Put,
    Delete,
    Mkcol,
    /// Not WebDAV: what a Nextcloud is asked besides.
    Post,
}

impl Verb {
    /// Whether it leaves the mirror as it is.
    pub(super) fn only_reads(self) -> bool {
        matches!(self, Self::Propfind | Self::Get | Self::Head)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Propfind => "PROPFIND",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Mkcol => "MKCOL",
            Self::Post => "POST",
        }
    }
}

/// An answer, as far as it is needed to judge it.
pub(super) struct Answer<'a> {
    /// The status code.
    pub(super) status: u16,
    /// All headers.
    pub(super) headers: &'a HeaderMap,
    /// The first bytes of the body, or all of it.
    pub(super) body_start: &'a [u8],
    /// Where the request went.
    pub(super) asked: &'a Url,
    /// The local time in milliseconds since 1970, for a server that sends no `Date`.
    pub(super) now_ms: i64,
}

/// Whether `answer` grants what `verb` asked, and if not, why not.
///
/// Success is a short list for each verb: a login page answers 200 to everything, and that must never count as a
/// stored file. "Already there" to MKCOL and "not there" to DELETE are success.
pub(super) fn judge(verb: Verb, answer: &Answer) -> Result<(), Kind> {
    match (verb, answer.status) {
        (Verb::Propfind, 207) => plain(answer),
        (Verb::Get, 200) if is_html(answer) && !looks_ours(answer.body_start) => Err(Kind::NotDav),
        (Verb::Get, 200 | 206) => plain(answer),
        (Verb::Post, 200) if is_html(answer) => Err(Kind::NotDav),
        (Verb::Post, 200) => plain(answer),
        (Verb::Head, 200) if is_html(answer) => Err(Kind::NotDav),
        (Verb::Head, 200) => plain(answer),
        (Verb::Put, 201 | 204) => Ok(()),
        // copyparty answers 200 and a line of text typed as HTML; a login page is a whole page.
        (Verb::Delete, 200) if is_page(answer.body_start) => Err(Kind::NotDav),
        (Verb::Delete, 200 | 204 | 404 | 410) => Ok(()),
        (Verb::Mkcol, 201 | 405) => Ok(()),
        (Verb::Mkcol, 301) if leads_to_itself(answer) => Ok(()),
        _ => Err(refusal(verb, answer)),
    }
}

/// What an answer that is no success means.
fn refusal(verb: Verb, answer: &Answer) -> Kind {
    let status = answer.status;
    let retry_after_secs = retry_after_secs(answer.headers, answer.now_ms);
    match status {
        // "Done in part": only a listing may say so.
        207 => Kind::Unexpected { status },
        200..=299 => Kind::NotDav,
        301 | 302 | 303 | 307 | 308 => Kind::Redirected { to: location(answer) },
        401 => Kind::Unauthorized,
        403 => Kind::Forbidden,
        404 | 409 | 410 => Kind::NotFound,
        405 | 501 if verb == Verb::Propfind => Kind::NotDav,
        408 | 425 | 429 => Kind::Throttled { retry_after_secs },
        413 => Kind::TooLarge,
        // The part asked for is not in the file.
        416 => Kind::Malformed,
        423 => Kind::Locked,
        500 | 502 | 503 | 504 => Kind::Unavailable { status, retry_after_secs },
        507 => Kind::Full,
        // "Network authentication required": a captive portal that says what it is.
        511 => Kind::NotDav,
        _ => Kind::Unexpected { status },
    }
}

/// Whether a 206 carries exactly `range`, as its `Content-Range` tells.
pub(super) fn carries_range(headers: &HeaderMap, range: ByteRange) -> bool {
    let told = || {
        let (unit, rest) = header(headers, CONTENT_RANGE)?.trim().split_once(' ')?;
        let (span, _total) = rest.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let first = first.trim().parse::<u64>().ok()?;
        let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
        unit.eq_ignore_ascii_case("bytes").then_some((first, end.checked_sub(first)?))
    };
    told() == Some((range.offset, range.len_bytes))
}

/// Bodies come as they are stored: nothing was asked to be compressed, and what is smaller on the wire than in
/// memory is a bomb.
fn plain(answer: &Answer) -> Result<(), Kind> {
    match answer.headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(_) => Err(Kind::Malformed),
    }
}

fn is_html(answer: &Answer) -> bool {
    let essence = header(answer.headers, CONTENT_TYPE).unwrap_or("").split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("text/html") || essence.eq_ignore_ascii_case("application/xhtml+xml")
}

/// Whether a body may be a file of ours: sealed, or the marker.
fn looks_ours(body: &[u8]) -> bool {
    matches!(body.first(), Some(&SEALED | b'{'))
}

/// Whether a body is a whole page for a browser.
fn is_page(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    let starts_with = |tag: &[u8]| start.get(..tag.len()).is_some_and(|s| s.eq_ignore_ascii_case(tag));
    starts_with(b"<!doctype") || starts_with(b"<html") || starts_with(b"<head")
}

/// Whether a redirect of a directory leads to the same directory, with or without its slash.
fn leads_to_itself(answer: &Answer) -> bool {
    let to = header(answer.headers, LOCATION).and_then(|to| answer.asked.join(to).ok());
    to.is_some_and(|to| {
        to.host_str() == answer.asked.host_str()
            && to.path().trim_end_matches('/') == answer.asked.path().trim_end_matches('/')
    })
}

/// Where a redirect leads, without what may be a secret in it.
fn location(answer: &Answer) -> String {
    let Some(text) = header(answer.headers, LOCATION) else { return "nowhere".into() };
    let Ok(mut to) = answer.asked.join(text) else { return "an unreadable address".into() };
    to.set_query(None);
    to.set_fragment(None);
    // Only addresses without a host refuse this, and those have no user either.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    sanitize(to.as_str())
}

/// The wait a server asks for: seconds, or a date measured against its own clock if it told it.
fn retry_after_secs(headers: &HeaderMap, now_ms: i64) -> Option<u64> {
    let text = header(headers, RETRY_AFTER)?.trim();
    if let Ok(secs) = text.parse::<u64>() {
        return Some(secs);
    }
    let until = http_date_secs(text)?;
    let now = header(headers, DATE).and_then(http_date_secs).unwrap_or(now_ms.div_euclid(1000));
    Some(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
}

/// When a server says it answered, milliseconds since 1970 UTC, to the second.
pub(super) fn date_ms(headers: &HeaderMap) -> Option<i64> {
    http_date_secs(header(headers, DATE)?)?.checked_mul(1_000)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970. The two forms given up in 1999 are not read.
fn http_date_secs(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim())
        .ok()
        .map(jiff::Timestamp::as_second)
}

fn header(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(verb: Verb, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Result<(), Kind> {
        let asked = Url::parse("https://cloud.example/dav/espejo/").unwrap();
        let headers = &headers_of(headers);
        judge(verb, &Answer { status, headers, body_start: body, asked: &asked, now_ms: 784_111_777_000 })
    }

    fn headers_of(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (name.parse::<reqwest::header::HeaderName>().unwrap(), value.parse().unwrap())
            })
            .collect()
    }

    #[test]
    fn only_the_listed_statuses_are_success() {
        use Verb::*;
        let success = [
            (Propfind, vec![207]),
            (Get, vec![200, 206]),
            (Head, vec![200]),
            (Put, vec![201, 204]),
            (Delete, vec![200, 204, 404, 410]),
            (Mkcol, vec![201, 405]),
            (Post, vec![200]),
        ];
        for (verb, good) in success {
            let seen =
                (100..=599).filter(|status| judged(verb, *status, &[], b"").is_ok()).collect::<Vec<_>>();
            assert_eq!(seen, good, "{verb:?}");
        }
    }

    #[test]
    fn a_status_means_the_same_for_every_verb() {
        for (status, kind) in [
            (401, Kind::Unauthorized),
            (403, Kind::Forbidden),
            (409, Kind::NotFound),
            (413, Kind::TooLarge),
            (416, Kind::Malformed),
            (423, Kind::Locked),
            (425, Kind::Throttled { retry_after_secs: None }),
            (429, Kind::Throttled { retry_after_secs: None }),
            (502, Kind::Unavailable { status: 502, retry_after_secs: None }),
            (507, Kind::Full),
            (418, Kind::Unexpected { status: 418 }),
        ] {
            for verb in [Verb::Propfind, Verb::Get, Verb::Head, Verb::Put, Verb::Delete, Verb::Mkcol] {
                assert_eq!(judged(verb, status, &[], b""), Err(kind.clone()), "{verb:?} {status}");
            }
        }
        assert_eq!(judged(Verb::Put, 404, &[], b""), Err(Kind::NotFound));
        assert_eq!(judged(Verb::Put, 207, &[], b""), Err(Kind::Unexpected { status: 207 }));
        assert_eq!(judged(Verb::Propfind, 405, &[], b""), Err(Kind::NotDav));
    }

    #[test]
    fn a_login_page_is_never_success() {
        let html = [("content-type", "text/html; charset=UTF-8")];
        let page = b"  <!DOCTYPE html><html>";
        for verb in [Verb::Propfind, Verb::Get, Verb::Head, Verb::Put, Verb::Delete, Verb::Mkcol] {
            assert_eq!(judged(verb, 200, &html, page), Err(Kind::NotDav), "{verb:?}");
        }
        // Sealed bytes and the marker are what they are, whatever type a server guesses.
        assert_eq!(judged(Verb::Get, 200, &html, b"\x89ESJ"), Ok(()));
        assert_eq!(judged(Verb::Get, 200, &html, b"{\"format\":1}"), Ok(()));
        assert_eq!(judged(Verb::Delete, 200, &html, b"deleted 1 file"), Ok(()));
    }

    #[test]
    fn redirects_are_told_without_their_secrets() {
        let to = |location: &str| match judged(Verb::Put, 302, &[("location", location)], b"") {
            Err(Kind::Redirected { to }) => to,
            other => panic!("{other:?}"),
        };
        assert_eq!(to("/login?token=canary#canary"), "https://cloud.example/login");
        assert_eq!(to("https://ada:canary@other.example/x"), "https://other.example/x");
        let itself = [("location", "https://cloud.example/dav/espejo")];
        assert_eq!(judged(Verb::Mkcol, 301, &itself, b""), Ok(()));
        assert!(judged(Verb::Mkcol, 301, &[("location", "https://evil.example/dav/espejo/")], b"").is_err());
        assert!(judged(Verb::Put, 301, &itself, b"").is_err());
    }

    #[test]
    fn a_wait_is_read_as_seconds_or_as_a_date() {
        let wait = |headers: &[(&str, &str)]| retry_after_secs(&headers_of(headers), 784_111_777_000);
        assert_eq!(wait(&[("retry-after", " 7 ")]), Some(7));
        assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:50 GMT")]), Some(13));
        let date = ("date", "Sun, 06 Nov 1994 08:49:40 GMT");
        assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:50 GMT"), date]), Some(10));
        assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT"), date]), Some(0));
        for junk in ["-1", "soon", "", "99999999999999999999999"] {
            assert_eq!(wait(&[("retry-after", junk)]), None, "{junk}");
        }
    }

    #[test]
    fn compressed_bodies_and_wrong_ranges_are_refused() {
        assert_eq!(judged(Verb::Get, 200, &[("content-encoding", "gzip")], b""), Err(Kind::Malformed));
        assert_eq!(judged(Verb::Propfind, 207, &[("content-encoding", "br")], b""), Err(Kind::Malformed));
        assert_eq!(judged(Verb::Get, 200, &[("content-encoding", "Identity")], b""), Ok(()));
        let range = ByteRange { offset: 10, len_bytes: 5 };
        let fits = |told: &str| carries_range(&headers_of(&[("content-range", told)]), range);
        assert!(fits("bytes 10-14/100") && fits("bytes 10-14/*"));
        for wrong in ["bytes 10-13/14", "bytes 0-4/100", "bytes */100", "10-14/100", "bytes 14-10/9", ""] {
            assert!(!fits(wrong), "{wrong}");
        }
        assert!(!carries_range(&HeaderMap::new(), range));
    }

    /// The answers of a Nextcloud in `fixtures/dav/nextcloud`.
    #[test]
    fn nextcloud_is_understood() {
        let not_found = Err(Kind::NotFound);
        for (name, verb, meaning) in [
            ("put-201-xhash", Verb::Put, Ok(())),
            ("put-204-overwrite", Verb::Put, Ok(())),
            ("put-404-no-parent", Verb::Put, not_found.clone()),
            ("head-200", Verb::Head, Ok(())),
            ("get-404", Verb::Get, not_found.clone()),
            ("mkcol-201", Verb::Mkcol, Ok(())),
            ("mkcol-405-exists", Verb::Mkcol, Ok(())),
            ("mkcol-409-no-parent", Verb::Mkcol, not_found.clone()),
            ("delete-204-skiptrash", Verb::Delete, Ok(())),
            ("delete-404", Verb::Delete, Ok(())),
            ("unauthorized-401", Verb::Propfind, Err(Kind::Unauthorized)),
            ("propfind-404", Verb::Propfind, not_found),
            ("propfind-depth1-207", Verb::Propfind, Ok(())),
        ] {
            let file = format!("{}/fixtures/dav/nextcloud/{name}.http", env!("CARGO_MANIFEST_DIR"));
            let whole = std::fs::read_to_string(file).unwrap().replace("\r\n", "\n");
            let whole = whole.strip_prefix("HTTP/1.1 100 Continue\n\n").unwrap_or(&whole);
            let (head, body) = whole.split_once("\n\n").unwrap();
            let (line, headers) = head.split_once('\n').unwrap();
            let status = line.split(' ').nth(1).unwrap().parse().unwrap();
            let headers = headers.lines().map(|line| line.split_once(": ").unwrap()).collect::<Vec<_>>();
            assert_eq!(judged(verb, status, &headers, body.as_bytes()), meaning, "{name}");
        }
    }
}
