//! Long work shows on a terminal how far it has come; nothing else is disturbed by that.

use std::time::Duration;

use crate::common::cli::Proxied;
use crate::common::proxy::{Fault, How, Reply};

/// Longer than anybody has to wait for the bar.
fn slowly(reply: Reply) -> Reply {
    std::thread::sleep(Duration::from_millis(1_300));
    reply
}

#[test]
fn a_slow_sync_shows_a_bar_on_a_terminal_and_nowhere_else() {
    let Proxied { cli, proxy, .. } = &Proxied::start();
    let slow = || {
        let how = How::Change(slowly);
        proxy.fault(Fault { method: "PUT", path: "objects", after: 0, times: 9, how });
    };
    slow();
    cli.add("one");
    let piped = cli.run(&["sync"]).exits(0);
    assert!(piped.text().starts_with("synced: 1 up"), "{piped:?}");
    assert_eq!(piped.stderr, "", "nobody looks");
    slow();
    cli.add("two");
    let shown = cli.on_terminal(&["sync"]).exits(0);
    assert!(shown.text().contains("sending") && shown.text().contains("1 of 1"), "{shown:?}");
    // The line is the result's again.
    assert!(shown.text().contains("synced: 1 up"), "{shown:?}");
    slow();
    cli.add("three");
    let quiet = cli.on_terminal(&["sync", "--quiet"]).exits(0);
    assert!(!quiet.text().contains("sending"), "{quiet:?}");
}
