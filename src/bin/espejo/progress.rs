//! Progress of long work, on a terminal: a bar after the first second, and nothing for what takes less.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// What is over sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Drawn on stderr as long as it lives; never where nobody looks.
pub struct Bar {
    shown: Option<Shown>,
}

struct Shown {
    bar: ProgressBar,
    begun: Instant,
    what: &'static str,
}

impl Bar {
    /// A bar for a person at a terminal; for scripts, `--json` and `--quiet` none.
    pub fn new(output: Output) -> Self {
        let is_watched = std::io::stderr().is_terminal() && !output.json && !output.quiet;
        let shown = is_watched.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            let style =
                ProgressStyle::with_template("{msg}  {bar:24}  {human_pos} of {human_len}  {eta} left");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("━╸ "));
            }
            Shown { bar, begun: Instant::now(), what: "" }
        });
        Self { shown }
    }

    /// One that is never drawn.
    pub fn hidden() -> Self {
        Self { shown: None }
    }

    /// `done` of `total` items of `what` are finished.
    pub fn at(&mut self, what: &'static str, done: u64, total: u64) {
        let Some(shown) = &mut self.shown else { return };
        if shown.what != what {
            shown.what = what;
            shown.bar.reset();
            shown.bar.set_message(what);
        }
        shown.bar.set_length(total);
        shown.bar.set_position(done);
        if shown.bar.is_hidden() && shown.begun.elapsed() >= PATIENCE {
            shown.bar.set_draw_target(ProgressDrawTarget::stderr());
            shown.bar.tick();
        }
    }
}

impl Drop for Bar {
    /// Leaves the line to what is said next.
    fn drop(&mut self) {
        if let Some(shown) = &self.shown {
            shown.bar.finish_and_clear();
        }
    }
}
