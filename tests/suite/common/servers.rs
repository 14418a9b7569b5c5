//! Real WebDAV servers, run by `tests/servers/serve.py` for as long as a test needs one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use zeroize::Zeroizing;

use super::proxy::Proxy;
use espejo::embedded::EmbeddedServer;
use espejo::remote::{WebDavConfig, WebDavRemote};

/// A running server. It stops when this is dropped.
pub struct RealServer {
    /// The served collection, ending in a slash.
    pub url: String,
    pub user: String,
    pub password: String,
    /// The directory behind `url`.
    pub root: PathBuf,
    /// Where the server notes each request.
    pub access_log: PathBuf,
    /// The authority that signed its certificate, with TLS.
    pub ca_file: Option<PathBuf>,
    process: Child,
    _dir: tempfile::TempDir,
}

impl RealServer {
    /// Starts the server `name`. One that cannot start fails the test: a promise nobody tried is not kept.
    pub fn start(name: &str, tls: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Apache drops its rights, and must still reach what it serves.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/serve.py");
        let mut process = Command::new("python3")
            .arg(script)
            .args([name, "--dir"])
            .arg(dir.path())
            .args(tls.then_some("--tls"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed to run real servers");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(told) = serde_json::from_str::<Value>(&line) else {
            let status = process.wait().unwrap();
            panic!(
                "{name} did not start ({status}): see above; tests/servers/install.sh installs the servers"
            );
        };
        let text =
            |key: &str| told[key].as_str().unwrap_or_else(|| panic!("{name}: no {key} in {line}")).to_owned();
        Self {
            url: text("url"),
            user: text("user"),
            password: std::fs::read_to_string(text("password_file")).unwrap().trim().to_owned(),
            root: text("root").into(),
            access_log: text("access_log").into(),
            ca_file: told["ca_file"].as_str().map(PathBuf::from),
            process,
            _dir: dir,
        }
    }

    /// How to reach `below` the served collection with the right password.
    pub fn config(&self, below: &str) -> WebDavConfig {
        WebDavConfig {
            base_url: format!("{}{below}", self.url),
            user: Some(self.user.clone()),
            password: Some(Zeroizing::new(self.password.clone())),
            ca_file_pem: self.ca_file.as_ref().map(|file| std::fs::read(file).unwrap()),
        }
    }

    /// A mirror `below` the served collection.
    pub fn remote(&self, below: &str) -> WebDavRemote {
        WebDavRemote::new(self.config(below)).unwrap()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The embedded server on an empty directory, with the runtime it lives in.
pub struct Embedded {
    pub server: EmbeddedServer,
    _runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
}

impl Embedded {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (runtime, dir) = (runtime.unwrap(), tempfile::tempdir().unwrap());
        let inside = runtime.enter();
        let server = EmbeddedServer::start(dir.path().to_owned(), "ada", "secret").unwrap();
        drop(inside);
        Self { server, _runtime: runtime, dir }
    }
}

/// The embedded server behind a proxy, with the runtime it lives in.
pub struct Site {
    pub proxy: Proxy,
    /// The directory behind the mirror.
    pub root: PathBuf,
    _embedded: Embedded,
}

impl Site {
    pub fn start() -> Self {
        let embedded = Embedded::start();
        let address =
            embedded.server.url().trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let root = embedded.dir.path().join("journal");
        Self { proxy: Proxy::start(address), root, _embedded: embedded }
    }

    pub fn target(&self) -> String {
        self.proxy.url() + "journal/"
    }
}
