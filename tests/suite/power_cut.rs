//! The power goes off: what a command acknowledged is there after the file system's own recovery. The vault lies on
//! an image that is mounted; what is in the image's file when a command ends is what a disk would have then.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::cli::temp_dir;
use crate::common::crash::{self, Key, MIRROR, State, VAULT, written};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// How many images each file system gets; `ESPEJO_CUTS` asks for more.
const CUTS: usize = 30;

/// How many are imported at once.
const NOTES: usize = 100;

/// What `mount` says where images cannot be mounted at all, as in a container without the right to.
const NOT_HERE: [&str; 5] =
    ["permission", "not permitted", "superuser", "set up loop device", "unknown filesystem type"];

/// A mounted image; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, options: &str, image: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).unwrap();
        let output =
            Command::new("mount").args(["-t", kind, "-o", options]).args([image, at]).output().unwrap();
        match output.status.success() {
            true => Ok(Self(at.to_owned())),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that another thread is just starting may still hold what was open here.
        let unmounted = (0..200).any(|_| {
            let output = Command::new("umount").arg(&self.0).output().unwrap();
            let done = output.status.success();
            if !done {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            done
        });
        assert!(unmounted || std::thread::panicking(), "{} stays mounted", self.0.display());
    }
}

/// The stretches of a file that hold data.
fn data_of(image: &File) -> Vec<(u64, Vec<u8>)> {
    let mut stretches = Vec::new();
    let mut end = 0;
    loop {
        let start = match seek(image, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => return stretches,
            start => start.unwrap(),
        };
        end = seek(image, SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; (end - start) as usize];
        image.read_exact_at(&mut bytes, start).unwrap();
        stretches.push((start, bytes));
    }
}

/// The image as it is at one moment: read until nothing was written meanwhile.
fn at_one_moment(image: &File) -> Vec<(u64, Vec<u8>)> {
    let mut before = data_of(image);
    loop {
        let after = data_of(image);
        if before == after {
            return after;
        }
        before = after;
    }
}

/// What the disk was at a cut, and what had been acknowledged.
struct Cut {
    image: PathBuf,
    shown: State,
    /// Whether the last command was a sync.
    synced: bool,
}

fn make_image(kind: &str, len_bytes: u64, path: &Path) {
    File::create(path).unwrap().set_len(len_bytes).unwrap();
    let made = Command::new(format!("/usr/sbin/mkfs.{kind}")).arg("-q").arg(path).output();
    let made = made.unwrap_or_else(|e| panic!("mkfs.{kind}: {e}; tests/servers/install.sh installs it"));
    assert!(made.status.success(), "mkfs.{kind}: {made:?}");
}

fn cut_the_power(kind: &str, options: &str, len_bytes: u64) {
    let cuts = std::env::var("ESPEJO_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let temp = temp_dir();
    let disk = temp.path().join("disk");
    make_image(kind, len_bytes, &disk);
    let live = temp.path().join("live");
    let mounted = match Mounted::new(kind, options, &disk, &live) {
        Ok(mounted) => mounted,
        Err(why) if NOT_HERE.iter().any(|reason| why.contains(reason)) => {
            println!("no power is cut on {kind}: this machine does not mount images ({})", why.trim());
            return;
        }
        Err(why) => panic!("{why}"),
    };
    let (_, key) = crash::create(&live);
    let disk = File::open(&disk).unwrap();
    let cuts = (0..cuts).map(|n| work_and_cut(n, &live, &key, &disk, len_bytes)).collect::<Vec<_>>();
    drop(mounted);
    // One at a time: two file systems with one id are not mounted together.
    for (n, cut) in cuts.iter().enumerate() {
        let at = temp.path().join("after");
        let _mounted = Mounted::new(kind, options, &cut.image, &at).unwrap();
        verify(cut, &at, &key).unwrap_or_else(|problem| panic!("{kind}, cut {n}: {problem}"));
    }
    println!("{} power cuts on {kind}", cuts.len());
}

/// One command that is acknowledged, and the disk at that moment.
fn work_and_cut(n: usize, live: &Path, key: &Key, disk: &File, len_bytes: u64) -> Cut {
    let (title, text) = (format!("entry {n}"), format!("text {n}"));
    let add = ["add", "-m", &text, "-t", &title, "-a", "words"];
    let notes = format!("notes-{n}");
    let args = match n % 5 {
        // So many that they are synced with the whole file system.
        0 if n % 2 == 1 => {
            fs::create_dir(live.join(&notes)).unwrap();
            (0..NOTES).for_each(|k| fs::write(live.join(format!("{notes}/{n} {k}.md")), &text).unwrap());
            &["import", "markdown", &notes][..]
        }
        1 => &["edit", "@", "-m", &text],
        3 => &["sync"],
        4 => &["rm", "@-1"],
        _ => &add,
    };
    let output = crash::run(live, key, args);
    // Before anything else is done: a second process that reads must not give the disk time.
    let stretches = at_one_moment(disk);
    assert_eq!(output.code, 0, "{args:?} {output:?}");
    let image = live.with_file_name(format!("cut-{n}"));
    let file = File::create(&image).unwrap();
    file.set_len(len_bytes).unwrap();
    stretches.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    let shown = crash::shown(&mut crash::open(&live.join(VAULT), key).unwrap()).unwrap();
    Cut { image, shown, synced: args == ["sync"] }
}

fn verify(cut: &Cut, dir: &Path, key: &Key) -> Result<(), String> {
    let (path, mirror) = (dir.join(VAULT), dir.join(MIRROR));
    let mut vault = crash::open(&path, key)?;
    let same = |shown: State, what: &str| match shown == cut.shown {
        true => Ok(()),
        false => Err(format!("{what}: {}", crash::difference(&shown, &cut.shown))),
    };
    same(crash::shown(&mut vault)?, "not as acknowledged")?;
    crash::check(&mut vault)?;
    same(crash::shown(&mut vault)?, "after the check")?;
    if cut.synced {
        let mut early = crash::clone_mirror(&mirror, &dir.join("early"), key)?;
        same(crash::shown(&mut early)?, "the mirror")?;
    }
    vault.save(&[written("next", "next")]).map_err(|error| format!("{error:?}"))?;
    crash::no_leftovers(&path)?;
    crash::sync_with(&mut vault, &mirror)?;
    let mut copy = crash::clone_mirror(&mirror, &dir.join("copy"), key)?;
    let (copied, shown) = (crash::shown(&mut copy)?, crash::shown(&mut vault)?);
    if copied == shown { Ok(()) } else { Err(crash::difference(&copied, &shown)) }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_on_ext4() {
    cut_the_power("ext4", "loop", 64 << 20);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_on_xfs() {
    cut_the_power("xfs", "loop", 300 << 20);
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_on_btrfs() {
    cut_the_power("btrfs", "loop", 128 << 20);
}
