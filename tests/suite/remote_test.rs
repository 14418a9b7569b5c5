//! `remote test`: what a mirror does and does not do, said in words, with nothing left of the trying.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::cli::{Cli, files, text_of};
use crate::common::nextcloud::{Manner, Nextcloud};
use crate::common::proxy::{Fault, How, Reply};
use crate::common::servers::{RealServer, Site};

const ALL: [&str; 6] = ["MKCOL", "PUT", "PROPFIND", "HEAD", "GET", "DELETE"];

/// The verbs that went well.
fn works(test: &Value) -> Vec<String> {
    let steps = test["steps"].as_array().unwrap().iter();
    steps.filter(|step| step["ok"] == true).map(|step| text_of(&step["verb"])).collect()
}

/// Directories and files of a mirror.
fn everything(dir: &Path) -> Vec<String> {
    let walk = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
    walk.map(|item| item.unwrap().path().display().to_string()).collect()
}

fn on_a_real_server(name: &str) {
    let cli = Cli::with_vault();
    let server = RealServer::start(name, false);
    let password = cli.file("remote-password", &server.password);
    let target = format!("{}journal/", server.url);
    cli.json(&["remote", "set", &target, "--user", &server.user, "--remote-password-file", &password]);
    let test = cli.json(&["remote", "test"]);
    assert_eq!(
        (works(&test), &test["state"]),
        (ALL.map(str::to_owned).to_vec(), &json!("missing")),
        "{name}"
    );
    assert_eq!(everything(&server.root.join("journal")).len(), 1, "{name} keeps nothing of it");
    assert!(test["clock_ahead_ms"].is_i64() && test["tried_bytes"] == 2 << 20, "{name}: {test}");
    cli.add("one");
    assert_eq!(cli.json(&["sync"])["pushed"], 1);
    let before = (everything(&server.root), files(&server.root.join("journal")));
    let test = cli.json(&["remote", "test"]);
    assert_eq!((works(&test), &test["state"]), (ALL.map(str::to_owned).to_vec(), &json!("mirror")), "{name}");
    assert_eq!((everything(&server.root), files(&server.root.join("journal"))), before, "{name}");
    assert_eq!(cli.json(&["sync"])["requests"], 1);
}

#[test]
fn apache_does_everything_and_keeps_nothing() {
    on_a_real_server("apache");
}

#[test]
fn nginx_does_everything_and_keeps_nothing() {
    on_a_real_server("nginx");
}

#[test]
fn sabre_does_everything_and_keeps_nothing() {
    on_a_real_server("sabre");
}

