//! What every remote does alike, proven on each: memory, a folder, the embedded server, and six real ones.

#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use espejo::embedded::EmbeddedServer;
use espejo::remote::path::is_safe_name;
use espejo::remote::{
    AnyRemote, ByteRange, FolderRemote, Listing, MemoryRemote, Remote, RemoteErrorKind, RemotePath,
    WebDavConfig, WebDavRemote,
};
use futures_util::future::join_all;
use zeroize::Zeroizing;

use crate::common::servers::RealServer;

/// The mirror lies two missing directories below what is served, one of them named as people name directories.
const BELOW: &str = "mirrors/Adas Tagebücher (2)+";

fn path(text: &str) -> RemotePath {
    RemotePath::new(text).unwrap()
}

/// Bytes that no server takes for text, different for each `seed`.
fn body(len_bytes: usize, seed: u64) -> Bytes {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let bytes = (0..len_bytes).map(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    });
    bytes.collect()
}

/// A listing's names that can be ours, with their lengths; directories have none.
fn ours(listing: &Listing) -> BTreeMap<String, Option<u64>> {
    let safe = listing.items.iter().filter(|item| is_safe_name(&item.name));
    safe.map(|item| (item.name.clone(), if item.is_dir { None } else { item.len_bytes })).collect()
}

async fn listed<R: Remote>(remote: &R, dir: &str) -> BTreeMap<String, Option<u64>> {
    let listing = remote.list(&path(dir)).await.unwrap().unwrap();
    assert!(listing.complete, "the listing of {dir} is cut short");
    ours(&listing)
}

/// The whole contract. `disk` is where the mirror's base directory lies, if it lies anywhere.
async fn keeps_the_contract<R: Remote>(remote: &R, disk: Option<&Path>) {
    the_base_directory_is_made_with_its_parents(remote).await;
    what_is_put_is_there(remote).await;
    a_part_is_exactly_that_part(remote).await;
    what_is_missing_is_missing(remote).await;
    every_safe_name_works(remote).await;
    a_body_is_bounded(remote).await;
    many_files_are_all_listed(remote).await;
    several_puts_at_once_all_arrive(remote).await;
    if let Some(disk) = disk {
        foreign_files_are_in_nobodys_way(remote, disk).await;
    }
    let traffic = remote.traffic();
    assert!(
        traffic.requests > 650 && traffic.bytes_up > 4 << 20 && traffic.bytes_down > 4 << 20,
        "{traffic:?}"
    );
}

async fn the_base_directory_is_made_with_its_parents<R: Remote>(remote: &R) {
    assert_eq!(remote.list(&RemotePath::root()).await, Ok(None), "nothing is there at first");
    assert_eq!(remote.list(&path("feeds")).await, Ok(None));
    assert_eq!(remote.make_dir(&RemotePath::root()).await, Ok(true));
    remote.make_dir(&RemotePath::root()).await.unwrap();
    let listing = remote.list(&RemotePath::root()).await.unwrap().unwrap();
    assert_eq!((ours(&listing).len(), listing.complete), (0, true));
    assert_ne!(listing.marker_seen, Some(true));
    for dir in ["feeds", "objects", "objects/0a1b2c3d-1"] {
        assert_eq!(remote.make_dir(&path(dir)).await, Ok(true));
        remote.make_dir(&path(dir)).await.unwrap();
    }
    assert_eq!(listed(remote, "feeds").await, BTreeMap::new());
    assert_eq!(listed(remote, "objects").await, [("0a1b2c3d-1".to_owned(), None)].into());
}

/// Whether a directory that was there is told from one that was not.
async fn tells_what_was_there<R: Remote>(remote: &R, tells: bool) {
    for dir in [RemotePath::root(), path("feeds")] {
        assert_eq!(remote.make_dir(&dir).await, Ok(!tells));
    }
}

