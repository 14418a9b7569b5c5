//! What a Nextcloud answers beside WebDAV, as one was heard to say it, in front of a real WebDAV server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use data_encoding::BASE64;

use super::cli::Server;

const TOKEN: &str = "mQUYQdffOSAMJYtm8pVpkOsVqXt5hglnuSpO5EMbgJMNEPFGaiDe8OUjvrJ2WcYcBSLgqynu9jaPFvZHMl83ybMvp6aDIDARjTFIBpRWod6p32fL9LIpIStvc6k8Wrs1";

/// What can be told otherwise.
#[derive(Clone)]
pub struct Manner {
    /// The name that signs in.
    pub login: &'static str,
    /// The name the files are under.
    pub id: &'static str,
    pub app_password: &'static str,
    /// Where in the host it is, such as `/nextcloud`.
    pub below: &'static str,
    /// How often it is asked in vain whether somebody has signed in.
    pub pending: usize,
    /// The host it says it is, if not its own.
    pub origin: Option<String>,
    /// What `status.php` says instead.
    pub status: Option<String>,
    /// What is said to who asks for the person's id.
    pub user: Option<(&'static str, &'static str)>,
    /// What the poll says when somebody has signed in.
    pub granted: Option<String>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            login: "ana@example.org",
            id: "ana-7",
            app_password: "yKTVA4zgxjfivy52WqD8kW3M2pKGQr6srmUXMipRdunxjPFripJn0GMfmtNOqOolYSuJ6sCN",
            below: "",
            pending: 1,
            origin: None,
            status: None,
            user: None,
            granted: None,
        }
    }
}

/// A server on this machine that looks like a Nextcloud, until it is dropped.
pub struct Nextcloud {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _files: Server,
}

struct Shared {
    manner: Manner,
    address: SocketAddr,
    upstream: SocketAddr,
    /// `GET /path` of every request, in order.
    asked: Mutex<Vec<String>>,
    /// What no program should do.
    wrong: Mutex<Vec<String>>,
    polls: Mutex<usize>,
    stop: AtomicBool,
}

impl Nextcloud {
    /// Serves the person's files from below `root`.
    pub fn start(root: PathBuf, manner: Manner) -> Self {
        let files = format!("{}/remote.php/dav/files/{}", manner.below, manner.id);
        std::fs::create_dir_all(root.join(files.trim_start_matches('/'))).unwrap();
        let files = Server::start(root, manner.login, manner.app_password);
        let upstream = url::Url::parse(&files.url).unwrap().socket_addrs(|| None).unwrap()[0];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manner,
            address,
            upstream,
            asked: Mutex::default(),
            wrong: Mutex::default(),
            polls: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let here = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if here.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&here);
                // A connection that breaks is the client's business.
                std::thread::spawn(move || serve(stream, &shared).unwrap_or_default());
            }
        });
        Self { address, shared, thread: Some(thread), _files: files }
    }

    /// `http://127.0.0.1:PORT/nextcloud`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.manner.below)
    }

    /// The address of a folder among the person's files.
    pub fn folder(&self, name: &str) -> String {
        format!("{}/remote.php/dav/files/{}/{name}/", self.url(), self.shared.manner.id)
    }

    /// What was asked since this was called last.
    pub fn take_asked(&self) -> Vec<String> {
        assert_eq!(*self.shared.wrong.lock().unwrap(), Vec::<String>::new());
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }
}

