//! Users of the host by their primary group, through the system's own lookups (getpwent(3)). For a process of one thread that has time:
//! a directory of many users takes long.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::errno::Errno;
use nix::libc;

/// The users with these primary groups, the first `most` of each group.
pub fn primary_members(groups: &BTreeSet<u32>, most: usize) -> io::Result<BTreeMap<u32, BTreeSet<u32>>> {
    let mut found: BTreeMap<u32, BTreeSet<u32>> = groups.iter().map(|group| (*group, BTreeSet::new())).collect();
    // SAFETY: rewinds the enumeration of this process; no other thread of it enumerates.
    unsafe { libc::setpwent() };
    loop {
        Errno::clear();
        // SAFETY: what it returns is read before the next call, by the only thread that calls it.
        let user = unsafe { libc::getpwent().as_ref() }.map(|user| (user.pw_gid, user.pw_uid));
        let Some((gid, uid)) = user else { break };
        if let Some(members) = found.get_mut(&gid)
            && members.len() < most
        {
            members.insert(uid);
        }
    }
    // getpwent(3): 0 is the end; some directories leave ENOENT or ESRCH there.
    match Errno::last() {
        Errno::ENOENT | Errno::ESRCH => {}
        errno if errno == Errno::from_raw(0) => {}
        errno => return Err(errno.into()),
    }
    // SAFETY: ends the enumeration begun above.
    unsafe { libc::endpwent() };
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn root_is_a_primary_member_of_its_group_and_of_no_other() {
        let found = primary_members(&[0, 4_000_000_000].into(), 3).unwrap();
        assert!(found.get(&0).unwrap().contains(&0));
        assert_eq!(found.get(&4_000_000_000), Some(&BTreeSet::new()));
    }
}
