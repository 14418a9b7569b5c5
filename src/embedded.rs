//! A small WebDAV server on this machine, for trying Espejo out and for its tests.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::BASE64;
use dav_server::DavHandler;
use dav_server::body::Body;
use dav_server::localfs::LocalFs;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

/// A request the server answered: method, path as it was sent, status.
pub type Logged = (String, String, u16);

/// A WebDAV server on a free port of 127.0.0.1, serving one directory to one user until it is dropped.
///
/// It is for demonstrations and tests: plain HTTP, reachable from this machine only, and like most servers it leaves
/// half a file under the final name when an upload breaks off.
#[derive(Debug)]
pub struct EmbeddedServer {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Logged>>>,
    task: JoinHandle<()>,
}

/// What every connection needs.
struct Site {
    handler: DavHandler,
    /// The one `Authorization` header that is let in.
    credentials: Zeroizing<String>,
    log: Arc<Mutex<Vec<Logged>>>,
}

impl EmbeddedServer {
    /// Serves `root`, which is made if it is missing, from the current tokio runtime (of either flavour).
    ///
    /// # Errors
    ///
    /// If there is no runtime, no port, or `root` cannot be made.
    pub fn start(root: PathBuf, user: &str, password: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        std::fs::create_dir_all(&root)?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let pair = Zeroizing::new(format!("{user}:{password}"));
        let site = Arc::new(Site {
            handler: DavHandler::builder()
                .filesystem(LocalFs::new(root, false, false, false))
                .build_handler(),
            credentials: Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes()))),
            log: Arc::clone(&log),
        });
        Ok(Self { address, log, task: runtime.spawn(accept(listener, site)) })
    }

    /// The address of the served directory, ending in a slash.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Everything answered so far, in order.
    pub fn requests(&self) -> Vec<Logged> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes connections until it is aborted, which ends them too.
async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: some connection has to end first.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        // Without this an answer in two pieces waits 40 ms for the client's acknowledgement of the first.
        let _ = stream.set_nodelay(true);
        let site = Arc::clone(&site);
        connections.spawn(async move {
            let service = service_fn(|request| answer(&site, request));
            // A connection that breaks is the client's business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(site: &Site, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let shown = request.headers().get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let response = if bool::from(shown.ct_eq(site.credentials.as_bytes())) {
        site.handler.handle(request).await
    } else {
        let mut refusal = Response::new(Body::from("sign in first\n"));
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        let challenge = hyper::header::HeaderValue::from_static("Basic realm=\"espejo\", charset=\"UTF-8\"");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        refusal
    };
    let logged = (method, path, response.status().as_u16());
    site.log.lock().unwrap_or_else(PoisonError::into_inner).push(logged);
    Ok(response)
}
