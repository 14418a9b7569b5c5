//! When to look at the mirror next: decided from what happened and a clock that nobody sets, with no other input.

use std::time::Duration;

/// Since the watch began, on a clock that goes on while the machine sleeps and is never set.
pub type At = Duration;

/// The longest wait between two tries during an outage, unless the mirror is looked at more rarely anyway.
const SLOWEST: Duration = Duration::from_mins(5);
/// The wait after the first failure; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// What a server asks for is granted up to here.
const LONGEST_ASKED: Duration = Duration::from_hours(1);
/// A change here may bring the next try of an outage forward, but not nearer to the last one than this.
const EARLY: Duration = Duration::from_mins(1);
/// So long after the last try a stopped watch may try again because something changed.
const STOPPED_PAUSE: Duration = Duration::from_secs(10);
/// Two resumes within this time count as one: a clock that is set all the time must not undo the waiting.
const RESUME_PAUSE: Duration = Duration::from_mins(1);
/// How long to wait for another process that syncs.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// The first wait for what was announced and has not arrived; it doubles up to the idle interval.
const PENDING_WAIT: Duration = Duration::from_secs(2);
/// The time since something moved is divided by this: so long until the next look.
const SLOWING: u32 = 6;
/// Waits are spread by this share, so that devices which woke together do not stay together.
const SPREAD: f64 = 0.1;
/// The waits of an outage are spread more.
const OUTAGE_SPREAD: f64 = 0.25;

/// How quick the person wants it.
#[derive(Debug, Clone, Copy)]
pub struct Tempo {
    /// Between two looks at a mirror on which something moved a moment ago.
    pub quick: Duration,
    /// Between two looks at a mirror on which nothing moves.
    pub idle: Duration,
}

/// What matters about the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirror {
    /// A folder: looking costs no network.
    pub is_folder: bool,
    /// It tells when something changes.
    pub tells: bool,
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides are the same. `news`: something moved.
    Settled { news: bool },
    /// Something is left that may come by itself.
    Unsettled { news: bool },
    /// Another process has the vault.
    Busy,
    /// It failed in a way that passes; with the wait that was asked for.
    Away { wait: Option<Duration> },
    /// It makes no sense to go on until something changes.
    Stopped(Until),
}

/// What ends a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Other settings of the mirror.
    Settings,
    /// Those, or any change in the vault.
    Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    /// So many rounds brought nothing of what is pending.
    Unsettled(u32),
    /// So many failures in a row, and no try before this.
    Away(u32, At),
    Stopped(Until),
}

/// The state of a watch.
#[derive(Debug)]
pub struct Pace {
    tempo: Tempo,
    mirror: Option<Mirror>,
    state: State,
    /// When the next round is due.
    next: Option<At>,
    /// When something moved last.
    moved_at: At,
    /// When the last round ended.
    tried_at: At,
    resumed_at: Option<At>,
}

impl Pace {
    pub fn new(tempo: Tempo) -> Self {
        let zero = Duration::ZERO;
        Self {
            tempo,
            mirror: None,
            state: State::Well,
            next: None,
            moved_at: zero,
            tried_at: zero,
            resumed_at: None,
        }
    }

    /// When the next round is due; `None` if only an event can bring it.
    pub fn next(&self) -> Option<At> {
        self.next
    }

    /// Whether the last rounds failed: then the mirror is asked one cheap thing first.
    pub fn is_away(&self) -> bool {
        matches!(self.state, State::Away(..))
    }

    /// Whether there is a mirror, and the last round reached it.
    pub fn is_reachable(&self) -> bool {
        self.mirror.is_some() && matches!(self.state, State::Well | State::Unsettled(_))
    }

    /// When something moved last.
    pub fn moved_at(&self) -> At {
        self.moved_at
    }

    /// The mirror was set, changed, set again, or forgotten: everything begins anew.
    pub fn mirror_set(&mut self, mirror: Option<Mirror>, now: At) {
        self.mirror = mirror;
        self.state = State::Well;
        self.moved_at = now;
        self.next = mirror.map(|_| now);
    }

    /// Whether the mirror tells of its changes, from now on.
    pub fn mirror_tells(&mut self, tells: bool) {
        if let Some(mirror) = &mut self.mirror {
            mirror.tells = tells;
        }
    }

    /// Something changed in the vault, or in the folder that is its mirror.
    pub fn changed(&mut self, now: At) {
        if self.mirror.is_none() {
            return;
        }
        match self.state {
            State::Well | State::Unsettled(_) => {
                self.moved_at = now;
                self.not_later_than(now);
            }
            State::Away(_, not_before) => self.not_later_than(now.max(self.tried_at + EARLY).max(not_before)),
            State::Stopped(Until::Change) => self.not_later_than(now.max(self.tried_at + STOPPED_PAUSE)),
            State::Stopped(Until::Settings) => {}
        }
    }

