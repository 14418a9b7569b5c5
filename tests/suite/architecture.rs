//! The layers of the house, and the one direction in which they may know each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lowest first. A module may import from its own layer's line and from those above it in this list.
const LAYERS: &[&[&str]] = &[
    &["entropy", "clock", "parallel"],
    &["id"],
    &["crypto", "version"],
    &["entry", "history"],
    &["manifest", "event"],
    &["format"],
    &["fs"],
    &["host"],
    &["remote"],
    &["vault"],
    &["sync"],
    // A WebDAV server for demonstrations and tests: it knows nothing of vaults, and nothing here knows it.
    &["embedded"],
];

/// The only modules that may name these crates.
const ALONE: &[(&str, &[&str])] = &[
    ("aes_gcm", &["crypto"]),
    ("hmac", &["crypto"]),
    ("pbkdf2", &["crypto"]),
    ("sha2", &["crypto", "remote"]),
    ("reqwest", &["remote"]),
    ("reqwest_dav", &["remote"]),
    ("getrandom", &["entropy"]),
    ("walkdir", &["fs"]),
    ("tar", &["format"]),
    ("serde_json", &["entry", "format", "remote", "vault"]),
    ("clap", &[]),
    ("std::net", &["embedded", "remote"]),
    ("std::env", &[]),
    ("std::fs", &["fs", "remote", "embedded"]),
    ("SystemTime", &["clock"]),
    ("println!", &[]),
    ("eprintln!", &[]),
    ("tokio::spawn", &["embedded"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The library's code, without its tests and comments, by top-level module.
fn library() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut modules = BTreeMap::<String, Vec<_>>::new();
    for path in files {
        let relative = path.strip_prefix(&src).unwrap().to_owned();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let test = relative.to_string_lossy().ends_with("tests.rs");
        if first == "bin" || first == "lib.rs" || test {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let code =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        modules.entry(first.trim_end_matches(".rs").to_owned()).or_default().push((relative, code));
    }
    modules
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for (module, files) in library() {
        for (path, code) in files {
            let imported = code.split("crate::").skip(1);
            let imported =
                imported.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap());
            for other in imported.filter(|other| *other != module && !other.is_empty()) {
                if layer(other) >= layer(&module) {
                    wrong.push(format!("{} imports {other}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_door_has_one_house() {
    let mut wrong = Vec::new();
    for (module, files) in library() {
        for (path, code) in files {
            for (name, allowed) in ALONE {
                let word = |at: usize| {
                    let before = code[..at].chars().next_back();
                    let after = code[at + name.len()..].chars().next();
                    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    !joins(before) && (!joins(after) || name.ends_with('!'))
                };
                if code.match_indices(name).any(|(at, _)| word(at)) && !allowed.contains(&module.as_str()) {
                    wrong.push(format!("{} names {name}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
