//! Chance that falls the same way for the same seed, whoever draws.

use std::cell::Cell;
use std::rc::Rc;

/// splitmix64; clones draw from one sequence.
#[derive(Clone)]
pub struct Chance(Rc<Cell<u64>>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(seed)))
    }

    /// From here on it falls as `seed` says, whatever was drawn before.
    pub fn restart(&self, seed: u64) {
        self.0.set(seed);
    }

    pub fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut x = self.0.get();
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True this often in a thousand.
    pub fn per_mille(&self, often: usize) -> bool {
        self.below(1_000) < often
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}
