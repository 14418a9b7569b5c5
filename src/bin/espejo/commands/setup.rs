//! `init` and `clone`: a vault where there was none.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use espejo::host::ThisMachine;
use espejo::sync;
use espejo::vault::{self, NewVault};
use serde_json::json;

use super::mirror::{refuse_nested, run_sync, summary};
use crate::args::{CloneArgs, Init};
use crate::context::{Context, absolute, machine_name, remote, remote_settings};
use crate::failure::{Code, Failure};
use crate::output::count;
use crate::{recovery, runtime, secrets};

/// Guesses an attacker needs on average, as a power of ten, below which a password is refused (zxcvbn's estimate).
const MIN_GUESSES_LOG10: f64 = 10.0;

pub fn init(context: &Context<'_>, args: &Init) -> Result<(), Failure> {
    let dir = args.dir.clone().or_else(|| context.global.vault.clone()).unwrap_or_else(|| PathBuf::from("."));
    let dir = absolute(&dir)?;
    require_usable(&dir)?;
    if let Some(out) = &args.recovery_out {
        check_recovery_out(&dir, out)?;
    }
    let (password, typed) = secrets::new_password(context.global, &args.new_password)?;
    if !args.allow_weak_password {
        require_strong(&typed)?;
    }
    let recovery = args.recovery_out.is_some();
    let new = NewVault {
        password,
        recovery,
        device_name: args.device_name.clone().unwrap_or_else(machine_name),
        iterations: vault::measure_iterations(),
    };
    let created = vault::create(ThisMachine::new(&dir), &new)?;
    if let (Some(out), Some(secret)) = (&args.recovery_out, &created.recovery) {
        write_words(out, &recovery::words(secret))?;
    }
    let json = json!({
        "vault": dir,
        "vault_id": created.vault.id().to_string(),
        "device_id": created.vault.device().id.to_string(),
    });
    let out = context.output;
    out.result(&json, || format!("new vault in {}", dir.display()))?;
    match &args.recovery_out {
        Some(file) => out.note(format_args!(
            "the recovery key is in {}: print it and keep it away from this machine",
            file.display()
        )),
        None if !args.no_recovery => {
            out.note("no recovery key was made: if the password is forgotten, nothing opens this vault");
        }
        None => {}
    }
    let vault = shell_words::quote(&dir.to_string_lossy()).into_owned();
    out.note(format_args!("next: espejo --vault {vault} add -m \"a first thought\""));
    Ok(())
}

/// Says early, and in the words of the mistake, why there can be no vault here.
fn require_usable(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Failure::usage(format!("{} is a file, not a directory", dir.display())))
        }
        Err(error) => Err(Failure::io(&format!("looking into {}", dir.display()), &error)),
    }
}

fn check_recovery_out(dir: &Path, out: &Path) -> Result<(), Failure> {
    let out = absolute(out)?;
    if out.starts_with(dir) {
        return Err(Failure::usage("the recovery key must not lie inside the vault it opens"));
    }
    match out.exists() {
        true => Err(Failure::usage(format!("{} exists already; nothing was changed", out.display()))),
        false => Ok(()),
    }
}

fn write_words(path: &Path, words: &str) -> Result<(), Failure> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        writeln!(file, "{words}")?;
        file.sync_all()?;
        // Its name too: nothing else knows the words.
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(dir)?.sync_all()
    })
    .map_err(|error| Failure::io("writing the recovery key", &error))
}

fn require_strong(password: &str) -> Result<(), Failure> {
    if zxcvbn::zxcvbn(password, &["espejo"]).guesses_log10() >= MIN_GUESSES_LOG10 {
        return Ok(());
    }
    Err(Failure::new(
        Code::Password,
        "weak_password",
        "this password can be guessed by whoever copies the vault",
    )
    .hint("five or six random words are strong; --allow-weak-password takes this one all the same"))
}

pub fn clone(context: &Context<'_>, args: &CloneArgs) -> Result<(), Failure> {
    let mut settings = remote_settings(context.global, &args.remote, &args.login)?;
    let dir = match args.dir.clone().or_else(|| context.global.vault.clone()) {
        Some(dir) => dir,
        None => PathBuf::from(last_name(&settings.target)),
    };
    let dir = absolute(&dir)?;
    require_usable(&dir)?;
    refuse_nested(&dir, &settings.target)?;
    let mirror = remote(&settings)?;
    let runtime = runtime()?;
    let introduction = runtime.block_on(sync::introduce(&mirror))?;
    let secret = secrets::unlock_secret(context.global)?;
    let name = args.device_name.clone().unwrap_or_else(machine_name);
    let host = ThisMachine::new(&dir);
    let mut vault =
        vault::create_from_mirror(host, introduction.vault, &introduction.key_files, &secret, &name)?;
    settings.initialised = true;
    vault.set_remote(&settings)?;
    let done = run_sync(&runtime, &mut vault, &mirror, sync::Options::default())?;
    let mut json = done.json();
    json["vault"] = json!(dir);
    json["vault_id"] = json!(vault.id().to_string());
    json["device_id"] = json!(vault.device().id.to_string());
    let entries = vault.manifest()?.counts().entries;
    context.output.warn_all(&done.findings);
    context.output.result(&json, || {
        let entries = count(entries, "entry is", "entries are");
        format!("{entries} now in {} ({})", dir.display(), summary(&done.report, done.took))
    })?;
    done.verdict()
}

fn last_name(target: &str) -> String {
    let name = target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let plain = name.chars().all(|c| c.is_alphanumeric() || "-_. ".contains(c)) && !name.starts_with('.');
    if plain && !name.is_empty() { name.to_owned() } else { "journal".to_owned() }
}
