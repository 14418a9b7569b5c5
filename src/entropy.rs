//! The door to randomness: the only place ids, salts and keys come from.

/// A source of unpredictable bytes.
pub trait Entropy {
    /// Fills `buffer` with random bytes, or stops the program's work with an error: a salt that is not random
    /// would be worse than no file.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError>;

    /// `N` random bytes.
    fn array<const N: usize>(&self) -> Result<[u8; N], EntropyError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random source failed")]
pub struct EntropyError;

/// The operating system's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buffer).map_err(|_| EntropyError)
    }
}
