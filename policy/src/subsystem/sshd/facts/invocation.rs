//! How an sshd was started: its program and those options that change its configuration. Other options (in the foreground, to
//! another log, ...) are left out, so that what is here can be given to `sshd -T` and `sshd -t`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A program and its options of configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// Its absolute path.
    pub program: String,
    /// `-f FILE`, `-o OPTION`, `-p PORT`, ..., each option and each value a word of its own.
    pub options: Vec<String>,
}

/// Options with a value that matter here (sshd(8)): host certificate, file, host key, option, port, length of utmp's host names.
const KEPT_WITH_VALUE: [char; 6] = ['c', 'f', 'h', 'o', 'p', 'u'];
/// Options with a value that do not: test connection, log, old protocol 1 things, grace time.
const DROPPED_WITH_VALUE: [char; 5] = ['C', 'E', 'b', 'g', 'k'];
/// Only IPv4, only IPv6.
const KEPT: [char; 2] = ['4', '6'];

impl Invocation {
    /// sshd with no options, where nothing better is known.
    pub fn plain(program: &str) -> Self {
        Self { program: program.to_owned(), options: Vec::new() }
    }

    /// From the words after the program's own name.
    pub fn new<'a>(program: &str, words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Vec::new();
        let mut words = words.into_iter();
        // getopt(3): flags may share a word, and a value may follow its letter at once or be the next word.
        while let Some(word) = words.next() {
            let Some(letters) = word.strip_prefix('-') else { continue };
            for (at, letter) in letters.char_indices() {
                let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
                let takes_value = KEPT_WITH_VALUE.contains(&letter) || DROPPED_WITH_VALUE.contains(&letter);
                if !takes_value {
                    if KEPT.contains(&letter) {
                        options.push(format!("-{letter}"));
                    }
                    continue;
                }
                let value = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
                if KEPT_WITH_VALUE.contains(&letter) {
                    options.push(format!("-{letter}"));
                    options.push(value.to_owned());
                }
                break;
            }
        }
        Self { program: program.to_owned(), options }
    }

    /// From the title of a listening sshd, `sshd: /usr/sbin/sshd -D -o UsePAM=no [listener] 0 of 10-100 startups`: its words are
    /// joined by spaces there. sshd takes no arguments but options, so a word without `-` belongs to the value before it.
    /// `program` is the file that runs. `None` where it is no such title.
    pub fn from_title(program: &str, title: &[u8]) -> Option<Self> {
        let title = std::str::from_utf8(title).ok()?.trim_end_matches('\0');
        let line = title.strip_prefix("sshd: ")?;
        let (line, _) = line.rsplit_once(" [listener] ")?;
        let mut words: Vec<String> = Vec::new();
        for word in line.split(' ').skip(1) {
            match words.last_mut() {
                // `-o` itself still waits for its value; `-o AllowUsers` goes on.
                Some(last) if !word.starts_with('-') && !awaits_value(last) => {
                    last.push(' ');
                    last.push_str(word);
                }
                _ => words.push(word.to_owned()),
            }
        }
        Some(Self::new(program, words.iter().map(String::as_str)))
    }

    /// From `ExecStart` of a unit, its words as they stand there, and the unit's environment (systemd.service(5), COMMAND LINES):
    /// a word `$NAME` becomes as many words as its value has, `${NAME}` is put in as it is. The first word is the program.
    pub fn from_unit(program: &str, words: &[String], environment: &BTreeMap<String, String>) -> Self {
        let mut expanded: Vec<String> = Vec::new();
        for word in words.iter().skip(1) {
            let name = word.strip_prefix('$').filter(|name| !name.starts_with(['{', '$']));
            if let Some(value) = name.map(|name| environment.get(name).map_or("", String::as_str)) {
                expanded.extend(split_quoted(value));
            } else {
                expanded.push(substitute(word, environment));
            }
        }
        Self::new(program, expanded.iter().map(String::as_str))
    }

    /// The same with another file.
    #[must_use]
    pub fn with_file(&self, file: &str) -> Self {
        let mut options = Vec::new();
        let mut words = self.options.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-f" => _ = words.next(),
                "-4" | "-6" => options.push(word.clone()),
                _ => options.extend([word, words.next().unwrap_or(&String::new())].map(Clone::clone)),
            }
        }
        options.extend(["-f".to_owned(), file.to_owned()]);
        Self { program: self.program.clone(), options }
    }

    /// The file that `-f` names, or the usual one.
    pub fn file(&self) -> &str {
        let mut found = None;
        let mut words = self.options.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-f" => found = words.next(),
                "-4" | "-6" => {}
                _ => _ = words.next(),
            }
        }
        found.map_or("/etc/ssh/sshd_config", String::as_str)
    }
}

