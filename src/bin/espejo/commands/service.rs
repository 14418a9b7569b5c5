//! `service`: has the system run `watch`, from login on.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use espejo::event::short;
use espejo::host::ThisMachine;
use espejo::vault::Locked;
use serde_json::{Value, json};

use crate::args::{Service, ServiceCommand, System};
use crate::context::{Context, absolute};
use crate::failure::{Code, Failure};
use crate::output::line;
use crate::unit::{self, Job};

pub fn service(context: &Context<'_>, args: &Service) -> Result<(), Failure> {
    match (&args.command, args.print) {
        (Some(ServiceCommand::Install), None) => install(context),
        (Some(ServiceCommand::Status), None) => status(context),
        (Some(ServiceCommand::Remove), None) => remove(context),
        (None, Some(system)) => print(context, system),
        (Some(_), Some(_)) | (None, None) => {
            Err(Failure::usage("one of these: install, status, remove, --print")
                .hint("espejo service --help"))
        }
    }
}

/// The paths that a unit names, as text.
struct Paths {
    program: String,
    vault: String,
    password_file: Option<String>,
}

impl Paths {
    fn of(context: &Context<'_>) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::io("finding this program", &error))?;
        let password_file = context.global.password_file.as_deref().map(absolute).transpose()?;
        Ok(Self {
            program: plain(&program)?,
            vault: plain(&absolute(&context.vault_dir()?)?)?,
            password_file: password_file.as_deref().map(plain).transpose()?,
        })
    }

    fn job(&self) -> Job<'_> {
        Job { program: &self.program, vault: &self.vault, password_file: self.password_file.as_deref() }
    }
}

/// A path that can stand in a file of lines.
fn plain(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.map(str::to_owned)
        .ok_or_else(|| Failure::usage(format!("{} cannot be written into a service's file", path.display())))
}

/// What the service of a vault is called.
fn name(locked: &Locked<ThisMachine>) -> Result<String, Failure> {
    let id = locked.id().ok_or_else(|| {
        let message = "espejo.json is damaged, and the service is named after what is in it";
        Failure::new(Code::Integrity, "damaged", message).hint("`espejo check` mends it")
    })?;
    Ok(format!("espejo-{}", short(id)))
}

/// The unit of a vault's service, and where systemd looks for what a person installs.
fn unit_of(locked: &Locked<ThisMachine>) -> Result<(String, PathBuf), Failure> {
    use etcetera::BaseStrategy;
    let dirs = etcetera::choose_base_strategy()
        .map_err(|error| Failure::usage(format!("no home directory: {error}")))?;
    let unit = format!("{}.service", name(locked)?);
    let path = dirs.config_dir().join("systemd/user").join(&unit);
    Ok((unit, path))
}

fn print(context: &Context<'_>, system: System) -> Result<(), Failure> {
    let paths = Paths::of(context)?;
    let (job, name) = (paths.job(), name(&context.locked()?)?);
    let text = match system {
        System::Systemd => unit::systemd(&job),
        System::Launchd => unit::launchd(&job, &name),
        System::Windows => unit::windows(&job, &name),
    };
    context.output.result(&json!({ "name": name, "text": text }), || text.clone())
}

