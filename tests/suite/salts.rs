//! Every seal has a salt of its own, and with it a key and nonces of its own: across processes, and in copies of a
//! vault that go on from the same state.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::cli::{files, temp_dir};
use crate::common::copy_dir;
use crate::common::crash::{self, MIRROR, VAULT};
use espejo::format::manifest::PREAMBLE_LEN;
use espejo::format::pack;

/// The clear header of a sealed file, and the salt after it.
const HEADER_LEN: usize = 36;
const SALT_LEN: usize = 24;

/// Where each salt was seen, and the bytes sealed with it.
type Salts = BTreeMap<Vec<u8>, (String, Vec<u8>)>;

/// Takes in a sealed file, or every one that is in it.
fn collect(salts: &mut Salts, name: &str, bytes: &[u8]) {
    if name == "local/manifest" {
        let mut rest = &bytes[PREAMBLE_LEN..];
        while let Some((len, _)) = rest.split_first_chunk::<4>() {
            let sealed = &rest[4..4 + u32::from_be_bytes(*len) as usize];
            note(salts, name, &bytes[..HEADER_LEN], sealed);
            rest = &rest[sealed.len() + 8..];
        }
    } else if let Ok(objects) = pack::read(bytes) {
        objects.into_iter().for_each(|(_, object)| collect(salts, name, object));
    } else if ["objects/", "feeds/", "local/"].iter().any(|place| name.starts_with(place))
        && bytes.len() > 4_000
    {
        note(salts, name, &bytes[..HEADER_LEN], &bytes[HEADER_LEN..]);
    }
}

fn note(salts: &mut Salts, name: &str, header: &[u8], sealed: &[u8]) {
    let salt = [header, &sealed[..SALT_LEN]].concat();
    if let Some((other, with)) = salts.insert(salt, (name.to_owned(), sealed.to_vec())) {
        assert!(with == sealed, "one salt for two texts: {name} and {other}");
    }
}

#[test]
fn no_salt_is_used_twice_by_another_process_or_by_a_copy() {
    let dirs = [temp_dir(), temp_dir()];
    let (vault, key) = crash::create(dirs[0].path());
    drop(vault);
    let run = |dir: &Path, args: &[&str]| {
        let output = crash::run(dir, &key, args);
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
    };
    for text in ["one", "two"] {
        run(dirs[0].path(), &["add", "-m", text]);
    }
    run(dirs[0].path(), &["sync"]);
    // A disk image is restored beside the disk it was taken of, and both go on.
    copy_dir(dirs[0].path(), dirs[1].path());
    let mut salts = Salts::new();
    for dir in &dirs {
        let dir = dir.path();
        for (n, text) in ["the same words", "others"].into_iter().enumerate() {
            run(dir, &["add", "-m", text]);
            run(dir, &["edit", "@", "-m", &format!("{text}, edited {n}")]);
            run(dir, &["sync"]);
            for part in [VAULT, MIRROR] {
                for (name, bytes) in files(&dir.join(part)) {
                    collect(&mut salts, name.to_str().unwrap(), &bytes);
                }
            }
        }
    }
    assert!(salts.len() > 30, "{}", salts.len());
}