impl Drop for Nextcloud {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes it, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The body of a recorded answer.
fn recorded(name: &str) -> String {
    let file = format!("{}/fixtures/dav/nextcloud/{name}.http", env!("CARGO_MANIFEST_DIR"));
    let whole = std::fs::read_to_string(file).unwrap().replace("\r\n", "\n");
    whole.split_once("\n\n").unwrap().1.trim().to_owned()
}

/// Answers one request. Each connection carries one.
fn serve(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let (mut head, mut len_bytes) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if client.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.trim_end().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(len) = lower.strip_prefix("content-length:") {
            len_bytes = len.trim().parse().unwrap();
        }
        if !lower.starts_with("connection:") {
            head.push(line.trim_end().to_owned());
        }
    }
    let mut body = vec![0; len_bytes];
    client.read_exact(&mut body)?;
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    shared.asked.lock().unwrap().push(format!("{method} {path}"));
    let out = client.get_mut();
    match answer(shared, &method, &path, &head, &body) {
        Some((status, text)) => {
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                text.len()
            );
            out.write_all(head.as_bytes())?;
            out.write_all(text.as_bytes())?;
        }
        None => {
            head.push("Connection: close\r\n\r\n".to_owned());
            let mut server = TcpStream::connect(shared.upstream)?;
            server.write_all(&[head.join("\r\n").as_bytes(), &body].concat())?;
            std::io::copy(&mut server, out)?;
        }
    }
    out.shutdown(Shutdown::Write)
}

/// What a Nextcloud says to what is not WebDAV.
fn answer(
    shared: &Shared,
    method: &str,
    path: &str,
    head: &[String],
    body: &[u8],
) -> Option<(&'static str, String)> {
    let manner = &shared.manner;
    let header = |name: &str| {
        let lines = head.iter().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    };
    let pair = BASE64.encode(format!("{}:{}", manner.login, manner.app_password).as_bytes());
    let signed_in = header("authorization") == Some(&format!("Basic {pair}"));
    let as_nobody = |what: &str| {
        if header("authorization").is_some() {
            shared.wrong.lock().unwrap().push(format!("{what} came with a password"));
        }
    };
    let origin = manner.origin.clone().unwrap_or_else(|| format!("http://{}", shared.address));
    match (method, path.strip_prefix(manner.below)?) {
        ("GET", "/status.php") => {
            as_nobody("status.php");
            Some(("200 OK", manner.status.clone().unwrap_or_else(|| recorded("status-php-200"))))
        }
        ("POST", "/index.php/login/v2") => {
            as_nobody("the login");
            let here = format!("{origin}{}", manner.below).replace('/', r"\/");
            let text = recorded("loginflow-v2-200").replace(r"https:\/\/cloud.example", &here);
            Some(("200 OK", text.replace("REDACTED", TOKEN)))
        }
        ("POST", "/login/v2/poll") => {
            as_nobody("the poll");
            let mut polls = shared.polls.lock().unwrap();
            *polls += 1;
            if body != format!("token={TOKEN}").as_bytes()
                || header("content-type") != Some("application/x-www-form-urlencoded")
                || *polls <= manner.pending
            {
                return Some(("404 Not Found", "[]".to_owned()));
            }
            let granted = serde_json::json!({
                "server": format!("{origin}{}", manner.below),
                "loginName": manner.login,
                "appPassword": manner.app_password,
            });
            Some(("200 OK", manner.granted.clone().unwrap_or_else(|| granted.to_string())))
        }
        ("GET", "/ocs/v2.php/cloud/user?format=json") => Some(match (&manner.user, signed_in) {
            (Some((status, text)), _) => (status, (*text).to_owned()),
            (None, false) => {
                ("401 Unauthorized", r#"{"ocs":{"meta":{"statuscode":997},"data":[]}}"#.to_owned())
            }
            (None, true) if header("ocs-apirequest") != Some("true") => {
                ("412 Precondition Failed", "{}".to_owned())
            }
            (None, true) => {
                let data =
                    serde_json::json!({ "id": manner.id, "display-name": "Ana", "quota": { "free": 1 } });
                let meta = serde_json::json!({ "status": "ok", "statuscode": 200, "message": "OK" });
                ("200 OK", serde_json::json!({ "ocs": { "meta": meta, "data": data } }).to_string())
            }
        }),
        (_, path) => {
            // Nobody's files are under another name than their id.
            let of = path.strip_prefix("/remote.php/dav/files/")?.split('/').next()?;
            (!of.is_empty() && of != manner.id).then(|| ("404 Not Found", String::new()))
        }
    }
}
