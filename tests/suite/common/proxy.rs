//! A proxy in front of a healthy server, which can be told to misbehave.

use std::collections::HashMap;
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
    /// The connection is reset before the request was read.
    Reset,
    /// It is passed on, and the connection is cut after so many bytes of the answer's body.
    CutAnswer(usize),
    /// It is passed on, and the answer comes back changed.
    Change(fn(Reply) -> Reply),
    /// It is passed on twice, and answered as the second time.
    Twice,
    /// Half of its body is passed on as if it were all of it, and it is answered with this status.
    Torn(&'static str),
    /// A listing is answered as it was the last time; one that was never made, truly.
    Stale,
    /// It is passed on after so many further requests. Until then it is answered with this status, or not at all.
    Late(usize, Option<&'static str>),
}

/// An answer on its way back.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status line and headers, but for those that tell the body's length.
    pub head: Vec<String>,
    /// The length that is told.
    pub told_len: usize,
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a server's answer");
        let (mut told_len, mut chunked) = (None, false);
        let mut head = String::from_utf8_lossy(&bytes[..end]).lines().map(str::to_owned).collect::<Vec<_>>();
        head.retain(|line| {
            let line = line.to_ascii_lowercase();
            if let Some(len) = line.strip_prefix("content-length:") {
                told_len = Some(len.trim().parse().unwrap());
            }
            chunked |= line.starts_with("transfer-encoding:");
            !line.starts_with("content-length:") && !line.starts_with("transfer-encoding:")
        });
        let body = &bytes[end + 4..];
        let body = if chunked { unchunked(body) } else { body.to_vec() };
        Self { head, told_len: told_len.unwrap_or(body.len()), body }
    }

    /// Replaces the body, and tells its length.
    pub fn with_body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { told_len: body.len(), body, ..self }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let head = format!("{}\r\nContent-Length: {}\r\n\r\n", self.head.join("\r\n"), self.told_len);
        [head.as_bytes(), &self.body].concat()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16).unwrap();
        if len == 0 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + len]);
        rest = &rest[end + 2 + len + 2..];
    }
    body
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
    /// after so many of them have passed,
    pub after: usize,
    /// so many times.
    pub times: usize,
    pub how: How,
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

struct Shared {
    /// The server.
    upstream: Mutex<SocketAddr>,
    faults: Mutex<Vec<Fault>>,
    /// `PUT /path`, of every request.
    asked: Mutex<Vec<String>>,
    /// The last true answer to each listing, by path.
    listings: Mutex<Listings>,
    /// Requests that are passed on when so many others have been.
    late: Mutex<Vec<(usize, Vec<u8>)>>,
    stop: AtomicBool,
}

pub type Listings = HashMap<String, Reply>;

impl Proxy {
    /// A proxy on a free port, in front of `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            faults: Mutex::default(),
            asked: Mutex::default(),
            listings: Mutex::default(),
            late: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let running = Some(serve(listener, Arc::clone(&shared)));
        Self { address, shared, running }
    }

    /// The server was started again, somewhere else.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = upstream;
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn fault(&self, fault: Fault) {
        self.shared.faults.lock().unwrap().push(fault);
    }

    /// Everything is passed on again, and what was late arrives.
    pub fn heal(&self) {
        self.shared.faults.lock().unwrap().clear();
        deliver(&self.shared, usize::MAX).unwrap();
    }

    /// The last answer to each listing, which [`How::Stale`] would give.
    pub fn listings(&self) -> Listings {
        self.shared.listings.lock().unwrap().clone()
    }

    /// Lets `listings` be what was answered last.
    pub fn set_listings(&self, listings: &Listings) {
        self.shared.listings.lock().unwrap().clone_from(listings);
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
        self.running = Some(serve(bound.unwrap(), Arc::clone(&self.shared)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn serve(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let shared = Arc::clone(&shared);
            // A connection that breaks is what this is for.
            std::thread::spawn(move || pass_on(stream, &shared).unwrap_or_default());
        }
    })
}

