//! Logs what goes wrong in a loop once per cause: when it is new, when it changed, now and then while it lasts, and when it is over.
//! Decides nothing.

use std::time::{Duration, Instant};

/// What lasts is said again after so long.
const AGAIN: Duration = Duration::from_mins(10);

/// One thing that can go wrong again and again.
#[derive(Debug, Default)]
pub struct Once(Option<(String, Instant)>);

impl Once {
    /// It went wrong: whether that is to be said now.
    pub fn is_new(&mut self, why: &str) -> bool {
        let known = self.0.as_ref().is_some_and(|(known, said)| known == why && said.elapsed() < AGAIN);
        if !known {
            self.0 = Some((why.to_owned(), Instant::now()));
        }
        !known
    }

    /// It went well: whether it had gone wrong before.
    pub fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_and_another_one_again() {
        let mut once = Once::default();
        assert!(!once.is_over());
        assert_eq!(["full", "full", "gone", "gone", "full"].map(|why| once.is_new(why)), [true, false, true, false, true]);
        assert!(once.is_over() && !once.is_over());
        assert!(once.is_new("full"), "anew after it was over");
    }
}
