//! `devices`: who else has this vault, what they are called, and whom nobody waits for any more.

use espejo::event::short;
use espejo::sync::{self, DeviceState};
use serde_json::json;

use crate::args::Devices;
use crate::context::{Context, ThisVault};
use crate::failure::{Code, Failure};
use crate::output::line;
use crate::when;

/// An id is found by its first digits, but not by fewer than this.
const MIN_PREFIX_LEN: usize = 4;

/// A longer name is no name.
const MAX_NAME_BYTES: usize = 200;

pub fn devices(context: &Context<'_>, command: Option<&Devices>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| match command {
        None | Some(Devices::List) => list(context, vault),
        Some(Devices::Invite) => crate::invite::invite(context, vault),
        Some(Devices::Rename { name }) => rename(context, vault, name),
        Some(Devices::Retire { device, dry_run }) => retire(context, vault, device, *dry_run),
    })
}

fn list(context: &Context<'_>, vault: &mut ThisVault) -> Result<(), Failure> {
    let devices = sync::devices(vault)?;
    let json = devices.iter().map(|device| {
        json!({
            "id": device.id.to_string(),
            "name": device.name,
            "this": device.this,
            "last_seen": device.last_seen.map(when::rfc3339),
            "acknowledged": device.acknowledged,
            "retired": device.retired,
            "program": device.program,
        })
    });
    let json = json!({ "devices": json.collect::<Vec<_>>() });
    context.output.result(&json, || devices.iter().map(describe).collect::<String>())
}

fn describe(device: &DeviceState) -> String {
    let mark = if device.this { "*" } else { " " };
    let seen = device.last_seen.map_or_else(|| "not synced yet".to_owned(), when::minute);
    let state = match (device.retired, device.acknowledged) {
        (true, _) => "  retired",
        (false, false) => "  has not read everything",
        (false, true) => "",
    };
    let program = line(&device.program, 30);
    format!("{mark} {}  {:<20}  {seen:<16}  {program}{state}\n", short(device.id), line(&device.name, 40))
}

fn rename(context: &Context<'_>, vault: &mut ThisVault, name: &str) -> Result<(), Failure> {
    let name = name.trim();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        let message =
            format!("a device's name is one line of 1 to {MAX_NAME_BYTES} bytes; nothing was changed");
        return Err(Failure::usage(message));
    }
    vault.rename_device(name)?;
    let json = json!({ "id": vault.device().id.to_string(), "name": name });
    context.output.result(&json, || format!("this device is called {name}"))?;
    context.output.note("the next `espejo sync` tells the others");
    Ok(())
}

fn retire(context: &Context<'_>, vault: &mut ThisVault, text: &str, dry_run: bool) -> Result<(), Failure> {
    let device = find(sync::devices(vault)?, text)?;
    if device.this {
        let message = format!("{:?} is this device; nothing was changed", device.name);
        return Err(Failure::new(Code::Usage, "is_this_device", message).hint(
            "`espejo devices retire` on another device, or `espejo remote forget` to leave the mirror here",
        ));
    }
    if !dry_run && !device.retired {
        vault.retire_device(device.id)?;
        vault.note_activity(Some("device_retired"), &[], &[]);
    }
    let mut json = json!({ "retired": { "id": device.id.to_string(), "name": device.name } });
    if dry_run {
        json["dry_run"] = json!(true);
    }
    context.output.result(&json, || match (dry_run, device.retired) {
        (true, false) => format!("would retire {}: nothing would wait for it any more", device.name),
        (_, true) => format!("{} is retired already", device.name),
        (false, false) => format!("{} is retired: nothing waits for it any more", device.name),
    })?;
    if !dry_run && !device.retired {
        context.output.note("the next `espejo sync` tells the others; should it come back, it counts again");
        context.output.note("if it was lost or stolen, `espejo rekey` shuts out whoever has it from what is written from now on");
    }
    Ok(())
}

/// The device a person means: its name, or the first digits of its id.
fn find(devices: Vec<DeviceState>, text: &str) -> Result<DeviceState, Failure> {
    let prefix = text.to_ascii_lowercase();
    let by_id =
        |device: &DeviceState| prefix.len() >= MIN_PREFIX_LEN && device.id.to_string().starts_with(&prefix);
    let mut found = devices.into_iter().filter(|it| it.name == text || by_id(it)).collect::<Vec<_>>();
    match found.len() {
        0 => Err(Failure::new(Code::NotFound, "not_found", format!("no device is called {text:?}"))
            .hint("`espejo devices` lists them")),
        1 => Ok(found.remove(0)),
        _ => {
            let ids = found.iter().map(|device| short(device.id)).collect::<Vec<_>>().join(", ");
            Err(Failure::new(Code::NotFound, "ambiguous", format!("{text:?} fits {ids}"))
                .hint("give the first digits of its id"))
        }
    }
}