/// Passes one request on, or not. Each connection carries one.
fn pass_on(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let Some((method, path)) = peek(&client)? else { return Ok(()) };
    let fault = {
        // Requests are counted and met by their faults in one order.
        let mut asked = shared.asked.lock().unwrap();
        asked.push(format!("{method} {path}"));
        next_fault(shared, &method, &path)
    };
    // What was sent and not read makes the closing of a connection a reset.
    if matches!(fault, Some(How::Reset)) {
        return Ok(());
    }
    let mut client = BufReader::new(client);
    let (mut head, len_bytes) = read_head(&mut client)?;
    if let Some(How::Cut(after)) = fault {
        client.read_exact(&mut vec![0; after.min(len_bytes)])?;
        return client.get_ref().shutdown(Shutdown::Both);
    }
    let mut body = vec![0; len_bytes];
    client.read_exact(&mut body)?;
    let out = client.get_mut();
    if matches!(fault, Some(How::Torn(_))) {
        body.truncate(len_bytes / 2);
    }
    if len_bytes > 0 {
        head.push(format!("Content-Length: {}", body.len()));
    }
    head.push("Connection: close\r\n\r\n".to_owned());
    let request = [head.join("\r\n").as_bytes(), &body].concat();
    let answer = |status: &str, text: &str| {
        format!("HTTP/1.1 {status}Content-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    };
    match &fault {
        Some(How::Answer(head, text)) => {
            let text = if method == "HEAD" { "" } else { text };
            out.write_all(answer(head, text).as_bytes())?;
            return out.shutdown(Shutdown::Write);
        }
        Some(How::Late(after, status)) => {
            // It counts itself, too.
            shared.late.lock().unwrap().push((after + 1, request));
            deliver(shared, 1)?;
            if let Some(status) = status {
                out.write_all(answer(&format!("{status}\r\n"), "").as_bytes())?;
            }
            return out.shutdown(Shutdown::Both);
        }
        Some(How::Twice) => drop(exchange(shared, &request)?),
        _ => {}
    }
    let reply = exchange(shared, &request)?;
    let last = (method == "PROPFIND").then(|| {
        let reply = Reply::parse(&reply);
        shared.listings.lock().unwrap().insert(path, reply)
    });
    // Before the answer: whoever has that may go on and look at what is there, and would see a file half written.
    deliver(shared, 1)?;
    match fault {
        Some(How::LoseAnswer) => {}
        Some(How::Torn(status)) => out.write_all(answer(&format!("{status}\r\n"), "").as_bytes())?,
        Some(How::CutAnswer(after)) => {
            let mut reply = Reply::parse(&reply);
            reply.body.truncate(after);
            out.write_all(&reply.to_bytes())?;
        }
        Some(How::Change(change)) => out.write_all(&change(Reply::parse(&reply)).to_bytes())?,
        Some(How::Stale) => match last.flatten() {
            Some(last) => out.write_all(&last.to_bytes())?,
            None => out.write_all(&reply)?,
        },
        _ => out.write_all(&reply)?,
    }
    out.shutdown(Shutdown::Both)
}

/// Method and path, without reading them; `None` if nothing was asked.
fn peek(client: &TcpStream) -> std::io::Result<Option<(String, String)>> {
    let mut start = vec![0; 4_096];
    loop {
        let len = client.peek(&mut start)?;
        let line = start[..len].split(|byte| *byte == b'\r').next().unwrap_or_default();
        if len == 0 {
            return Ok(None);
        }
        if line.len() < len {
            let line = String::from_utf8_lossy(line).into_owned();
            let mut words = line.split(' ').map(str::to_owned);
            return Ok(words.next().zip(words.next()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The fault that this request meets, if any. It is used up by it.
fn next_fault(shared: &Shared, method: &str, path: &str) -> Option<How> {
    let mut faults = shared.faults.lock().unwrap();
    let fits = |fault: &&mut Fault| {
        fault.times > 0 && (fault.method.is_empty() || fault.method == method) && path.contains(fault.path)
    };
    let fault = faults.iter_mut().find(fits)?;
    if fault.after > 0 {
        fault.after -= 1;
        return None;
    }
    fault.times -= 1;
    Some(fault.how.clone())
}

/// Request line and headers that are passed on, and the length of the body.
fn read_head(client: &mut impl BufRead) -> std::io::Result<(Vec<String>, usize)> {
    let mut head = Vec::new();
    let mut len_bytes = 0;
    loop {
        let mut line = String::new();
        if client.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if lower.trim_end().is_empty() {
            return Ok((head, len_bytes));
        }
        if let Some(len) = lower.strip_prefix("content-length:") {
            len_bytes = len.trim().parse::<usize>().unwrap();
        } else if !lower.starts_with("connection:") {
            head.push(line.trim_end().to_owned());
        }
    }
}

/// Sends a whole request to the server and reads its whole answer.
fn exchange(shared: &Shared, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let upstream = *shared.upstream.lock().unwrap();
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(request)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match answer.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(answer),
    }
}

/// Passes on the late requests whose time has come, now that so many others have been.
fn deliver(shared: &Shared, passed: usize) -> std::io::Result<()> {
    let mut late = shared.late.lock().unwrap();
    late.iter_mut().for_each(|(after, _)| *after = after.saturating_sub(passed));
    for (_, request) in late.extract_if(.., |(after, _)| *after == 0) {
        exchange(shared, &request)?;
    }
    Ok(())
}
