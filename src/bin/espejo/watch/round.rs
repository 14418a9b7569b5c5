//! One round: the vault as it is now, its mirror, and a sync of the two.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use espejo::crypto::Keyring;
use espejo::event::Finding;
use espejo::host::ThisMachine;
use espejo::remote::{AnyRemote, Remote as _, RemoteError, RemoteErrorKind, RemotePath, Retrying};
use espejo::sync::{self, Options};
use espejo::vault::{self, Locked, RemoteSettings, Unattended};

use super::brake::{Brake, Braked, BrakedClock};
use super::pace::{Outcome, Until};
use crate::commands::mirror::{Done, note_sync};
use crate::context::{ThisVault, bare_remote};
use crate::failure::{Code, Failure};
use crate::output::Collector;
use crate::progress::Bar;
use crate::session;

/// What opens the vault for a round.
pub enum Keys {
    /// These, which it was opened with when the watch began.
    All(Box<Keyring>),
    /// Those of a session, as long as there is one, and else those of the feeds alone.
    Session,
}

/// The vault for one round.
enum Opened {
    Unlocked(Box<ThisVault>),
    Locked(Box<Unattended<ThisMachine>>),
}

impl Opened {
    fn settings(&self) -> Result<Option<RemoteSettings>, vault::Error> {
        match self {
            Self::Unlocked(vault) => vault.remote_settings(),
            Self::Locked(vault) => Ok(Some(vault.remote_settings().clone())),
        }
    }

    fn take_findings(&mut self) -> Vec<Finding> {
        match self {
            Self::Unlocked(vault) => vault.take_findings(),
            Self::Locked(_) => Vec::new(),
        }
    }

    fn known_corrupt(&self) -> u64 {
        match self {
            Self::Unlocked(vault) => vault.known_corrupt(),
            Self::Locked(vault) => vault.known_corrupt(),
        }
    }

    /// How far the last sync took the manifest into account, if it read it. If what it left cannot be read, the next look
    /// finds the vault changed.
    fn covered(&self) -> Option<(Vec<u8>, u64)> {
        match self {
            Self::Unlocked(vault) => {
                let state = vault.sync_state().unwrap_or_default();
                Some((state.manifest, state.manifest_len))
            }
            Self::Locked(_) => None,
        }
    }
}

/// What the rounds of a watch share: the keys, and a mirror that keeps its connections. Not the index: a watch at rest is
/// as small in a large vault as in a new one.
pub struct Rounds<'a> {
    dir: &'a Path,
    keys: Keys,
    brake: &'a Brake,
    mirror: Option<(RemoteSettings, AnyRemote)>,
    /// How many mirrors there were.
    mirrors: u64,
}

/// What a round came to.
pub enum Ended {
    Done {
        done: Box<Done>,
        /// How far the manifest was taken into account; as it was before the round if that is not known.
        covered: Option<(Vec<u8>, u64)>,
        /// Why something was not sent, if the mirror has no room for it.
        full: Option<Failure>,
    },
    Failed {
        failure: Failure,
        findings: Vec<Finding>,
    },
    /// Another process syncs this vault.
    Busy,
    /// There is no mirror any more.
    NoMirror,
}

impl<'a> Rounds<'a> {
    pub fn new(dir: &'a Path, keys: Keys, brake: &'a Brake) -> Self {
        Self { dir, keys, brake, mirror: None, mirrors: 0 }
    }

    /// The vault, opened anew: other processes may have made another device of it meanwhile. `None` while it is locked.
    pub fn open(&self) -> Result<Option<ThisVault>, vault::Error> {
        match self.opened()? {
            Opened::Unlocked(vault) => Ok(Some(*vault)),
            Opened::Locked(_) => Ok(None),
        }
    }

    fn opened(&self) -> Result<Opened, vault::Error> {
        let locked = Locked::find(ThisMachine::new(self.dir))?;
        let locked = match &self.keys {
            Keys::All(keyring) => {
                return Ok(Opened::Unlocked(Box::new(locked.unlock_again(Keyring::clone(keyring))?)));
            }
            Keys::Session => session::resume(locked)?,
        };
        Ok(match locked {
            Ok(vault) => Opened::Unlocked(Box::new(vault)),
            Err(locked) => Opened::Locked(Box::new(locked.unattended()?)),
        })
    }