fn install(context: &Context<'_>) -> Result<(), Failure> {
    let paths = Paths::of(context)?;
    let locked = context.locked()?;
    let (unit, path) = unit_of(&locked)?;
    require_ours(&path)?;
    require_no_other_copy(context, &locked, &path, "remove`, then this again")?;
    let known = locked.status();
    if known.target.is_none() {
        return Err(espejo::sync::Error::NoRemote.into());
    }
    if paths.password_file.is_some() {
        // What it would find out only when nobody looks.
        context.vault_by_secret(locked)?;
    } else if !locked.is_unattended() {
        let message = "a service has nobody to ask for the password; nothing was installed";
        return Err(Failure::new(Code::Password, "password_needed", message).hint(
            "`espejo remote set --unattended` lets it mirror the locked vault; or `--password-file FILE` names what it reads",
        ));
    } else if known.last_sync.is_none() {
        let message = "the first sync takes the password; nothing was installed";
        return Err(
            Failure::new(Code::Password, "password_needed", message).hint("`espejo sync`, then this again")
        );
    }
    // Before anything is written: it may not be there at all.
    systemctl(&["--version"])?;
    write(&path, &unit::systemd(&paths.job()))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--quiet", &unit])?;
    // One that runs already is to run what is installed now.
    let started = systemctl(&["restart", &unit]);
    let state = State::of(&unit, &path)?;
    if started.is_err() && !state.is_running() {
        let message = format!("it is installed and does not run: {}", state.told());
        let failure = Failure::new(Code::Other, "service_failed", message);
        return Err(Failure { hint: state.hint(&unit), ..failure });
    }
    context.output.result(&state.json(&unit), || format!("{unit} {}", state.told()))?;
    context.output.note("it runs while you are logged in; `loginctl enable-linger` lets it run from boot on");
    Ok(())
}

fn status(context: &Context<'_>) -> Result<(), Failure> {
    let locked = context.locked()?;
    let (unit, path) = unit_of(&locked)?;
    if !path.exists() {
        return Err(none(&unit));
    }
    require_no_other_copy(context, &locked, &path, "status`")?;
    let state = State::of(&unit, &path)?;
    context.output.result(&state.json(&unit), || format!("{unit} {}", state.told()))?;
    if state.is_running() {
        return Ok(());
    }
    if let Some(hint) = state.hint(&unit) {
        context.output.note(format_args!("hint: {hint}"));
    }
    Err(Failure::silent(Code::Incomplete))
}

fn none(unit: &str) -> Failure {
    Failure::new(Code::NotFound, "no_service", format!("there is no {unit}"))
        .hint("`espejo service install` makes it")
}

fn remove(context: &Context<'_>) -> Result<(), Failure> {
    let locked = context.locked()?;
    let (unit, path) = unit_of(&locked)?;
    if !path.exists() {
        return Err(none(&unit));
    }
    require_ours(&path)?;
    require_no_other_copy(context, &locked, &path, "remove`")?;
    // Where systemd does not answer there is nothing that runs, and the file goes all the same.
    let ended = systemctl(&["disable", "--quiet", "--now", &unit]);
    std::fs::remove_file(&path).map_err(|error| Failure::io("removing the unit", &error))?;
    if ended.is_ok() {
        systemctl(&["daemon-reload"])?;
    }
    context.output.result(&json!({ "name": unit, "removed": true }), || format!("{unit} is gone"))
}

/// Nothing that somebody else wrote is replaced or removed.
fn require_ours(path: &Path) -> Result<(), Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.starts_with(unit::MARK) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => Err(Failure::new(
            Code::Guard,
            "not_ours",
            format!("{} was not made by `espejo service install`; nothing was changed", path.display()),
        )
        .hint("move it away, or change it yourself")),
    }
}

/// The service of two copies of a vault has one name, and one of them can have it. `then` ends the hint that begins with
/// `service` for the other one.
fn require_no_other_copy(
    context: &Context<'_>,
    locked: &Locked<ThisMachine>,
    path: &Path,
    then: &str,
) -> Result<(), Failure> {
    let unit = std::fs::read_to_string(path).unwrap_or_default();
    let Some(kept) = unit::vault(&unit) else { return Ok(()) };
    if absolute(Path::new(&kept))? == absolute(&context.vault_dir()?)? {
        return Ok(());
    }
    match Locked::find(ThisMachine::new(&kept)) {
        // One that is damaged may be it.
        Ok(there) if there.id().is_none_or(|id| Some(id) == locked.id()) => Err(Failure::new(
            Code::Guard,
            "other_copy",
            format!("this service is of {kept}, another copy of this vault; nothing was changed"),
        )
        .hint(format!("`espejo --vault {} service {then}", shell_words::quote(&kept)))),
        // What is not there any more was moved here, or is given up.
        _ => Ok(()),
    }
}

