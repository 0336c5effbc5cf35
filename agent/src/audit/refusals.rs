//! How many refused requests get a record of their own. Whoever may connect may be refused for ever, and must not fill the disk
//! with it: past the limit refusals are only counted, and the count becomes one record. Decides nothing about requests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// One user: this many at once, and one more each so often.
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_secs(30);
/// All users together, because one person can be many of them (`subuid(5)`).
const ALL_BURST: u32 = 60;
const ALL_EVERY: Duration = Duration::from_secs(10);
/// Users that are told apart; more are counted as one.
const MOST_USERS: usize = 256;
/// Stands for all the others: `(uid_t) -1` is nobody's (credentials(7)).
const OTHERS: u32 = u32::MAX;
/// Users that a summary names.
const NAMED: usize = 10;

/// The refusals of this agent's life.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: Bucket,
    users: BTreeMap<u32, User>,
    /// When the first one was only counted.
    since: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct User {
    bucket: Bucket,
    counted: u64,
}

/// A token bucket, kept as the time at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn is_full(self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }

    pub(super) fn has_one(self, now: Instant, burst: u32, every: Duration) -> bool {
        self.full_at.is_none_or(|full_at| full_at.saturating_duration_since(now) + every <= every * burst)
    }

    pub(super) fn take(&mut self, now: Instant, every: Duration) {
        self.full_at = Some(self.full_at.map_or(now, |full_at| full_at.max(now)) + every);
    }
}

impl Refusals {
    /// Whether the refusal of a request of this user gets a record of its own. If not, it is counted.
    pub fn has_own_record(&self, uid: u32, now: Instant) -> bool {
        let mut counts = self.lock();
        let Counts { all, users, since } = &mut *counts;
        if users.len() >= MOST_USERS && !users.contains_key(&uid) {
            users.retain(|_, user| user.counted > 0 || user.bucket.full_at.is_some_and(|full_at| full_at > now));
        }
        let uid = if users.len() < MOST_USERS || users.contains_key(&uid) { uid } else { OTHERS };
        let user = users.entry(uid).or_default();
        if user.bucket.has_one(now, BURST, EVERY) && all.has_one(now, ALL_BURST, ALL_EVERY) {
            user.bucket.take(now, EVERY);
            all.take(now, ALL_EVERY);
            return true;
        }
        user.counted = user.counted.saturating_add(1);
        since.get_or_insert_with(Timestamp::now);
        false
    }

    /// What was only counted since the last call, as one line for one record.
    pub fn take_summary(&self) -> Option<String> {
        let mut counts = self.lock();
        let since = counts.since.take()?;
        let mut counted: Vec<(u32, u64)> = counts
            .users
            .iter_mut()
            .map(|(uid, user)| (*uid, std::mem::take(&mut user.counted)))
            .filter(|(_, n)| *n > 0)
            .collect();
        counted.sort_by_key(|(uid, count)| (std::cmp::Reverse(*count), *uid));
        let total: u64 = counted.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count));
        let mut text = format!("{total} more requests were refused since {since}, too many for a record each:");
        for (index, (uid, count)) in counted.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = match *uid {
                OTHERS => write!(text, "{comma} {count} of others"),
                uid => write!(text, "{comma} {count} of uid {uid}"),
            };
        }
        if counted.len() > NAMED {
            let _ = write!(text, " and those of {} more users", counted.len() - NAMED);
        }
        Some(text)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(refusals: &Refusals, uid: u32, from: Instant, times: u32, apart: Duration) -> u32 {
        (0..times).map(|n| u32::from(refusals.has_own_record(uid, from + apart * n))).sum()
    }

    #[test]
    fn one_user_who_is_refused_for_ever_gets_a_bounded_number_of_records() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(records(&refusals, 1000, start, 5000, Duration::ZERO), BURST);
        // Another user is still recorded.
        assert_eq!(records(&refusals, 1001, start, 3, Duration::ZERO), 3);
        let text = refusals.take_summary().unwrap_or_default();
        assert!(text.starts_with("4980 more requests were refused") && text.ends_with("each: 4980 of uid 1000"), "{text}");
        assert_eq!(refusals.take_summary(), None);
        // A day of ten a second: the burst, and one every 30 s.
        let day = records(&refusals, 1000, start + Duration::from_hours(1), 864_000, Duration::from_millis(100));
        assert!((2880..=2880 + BURST).contains(&day), "{day}");
    }

    #[test]
    fn many_users_together_are_bounded_in_records_and_memory() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let recorded: u32 = (0..60_000).map(|uid| records(&refusals, uid, start, 1, Duration::ZERO)).sum();
        assert_eq!(recorded, ALL_BURST);
        assert!(refusals.lock().users.len() <= MOST_USERS + 1);
        let text = refusals.take_summary().unwrap_or_default();
        assert!(text.starts_with("59940 more requests") && text.contains(" of others") && text.len() < 400, "{text}");
        // Those who were idle make room for new ones.
        let later = start + Duration::from_hours(1);
        assert!(refusals.has_own_record(70_000, later));
        assert!(refusals.lock().users.contains_key(&70_000));
    }

    #[test]
    fn who_is_refused_now_and_then_always_gets_a_record() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(records(&refusals, 1000, start, 1000, EVERY), 1000);
        assert_eq!(refusals.take_summary(), None);
    }
}
