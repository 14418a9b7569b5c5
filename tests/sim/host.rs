//! A simulated machine: its disk, its clock and its chance.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use espejo::clock::Clock;
use espejo::entropy::{Entropy, EntropyError};
use espejo::host::Host;

use crate::chance::Chance;
use crate::disk::SimDisk;

/// The time of the world, and how far this machine's clock is off.
#[derive(Clone)]
pub struct SimClock {
    pub world: Rc<Cell<i64>>,
    pub offset: Rc<Cell<i64>>,
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        self.world.set(self.world.get() + 1);
        self.world.get().saturating_add(self.offset.get())
    }

    async fn sleep(&self, duration: Duration) {
        self.world.set(self.world.get() + duration.as_millis() as i64);
        crate::net::turns(1).await;
    }
}

/// Random bytes that fall the same way for the same seed. A machine restored from an image draws new ones, as a real
/// one does.
#[derive(Clone)]
pub struct SimEntropy(pub Chance);

impl Entropy for SimEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[derive(Clone)]
pub struct SimHost {
    pub disk: SimDisk,
    pub clock: SimClock,
    pub entropy: SimEntropy,
}

impl Host for SimHost {
    type Fs = SimDisk;
    type Clock = SimClock;
    type Entropy = SimEntropy;

    fn fs(&self) -> &SimDisk {
        &self.disk
    }

    fn clock(&self) -> &SimClock {
        &self.clock
    }

    fn entropy(&self) -> &SimEntropy {
        &self.entropy
    }
}
