//! Quoted lines of hosts.allow, hosts.deny and `sshd_config` for a reader who may not know of everybody: of a list of patterns, those
//! about the reader's networks and users, and in place of each other pattern that there is one. Decides nothing about who may read what.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::address::Source;
use crate::subsystem::hosts_access::named_source;

/// What stands for a pattern that is not shown.
pub const OTHER: &str = "(another)";
/// What stands for options and commands of a rule.
const OPTIONS: &str = " (options)";
/// Words of `hosts_access(5)` that name nobody.
const WORDS: [&str; 6] = ["ALL", "LOCAL", "KNOWN", "UNKNOWN", "PARANOID", "EXCEPT"];
/// Keywords of `sshd_config(5)` whose arguments are patterns of users, with or without hosts.
const USERS: [&str; 2] = ["allowusers", "denyusers"];

/// What a reader may know of.
pub struct Reader<'a> {
    /// Whether this source.
    pub source: &'a dyn Fn(Source) -> bool,
    /// Whether this user.
    pub user: &'a dyn Fn(&str) -> bool,
}

impl Reader<'_> {
    /// Lines of hosts.allow or hosts.deny, or a diff of them.
    pub fn hosts_lines(&self, text: &str) -> String {
        let mut continued = false;
        let mut part = Part::Daemons;
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            let is_header = ["--- ", "+++ ", "@@ "].iter().any(|header| line.starts_with(header));
            let (sign, rest) = line.split_at(usize::from(line.starts_with(['+', '-'])));
            if !continued {
                part = Part::Daemons;
            }
            continued = rest.ends_with('\\');
            if is_header {
                out.push_str(line);
            } else {
                out.push_str(sign);
                part = self.hosts_line(rest, part, &mut out);
            }
            out.push_str(end);
        }
        out
    }

    fn hosts_line(&self, line: &str, begins: Part, out: &mut String) -> Part {
        if line.starts_with('#') {
            out.push_str(if line.contains("sshfix") { line } else { "# (a comment)" });
            return Part::Daemons;
        }
        let mut part = begins;
        let mut rest = line;
        loop {
            let end = part_end(rest);
            let (text, after) = rest.split_at(end);
            match part {
                Part::Daemons => out.push_str(text),
                Part::Clients => words(text, out, |word| self.client(word)),
                Part::Options => {
                    let plain = ["allow", "deny"].iter().any(|option| text.trim().eq_ignore_ascii_case(option));
                    out.push_str(if plain || text.trim().is_empty() { text } else { OPTIONS });
                }
            }
            let Some(after) = after.strip_prefix(':') else { return part };
            out.push(':');
            part = match part {
                Part::Daemons => Part::Clients,
                Part::Clients | Part::Options => Part::Options,
            };
            rest = after;
        }
    }

    /// A client pattern of `hosts_access(5)`; none where it is not to be read.
    fn client(&self, word: &str) -> Option<String> {
        if WORDS.iter().any(|name| word.eq_ignore_ascii_case(name)) || word.starts_with('/') || word == "\\" {
            return Some(word.to_owned());
        }
        if let Some((user, host)) = word.rsplit_once('@') {
            return self.both(user, self.client(host).as_deref());
        }
        let about = named_source(word.as_bytes()).or_else(|| source(word));
        about.filter(|about| (self.source)(*about)).map(|_| word.to_owned())
    }

    /// `user@host`, with what may be read of it.
    fn both(&self, user: &str, host: Option<&str>) -> Option<String> {
        let name = user.trim_start_matches('!');
        let user = (name == "*" || name == "ALL" || (self.user)(name)).then(|| user.to_owned());
        if user.is_none() && host.is_none() {
            return None;
        }
        Some(format!("{}@{}", user.as_deref().unwrap_or(OTHER), host.unwrap_or(OTHER)))
    }

    /// Lines of `sshd_config`, or a diff of them; other lines are left as they are.
    pub fn sshd_lines(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let keyword_at = line.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(line.len());
            let (before, rest) = line.split_at(keyword_at);
            let (keyword, arguments) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()));
            out.push_str(before);
            out.push_str(keyword);
            let plain = before.chars().all(|c| c.is_whitespace() || matches!(c, '+' | '-' | '"'));
            if plain && USERS.iter().any(|name| keyword.eq_ignore_ascii_case(name)) {
                words_with(arguments, &mut out, char::is_whitespace, |word| self.user_pattern(word));
            } else if plain && keyword.eq_ignore_ascii_case("match") {
                self.criteria(arguments, &mut out);
            } else {
                out.push_str(arguments);
            }
        }
        out
    }

    /// A pattern of `AllowUsers`; none where it is not to be read.
    pub fn user_pattern(&self, word: &str) -> Option<String> {
        let pattern = word.trim_matches('"');
        let Some((user, hosts)) = pattern.split_once('@') else {
            let name = pattern.trim_start_matches('!');
            return (name == "*" || name == "=" || (self.user)(name)).then(|| word.to_owned());
        };
        let hosts: Vec<String> = hosts.split(',').map(|host| self.host(host).unwrap_or_else(|| OTHER.to_owned())).collect();
        let known = hosts.iter().any(|host| host != OTHER).then(|| hosts.join(","));
        self.both(user, known.as_deref())
    }

    /// A host of such a pattern.
    fn host(&self, host: &str) -> Option<String> {
        let name = host.trim_start_matches('!');
        let about = source(name);
        (name == "*" || about.is_some_and(|about| (self.source)(about))).then(|| host.to_owned())
    }

    /// The criteria of a Match line, up to the note of where it stands.
    fn criteria(&self, text: &str, out: &mut String) {
        let (criteria, note) = text.split_at(text.find('#').unwrap_or(text.len()));
        let mut criterion = String::new();
        words_with(
            criteria,
            out,
            |c| c.is_whitespace() || c == '=' || c == '"' || c == ',',
            |word| {
                let lower = word.to_ascii_lowercase();
                if [
                    "user",
                    "group",
                    "host",
                    "address",
                    "localaddress",
                    "localport",
                    "rdomain",
                    "all",
                    "canonical",
                    "final",
                    "invalid-user",
                ]
                .contains(&lower.as_str())
                {
                    criterion = lower;
                    return Some(word.to_owned());
                }
                match criterion.as_str() {
                    "user" => self.user_pattern(word),
                    "host" | "address" => self.host(word),
                    _ => Some(word.to_owned()),
                }
            },
        );
        out.push_str(note);
    }
}