async fn what_is_put_is_there<R: Remote>(remote: &R) {
    for (name, bytes) in
        [("objects/one", body(1, 1)), ("objects/four", body(4 << 20, 2)), ("espejo.json", body(99, 3))]
    {
        let file = path(name);
        remote.put(&file, bytes.clone()).await.unwrap();
        assert_eq!(remote.size(&file).await, Ok(Some(bytes.len() as u64)), "{name}");
        assert!(
            remote.get(&file, None, bytes.len() as u64).await.unwrap() == bytes,
            "{name} came back changed"
        );
        let mut pieces = Vec::new();
        remote.get_in_pieces(&file, None, bytes.len() as u64, &mut pieces).await.unwrap();
        assert!(pieces == bytes, "{name} came changed in pieces");
        // The same again, as after an uncertain outcome, harms nothing.
        remote.put(&file, bytes.clone()).await.unwrap();
        assert!(
            remote.get(&file, None, u64::MAX).await.unwrap() == bytes,
            "{name} was changed by a second put"
        );
    }
    let there = listed(remote, "objects").await;
    assert_eq!((there["one"], there["four"]), (Some(1), Some(4 << 20)));
    let base = remote.list(&RemotePath::root()).await.unwrap().unwrap();
    assert_eq!(ours(&base).keys().collect::<Vec<_>>(), ["espejo.json", "feeds", "objects"]);
    assert_ne!(base.marker_seen, Some(false));
    remote.delete(&path("objects/one")).await.unwrap();
    assert_eq!(remote.size(&path("objects/one")).await, Ok(None));
    assert!(!listed(remote, "objects").await.contains_key("one"));
}

async fn a_part_is_exactly_that_part<R: Remote>(remote: &R) {
    let whole = body(4 << 20, 2);
    let last = whole.len() as u64 - 1;
    // Not (0, 1): sabre takes the 0 in `bytes=0-0` for no end at all and sends the whole file, which is refused.
    for (offset, len_bytes) in
        [(0, 2), (0, 4096), (1_000_000, 70_000), (last, 1), (last - 9, 10), (0, last + 1)]
    {
        let range = ByteRange { offset, len_bytes };
        let part = remote.get(&path("objects/four"), Some(range), len_bytes).await.unwrap();
        assert!(part == whole[offset as usize..(offset + len_bytes) as usize], "{range:?}");
        let mut pieces = Vec::new();
        remote.get_in_pieces(&path("objects/four"), Some(range), len_bytes, &mut pieces).await.unwrap();
        assert!(pieces == part, "{range:?} in pieces");
    }
    for (offset, len_bytes) in [(last, 2), (last + 1, 1), (u64::MAX, 2), (0, 0)] {
        let range = ByteRange { offset, len_bytes };
        let refused = remote.get(&path("objects/four"), Some(range), 1 << 30).await.unwrap_err();
        assert_eq!(refused.kind, RemoteErrorKind::Malformed, "{range:?}");
    }
}

async fn what_is_missing_is_missing<R: Remote>(remote: &R) {
    for name in ["none", "feeds/none", "none/none", "objects/none/none"] {
        let file = path(name);
        assert_eq!(remote.size(&file).await, Ok(None), "{name}");
        assert_eq!(remote.get(&file, None, 10).await.unwrap_err().kind, RemoteErrorKind::NotFound, "{name}");
        remote.delete(&file).await.unwrap();
        assert_eq!(remote.list(&file).await, Ok(None), "{name}");
    }
    let into_nothing = remote.put(&path("objects/none/file"), body(10, 4)).await;
    assert_eq!(into_nothing.unwrap_err().kind, RemoteErrorKind::NotFound);
    let below_nothing = remote.make_dir(&path("none/none")).await;
    assert_eq!(below_nothing.unwrap_err().kind, RemoteErrorKind::NotFound);
}

async fn every_safe_name_works<R: Remote>(remote: &R) {
    remote.make_dir(&path("keys")).await.unwrap();
    let long = "z".repeat(99);
    let names = ["abcdefghijklmnopqrstuvwxyz0123456789.-x", "0", "a..b", "1-.-2", "x-", &long, "1.00ff.key"];
    for (n, name) in names.iter().enumerate() {
        remote.put(&path("keys").join(name).unwrap(), body(20 + n, n as u64)).await.unwrap();
    }
    let expected =
        names.iter().enumerate().map(|(n, name)| ((*name).to_owned(), Some(20 + n as u64))).collect();
    assert_eq!(listed(remote, "keys").await, expected);
    for (n, name) in names.iter().enumerate() {
        let file = path("keys").join(name).unwrap();
        assert_eq!(remote.get(&file, None, 1000).await.unwrap(), body(20 + n, n as u64));
        remote.delete(&file).await.unwrap();
    }
    assert_eq!(listed(remote, "keys").await, BTreeMap::new());
}

