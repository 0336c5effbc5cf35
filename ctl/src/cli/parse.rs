//! Words of the command line: addresses, durations, reasons, digests. What is wrong with one is said in its own terms.

use std::net::IpAddr;
use std::time::Duration;

use sshfix_policy::address::{self, AddressError, Source};

pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    let source: Source = text.parse().map_err(|error: AddressError| error.to_string())?;
    let address = source.single().ok_or_else(|| format!("`{text}` is a range; name one address of it"))?;
    address::of_a_client(address).map_err(|error| error.to_string())?;
    Ok(address)
}

/// Far from the limit of a frame, and enough for a ticket and a sentence.
const REASON_MAX: usize = 1000;

pub fn parse_reason(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if length > REASON_MAX { Err(format!("{length} characters; at most {REASON_MAX} are allowed")) } else { Ok(text.to_owned()) }
}

pub fn parse_digest(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a plan digest is `sha256:` and 64 hex digits, as `--dry-run` shows it".to_owned())
    }
}

/// `90s`, `10m`, `2h`, `1d`, `1w`, or several of them: `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; use 30s, 10m, 2h, 1d or 1h30m");
    let mut seconds: u64 = 0;
    let mut number: Option<u64> = None;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let next = number.unwrap_or(0).checked_mul(10).and_then(|n| n.checked_add(digit.into()));
            number = Some(next.ok_or_else(wrong)?);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let part = number.take().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
        seconds = seconds.checked_add(part).ok_or_else(wrong)?;
    }
    // Ten years is past any use, and keeps every sum of times in range.
    match number {
        None if seconds > 0 && seconds <= 10 * 366 * 86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}