/// An `EnvironmentFile` (systemd.exec(5)): `NAME=value` lines, comments by `#` and `;`, values perhaps in quotes.
pub fn environment_file(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some((name, value)) = line.split_once('=') {
            let value = value.trim();
            let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
            found.insert(name.trim().to_owned(), unquoted.unwrap_or(value).to_owned());
        }
    }
    found
}

/// At blanks, but not inside quotes.
fn split_quoted(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in text.chars() {
        match (letter, quote) {
            (_, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (' ' | '\t', None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// `${NAME}` inside a word.
fn substitute(word: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(environment.get(name).map_or("", String::as_str));
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Whether a word is an option that takes its value from the next one.
fn awaits_value(word: &str) -> bool {
    let Some(letters) = word.strip_prefix('-') else { return false };
    let mut letters = letters.chars();
    let with_value = |letter: &char| KEPT_WITH_VALUE.contains(letter) || DROPPED_WITH_VALUE.contains(letter);
    letters.find(with_value).is_some() && letters.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Vec<String> {
        Invocation::new("/usr/sbin/sshd", words.iter().copied()).options
    }

    #[test]
    fn only_options_that_change_the_configuration_are_kept() {
        assert_eq!(options(&["-D"]), [""; 0]);
        assert_eq!(options(&["-D", "-e", "-p", "2222", "-E", "/log", "-4"]), ["-p", "2222", "-4"]);
        assert_eq!(options(&["-D4p2222", "-oUsePAM=no", "-f/x"]), ["-4", "-p", "2222", "-o", "UsePAM=no", "-f", "/x"]);
        assert_eq!(options(&["-g", "-p", "-o", "Match all"]), ["-o", "Match all"]);
        assert_eq!(options(&["-p"]), ["-p", ""]);
        assert_eq!(options(&["$SSHD_OPTS", ""]), [""; 0]);
    }

    #[test]
    fn the_title_of_a_listener_gives_its_options_back() {
        let of = |title: &str| Invocation::from_title("/usr/sbin/sshd", title.as_bytes()).map(|it| it.options);
        let none = || Some(Vec::new());
        assert_eq!(of("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"), none());
        assert_eq!(of("sshd: /usr/sbin/sshd [listener] 0 of 10-100 startups\0\0\0"), none());
        assert_eq!(
            of("sshd: /usr/sbin/sshd -D -o AllowUsers alice bob@10.0.0.0/8 -p 2222 [listener] 1 of 10-100 startups"),
            Some(["-o", "AllowUsers alice bob@10.0.0.0/8", "-p", "2222"].map(str::to_owned).to_vec())
        );
        assert_eq!(of("sshd: /usr/sbin/sshd -f /a  b [listener] 0 of 1-2 startups"), Some(vec!["-f".into(), "/a  b".into()]));
        assert_eq!(of("sshd: alice [priv]"), None);
        assert_eq!(of("/usr/sbin/sshd\0-D\0"), None);
    }

    #[test]
    fn the_command_line_of_a_unit_is_expanded_as_systemd_does() {
        let environment = environment_file("# x\nSSHD_OPTS=\"-p 2222 -o 'AllowUsers alice bob'\"\n;y\nA = b c \n\nnonsense\n");
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            Invocation::from_unit("/usr/sbin/sshd", &words, &environment).options
        };
        assert_eq!(of(&["/usr/sbin/sshd", "-D", "$SSHD_OPTS"]), ["-p", "2222", "-o", "AllowUsers alice bob"]);
        assert_eq!(of(&["/usr/sbin/sshd", "-o", "Banner ${A}x", "$NOT_SET"]), ["-o", "Banner b cx"]);
        assert_eq!(of(&["sshd", "-o", "Banner $A"]), ["-o", "Banner $A"]);
    }

    #[test]
    fn the_file_is_the_last_one_named() {
        let file = |words: &[&str]| Invocation::new("/s", words.iter().copied()).file().to_owned();
        assert_eq!(file(&[]), "/etc/ssh/sshd_config");
        assert_eq!(file(&["-4", "-f", "/a", "-o", "-f", "-f", "/b"]), "/b");
    }
}
