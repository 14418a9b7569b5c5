//! `espejo watch` in a world that changes around it: networks go, clocks jump, somebody else carries the mirror about.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use espejo::host::ThisMachine;
use espejo::id::{EntryId, VersionId};
use espejo::vault::{Change, Edit, Vault};
use espejo::version::MadeOn;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::common::cli::{Cli, files, finish, text_of};
use crate::common::servers::Site;
use crate::common::text;
use crate::common::watching::{LOGIN, Two, Watch, has_title, rounds, unsynced, until, with_mirror_on};

/// Switches the only network of this thread and all it has started.
fn network(state: &str) {
    let done = Command::new("ip").args(["link", "set", "lo", state]).status();
    assert!(done.is_ok_and(|status| status.success()), "`ip` (iproute2) and root are needed");
}

#[test]
fn a_network_that_is_cut_is_waited_for() {
    // Whatever a thread starts lives in its network.
    let inside = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of one's own takes root");
        network("up");
        let site = Site::start();
        let cli = with_mirror_on(&site);
        let watch = Watch::start(&cli, &[]);
        watch.sees("sync", |_| true);
        // No connection is left that would only fall silent.
        std::thread::sleep(Duration::from_secs(5));
        network("down");
        cli.add("written without a network");
        let offline = watch.sees("offline", |_| true);
        assert_eq!(offline["kind"], "unreachable", "{offline}");
        for n in 0..3 {
            cli.add(&format!("and another {n}"));
        }
        assert_eq!(unsynced(&cli), 4);
        network("up");
        watch.sees("online", |_| true);
        until("all is sent", || unsynced(&cli) == 0);
        assert_eq!((watch.events("offline").len(), watch.events("online").len()), (1, 1));
        watch.ended_by(Signal::SIGTERM).exits(0);
    });
    inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// `espejo` on a machine whose clock says what stands in the file `clock`.
fn by_clock(cli: &Cli, args: &[&str]) -> Command {
    let mut command = cli.command(args);
    command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
    command.env("FAKETIME_TIMESTAMP_FILE", cli.path("clock")).env("FAKETIME_NO_CACHE", "1");
    // Of the clocks of a machine one can be set.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    command
}

