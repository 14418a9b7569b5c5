//! The planted bugs of `tests/plants`: each still fits the tree, names a test that is there, and stands in
//! `docs/guarantees.md`. That the tests see them is shown by `tests/plants/run`.

use std::fs;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The value of a line of a patch's head.
fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.filter(|value| !value.is_empty()).unwrap_or_else(|| panic!("no {name:?} in {head:?}"))
}

/// The file each hunk changes, and the lines it must find there.
fn hunks(diff: &str) -> Vec<(&str, String)> {
    let mut hunks = Vec::new();
    let mut file = "";
    for line in diff.lines() {
        match line.strip_prefix("--- a/") {
            Some(name) => file = name,
            None if line.starts_with("+++ b/") => assert_eq!(&line[6..], file),
            None if line.starts_with("@@") => hunks.push((file, String::new())),
            None if line.starts_with([' ', '-']) => {
                let (_, before) = hunks.last_mut().expect("a hunk begins with @@");
                before.extend([&line[1..], "\n"]);
            }
            None => assert!(line.starts_with('+'), "{line:?} is no line of a diff"),
        }
    }
    hunks
}

/// The file in which a test must be that `cargo test` knows by these words.
fn home_of(program: &[&str], module: &str) -> PathBuf {
    let file = module.strip_suffix("::tests").unwrap_or(module).replace("::", "/");
    match program {
        ["--lib"] => path(&format!("src/{file}.rs")),
        ["--test", program] if file.is_empty() => path(&format!("tests/{program}/main.rs")),
        ["--test", program] => path(&format!("tests/{program}/{file}.rs")),
        other => panic!("no such program: {other:?}"),
    }
}

#[test]
fn every_planted_bug_fits_the_tree_and_names_a_test() {
    let guarantees = read("docs/guarantees.md");
    let table = guarantees.split("## Do the tests have teeth?").nth(1).expect("the section on planted bugs");
    let mut names = fs::read_dir(path("tests/plants"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".patch"))
        .collect::<Vec<_>>();
    names.sort();
    let numbers = names.iter().map(|name| name[..2].parse::<usize>().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers, (1..=18).collect::<Vec<_>>(), "{names:?}");
    for name in names {
        let patch = read(&format!("tests/plants/{name}"));
        let (head, diff) = patch.split_at(patch.find("--- a/").expect("a diff"));
        let (bug, test, _) = (field(head, "bug"), field(head, "test"), field(head, "says"));
        let hunks = hunks(diff);
        assert!(!hunks.is_empty(), "{name}");
        for (file, before) in hunks {
            assert!(file.starts_with("src/"), "{name}: bugs are planted in the engine, not in {file}");
            let found = read(file).matches(&before).count();
            assert_eq!(found, 1, "{name} does not fit {file} any more: write it anew\n{before}");
        }
        let words = test.split(' ').filter(|word| !word.contains('=')).collect::<Vec<_>>();
        let (test, program) = words.split_last().unwrap();
        let (module, function) = test.rsplit_once("::").unwrap_or(("", test));
        let home = home_of(program, module);
        let code =
            fs::read_to_string(&home).unwrap_or_else(|error| panic!("{name}: {}: {error}", home.display()));
        assert!(code.contains(&format!("fn {function}(")), "{name}: {test} is not in {}", home.display());
        let number = name[..2].trim_start_matches('0');
        let row = table.lines().find(|line| line.starts_with(&format!("| {number} |")));
        let told = row.is_some_and(|row| row.contains(bug) && row.contains(function));
        assert!(told, "{name} is not in docs/guarantees.md: {bug} {test}");
    }
}