#[test]
fn a_nextcloud_is_called_by_its_name_and_a_wrong_user_id_is_said() {
    let cli = Cli::with_vault();
    let manner = Manner::default();
    let password = cli.file("app-password", manner.app_password);
    let server = Nextcloud::start(cli.path("served"), manner);
    let login = ["--user", "ana@example.org", "--remote-password-file", &password];
    cli.json(&[&["remote", "set", &server.url()][..], &login].concat());
    let test = cli.json(&["remote", "test"]);
    assert!(text_of(&test["server"]).starts_with("Nextcloud 31.0.2"), "{test}");
    assert_eq!((works(&test), &test["visible"]), (ALL.map(str::to_owned).to_vec(), &Value::Null));
    cli.add("one");
    cli.json(&["sync"]);
    let said = cli.run(&["remote", "test"]).exits(0);
    let said = String::from_utf8(said.stdout).unwrap();
    for words in
        ["there is a mirror of this vault", "Nextcloud 31.0.2", "works       MKCOL", "sees 1 file of"]
    {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    // The name that signs in, where the one the files are under should be.
    let wrong = server.folder("x").replace("ana-7", "ana@example.org");
    cli.json(&[&["remote", "set", &wrong][..], &login].concat());
    let refused = cli.run(&["remote", "test"]).exits(5);
    assert!(
        refused.stderr.contains("`espejo remote set` with the server's own address"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_a_server_does_not_grant_is_said_with_what_to_do() {
    let cli = Cli::with_vault();
    let site = Site::start();
    let password = cli.file("remote-password", "secret");
    cli.json(&["remote", "set", &site.target(), "--user", "ada", "--remote-password-file", &password]);
    cli.add("one");
    cli.json(&["sync"]);
    let flip = |mut reply: Reply| {
        reply.body[77] ^= 1;
        reply
    };
    for (method, path, how, code, said) in [
        ("PUT", "probe", How::status("403 Forbidden"), 13, "may write and delete"),
        ("PUT", "probe", How::status("413 Content Too Large"), 1, "client_max_body_size"),
        ("PUT", "probe", How::status("507 Insufficient Storage"), 5, "make room there"),
        ("PUT", "probe", How::Torn("201 Created"), 5, "not listed in full"),
        ("GET", "probe/", How::Change(flip), 5, "comes back changed"),
        ("GET", "-probe", How::status("403 Forbidden"), 0, ""),
        ("DELETE", "probe", How::status("403 Forbidden"), 13, "does not do DELETE"),
        ("DELETE", "probe", How::status("204 No Content"), 5, "still there"),
        ("MKCOL", "probe", How::status("405 Method Not Allowed"), 5, "does not do PUT"),
        ("MKCOL", "probe", How::status("403 Forbidden"), 13, "does not do MKCOL"),
        ("", "", How::status("401 Unauthorized"), 13, "right password"),
    ] {
        // A file lies in a directory of its own: `…/probe-0123/probe`.
        let path = if path == "probe/" { "/probe" } else { path };
        site.proxy.fault(Fault { method, path, after: 0, times: usize::MAX, how });
        let tested = cli.run(&["remote", "test"]);
        assert_eq!(tested.code, code, "{method} {said}: {}", tested.stderr);
        assert!(tested.stderr.contains(said), "{method}: no {said:?} in {}", tested.stderr);
        site.proxy.heal();
    }
    // Nothing of all that is in a sync's way, or taken for a part of the mirror.
    cli.add("two");
    assert_eq!(cli.json(&["sync"])["pushed"], 1);
    cli.run(&["check", "--remote"]).exits(0);
}

#[test]
fn nothing_is_written_where_something_else_is_or_a_mirror_is_gone() {
    let cli = Cli::with_vault();
    let mirror = cli.path("mirror");
    cli.json(&["remote", "set", &cli.arg("mirror")]);
    assert_eq!(cli.json(&["remote", "test"])["state"], "missing");
    assert!(!mirror.exists(), "a disk that is not mounted is not written under");
    std::fs::create_dir(&mirror).unwrap();
    assert_eq!(works(&cli.json(&["remote", "test"])), ALL);
    assert_eq!(everything(&mirror).len(), 1);
    std::fs::write(mirror.join("cat.jpg"), "meow").unwrap();
    let foreign = everything(&mirror);
    assert_eq!(cli.error(16, &["remote", "test"])["kind"], "foreign_folder");
    assert_eq!(everything(&mirror), foreign);
    std::fs::remove_file(mirror.join("cat.jpg")).unwrap();
    cli.json(&["sync"]);
    assert!(cli.json(&["remote", "test"])["room_bytes"].as_u64().unwrap() > 0);

    let other = Cli::with_vault();
    other.json(&["remote", "set", &cli.arg("mirror")]);
    let before = (everything(&mirror), files(&mirror));
    assert_eq!(other.error(16, &["remote", "test"])["kind"], "other_vault");
    assert_eq!((everything(&mirror), files(&mirror)), before);

    std::fs::rename(&mirror, cli.path("away")).unwrap();
    assert_eq!(cli.error(16, &["remote", "test"])["kind"], "mirror_gone");
    assert!(!mirror.exists());
    std::fs::create_dir(&mirror).unwrap();
    assert_eq!(cli.error(16, &["remote", "test"])["kind"], "mirror_gone");
    assert_eq!(everything(&mirror).len(), 1);
}