#[test]
fn a_clock_that_is_set_a_day_ahead_and_back_loses_nothing_and_asks_little() {
    let site = Site::start();
    let two = Two::on(&site.target(), &LOGIN);
    let clock = two.laptop.file("clock", "+0d\n");
    let watch = Watch::of(by_clock(&two.laptop, &["watch", "--json", "--every", "5"]));
    watch.sees("sync", |_| true);
    for jump in ["+1d", "-1d", "+0d"] {
        site.proxy.take_asked();
        fs::write(&clock, format!("{jump}\n")).unwrap();
        let mut add = by_clock(&two.laptop, &["add", "-m", &format!("written at {jump}"), "--json"]);
        let added = finish(add.spawn().unwrap(), b"").json();
        let id = text_of(&added["added"][0]["id"]);
        let day = |text: &str| text.split('T').next().unwrap().to_owned();
        let shown = two.laptop.json(&["show", &id]);
        let created = day(shown["created"].as_str().unwrap());
        assert_eq!(
            created == day(&now()),
            jump == "+0d",
            "the clock that is tried is the one that is read: {created}"
        );
        until("it is sent", || unsynced(&two.laptop) == 0);
        two.desktop.run(&["sync"]).exits(0);
        // Whoever has seen it writes on top of it, by a clock that is right.
        let edited = format!("edited after {jump}");
        two.desktop.run(&["edit", &id, "-t", &edited, "-m", "by the desktop"]).exits(0);
        two.desktop.run(&["sync"]).exits(0);
        until(&edited, || has_title(&two.laptop, &edited));
        let asked = site.proxy.take_asked();
        assert!(asked.len() < 60, "{asked:?}");
    }
    watch.ended_by(Signal::SIGTERM).exits(0);
    two.desktop.run(&["sync"]).exits(0);
    assert_eq!(two.laptop.json(&["list"]), two.desktop.json(&["list"]));
    for cli in [&two.laptop, &two.desktop] {
        assert_eq!(cli.json(&["status"])["conflicts"], 0);
        cli.run(&["check"]).exits(0);
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Syncthing on one of two machines, until it is dropped.
struct Syncthing(Child);

impl Drop for Syncthing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port nobody listens at.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Syncthing on both machines, which carries `mirror` of one to the other.
fn carried(machines: [&Cli; 2]) -> [Syncthing; 2] {
    let ports = [port(), port()];
    let ids = machines.map(|cli| {
        let home = format!("--home={}", cli.arg("syncthing"));
        let made = cli.bare_command("syncthing", &["generate", &home, "--no-default-folder"]).output();
        assert!(made.as_ref().is_ok_and(|made| made.status.success()), "`syncthing` is needed: {made:?}");
        finish(cli.bare_command("syncthing", &[&home, "--device-id"]).spawn().unwrap(), b"")
            .text()
            .trim()
            .to_owned()
    });
    [0, 1].map(|n| {
        let cli = machines[n];
        let devices = ids.iter().zip(ports).map(|(id, port)| {
            format!("<device id=\"{id}\" name=\"{port}\"><address>tcp://127.0.0.1:{port}</address></device>\n")
        });
        let shared = ids.iter().map(|id| format!("<device id=\"{id}\"/>"));
        let config = format!(
            "<configuration version=\"36\">
             <folder id=\"mirror\" path=\"{mirror}\" type=\"sendreceive\" rescanIntervalS=\"30\" fsWatcherEnabled=\"true\"
                 fsWatcherDelayS=\"1\">{shared}</folder>
             {devices}
             <gui enabled=\"false\"/>
             <options>
               <listenAddress>tcp://127.0.0.1:{port}</listenAddress>
               <globalAnnounceEnabled>false</globalAnnounceEnabled>
               <localAnnounceEnabled>false</localAnnounceEnabled>
               <relaysEnabled>false</relaysEnabled>
               <natEnabled>false</natEnabled>
               <startBrowser>false</startBrowser>
               <urAccepted>-1</urAccepted>
               <crashReportingEnabled>false</crashReportingEnabled>
               <reconnectionIntervalS>5</reconnectionIntervalS>
             </options>
             </configuration>",
            mirror = cli.arg("mirror"),
            shared = shared.collect::<String>(),
            devices = devices.collect::<String>(),
            port = ports[n],
        );
        cli.file("syncthing/config.xml", config);
        let home = format!("--home={}", cli.arg("syncthing"));
        let mut serve = cli.bare_command("syncthing", &["serve", &home, "--no-browser", "--no-restart", "--logfile=-"]);
        serve.env("STNOUPGRADE", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Syncthing(serve.spawn().unwrap())
    })
}

/// What is on a machine's mirror, without what is Syncthing's own.
fn carried_files(cli: &Cli) -> BTreeSet<PathBuf> {
    let is_hidden =
        |path: &Path| path.components().any(|it| it.as_os_str().to_string_lossy().starts_with('.'));
    let mirror = cli.path("mirror");
    if !mirror.exists() {
        return BTreeSet::new();
    }
    files(&mirror).into_keys().filter(|path| !is_hidden(path)).collect()
}

/// Every version of every entry, and which one is shown.
fn all_versions(vault: &mut Vault<ThisMachine>) -> BTreeMap<EntryId, (VersionId, BTreeSet<VersionId>)> {
    let entries = vault.entries().unwrap();
    let versions = |vault: &mut Vault<ThisMachine>, entry| {
        vault.history(entry).unwrap().into_iter().map(|it| it.version.id).collect::<BTreeSet<_>>()
    };
    entries.into_iter().map(|entry| (entry.id(), (entry.version.id, versions(vault, entry.id())))).collect()
}

#[test]
fn what_syncthing_makes_of_a_mirror_never_changes_what_is_read() {
    const ENTRIES: usize = 10;
    let (laptop, desktop) = (Cli::with_vault(), Cli::new());
    laptop.run(&["remote", "set", &laptop.arg("mirror")]).exits(0);
    let mut entries = (0..ENTRIES).map(|n| laptop.add(&format!("entry {n}"))).collect::<Vec<_>>();
    entries.sort();
    laptop.run(&["sync"]).exits(0);
    let _carriers = carried([&laptop, &desktop]);
    until("the mirror on the other machine", || carried_files(&desktop) == carried_files(&laptop));
    let clone =
        ["clone", &desktop.arg("mirror"), desktop.vault.to_str().unwrap(), "--device-name", "desktop"];
    desktop.run(&clone).exits(0);

    let watches = [Watch::start(&laptop, &[]), Watch::start(&desktop, &[])];
    let mut vaults = [laptop.open(), desktop.open()];
    let edits = rounds();
    for n in 0..edits {
        for (vault, name) in vaults.iter_mut().zip(["laptop", "desktop"]) {
            // Both in the same entry, at the same time, without knowing of it.
            let entry = Some(entries[n % ENTRIES].parse().unwrap());
            let change = Change::Content(text(&format!("edit {n} of {name}"), ""));
            vault.save(&[Edit { entry, made_on: MadeOn::Everything, change }]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    until("everything on both", || {
        let [a, b] = vaults.each_mut().map(all_versions);
        a == b && a.values().map(|(_, versions)| versions.len()).sum::<usize>() == ENTRIES + 2 * edits
    });
    // A file of a tool's own, under names that look like ours, is neither read nor missed.
    let copies =
        carried_files(&laptop).into_iter().filter(|it| it.to_string_lossy().contains("sync-conflict"));
    eprintln!("{edits} edits on each side; {} conflict copies", copies.count());
    for (watch, cli) in watches.into_iter().zip([&laptop, &desktop]) {
        watch.ended_by(Signal::SIGTERM).exits(0);
        until("settled", || cli.run(&["sync"]).code == 0 && unsynced(cli) == 0);
        cli.run(&["check"]).exits(0);
    }
    let [a, b] = vaults.each_mut().map(all_versions);
    assert_eq!(a, b);
}
