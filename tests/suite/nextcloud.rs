//! A Nextcloud is found behind whatever address a person has at hand, and signed in to with a browser.

use std::process::Stdio;

use crate::common::cli::{Cli, Server, text_of};
use crate::common::nextcloud::{Manner, Nextcloud};

/// A machine with a vault and a server, whose app password lies in a file.
fn meet(manner: Manner) -> (Cli, Nextcloud, String) {
    let cli = Cli::with_vault();
    let password = cli.file("app-password", format!("{}\n", manner.app_password));
    let server = Nextcloud::start(cli.path("served"), manner);
    (cli, server, password)
}

#[test]
fn whatever_address_is_copied_the_mirror_is_the_folder_that_was_meant() {
    let (cli, server, password) = meet(Manner { below: "/nextcloud", ..Manner::default() });
    for (copied, folder) in [
        ("", "Espejo"),
        ("/", "Espejo"),
        ("/apps/files/files?dir=/My%20Journal", "My%20Journal"),
        ("/index.php/apps/files/?dir=/Notes/%C3%91", "Notes/%C3%91"),
        ("/apps/files/files/42?dir=/", "Espejo"),
        ("/remote.php/webdav/Journal/", "Journal"),
        ("/remote.php/dav/files/ana@example.org/", "Espejo"),
        ("/index.php/login", "Espejo"),
    ] {
        let copied = format!("{}{copied}", server.url());
        let login = ["--user", "ana@example.org", "--remote-password-file", &password];
        let set = cli.json(&[&["remote", "set", &copied][..], &login].concat());
        assert_eq!(set["target"], server.folder(folder), "{copied}");
        assert_eq!(set["user"], "ana@example.org");
        assert_eq!(
            (&set["server"]["product"], &set["server"]["version"]),
            (&"Nextcloud".into(), &"31.0.2".into())
        );
        assert_eq!(
            server.take_asked(),
            [
                "GET /nextcloud/status.php",
                "GET /nextcloud/ocs/v2.php/cloud/user?format=json",
                "PROPFIND /nextcloud/remote.php/dav/files/ana-7/",
            ]
        );
    }
    cli.add("what is there to see");
    assert_eq!(cli.json(&["sync"])["pushed"], 1);
    assert!(cli.path("served/nextcloud/remote.php/dav/files/ana-7/Espejo/espejo.json").is_file());
    // A whole address of a folder is what it says, and nobody is asked.
    server.take_asked();
    let whole = server.folder("Elsewhere");
    let set = cli.json(&["remote", "set", &whole, "--user", "ana", "--remote-password-file", &password]);
    assert_eq!((text_of(&set["target"]), server.take_asked()), (whole, Vec::new()));
}

#[test]
fn a_browser_signs_in_and_the_app_password_is_kept_sealed() {
    let manner = Manner { pending: 2, ..Manner::default() };
    let (cli, server, _) = meet(manner.clone());
    let set = cli.run(&["remote", "set", &server.url(), "--login"]).exits(0);
    assert!(set.stderr.contains(&format!("  {}/login/v2/flow/", server.url())), "{}", set.stderr);
    let said = String::from_utf8(set.stdout.clone()).unwrap();
    assert_eq!(said, format!("the mirror is {} (Nextcloud 31.0.2)\n", server.folder("Espejo")));
    let polls = server.take_asked().iter().filter(|it| *it == "POST /login/v2/poll").count();
    assert_eq!(polls, 3);
    cli.add("one");
    assert_eq!(cli.json(&["sync"])["pushed"], 1);
    for (path, bytes) in crate::common::cli::files(&cli.vault) {
        let shown = String::from_utf8_lossy(&bytes);
        assert!(!shown.contains(manner.app_password), "{} holds the app password", path.display());
    }
    // Another device joins the same way.
    let there = cli.arg("desktop");
    let joined = cli.run(&["join", &server.url(), &there, "--login", "--json"]).json();
    assert_eq!(joined["pulled"], 1);
    assert_eq!(cli.run(&["--vault", &there, "sync", "--json"]).json()["requests"], 1);
}

