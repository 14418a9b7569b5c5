//! What most commands need first: the vault, unlocked, and its mirror.

use std::cell::RefCell;
use std::path::{Component, Path, PathBuf};

use espejo::clock::SystemClock;
use espejo::crypto::{Keyring, MIN_WRITTEN_ITERATIONS};
use espejo::format::keyfile::Secret;
use espejo::format::marker::MARKER_NAME;
use espejo::host::ThisMachine;
use espejo::remote::retry::Retrying;
use espejo::remote::{AnyRemote, FolderRemote, Target, WebDavConfig, WebDavRemote};
use espejo::sync;
use espejo::vault::{self, Locked, RemoteSettings, Unattended, Vault};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::args::{Global, Login};
use crate::failure::{Code, Failure};
use crate::output::{Collector, Output, warn};
use crate::progress::Bar;
use crate::{runtime, secrets, session};

pub type ThisVault = Vault<ThisMachine>;
pub type ThisRemote = Retrying<AnyRemote, SystemClock>;

/// A vault, as far as it could be opened without asking anybody who need not be there.
pub enum Opening {
    /// By somebody who gave or typed a secret.
    BySecret(ThisVault),
    /// By its session.
    BySession(ThisVault),
    /// Not at all: it is mirrored while it is locked.
    Locked(Unattended<ThisMachine>),
}

/// One run of a command.
pub struct Context<'a> {
    pub global: &'a Global,
    pub output: Output,
    /// What opened the vault, for what is to be done after the command.
    keyring: RefCell<Option<Keyring>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    vault: Option<PathBuf>,
}

impl<'a> Context<'a> {
    pub fn new(global: &'a Global) -> Self {
        Self { global, output: Output::new(global), keyring: RefCell::default() }
    }

    /// The vault's directory: as given, else as [`nearest_vault`] finds it.
    pub fn vault_dir(&self) -> Result<PathBuf, Failure> {
        self.global.vault.clone().map_or_else(nearest_vault, Ok)
    }

    pub fn locked(&self) -> Result<Locked<ThisMachine>, Failure> {
        let dir = self.vault_dir()?;
        Locked::find(ThisMachine::new(&dir)).map_err(|error| {
            let mut failure = Failure::from(error);
            if failure.code == Code::NoVault {
                failure.message = format!("no vault in {}", dir.display());
            }
            failure
        })
    }

    /// The vault, unlocked: by what is given, else by its session, else by what is typed. What was found and mended on the
    /// way is said.
    pub fn vault(&self) -> Result<ThisVault, Failure> {
        let locked = self.locked()?;
        if secrets::is_given(self.global) {
            return self.vault_by_secret(locked);
        }
        match self.resume(locked)? {
            Ok(vault) => Ok(vault),
            Err(locked) => self.vault_by_secret(locked),
        }
    }

    /// The same, for what can be done while the vault is locked too: where that is allowed nobody is asked for a secret.
    pub fn opening(&self) -> Result<Opening, Failure> {
        let locked = self.locked()?;
        if secrets::is_given(self.global) {
            return self.vault_by_secret(locked).map(Opening::BySecret);
        }
        let locked = match self.resume(locked)? {
            Ok(vault) => return Ok(Opening::BySession(vault)),
            Err(locked) => locked,
        };
        if !locked.is_unattended() {
            return self.vault_by_secret(locked).map(Opening::BySecret);
        }
        match locked.unattended() {
            Err(vault::Error::PasswordNeeded(_)) if secrets::is_somebody_there(self.global) => {
                self.vault_by_secret(self.locked()?).map(Opening::BySecret)
            }
            unattended => Ok(Opening::Locked(unattended?)),
        }
    }

    fn resume(&self, locked: Locked<ThisMachine>) -> Result<Result<ThisVault, Locked<ThisMachine>>, Failure> {
        let mut resumed = session::resume(locked)?;
        if let Ok(vault) = &mut resumed {
            self.opened(vault);
        }
        Ok(resumed)
    }

    /// The vault, unlocked by somebody who knows a secret of it, session or not.
    pub fn vault_by_secret(&self, locked: Locked<ThisMachine>) -> Result<ThisVault, Failure> {
        Ok(self.unlock(locked, &secrets::unlock_secret(self.global)?)?)
    }

    /// Opens the vault, and stretches its password as is due today.
    pub fn unlock(&self, locked: Locked<ThisMachine>, secret: &Secret) -> Result<ThisVault, vault::Error> {
        let mut vault = locked.unlock(secret)?;
        self.opened(&mut vault);
        if let Secret::Password(password) = secret {
            // On a disk that takes nothing the vault opens all the same.
            let _ = vault.raise_cost(password, MIN_WRITTEN_ITERATIONS, vault::measure_iterations);
        }
        Ok(vault)
    }

    /// What is to be done with a vault that was just opened: what was found is said, and what came while it was locked is
    /// taken in.
    fn opened(&self, vault: &mut ThisVault) {
        self.keyring.replace(Some(vault.keyring().clone()));
        if vault.has_arrivals() {
            let taken = runtime().and_then(|runtime| {
                Ok(runtime.block_on(sync::take_in(vault, &mut Collector::new(Bar::hidden())))?)
            });
            match taken {
                Ok(0) => {}
                Ok(taken) => vault.note_activity(Some("taken_in"), &[("pulled", taken)], &[]),
                Err(failure) => warn(format!(
                    "what came while the vault was locked could not be taken in yet: {}",
                    failure.message
                )),
            }
        }
        self.tell_findings(vault);
    }

