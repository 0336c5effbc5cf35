//! The files that lines of sshd's configuration name for keys: one that is not there, or that sshd cannot read, may refuse every key of
//! everybody, and sshd says so of nobody but who comes. Lines of Match blocks, too. What a `%` token or a pattern names is not guessed, and what
//! is below a home is not looked at here.

use crate::host::{self, HostState, Needs};
use crate::reply::sshd::{Problem, ProblemPlace, Severity};
use crate::subsystem::sshd::config::keyword::{canonical, spelling};
use crate::subsystem::sshd::config::{DEPTH_MAX, Place, Tree};
use crate::subsystem::sshd::facts::key_file::is_pattern;
use crate::subsystem::sshd::facts::revoked_keys::RevokedKeys;
use crate::subsystem::sshd::facts::state::{Need, ValueFile};
use crate::subsystem::sshd::quoting::of_values;
use crate::text::quoted::Text;

/// The keywords.
const NAMING: [&str; 4] = ["revokedkeys", "trustedusercakeys", "authorizedprincipalsfile", "authorizedkeysfile"];

/// A line that names files.
struct Line {
    keyword: String,
    arguments: Vec<String>,
    at: Place,
    /// Whether a `Match` line comes before it.
    conditional: bool,
}

/// What is wrong with what they name.
pub(super) fn problems(host: &HostState, tree: &Tree, needs: &mut Needs) -> Vec<Problem> {
    let mut lines = Vec::new();
    collect(tree, &tree.main, false, 0, &mut lines);
    lines
        .iter()
        .flat_map(|line| line.arguments.iter().filter_map(|value| problem(host, tree, line, value, needs)).collect::<Vec<_>>())
        .collect()
}

fn collect(tree: &Tree, path: &str, mut conditional: bool, depth: usize, found: &mut Vec<Line>) {
    let Some(document) = tree.files.get(path).filter(|_| depth <= DEPTH_MAX) else { return };
    for (number, line) in document.lines() {
        let Some(directive) = line.directive().ok().flatten() else { continue };
        let keyword = canonical(&directive.keyword);
        match keyword.as_str() {
            "match" => conditional = true,
            "include" => {
                for file in directive.arguments.iter().flat_map(|pattern| tree.included(pattern).unwrap_or_default()) {
                    collect(tree, file, conditional, depth + 1, found);
                }
            }
            name if NAMING.contains(&name) => {
                let at = Place { file: path.to_owned(), line: number };
                found.push(Line { keyword, arguments: directive.arguments, at, conditional });
            }
            _ => {}
        }
    }
}

fn problem(host: &HostState, tree: &Tree, line: &Line, value: &str, needs: &mut Needs) -> Option<Problem> {
    let (why, advice) = wrong(host, line, value, needs)?;
    let name = spelling(&line.keyword);
    let text = Text::from(format!("{name} ")) + of_values(&name, value) + ": " + why;
    let quoted = tree.files.get(&line.at.file).and_then(|file| file.line(line.at.line)).map(ToString::to_string);
    let place = ProblemPlace { file: line.at.file.clone(), line: line.at.line, text: quoted.unwrap_or_default() };
    Some(Problem { severity: Severity::Warning, text, at: Some(place), advice })
}

/// What sshd makes of it, and what to do.
fn wrong(host: &HostState, line: &Line, value: &str, needs: &mut Needs) -> Option<(String, String)> {
    let name = spelling(&line.keyword);
    let none = value.eq_ignore_ascii_case("none");
    match line.keyword.as_str() {
        // servconf.c: only `fill_default_server_options` clears it.
        "revokedkeys" | "authorizedprincipalsfile" if none && line.conditional => {
            let does = if line.keyword == "revokedkeys" { "every key" } else { "every certificate" };
            return Some((
                format!("under Match this is a file that is named none, and where there is none sshd refuses {does}"),
                format!("take the line out of the Match block; `{name} none` counts before the first Match line alone"),
            ));
        }
        _ if none || value.contains('%') => return None,
        "authorizedkeysfile" if value.contains(char::is_whitespace) => {
            return Some((
                "the name has a blank in it: sshd takes it for one file".to_owned(),
                "name each file by itself: `AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u`, without quotes around both".to_owned(),
            ));
        }
        "authorizedkeysfile" if is_pattern(value) => return None,
        // Below the home of each user.
        "authorizedkeysfile" | "authorizedprincipalsfile" if !value.starts_with('/') => return None,
        _ => {}
    }
    // servconf.c, `derelativise_path`: the folder that sshd runs in.
    let path = if value.starts_with('/') { value.to_owned() } else { format!("/{value}") };
    let word = crate::text::shell::word(&path);
    if line.keyword == "revokedkeys" {
        let Some(file) = host.sshd.revoked_keys.get(&path) else {
            needs.insert(host::Need::Sshd(Need::RevokedKeys(path)));
            return None;
        };
        return match file {
            RevokedKeys::Missing(_) => Some((
                "there is no such file, so that sshd refuses every key of everybody".to_owned(),
                format!("`install -m 644 /dev/null {word}` makes an empty one, which takes no key back; or take the line out"),
            )),
            RevokedKeys::Broken(why) => Some((
                format!("{why}, so that sshd refuses every key of everybody"),
                format!("take the line that is no public key out of {path}"),
            )),
            RevokedKeys::Unread(why) => Some((
                format!("it could not be read: {why}; sshd refuses every key where it cannot, too"),
                format!("`ls -l {word}`"),
            )),
            RevokedKeys::Keys(_) | RevokedKeys::Krl(_) => None,
        };
    }
    let Some(file) = host.sshd.value_files.get(&path) else {
        needs.insert(host::Need::Sshd(Need::ValueFile(path)));
        return None;
    };
    let loses = match line.keyword.as_str() {
        "trustedusercakeys" => "sshd takes no certificate by it",
        "authorizedprincipalsfile" => "sshd takes no certificate of users whose principals should be in it",
        _ => "sshd finds no key in it",
    };
    match file {
        ValueFile::Missing | ValueFile::OfUnit(_) => {
            Some((format!("there is no such file: {loses}"), format!("put the file at {path}, or take the line out")))
        }
        // sshd reads it with the ids of the user who logs in (uidswap.c), but not the keys of the authority.
        ValueFile::Regular { for_all: false, .. } if line.keyword != "trustedusercakeys" => Some((
            format!("not every user may read it, and sshd reads it as the user who logs in: {loses} for the others"),
            format!("`namei -l {word}` shows which mode is in the way; `chmod a+r` for the file, `chmod a+x` for a folder"),
        )),
        ValueFile::Regular { .. } => None,
        ValueFile::Other(why) => Some((format!("{why}: it may be that {loses}"), format!("`namei -l {word}` shows whose it is"))),
    }
}

#[cfg(test)]
#[path = "named_files_tests.rs"]
mod tests;
