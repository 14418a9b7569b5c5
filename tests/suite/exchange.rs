//! Texts from elsewhere become entries, once, and entries leave as files that come back.

use std::fs;
use std::path::Path;

use crate::common::cli::{Cli, files, finish, text_of};
use serde_json::{Value, json};

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// `created`, `updated`, `unchanged`, and how many were skipped.
fn counts(imported: &Value) -> [u64; 4] {
    let skipped = imported["skipped"].as_array().unwrap().len() as u64;
    let [created, updated, unchanged] =
        ["created", "updated", "unchanged"].map(|name| imported[name].as_u64().unwrap());
    [created, updated, unchanged, skipped]
}

fn import(cli: &Cli, code: i32, args: &[&str]) -> Value {
    let all = [&["import", "--json"], args].concat();
    cli.run(&all).exits(code).document()
}

fn titled(cli: &Cli, title: &str) -> Value {
    let list = cli.json(&["list"]);
    let entry = list["entries"].as_array().unwrap().iter().find(|it| it["title"] == title);
    let id = text_of(&entry.unwrap_or_else(|| panic!("no {title:?} in {list}"))["id"]);
    cli.json(&["show", &id])
}

#[test]
fn a_folder_of_markdown_is_imported_once_and_again_what_changed() {
    let cli = Cli::with_vault();
    let dir = cli.path("notes");
    write(
        &dir,
        "walk.md",
        "---\ntitle: no\ntags: [outside, \"two words\"]\ndate: 2020-01-02T03:04:05Z\nlayout: post\n---\n\nSee ![map](img/map%20one.png) and [web](https://example.org/x.png).\n",
    );
    write(&dir, "2021-05-06 plain.md", "no front matter");
    write(&dir, "img/map one.png", [1, 2, 3]);
    write(&dir, "img/unused.png", [4]);
    write(&dir, "broken.md", [0xff, 0xfe]);
    write(&dir, ".git/config.md", "hidden");
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link.md")).unwrap();
    let path = dir.to_str().unwrap();
    assert_eq!(counts(&import(&cli, 3, &["markdown", path, "-n"])), [2, 0, 0, 3]);
    assert_eq!(cli.json(&["list"])["entries"], json!([]), "a dry run");
    let imported = import(&cli, 3, &["markdown", path]);
    assert_eq!(counts(&imported), [2, 0, 0, 3]);
    let mut skipped =
        imported["skipped"].as_array().unwrap().iter().map(|it| text_of(&it["source"])).collect::<Vec<_>>();
    skipped.sort();
    assert_eq!(skipped, ["broken.md", "img/unused.png", "link.md"]);

    let walk = titled(&cli, "no");
    assert_eq!(
        (&walk["tags"], &walk["created"]),
        (&json!(["outside", "two words"]), &json!("2020-01-02T03:04:05Z"))
    );
    let body = "---\nlayout: post\n---\nSee ![map](attachment:map%20one.png) and [web](https://example.org/x.png).\n";
    assert_eq!(walk["body"], body, "what has no place in an entry stays above its text");
    let id = text_of(&walk["id"]);
    assert_eq!(cli.run(&["show", &id, "--attachment", "map one.png"]).stdout, [1, 2, 3]);
    assert!(text_of(&titled(&cli, "2021-05-06 plain")["created"]).starts_with("2021-05-0"));

    assert_eq!(counts(&import(&cli, 3, &["markdown", path])), [0, 0, 2, 3], "again is nothing");
    cli.json(&["edit", &id, "-t", "edited here"]);
    let plain = text_of(&titled(&cli, "2021-05-06 plain")["id"]);
    cli.json(&["rm", &plain]);
    assert_eq!(counts(&import(&cli, 3, &["markdown", path])), [0, 0, 2, 3], "what was done here stays");
    assert_eq!(titled(&cli, "edited here")["id"], id);
    write(&dir, "img/map one.png", [1, 2, 4]);
    assert_eq!(counts(&import(&cli, 3, &["markdown", path])), [0, 1, 1, 3], "a changed source");
    assert_eq!(cli.run(&["show", &id, "--attachment", "map one.png"]).stdout, [1, 2, 4]);
    assert_eq!(cli.json(&["log", &id])["versions"].as_array().unwrap().len(), 3);
    assert_eq!(cli.error(4, &["import", "markdown", "nowhere"])["kind"], "not_found");
}

