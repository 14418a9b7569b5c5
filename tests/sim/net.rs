//! The way to the mirror, on which everything that can happen to a request happens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use espejo::remote::{
    ByteRange, Item, Listing, MemoryRemote, Receipt, Remote, RemoteError, RemoteErrorKind as K, RemotePath,
    Sink, Traffic,
};

use crate::chance::Chance;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Ok,
    /// It never arrives.
    Lost,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// It is carried out after the client has given up, perhaps much later.
    Late,
    /// It is carried out twice, the second time later.
    Twice,
    /// A beginning of it is stored, and the client is told so.
    HalfRefused,
    /// A beginning of it is stored, and the client is told all is well.
    HalfAccepted,
    /// An empty file is stored, and the client is told all is well.
    EmptyAccepted,
    /// Nothing is stored, and the client is told all is well.
    NothingAccepted,
    /// The answer is cut short.
    Cut,
    /// One bit of the answer is another.
    Flipped,
    /// The answer is a login page.
    LoginPage,
    /// The listing is an older one.
    Stale,
    /// The listing lacks some names, and says so.
    Partial,
    /// The listing lacks some names, and does not say so.
    Lacking,
    /// The listing names things twice, and things that are no business of ours.
    Junk,
    /// The listing is empty.
    Empty,
    /// The server says it is not there.
    Absent,
    Unauthorized,
    Forbidden,
    Conflict,
    TooLarge,
    Locked,
    Throttled,
    Broken,
    Maintenance,
    Full,
    Redirected,
    TimedOut,
}

impl Fate {
    pub const ALL: [Self; 29] = [
        Self::Ok,
        Self::Lost,
        Self::AnswerLost,
        Self::Late,
        Self::Twice,
        Self::HalfRefused,
        Self::HalfAccepted,
        Self::EmptyAccepted,
        Self::NothingAccepted,
        Self::Cut,
        Self::Flipped,
        Self::LoginPage,
        Self::Stale,
        Self::Partial,
        Self::Lacking,
        Self::Junk,
        Self::Empty,
        Self::Absent,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Conflict,
        Self::TooLarge,
        Self::Locked,
        Self::Throttled,
        Self::Broken,
        Self::Maintenance,
        Self::Full,
        Self::Redirected,
        Self::TimedOut,
    ];

    fn refusal(self) -> Option<K> {
        Some(match self {
            Self::Lost => K::Unreachable,
            Self::Unauthorized => K::Unauthorized,
            Self::Forbidden => K::Forbidden,
            Self::Conflict | Self::Absent => K::NotFound,
            Self::TooLarge => K::TooLarge,
            Self::Locked => K::Locked,
            Self::Throttled => K::Throttled { retry_after_secs: Some(2) },
            Self::Broken => K::Unavailable { status: 500, retry_after_secs: None },
            Self::Maintenance => K::Unavailable { status: 503, retry_after_secs: Some(60) },
            Self::Full => K::Full,
            Self::Redirected => K::Redirected { to: "https://login.example".to_owned() },
            Self::TimedOut => K::Interrupted,
            Self::LoginPage => K::NotDav,
            _ => return None,
        })
    }
}

/// What all ways to the mirror share.
pub struct Net {
    pub chance: Chance,
    /// Requests in a thousand that something happens to.
    pub trouble: usize,
    /// What may happen.
    pub fates: Vec<Fate>,
    /// What was sent and has not arrived yet.
    late: Vec<(MemoryRemote, RemotePath, Bytes)>,
    /// Every request and its fate, as one number.
    pub trace: u64,
    pub requests: u64,
    /// Every request as a line, if somebody reads along.
    pub spoken: Option<Vec<String>>,
}

impl Net {
    pub fn new(chance: Chance, trouble: usize, fates: Vec<Fate>) -> Rc<RefCell<Self>> {
        let late = Vec::new();
        Rc::new(RefCell::new(Self { chance, trouble, fates, late, trace: 0, requests: 0, spoken: None }))
    }

    pub fn note(&mut self, what: impl FnOnce() -> String, number: u64) {
        self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        if let Some(spoken) = &mut self.spoken {
            spoken.push(what());
        }
    }

