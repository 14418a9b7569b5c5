//! A second device joins with one line: nothing in it is secret, and another vault than the one meant is refused.

use crate::common::cli::{Cli, text_of};
use crate::common::nextcloud::{Manner, Nextcloud};

/// A device whose mirror is on a Nextcloud, with two entries there.
fn host() -> (Cli, Nextcloud, Manner) {
    let cli = Cli::with_vault();
    let manner = Manner { pending: 0, ..Manner::default() };
    let server = Nextcloud::start(cli.path("served"), manner.clone());
    cli.run(&["remote", "set", &server.url(), "--login"]).exits(0);
    cli.add("The lemon tree");
    cli.add("Rain again");
    (cli, server, manner)
}

#[test]
fn one_line_brings_a_second_device_to_the_mirror_and_shows_what_arrived() {
    let (cli, server, manner) = host();
    assert_eq!(cli.error(4, &["devices", "invite"])["kind"], "no_mirror");
    cli.json(&["sync"]);
    let invited = cli.json(&["devices", "invite"]);
    let line = text_of(&invited["invitation"]);
    assert_eq!(
        (text_of(&invited["target"]), text_of(&invited["user"])),
        (server.folder("Espejo"), manner.login.to_owned())
    );
    let raw = data_encoding::BASE32_NOPAD.decode(&line.as_bytes()["ESPEJO1-".len()..]).unwrap();
    let raw = String::from_utf8_lossy(&raw).into_owned();
    for secret in [manner.app_password, &std::fs::read_to_string(cli.path("secrets/password")).unwrap()] {
        assert!(!raw.contains(secret.trim()) && !line.contains(secret.trim()));
    }
    // Passed on in small letters, with a line break in it.
    let passed_on = format!("{}\n{}", line[..30].to_lowercase(), &line[30..]);
    let password = cli.file("app-password", manner.app_password);
    let joined =
        cli.run(&["join", &passed_on, &cli.arg("desktop"), "--remote-password-file", &password]).exits(0);
    let said = String::from_utf8(joined.stdout).unwrap();
    assert!(said.starts_with("2 entries are now in ") && said.contains("  Rain again\n"), "{said}");
    assert!(said.contains("  The lemon tree\n"), "{said}");
    // A browser signs in there just as well.
    cli.run(&["join", &line, &cli.arg("phone"), "--login"]).exits(0);
    let devices = cli.run(&["--vault", &cli.arg("phone"), "devices", "--json"]).json();
    assert!(devices["devices"][0]["this"].is_boolean(), "{devices}");
}

#[test]
fn a_terminal_shows_an_image_and_nothing_else_does() {
    let (cli, _server, _) = host();
    cli.json(&["sync"]);
    let shown = String::from_utf8(cli.on_terminal(&["devices", "invite"]).stdout).unwrap();
    assert!(shown.contains('█') && shown.contains("ESPEJO1-"), "{shown}");
    let piped = cli.run(&["devices", "invite"]).exits(0);
    assert!(!piped.stderr.contains('█'), "{}", piped.stderr);
    let line = String::from_utf8(piped.stdout).unwrap();
    assert!(line.starts_with("ESPEJO1-") && line.trim_end().lines().count() == 1, "{line}");
}

#[test]
fn a_cut_or_mistyped_line_and_another_vault_are_refused_and_nothing_is_made() {
    let (cli, server, manner) = host();
    cli.json(&["sync"]);
    let line = text_of(&cli.json(&["devices", "invite"])["invitation"]);
    server.take_asked();
    let there = cli.arg("desktop");
    for bad in [&line[..line.len() - 3], &line.replace("ESPEJO1-", "ESPEJO1-A"), "espejo1-"] {
        assert_eq!(cli.error(2, &["join", bad, &there])["kind"], "bad_invitation", "{bad}");
    }
    assert_eq!(cli.error(15, &["join", &line.replace("ESPEJO1", "ESPEJO2"), &there])["kind"], "newer");
    assert_eq!(server.take_asked(), [""; 0]);
    // The server shows another vault at the same address.
    let mirror = cli.path("served/remote.php/dav/files/ana-7/Espejo");
    std::fs::rename(&mirror, cli.path("moved")).unwrap();
    let other = Cli::with_vault();
    let password = cli.file("app-password", manner.app_password);
    let login = ["--user", manner.login, "--remote-password-file", &password];
    other.json(&[&["remote", "set", &server.url()][..], &login].concat());
    other.json(&["sync"]);
    let refused = cli.error(16, &["join", &line, &there, "--remote-password-file", &password]);
    assert_eq!(refused["kind"], "other_vault");
    let id = text_of(&cli.json(&["devices", "invite"])["vault_id"]);
    assert!(text_of(&refused["message"]).contains(&id[..8]), "{refused}");
    assert!(!cli.path("desktop").exists());
}