#[test]
fn an_obsidian_vault_keeps_its_embeds_and_tags() {
    let cli = Cli::with_vault();
    let dir = cli.path("obsidian");
    write(
        &dir,
        "Daily/2024-02-29.md",
        "Met [[Ana|her]]. #walk and #friends/close, not #5.\n\n![[photo.jpg|300]]\n",
    );
    write(&dir, "Ana.md", "---\naliases:\n  - Anita\ntags: people\n---\nA friend.");
    write(&dir, "files/photo.jpg", "jpeg");
    write(&dir, ".obsidian/app.json", "{}");
    write(&dir, ".trash/old.md", "gone");
    let path = dir.to_str().unwrap();
    assert_eq!(counts(&import(&cli, 0, &["obsidian", path])), [2, 0, 0, 0]);
    let day = titled(&cli, "2024-02-29");
    assert_eq!(day["tags"], json!(["walk", "friends/close"]));
    assert!(text_of(&day["body"]).ends_with("![photo.jpg|300](attachment:photo.jpg)\n"), "{day}");
    assert!(text_of(&day["created"]).starts_with("2024-02-2"));
    assert_eq!(titled(&cli, "Ana")["body"], "---\naliases:\n  - Anita\n---\nA friend.");
    assert_eq!(counts(&import(&cli, 0, &["obsidian", path])), [0, 0, 2, 0]);
}

#[test]
fn a_jrnl_journal_comes_from_standard_input() {
    let cli = Cli::with_vault();
    let journal = json!({
        "tags": { "@work": 1 },
        "entries": [
            { "title": "First.", "body": "[2020-01-01] not an entry", "date": "2024-02-29", "time": "23:59", "tags": ["@work"], "starred": true },
            { "title": "Second.", "body": "", "date": "2024-03-01", "time": "08:00", "tags": [], "starred": false },
            { "title": "Bad.", "body": "", "date": "yesterday", "time": "", "tags": [], "starred": false },
        ],
    });
    let run = |code: i32| {
        cli.run_with_stdin(&["import", "jrnl", "-", "--json"], journal.to_string().as_bytes())
            .exits(code)
            .document()
    };
    assert_eq!(counts(&run(3)), [2, 0, 0, 1]);
    let first = titled(&cli, "First.");
    assert_eq!(
        (&first["tags"], &first["body"]),
        (&json!(["work", "starred"]), &json!("[2020-01-01] not an entry"))
    );
    assert_eq!(counts(&run(3)), [0, 0, 2, 1]);
    assert_eq!(cli.run_with_stdin(&["import", "jrnl", "-"], b"not json").code, 4);
}

#[test]
fn a_source_without_a_date_of_its_own_is_the_same_after_it_was_copied() {
    let cli = Cli::with_vault();
    let dir = cli.path("notes");
    write(&dir, "note.md", "a note");
    let path = dir.to_str().unwrap();
    assert_eq!(counts(&import(&cli, 0, &["markdown", path])), [1, 0, 0, 0]);
    let file = fs::File::options().write(true).open(dir.join("note.md")).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(1_000_000)).unwrap();
    assert_eq!(counts(&import(&cli, 0, &["markdown", path])), [0, 0, 1, 0], "only its time changed");
    write(&dir, "note.md", "another note");
    assert_eq!(counts(&import(&cli, 0, &["markdown", path])), [0, 1, 0, 0], "it says something else");
}

/// Items as Joplin 3.5 writes them into a JEX file, made by hand from its documented form.
fn joplin(dir: &Path) {
    let id = |n: u32| format!("{n:032x}");
    let item = |n: u32, text: &str| write(dir, &format!("{}.md", id(n)), text);
    item(1, &format!("Journal\n\nid: {}\nparent_id: \ntype_: 2", id(1)));
    item(2, &format!("Trips\n\nid: {}\nparent_id: {}\ntype_: 2", id(2), id(1)));
    let times = "user_created_time: 2020-01-02T03:04:05.678Z\ncreated_time: 2022-01-02T03:04:05.678Z\ndeleted_time: 0";
    item(
        3,
        &format!(
            "Lisbon\n\nbody: with a colon\n\n![it](:/{r}) and [file](:/{r})\n\nid: {}\nparent_id: {}\n{times}\nlatitude: 38.7\nlongitude: 0.00000000\nauthor: Ana \"A\"\nis_todo: 0\nencryption_applied: 0\nmarkup_language: 1\ntype_: 1",
            id(3),
            id(2),
            r = id(4),
        ),
    );
    item(4, &format!("photo.jpg\n\nid: {}\nmime: image/jpeg\nfile_extension: jpg\ntype_: 4", id(4)));
    write(dir, &format!("resources/{}.jpg", id(4)), "jpeg");
    item(5, &format!("sea\n\nid: {}\ntype_: 5", id(5)));
    item(6, &format!("id: {}\nnote_id: {}\ntag_id: {}\ntype_: 6", id(6), id(3), id(5)));
    item(7, &format!("Secret\n\nid: {}\n{times}\nencryption_applied: 1\ntype_: 1", id(7)));
    item(
        8,
        &format!(
            "Trash\n\nid: {}\nuser_created_time: 2020-01-02T03:04:05.678Z\ndeleted_time: 5\ntype_: 1",
            id(8)
        ),
    );
}

