//! The files of sshd's configuration, with everything they include. Read as sshd reads them: symbolic links are followed.

use std::fs;

use sshfix_policy::subsystem::sshd::config::{Document, Tree, glob};

use crate::sys::files;

/// The longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The most files; sshd itself has no limit but its memory.
const FILES_MAX: usize = 1000;

/// The main file and all it includes; the text says what could not be read.
pub(super) fn tree(main: &str) -> Result<Tree, String> {
    let mut tree = Tree::new(main);
    loop {
        let (missing, patterns) = tree.missing();
        if missing.is_empty() && patterns.is_empty() {
            return Ok(tree);
        }
        if tree.files.len() + missing.len() > FILES_MAX {
            return Err(format!("{main} includes more than {FILES_MAX} files"));
        }
        for path in missing {
            let file = files::read_followed(path.as_ref(), FILE_MAX).map_err(|error| error.to_string())?;
            tree.files.insert(path.clone(), Document::parse(&file.bytes));
            tree.not_replaceable.extend(file.not_replaceable.map(|why| (path, why)));
        }
        for pattern in patterns {
            let named = expand(&pattern);
            tree.includes.insert(pattern, named);
        }
    }
}

/// The files that a pattern names, sorted as glob(7) in the C locale does. What cannot be listed names nothing.
fn expand(pattern: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for component in pattern.split('/').skip(1) {
        let mut next = Vec::new();
        for folder in &found {
            if glob::is_pattern(component) {
                let Ok(entries) = fs::read_dir(format!("{folder}/")) else { continue };
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                next.extend(names.filter(|name| glob::matches(component, name)).map(|name| format!("{folder}/{name}")));
            } else {
                let path = format!("{folder}/{component}");
                if fs::symlink_metadata(&path).is_ok() {
                    next.push(path);
                }
            }
        }
        found = next;
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn includes_are_followed_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", folder.path().display());
        fs::create_dir(at("d")).unwrap();
        for (name, text) in [
            ("main", format!("Include {}\nPort 22\n", at("d/*.conf"))),
            ("d/b.conf", "Banner /b\n".to_owned()),
            ("d/a.conf", format!("Include {} {}\n", at("none/*.conf"), at("x"))),
            ("d/.hidden.conf", "Port 1\n".to_owned()),
            ("d/c.conf.bak", "Port 2\n".to_owned()),
            ("x", "UsePAM yes\n".to_owned()),
        ] {
            fs::write(at(name), text).unwrap();
        }
        let tree = tree(&at("main")).unwrap();
        assert_eq!(tree.includes.get(&at("d/*.conf")), Some(&vec![at("d/a.conf"), at("d/b.conf")]));
        assert_eq!(tree.files.keys().collect::<Vec<_>>(), [&at("d/a.conf"), &at("d/b.conf"), &at("main"), &at("x")]);
        assert!(super::tree(&at("not")).unwrap_err().contains("does not exist"));
    }
}
