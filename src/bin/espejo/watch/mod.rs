//! `watch`: keeps a vault and its mirror together, until it is told to end.
//!
//! One loop, one thing at a time: it sleeps until something is due or something wakes it. When the mirror is looked at
//! is decided by [`pace`] alone. The vault is opened anew for every round, so that what other processes did to it counts,
//! and neither of its locks is held between rounds.

mod brake;
mod chores;
mod pace;
mod report;
mod round;
mod supervisor;
mod wakes;

use std::time::Duration;

use espejo::entropy::{Entropy, OsEntropy};
use espejo::host::ThisMachine;
use espejo::remote::AnyRemote;
use espejo::sync;
use espejo::vault::{self, Locked, Outline, RemoteSettings};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Watch as Args;
use crate::commands::backup::backup_due;
use crate::context::{Context, Opening, ThisVault, absolute};
use crate::failure::{Code, Failure};
use crate::file_system::FileSystem;
use crate::runtime;
use brake::Brake;
use chores::Chores;
use pace::{At, Burst, Mirror, Outcome, Pace, Tempo};
use report::Report;
use round::{Ended, Keys, Rounds};
use wakes::{Wakes, clocks};

/// Between two looks at a mirror on which something moved a moment ago.
const QUICK: Duration = Duration::from_secs(5);
/// Between two looks at a mirror on which nothing moves, if nothing else is asked for.
const IDLE: Duration = Duration::from_mins(1);
/// The longest sleep: the clocks are compared this often, and the vault looked at, whatever the kernel tells.
const TICK: Duration = Duration::from_secs(10);
/// The same where the kernel tells nothing of the vault.
const POLL: Duration = Duration::from_secs(1);
/// What is under way when the watch is to end has so long.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// Why a watch ends though nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Ctrl-C.
    Interrupted,
    /// The system, or whoever started it, asked for it.
    Terminated,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::io("listening for the signal to end", &error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Interrupted,
            _ = self.terminate.recv() => End::Terminated,
        }
    }
}

pub fn watch(context: &Context<'_>, args: &Args) -> Result<(), Failure> {
    let dir = absolute(&context.vault_dir()?)?;
    let locked = context.locked()?;
    let _watching = locked.watch_lock().map_err(|error| match error {
        vault::Error::Busy => Failure::new(
            Code::Busy,
            "watched",
            "another espejo watches this vault already; nothing was changed",
        )
        .hint("one is enough; `espejo status` shows what waits"),
        error => error.into(),
    })?;
    let keys = match context.opening()? {
        Opening::BySecret(vault) => {
            require_mirror(&vault)?;
            Keys::All(Box::new(vault.keyring().clone()))
        }
        Opening::BySession(vault) => {
            require_mirror(&vault)?;
            // Where it can go on without, it does when the session is over.
            if vault.is_unattended() { Keys::Session } else { Keys::All(Box::new(vault.keyring().clone())) }
        }
        Opening::Locked(_) => Keys::Session,
    };
    let runtime = runtime()?;
    let brake = Brake::default();
    let ended = runtime.block_on(async {
        let report = Report::new(context.output);
        let (wakes, problem) = Wakes::new(&dir);
        if let Some(problem) = problem {
            report.polling(&problem)?;
        }
        let idle = args.every.map_or(IDLE, Duration::from_secs);
        let mut watch = Watch {
            locked: &locked,
            rounds: Rounds::new(&dir, keys, &brake),
            pace: Pace::new(Tempo { quick: QUICK, idle }),
            here: Burst::new(Duration::from_millis(args.debounce)),
            there: Burst::new(Duration::from_millis(args.debounce)),
            wakes,
            report,
            chores: Chores::default(),
            brake: &brake,
            seen: Outline::default(),
            signals: Signals::new()?,
        };
        watch.run().await
    });
    // A second signal does not wait for a backup that is being written.
    runtime.shutdown_background();
    match ended? {
        End::Terminated => Ok(()),
        End::Interrupted => Err(Failure::silent(Code::Interrupted)),
    }
}

fn require_mirror(vault: &ThisVault) -> Result<(), Failure> {
    match vault.remote_settings()? {
        Some(_) => Ok(()),
        None => Err(sync::Error::NoRemote.into()),
    }
}

struct Watch<'a> {
    locked: &'a Locked<ThisMachine>,
    rounds: Rounds<'a>,
    pace: Pace,
    /// Changes in the vault, and in the folder that is the mirror.
    here: Burst,
    there: Burst,
    wakes: Wakes,
    report: Report,
    chores: Chores,
    brake: &'a Brake,
    /// How the vault looked when everything in it had been dealt with.
    seen: Outline,
    signals: Signals,
}