#[test]
fn a_joplin_export_is_read_as_a_folder_and_as_a_jex_file() {
    for as_file in [false, true] {
        let cli = Cli::with_vault();
        let dir = cli.path("raw");
        joplin(&dir);
        let path = match as_file {
            false => dir.to_str().unwrap().to_owned(),
            true => {
                let jex = cli.arg("export.jex");
                let tar = std::process::Command::new("tar")
                    .args(["cf", &jex, "-C", dir.to_str().unwrap(), "."])
                    .status();
                assert!(tar.unwrap().success());
                jex
            }
        };
        assert_eq!(counts(&import(&cli, 3, &["joplin", &path])), [1, 0, 0, 2], "encrypted and in the trash");
        let note = titled(&cli, "Lisbon");
        assert_eq!((&note["tags"], &note["created"]), (&json!(["sea"]), &json!("2020-01-02T03:04:05.678Z")));
        let body = "---\nnotebook: \"Journal/Trips\"\nauthor: \"Ana \\\"A\\\"\"\nlatitude: \"38.7\"\n---\nbody: with a colon\n\n![it](attachment:photo.jpg) and [file](attachment:photo.jpg)";
        assert_eq!(note["body"], body);
        assert_eq!(note["attachments"].as_array().unwrap().len(), 1);
        assert_eq!(cli.run(&["show", &text_of(&note["id"]), "--attachment", "photo.jpg"]).text(), "jpeg");
        assert_eq!(counts(&import(&cli, 3, &["joplin", &path])), [0, 0, 1, 2]);
    }
}

#[test]
fn joplins_other_links_are_attached_too() {
    let cli = Cli::with_vault();
    let dir = cli.path("raw");
    joplin(&dir);
    let [note, file] = [9, 4].map(|n: u32| format!("{n:032x}"));
    let body = format!("<img src=\":/{file}\" width=\"5\"/> [it](:/{file} \"a title\") [note](:/{:032x})", 3);
    let time = "user_created_time: 2020-01-02T03:04:05.678Z\ndeleted_time: 0\nauthor: Ana";
    write(&dir, &format!("{note}.md"), format!("\n\n{body}\n\nid: {note}\n{time}\ntype_: 1"));
    assert_eq!(counts(&import(&cli, 3, &["joplin", dir.to_str().unwrap()])), [2, 0, 0, 2]);
    let list = cli.json(&["list"]);
    let titles =
        list["entries"].as_array().unwrap().iter().map(|it| text_of(&it["title"])).collect::<Vec<_>>();
    let title = titles.iter().find(|title| *title != "Lisbon").unwrap();
    assert!(title.starts_with("<img"), "made of the text, not of what stands above it: {title}");
    let note = titled(&cli, title);
    let kept = format!(
        "<img src=\"attachment:photo.jpg\" width=\"5\"/> [it](attachment:photo.jpg \"a title\") [note](:/{:032x})",
        3
    );
    assert!(text_of(&note["body"]).ends_with(&kept), "{note}");
    assert_eq!(note["attachments"].as_array().unwrap().len(), 1);
}

