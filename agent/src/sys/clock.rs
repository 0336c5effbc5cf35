//! What time it is, by two clocks, and in which boot of the host. A deadline by the wall clock alone would never come when
//! somebody sets the clock back; one by the kernel's clock alone means nothing after a reboot. Decides nothing.

use std::fs;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the wall clock, which people and NTP set.
    pub wall: Timestamp,
    /// Which boot it is.
    pub boot: String,
    /// How long that boot lasts, suspended time included (`CLOCK_BOOTTIME`, `clock_gettime(2)`): never set, never back.
    pub since_boot: Duration,
}

/// When something is over: by whichever clock says so first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// By the wall clock.
    pub wall: Timestamp,
    /// By `CLOCK_BOOTTIME` of the boot in which it was set.
    pub since_boot: Duration,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self { wall: Timestamp::now(), boot: boot(), since_boot }
    }

    /// The deadline that is so far from here. A wall clock near the end of its range just ends earlier.
    pub fn deadline(&self, within: Duration) -> Deadline {
        let within_wall = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
        Deadline {
            wall: self.wall.checked_add(within_wall).unwrap_or(Timestamp::MAX),
            since_boot: self.since_boot.saturating_add(within),
        }
    }
}

impl Deadline {
    /// Whether it is over, in the boot in which it was set.
    pub fn is_over(&self, now: &Moment) -> bool {
        self.left(now).is_zero()
    }

    /// How long still, by the clock that ends first.
    pub fn left(&self, now: &Moment) -> Duration {
        let by_wall = Duration::try_from(self.wall.duration_since(now.wall)).unwrap_or_default();
        by_wall.min(self.since_boot.saturating_sub(now.since_boot))
    }
}

/// The kernel's boot id (random(4)) and when PID 1 started (`proc_pid_stat(5)`, field 22): in a container that shares its host's
/// boot id, only the latter tells one boot from the next. Empty where neither can be read; then all boots look the same, and the
/// deadline alone decides.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let stat = fs::read_to_string("/proc/1/stat").unwrap_or_default();
    // The command, in parentheses, may hold anything; the field after it is the third.
    let started = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)).unwrap_or_default();
    format!("{} {started}", id.trim()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(wall: i64, since_boot: u64) -> Moment {
        Moment { wall: Timestamp::from_second(wall).unwrap(), boot: "b".to_owned(), since_boot: Duration::from_secs(since_boot) }
    }

    #[test]
    fn a_deadline_is_over_when_either_clock_says_so() {
        let deadline = at(1000, 50).deadline(Duration::from_mins(2));
        assert!(!deadline.is_over(&at(1000, 50)));
        assert!(!deadline.is_over(&at(1119, 169)));
        assert!(deadline.is_over(&at(1120, 51)), "the wall clock was set forward");
        assert!(deadline.is_over(&at(-5000, 170)), "the wall clock was set back");
        assert_eq!(deadline.left(&at(1030, 60)), Duration::from_secs(90));
        assert_eq!(deadline.left(&at(-5000, 60)), Duration::from_secs(110));
    }

    #[test]
    fn this_boot_is_told_from_others_and_stays_the_same() {
        let (one, two) = (Moment::now(), Moment::now());
        assert_eq!(one.boot, two.boot);
        assert!(one.boot.len() > 36, "a boot id and a start time: {}", one.boot);
        assert!(one.since_boot <= two.since_boot && !one.since_boot.is_zero());
    }
}
