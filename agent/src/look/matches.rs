//! Which files a pattern of `AuthorizedKeysFile` names, as its user sees them, in sshd's order (OpenSSH 10.0, auth2-pubkey.c; glob(3)).
//! What is too much to read, or would be read otherwise by glob(3), is a reason, never a fact.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use sshfix_policy::subsystem::sshd::config::glob;
use sshfix_policy::subsystem::sshd::{MAX_MATCHES, is_pattern};

use crate::sys::view::View;

/// Names in folders that are looked at.
const MAX_NAMES: usize = 10_000;

/// The files that match, in their order. The path is absolute.
pub(super) fn of(pattern: &str, view: &View) -> Result<Vec<String>, String> {
    if pattern.contains('\\') || pattern.contains("[:") {
        return Err("it is a pattern with a backslash or a class of characters, which sshfix does not follow".to_owned());
    }
    let (mut found, mut names) = (vec![String::new()], 0);
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for above in found {
            if !is_pattern(part) {
                next.push(format!("{above}/{part}"));
                continue;
            }
            let folder = if above.is_empty() { "/" } else { above.as_str() };
            view.require_same(Path::new(folder))?;
            next.extend(listed(folder, part, &mut names)?.into_iter().map(|name| format!("{above}/{name}")));
        }
        if next.len() > MAX_MATCHES {
            return Err(format!("more than {MAX_MATCHES} files match the pattern, more than sshfix reads"));
        }
        found = next;
    }
    found.retain(|path| fs::symlink_metadata(path).is_ok());
    found.sort();
    Ok(found)
}

/// The names in a folder that match; none where the user cannot list it.
fn listed(folder: &str, part: &str, names: &mut usize) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{folder} could not be listed: {error}");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        *names += 1;
        if *names > MAX_NAMES {
            return Err(format!("more than {MAX_NAMES} names would have to be compared with the pattern"));
        }
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().ok_or_else(|| format!("a name in {folder} is not UTF-8, which sshfix does not support"))?;
        if glob::matches(part, name) {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_pattern_names_what_matches_in_order_and_nothing_where_nothing_does() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().to_str().unwrap();
        for path in ["b/keys", "a/keys", "c/other", ".d/keys"] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| of(&format!("{top}/{pattern}"), &View::Same);
        let below = |paths: &[&str]| Ok(paths.iter().map(|path| format!("{top}/{path}")).collect::<Vec<_>>());
        assert_eq!(found("*/keys"), below(&["a/keys", "b/keys"]));
        assert_eq!(found("[!a]/*"), below(&["b/keys", "c/other"]));
        assert_eq!((found("none/*"), found("a/keys/*"), found("?/x")), (below(&[]), below(&[]), below(&[])));
        assert!(found("\\a/*").is_err() && found("[[:alpha:]]/*").is_err());
        for name in 0..=MAX_MATCHES {
            fs::write(folder.path().join(format!("a/{name}")), "").unwrap();
        }
        assert!(found("a/*").unwrap_err().contains("more than"));
    }
}