/// Where in a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Daemons,
    Clients,
    Options,
}

/// `split_at` of tcp wrappers: the next colon outside brackets.
fn part_end(text: &str) -> usize {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            ':' if !inside => return at,
            _ => {}
        }
    }
    text.len()
}

/// Every word, or [`OTHER`] in its place; blanks and commas stay.
fn words(text: &str, out: &mut String, shown: impl FnMut(&str) -> Option<String>) {
    words_with(text, out, |c| c.is_whitespace() || c == ',', shown);
}

fn words_with(text: &str, out: &mut String, between: impl Fn(char) -> bool, mut shown: impl FnMut(&str) -> Option<String>) {
    let mut rest = text;
    while !rest.is_empty() {
        let (blank, from) = rest.split_at(rest.find(|c| !between(c)).unwrap_or(rest.len()));
        out.push_str(blank);
        let (word, after) = from.split_at(from.find(&between).unwrap_or(from.len()));
        if !word.is_empty() {
            out.push_str(shown(word).as_deref().unwrap_or(OTHER));
        }
        rest = after;
    }
}

/// What an address, a net or `198.51.*` is about; whole octets before a wildcard count.
fn source(text: &str) -> Option<Source> {
    if let Ok(source) = text.parse::<Source>() {
        return Some(source);
    }
    let octets: Vec<u8> = text.split('.').map_while(|octet| octet.parse().ok()).collect();
    let rest = text.split('.').skip(octets.len());
    let only_wildcards =
        rest.clone().count() > 0 && rest.flat_map(str::chars).all(|c| c.is_ascii_digit() || matches!(c, '*' | '?'));
    let bits =
        octets.len().checked_mul(8).and_then(|bits| u8::try_from(bits).ok()).filter(|bits| *bits < 32 && only_wildcards)?;
    let mut all = octets;
    all.resize(4, 0);
    let first = <[u8; 4]>::try_from(all).ok()?;
    IpNet::new(Ipv4Addr::from(first).into(), bits).ok().map(Source::new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(text: &str, hosts: bool) -> String {
        let within: [Source; 2] = ["203.0.113.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let (source, user) = (|source: Source| within.iter().any(|net| net.overlaps(source)), |user: &str| user == "alice");
        let reader = Reader { source: &source, user: &user };
        if hosts { reader.hosts_lines(text) } else { reader.sshd_lines(text) }
    }

    #[test]
    fn of_a_rule_of_hosts_access_only_what_is_about_the_reader_is_shown() {
        for (text, want) in [
            ("sshd: 198.51. 203.0.113.70", "sshd: ~ 203.0.113.70"),
            ("sshd: 198. 203. ALL EXCEPT .example.org", "sshd: ~ 203. ALL EXCEPT ~"),
            ("sshd : bob@198.51., alice@203.0.113. bob@203.0.113.70", "sshd : ~, alice@203.0.113. ~@203.0.113.70"),
            ("sshd: [2001:db8::]/32 [fd00::]/8: deny", "sshd: [2001:db8::]/32 ~: deny"),
            ("sshd: 203.0.113.7 : spawn mail bob@example.org", "sshd: 203.0.113.7 : (options)"),
            ("sshd: 203.0.113.7,\\\n bobs-home", "sshd: 203.0.113.7,\\\n ~"),
            (
                "--- /etc/hosts.deny\n+++ /etc/hosts.deny\n@@ -1 +1 @@\n-sshd: bobs 203.0.113.7\n+sshd: bobs\n",
                "--- /etc/hosts.deny\n+++ /etc/hosts.deny\n@@ -1 +1 @@\n-sshd: ~ 203.0.113.7\n+sshd: ~\n",
            ),
            ("# bob's home\n# sshfix lease 1\n", "# (a comment)\n# sshfix lease 1\n"),
            ("sshd: 198.51.* 203.0.*.* /etc/list 0.0.0.0/0", "sshd: ~ 203.0.*.* /etc/list 0.0.0.0/0"),
        ] {
            assert_eq!(read(text, true), want.replace('~', OTHER), "{text}");
        }
    }

    #[test]
    fn of_lists_of_users_only_what_is_about_the_reader_is_shown() {
        for (text, want) in [
            ("AllowUsers root carol@198.51.100.77 bob@198.51.* alice", "AllowUsers ~ ~ ~ alice"),
            ("+allowusers alice@198.51.100.7,203.0.113.0/24 !*@home.example.org", "+allowusers alice@~,203.0.113.0/24 !*@~"),
            (
                "Match User bob,alice Address 198.51.100.0/24,203.0.113.7   # /etc/ssh/x line 2\n    DenyUsers bob\n",
                "Match User ~,alice Address ~,203.0.113.7   # /etc/ssh/x line 2\n    DenyUsers ~\n",
            ),
            ("PermitRootLogin no # bob", "PermitRootLogin no # bob"),
            ("Match Host bobs-home.example.org", "Match Host ~"),
        ] {
            assert_eq!(read(text, false), want.replace('~', OTHER), "{text}");
        }
    }
}
