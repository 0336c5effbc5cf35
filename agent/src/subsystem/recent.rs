//! The lists of `-m recent` on the real host: `/proc/net/xt_recent/NAME`, read whole (they are short) and changed by one address at a
//! time (`iptables-extensions(8)`). Decides nothing.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};
use sshfix_policy::host::{Done, StepError};
use sshfix_policy::subsystem::recent::{Entry, State, Step};

/// Of the network namespace of this thread.
const DIRECTORY: &str = "/proc/thread-self/net/xt_recent";
/// The longest file that is read: `ip_list_tot` would have to be in the tens of thousands.
const LIMIT: u64 = 8 << 20;

/// Reads the lists with these names.
pub fn lookup(state: &mut State, names: &BTreeSet<String>) {
    for name in names {
        state.lists.insert(name.clone(), read(name).map_err(|error| error.to_string()));
    }
}

/// Takes one address off a list or puts it on, and reads it back.
pub fn apply(step: &Step) -> Result<Done, StepError> {
    let failed = |error: &io::Error| {
        StepError::Failed(format!("could not {}: {DIRECTORY}/{}: {error}; nothing was changed", step.summary(), step.list))
    };
    let there = || -> io::Result<bool> { Ok(read(&step.list)?.iter().any(|entry| entry.address == step.address)) };
    match there() {
        Ok(there) if there == step.after.is_some() => return Ok(Done::Already),
        Ok(_) => {}
        // The list goes with the last rule that names it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StepError::Drifted(format!("the recent list {} is gone", step.list)));
        }
        Err(error) => return Err(failed(&error)),
    }
    // `+` adds one hit of now, `-` takes the address off with all of them.
    let (line, times) = match step.after {
        Some(hits) => (format!("+{}\n", step.address), hits.clamp(1, 255)),
        None => (format!("-{}\n", step.address), 1),
    };
    for _ in 0..times {
        write(&step.list, &line).map_err(|error| failed(&error))?;
    }
    match there() {
        Ok(now) if now == step.after.is_some() => Ok(Done::Changed),
        Ok(_) => Err(StepError::Failed(format!("the kernel reported success, but did not {}", step.summary()))),
        Err(error) => {
            Err(StepError::Failed(format!("made the change ({}), but could not read it back: {error}", step.summary())))
        }
    }
}

/// Whether the list holds, or lacks, the address as the step left it. A list that is gone holds nobody.
pub fn stands(step: &Step) -> Result<bool, StepError> {
    match read(&step.list) {
        Ok(list) => Ok(list.iter().any(|entry| entry.address == step.address) == step.after.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(step.after.is_none()),
        Err(error) => Err(StepError::Failed(format!("{DIRECTORY}/{}: {error}", step.list))),
    }
}

/// The file of a list. The kernel takes no name that would lead elsewhere (`xt_check_proc_name`); neither does this.
fn path(name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not the name of a list"));
    }
    Ok(PathBuf::from(DIRECTORY).join(name))
}

fn read(name: &str) -> io::Result<Vec<Entry>> {
    let mut text = String::new();
    File::open(path(name)?)?.take(LIMIT + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LIMIT {
        return Err(io::Error::other("the list is too long to be read"));
    }
    let now = now();
    text.lines()
        .map(|line| parse(line, now).ok_or_else(|| io::Error::other(format!("`{line:.100}` is not understood"))))
        .collect()
}

fn write(name: &str, line: &str) -> io::Result<()> {
    // Each write is one command to the kernel.
    OpenOptions::new().write(true).open(path(name)?)?.write_all(line.as_bytes())
}

/// The kernel's tick now, and how long one is. Ticks are counted from `INITIAL_JIFFIES`, five minutes before 32 bits overflow, and
/// follow the monotonic clock; the coarse clock's resolution is one tick (`KTIME_LOW_RES`).
fn now() -> Option<(u64, Duration)> {
    let tick = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).ok()?);
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    let per_second = Duration::from_secs(1).as_nanos().checked_div(tick.as_nanos())?;
    let ticks = since_boot.as_nanos().checked_div(tick.as_nanos())?;
    let start = (1_u128 << 32).checked_sub(300 * per_second)?;
    Some((u64::try_from(start + ticks).ok()?, tick))
}

/// One line of a list.
pub(super) fn entry(line: &str) -> Option<Entry> {
    parse(line, now())
}

/// `src=203.0.113.7 ttl: 0 last_seen: 4298149227 oldest_pkt: 1 4298149227, 4298149477` (`recent_seq_show`)
fn parse(line: &str, now: Option<(u64, Duration)>) -> Option<Entry> {
    let (head, stamps) = line.split_once(" oldest_pkt: ")?;
    let mut words = head.split_whitespace();
    let address: IpAddr = words.next()?.strip_prefix("src=")?.parse().ok()?;
    let ttl = words.nth(1)?.parse().ok()?;
    let (_, stamps) = stamps.split_once(' ').unwrap_or((stamps, ""));
    let stamps: Vec<u64> = stamps.split(", ").filter(|one| !one.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?;
    let age = |stamp: &u64| {
        let (now, tick) = now?;
        // On 32 bits the tick has overflown; and a stamp of the future cannot be.
        let ticks =
            if usize::BITS == 32 { (now & 0xffff_ffff).wrapping_sub(*stamp) & 0xffff_ffff } else { now.saturating_sub(*stamp) };
        u64::try_from(u128::from(ticks).checked_mul(tick.as_millis())?).ok()
    };
    let ages = stamps.iter().map(age).collect();
    Some(Entry { address, ttl, hits: stamps.len(), ages })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_with_the_age_of_each_hit() {
        let tick = Duration::from_millis(4);
        let line = "src=203.0.113.7 ttl: 64 last_seen: 4298149227 oldest_pkt: 2 4298149227, 4298148977";
        let entry = parse(line, Some((4_298_149_477, tick))).unwrap();
        assert_eq!((entry.address, entry.ttl, entry.hits), ("203.0.113.7".parse().unwrap(), 64, 2));
        assert_eq!(entry.ages, Some(vec![1000, 2000]));
        let v6 = parse("src=2001:0db8:0000:0000:0000:0000:0000:0007 ttl: 0 last_seen: 1 oldest_pkt: 1 1", None).unwrap();
        assert_eq!((v6.address, v6.hits, v6.ages), ("2001:db8::7".parse().unwrap(), 1, None));
        assert_eq!(parse("nonsense", None), None);
    }

    #[test]
    fn a_name_that_would_lead_elsewhere_is_none() {
        for name in ["", ".", "..", "a/b", "../../sys", "a\0b"] {
            assert!(path(name).is_err(), "{name:?}");
        }
        assert!(path("SSH").is_ok());
    }
}
