//! Who users and groups are, by the system's own lookups (nsswitch.conf(5)), as sshd asks them. A lookup that fails is no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use sshfix_policy::subsystem::sshd::{Groups, Members};

use super::files;
use crate::sys::confine::Ids;
use crate::sys::passwd::primary_members;

/// `_PATH_SHELL`, what an empty field means (passwd(5)).
const SHELL: &str = "/bin/sh";
/// Members of a group that are told: one more than the user, and another.
const MEMBERS: usize = 2;

/// A user by name; nothing where there is none.
pub(super) fn user(name: &str) -> Result<Option<super::User>, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} could not be looked up: {error}");
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => return Ok(None),
        Err(error) => return Err(failed(&format!("the user {name}"), &error)),
    };
    let of = format!("the groups of {name}");
    let text = CString::new(name).map_err(|error| failed(&of, &error))?;
    let gids = getgrouplist(&text, user.gid).map_err(|error| failed(&of, &error))?;
    let mut groups = Vec::new();
    for gid in &gids {
        groups.extend(Group::from_gid(*gid).map_err(|error| failed(&of, &error))?.map(|group| group.name));
    }
    let path = |path: &std::path::Path, what: &str| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| format!("the {what} of {name} is not UTF-8, which sshfix does not support"))
    };
    let (home, shell) = (path(&user.dir, "home directory")?, path(&user.shell, "shell")?);
    let shell = if shell.is_empty() { SHELL.to_owned() } else { shell };
    let ids = Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups: gids.into_iter().map(Gid::as_raw).collect() };
    // Last: from here on this process is that user.
    let shell_problem = files::shell(&ids, &shell);
    Ok(Some(super::User { ids, home, shell, groups, shell_problem }))
}

/// What misc.c, `secure_permissions` of Debian, asks of groups that may write.
pub(super) fn groups(groups: &[u32], users: &[u32]) -> Result<Groups, String> {
    let failed = |error: &dyn std::fmt::Display| format!("the members of a group could not be looked up: {error}");
    let mut found = Groups::default();
    let asked: BTreeSet<u32> = groups.iter().copied().collect();
    let mut primary: BTreeMap<u32, BTreeSet<u32>> = primary_members(&asked, MEMBERS).map_err(|error| failed(&error))?;
    for gid in asked {
        let group = Group::from_gid(Gid::from_raw(gid)).map_err(|error| failed(&error))?;
        let primary = primary.remove(&gid).unwrap_or_default();
        let members = |group: Group| Members { primary, listed: group.mem.into_iter().take(MEMBERS).collect() };
        found.groups.insert(gid, group.map(members));
    }
    for uid in users {
        let user = User::from_uid(Uid::from_raw(*uid)).map_err(|error| failed(&error))?;
        found.names.insert(*uid, user.map(|user| user.name));
    }
    Ok(found)
}
