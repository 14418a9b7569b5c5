//! From the address a person has at hand to the settings of a mirror: what is there, and who signs in.

use std::io::{self, IsTerminal};
use std::process::Stdio;

use espejo::clock::SystemClock;
use espejo::remote::nextcloud::{self, AppPassword, Link, Server};
use espejo::remote::{RemoteError, RemoteErrorKind, Target};
use espejo::vault::RemoteSettings;
use tokio::runtime::Runtime;
use url::Url;

use crate::args::{Global, SignIn};
use crate::context::{certificate_authority, remote_settings};
use crate::failure::{Code, Failure};
use crate::output::warn;
use crate::secrets::{self, tell};

/// A mirror, found.
pub struct Mirror {
    pub settings: RemoteSettings,
    /// The Nextcloud it is on, where one was asked.
    pub server: Option<Product>,
    /// A server answers that is no Nextcloud: nobody knows yet whether it does.
    pub is_unknown: bool,
}

/// What a server calls itself.
pub struct Product {
    pub product: String,
    pub version: String,
}

/// Whether this is a server's address, and no directory's.
pub fn is_server(target: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        target.trim_start().get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

/// Finds the mirror that `target` means. A directory, and a whole address in a Nextcloud, are taken as they stand.
pub fn find_mirror(
    global: &Global,
    runtime: &Runtime,
    target: &str,
    sign_in: &SignIn,
) -> Result<Mirror, Failure> {
    let as_it_stands = |target: &str, is_unknown| {
        let settings = remote_settings(global, target, &sign_in.login)?;
        Ok(Mirror { settings, server: None, is_unknown })
    };
    if !is_server(target) {
        return match sign_in.by_browser {
            true => {
                Err(Failure::usage("--login signs in to a server, and this is none; nothing was changed"))
            }
            false => as_it_stands(target, false),
        };
    }
    let link = Link::read(target)?;
    if let (true, false, Some(address)) = (link.is_complete, sign_in.by_browser, &link.address) {
        return as_it_stands(address.as_str(), false);
    }
    let ca_pem = certificate_authority(&sign_in.login)?;
    let found = runtime.block_on(nextcloud::find(&link, ca_pem.as_deref().map(str::as_bytes)));
    match (found, &link.address) {
        (Ok(nextcloud::Found::Nextcloud(server)), _) => {
            let (user, password, url) = signed_in(global, runtime, &server, sign_in)?;
            let target = Target::WebDav(url).to_string();
            let settings = RemoteSettings {
                target,
                user: Some(user),
                password: Some(password),
                ca_pem,
                initialised: false,
            };
            let server = Some(Product { product: server.product.clone(), version: server.version.clone() });
            Ok(Mirror { settings, server, is_unknown: false })
        }
        (Ok(nextcloud::Found::Other(_)), Some(address)) if !sign_in.by_browser => {
            as_it_stands(address.as_str(), true)
        }
        (Ok(nextcloud::Found::Other(said)), _) => Err(no_nextcloud(&said)),
        // Offline, an address can be set all the same.
        (Err(error), Some(address)) if !sign_in.by_browser && may_come_back(&error) => {
            let mirror = as_it_stands(address.as_str(), false)?;
            warn(format_args!(
                "whether this is a Nextcloud could not be asked ({error}); the address is taken as it stands"
            ));
            Ok(mirror)
        }
        (Err(error), _) => Err(nothing_set(error)),
    }
}

/// Whether nobody knows what is there, and not that it is closed or refuses.
fn may_come_back(error: &RemoteError) -> bool {
    use RemoteErrorKind as K;
    matches!(error.kind, K::Unreachable | K::Interrupted | K::Untrusted)
}

/// A failure while no mirror is set yet: what can be done is not what a sync would.
fn nothing_set(error: RemoteError) -> Failure {
    use RemoteErrorKind as K;
    let hint = match &error.kind {
        K::Unauthorized => "--login signs in with your browser; with --user U give an app password",
        K::Malformed | K::Oversize | K::NotDav | K::Unexpected { .. } => {
            "--user U with an app password does without the browser, the WebDAV address without the search"
        }
        kind if kind.is_transient() => "check the network and the address, then the same command again",
        _ => return error.into(),
    };
    Failure::from(error).hint(hint)
}

fn no_nextcloud(said: &RemoteError) -> Failure {
    let message = format!("there is no Nextcloud at this address ({said}); nothing was changed");
    Failure::new(Code::NotFound, "not_nextcloud", message)
        .hint("of another server give the WebDAV address, without ? or #, and --user U")
}

/// Who signs in to a Nextcloud, with which password, and where their mirror is.
fn signed_in(
    global: &Global,
    runtime: &Runtime,
    server: &Server,
    sign_in: &SignIn,
) -> Result<(String, String, Url), Failure> {
    let login = &sign_in.login;
    let is_given = login.user.is_some() || secrets::is_remote_password_given(login);
    let (user, password) = match &login.user {
        Some(user) => {
            let password = secrets::remote_password(global, login)?.unwrap_or_default();
            (user.clone(), password)
        }
        None if sign_in.by_browser || (!is_given && secrets::is_somebody_there(global)) => {
            let AppPassword { user, password } = by_browser(global, runtime, server)?;
            (user, password)
        }
        None => {
            let message = format!(
                "{} {} is there, and wants to know who you are; nothing was changed",
                server.product, server.version
            );
            return Err(Failure::usage(message)
                .hint("--login signs in with your browser; or --user U --remote-password-file F, with an app password"));
        }
    };
    let url = runtime.block_on(server.mirror_url(&user, &password)).map_err(nothing_set)?;
    Ok((user, password.to_string(), url))
}

/// Has the person sign in with a browser, and waits for that.
fn by_browser(global: &Global, runtime: &Runtime, server: &Server) -> Result<AppPassword, Failure> {
    runtime.block_on(async {
        let flow = server.begin_login().await.map_err(|error| match error.kind {
            RemoteErrorKind::NotFound => {
                let message = format!(
                    "this {} lets nobody sign in with a browser; nothing was changed",
                    server.product
                );
                Failure::new(Code::NotFound, "no_login_page", message).hint("--user U, with an app password")
            }
            _ => nothing_set(error),
        })?;
        tell("Sign in to your server with a browser, on this or any other device, and grant access:");
        tell(&format!("  {}", flow.page()));
        if secrets::is_somebody_there(global) && io::stderr().is_terminal() && has_display() {
            open_browser(flow.page().as_str());
        }
        tell("Waiting for that, for 20 minutes at most (Ctrl-C ends it; nothing is changed until then) …");
        tokio::select! {
            granted = flow.wait(&SystemClock) => granted.map_err(nothing_set)?.ok_or_else(|| {
                let message = "nobody signed in for 20 minutes; nothing was changed";
                Failure::new(Code::Temporary, "login_expired", message).hint("the same command again")
            }),
            _ = tokio::signal::ctrl_c() => {
                let message = "stopped before anybody signed in; nothing was changed";
                Err(Failure::new(Code::Interrupted, "interrupted", message))
            }
        }
    })
}

/// Starts the browser with a page, if there is one; nobody needs it, for the address is on the screen. Not by
/// `open::that_detached`: the thread it waits in has a stack of 64 KiB, too small for the first allocation of a thread.
fn open_browser(page: &str) {
    use std::os::unix::process::CommandExt as _;
    let started = open::commands(page).into_iter().find_map(|mut command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0).spawn().ok()
    });
    if let Some(mut browser) = started {
        // Somebody has to take notice of its end.
        std::thread::spawn(move || browser.wait());
    }
}

/// Whether a browser would have somewhere to appear.
fn has_display() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(target_os = "macos") || is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
}