/// A zip file as Day One's JSON export is described; no program of theirs runs here to make one.
#[test]
fn a_day_one_export_keeps_its_photos_places_and_stars() {
    let cli = Cli::with_vault();
    let dir = cli.path("dayone");
    let journal = json!({ "metadata": { "version": "1.0" }, "entries": [
        {
            "uuid": "0123456789ABCDEF0123456789ABCDEF", "creationDate": "2020-01-02T03:04:05Z", "timeZone": "Europe/Lisbon",
            "text": "A walk\\.\n\n![](dayone-moment://FEDCBA9876543210FEDCBA9876543210)\n", "starred": true, "tags": ["sea"],
            "location": { "placeName": "Cabo", "latitude": 38.7 },
            "photos": [{ "identifier": "FEDCBA9876543210FEDCBA9876543210", "md5": "d41d8cd98f00b204e9800998ecf8427e", "type": "jpeg" }],
        },
        { "uuid": "11111111111111111111111111111111", "creationDate": "never", "text": "bad" },
        {
            "uuid": "22222222222222222222222222222222", "creationDate": "2021-01-02T03:04:05Z", "text": "no photo",
            "photos": [{ "identifier": "33333333333333333333333333333333", "md5": "00000000000000000000000000000000", "type": "png" }],
        },
        {
            "uuid": "44444444444444444444444444444444", "creationDate": "2022-01-02T03:04:05Z", "timeZone": "Europe/Lisbon",
            "text": "", "photos": [{
                "identifier": "FEDCBA9876543210FEDCBA9876543210", "md5": "d41d8cd98f00b204e9800998ecf8427e", "type": "jpeg",
            }],
        },
    ]});
    write(&dir, "photos/ffffffffffffffffffffffffffffffff.jpeg", "of no entry");
    write(&dir, "Journal.json", journal.to_string());
    write(&dir, "photos/d41d8cd98f00b204e9800998ecf8427e.jpeg", [5; 5_000]);
    let script = "import sys,zipfile,pathlib\nroot=pathlib.Path(sys.argv[1])\nz=zipfile.ZipFile(sys.argv[2],'w',zipfile.ZIP_DEFLATED)\n[z.write(p,p.relative_to(root)) for p in sorted(root.rglob('*')) if p.is_file()]\nz.close()";
    let zip = cli.arg("export.zip");
    let made =
        std::process::Command::new("python3").args(["-c", script, dir.to_str().unwrap(), &zip]).status();
    assert!(made.unwrap().success());
    let imported = import(&cli, 3, &["dayone", &zip]);
    assert_eq!(counts(&imported), [3, 0, 0, 3]);
    let unlisted = imported["skipped"].as_array().unwrap().last().unwrap();
    assert_eq!(unlisted["source"], "photos/ffffffffffffffffffffffffffffffff.jpeg");
    titled(&cli, "");
    let walk = titled(&cli, "A walk");
    assert_eq!(
        (&walk["tags"], &walk["created"]),
        (&json!(["sea", "starred"]), &json!("2020-01-02T03:04:05Z"))
    );
    let photo = "fedcba9876543210fedcba9876543210.jpeg";
    let body = text_of(&walk["body"]);
    assert!(body.ends_with(&format!("---\nA walk.\n\n![](attachment:{photo})\n")), "{body}");
    assert!(
        body.contains("timezone: \"Europe/Lisbon\"\n") && body.contains("\"placeName\":\"Cabo\""),
        "{body}"
    );
    assert_eq!(cli.run(&["show", &text_of(&walk["id"]), "--attachment", photo]).stdout, [5; 5_000]);
    assert_eq!(counts(&import(&cli, 3, &["dayone", &zip])), [0, 0, 3, 3]);
    let other = cli.file("not.zip", "no zip");
    assert_eq!(cli.error(4, &["import", "dayone", &other])["kind"], "not_found");
}

#[test]
fn an_export_comes_back_into_an_empty_vault_and_changes_nothing_where_it_came_from() {
    let cli = Cli::with_vault();
    let photo = cli.file("photo.jpg", [9; 70_000]);
    cli.json(&["add", "-m", "# A walk\n\nby the sea", "-T", "outside", "-a", &photo, "--date", "2020-01-02"]);
    let body = cli.file("own.md", "---\naliases: [x]\n---\ntext\n");
    cli.json(&["add", &body]);
    let binary = cli.file("image.png", [0xff; 5_000]);
    cli.json(&["add", &binary]);
    let gone = cli.add("deleted");
    cli.json(&["rm", &gone]);
    let out = cli.arg("export");
    let exported = cli.json(&["export", &out]);
    assert_eq!((&exported["exported"], &exported["skipped"]), (&json!(3), &json!([])));
    assert_eq!(counts(&import(&cli, 0, &["markdown", &out])), [0, 0, 3, 0], "nothing new where it came from");
    assert_eq!(cli.error(1, &["export", &out])["kind"], "not_empty");

    let other = Cli::with_vault();
    assert_eq!(counts(&import(&other, 0, &["markdown", &out])), [3, 0, 0, 0]);
    let again = cli.arg("again");
    other.json(&["export", &again]);
    let [first, second] = [&out, &again].map(|dir| files(Path::new(dir)));
    assert_eq!(first.keys().collect::<Vec<_>>(), second.keys().collect::<Vec<_>>());
    let without_time = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().filter(|line| !line.starts_with("updated: ")).collect::<Vec<_>>().join("\n")
    };
    for (name, bytes) in &first {
        assert_eq!(without_time(bytes), without_time(&second[name]), "{}", name.display());
    }

    let json = cli.arg("json");
    cli.json(&["export", &json, "--format", "json"]);
    let document: Value = serde_json::from_slice(&fs::read(cli.path("json/entries.json")).unwrap()).unwrap();
    let entries = document["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    let walk = entries.iter().find(|it| it["title"] == "A walk").unwrap();
    assert_eq!(walk["body"], "# A walk\n\nby the sea");
    let file = text_of(&walk["attachments"][0]["file"]);
    assert_eq!(fs::read(cli.path("json").join(file)).unwrap(), [9; 70_000]);
}

