//! `privacy`: what the mirror's owner can see.

use espejo::event::short;
use espejo::format::keyfile::KeyFile;
use espejo::sync::{self, Exposure, exposure};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{count, line, size};
use crate::when;

pub fn privacy(context: &Context<'_>) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    let target = vault.remote_settings()?.ok_or(sync::Error::NoRemote)?.target.clone();
    let exposed = exposure(&mut vault)?;
    context.output.result(&json(&exposed), || text(&exposed, &target))
}

fn json(exposed: &Exposure) -> Value {
    let devices = exposed.devices.iter().map(|(id, activity)| {
        json!({ "id": id.to_string(), "announcements": activity.announcements, "files": activity.files })
    });
    let key_files = exposed.key_files.iter().map(|key| {
        json!({
            "generation": key.generation,
            "created": when::rfc3339(key.created_ms),
            "device": key.device.to_string(),
            "recovery": key.has_recovery(),
        })
    });
    json!({
        "vault_id": exposed.vault.to_string(),
        "devices": devices.collect::<Vec<_>>(),
        "files": exposed.files,
        "packs": exposed.packs,
        "bytes": exposed.bytes,
        "lengths": exposed.lengths,
        "versions": exposed.versions,
        "parts": exposed.parts,
        "schemas": exposed.schemas,
        "epochs": exposed.epochs,
        "key_files": key_files.collect::<Vec<_>>(),
    })
}

fn text(exposed: &Exposure, target: &str) -> String {
    let mut text = format!("Whoever owns {} can see\n", line(target, 200));
    let mut see = |what: String| text.push_str(&format!("  · {what}\n"));
    see(format!("that it is the mirror of an Espejo vault, number {}", short(exposed.vault)));
    see(format!(
        "{} of {}, and when each came: {}, in {}",
        count(exposed.files, "file", "files"),
        size(exposed.bytes),
        count(exposed.versions, "saved version", "saved versions"),
        count(exposed.lengths, "length", "different lengths"),
    ));
    if exposed.parts > 0 {
        see(format!("that {} are long texts or attachments, up to 4 MiB each", exposed.parts));
    }
    for (device, activity) in &exposed.devices {
        let announcements = count(activity.announcements, "announcement", "announcements");
        let files = count(activity.files, "file", "files");
        see(format!(
            "a device {}: {announcements}, {files}, when it reads and from which address",
            short(*device)
        ));
    }
    exposed.key_files.iter().for_each(|key| see(describe(key)));
    text.push_str(
        "and cannot see texts, titles, tags, dates, names of files or devices, which versions are of one\n\
         entry, or which of them delete it. A wrong guess of the password can be tried as often as it likes.",
    );
    text
}

fn describe(key: &KeyFile) -> String {
    let recovery = if key.has_recovery() { "with a recovery key" } else { "without a recovery key" };
    let (when, device) = (when::minute(key.created_ms), short(key.device));
    format!("key file {}, made {when} by device {device}, {recovery}", key.generation)
}
