//! Answers of a server, the way to it, and what it learns.

use std::fs;
use std::io::Write;
use std::time::Duration;

use espejo::entropy::OsEntropy;
use espejo::event::Finding;
use espejo::format::Unsealed;
use espejo::format::object::seal_part;
use espejo::id::EntryId;
use espejo::remote::{Remote, RemoteErrorKind, RemotePath, WebDavConfig, WebDavRemote};
use espejo::sync::{Options, Report};
use zeroize::Zeroizing;

use super::{Two, read};
use crate::common::cli::{files, temp_dir};
use crate::common::proxy::{Fault, How, Reply};
use crate::common::servers::Site;
use crate::common::*;
use crate::remote_faults::Hostile;

impl Site {
    fn remote(&self) -> WebDavRemote {
        WebDavRemote::new(WebDavConfig {
            base_url: self.target(),
            user: Some("ada".to_owned()),
            password: Some(Zeroizing::new("secret".to_owned())),
            ca_file_pem: None,
        })
        .unwrap()
    }

    /// A sync that must go on, and what it found.
    fn sync(&self, vault: &mut TestVault) -> (Report, Vec<Finding>) {
        let (report, findings) = try_sync(vault, &self.remote(), Options::default());
        (report.unwrap_or_else(|error| panic!("{error}: {findings:?}")), findings)
    }

    /// Two devices that have met there, with these entries.
    fn two(&self, titles: &[&str]) -> ([tempfile::TempDir; 2], TestVault, TestVault) {
        let dirs = [temp_dir(), temp_dir()];
        let clocks = [TestClock::at(NOW), TestClock::at(NOW)];
        let [a, b] = meet([dirs[0].path(), dirs[1].path()], &clocks, &self.remote(), titles);
        (dirs, a, b)
    }
}

#[test]
fn row_40_twins_of_our_names_are_not_read() {
    let mut two = Two::with(&["kept"]);
    let ours = files(&two.path("mirror"));
    for (name, bytes) in &ours {
        let (dir, file) = (name.parent().unwrap(), name.file_name().unwrap().to_str().unwrap());
        for twin in [file.to_uppercase(), format!("{file}."), format!("{file} "), format!("{file} (1)")] {
            // Of another content, and later in any order.
            let bytes = [&b"twin"[..], bytes].concat();
            let path = dir.join(twin);
            if !ours.contains_key(&path) {
                two.plant(path.to_str().unwrap(), &bytes);
            }
        }
        for special in ["CON", "nul.txt", "aux", "e\u{301}", "\u{e9}", "-rf", "~", "x:stream"] {
            two.plant(dir.join(special).to_str().unwrap(), b"special");
        }
    }
    let planted = files(&two.path("mirror"));
    assert_eq!(two.settle(), []);
    assert_eq!(files(&two.path("mirror")), planted, "they are not ours to remove");
    let dir = temp_dir();
    let mut newcomer = clone_vault(dir.path(), "tablet", &TestClock::at(NOW), &two.remote);
    set_remote(&mut newcomer);
    let (report, findings) = try_sync(&mut newcomer, &two.remote, FULL);
    assert!(report.unwrap().is_settled() && findings.is_empty(), "{findings:?}");
    assert_eq!(titles(&mut newcomer), ["kept"]);
}