#[test]
fn no_odd_entry_keeps_the_others_from_leaving() {
    let cli = Cli::with_vault();
    cli.json(&["add", "-m", "with an odd tag", "-T", "#one"]);
    cli.json(&["add", "-t", "only fields", &cli.file("fields.md", "---\na: b\n---")]);
    let long = (0..400).map(|n| format!("{n} {}", "x".repeat(180))).collect::<Vec<_>>();
    let long = long.iter().flat_map(|tag| ["-T", tag]).collect::<Vec<_>>();
    cli.json(&[&["add", "-m", "with a long head"][..], &long].concat());
    // In a document nobody can tell it from a link to the file.
    let file = cli.file("a.txt", "a");
    let added = cli.json(&["add", "-m", "to be edited", "-a", &file]);
    let id = text_of(&added["added"][0]["id"]);
    let path = format!("[it](_resources/{}/a.txt)", &id[..8]);
    cli.json(&["edit", &id, "-m", &path]);
    let out = cli.arg("export");
    let exported = cli.run(&["export", &out, "--json"]).exits(3).document();
    assert_eq!(exported["exported"], 4);
    let skipped = exported["skipped"].as_array().unwrap();
    assert!(skipped.len() == 1 && text_of(&skipped[0]["source"]) == id[..8], "{skipped:?}");
    let other = Cli::with_vault();
    assert_eq!(counts(&import(&other, 0, &["markdown", &out])), [4, 0, 0, 0]);
    assert_eq!(titled(&other, "with an odd tag")["tags"], json!(["#one"]));
    assert_eq!(titled(&other, "with a long head")["tags"].as_array().unwrap().len(), 400);
    assert_eq!(titled(&other, "only fields")["body"], "---\na: b\n---");
}

#[test]
fn nothing_leads_back_into_the_vault_or_a_mirror() {
    let cli = Cli::with_vault();
    cli.add("an entry");
    let mirror = cli.path("mirror");
    cli.json(&["remote", "set", mirror.to_str().unwrap()]);
    std::os::unix::fs::symlink(&cli.vault, cli.path("link")).unwrap();
    let vault = cli.vault.file_name().unwrap().to_str().unwrap();
    let inside = [
        cli.arg("vault/out"),
        cli.arg("link/a/out"),
        cli.arg(&format!("tmp/../{vault}/out")),
        cli.arg(&format!("new/../link/../{vault}/out")),
    ];
    for target in &inside {
        assert_eq!(cli.error(2, &["export", target])["kind"], "usage", "{target}");
        assert_eq!(
            cli.error(2, &["backup", "create", &format!("{target}.tar")])["kind"],
            "usage",
            "{target}"
        );
        assert_eq!(cli.error(2, &["remote", "set", target])["kind"], "usage", "{target}");
    }
    let in_mirror = cli.arg("mirror/out");
    assert_eq!(cli.error(2, &["export", mirror.to_str().unwrap()])["kind"], "usage", "not made yet");
    cli.json(&["sync"]);
    let before = files(&mirror);
    assert_eq!(cli.error(2, &["export", &in_mirror])["kind"], "usage");
    // Nor one that is another's, or was this vault's.
    cli.json(&["remote", "forget"]);
    assert_eq!(cli.error(2, &["export", &in_mirror])["kind"], "usage");
    assert!(files(&mirror) == before);
    cli.json(&["export", &cli.arg("tmp/../link/../out")]);
    assert!(cli.path("out").is_dir());
}

#[test]
fn an_interrupted_export_leaves_no_plain_text() {
    let cli = Cli::with_vault();
    let large = cli.file("large.bin", vec![7; 100_000_000]);
    cli.json(&["add", "-m", "with something large", "-a", &large]);
    let hidden = || {
        let names = fs::read_dir(&cli.dir).unwrap().map(|item| item.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(".export.")).count()
    };
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let child = cli.command(&["export", &cli.arg("export"), "--json"]).spawn().unwrap();
        let start = std::time::Instant::now();
        while hidden() == 0 {
            assert!(start.elapsed().as_secs() < 60);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(finish(child, b"").error(130)["kind"], "interrupted");
        assert_eq!((hidden(), cli.path("export").exists()), (0, false));
    }
}