#[test]
fn a_terminal_without_a_password_signs_in_by_itself_and_opens_the_browser() {
    let (mut cli, server, _) = meet(Manner { pending: 0, ..Manner::default() });
    cli.set("DISPLAY", ":9");
    let opened = cli.arg("opened");
    cli.program("xdg-open", &format!("printf %s \"$1\" > {opened}.part && mv {opened}.part {opened}"));
    let set = cli.on_terminal(&["remote", "set", &server.url()]);
    assert_eq!(set.code, 0, "{}", String::from_utf8_lossy(&set.stdout));
    let opened = std::fs::read_to_string(opened).unwrap();
    assert!(opened.starts_with(&format!("{}/login/v2/flow/", server.url())), "{opened}");
    assert!(String::from_utf8_lossy(&set.stdout).contains(&opened));
}

#[test]
fn who_cannot_sign_in_is_told_how_and_nothing_is_changed() {
    let (cli, server, password) = meet(Manner::default());
    let error = cli.error(2, &["remote", "set", &server.url()]);
    assert!(text_of(&error["message"]).contains("Nextcloud 31.0.2"), "{error}");
    assert!(text_of(&error["hint"]).contains("--login"), "{error}");
    let wrong = cli.file("wrong", "no\n");
    let login = ["--user", "ana@example.org", "--remote-password-file", &wrong];
    let error = cli.error(13, &[&["remote", "set", &server.url()][..], &login].concat());
    assert!(text_of(&error["hint"]).contains("app password"), "{error}");
    // Somebody else's name with this password.
    let login = ["--user", "bob", "--remote-password-file", &password];
    cli.error(13, &[&["clone", &server.url(), &cli.arg("new")][..], &login].concat());
    assert!(!cli.path("new").exists());
    assert_eq!(cli.error(4, &["remote", "show"])["kind"], "no_remote");
}

#[test]
fn a_server_that_does_not_tell_names_is_asked_for_the_files_of_the_login() {
    let manner = Manner { user: Some(("404 Not Found", "")), id: "ana@example.org", ..Manner::default() };
    let (cli, server, password) = meet(manner);
    let login = ["--user", "ana@example.org", "--remote-password-file", &password];
    let set = cli.json(&[&["remote", "set", &server.url()][..], &login].concat());
    assert_eq!(set["target"], server.folder("Espejo"));
    let elsewhere = Manner { user: Some(("404 Not Found", "")), ..Manner::default() };
    let server = Nextcloud::start(cli.path("served-2"), elsewhere);
    let error = cli.error(5, &[&["remote", "set", &server.url()][..], &login].concat());
    assert!(text_of(&error["message"]).contains("no files of ana@example.org"), "{error}");
}