#[test]
fn row_44_a_refusal_that_drips_is_left() {
    let server = Hostile::new(|_, out| {
        write!(out, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\n")?;
        // It ends when the client has gone.
        loop {
            out.write_all(b"x")?;
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let error = block_on(server.remote().list(&RemotePath::root())).unwrap_err();
    assert_eq!(error.kind, RemoteErrorKind::Forbidden);
}

/// The same tag for every state of everything, and a time that is yet to come.
fn lies(mut reply: Reply) -> Reply {
    reply.head.retain(|line| {
        let line = line.to_ascii_lowercase();
        !line.starts_with("etag:") && !line.starts_with("last-modified:")
    });
    let (tag, time) = ("\"always\"", "Thu, 01 Jan 2099 00:00:00 GMT");
    reply.head.extend([format!("ETag: {tag}"), format!("Last-Modified: {time}")]);
    let text = String::from_utf8(reply.body.clone()).unwrap_or_default();
    let told = format!("<D:getetag>{tag}</D:getetag><D:getlastmodified>{time}</D:getlastmodified></D:prop>");
    match text.contains("</D:prop>") {
        true => reply.with_body(text.replace("</D:prop>", &told)),
        false => reply,
    }
}

#[test]
fn row_52_lies_in_tags_and_times_change_nothing() {
    let site = Site::start();
    let (_dirs, mut a, mut b) = site.two(&["first"]);
    assert!(
        site.proxy
            .listings()
            .values()
            .any(|reply| { String::from_utf8_lossy(&reply.body).contains("</D:prop>") })
    );
    site.proxy.fault(Fault { method: "", path: "", after: 0, times: usize::MAX, how: How::Change(lies) });
    for n in 0..3 {
        let entry = add(&mut a, &format!("new {n}"));
        edit(&mut a, entry, &format!("edited {n}"));
        for n in [0, 1, 0] {
            let (report, findings) = site.sync([&mut a, &mut b][n]);
            assert!(report.is_settled() && findings.is_empty(), "{report:?} {findings:?}");
        }
        assert_eq!(titles(&mut a), titles(&mut b));
        assert_eq!(titles(&mut b).len(), n + 2);
    }
    for vault in [&mut a, &mut b] {
        assert_eq!(site.sync(vault).0.requests, 1, "nothing to do");
    }
    // Other tags for the same bytes are no news either.
    site.proxy.heal();
    for vault in [&mut a, &mut b] {
        assert_eq!(site.sync(vault).0.requests, 1);
    }
}

#[test]
fn row_53_the_same_text_twice_has_nothing_in_common() {
    let dir = temp_dir();
    let mut vault = new_vault(dir.path(), "laptop", &TestClock::at(NOW));
    let entries = [add(&mut vault, "the same"), add(&mut vault, "the same")];
    let blobs = [(); 2].map(|()| vault.store_blob(&mut &[5; 9_000][..]).unwrap());
    assert_ne!(blobs[0].parts[0].object, blobs[1].parts[0].object);
    assert_ne!(vault.entry(entries[0]).unwrap().version.id, vault.entry(entries[1]).unwrap().version.id);
    let objects = files(&dir.path().join("objects")).into_values().collect::<Vec<_>>();
    assert_eq!(objects.len(), 4);
    // Behind the clear header no eight bytes are met twice.
    let mut windows = objects.iter().flat_map(|object| object[36..].windows(8)).collect::<Vec<_>>();
    let all = windows.len();
    windows.sort_unstable();
    windows.dedup();
    assert_eq!(windows.len(), all);
}

#[test]
fn row_71_commitments_and_macs_are_compared_in_constant_time() {
    for (path, compared) in [
        ("src/crypto/cobblestone.rs", "derived.commitment.ct_eq("),
        ("src/format/keyfile.rs", ".ct_eq(&self.mac)"),
    ] {
        let file = read(path);
        let code = file.split("\n#[cfg(test)]").next().unwrap();
        assert!(code.contains(compared), "{path}");
        let compares = |line: &&str| line.contains("==") || line.contains("!=");
        let secret = |line: &&str| ["commitment", "mac", "tag"].iter().any(|word| line.contains(word));
        let wrong = code.lines().filter(compares).filter(secret).collect::<Vec<_>>();
        assert!(wrong.is_empty(), "{path}: {wrong:?}");
    }
}

#[test]
fn row_72_whatever_is_wrong_with_a_file_the_server_is_asked_the_same() {
    let site = Site::start();
    let (_dirs, mut a, mut b) = site.two(&["first"]);
    let before = files(&site.root.join("objects"));
    add(&mut a, "second");
    site.sync(&mut a);
    let after = files(&site.root.join("objects"));
    let (name, good) = after.into_iter().find(|(name, _)| !before.contains_key(name)).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let another = seal_part(
        a.keyring(),
        Unsealed::of(b"authentic, and something else"),
        espejo::crypto::Salt::draw(&OsEntropy).unwrap(),
    )
    .bytes;
    assert_eq!(another.len(), good.len());
    let mut asked = Vec::new();
    // Its magic, its type, its commitment, its only chunk; noise; and what was sealed with the right key.
    for wrong in [flipped(0), flipped(10), flipped(70), flipped(4_000), vec![7; good.len()], another] {
        fs::write(site.root.join("objects").join(&name), &wrong).unwrap();
        site.proxy.take_asked();
        for _ in 0..2 {
            let (report, findings) = site.sync(&mut b);
            assert_eq!(report.pending, 1);
            assert!(matches!(findings[..], [Finding::MirrorDamaged { .. }]), "{findings:?}");
        }
        asked.push(site.proxy.take_asked());
    }
    // The first time there was news, too.
    let first = asked.remove(0);
    assert!(
        first.len() >= asked[0].len() && asked[0].iter().any(|line| line.starts_with("GET ")),
        "{first:?}"
    );
    assert!(asked.iter().all(|other| *other == asked[0]), "{asked:#?}");
    fs::write(site.root.join("objects").join(&name), good).unwrap();
    assert_eq!(site.sync(&mut b).0.pulled, 1);
}

/// What a server is asked when a device has done something, without names, and how long the files are that came.
fn observed(act: impl Fn(&mut TestVault, EntryId)) -> (Vec<String>, Vec<usize>) {
    let site = Site::start();
    let (_dirs, mut a, mut b) = site.two(&["first", "second"]);
    let entry = a.entries().unwrap()[0].id();
    let before = files(&site.root);
    act(&mut a, entry);
    site.proxy.take_asked();
    site.sync(&mut a);
    site.sync(&mut b);
    let nameless = |line: String| line.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_owned());
    let asked = site.proxy.take_asked().into_iter().map(nameless).map(|line| {
        // The first digits of a device's id are in the name of its directory.
        line.split('-').next().unwrap().trim_end_matches(|c: char| c.is_ascii_hexdigit()).to_owned()
    });
    let came = files(&site.root).into_iter().filter(|(name, _)| !before.contains_key(name));
    let mut lengths = came.map(|(_, bytes)| bytes.len()).collect::<Vec<_>>();
    lengths.sort_unstable();
    (asked.collect(), lengths)
}

#[test]
fn row_73_an_edit_and_a_deletion_look_alike_to_the_server() {
    let edited = observed(|vault, entry| edit(vault, entry, "edited"));
    let deleted = observed(delete);
    assert_eq!(edited, deleted);
    assert!(edited.0.len() > 4 && edited.1.len() == 2, "{edited:?}");
}
