//! The door to time.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the engine gets the time from, and how it waits.
pub trait Clock {
    /// Milliseconds since 1970-01-01 UTC, as this device believes. May jump either way.
    fn now_ms(&self) -> i64;

    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
