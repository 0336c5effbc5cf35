//! What `MaxStartups` says, and from how many on sshd cannot start. Judges the value alone.

use crate::subsystem::sshd::Effective;

/// sshd takes memory for each of them at its start, and ends where it gets none.
const STARTUPS_MAX: u32 = 100_000;

/// An sshd that would not have the memory for its `MaxStartups`.
pub fn too_many_startups(effective: &Effective) -> Option<String> {
    let (.., full) = max_startups(effective).filter(|(.., full)| *full > STARTUPS_MAX)?;
    Some(format!(
        "sshd takes memory for each of the {full} connections of MaxStartups when it starts, and ends where it gets none: {STARTUPS_MAX} is \
         the most that sshfix sets"
    ))
}

/// `begin:rate:full`.
pub fn max_startups(effective: &Effective) -> Option<(u32, u32, u32)> {
    let mut parts = effective.one("maxstartups")?.split(':').map(str::parse);
    let mut next = || parts.next().and_then(Result::ok);
    Some((next()?, next()?, next()?))
}
