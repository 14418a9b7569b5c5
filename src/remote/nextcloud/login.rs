//! Login Flow v2: the person signs in with their browser, and this program is given a password of its own.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Deserializer};
use url::Url;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::super::webdav::client::{HttpClient, Request};
use super::super::webdav::status::Verb;
use super::super::{RemoteError, RemoteErrorKind};
use super::{Server, ask};
use crate::clock::Clock;

/// As long as a Nextcloud itself waits.
const PATIENCE_MS: i64 = 20 * 60 * 1_000;
/// How long between two questions whether somebody has signed in.
const PAUSE: Duration = Duration::from_secs(2);
/// After so many answers of the kind that passes by itself, one after the other, nobody asks any more.
const MAX_FAILURES: u32 = 10;

const MAX_TOKEN_BYTES: usize = 1_024;
const MAX_PAGE_BYTES: usize = 2_048;
const MAX_LOGIN_BYTES: usize = 512;

/// A login that waits for a person.
#[derive(Debug)]
pub struct Flow<'a> {
    http: &'a HttpClient,
    page: Url,
    /// Where to ask, on the same server.
    endpoint: String,
    question: Bytes,
}

/// What a server gives a program in place of the person's own password.
pub struct AppPassword {
    /// The name that signs in.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

#[derive(Deserialize)]
struct BegunJson {
    poll: PollJson,
    login: String,
}

#[derive(Deserialize)]
struct PollJson {
    #[serde(deserialize_with = "secret")]
    token: Zeroizing<String>,
    endpoint: String,
}

#[derive(Deserialize)]
struct GrantedJson {
    server: String,
    #[serde(rename = "loginName")]
    login_name: String,
    #[serde(rename = "appPassword", deserialize_with = "secret")]
    app_password: Zeroizing<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl Server {
    /// Begins a login. Nothing comes of it unless somebody opens its page and agrees.
    ///
    /// # Errors
    ///
    /// [`NotFound`](RemoteErrorKind::NotFound) if this server knows no such thing; [`Malformed`](RemoteErrorKind::Malformed)
    /// if it names another server than itself.
    pub async fn begin_login(&self) -> Result<Flow<'_>, RemoteError> {
        let path = format!("{}index.php/login/v2", self.entrance.root.path());
        let mut request = Request::new(Verb::Post, &path);
        request.body = Some(Bytes::new());
        let body = Zeroizing::new(ask(&self.http, request).await?);
        let refuse = |detail: &str| self.http.error(RemoteErrorKind::Malformed, Verb::Post, &path, detail);
        let begun = serde_json::from_slice::<BegunJson>(&body).map_err(|_| refuse(""))?;
        let here = |text: &str| here(&self.entrance.root, text).map_err(|detail| refuse(&detail));
        let (page, endpoint) = (here(&begun.login)?, here(&begun.poll.endpoint)?);
        if endpoint.query().is_some() || begun.poll.token.len() > MAX_TOKEN_BYTES {
            return Err(refuse(""));
        }
        let question = Serializer::new(String::new()).append_pair("token", &begun.poll.token).finish();
        Ok(Flow {
            http: &self.http,
            page,
            endpoint: endpoint.path().to_owned(),
            question: Bytes::from(question),
        })
    }
}

/// An address that leads to the server that was asked, or what is wrong with it.
fn here(root: &Url, text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|_| text.len() <= MAX_PAGE_BYTES);
    let url = url.ok_or("it names no address to sign in at")?;
    match url.origin() == root.origin() && url.username().is_empty() && url.password().is_none() {
        true => Ok(url),
        false => Err(format!(
            "it sends whoever signs in to {}, and not to {} (its `overwriteprotocol`, `overwritehost`?)",
            url.origin().ascii_serialization(),
            root.origin().ascii_serialization()
        )),
    }
}

