//! One file for each family of commands: from arguments to library calls to output.

pub mod activity;
pub mod backup;
pub mod conflicts;
pub mod devices;
pub mod doctor;
pub mod export;
pub mod health;
pub mod history;
pub mod home;
pub mod import;
pub mod keys;
pub mod manual;
pub mod migrate;
pub mod mirror;
pub mod privacy;
pub mod read;
pub mod remote_test;
pub mod repair;
pub mod service;
pub mod setup;
pub mod write;

use espejo::entry::{Content, SCHEMA};
use espejo::id::{EntryId, VersionId};
use espejo::vault::{EntryState, Saved};
use serde_json::{Value, json};

use crate::context::ThisVault;
use crate::failure::{Code, Failure};

/// `{"changed":[{"id","version"}]}`
fn changed(saved: &[Saved]) -> Value {
    let changed =
        saved.iter().map(|it| json!({ "id": it.entry.to_string(), "version": it.version.to_string() }));
    json!({ "changed": changed.collect::<Vec<_>>() })
}

/// The content of a live version, or why there is none.
fn live_content(vault: &mut ThisVault, version: VersionId) -> Result<Content, Failure> {
    vault.content(version)?.ok_or_else(|| {
        Failure::new(Code::NotFound, "deleted", "this version is a deletion; it has no content")
            .hint("`espejo log ID` shows the versions before")
    })
}

/// The first digits of an id that tell it from all others in the vault.
fn short_id(vault: &mut ThisVault, id: EntryId) -> Result<String, Failure> {
    let ids = vault.manifest()?.entry_ids().collect::<Vec<_>>();
    let short = crate::output::short_ids(&ids);
    let position = ids.iter().position(|other| *other == id);
    Ok(position.map_or_else(|| espejo::event::short(id), |at| short[at].clone()))
}

/// How a damaged thing's entry is called: `entry 7f3a "Title"`.
fn entry_name(vault: &mut ThisVault, entry: Option<EntryId>) -> Result<String, Failure> {
    let Some(id) = entry else { return Ok("no entry known".to_owned()) };
    let short = short_id(vault, id)?;
    Ok(match vault.entry(id) {
        Ok(entry) => format!("entry {short} \"{}\"", crate::output::line(title_or_placeholder(&entry), 40)),
        Err(_) => format!("entry {short}"),
    })
}

fn title_or_placeholder(entry: &EntryState) -> &str {
    match entry.summary.title.as_str() {
        "" if entry.schema > SCHEMA => "(needs a newer espejo)",
        "" => "(no title)",
        title => title,
    }
}
