//! Descriptors that are kept back, so that a change can be taken back when all others are used up. They are open files that are good
//! for nothing but being closed; between the close and their use nothing else takes them that is bounded, as connections are.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// A rollback starts programs (three pipes each, several side by side) and opens files and sockets.
const KEPT_BACK: usize = 48;
/// What is held open for this.
const NOTHING: &str = "/dev/null";

static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { held: Vec::new(), in_use: 0, kept: false });

#[derive(Debug)]
struct Reserve {
    held: Vec<OwnedFd>,
    in_use: usize,
    kept: bool,
}

impl Reserve {
    fn fill(&mut self) {
        while self.kept && self.in_use == 0 && self.held.len() < KEPT_BACK {
            let Ok(file) = File::open(NOTHING) else { return };
            self.held.push(file.into());
        }
    }
}

/// Keeps them back from now on.
pub fn keep_back() {
    let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    reserve.kept = true;
    reserve.fill();
}

/// They are free as long as this lives.
#[derive(Debug)]
pub struct Spare(());

/// Frees them.
pub fn spare() -> Spare {
    let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
    reserve.in_use += 1;
    reserve.held.clear();
    Spare(())
}

impl Drop for Spare {
    fn drop(&mut self) {
        let mut reserve = RESERVE.lock().unwrap_or_else(PoisonError::into_inner);
        reserve.in_use = reserve.in_use.saturating_sub(1);
        reserve.fill();
    }
}

/// How many descriptors this process may have at most (`RLIMIT_NOFILE`, from `proc_pid_limits(5)`), without those kept back.
pub fn usable() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(soft.saturating_sub(KEPT_BACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_held_until_they_are_spared_and_again_afterwards() {
        let held = || RESERVE.lock().unwrap_or_else(PoisonError::into_inner).held.len();
        assert_eq!(held(), 0);
        keep_back();
        assert_eq!(held(), KEPT_BACK);
        let (one, other) = (spare(), spare());
        assert_eq!(held(), 0);
        drop(one);
        assert_eq!(held(), 0);
        drop(other);
        assert_eq!(held(), KEPT_BACK);
        assert!(usable().is_some_and(|usable| usable > 100));
    }
}
