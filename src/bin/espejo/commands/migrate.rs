//! `migrate`: what was written by older programs, and storing it in the form of today.

use std::collections::BTreeMap;

use espejo::entry::SCHEMA;
use espejo::manifest::Manifest;
use espejo::sync::{self, unreadable_by};
use espejo::version::Kind;
use serde_json::json;

use crate::args;
use crate::context::{Context, ThisVault};
use crate::failure::{Code, Failure};
use crate::output::{count, line, warn};
use crate::progress::Bar;

/// Versions stored together, between two looks at the bar.
const BATCH: usize = 256;

pub fn migrate(context: &Context<'_>, args: &args::Migrate) -> Result<(), Failure> {
    let mut vault = context.vault()?;
    context.with_vault(&mut vault, |vault| match (args.all, args.dry_run) {
        (true, false) => all(context, vault),
        (true, true) => would(context, vault),
        (false, _) => status(context, vault),
    })
}

fn all(context: &Context<'_>, vault: &mut ThisVault) -> Result<(), Failure> {
    let outdated = vault.outdated()?;
    let mut bar = Bar::new(context.output);
    let (mut stored, mut unreadable, mut done) = (0, 0, 0);
    for batch in outdated.chunks(BATCH) {
        let migrated = vault.migrate(batch)?;
        stored += migrated.stored;
        unreadable += migrated.unreadable;
        done += batch.len() as u64;
        bar.at("storing anew", done, outdated.len() as u64);
    }
    drop(bar);
    let json = json!({ "migrated": stored, "unreadable": unreadable });
    context.output.result(&json, || match stored {
        0 => format!("everything that can be read is in schema {SCHEMA} already\n"),
        _ => format!("{} stored in schema {SCHEMA}\n", count(stored, "version", "versions")),
    })?;
    if stored > 0 {
        context.output.note(
            "the old form of each stays beside it for devices with an older program, as long as the version does",
        );
    }
    if unreadable > 0 {
        let versions = count(unreadable, "version", "versions");
        warn(format_args!("{versions} could not be read and stay as they are; `espejo check` names them"));
        return Err(Failure::silent(Code::Incomplete));
    }
    Ok(())
}

fn would(context: &Context<'_>, vault: &mut ThisVault) -> Result<(), Failure> {
    let outdated = vault.outdated()?.len() as u64;
    let json = json!({ "migrated": 0, "would_migrate": outdated, "dry_run": true });
    context.output.result(&json, || {
        format!("{} would be stored in schema {SCHEMA}\n", count(outdated, "version", "versions"))
    })
}

fn status(context: &Context<'_>, vault: &mut ThisVault) -> Result<(), Failure> {
    let devices = sync::devices(vault)?;
    let outdated = vault.outdated()?.len() as u64;
    let manifest = vault.manifest()?;
    let by_schema = by_schema(manifest);
    let newer = by_schema.range(SCHEMA + 1..).map(|(_, versions)| versions).sum::<u64>();
    let devices = devices.iter().filter(|device| !device.retired);
    let devices =
        devices.map(|device| (device, unreadable_by(&device.program, manifest))).collect::<Vec<_>>();
    let json = json!({
        "schema": SCHEMA,
        "versions": by_schema
            .iter()
            .map(|(schema, versions)| json!({ "schema": schema, "count": versions }))
            .collect::<Vec<_>>(),
        "outdated": outdated,
        "newer": newer,
        "devices": devices
            .iter()
            .map(|(device, unreadable)| {
                json!({
                    "id": device.id.to_string(),
                    "name": device.name,
                    "this": device.this,
                    "program": device.program,
                    "unreadable": unreadable,
                })
            })
            .collect::<Vec<_>>(),
    });
    context.output.result(&json, || {
        let mut text = format!("this program writes schema {SCHEMA}\n");
        for (schema, versions) in &by_schema {
            let note = if *schema > SCHEMA { "  needs a newer espejo" } else { "" };
            text.push_str(&format!("  schema {schema}  {}{note}\n", count(*versions, "version", "versions")));
        }
        for (device, unreadable) in &devices {
            let name = format!("{} ({})", line(&device.name, 40), line(&device.program, 30));
            text.push_str(&match unreadable {
                Some(0) => format!("  {name} can read everything\n"),
                Some(n) => format!("  {name} cannot read {}\n", count(*n, "version", "versions")),
                None => format!("  {name} is not known to this program\n"),
            });
        }
        text
    })?;
    if outdated > 0 {
        context
            .output
            .note("hint: `espejo migrate --all` stores them in today's schema; showing an entry does it too");
    }
    Ok(())
}

/// How many live versions are written in each schema: each counts in the newest it is written in.
fn by_schema(manifest: &Manifest) -> BTreeMap<u32, u64> {
    let mut by_schema = BTreeMap::new();
    for state in manifest.versions().filter(|state| state.version.kind == Kind::Live) {
        if let Some(schema) = manifest.encodings(state).map(|object| object.row.schema).max() {
            *by_schema.entry(schema).or_default() += 1;
        }
    }
    by_schema
}
