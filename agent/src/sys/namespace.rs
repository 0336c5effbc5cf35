//! Whether this thread is in a namespace of the host, which are those of PID 1 (namespaces(7)). Reads only; enters none.

use std::fs;
use std::io;

/// Of one kind, as /proc/PID/ns names it: `net`, `mnt`. Errors are those of reading the two links.
pub fn is_the_hosts(kind: &str) -> io::Result<bool> {
    // "1" and not this one's own parent: whoever started this may be in other namespaces already.
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}"));
    Ok(of("thread-self")? == of("1")?)
}