    fn fate(&mut self, request: &str, path: &RemotePath) -> Fate {
        self.requests += 1;
        let fate = match self.chance.per_mille(self.trouble) {
            true => self.chance.pick(&self.fates).copied().unwrap_or(Fate::Ok),
            false => Fate::Ok,
        };
        let number = path.as_str().bytes().fold(fate as u64, |n, b| n.wrapping_mul(31) + u64::from(b));
        self.note(|| format!("    {request} {path}: {fate:?}"), number);
        fate
    }

    /// Whether the mirror may say that it took what it did not keep.
    pub fn lies(&self) -> bool {
        let lies = [Fate::HalfAccepted, Fate::EmptyAccepted, Fate::NothingAccepted];
        self.trouble > 0 && self.fates.iter().any(|fate| lies.contains(fate))
    }

    /// Lets something that is on its way arrive.
    pub fn deliver(&mut self) -> bool {
        if self.late.is_empty() {
            return false;
        }
        let next = self.chance.below(self.late.len());
        let (remote, path, bytes) = self.late.swap_remove(next);
        let _ = now(remote.put(&path, bytes));
        true
    }

    /// What is on its way gets lost.
    pub fn forget_late(&mut self) {
        self.late.clear();
    }
}

/// One device's way to a mirror in memory.
pub struct SimRemote {
    pub device: usize,
    pub inner: MemoryRemote,
    pub net: Rc<RefCell<Net>>,
    listed: RefCell<BTreeMap<String, Option<Listing>>>,
}

impl SimRemote {
    pub fn new(device: usize, inner: MemoryRemote, net: Rc<RefCell<Net>>) -> Self {
        Self { device, inner, net, listed: RefCell::default() }
    }

    async fn enter(&self, request: &str, path: &RemotePath) -> Fate {
        let wait = self.net.borrow().chance.below(4);
        turns(wait).await;
        self.net.borrow_mut().fate(&format!("{} {request}", self.device), path)
    }

    fn late(&self, file: &RemotePath, bytes: &Bytes) {
        self.net.borrow_mut().late.push((self.inner.share(), file.clone(), bytes.clone()));
    }
}

fn refuse<T>(kind: K, path: &RemotePath) -> Result<T, RemoteError> {
    Err(RemoteError::new(kind, path.to_string(), "simulated"))
}

impl Remote for SimRemote {
    async fn list(&self, dir: &RemotePath) -> Result<Option<Listing>, RemoteError> {
        let fate = self.enter("list", dir).await;
        if fate == Fate::Absent {
            return Ok(None);
        }
        if let Some(kind) = fate.refusal() {
            return refuse(kind, dir);
        }
        let fresh = now(self.inner.list(dir))?;
        let before = self.listed.borrow_mut().insert(dir.as_str().to_owned(), fresh.clone());
        let Some(mut listing) = fresh else { return Ok(None) };
        let chance = self.net.borrow().chance.clone();
        match fate {
            Fate::AnswerLost | Fate::Late => return refuse(K::Interrupted, dir),
            Fate::Cut | Fate::Flipped => return refuse(K::Malformed, dir),
            Fate::Stale => return Ok(before.flatten().or(Some(listing))),
            Fate::Partial | Fate::Lacking => {
                listing.items.retain(|_| chance.below(2) == 0);
                listing.complete = fate == Fate::Lacking;
            }
            Fate::Junk => {
                let twins =
                    listing.items.iter().filter(|_| chance.below(2) == 0).cloned().collect::<Vec<_>>();
                listing.items.extend(twins);
                let odd = ["desktop.ini", ".DS_Store", "x (conflicted copy).key", "../../etc/passwd", ""];
                let odd = odd.map(|name| Item { name: name.to_owned(), len_bytes: Some(7), is_dir: false });
                listing.items.extend(odd);
            }
            Fate::Empty => listing.items.clear(),
            _ => {}
        }
        Ok(Some(listing))
    }

