//! The machine a vault lives on: three of the engine's four doors, kept together.

use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, OsEntropy};
use crate::fs::{DiskFs, VaultFs};

/// A machine: a vault directory, a clock and a source of randomness.
pub trait Host {
    /// The vault directory.
    type Fs: VaultFs;
    /// Time.
    type Clock: Clock;
    /// Randomness.
    type Entropy: Entropy;

    /// The vault directory.
    fn fs(&self) -> &Self::Fs;
    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// Randomness.
    fn entropy(&self) -> &Self::Entropy;
}

/// The machine this program runs on.
#[derive(Debug, Clone)]
pub struct ThisMachine<C = SystemClock> {
    fs: DiskFs,
    clock: C,
}

impl ThisMachine {
    /// This machine, with the vault in `dir`.
    pub fn new(dir: impl Into<std::path::PathBuf>) -> Self {
        Self::with_clock(dir, SystemClock)
    }
}

impl<C: Clock> ThisMachine<C> {
    /// This machine, believing another clock.
    pub fn with_clock(dir: impl Into<std::path::PathBuf>, clock: C) -> Self {
        Self { fs: DiskFs::new(dir), clock }
    }
}

impl<C: Clock> Host for ThisMachine<C> {
    type Fs = DiskFs;
    type Clock = C;
    type Entropy = OsEntropy;

    fn fs(&self) -> &DiskFs {
        &self.fs
    }

    fn clock(&self) -> &C {
        &self.clock
    }

    fn entropy(&self) -> &OsEntropy {
        &OsEntropy
    }
}
