//! `devices invite` and `join`: one line brings another device to the mirror. Nothing in it is secret.

use std::io::{self, IsTerminal};

use espejo::event::short;
use espejo::format::invitation::{Invitation, InvitationError};
use espejo::id::VaultId;
use espejo::remote::Target;
use espejo::sync;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use crate::args::SignIn;
use crate::context::{Context, ThisVault};
use crate::failure::{Code, Failure};
use crate::output::line;

/// Prints a line with which another device finds the mirror; on a terminal also as an image to photograph.
pub fn invite(context: &Context<'_>, vault: &ThisVault) -> Result<(), Failure> {
    let settings = vault.remote_settings()?.ok_or(sync::Error::NoRemote)?;
    if !settings.initialised {
        let message = "the mirror is not made yet: there is nothing to join";
        return Err(Failure::new(Code::NotFound, "no_mirror", message).hint("`espejo sync` makes it"));
    }
    let invitation =
        Invitation { vault: vault.id(), target: settings.target.clone(), user: settings.user.clone() };
    let text = invitation.encode().ok_or_else(|| {
        Failure::new(Code::Other, "too_long", "the mirror's address is too long for an invitation")
            .hint("`espejo clone ADDRESS` on the other device")
    })?;
    let json = json!({
        "invitation": text,
        "target": settings.target,
        "user": settings.user,
        "vault_id": vault.id().to_string(),
    });
    let out = context.output;
    if !out.json && !out.quiet && io::stderr().is_terminal() {
        out.note(image(&text).unwrap_or_default());
    }
    out.result(&json, || text.clone())?;
    out.note("on the other device, or with what its camera read:  espejo join LINE");
    out.note("it asks there for the vault's password and for the server's; neither is in the line");
    if settings.ca_pem.is_some() {
        out.note("your server's certificate authority is not in it either: --ca-file F");
    }
    if let Ok(Target::Folder(_)) = Target::parse(&settings.target) {
        out.note(format_args!(
            "it leads to {}: there, the folder has to be at the same place",
            line(&settings.target, 200)
        ));
    }
    Ok(())
}

/// As light and dark blocks for a dark terminal: phones read it the other way round, too.
fn image(text: &str) -> Option<String> {
    let code = QrCode::new(text.as_bytes()).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// Reads an invitation.
pub fn read(text: &str) -> Result<Invitation, Failure> {
    Invitation::decode(text).map_err(|error| match error {
        InvitationError::Damaged => {
            Failure::new(Code::Usage, "bad_invitation", format!("{error}; nothing was made"))
                .hint("copy the whole line, or make it again: `espejo devices invite`")
        }
        InvitationError::Newer => {
            Failure::new(Code::Newer, "newer", format!("{error}; nothing was made")).hint("update espejo")
        }
    })
}

/// Who signs in: as was said here, else who was invited.
pub fn signs_in(invitation: &Invitation, given: &SignIn) -> SignIn {
    let mut sign_in = given.clone();
    if !sign_in.by_browser && sign_in.login.user.is_none() {
        sign_in.login.user.clone_from(&invitation.user);
    }
    sign_in
}

/// Stops if there is another vault than the one that was meant.
pub fn require_invited(invitation: &Invitation, found: VaultId) -> Result<(), Failure> {
    if found == invitation.vault {
        return Ok(());
    }
    let (found, meant) = (short(found), short(invitation.vault));
    let message = format!(
        "there is the mirror of another vault ({found}) than of the one you were invited to ({meant}); nothing was made"
    );
    Err(Failure::new(Code::Guard, "other_vault", message)
        .hint("ask whoever invited you: the server may show something else than they meant"))
}
