//! Ctrl-C while something is written that must not be left half done: it is asked for between two pieces of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Code, Failure};
use crate::runtime;

/// Listens from when it is made until it is dropped. After that a signal ends the program as it would have without.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens for Ctrl-C, and for being told to end.
    pub fn listen() -> Result<Self, Failure> {
        let listening = |error| Failure::io("listening for Ctrl-C", &error);
        let runtime = runtime()?;
        let (mut interrupt, mut end) = {
            let _guard = runtime.enter();
            (
                signal(SignalKind::interrupt()).map_err(listening)?,
                signal(SignalKind::terminate()).map_err(listening)?,
            )
        };
        let asked = Arc::new(AtomicBool::new(false));
        let here = Arc::downgrade(&asked);
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = end.recv() => {}
                    }
                    match here.upgrade() {
                        Some(asked) => asked.store(true, Ordering::Relaxed),
                        None => std::process::exit(Code::Interrupted as i32),
                    }
                }
            });
        });
        Ok(Self(asked))
    }

    /// Whether somebody asked to stop.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Stops with `message` if somebody asked to.
    pub fn check(&self, message: &str) -> Result<(), Failure> {
        match self.is_asked() {
            true => Err(Failure::new(Code::Interrupted, "interrupted", message)),
            false => Ok(()),
        }
    }
}
