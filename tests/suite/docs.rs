//! What the documents claim about the code, held against it.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::cli::{Cli, PASSWORD, finish};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The pieces of `text` between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let guarantees = read("docs/guarantees.md");
    let rows = guarantees.lines().filter(|line| line.starts_with("| "));
    let (mut proofs, mut numbers) = (0, BTreeSet::new());
    for row in rows {
        let number = row.split('|').nth(1).unwrap().trim();
        if number == "#" {
            numbers.clear();
            continue;
        }
        assert!(numbers.insert(number), "{number} stands twice");
        let proof = row.rsplit('|').nth(1).unwrap();
        for quoted in quoted(proof) {
            let (place, test) = quoted.rsplit_once("::").unwrap_or((quoted, ""));
            let file = match place.strip_suffix("::tests").unwrap_or(place) {
                path if path.ends_with(".rs") && path.starts_with("tests/") => path.to_owned(),
                path if path.ends_with(".rs") => format!("src/{path}"),
                module if module.contains("::") || !test.is_empty() => {
                    let module =
                        if place.ends_with("::tests") { module.to_owned() } else { quoted.to_owned() };
                    format!("src/{}.rs", module.replace("::", "/"))
                }
                other => panic!("{other:?} in {row}"),
            };
            let code = read(&file);
            let named = file.starts_with("tests/") || place.ends_with("::tests");
            assert!(
                !named || test.is_empty() || code.contains(&format!("fn {test}(")),
                "{quoted} is not in {file}"
            );
            proofs += 1;
        }
    }
    assert!(proofs > 20, "{proofs}");
}

#[test]
fn every_command_is_in_the_command_lines_document() {
    let args = read("src/bin/espejo/args.rs");
    let commands = args.split("pub enum Command {").nth(1).unwrap().split("\n}").next().unwrap();
    let names = commands.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    let document = read("docs/cli.md");
    for name in names {
        let name = name.split(['(', ',']).next().unwrap().to_lowercase();
        assert!(document.contains(&format!("`{name}")), "{name} is not in docs/cli.md");
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = |dir: &Path, depth| {
        let walk =
            walkdir::WalkDir::new(dir).max_depth(depth).into_iter().map(|item| item.unwrap().into_path());
        walk.filter(|path| path.extension().is_some_and(|it| it == "md")).collect::<Vec<_>>()
    };
    let all = [documents(root, 1), documents(&root.join("docs"), 2)].concat();
    assert!(all.len() > 8, "{all:?}");
    for document in all {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                let there = document.parent().unwrap().join(target);
                assert!(there.exists(), "{} links to {target}", document.display());
            }
        }
    }
}

#[test]
fn the_example_writes_what_the_program_reads() {
    // Already there, unless these tests alone were built.
    let build = ["build", "--quiet", "--locked", "--example", "journal"];
    let built = std::process::Command::new(env!("CARGO"))
        .args(build)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.unwrap().success());
    let program = std::env::current_exe().unwrap();
    let example = program.ancestors().nth(2).unwrap().join("examples/journal");
    let cli = Cli::with_vault();
    cli.add("by the program");
    let mut command = cli
        .bare_command(example.to_str().unwrap(), &[cli.vault.to_str().unwrap(), "By the example. And more."]);
    let output = finish(command.env("PASSWORD", PASSWORD).spawn().unwrap(), b"").exits(0);
    assert!(
        output.text().contains("# by the program") && output.text().contains("# By the example\n"),
        "{output:?}"
    );
    assert_eq!(cli.run(&["show", "@", "--raw"]).text(), "By the example. And more.");
}
