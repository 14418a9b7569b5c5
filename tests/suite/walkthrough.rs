//! The README's session, typed word for word by somebody new, says what the README says it does.

use std::fs;
use std::path::Path;

use regex::Regex;

use crate::common::cli::{ESPEJO, clean, temp_dir};

/// One line that is typed, and what is answered.
struct Step {
    typed: String,
    answer: String,
}

/// The session between the README's markers.
fn steps() -> Vec<Step> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let session = readme.split("<!-- session -->\n```\n").nth(1).unwrap();
    let session = session.split("```\n<!-- /session -->").next().unwrap();
    let steps = session.trim_start_matches("$ ").split("\n$ ").map(|step| {
        let (typed, answer) = step.split_once('\n').unwrap_or((step, ""));
        Step { typed: typed.to_owned(), answer: answer.trim_end().to_owned() }
    });
    steps.collect()
}

/// What is said, without what chance, the clock and the machine's speed have part in: each such thing by its kind.
fn without_chance(text: &str) -> String {
    let kinds = [
        (r"\b\d{8}T\d{6}Z\b", "MOMENT"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b", "MINUTE"),
        (r"\b\d+\.\d s\b", "SECONDS"),
        (r"\b\d+(\.\d)? KB\b", "KILOBYTES"),
        (r"(?m)^(added|changed) [0-9a-f]{8}\b", "$1 ENTRY"),
        (r"(?m)^([* ] )?[0-9a-f]{4}  ", "${1}ID  "),
    ];
    kinds.iter().fold(text.trim_end().to_owned(), |text, (pattern, kind)| {
        Regex::new(pattern).unwrap().replace_all(&text, *kind).into_owned()
    })
}

#[test]
fn the_readme_session_goes_as_it_is_written() {
    let home = temp_dir();
    let home = home.path();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::write(home.join("password"), "six random words make a password\n").unwrap();
    fs::write(home.join("eclipse.md"), "Two minutes of night at noon. Nobody spoke.\n").unwrap();
    fs::copy(root.join("fixtures/journal/eclipse.png"), home.join("eclipse.png")).unwrap();
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(ESPEJO, home.join("bin/espejo")).unwrap();
    let steps = steps();
    assert!(steps.len() > 12, "{}", steps.len());
    let mut dir = home.to_owned();
    for Step { typed, answer } in steps {
        if let Some(to) = typed.strip_prefix("cd ") {
            dir.push(to);
            continue;
        }
        let mut command = clean("bash");
        command.args(["-c", &format!("umask 077; {typed} 2>&1")]).current_dir(&dir);
        command.env("HOME", home).env("ESPEJO_PASSWORD_FILE", home.join("password"));
        command.env("PATH", format!("{}/bin:/usr/bin:/bin", home.display()));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap().replace(home.to_str().unwrap(), "~");
        assert!(output.status.success(), "$ {typed}\n{said}");
        assert_eq!(without_chance(&said), without_chance(&answer), "$ {typed}");
    }
}
