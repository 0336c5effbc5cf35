//! How many requests of one signer get a record. Whoever may ask may ask for ever, and must not fill the disk with it: past the rate they are
//! refused. Confirms, rollbacks and statuses are answered all the same, and counted. Decides nothing about requests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::refusals::Bucket;

/// One signer: this many at once, and one more each so often.
pub const BURST: u32 = 300;
/// See [`BURST`].
pub const EVERY: Duration = Duration::from_secs(2);
/// Signers that are told apart; those who were idle for long enough are forgotten first.
const MAX_SIGNERS: usize = 1024;
/// Signers that a summary names.
const NAMED: usize = 10;

/// The requests of this agent's life.
#[derive(Debug, Default)]
pub struct Rates(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    signers: BTreeMap<String, Signer>,
    since: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Signer {
    bucket: Bucket,
    counted: u64,
}

impl Rates {
    /// Whether a request of this signer gets a record. If not, it is counted.
    pub fn has_record(&self, signer: &str, now: Instant) -> bool {
        let mut counts = self.lock();
        let Counts { signers, since } = &mut *counts;
        if signers.len() >= MAX_SIGNERS && !signers.contains_key(signer) {
            signers.retain(|_, signer| signer.counted > 0 || !signer.bucket.is_full(now));
        }
        if signers.len() >= MAX_SIGNERS && !signers.contains_key(signer) {
            since.get_or_insert_with(Timestamp::now);
            return false;
        }
        let signer = signers.entry(signer.to_owned()).or_default();
        if signer.bucket.has_one(now, BURST, EVERY) {
            signer.bucket.take(now, EVERY);
            return true;
        }
        signer.counted = signer.counted.saturating_add(1);
        since.get_or_insert_with(Timestamp::now);
        false
    }

    /// What was only counted since the last call, as one line for one record.
    pub fn take_summary(&self) -> Option<String> {
        let mut counts = self.lock();
        let since = counts.since.take()?;
        let signers = counts.signers.iter_mut().map(|(name, signer)| (name.clone(), std::mem::take(&mut signer.counted)));
        let mut counted: Vec<(String, u64)> = signers.filter(|(_, count)| *count > 0).collect();
        counted.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        let total = counted.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let names: Vec<String> =
            counted.iter().take(NAMED).map(|(name, count)| format!("{count} of {}", name.escape_debug())).collect();
        let more = counted.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and those of {more} more") } else { String::new() };
        Some(format!("{total} more requests since {since}, too many for a record each: {}{more}", names.join(", ")))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signer_over_the_rate_gets_no_more_records_and_others_do() {
        let (rates, start) = (Rates::default(), Instant::now());
        let recorded = (0..1000).filter(|_| rates.has_record("alice", start)).count();
        assert_eq!(recorded, usize::try_from(BURST).unwrap_or_default());
        assert!(rates.has_record("root", start));
        assert!(rates.has_record("alice", start + EVERY) && !rates.has_record("alice", start + EVERY));
        let text = rates.take_summary().unwrap_or_default();
        assert!(text.starts_with("701 more requests since") && text.ends_with("701 of alice"), "{text}");
        assert_eq!(rates.take_summary(), None);
    }

    #[test]
    fn many_signers_are_bounded_in_memory() {
        let (rates, start) = (Rates::default(), Instant::now());
        let recorded = (0..5000).filter(|n| rates.has_record(&n.to_string(), start)).count();
        assert_eq!(recorded, MAX_SIGNERS);
        assert!(rates.has_record("later", start + Duration::from_hours(1)));
    }
}