    /// The vault, if this command has opened it, opened once more.
    pub fn vault_again(&self) -> Option<ThisVault> {
        let keyring = self.keyring.take()?;
        self.locked().ok()?.unlock_again(keyring).ok()
    }

    /// Says what the vault found since the last time.
    pub fn tell_findings(&self, vault: &mut ThisVault) {
        self.output.warn_all(&vault.take_findings());
    }

    /// Runs `work` on the vault, and says what was found even if it fails.
    pub fn with_vault<T>(
        &self,
        vault: &mut ThisVault,
        work: impl FnOnce(&mut ThisVault) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let result = work(vault);
        self.tell_findings(vault);
        result
    }
}

/// The nearest vault upward from here, else the configured one.
pub fn nearest_vault() -> Result<PathBuf, Failure> {
    let here =
        std::env::current_dir().map_err(|error| Failure::io("finding the current directory", &error))?;
    if let Some(dir) = here.ancestors().find(|dir| is_vault(dir)) {
        return Ok(dir.to_owned());
    }
    let configured = config()?.vault;
    configured.ok_or_else(|| {
        Failure::new(Code::NoVault, "no_vault", "no vault here, nor in any directory above")
            .hint("`espejo init DIR` makes one, `--vault DIR` names one")
    })
}

fn is_vault(dir: &Path) -> bool {
    // A folder mirror has the marker too, but no `local/`.
    dir.join(MARKER_NAME).is_file() && dir.join("local").is_dir()
}

fn config() -> Result<Config, Failure> {
    use etcetera::BaseStrategy;
    let Ok(dirs) = etcetera::choose_base_strategy() else { return Ok(Config::default()) };
    let path = dirs.config_dir().join("espejo/config.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(Failure::io(&format!("reading {}", path.display()), &error)),
    };
    toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Settings from what the person gave: checked, nothing asked of the network.
pub fn remote_settings(global: &Global, target: &str, login: &Login) -> Result<RemoteSettings, Failure> {
    let target = match Target::parse(target)? {
        Target::Folder(path) => Target::Folder(absolute(&path)?),
        url @ Target::WebDav(_) => url,
    };
    let password = match &target {
        Target::WebDav(_) => secrets::remote_password(global, login)?,
        Target::Folder(_) => None,
    };
    Ok(RemoteSettings {
        target: target.to_string(),
        user: login.user.clone(),
        password: password.map(|password| password.to_string()),
        ca_pem: certificate_authority(login)?,
        initialised: false,
    })
}

/// The authority the person trusts besides the system's.
pub fn certificate_authority(login: &Login) -> Result<Option<String>, Failure> {
    let ca_pem = login.ca_file.as_ref().map(std::fs::read_to_string).transpose();
    ca_pem.map_err(|error| Failure::io("reading the certificate authority", &error))
}

/// The mirror these settings name, with patience.
pub fn remote(settings: &RemoteSettings) -> Result<ThisRemote, Failure> {
    Ok(Retrying::new(bare_remote(settings)?, SystemClock))
}

/// The mirror these settings name.
pub fn bare_remote(settings: &RemoteSettings) -> Result<AnyRemote, Failure> {
    Ok(match Target::parse(&settings.target)? {
        Target::Folder(path) => AnyRemote::Folder(FolderRemote::new(path)),
        Target::WebDav(base_url) => AnyRemote::WebDav(WebDavRemote::new(WebDavConfig {
            base_url: base_url.to_string(),
            user: settings.user.clone(),
            password: settings.password.clone().map(Zeroizing::new),
            ca_file_pem: settings.ca_pem.clone().map(String::into_bytes),
        })?),
    })
}

/// `path` from the root, without links and `..`: where it leads, or would lead if what is missing of it were made.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path).map_err(|error| Failure::io("finding the directory", &error))?;
    let mut resolved = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            resolved.pop();
            continue;
        }
        resolved.push(part);
        // What is not there yet leads nowhere else, and through a link to nothing nobody makes anything.
        resolved = resolved.canonicalize().unwrap_or(resolved);
    }
    Ok(resolved)
}

/// The vault's mirror, if it is a folder.
pub fn folder_mirror(vault: &ThisVault) -> Result<Option<PathBuf>, Failure> {
    let settings = match vault.remote_settings() {
        // One that was ever made is known by its marker.
        Err(vault::Error::StateDamaged { .. }) => None,
        settings => settings?,
    };
    match settings.map(|settings| Target::parse(&settings.target)).transpose()? {
        Some(Target::Folder(path)) => absolute(&path).map(Some),
        Some(Target::WebDav(_)) | None => Ok(None),
    }
}

/// Whether a directory, from the root, lies in this vault or its mirror, or in any other.
pub fn is_in_vault_or_mirror(dir: &Path, vault: &Path, mirror: Option<&Path>) -> bool {
    dir.starts_with(vault)
        || mirror.is_some_and(|mirror| dir.starts_with(mirror))
        || dir.ancestors().any(|dir| dir.join(MARKER_NAME).exists())
}

/// The machine's name, for devices that were given none.
pub fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "this device".to_owned() } else { name }
}