    /// How the mirror is reached that is set now, if there is one.
    pub fn settings(&self) -> Result<Option<RemoteSettings>, vault::Error> {
        self.opened()?.settings()
    }

    /// The mirror of these settings, with its address.
    pub fn mirror(
        &mut self,
        settings: Option<RemoteSettings>,
    ) -> Result<Option<(&str, &AnyRemote)>, Failure> {
        let Some(settings) = settings else {
            self.mirror = None;
            return Ok(None);
        };
        if !self.mirror.as_ref().is_some_and(|(known, _)| is_same(known, &settings)) {
            self.mirror = Some((settings.clone(), bare_remote(&settings)?));
            self.mirrors += 1;
        }
        Ok(self.mirror.as_ref().map(|(settings, mirror)| (&settings.target[..], mirror)))
    }

    /// Where the mirror is, if it is a folder, as of the last round.
    pub fn folder(&self) -> Option<PathBuf> {
        match &self.mirror {
            Some((_, AnyRemote::Folder(folder))) => Some(folder.base().to_owned()),
            _ => None,
        }
    }

    /// Which mirror it is: another number after another one was set.
    pub fn mirror_number(&self) -> u64 {
        self.mirrors
    }

    /// Whether the mirror that is set is the one of the last round.
    pub fn is_mirror_the_same(&self) -> bool {
        matches!((self.settings(), &self.mirror), (Ok(Some(now)), Some((known, _))) if is_same(known, &now))
    }

    /// Syncs once. After a failure (`probe`) the mirror is first asked one thing, once, so that an outage costs one request
    /// a try and nobody waits for a lock meanwhile.
    pub async fn sync(&mut self, probe: bool) -> Result<(Ended, Outcome), Failure> {
        let mut vault = match self.opened() {
            Ok(vault) => vault,
            Err(error) => return failed(error.into(), Vec::new()),
        };
        let brake = self.brake;
        let mirror = match vault.settings().map_err(Failure::from).and_then(|settings| self.mirror(settings))
        {
            Ok(Some((_, mirror))) => mirror,
            Ok(None) => return Ok((Ended::NoMirror, Outcome::Stopped(Until::Settings))),
            Err(failure) => {
                return Ok((
                    Ended::Failed { failure, findings: Vec::new() },
                    Outcome::Stopped(Until::Settings),
                ));
            }
        };
        if probe && let Err(error) = ask(mirror).await {
            return failed(error.into(), Vec::new());
        }
        let remote = Retrying::new(Braked { inner: mirror, brake }, BrakedClock(brake));
        let mut collector = Collector::new(Bar::hidden());
        let start = Instant::now();
        let result = match &mut vault {
            Opened::Unlocked(vault) => sync::sync(vault, &remote, Options::default(), &mut collector).await,
            Opened::Locked(vault) => sync::sync_locked(vault, &remote, &mut collector).await,
        };
        let mut findings = collector.into_findings();
        findings.extend(vault.take_findings());
        match result {
            Ok(report) => {
                if let Opened::Unlocked(vault) = &vault {
                    note_sync(vault, &report, &findings);
                }
                let full = no_room(&findings).filter(|_| report.unsent > 0);
                let news = !report.is_idle() || report.retired > 0;
                let outcome = match report.is_settled() {
                    true => Outcome::Settled { news },
                    // What there is no room for is not sent again every minute.
                    false if full.is_some() => Outcome::Away { wait: None },
                    false => Outcome::Unsettled { news },
                };
                let took = start.elapsed();
                let corrupt = vault.known_corrupt();
                let is_locked = matches!(vault, Opened::Locked(_));
                let done = Done { report, findings, took, corrupt, is_locked };
                let covered = vault.covered();
                Ok((Ended::Done { done: Box::new(done), covered, full }, outcome))
            }
            Err(error) => failed(error, findings),
        }
    }
}

