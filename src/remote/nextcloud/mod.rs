//! Nextcloud and ownCloud: finding a person's files behind whatever address they have at hand, and signing in there.
//!
//! Everything a server says here is a stranger's word. Answers are short or refused, nothing but the server that was
//! named is asked, and nothing is followed anywhere else.

use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use super::webdav::client::{HttpClient, Request};
use super::webdav::status::Verb;
use super::{RemoteError, RemoteErrorKind, WebDavConfig, WebDavRemote, sanitize};

mod link;
mod login;

pub use link::{Entrance, Link};
pub use login::{AppPassword, Flow};

/// The folder a mirror gets where none is named.
pub const DEFAULT_FOLDER: &str = "Espejo";

/// No answer here is longer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// What is at an address.
#[derive(Debug)]
pub enum Found {
    /// A Nextcloud or an ownCloud.
    Nextcloud(Box<Server>),
    /// Something else answers; with what the last request said.
    Other(RemoteError),
}

/// A Nextcloud or an ownCloud.
#[derive(Debug)]
pub struct Server {
    entrance: Entrance,
    ca_file_pem: Option<Vec<u8>>,
    /// Signed in as nobody.
    http: HttpClient,
    /// What it calls itself.
    pub product: String,
    /// Its version.
    pub version: String,
}

#[derive(Deserialize)]
struct StatusJson {
    installed: bool,
    #[serde(default)]
    maintenance: bool,
    #[serde(default)]
    productname: String,
    versionstring: String,
}

/// Asks each entrance whether there is a Nextcloud behind it. Nobody signs in for that.
///
/// # Errors
///
/// If nothing answers, or it is one that is closed for maintenance.
pub async fn find(link: &Link, ca_file_pem: Option<&[u8]>) -> Result<Found, RemoteError> {
    let mut last = RemoteError::new(RemoteErrorKind::NotFound, "", "");
    for entrance in &link.entrances {
        let http = HttpClient::new(entrance.root.clone(), None, None, ca_file_pem)?;
        let path = format!("{}status.php", entrance.root.path());
        match ask(&http, Request::new(Verb::Get, &path)).await {
            Ok(body) => {
                let Ok(status) = serde_json::from_slice::<StatusJson>(&body) else {
                    last = http.error(RemoteErrorKind::NotDav, Verb::Get, &path, "");
                    continue;
                };
                if status.maintenance || !status.installed {
                    let kind = RemoteErrorKind::Unavailable { status: 503, retry_after_secs: None };
                    return Err(http.error(kind, Verb::Get, &path, "it is closed for maintenance"));
                }
                let product = match sanitize(&status.productname) {
                    unnamed if unnamed.is_empty() => "ownCloud".to_owned(),
                    product => product,
                };
                return Ok(Found::Nextcloud(Box::new(Server {
                    entrance: entrance.clone(),
                    ca_file_pem: ca_file_pem.map(<[u8]>::to_vec),
                    http,
                    product,
                    version: sanitize(&status.versionstring),
                })));
            }
            Err(error) if says_no(&error.kind) => last = error,
            Err(error) => return Err(error),
        }
    }
    Ok(Found::Other(last))
}

/// Whether an answer means that what was asked for is not there, and not that nobody can tell.
fn says_no(kind: &RemoteErrorKind) -> bool {
    use RemoteErrorKind as K;
    matches!(
        kind,
        K::NotFound
            | K::NotDav
            | K::Unauthorized
            | K::Forbidden
            | K::Redirected { .. }
            | K::Oversize
            | K::Malformed
            | K::Unexpected { .. }
    )
}

impl Server {
    /// The address of the mirror in the files of whoever signs in as `user`, who is asked for by name: the number or
    /// name a server keeps files under may be another than the one that signs in.
    ///
    /// # Errors
    ///
    /// If the credentials are refused, or there are no such files.
    pub async fn mirror_url(&self, user: &str, password: &Zeroizing<String>) -> Result<Url, RemoteError> {
        let id = self.user_id(user, password).await?;
        let files = self.files(&id, &[]);
        let remote = WebDavRemote::new(WebDavConfig {
            base_url: files.to_string(),
            user: Some(user.to_owned()),
            password: Some(password.clone()),
            ca_file_pem: self.ca_file_pem.clone(),
        })?;
        if !remote.is_there().await? {
            let detail = format!("the server has no files of {id}");
            return Err(self.http.error(RemoteErrorKind::NotDav, Verb::Propfind, files.path(), &detail));
        }
        let default = [DEFAULT_FOLDER.to_owned()];
        let folder = if self.entrance.folder.is_empty() { &default[..] } else { &self.entrance.folder };
        Ok(self.files(&id, folder))
    }

    /// The id of the person who signs in as `user`; the same, if the server does not tell.
    async fn user_id(&self, user: &str, password: &Zeroizing<String>) -> Result<String, RemoteError> {
        let root = &self.entrance.root;
        let (user, password) = (user.to_owned(), password.clone());
        let http =
            HttpClient::new(root.clone(), Some(user.clone()), Some(password), self.ca_file_pem.as_deref())?;
        let path = format!("{}ocs/v2.php/cloud/user?format=json", root.path());
        let request =
            Request::new(Verb::Get, &path).header("ocs-apirequest", HeaderValue::from_static("true"));
        let told = match ask(&http, request).await {
            Ok(body) => serde_json::from_slice::<Value>(&body).ok(),
            Err(error) if error.kind == RemoteErrorKind::Unauthorized => return Err(error),
            Err(error) if says_no(&error.kind) => None,
            Err(error) => return Err(error),
        };
        let told = told.and_then(|told| told["ocs"]["data"]["id"].as_str().map(str::to_owned));
        match told.unwrap_or(user) {
            id if link::is_name(&id) => Ok(id),
            _ => Err(http.error(RemoteErrorKind::Malformed, Verb::Get, &path, "nobody is called so")),
        }
    }

    /// The collection of somebody's files, or of a folder among them.
    fn files(&self, id: &str, folder: &[String]) -> Url {
        let mut url = self.entrance.root.clone();
        if let Ok(mut names) = url.path_segments_mut() {
            names.pop_if_empty().extend(["remote.php", "dav", "files", id]).extend(folder).push("");
        }
        url
    }
}

/// Sends a request whose answer is a few lines of JSON.
async fn ask(http: &HttpClient, mut request: Request<'_>) -> Result<Vec<u8>, RemoteError> {
    request.max_bytes = MAX_ANSWER_BYTES;
    let mut body = Vec::new();
    http.send(request, &mut body).await?;
    Ok(body)
}