async fn a_body_is_bounded<R: Remote>(remote: &R) {
    let file = path("objects/four");
    for max_bytes in [0, 1, (4 << 20) - 1] {
        let refused = remote.get(&file, None, max_bytes).await.unwrap_err();
        assert_eq!(refused.kind, RemoteErrorKind::Oversize, "{max_bytes}");
    }
    let range = ByteRange { offset: 5, len_bytes: 100 };
    assert_eq!(remote.get(&file, Some(range), 99).await.unwrap_err().kind, RemoteErrorKind::Oversize);
    assert_eq!(remote.get(&file, Some(range), 100).await.unwrap().len(), 100);
}

async fn many_files_are_all_listed<R: Remote>(remote: &R) {
    let dir = path("objects/0a1b2c3d-1");
    let mut expected = BTreeMap::new();
    for n in 0..600_usize {
        let name = format!("{n:064x}");
        remote.put(&dir.join(&name).unwrap(), body(100 + n, n as u64)).await.unwrap();
        expected.insert(name, Some(100 + n as u64));
    }
    assert_eq!(listed(remote, dir.as_str()).await, expected);
}

async fn several_puts_at_once_all_arrive<R: Remote>(remote: &R) {
    let dir = path("objects/0a1b2c3d-2");
    remote.make_dir(&dir).await.unwrap();
    let files = (0..8_u64).map(|n| (dir.join(&format!("p{n}")).unwrap(), body(50_000 + n as usize, n)));
    let files = files.collect::<Vec<_>>();
    for done in join_all(files.iter().map(|(file, bytes)| remote.put(file, bytes.clone()))).await {
        done.unwrap();
    }
    let bodies = join_all(files.iter().map(|(file, _)| remote.get(file, None, 1 << 20))).await;
    for ((file, bytes), got) in files.iter().zip(bodies) {
        assert!(got.unwrap() == *bytes, "{file}");
    }
    assert_eq!(listed(remote, dir.as_str()).await.len(), 8);
}

async fn foreign_files_are_in_nobodys_way<R: Remote>(remote: &R, disk: &Path) {
    let dir = disk.join("feeds");
    for name in [
        "My photo (1).jpg",
        "Ünïcödé ☃",
        ".hidden",
        "UPPER",
        "a&b<c>",
        "100%",
        "x#y",
        "con.",
        "q?.r",
        "a+b;c",
    ] {
        std::fs::write(dir.join(name), "not ours").unwrap();
    }
    std::fs::create_dir(dir.join("Some Folder")).unwrap();
    std::fs::write(dir.join("Some Folder/inside"), "not ours").unwrap();
    remote.put(&path("feeds/mine"), body(77, 5)).await.unwrap();
    assert_eq!(listed(remote, "feeds").await, [("mine".to_owned(), Some(77))].into());
}

/// Runs the contract and the matter of the wrong password against one WebDAV server.
async fn server_keeps_the_contract(name: &str) {
    let server = RealServer::start(name, false);
    let remote = server.remote(BELOW);
    keeps_the_contract(&remote, Some(&server.root.join(BELOW))).await;
    // rclone says of every directory that it has just made it.
    tells_what_was_there(&remote, name != "rclone").await;
    a_wrong_password_is_told(server.config(BELOW)).await;
    // wsgidav answers 500 for a directory that holds a name like this, until somebody renames the file.
    if name != "wsgidav" {
        let feeds = server.root.join(BELOW).join("feeds");
        std::fs::write(feeds.join(OsStr::from_bytes(b"not-utf-8-\xff")), "not ours").unwrap();
        assert_eq!(listed(&remote, "feeds").await, [("mine".to_owned(), Some(77))].into());
    }
}

async fn a_wrong_password_is_told(config: WebDavConfig) {
    let wrong = "canary-wrong-password";
    let remote =
        WebDavRemote::new(WebDavConfig { password: Some(Zeroizing::new(wrong.into())), ..config }).unwrap();
    let file = path("espejo.json");
    let errors = [
        remote.list(&RemotePath::root()).await.unwrap_err(),
        remote.get(&file, None, 10).await.unwrap_err(),
        remote.put(&file, body(10, 6)).await.unwrap_err(),
        remote.delete(&file).await.unwrap_err(),
        remote.make_dir(&path("feeds")).await.unwrap_err(),
        // The last: to a refused HEAD wsgidav sends a body, which the next answer on the connection would begin with.
        remote.size(&file).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, RemoteErrorKind::Unauthorized, "{error}");
        assert!(!format!("{error} {error:?} {remote:?}").contains(wrong));
    }
}

