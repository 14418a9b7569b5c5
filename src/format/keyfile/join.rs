//! Changing what opens a vault, and what several changes amount to.
//!
//! Key files of one vault form a semilattice: [`KeyFile::joined`] is commutative, associative and idempotent, so devices
//! that have met the same key files, in whatever order, hold the same one.

use super::{KeyFile, MAX_SLOTS_OF_KIND, Secret, Slot, SlotKind};
use crate::crypto::Keyring;
use crate::entropy::{Entropy, EntropyError};
use crate::id::DeviceId;

/// Who wrote a key file that was joined from several.
const NOBODY: DeviceId = DeviceId::from_bytes([0; 16]);

/// What differs between two key files, as far as it concerns a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Other passwords open it.
    pub password: bool,
    /// Other recovery keys open it.
    pub recovery: bool,
}

impl KeyFile {
    /// The key file after a change: `secret` takes the place of every other of its kind. The rest is carried over byte
    /// for byte; what opens it need not be known.
    pub fn replaced(
        &self,
        keyring: &Keyring,
        secret: &Secret,
        iterations: u32,
        (device, now_ms): (DeviceId, i64),
        entropy: &impl Entropy,
    ) -> Result<Self, EntropyError> {
        let generation = self.generation.saturating_add(1);
        let mut slots = self.slots.clone();
        slots.retain(|slot| !slot.fits(secret));
        slots.push(Slot::new(keyring, secret, iterations, (generation, now_ms), entropy)?);
        slots.sort();
        let changed = Self { generation, created_ms: now_ms, device, slots, ..self.clone() };
        Ok(changed.authenticated(keyring))
    }

    /// The key file of `keyring`, which has a new master key: nothing that opened this one opens it, and what is announced
    /// under older keys alone is not believed any more.
    pub fn rekeyed(
        &self,
        keyring: &Keyring,
        secrets: &[Secret],
        iterations: u32,
        (device, now_ms): (DeviceId, i64),
        entropy: &impl Entropy,
    ) -> Result<Self, EntropyError> {
        let generation = self.generation.saturating_add(1);
        let slots = secrets
            .iter()
            .map(|secret| Slot::new(keyring, secret, iterations, (generation, now_ms), entropy))
            .collect::<Result<Vec<_>, _>>()?;
        let epoch = keyring.current_epoch();
        let changed =
            Self { generation, epoch, min_epoch: epoch, created_ms: now_ms, device, slots, ..self.clone() };
        Ok(changed.authenticated(keyring))
    }

    /// What two authentic key files of one vault amount to: of passwords and of recovery keys, each by itself, those of
    /// the newest generation; if two devices made one each in that generation, both. It is one of the two if that says
    /// it all.
    #[must_use]
    pub fn joined(&self, other: &Self, keyring: &Keyring) -> Self {
        let (lower, higher) = if self.rank() < other.rank() { (self, other) } else { (other, self) };
        if higher.supersedes(lower) {
            return higher.clone();
        }
        let min_epoch = self.min_epoch.max(other.min_epoch);
        let slots = join_slots(&self.slots, &other.slots);
        // Nothing in it depends on who joined them: whoever does makes the same file.
        let created_ms = slots.iter().map(|slot| slot.created_ms).max().unwrap_or(higher.created_ms);
        Self { created_ms, device: NOBODY, min_epoch, slots, ..higher.clone() }.authenticated(keyring)
    }

    /// Whether `other` opens with nothing that this one does not open with, or that was not replaced since.
    pub fn supersedes(&self, other: &Self) -> bool {
        match self.epoch.cmp(&other.epoch) {
            // A new master key leaves every older wrapper behind.
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => {
                let mut own = self.slots.clone();
                own.sort();
                self.generation >= other.generation && join_slots(&self.slots, &other.slots) == own
            }
        }
    }

    /// The order of key files of one vault: none comes before one that it supersedes.
    pub fn rank(&self) -> impl Ord + use<> {
        let newest = |is_password: bool| {
            let slots = self.slots.iter().filter(|slot| slot.is_password() == is_password);
            slots.map(|slot| u64::from(slot.made_in)).max().unwrap_or(0)
        };
        let made_in = newest(true) + newest(false);
        (self.epoch, self.generation, made_in, self.slots.len(), self.created_ms, self.device, self.mac)
    }

    /// What a person who uses `before` has to know.
    pub fn difference(&self, before: &Self) -> Difference {
        let differs = |is_password: bool| {
            let of = |file: &Self| {
                let mut slots = file.slots.clone();
                slots.retain(|slot| slot.is_password() == is_password);
                slots.sort();
                slots
            };
            of(self) != of(before)
        };
        Difference { password: differs(true), recovery: differs(false) }
    }