    /// The machine slept, or this process did, or the clock was set: perhaps the network is another one.
    pub fn resumed(&mut self, now: At) {
        if self.resumed_at.is_some_and(|at| now < at + RESUME_PAUSE) {
            return;
        }
        self.resumed_at = Some(now);
        match self.state {
            State::Well | State::Unsettled(_) if self.mirror.is_some() => self.not_later_than(now),
            State::Away(_, not_before) => {
                // The failures of another network say nothing about this one.
                self.state = State::Away(1, not_before);
                self.not_later_than(now.max(not_before));
            }
            _ => {}
        }
    }

    /// A round ended. `chance` is between 0 and 1.
    pub fn done(&mut self, outcome: Outcome, now: At, chance: f64) {
        self.tried_at = now;
        let idle = self.tempo.idle;
        let wait = match outcome {
            Outcome::Settled { news } => {
                self.state = State::Well;
                if news {
                    self.moved_at = now;
                }
                Some(spread(self.interval(now), SPREAD, chance))
            }
            Outcome::Unsettled { news } => {
                let before = if let State::Unsettled(rounds) = self.state { rounds } else { 0 };
                let rounds = if news { 0 } else { before.saturating_add(1) };
                self.state = State::Unsettled(rounds);
                Some(spread(doubled(PENDING_WAIT, rounds, idle), SPREAD, chance))
            }
            Outcome::Busy => Some(spread(BUSY_WAIT, OUTAGE_SPREAD, chance)),
            Outcome::Away { wait: asked } => {
                let before = if let State::Away(failures, _) = self.state { failures } else { 0 };
                let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
                self.state = State::Away(before.saturating_add(1), now + asked);
                let wait = spread(doubled(FIRST_WAIT, before, SLOWEST.max(idle)), OUTAGE_SPREAD, chance);
                // Never sooner than asked for, and not all at the same moment.
                Some(wait.max(asked + FIRST_WAIT.mul_f64(chance)))
            }
            Outcome::Stopped(until) => {
                self.state = State::Stopped(until);
                // A disk that is plugged in again tells nobody.
                let look_again = until == Until::Change && self.mirror.is_some_and(|it| it.is_folder);
                look_again.then(|| spread(idle, SPREAD, chance))
            }
        };
        self.next = wait.map(|wait| now + wait);
    }

    /// The longer nothing moved, the longer until the next look.
    fn interval(&self, now: At) -> Duration {
        let Tempo { quick, idle } = self.tempo;
        match self.mirror.is_some_and(|mirror| mirror.tells) {
            true => idle,
            false => (now.saturating_sub(self.moved_at) / SLOWING).clamp(quick.min(idle), idle),
        }
    }

    fn not_later_than(&mut self, at: At) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// `first`, doubled so often, at most `longest`.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

/// `wait`, longer or shorter by up to `share` of it.
fn spread(wait: Duration, share: f64, chance: f64) -> Duration {
    wait.mul_f64(1.0 - share + 2.0 * share * chance.clamp(0.0, 1.0))
}

/// When a burst of changes is over: one entry is several writes, and an import is thousands.
#[derive(Debug)]
pub struct Burst {
    debounce: Duration,
    /// When it began, and its last change.
    span: Option<(At, At)>,
}

/// A burst without an end is looked at after so many times the pause that would end it.
const LONGEST_BURST: u32 = 5;

impl Burst {
    pub fn new(debounce: Duration) -> Self {
        Self { debounce, span: None }
    }

    /// Something moved.
    pub fn stirred(&mut self, now: At) {
        let first = self.span.map_or(now, |(first, _)| first);
        self.span = Some((first, now));
    }

    /// When to look at what it came to.
    pub fn over_at(&self) -> Option<At> {
        let (first, last) = self.span?;
        Some((last + self.debounce).min(first + self.debounce * LONGEST_BURST))
    }

    pub fn clear(&mut self) {
        self.span = None;
    }
}

/// What three clocks said at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Goes on while the machine sleeps.
    pub boot: Duration,
    /// Stands still while the machine sleeps.
    pub awake: Duration,
    /// As the person sees it, in milliseconds since 1970 UTC.
    pub wall_ms: i64,
}

/// A difference between two clocks that is no rounding.
const JUMP: Duration = Duration::from_secs(5);

impl Clocks {
    /// Whether the machine slept, this process was stopped, or the clock was set since `before`, from when it was to sleep
    /// for `planned`.
    pub fn jumped(&self, before: &Self, planned: Duration) -> bool {
        let boot = self.boot.saturating_sub(before.boot);
        let awake = self.awake.saturating_sub(before.awake);
        let wall_ms = self.wall_ms.saturating_sub(before.wall_ms);
        let boot_ms = i64::try_from(boot.as_millis()).unwrap_or(i64::MAX);
        let set_by = Duration::from_millis(wall_ms.abs_diff(boot_ms));
        boot > awake + JUMP || boot > planned + JUMP || set_by > JUMP
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