impl Flow<'_> {
    /// The page on which a person agrees.
    pub fn page(&self) -> &Url {
        &self.page
    }

    /// Waits until somebody has agreed; `None` if nobody does in 20 minutes.
    pub async fn wait(&self, clock: &impl Clock) -> Result<Option<AppPassword>, RemoteError> {
        wait(clock, async || self.ask().await).await
    }

    /// Whether somebody has agreed: what they were given.
    async fn ask(&self) -> Result<Option<AppPassword>, RemoteError> {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut request = Request::new(Verb::Post, &self.endpoint).header("content-type", form);
        request.body = Some(self.question.clone());
        let body = match ask(self.http, request).await {
            // Not yet.
            Err(error) if error.kind == RemoteErrorKind::NotFound => return Ok(None),
            body => Zeroizing::new(body?),
        };
        self.granted(&body).map(Some)
    }

    fn granted(&self, body: &[u8]) -> Result<AppPassword, RemoteError> {
        let refuse =
            |detail: &str| self.http.error(RemoteErrorKind::Malformed, Verb::Post, &self.endpoint, detail);
        let granted = serde_json::from_slice::<GrantedJson>(body).map_err(|_| refuse(""))?;
        here(self.http.base(), &granted.server).map_err(|detail| refuse(&detail))?;
        let is_login = |text: &str| {
            (1..=MAX_LOGIN_BYTES).contains(&text.len()) && !text.contains(|c: char| c.is_control())
        };
        if !is_login(&granted.login_name)
            || granted.login_name.contains(':')
            || !is_login(&granted.app_password)
        {
            return Err(refuse("no name or password looks so"));
        }
        Ok(AppPassword { user: granted.login_name, password: granted.app_password })
    }
}

/// Asks until there is an answer, with patience for what passes by itself.
async fn wait<T>(
    clock: &impl Clock,
    mut ask: impl AsyncFnMut() -> Result<Option<T>, RemoteError>,
) -> Result<Option<T>, RemoteError> {
    let start = clock.now_ms();
    let mut failures = 0;
    loop {
        clock.sleep(PAUSE).await;
        match ask().await {
            Ok(Some(granted)) => return Ok(Some(granted)),
            Ok(None) => failures = 0,
            Err(error) if error.kind.is_transient() && failures < MAX_FAILURES => failures += 1,
            Err(error) => return Err(error),
        }
        if clock.now_ms().saturating_sub(start) >= PATIENCE_MS {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Asleep(Cell<i64>);

    impl Clock for Asleep {
        fn now_ms(&self) -> i64 {
            self.0.get()
        }

        async fn sleep(&self, duration: Duration) {
            self.0.set(self.0.get() + i64::try_from(duration.as_millis()).unwrap());
        }
    }

    fn run<T>(
        ask: impl AsyncFnMut() -> Result<Option<T>, RemoteError>,
    ) -> (Result<Option<T>, RemoteError>, i64) {
        let clock = Asleep(Cell::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = runtime.block_on(wait(&clock, ask));
        (result, clock.0.get())
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut asked = 0;
        let (result, waited) = run::<()>(async || {
            asked += 1;
            Ok(None)
        });
        assert_eq!((result, waited, asked), (Ok(None), PATIENCE_MS, 600));
    }

    #[test]
    fn what_passes_by_itself_is_waited_out_and_nothing_else() {
        let error = |kind| Err(RemoteError::new(kind, "", ""));
        let mut answers = vec![Ok(Some(7)), error(RemoteErrorKind::Unreachable), Ok(None)];
        assert_eq!(run(async || answers.pop().unwrap()), (Ok(Some(7)), 6_000));
        let (result, _) = run::<i32>(async || error(RemoteErrorKind::Forbidden));
        assert_eq!(result.unwrap_err().kind, RemoteErrorKind::Forbidden);
        let (result, waited) = run::<i32>(async || error(RemoteErrorKind::Unreachable));
        assert_eq!((result.unwrap_err().kind, waited), (RemoteErrorKind::Unreachable, 22_000));
    }

    #[test]
    fn only_the_server_that_was_asked_is_gone_to() {
        let root = Url::parse("https://cloud.example/nc/").unwrap();
        for good in ["https://cloud.example/login/v2/poll", "https://CLOUD.example:443/nc/login/v2/poll"] {
            assert!(here(&root, good).is_ok(), "{good}");
        }
        let long = format!("https://cloud.example/{}", "x".repeat(2_048));
        for bad in [
            "http://cloud.example/login/v2/poll",
            "https://cloud.example:8443/",
            "https://cloud.example.evil/",
            "https://cloud.example@evil/",
            "https://a:b@cloud.example/",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "/login/v2/poll",
            "",
            &long,
        ] {
            assert!(here(&root, bad).is_err(), "{bad}");
        }
    }
}
