//! How many requests may be under way at once: as many as the server takes without a complaint.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Never more. Of more uploads at once a server may refuse some because of the others (Nextcloud: 423).
pub const MOST_AT_ONCE: usize = 4;

/// After so many answers without a complaint there may be one more again.
const CALM: u32 = 8;

/// Lets requests pass: half as many after each complaint, and slowly more again.
#[derive(Debug, Default)]
pub struct Window {
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    size: usize,
    under_way: usize,
    calm: u32,
}

impl Default for State {
    fn default() -> Self {
        Self { size: MOST_AT_ONCE, under_way: 0, calm: 0 }
    }
}

impl State {
    fn after(self, complained: bool) -> Self {
        match complained {
            true => Self { size: (self.size / 2).max(1), calm: 0, ..self },
            false if self.size == MOST_AT_ONCE => self,
            false if self.calm + 1 == CALM => Self { size: self.size + 1, calm: 0, ..self },
            false => Self { calm: self.calm + 1, ..self },
        }
    }
}

impl Window {
    /// Waits until one more request may be under way; it is until the pass is dropped. Those that are under way must go on
    /// meanwhile: whoever has some and does not poll them waits for ever.
    pub async fn enter(&self) -> Pass<'_> {
        while !self.begin() {
            self.left.notified().await;
        }
        // Whoever waits beside this one looks, too: perhaps there is room for both.
        self.left.notify_one();
        Pass(self)
    }

    fn begin(&self) -> bool {
        let mut state = self.state();
        let has_room = state.under_way < state.size;
        state.under_way += usize::from(has_room);
        has_room
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that is under way.
#[derive(Debug)]
pub struct Pass<'a>(&'a Window);

impl Pass<'_> {
    /// It was answered; `complained` if the server has too much to do.
    pub fn answered(self, complained: bool) {
        {
            let mut state = self.0.state();
            *state = state.after(complained);
        }
        drop(self);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_each_complaint_and_grows_by_one_in_calm() {
        let sizes = |answers: &[bool]| {
            let next = |state: &mut State, complained: &bool| {
                *state = state.after(*complained);
                Some(state.size)
            };
            answers.iter().scan(State::default(), next).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[true; 4]), [2, 1, 1, 1]);
        let after = sizes(&[[true; 2].as_slice(), &[false; 60]].concat());
        let after = |calm: usize| after[1 + calm];
        assert_eq!([7, 8, 15, 16, 23, 24, 60].map(after), [1, 2, 2, 3, 3, 4, MOST_AT_ONCE]);
        // However long it was calm before a complaint.
        let after = sizes(&[[false; 60].as_slice(), &[true], &[false; 7], &[true], &[false; 7]].concat());
        assert_eq!(after.last(), Some(&1));
    }
}