#[test]
fn a_server_that_sends_people_elsewhere_or_answers_nonsense_is_not_believed() {
    let evil = Manner { origin: Some("https://evil.example".to_owned()), ..Manner::default() };
    let (cli, server, _) = meet(evil);
    let error = cli.run(&["remote", "set", &server.url(), "--login"]).exits(5);
    assert!(error.stderr.contains("sends whoever signs in to https://evil.example"), "{}", error.stderr);
    assert!(!error.stderr.contains("/flow/"), "{}", error.stderr);
    assert!(!server.take_asked().iter().any(|asked| asked.contains("poll")));

    let grant = |user: &str, password: &str, server: &str| {
        Some(serde_json::json!({ "server": server, "loginName": user, "appPassword": password }).to_string())
    };
    let long = "x".repeat(70_000);
    for (n, granted) in [
        grant("ana", "secret", "https://evil.example"),
        grant("a:na", "secret", "http://127.0.0.1"),
        grant("ana", "sec\u{1b}ret", "http://127.0.0.1"),
        grant("ana", &long, "http://127.0.0.1"),
        Some("{}".to_owned()),
        Some("<html>".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let manner = Manner { granted, pending: 0, ..Manner::default() };
        let server = Nextcloud::start(cli.path(&format!("served-{n}")), manner);
        let refused = cli.run(&["remote", "set", &server.url(), "--login"]).exits(5);
        assert!(
            !refused.stderr.contains('\u{1b}') && refused.stderr.len() < 2_000,
            "{n}: {}",
            refused.stderr
        );
    }
    for (n, status) in [
        r#"{"installed":true,"versionstring":"9\u001b[2J","productname":"Nice\u202ecloud"}"#,
        r#"{"installed":true,"maintenance":true,"versionstring":"31","productname":"Nextcloud"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let manner = Manner { status: Some(status.to_owned()), ..Manner::default() };
        let server = Nextcloud::start(cli.path(&format!("status-{n}")), manner);
        let (code, said) = [(2, "Nicecloud 9[2J is there"), (5, "closed for maintenance")][n];
        let refused = cli.run(&["remote", "set", &server.url()]).exits(code);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert_eq!(cli.error(4, &["remote", "show"])["kind"], "no_remote");
}

#[test]
fn what_is_no_nextcloud_is_said_and_works_as_before() {
    let cli = Cli::with_vault();
    let server = Server::start(cli.path("served"), "ana", "geheim");
    let password = cli.file("remote-password", "geheim\n");
    let login = ["--user", "ana", "--remote-password-file", &password];
    let set = cli.run(&[&["remote", "set", &server.url, "--json"][..], &login].concat());
    assert_eq!((set.stderr.as_str(), &set.json()["server"]), ("", &serde_json::Value::Null));
    cli.json(&["sync"]);
    // A page, a wrong password, somebody else's folder, and nobody at all.
    let page = format!("{}apps/files?dir=/A", server.url);
    assert_eq!(cli.error(4, &[&["remote", "set", &page][..], &login].concat())["kind"], "not_nextcloud");
    assert_eq!(cli.error(4, &["remote", "set", &server.url, "--login"])["kind"], "not_nextcloud");
    let wrong = cli.file("wrong", "no\n");
    let set =
        cli.run(&["remote", "set", &server.url, "--user", "ana", "--remote-password-file", &wrong]).exits(0);
    assert!(set.stderr.contains("refuses this user or password"), "{}", set.stderr);
    std::fs::create_dir_all(cli.path("served/photos")).unwrap();
    std::fs::write(cli.path("served/photos/cat.jpg"), "meow").unwrap();
    let photos = format!("{}photos", server.url);
    let set = cli.run(&[&["remote", "set", &photos][..], &login].concat()).exits(0);
    assert!(set.stderr.contains("holds other files"), "{}", set.stderr);
    let url = server.url.clone();
    drop(server);
    let set = cli.run(&[&["remote", "set", &url][..], &login].concat()).exits(0);
    assert!(set.stderr.contains("taken as it stands"), "{}", set.stderr);
    assert_eq!(cli.error(5, &[&["remote", "set", &page][..], &login].concat())["kind"], "unreachable");
    assert_eq!(cli.error(5, &["remote", "set", &url, "--login"])["kind"], "unreachable");
}

#[test]
fn ctrl_c_while_nobody_signs_in_changes_nothing() {
    let (cli, server, _) = meet(Manner { pending: usize::MAX, ..Manner::default() });
    let mut command = cli.command(&["remote", "set", &server.url(), "--login", "--json"]);
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    let id = child.id();
    let begun = std::time::Instant::now();
    while !server.take_asked().iter().any(|asked| asked.contains("poll")) {
        assert!(begun.elapsed().as_secs() < 60, "it never asked");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let id = nix::unistd::Pid::from_raw(i32::try_from(id).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = crate::common::cli::finish(child, b"");
    assert_eq!(output.error(130)["kind"], "interrupted");
    assert_eq!(cli.error(4, &["remote", "show"])["kind"], "no_remote");
}
