//! A proxy in front of a healthy server, which can be told to misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to a request instead of being passed on.
#[derive(Debug, Clone)]
pub enum How {
    /// It is answered: status line and headers, each ended by a line break, and a body.
    Answer(String, String),
    /// The connection is cut after so many bytes of the request's body.
    Cut(usize),
    /// It is passed on, and the connection is cut before the answer.
    LoseAnswer,
}

impl How {
    pub fn status(status: &str) -> Self {
        Self::Answer(format!("{status}\r\n"), String::new())
    }
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Requests with this method, or all if it is empty,
    pub method: &'static str,
    /// whose path contains this,
    pub path: &'static str,
    /// so many times.
    pub times: usize,
    pub how: How,
}

pub struct Proxy {
    address: SocketAddr,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Vec<Fault>>,
    /// `PUT /path`, of every request.
    asked: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Proxy {
    /// A proxy on a free port, in front of `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let running = Some(serve(listener, upstream, Arc::clone(&shared)));
        Self { address, upstream, shared, running }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn fault(&self, fault: Fault) {
        self.shared.faults.lock().unwrap().push(fault);
    }

    /// Everything is passed on again.
    pub fn heal(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// What was asked since this was called last.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }

    /// Nobody listens any more.
    pub fn go_down(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes it, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
        running.join().unwrap();
    }

    /// It listens again, where it did before.
    pub fn come_back(&mut self) {
        self.shared.stop.store(false, Ordering::SeqCst);
        let mut bound = TcpListener::bind(self.address);
        for _ in 0..50 {
            if bound.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            bound = TcpListener::bind(self.address);
        }
        self.running = Some(serve(bound.unwrap(), self.upstream, Arc::clone(&self.shared)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn serve(listener: TcpListener, upstream: SocketAddr, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let shared = Arc::clone(&shared);
            // A connection that breaks is what this is for.
            std::thread::spawn(move || pass_on(stream, upstream, &shared).unwrap_or_default());
        }
    })
}

/// Passes one request on, or not. Each connection carries one.
fn pass_on(client: TcpStream, upstream: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let mut head = Vec::new();
    let mut len_bytes = 0;
    loop {
        let mut line = String::new();
        if client.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(len) = lower.strip_prefix("content-length:") {
            len_bytes = len.trim().parse::<usize>().unwrap();
        }
        if line.trim_end().is_empty() {
            break;
        }
        if !lower.starts_with("connection:") {
            head.push(line.trim_end().to_owned());
        }
    }
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    shared.asked.lock().unwrap().push(format!("{method} {path}"));
    let fault = {
        let mut faults = shared.faults.lock().unwrap();
        let hit = faults.iter_mut().find(|fault| {
            fault.times > 0
                && (fault.method.is_empty() || fault.method == method)
                && path.contains(fault.path)
        });
        hit.map(|fault| {
            fault.times -= 1;
            fault.how.clone()
        })
    };
    if let Some(How::Cut(after)) = fault {
        client.read_exact(&mut vec![0; after.min(len_bytes)])?;
        return client.get_ref().shutdown(Shutdown::Both);
    }
    let mut body = vec![0; len_bytes];
    client.read_exact(&mut body)?;
    let out = client.get_mut();
    if let Some(How::Answer(head, text)) = fault {
        let text = if method == "HEAD" { "" } else { &text };
        write!(out, "HTTP/1.1 {head}Content-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())?;
        return out.shutdown(Shutdown::Write);
    }
    let mut server = TcpStream::connect(upstream)?;
    head.push("Connection: close\r\n\r\n".to_owned());
    server.write_all(head.join("\r\n").as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if !matches!(fault, Some(How::LoseAnswer)) {
        out.write_all(&answer)?;
    }
    out.shutdown(Shutdown::Both)
}
