//! `log` without an entry: what happened in the vault.

use espejo::vault::Activity;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{line, size};
use crate::when;

pub fn log(context: &Context<'_>, number: usize) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| {
        let mut events = vault.activities();
        events.reverse();
        events.truncate(number);
        let json = json!({ "events": events.iter().map(to_json).collect::<Vec<_>>() });
        context.output.result(&json, || events.iter().map(to_text).collect())?;
        if events.is_empty() {
            context
                .output
                .note("nothing is noted yet: syncs, backups, repairs, restores and new passwords will be");
        }
        Ok(())
    })
}

fn to_json(event: &Activity) -> Value {
    let mut json = json!(event.numbers);
    json["at"] = json!(when::rfc3339(event.at));
    json["kind"] = json!(event.kind);
    if let Some(message) = &event.message {
        json["message"] = json!(message);
    }
    json
}

fn to_text(event: &Activity) -> String {
    if let Some(message) = &event.message {
        return format!("{}  {}\n", when::minute(event.at), line(message, 200));
    }
    let what = match event.kind.as_str() {
        "sync" => "synced",
        "taken_in" => "read what came while it was locked",
        "backup" => "backup made",
        "repair" => "repaired",
        "restore" => "restored from a backup",
        "password" => "the password was changed",
        "recovery_key" => "new recovery words",
        "rekey" => "a new master key",
        "mirror_set" => "a mirror was set",
        "mirror_forgotten" => "the mirror was forgotten",
        "joined" => "this device joined",
        "device_retired" => "a device was retired",
        other => other,
    };
    let numbers = event.numbers.iter().map(|(name, count)| match name.as_str() {
        "bytes" => size(*count),
        "pushed" => format!("{count} up"),
        "pulled" => format!("{count} down"),
        "conflicts" => format!("{count} in conflict"),
        name => format!("{count} {name}"),
    });
    let numbers = numbers.collect::<Vec<_>>().join(", ");
    let colon = if numbers.is_empty() { "" } else { ": " };
    format!("{}  {}{colon}{}\n", when::minute(event.at), line(what, 60), line(&numbers, 200))
}
