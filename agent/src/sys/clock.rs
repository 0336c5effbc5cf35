//! What time it is, by two clocks, and in which boot of the host. A deadline by the wall clock alone would never come when
//! somebody sets the clock back; one by the kernel's clock alone means nothing after a reboot. Decides nothing.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the wall clock, which people and NTP set.
    pub wall: Timestamp,
    /// Which boot it is.
    pub boot: Boot,
    /// How long that boot lasts, suspended time included (`CLOCK_BOOTTIME`, `clock_gettime(2)`): never set, never back.
    pub since_boot: Duration,
}

/// Which boot of the host: the kernel's boot id (random(4)) and when PID 1 started (`proc_pid_stat(5)`, field 22), since a container shares
/// its host's boot id and only the latter tells one of its boots from the next. Unknown where it could not be read, or was not written down
/// whole: what is unknown never counts as another boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot(Option<String>);

impl Boot {
    /// This boot. Read once: whether it can be read later (a process without free descriptors reads nothing) says nothing about the host.
    pub fn current() -> Self {
        static CURRENT: OnceLock<String> = OnceLock::new();
        if let Some(text) = CURRENT.get() {
            return Self(Some(text.clone()));
        }
        match read_boot() {
            Some(text) => Self(Some(CURRENT.get_or_init(|| text).clone())),
            None => Self(None),
        }
    }

    /// As it was written down; unknown where that is not a whole boot id.
    pub fn recorded(text: &str) -> Self {
        Self(is_boot(text).then(|| text.to_owned()))
    }

    /// To be written down; empty where it is unknown.
    pub fn text(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    /// Whether it is known.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// Whether both are known and differ: the host was rebooted in between.
    pub fn differs(&self, other: &Self) -> bool {
        matches!((&self.0, &other.0), (Some(one), Some(other)) if one != other)
    }

    /// A boot for tests.
    #[cfg(test)]
    pub(crate) fn number(number: u32) -> Self {
        Self::recorded(&format!("{number:08x}-0000-4000-8000-000000000000 {number}"))
    }
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
    /// Now. Without the kernel's own clock everything is over: what waits is rolled back, not kept.
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
        Self { wall: Timestamp::now(), boot: Boot::current(), since_boot }
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

fn read_boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string("/proc/1/stat").ok()?;
    // The command, in parentheses, may hold anything; the field after it is the third.
    let started = stat.rsplit(") ").next()?.split(' ').nth(19)?;
    let text = format!("{} {started}", id.trim());
    is_boot(&text).then_some(text)
}

/// `12345678-1234-1234-1234-123456789abc 17`
fn is_boot(text: &str) -> bool {
    let Some((id, started)) = text.split_once(' ') else { return false };
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = id.split('-').collect();
    let whole = parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, length)| hex(part, length));
    whole && (1..=20).contains(&started.len()) && started.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(wall: i64, since_boot: u64) -> Moment {
        Moment { wall: Timestamp::from_second(wall).unwrap(), boot: Boot::number(1), since_boot: Duration::from_secs(since_boot) }
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
        assert!(one.boot.is_known() && Boot::recorded(one.boot.text()) == one.boot, "{}", one.boot.text());
        assert!(one.boot.differs(&Boot::number(1)) && !one.boot.differs(&two.boot));
        assert!(one.since_boot <= two.since_boot && !one.since_boot.is_zero());
    }

    #[test]
    fn what_is_no_whole_boot_id_is_unknown_and_no_other_boot() {
        let whole = "0f8f5d20-7b0e-4c8e-9a59-1d1fd7fd36e4 17";
        assert!(Boot::recorded(whole).is_known() && Boot::recorded(whole).differs(&Boot::number(1)));
        let id = "0f8f5d20-7b0e-4c8e-9a59-1d1fd7fd36e4";
        for text in
            ["", " ", "17", id, &format!("{id} "), &format!("{id} 17 2"), &format!("{id} x"), &format!("{id}0 17"), "boot"]
        {
            let boot = Boot::recorded(text);
            assert!(!boot.is_known() && !boot.differs(&Boot::number(1)) && !Boot::number(1).differs(&boot), "{text}");
        }
    }
}