#[tokio::test]
async fn memory() {
    let remote = AnyRemote::Memory(MemoryRemote::new());
    keeps_the_contract(&remote, None).await;
    tells_what_was_there(&remote, true).await;
}

#[tokio::test]
async fn folder() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join(BELOW);
    let remote = AnyRemote::Folder(FolderRemote::new(base.clone()));
    keeps_the_contract(&remote, Some(&base)).await;
    tells_what_was_there(&remote, true).await;
}

/// The embedded server under the runtime of `#[tokio::test]`, which has one thread.
#[tokio::test]
async fn embedded() {
    let dir = tempfile::tempdir().unwrap();
    let server = EmbeddedServer::start(dir.path().to_owned(), "ada", "secret").unwrap();
    let config = WebDavConfig {
        base_url: server.url() + BELOW,
        user: Some("ada".into()),
        password: Some(Zeroizing::new("secret".into())),
        ca_file_pem: None,
    };
    let remote = AnyRemote::WebDav(
        WebDavRemote::new(WebDavConfig {
            base_url: config.base_url.clone(),
            user: config.user.clone(),
            ..config
        })
        .unwrap(),
    );
    keeps_the_contract(&remote, Some(&dir.path().join(BELOW))).await;
    tells_what_was_there(&remote, true).await;
    assert_eq!(
        server.requests().len() as u64,
        remote.traffic().requests,
        "every request is counted, and once"
    );
    let config =
        WebDavConfig { base_url: server.url(), user: Some("ada".into()), password: None, ca_file_pem: None };
    a_wrong_password_is_told(config).await;
}

/// … and under a runtime of several threads, where its file system blocks differently.
#[test]
fn embedded_with_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let server = EmbeddedServer::start(dir.path().to_owned(), "ada", "secret").unwrap();
        let password = Some(Zeroizing::new("secret".into()));
        let config =
            WebDavConfig { base_url: server.url(), user: Some("ada".into()), password, ca_file_pem: None };
        let remote = WebDavRemote::new(config).unwrap();
        remote.put(&path("file"), body(1 << 20, 7)).await.unwrap();
        assert!(remote.get(&path("file"), None, 1 << 20).await.unwrap() == body(1 << 20, 7));
        assert_eq!(ours(&remote.list(&RemotePath::root()).await.unwrap().unwrap()).len(), 1);
        let url = server.url();
        drop(server);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let gone =
            WebDavRemote::new(WebDavConfig { base_url: url, user: None, password: None, ca_file_pem: None });
        assert_eq!(gone.unwrap().size(&path("file")).await.unwrap_err().kind, RemoteErrorKind::Unreachable);
    });
}

#[tokio::test]
async fn apache() {
    server_keeps_the_contract("apache").await;
}

#[tokio::test]
async fn nginx() {
    server_keeps_the_contract("nginx").await;
}

#[tokio::test]
async fn lighttpd() {
    server_keeps_the_contract("lighttpd").await;
}

#[tokio::test]
async fn rclone() {
    server_keeps_the_contract("rclone").await;
}

#[tokio::test]
async fn wsgidav() {
    server_keeps_the_contract("wsgidav").await;
}

#[tokio::test]
async fn sabre() {
    server_keeps_the_contract("sabre").await;
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_if_it_is_given() {
    let server = RealServer::start("apache", true);
    let remote = server.remote(BELOW);
    remote.make_dir(&RemotePath::root()).await.unwrap();
    remote.put(&path("file"), body(100_000, 8)).await.unwrap();
    assert!(remote.get(&path("file"), None, 1 << 20).await.unwrap() == body(100_000, 8));

    let stranger = WebDavRemote::new(WebDavConfig { ca_file_pem: None, ..server.config(BELOW) }).unwrap();
    for error in [
        stranger.list(&RemotePath::root()).await.unwrap_err(),
        stranger.put(&path("file"), body(10, 9)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, RemoteErrorKind::Untrusted, "{error}");
    }
    // The log may lag behind, and has the other requests only.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let log = std::fs::read_to_string(&server.access_log).unwrap();
    assert!(log.contains("GET ") && !log.contains("PROPFIND /dav/mirrors"), "the password was sent:\n{log}");
}
