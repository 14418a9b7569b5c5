//! Promises, and what to say when one was not kept.

/// A promise that was not kept.
#[derive(Debug)]
pub struct Broken(pub String);

impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

macro_rules! promise {
    ($holds:expr, $($why:tt)*) => {
        if !$holds {
            return Err($crate::promise::Broken(format!($($why)*)));
        }
    };
}