    async fn get_in_pieces(
        &self,
        file: &RemotePath,
        range: Option<ByteRange>,
        max: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), RemoteError> {
        let fate = self.enter("get", file).await;
        if let Some(kind) = fate.refusal() {
            return refuse(kind, file);
        }
        let mut bytes = now(self.inner.get(file, range, max))?;
        let breaks_off = matches!(fate, Fate::AnswerLost | Fate::Late);
        let chance = self.net.borrow().chance.clone();
        match fate {
            _ if breaks_off => bytes.truncate(bytes.len() / 2),
            Fate::Cut => bytes.truncate(chance.below(bytes.len())),
            Fate::Flipped if !bytes.is_empty() => {
                let at = chance.below(bytes.len());
                bytes[at] ^= 1 << chance.below(8);
            }
            Fate::Empty => bytes.clear(),
            Fate::Junk => bytes = b"<html>sign in</html>".to_vec(),
            _ => {}
        }
        sink.begin(None);
        bytes.chunks(bytes.len() / 3 + 1).for_each(|piece| sink.take(piece));
        if breaks_off { refuse(K::Interrupted, file) } else { Ok(()) }
    }

    async fn put(&self, file: &RemotePath, bytes: Bytes) -> Result<Receipt, RemoteError> {
        let fate = self.enter("put", file).await;
        if let Some(kind) = fate.refusal() {
            return refuse(kind, file);
        }
        let half = bytes.slice(..bytes.len() / 2);
        match fate {
            Fate::Late => {
                self.late(file, &bytes);
                return refuse(K::Interrupted, file);
            }
            Fate::Twice => self.late(file, &bytes),
            Fate::HalfRefused => {
                now(self.inner.put(file, half))?;
                return refuse(K::Unavailable { status: 500, retry_after_secs: None }, file);
            }
            Fate::HalfAccepted => return now(self.inner.put(file, half)),
            Fate::EmptyAccepted => return now(self.inner.put(file, Bytes::new())),
            Fate::NothingAccepted => return Ok(Receipt::Accepted),
            _ => {}
        }
        let receipt = now(self.inner.put(file, bytes))?;
        if fate == Fate::AnswerLost {
            return refuse(K::Interrupted, file);
        }
        Ok(receipt)
    }

    async fn size(&self, file: &RemotePath) -> Result<Option<u64>, RemoteError> {
        let fate = self.enter("size", file).await;
        if fate == Fate::Absent {
            return Ok(None);
        }
        match fate.refusal() {
            Some(kind) => refuse(kind, file),
            None if matches!(fate, Fate::AnswerLost | Fate::Late) => refuse(K::Interrupted, file),
            None => now(self.inner.size(file)),
        }
    }

    async fn delete(&self, file: &RemotePath) -> Result<(), RemoteError> {
        let fate = self.enter("delete", file).await;
        if let Some(kind) = fate.refusal() {
            return refuse(kind, file);
        }
        if fate == Fate::NothingAccepted {
            return Ok(());
        }
        now(self.inner.delete(file))?;
        if fate == Fate::AnswerLost { refuse(K::Interrupted, file) } else { Ok(()) }
    }

    async fn make_dir(&self, dir: &RemotePath) -> Result<bool, RemoteError> {
        let fate = self.enter("make", dir).await;
        if let Some(kind) = fate.refusal() {
            return refuse(kind, dir);
        }
        if fate == Fate::NothingAccepted {
            return Ok(true);
        }
        let is_new = now(self.inner.make_dir(dir))?;
        if fate == Fate::AnswerLost { refuse(K::Interrupted, dir) } else { Ok(is_new) }
    }

    fn traffic(&self) -> Traffic {
        self.inner.traffic()
    }
}

/// The value of a future that waits for nobody: it may give way, and goes on at once.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut future = std::pin::pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
    }
    panic!("a mirror in memory waits for nothing")
}

/// Lets others go first so many times.
pub async fn turns(count: usize) {
    for _ in 0..count {
        let mut waited = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// One step of a piece of work.
pub fn step<T>(work: &mut Pin<Box<dyn Future<Output = T>>>) -> Option<T> {
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
