//! What the disk says when it is asked to keep something: no.
//!
//! After a failed fsync Linux counts the bytes as written, so that a second one succeeds and means nothing. What could
//! not be synced was not saved.

use std::fs;

use crate::common::cli::{finish, temp_dir};
use crate::common::copy_dir;
use crate::common::crash::{self, VAULT, written};
use crate::common::strace::{self, Call};

#[test]
fn an_fsync_that_fails_is_reported_and_not_tried_again() {
    let start = temp_dir();
    let (mut vault, key) = crash::create(start.path());
    vault.save(&[written("before", "before")]).unwrap();
    let before = crash::shown(&mut vault).unwrap();
    let add = ["add", "-m", "after", "-t", "after"].map(str::to_owned);
    let mut failed = 0;
    for n in 1.. {
        let dir = temp_dir();
        copy_dir(start.path(), dir.path());
        // A copy becomes a device of its own when it is opened first: that is not what fails here.
        let _ = crash::open(&dir.path().join(VAULT), &key);
        let log = dir.path().join("calls.log");
        let inject = [format!("fsync:error=EIO:when={n}")];
        let strace = [vec!["strace".to_owned()], strace::arguments(&log, &inject)].concat();
        let child = crash::command(dir.path(), &strace, &key, &add).spawn();
        let output = finish(child.expect("strace is needed; tests/servers/install.sh installs it"), b"");
        let calls = strace::parse(&fs::read_to_string(&log).unwrap());
        let Some(at) = calls.iter().position(Call::was_injected) else {
            assert_eq!(output.code, 0, "{output:?}");
            break;
        };
        failed += 1;
        let again =
            calls[at + 1..].iter().find(|call| call.name == "fsync" && call.path() == calls[at].path());
        let place = calls[at].path();
        let place = place.strip_prefix(dir.path()).unwrap().display();
        // The directory of a file that is taken away again is synced once more, and that is right.
        let is_file = calls[at].path().extension().is_none() && !calls[at].path().is_dir();
        assert!(!is_file || again.is_none(), "an fsync of {place} that failed is tried again: {again:?}");
        assert_ne!(output.code, 0, "an fsync of {place} failed, and add says that it is done");
        let mut vault = crash::open(&dir.path().join(VAULT), &key).unwrap();
        assert_eq!(crash::shown(&mut vault).unwrap(), before, "an fsync of {place} failed");
    }
    assert!(failed >= 3, "{failed}");
}