    /// How many passwords open it: more than one if several devices changed it at once.
    pub fn passwords(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_password()).count()
    }

    /// Whether it can be opened with a recovery key.
    pub fn has_recovery(&self) -> bool {
        self.recovery_keys() > 0
    }

    /// How many recovery keys open it.
    pub fn recovery_keys(&self) -> usize {
        self.slots.len() - self.passwords()
    }
}

impl Slot {
    fn is_password(&self) -> bool {
        matches!(self.kind, SlotKind::Password { .. })
    }
}

/// The slots of the newest generation of each kind, in order.
fn join_slots(a: &[Slot], b: &[Slot]) -> Vec<Slot> {
    let latest = |is_password: bool| {
        let mut slots =
            a.iter().chain(b).filter(|slot| slot.is_password() == is_password).collect::<Vec<_>>();
        let newest = slots.iter().map(|slot| slot.made_in).max();
        slots.retain(|slot| Some(slot.made_in) == newest);
        slots.sort();
        slots.dedup();
        // Nobody changes a password on that many devices at once; the last ones stay.
        slots.split_off(slots.len().saturating_sub(MAX_SLOTS_OF_KIND))
    };
    let mut joined = [latest(true), latest(false)].concat().into_iter().cloned().collect::<Vec<_>>();
    joined.sort();
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::super::{KeyFileError, NewKeyFile};
    use super::*;
    use crate::crypto::{MIN_WRITTEN_ITERATIONS, Password};
    use crate::entropy::OsEntropy;
    use crate::id::VaultId;

    fn recovery(byte: u8) -> Secret {
        Secret::Recovery(Zeroizing::new([byte; 32]))
    }

    /// The password is never opened here, so its derivation may cost nothing.
    fn first() -> (Keyring, KeyFile) {
        first_costing(1)
    }

    fn first_costing(iterations: u32) -> (Keyring, KeyFile) {
        let keyring = Keyring::generate(VaultId::from_bytes([9; 16]), &OsEntropy).unwrap();
        let new = NewKeyFile {
            generation: 1,
            created_ms: 1_000,
            device: DeviceId::from_bytes([1; 16]),
            password: &Password::new("the first one").unwrap(),
            iterations,
            recovery: Some(&Zeroizing::new([1; 32])),
        };
        let file = KeyFile::new(&keyring, &new, &OsEntropy).unwrap();
        (keyring, file)
    }

    /// The words are changed on a device, at a time.
    fn changed(keyring: &Keyring, file: &KeyFile, words: u8, at: i64) -> KeyFile {
        let by = (DeviceId::from_bytes([words; 16]), at);
        file.replaced(keyring, &recovery(words), 0, by, &OsEntropy).unwrap()
    }

    /// The password is.
    fn another_password(keyring: &Keyring, file: &KeyFile, at: i64) -> KeyFile {
        let secret = Secret::Password(Password::new("another one").unwrap());
        file.replaced(keyring, &secret, 1, (DeviceId::from_bytes([8; 16]), at), &OsEntropy).unwrap()
    }

    fn opens(file: &KeyFile, words: u8) -> bool {
        file.unlock(&recovery(words)).is_ok()
    }

    #[test]
    fn a_change_replaces_one_kind_and_carries_the_other_over_as_it_is() {
        let (keyring, before) = first_costing(MIN_WRITTEN_ITERATIONS);
        let after = changed(&keyring, &before, 2, 500);
        assert_eq!((after.generation, opens(&after, 2), opens(&after, 1)), (2, true, false));
        let password = |file: &KeyFile| file.slots.iter().find(|slot| slot.is_password()).cloned();
        assert_eq!(password(&after), password(&before));
        assert_eq!(after.difference(&before), Difference { password: false, recovery: true });
        assert!(after.is_authentic(&keyring) && after.supersedes(&before) && !before.supersedes(&after));
        assert_eq!(KeyFile::decode(&after.encode()), Ok(after.clone()));
        // The other way round the words still open it, and nobody had to know them.
        let after = another_password(&keyring, &before, 500);
        assert!(opens(&after, 1) && after.password().unwrap().changed && !before.password().unwrap().changed);
        assert_eq!(after.difference(&before), Difference { password: true, recovery: false });
    }

    #[test]
    fn an_older_key_file_adds_nothing() {
        let (keyring, before) = first();
        let after = changed(&keyring, &before, 2, -5);
        let newest = changed(&keyring, &after, 3, -9);
        for (a, b) in [(&before, &newest), (&after, &newest), (&newest, &before), (&newest, &newest)] {
            assert_eq!(a.joined(b, &keyring), newest);
        }
    }

    #[test]
    fn of_two_changes_at_once_neither_is_lost() {
        let (keyring, before) = first();
        let (a, b) = (changed(&keyring, &before, 2, 100), changed(&keyring, &before, 3, 200));
        let both = a.joined(&b, &keyring);
        assert_eq!((opens(&both, 1), opens(&both, 2), opens(&both, 3)), (false, true, true));
        assert_eq!((both.generation, both.is_authentic(&keyring)), (2, true));
        assert!(both.supersedes(&a) && both.supersedes(&b) && !a.supersedes(&both));
        // The next change ends it.
        let next = changed(&keyring, &both, 4, 300);
        assert_eq!((opens(&next, 2), opens(&next, 3), opens(&next, 4)), (false, false, true));
    }

    #[test]
    fn a_password_changed_here_and_words_changed_there_replace_what_they_were_meant_to() {
        let (keyring, before) = first();
        let (a, b) = (another_password(&keyring, &before, 100), changed(&keyring, &before, 2, 100));
        // However often the other side has changed its own kind meanwhile.
        for b in [changed(&keyring, &b, 3, 200), b] {
            let both = a.joined(&b, &keyring);
            assert_eq!(both.passwords(), 1);
            assert_eq!(both.password(), a.password());
            assert!(!opens(&both, 1));
            assert_eq!(both.difference(&b), Difference { password: true, recovery: false });
        }
    }

    #[test]
    fn however_many_change_the_words_at_once_the_password_still_opens() {
        let (keyring, before) = first_costing(MIN_WRITTEN_ITERATIONS);
        let changes =
            (2..12).map(|words| changed(&keyring, &before, words, words.into())).collect::<Vec<_>>();
        let all = changes.iter().fold(before.clone(), |all, it| all.joined(it, &keyring));
        assert_eq!(all.password(), before.password());
        // The last ones stay, in whatever order they are met.
        let opening = (1..12).filter(|words| opens(&all, *words)).collect::<Vec<_>>();
        assert_eq!(opening, [4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(changes.iter().rev().fold(before, |all, it| all.joined(it, &keyring)), all);
        assert_eq!(KeyFile::decode(&all.encode()), Ok(all.clone()));
        let mut crowded = all;
        crowded.slots.extend(crowded.slots.last().cloned());
        let crowded = crowded.authenticated(&keyring).encode();
        assert_eq!(KeyFile::decode(&crowded), Err(KeyFileError::Damaged));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_order_in_which_key_files_are_met_does_not_matter(
            steps in proptest::collection::vec((0..6_usize, 0..6_usize, any::<bool>(), -50..50_i64), 1..12),
            seed in any::<u64>(),
        ) {
            // Devices change, meet and go apart in any way.
            let (keyring, file) = first();
            let mut files = vec![file];
            for (n, (a, b, meet, at)) in steps.into_iter().enumerate() {
                let (a, b) = (files[a % files.len()].clone(), files[b % files.len()].clone());
                files.push(match meet {
                    true => a.joined(&b, &keyring),
                    false if n % 3 == 0 => another_password(&keyring, &a, at),
                    false => changed(&keyring, &a, n as u8 + 2, at),
                });
            }
            let join = |files: &[KeyFile]| {
                let mut files = files.iter().cloned();
                let first = files.next().unwrap();
                files.fold(first, |a, b| a.joined(&b, &keyring))
            };
            let all = join(&files);
            let mut shuffled = files.clone();
            let len = shuffled.len();
            for n in 0..len {
                shuffled.swap(n, (seed.rotate_left(n as u32 * 7) % len as u64) as usize);
            }
            prop_assert_eq!(&join(&shuffled), &all);
            prop_assert_eq!(&all.joined(&all, &keyring), &all);
            for file in &files {
                prop_assert!(all.supersedes(file), "{:?}", file.generation);
                prop_assert!(all.rank() >= file.rank());
            }
            // Whatever was set in the newest generation opens what they amount to, if it was not set too often at once.
            for is_password in [true, false] {
                let of_kind = files.iter().flat_map(|file| &file.slots).filter(|slot| slot.is_password() == is_password);
                let mut newest = of_kind.collect::<Vec<_>>();
                newest.sort();
                newest.dedup();
                let made_in = newest.last().map(|slot| slot.made_in);
                newest.retain(|slot| Some(slot.made_in) == made_in);
                for slot in newest.iter().rev().take(MAX_SLOTS_OF_KIND) {
                    prop_assert!(all.has_slot(slot.id()));
                }
            }
        }
    }
}