/// Whether it is the same mirror, reached in the same way.
fn is_same(a: &RemoteSettings, b: &RemoteSettings) -> bool {
    (&a.target, &a.user, &a.password, &a.ca_pem) == (&b.target, &b.user, &b.password, &b.ca_pem)
}

/// The cheapest question a mirror can be asked.
async fn ask(mirror: &AnyRemote) -> Result<(), RemoteError> {
    let Some(feeds) = RemotePath::new("feeds") else { return Ok(()) };
    mirror.list(&feeds).await.map(|_| ())
}

/// That the mirror has no room, as a failure.
fn no_room(findings: &[Finding]) -> Option<Failure> {
    findings.iter().find_map(|finding| match finding {
        Finding::Postponed { reason } => {
            let failure = Failure::new(Code::Temporary, "mirror_full", reason.clone());
            Some(failure.hint("make room there, or raise the server's limit"))
        }
        _ => None,
    })
}

/// What follows from a failed round; an error if the watch cannot go on at all.
fn failed(error: sync::Error, findings: Vec<Finding>) -> Result<(Ended, Outcome), Failure> {
    use vault::Error as V;
    let outcome = match &error {
        sync::Error::Vault(V::Busy) => return Ok((Ended::Busy, Outcome::Busy)),
        sync::Error::NoRemote => return Ok((Ended::NoMirror, Outcome::Stopped(Until::Settings))),
        sync::Error::Vault(V::Rekeyed) => {
            return Err(Failure {
                message: "this vault was given a new master key; everything is safe, and this watch has only the old one"
                    .to_owned(),
                ..Failure::from(error)
            }
            .hint("`espejo watch` again, with the new password"));
        }
        sync::Error::Vault(V::NoVault | V::Newer) => return Err(error.into()),
        error => outcome_of(error),
    };
    Ok((Ended::Failed { failure: error.into(), findings }, outcome))
}

/// Whether what failed passes by itself, and if not, what would change it.
fn outcome_of(error: &sync::Error) -> Outcome {
    use RemoteErrorKind as K;
    match error {
        sync::Error::Remote(error) => match &error.kind {
            K::Unauthorized | K::Insecure | K::BadAddress => Outcome::Stopped(Until::Settings),
            K::Throttled { retry_after_secs } | K::Unavailable { retry_after_secs, .. } => {
                Outcome::Away { wait: retry_after_secs.map(Duration::from_secs) }
            }
            // A login page of a network may look like any of the others.
            _ => Outcome::Away { wait: None },
        },
        sync::Error::Vault(vault::Error::Io { .. } | vault::Error::Entropy(_)) => {
            Outcome::Away { wait: None }
        }
        sync::Error::Vault(vault::Error::StateDamaged { .. }) => Outcome::Stopped(Until::Settings),
        _ => Outcome::Stopped(Until::Change),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espejo::sync::Guard;

    #[test]
    fn what_passes_is_waited_for_and_what_does_not_is_left_alone() {
        let remote = |kind| outcome_of(&RemoteError::new(kind, "", "").into());
        for kind in [
            RemoteErrorKind::Unreachable,
            RemoteErrorKind::Interrupted,
            RemoteErrorKind::NotDav,
            RemoteErrorKind::Redirected { to: "portal".into() },
            RemoteErrorKind::Untrusted,
            RemoteErrorKind::Forbidden,
            RemoteErrorKind::Locked,
            RemoteErrorKind::Io,
            RemoteErrorKind::Unavailable { status: 503, retry_after_secs: None },
        ] {
            assert_eq!(remote(kind.clone()), Outcome::Away { wait: None }, "{kind:?}");
        }
        let asked = Some(Duration::from_secs(90));
        let throttled = RemoteErrorKind::Throttled { retry_after_secs: Some(90) };
        assert_eq!(remote(throttled), Outcome::Away { wait: asked });
        assert_eq!(remote(RemoteErrorKind::Unauthorized), Outcome::Stopped(Until::Settings));
        assert_eq!(outcome_of(&Guard::MirrorGone.into()), Outcome::Stopped(Until::Change));
    }
}
