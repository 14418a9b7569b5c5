//! Listings of real servers, of broken ones and of hostile ones.

use super::*;
use std::time::{Duration, Instant};

const ASKED: &str = "http://127.0.0.1:8080/dav/espejo/feeds/";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/dav/").to_owned() + name).unwrap()
}

/// The body of a captured answer.
fn captured(name: &str) -> Vec<u8> {
    let whole = String::from_utf8(fixture(name)).unwrap().replace("\r\n", "\n");
    whole.split_once("\n\n").unwrap().1.into()
}

fn parsed(body: impl AsRef<[u8]>) -> Result<Multistatus, RemoteErrorKind> {
    parse(body.as_ref(), &Url::parse(ASKED).unwrap())
}

fn file(name: &str, len_bytes: u64) -> Item {
    Item { name: name.into(), len_bytes: Some(len_bytes), is_dir: false }
}

fn dir(name: &str) -> Item {
    Item { name: name.into(), len_bytes: None, is_dir: true }
}

/// A well-formed listing of the collection itself and `entries`.
fn listing(entries: &str) -> String {
    let itself = entry("/dav/espejo/feeds/");
    format!(r#"<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{itself}{entries}</d:multistatus>"#)
}

fn entry(href: &str) -> String {
    format!(
        "<d:response><d:href>{href}</d:href><d:propstat><d:prop><d:resourcetype/></d:prop>\
         <d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    )
}

#[test]
fn every_server_says_the_same_in_its_own_words() {
    let expected = [file("1a.1-2.00ff", 4096), file("2b.1-9.11ee", 70_000), dir("old")];
    for server in ["apache", "nginx", "lighttpd", "wsgidav", "sabre"] {
        let listing = parsed(fixture(&format!("made/{server}.xml"))).unwrap();
        assert_eq!(listing.items, expected, "{server}");
        assert!(listing.complete, "{server}");
        assert!(listing.itself.unwrap().is_dir, "{server}");
    }
}

#[test]
fn nextcloud_answers_are_understood() {
    let asked = Url::parse("https://cloud.example/remote.php/dav/files/alice/espejo-cap/").unwrap();
    for name in ["propfind-depth1-207.http", "propfind-allprop-207.http"] {
        let listing = parse(&captured(&format!("nextcloud/{name}")), &asked).unwrap();
        assert!(listing.complete, "{name}");
        assert_eq!(listing.items.len(), 4, "{name}");
        assert!(
            listing.items.iter().all(|item| item.len_bytes == Some(4096) && item.name.len() == 64),
            "{name}"
        );
    }
    for name in ["propfind-depth0-207.http", "propfind-empty-207.http"] {
        let listing = parse(&captured(&format!("nextcloud/{name}")), &asked).unwrap();
        assert_eq!((listing.items.len(), listing.complete), (0, true), "{name}");
    }
    assert_eq!(parse(&captured("nextcloud/propfind-404.http"), &asked), Err(RemoteErrorKind::NotDav));
}

#[test]
fn a_listing_that_goes_on_after_its_end_is_incomplete() {
    let partial = parsed(fixture("made/rclone-partial.xml")).unwrap();
    assert_eq!(partial.items, [file("1a.1-2.00ff", 4096)]);
    assert!(!partial.complete);
    for (after, complete) in [("\n  ", true), ("<!-- made by x -->", true), ("<a/>", false), ("&amp;", false)]
    {
        assert_eq!(parsed(listing("") + after).unwrap().complete, complete, "{after}");
    }
}

#[test]
fn a_listing_cut_anywhere_is_never_complete() {
    let whole = listing(&(entry("/dav/espejo/feeds/a") + &entry("/dav/espejo/feeds/b")));
    assert!(parsed(&whole).unwrap().complete);
    for len in 0..whole.len() {
        match parsed(&whole[..len]) {
            Ok(listing) => assert!(!listing.complete, "cut at {len}"),
            Err(kind) => assert_eq!(kind, RemoteErrorKind::NotDav, "cut at {len}"),
        }
    }
}

#[test]
fn a_listing_without_the_collection_itself_is_incomplete() {
    let others = entry("/dav/espejo/feeds/a");
    let listing =
        parsed(format!(r#"<multistatus xmlns="DAV:" xmlns:d="DAV:">{others}</multistatus>"#)).unwrap();
    assert_eq!(listing.items.len(), 1);
    assert!(!listing.complete);
}

#[test]
fn hrefs_that_lead_elsewhere_are_left_out() {
    let long = format!("/dav/espejo/feeds/{}", "a".repeat(5000));
    let huge = format!("/dav/espejo/feeds/{}", "a".repeat(100_000));
    for href in [
        "/dav/espejo/feeds/../../etc/passwd",
        "/dav/espejo/feeds/..",
        "/dav/espejo/feeds/%2e%2e",
        "/dav/espejo/feeds/%2e%2e%2fkeys",
        "/dav/espejo/feeds/..%5ckeys",
        "/dav/espejo/feeds/x%00y",
        "/dav/espejo/feeds/a/b",
        "/dav/espejo/keys/a",
        "/dav/espejo/",
        "/",
        "",
        "a",
        "//evil.example/dav/espejo/feeds/a",
        "https://evil.example/dav/espejo/feeds/a",
        "http://127.0.0.1.evil.example/dav/espejo/feeds/a",
        "http://127.0.0.1@evil.example/dav/espejo/feeds/a",
        "file:///dav/espejo/feeds/a",
        "javascript:alert(1)",
        "/dav/espejo/feeds/a?b",
        &long,
        &huge,
    ] {
        let listing = parsed(listing(&(entry(href) + &entry("/dav/espejo/feeds/good")))).unwrap();
        assert_eq!(listing.items.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["good"], "{href:.60}");
        assert!(!listing.complete, "{href:.60}");
    }
}

#[test]
fn hrefs_are_decoded_however_they_are_written() {
    for (href, name) in [
        ("/dav/espejo/feeds/a%2Db", "a-b"),
        ("/dav/espejo/feeds/a%2db", "a-b"),
        ("/dav//espejo/%66eeds/a-b/", "a-b"),
        ("HTTP://127.0.0.1/dav/espejo/feeds/a-b", "skip"),
        ("http://127.0.0.1/dav/espejo/feeds/a-b", "a-b"),
        ("https://127.0.0.1:443/dav/espejo/feeds/a-b", "a-b"),
        ("/dav/espejo/feeds/a&#x2d;b", "a-b"),
        ("<![CDATA[/dav/espejo/feeds/a-b]]>", "a-b"),
        ("\n /dav/espejo/feeds/a&amp;b \n", "a&b"),
        ("/dav/espejo/feeds/%C3%A9t%c3%a9", "été"),
        ("/dav/espejo/feeds/Meine%20Fotos", "Meine Fotos"),
    ] {
        let items = parsed(listing(&entry(href))).unwrap().items;
        let names = items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, if name == "skip" { vec![] } else { vec![name] }, "{href}");
    }
}

#[test]
fn other_peoples_unshowable_names_are_passed_over() {
    for href in ["/dav/espejo/feeds/%1b%5b2J", "/dav/espejo/feeds/%ff%fe", "/dav/espejo/feeds/a%E2%80%AEb"] {
        let listing = parsed(listing(&entry(href))).unwrap();
        assert_eq!((listing.items.len(), listing.complete), (0, true), "{href}");
    }
}

#[test]
fn an_entry_that_makes_no_sense_is_left_out_and_told() {
    let href = "<d:href>/dav/espejo/feeds/x</d:href>";
    let ok = "<d:status>HTTP/1.1 200 OK</d:status>";
    for (entry, items, complete) in [
        (format!("<d:response>{href}<d:status>HTTP/1.1 404 Not Found</d:status></d:response>"), 0, true),
        (format!("<d:response>{href}<d:status>HTTP/1.1 200 OK</d:status></d:response>"), 1, true),
        (format!("<d:response>{href}<d:status>HTTP/1.1 500 Oops</d:status></d:response>"), 0, false),
        (format!("<d:response>{href}<d:status>fine</d:status></d:response>"), 0, false),
        (format!("<d:response>{href}</d:response>"), 0, false),
        (format!("<d:response>{href}{href}{ok}</d:response>"), 0, false),
        (format!("<d:response>{ok}</d:response>"), 0, false),
        (format!("<d:response>{href}<d:propstat><d:prop/></d:propstat></d:response>"), 0, false),
        (
            format!(
                "<d:response>{href}<d:propstat><d:prop><d:getcontentlength>-1</d:getcontentlength></d:prop>{ok}\
                 </d:propstat></d:response>"
            ),
            0,
            false,
        ),
        // A property that was not granted says nothing.
        (
            format!(
                "<d:response>{href}<d:propstat><d:prop><d:getcontentlength>7</d:getcontentlength></d:prop>\
                 <d:status>HTTP/1.1 403 Forbidden</d:status></d:propstat></d:response>"
            ),
            1,
            true,
        ),
    ] {
        let listing = parsed(listing(&entry)).unwrap();
        assert_eq!((listing.items.len(), listing.complete), (items, complete), "{entry}");
        assert!(listing.items.iter().all(|item| item.len_bytes.is_none()), "{entry}");
    }
    let twice = entry("/dav/espejo/feeds/x") + &entry("/dav/espejo/feeds/%78");
    let twice = parsed(listing(&twice)).unwrap();
    assert_eq!((twice.items.len(), twice.complete), (1, false));
}

#[test]
fn only_the_dav_namespace_counts() {
    let other = r#"<m:multistatus xmlns:m="urn:other"/>"#;
    assert_eq!(parsed(other), Err(RemoteErrorKind::NotDav));
    assert_eq!(parsed("<multistatus/>"), Err(RemoteErrorKind::NotDav));
    let inner = listing(r#"<x:response xmlns:x="urn:x"><d:href>/dav/espejo/feeds/a</d:href></x:response>"#);
    assert_eq!(parsed(inner).unwrap().items, []);
}

#[test]
fn what_is_no_listing_is_told_apart() {
    for body in
        ["", " ", "OK", "{}", "<html><body>sign in</body></html>", "<!DOCTYPE html><html>", "<!doctype HTML>"]
    {
        assert_eq!(parsed(body), Err(RemoteErrorKind::NotDav), "{body}");
    }
    assert_eq!(parsed(b"\xff\xfe<\0a\0"), Err(RemoteErrorKind::NotDav));
    let with_mark = [b"\xEF\xBB\xBF", listing("").as_bytes()].concat();
    assert!(parsed(with_mark).unwrap().complete);
    let not_utf8 = [listing("").as_bytes(), b"\xff"].concat();
    assert!(!parsed(not_utf8).unwrap().complete);
}

#[test]
fn bombs_are_refused_at_once() {
    let laughs = r#"<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;">]>
        <d:multistatus xmlns:d="DAV:"><d:response><d:href>&lol2;</d:href></d:response></d:multistatus>"#;
    let attributes = (0..1_000_000).map(|n| format!(" a{n}='1'")).collect::<String>();
    let namespaces = (0..100_000).map(|n| format!(" xmlns:n{n}='urn:{n}'")).collect::<String>();
    let deep = "<d:response>".repeat(100_000);
    for (name, body) in [
        ("entities", laughs.to_owned()),
        ("entity without declaration", listing(&entry("/dav/espejo/feeds/&bomb;"))),
        ("file", listing(&entry("&file;"))),
        ("late doctype", listing("<!DOCTYPE x [<!ENTITY a 'b'>]>")),
        ("attributes", listing(&format!("<d:response{attributes}/>"))),
        ("deep", listing(&deep)),
        ("NUL", listing(&entry("/dav/espejo/feeds/&#0;"))),
    ] {
        let started = Instant::now();
        assert_eq!(parsed(body), Err(RemoteErrorKind::Malformed), "{name}");
        assert!(started.elapsed() < Duration::from_secs(5), "{name} took {:?}", started.elapsed());
    }
    let started = Instant::now();
    let refused = parsed(listing(&format!("<d:response{namespaces}/>")));
    assert!(refused.is_err() || !refused.unwrap().complete);
    assert!(started.elapsed() < Duration::from_secs(5), "namespaces took {:?}", started.elapsed());
}

#[test]
fn twenty_thousand_entries_are_read_in_a_moment() {
    let entries = (0..20_000).map(|n| entry(&format!("/dav/espejo/feeds/{n:064x}"))).collect::<String>();
    let started = Instant::now();
    let listing = parsed(listing(&entries)).unwrap();
    assert!(listing.complete && listing.items.len() == 20_000);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn what_a_server_tells_of_itself_is_read_where_it_belongs() {
    let asked = Url::parse("https://cloud.example/remote.php/dav/files/alice/espejo-cap/").unwrap();
    let told = parse(&captured("nextcloud/propfind-allprop-207.http"), &asked).unwrap().about;
    assert_eq!(told, Told { has_etag: true, room_bytes: Some(-3) });
    let itself = |props: &str, status: &str| {
        format!(
            r#"<d:multistatus xmlns:d="DAV:"><d:response><d:href>/dav/espejo/feeds/</d:href><d:propstat><d:prop>{props}</d:prop><d:status>HTTP/1.1 {status}</d:status></d:propstat></d:response></d:multistatus>"#
        )
    };
    let told = |props: &str, status: &str| parsed(itself(props, status)).unwrap().about;
    let room = "<d:quota-available-bytes> 1234567 </d:quota-available-bytes>";
    assert_eq!(told(room, "200 OK"), Told { has_etag: false, room_bytes: Some(1_234_567) });
    assert_eq!(told(room, "404 Not Found"), Told::default());
    assert_eq!(
        told("<d:quota-available-bytes>lots</d:quota-available-bytes><d:getetag/>", "200 OK"),
        Told::default()
    );
}
