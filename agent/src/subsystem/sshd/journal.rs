//! The last quarter of an hour of the journal, as far as it is about sshd. No penalty of a default configuration lasts longer than ten
//! minutes. Reads only; what the lines mean is in `policy`.

use std::path::Path;
use std::thread;
use std::time::Duration;

use sshfix_policy::subsystem::sshd::journal::{self as model, Told};

use crate::sys::child;

const JOURNALCTL: &str = "/usr/bin/journalctl";
const LIMIT: Duration = Duration::from_secs(5);
const OUTPUT_MAX: usize = 8 << 20;
/// journalctl(1): `_UID=0` and `_TRANSPORT` are journald's own words, the others the writer's.
const OF_SSHD: [&str; 3] = ["SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session", "SYSLOG_IDENTIFIER=sshd-auth"];
const OF_OTHERS: [&str; 10] = [
    "_UID=0",
    "_PID=1",
    "UNIT=ssh.service",
    "UNIT=sshd.service",
    "+",
    "_UID=0",
    "SYSLOG_IDENTIFIER=systemd-coredump",
    "+",
    "_TRANSPORT=kernel",
    "SYSLOG_IDENTIFIER=kernel",
];

/// What was said, oldest first; the text says why it is not known.
pub(super) fn read() -> Result<Vec<Told>, String> {
    let (of_sshd, of_others) = thread::scope(|scope| {
        let others = scope.spawn(|| ask(&OF_OTHERS, "2000"));
        let sshd = ask(&OF_SSHD, "5000");
        (sshd, others.join())
    });
    let mut told = model::read(&of_sshd?);
    // A kernel log that cannot be read tells of no crash, and hides nothing else.
    if let Ok(Ok(others)) = of_others {
        told.extend(model::read(&others));
    }
    told.sort_by_key(|told| told.at);
    Ok(told)
}

fn ask(matches: &[&str], most: &str) -> Result<String, String> {
    let fields = format!("--output-fields={}", model::FIELDS);
    let options = ["-q", "--no-pager", "-a", "-o", "json", fields.as_str(), "--since=-15min", "-n", most];
    let output = child::run(Path::new(JOURNALCTL), &[&options, matches].concat(), None, LIMIT, OUTPUT_MAX);
    let output = output.map_err(|error| error.to_string())?;
    if !output.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