impl Watch<'_> {
    async fn run(&mut self) -> Result<End, Failure> {
        self.seen = self.locked.outline()?;
        let settings = self.rounds.settings()?;
        self.follow_settings(settings, true)?;
        supervisor::ready();
        loop {
            let now = clocks().boot;
            self.look(now)?;
            if is_due(self.there.over_at(), now) {
                self.there.clear();
                self.pace.changed(now);
            }
            let done = if is_due(self.pace.next(), now) {
                self.round().await?
            } else if is_due(Some(self.chores_at()), now) {
                self.chore(now).await?
            } else {
                self.sleep().await
            };
            if let Some(end) = done {
                return Ok(end);
            }
        }
    }

    fn chores_at(&self) -> At {
        let scrub = self.pace.is_reachable().then(|| self.chores.scrub_at(self.pace.moved_at()));
        scrub.map_or(self.chores.backup_at(), |scrub| scrub.min(self.chores.backup_at()))
    }

    /// Sleeps until something is due or wakes it.
    async fn sleep(&mut self) -> Option<End> {
        let before = clocks();
        let tick = if self.wakes.tell_of_vault() { TICK } else { POLL };
        let due = [self.pace.next(), self.here.over_at(), self.there.over_at(), Some(self.chores_at())];
        let next = due.into_iter().flatten().min().unwrap_or(before.boot + tick);
        let planned = next.saturating_sub(before.boot).min(tick);
        tokio::select! {
            biased;
            end = self.signals.next() => return Some(end),
            () = self.wakes.here.notified() => self.here.stirred(clocks().boot),
            () = self.wakes.there.notified() => self.there.stirred(clocks().boot),
            () = tokio::time::sleep(planned) => {}
        }
        let after = clocks();
        if after.jumped(&before, planned) {
            self.pace.resumed(after.boot);
        }
        None
    }

    /// Compares the vault with how it looked, unless it is changing at this moment.
    fn look(&mut self, now: At) -> Result<(), Failure> {
        if self.here.over_at().is_some_and(|at| now < at) {
            return Ok(());
        }
        self.here.clear();
        // A disk that does not answer now may later; the next round says so.
        let Ok(outline) = self.locked.outline() else { return Ok(()) };
        if outline == self.seen {
            return Ok(());
        }
        let is_set_anew = outline.settings != self.seen.settings;
        if is_set_anew {
            let Ok(settings) = self.rounds.settings() else { return Ok(()) };
            self.follow_settings(settings, false)?;
        } else {
            self.pace.changed(now);
        }
        self.seen = outline;
        Ok(())
    }

    /// Takes the mirror that is set now. What was known of its troubles is forgotten.
    fn follow_settings(&mut self, settings: Option<RemoteSettings>, is_first: bool) -> Result<(), Failure> {
        let (base, target, is_folder) = match self.rounds.mirror(settings) {
            Ok(Some((target, AnyRemote::Folder(folder)))) => {
                (Some(folder.base().to_owned()), target.to_owned(), true)
            }
            Ok(Some((target, _))) => (None, target.to_owned(), false),
            Ok(None) => {
                self.pace.mirror_set(None, clocks().boot);
                self.wakes.follow(None);
                return self.report.waiting();
            }
            Err(failure) => {
                self.pace.mirror_set(None, clocks().boot);
                return self.report.stopped(&failure);
            }
        };
        let tells = self.wakes.follow(base.as_deref());
        self.pace.mirror_set(Some(Mirror { is_folder, tells }), clocks().boot);
        let how = match &base {
            None => "a server: looked at every few seconds, more rarely when nothing moves",
            Some(base) if base.exists() && !FileSystem::of(base).tells() => {
                "a folder of another machine: looked at now and then"
            }
            Some(_) => "a folder",
        };
        match is_first {
            true => self.report.started(&target, how),
            false => self.report.mirror_set(&target, how),
        }
    }

    /// Waits for `work`. When the watch is to end meanwhile no object is begun any more, and what is under way has a while;
    /// told again it ends at once.
    async fn finish<T>(
        signals: &mut Signals,
        brake: &Brake,
        report: &Report,
        work: impl Future<Output = T>,
    ) -> (Option<T>, Option<End>) {
        let mut work = std::pin::pin!(work);
        let end = tokio::select! {
            done = &mut work => return (Some(done), None),
            end = signals.next() => end,
        };
        brake.pull();
        report.ending();
        tokio::select! {
            done = work => (Some(done), Some(end)),
            again = signals.next() => (None, Some(again)),
            () = tokio::time::sleep(LAST_WAIT) => (None, Some(end)),
        }
    }

    /// Syncs, and decides what follows.
    async fn round(&mut self) -> Result<Option<End>, Failure> {
        let before = self.locked.outline().unwrap_or_default();
        let mirror_number = self.rounds.mirror_number();
        let probe = self.pace.is_away();
        let (ended, end) =
            Self::finish(&mut self.signals, self.brake, &self.report, self.rounds.sync(probe)).await;
        let Some(ended) = ended else { return Ok(end) };
        let (ended, outcome) = ended?;
        let after = self.locked.outline().unwrap_or_default();
        // What came while it ran is looked at next; what a failed one wrote itself is no reason for another one.
        let manifest = match &ended {
            Ended::Done { covered, .. } => covered.clone().unwrap_or(before.manifest),
            _ => after.manifest,
        };
        // The first round notes in the settings that the mirror was seen. Whatever else happened to them is looked at next.
        let is_own = before.settings == self.seen.settings
            && after.settings != before.settings
            && self.rounds.mirror_number() == mirror_number
            && self.rounds.is_mirror_the_same();
        let settings = if is_own { after.settings } else { self.seen.settings.clone() };
        self.seen = Outline { manifest, settings, identity: before.identity };
        let base = self.rounds.folder();
        let tells = self.wakes.follow(base.as_deref());
        self.pace.mirror_tells(tells);
        self.pace.done(outcome, clocks().boot, chance());
        if end.is_none() {
            self.tell(ended, outcome)?;
        } else if let Ended::Done { done, .. } = ended {
            self.report.synced(&done)?;
        }
        Ok(end)
    }

    fn tell(&mut self, ended: Ended, outcome: Outcome) -> Result<(), Failure> {
        match ended {
            Ended::Done { done, full, .. } => {
                match full {
                    None => self.report.well()?,
                    Some(failure) => self.report.away(&failure)?,
                }
                self.report.synced(&done)
            }
            Ended::Failed { failure, findings } => {
                self.report.findings(&findings)?;
                match outcome {
                    Outcome::Stopped(_) => self.report.stopped(&failure),
                    _ => self.report.away(&failure),
                }
            }
            Ended::Busy => Ok(()),
            Ended::NoMirror => {
                self.pace.mirror_set(None, clocks().boot);
                self.report.waiting()
            }
        }
    }

    /// Makes the backup that is due, or reads a little of what is here and on the mirror.
    async fn chore(&mut self, now: At) -> Result<Option<End>, Failure> {
        let opened = self.rounds.open();
        let is_well = opened.is_ok();
        let Ok(Some(mut vault)) = opened else {
            // It is locked, or the next round says what is wrong.
            self.chores.backup_done(now, is_well);
            self.chores.scrub_done(now, is_well);
            return Ok(None);
        };
        if self.chores.backup_at() <= now {
            return self.back_up(vault).await;
        }
        let is_due = chores::is_scrub_due(&vault).unwrap_or(false);
        let settings = if is_due { vault.remote_settings().ok().flatten() } else { None };
        let mirror = match settings {
            Some(settings) => self.rounds.mirror(Some(settings)).ok().flatten(),
            None => None,
        };
        let Some((_, mirror)) = mirror else {
            self.chores.scrub_done(clocks().boot, true);
            return Ok(None);
        };
        let work = async {
            let here = chores::look_here(&mut vault)?;
            Ok::<_, sync::Error>((here, chores::scrub(&mut vault, mirror, self.brake).await?))
        };
        let (scrubbed, end) = Self::finish(&mut self.signals, self.brake, &self.report, work).await;
        let went_well = matches!(scrubbed, Some(Ok(_)));
        self.chores.scrub_done(clocks().boot, went_well);
        // Of a mirror that cannot be asked the next round tells.
        if let Some(Ok(((objects, damaged), scrubbed))) = scrubbed {
            self.report.findings(&damaged)?;
            self.report.scrubbed(objects, &scrubbed)?;
        }
        Ok(end)
    }

    async fn back_up(&mut self, vault: ThisVault) -> Result<Option<End>, Failure> {
        let plan = match backup_due(&vault) {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                self.chores.backup_done(clocks().boot, true);
                return Ok(None);
            }
            Err(error) => {
                self.chores.backup_done(clocks().boot, false);
                self.report.backup_failed(&error.into())?;
                return Ok(None);
            }
        };
        let work = chores::back_up(vault, plan);
        let (made, end) = Self::finish(&mut self.signals, self.brake, &self.report, work).await;
        self.chores.backup_done(clocks().boot, matches!(made, Some(Ok(_))));
        match made {
            Some(Ok(Some(made))) => self.report.backed_up(&made)?,
            Some(Err(error)) => self.report.backup_failed(&error.into())?,
            Some(Ok(None)) | None => {}
        }
        Ok(end)
    }
}

fn is_due(at: Option<At>, now: At) -> bool {
    at.is_some_and(|at| at <= now)
}

/// Between 0 and 1. It only spreads load: a constant would do no harm.
fn chance() -> f64 {
    let bytes = OsEntropy.array::<4>().unwrap_or([128; 4]);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
