//! A copy of a whole configuration in a folder of its own that only root can enter, for that very sshd to be asked about files
//! that are not in place. Every line keeps its number; what sshd says of the copy is told with the names of the real files.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sshfix_policy::subsystem::sshd::Invocation;
use sshfix_policy::subsystem::sshd::config::{Document, Tree};

use crate::random;

/// Below the agent's own folder, which is in memory and gone with the boot.
pub(super) const FOLDER: &str = "/run/sshfix";
/// What the folder of each begins with,
const PREFIX: &str = "candidate-";
/// and that in which a host key is made.
pub(super) const MAKING: &str = "host-key-";

/// The copy. Dropping it removes it.
pub(super) struct Shadow {
    folder: PathBuf,
    main: String,
    /// What each copy is of, by its path.
    real: BTreeMap<String, String>,
}

impl Shadow {
    /// Writes a copy of all files of this tree.
    pub(super) fn make(tree: &Tree) -> Result<Self, String> {
        let name = random::hex::<8>().map_err(|error| error.to_string())?;
        let folder = Path::new(FOLDER).join(format!("{PREFIX}{name}"));
        let text = |error: std::io::Error| format!("no copy of the configuration could be made in {}: {error}", folder.display());
        fs::create_dir_all(FOLDER).map_err(text)?;
        DirBuilder::new().mode(0o700).create(&folder).map_err(text)?;
        // Of equal length, so that none is the beginning of another.
        let copies: BTreeMap<&str, String> = tree
            .files
            .keys()
            .zip(0..)
            .map(|(path, at): (_, u32)| (path.as_str(), format!("{}/{at:06}", folder.display())))
            .collect();
        let main = copies.get(tree.main.as_str()).cloned().ok_or_else(|| format!("{} was not read", tree.main))?;
        let real = copies.iter().map(|(real, copy)| (copy.clone(), (*real).to_owned())).collect();
        let shadow = Self { main, real, folder: folder.clone() };
        for (path, copy) in &copies {
            let Some(document) = tree.files.get(*path) else { continue };
            let bytes = redirected(document, tree, &copies, &folder)?.bytes();
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(copy).map_err(text)?;
            std::io::Write::write_all(&mut file, &bytes).map_err(text)?;
        }
        Ok(shadow)
    }

    /// The same sshd with the same options, on the copy.
    pub(super) fn invocation(&self, invocation: &Invocation) -> Invocation {
        invocation.with_file(&self.main)
    }

    /// What sshd said, with the names of the real files.
    pub(super) fn translate(&self, said: &str) -> String {
        self.real.iter().fold(said.to_owned(), |text, (copy, real)| text.replace(copy, real))
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!("{} could not be removed: {error}", self.folder.display());
        }
    }
}

/// Removes the copies, and the keys on their way, that a process left behind that was killed. Before there is anything to ask.
pub fn clear_copies() {
    let copies = fs::read_dir(FOLDER).into_iter().flatten().filter_map(Result::ok);
    let ours = |name: &str| [PREFIX, MAKING].iter().any(|prefix| name.starts_with(prefix));
    for copy in copies.filter(|copy| ours(&copy.file_name().to_string_lossy())) {
        if let Err(error) = fs::remove_dir_all(copy.path()) {
            tracing::warn!("{} could not be removed: {error}", copy.path().display());
        }
    }
}

/// The document with every `Include` naming the copies of the files that it names, in their order. A copy without one of them would be
/// another configuration.
fn redirected(document: &Document, tree: &Tree, copies: &BTreeMap<&str, String>, folder: &Path) -> Result<Document, String> {
    let mut redirected = document.clone();
    for (number, line) in document.lines() {
        let Some(directive) = line.directive().ok().flatten().filter(|directive| directive.keyword == "include") else {
            continue;
        };
        let mut words: Vec<&str> = Vec::new();
        for pattern in &directive.arguments {
            for path in tree.included(pattern).map_err(|error| error.to_string())? {
                words.push(copies.get(path.as_str()).ok_or_else(|| format!("{path} was not read"))?);
            }
        }
        // A pattern that names nothing is no error.
        let nothing = format!("{}/none-*", folder.display());
        if words.is_empty() {
            words.push(&nothing);
        }
        redirected.replace(number, &format!("Include {}", words.join(" ")));
    }
    Ok(redirected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_copy_keeps_line_numbers_and_is_only_for_root() {
        use std::os::unix::fs::PermissionsExt;
        let mut tree = Tree::new("/etc/ssh/sshd_config");
        let mut put = |path: &str, text: &str| tree.files.insert(path.to_owned(), Document::parse(text.as_bytes()));
        put("/etc/ssh/sshd_config", "# one\n  Include a.d/*.conf /x # two\nPort 22\nInclude none/*\n");
        put("/etc/ssh/a.d/1.conf", "Banner none\n");
        put("/x", "UsePAM yes");
        tree.includes.insert("/etc/ssh/a.d/*.conf".to_owned(), vec!["/etc/ssh/a.d/1.conf".to_owned()]);
        tree.includes.insert("/x".to_owned(), vec!["/x".to_owned()]);
        tree.includes.insert("/etc/ssh/none/*".to_owned(), Vec::new());
        let shadow = Shadow::make(&tree).unwrap();
        let folder = shadow.folder.display().to_string();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let copy = fs::read_to_string(&shadow.main).unwrap();
        assert_eq!(copy, format!("# one\n  Include {folder}/000000 {folder}/000002\nPort 22\nInclude {folder}/none-*\n"));
        assert_eq!(fs::read_to_string(format!("{folder}/000002")).unwrap(), "UsePAM yes");
        let said = format!("{folder}/000000: line 1: Bad");
        assert_eq!(shadow.translate(&said), "/etc/ssh/a.d/1.conf: line 1: Bad");
        let invocation = shadow.invocation(&Invocation::new("/usr/sbin/sshd", ["-D", "-f", "/y", "-p", "22"]));
        assert_eq!(invocation.options, ["-p", "22", "-f", &format!("{folder}/000001")]);
        drop(shadow);
        assert!(!Path::new(&folder).exists());
        // An edit that includes what was not read.
        let include = Document::parse(b"Include new.d/*.conf\n");
        tree.files.insert("/etc/ssh/sshd_config".to_owned(), include);
        assert!(Shadow::make(&tree).is_err());
    }
}