/// Puts the unit in its place, whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::io("writing the unit", &error);
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".espejo-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// What the person's own systemd says.
fn systemctl(args: &[&str]) -> Result<String, Failure> {
    let unavailable = |message: String| {
        Failure::new(Code::Other, "no_systemd", message)
            .hint("`espejo service --print launchd` and `--print windows` show what does the same elsewhere")
    };
    let output = Command::new("systemctl").arg("--user").args(args).output().map_err(|error| {
        unavailable(match error.kind() {
            ErrorKind::NotFound => "there is no systemd here, and this installs for nothing else".to_owned(),
            _ => format!("systemctl does not run: {error}"),
        })
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(unavailable(format!("systemd refuses: {}", line(said.trim(), 300)))),
    }
}

/// What systemd knows of the service.
struct State {
    active: String,
    /// What `watch` said last.
    said: String,
    result: String,
    exit: String,
    restarts: u64,
    enabled: bool,
    /// Where the password is taken from, and whether it is there.
    password_file: Option<(String, bool)>,
}

impl State {
    fn of(unit: &str, path: &Path) -> Result<Self, Failure> {
        const SHOWN: &str = "ActiveState,StatusText,Result,ExecMainStatus,NRestarts,UnitFileState";
        let told = systemctl(&["show", unit, "--property", SHOWN])?;
        let value = |name: &str| {
            let found = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let password_file = unit::password_file(&text).map(|file| {
            let is_there = Path::new(&file).is_file();
            (file, is_there)
        });
        Ok(Self {
            active: value("ActiveState"),
            said: value("StatusText"),
            result: value("Result"),
            exit: value("ExecMainStatus"),
            restarts: value("NRestarts").parse().unwrap_or(0),
            enabled: value("UnitFileState") == "enabled",
            password_file,
        })
    }

    fn is_running(&self) -> bool {
        self.active == "active"
    }

    /// The password file that is not there.
    fn missing(&self) -> Option<&str> {
        self.password_file.as_ref().filter(|(_, is_there)| !is_there).map(|(file, _)| file.as_str())
    }

    fn told(&self) -> String {
        match (self.active.as_str(), self.missing()) {
            ("active", None) => format!("runs: {}", line(&self.said, 200)),
            ("active", Some(file)) => format!(
                "runs, and would not start again: its password file {file} is not there: {}",
                line(&self.said, 200)
            ),
            ("inactive", _) => "does not run".to_owned(),
            (_, Some(file)) => format!("does not run: its password file {file} is not there"),
            ("activating", None) if self.result == "success" => "is starting".to_owned(),
            (_, None) => format!("failed ({}, exit code {})", line(&self.result, 40), line(&self.exit, 10)),
        }
    }

    fn hint(&self, unit: &str) -> Option<String> {
        match (self.active.as_str(), self.missing()) {
            ("active", _) => None,
            ("inactive", _) => Some("`espejo service install` starts it".to_owned()),
            (_, Some(_)) => Some(
                "put it back: it is tried again every 30 seconds. Nothing in the vault is touched".to_owned(),
            ),
            (_, None) => Some(format!(
                "`journalctl --user -u {unit}` shows what it said; it is tried again every 30 seconds"
            )),
        }
    }

    fn json(&self, unit: &str) -> Value {
        json!({
            "name": unit,
            "running": self.is_running(),
            "enabled": self.enabled,
            "state": self.active,
            "status": self.said,
            "restarts": self.restarts,
            "password_file": self.password_file.as_ref().map(|(file, _)| file),
            "password_file_there": self.password_file.as_ref().map(|(_, is_there)| is_there),
        })
    }
}
