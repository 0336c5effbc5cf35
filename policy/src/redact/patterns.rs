//! Quotes of the host for a reader who may not know of everybody: lines of hosts.allow, hosts.deny and `sshd_config`, diffs of them, and
//! values of sshd. Shown is what is understood and about the reader's networks and users, or about nobody; in the place of every other
//! word, line or message stands that there is one. Decides nothing about who may read what.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::address::Source;
use crate::subsystem::hosts_access::{SSHD, named_source};
use crate::subsystem::sshd::config::keyword::{self, Kind};
use crate::subsystem::sshd::config::{CRITERIA, Line};
use crate::text::quoted::Quote;

/// What stands for a pattern, name or value that is not shown,
pub const OTHER: &str = "(another)";
/// for a line that is not understood,
pub const LINE: &str = "(a line)";
/// for the words of a program,
pub const WORDS: &str = "(not shown)";
/// for a comment,
const COMMENT: &str = "# (a comment)";
/// and for options and commands of a rule.
const OPTIONS: &str = " (options)";
/// Numbers that are addresses and no others have more digits: 1.0.0.0 is 16777216.
const MAX_DIGITS: usize = 7;
/// Words of `hosts_access(5)` that name nobody.
const HOSTS_WORDS: [&str; 6] = ["ALL", "LOCAL", "KNOWN", "UNKNOWN", "PARANOID", "EXCEPT"];
/// The beginning of the comment on what a lease adds.
const LEASE: &str = "# sshfix lease ";
/// Words that are values of many keywords of `sshd_config(5)` and name nobody, and those of Debian's own `sshd_config`.
const SSHD_WORDS: [&str; 36] = [
    "*",
    "any",
    "all",
    "none",
    "yes",
    "no",
    "auto",
    "default",
    "publickey",
    "password",
    "keyboard-interactive",
    "hostbased",
    "gssapi-with-mic",
    ".ssh/authorized_keys",
    ".ssh/authorized_keys2",
    "%h/.ssh/authorized_keys",
    "/etc/ssh/sshd_config.d/*.conf",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_ed25519_key",
    "LANG",
    "LC_*",
    "sftp",
    "internal-sftp",
    "/usr/lib/openssh/sftp-server",
    // PerSourcePenalties
    "authfail",
    "crash",
    "grace-exceeded",
    "invaliduser",
    "max",
    "min",
    "noauth",
    "refuseconnection",
    "max-sources4",
    "max-sources6",
    "overflow",
];

/// What a reader may know of.
pub struct Reader<'a> {
    /// Whether this source.
    pub source: &'a dyn Fn(Source) -> bool,
    /// Whether this user.
    pub user: &'a dyn Fn(&str) -> bool,
}

impl Reader<'_> {
    /// A quote, as far as it is to be read.
    pub fn quote(&self, what: Quote, text: &str) -> String {
        match what {
            Quote::SshdLines => self.sshd_lines(text),
            Quote::SshdDiff => diff(text, |line, out| self.sshd_line(line, out)),
            Quote::Values(keyword) => self.values(keyword, text),
            Quote::HostsLines => self.hosts_lines(text),
            Quote::HostsDiff => {
                let mut part = Part::Daemons;
                diff(text, |line, out| part = self.hosts_continued(line, part, out))
            }
            Quote::Program | Quote::Unknown => WORDS.to_owned(),
        }
    }

    /// Lines of hosts.allow or hosts.deny.
    pub fn hosts_lines(&self, text: &str) -> String {
        let mut part = Part::Daemons;
        lines(text, |line, out| part = self.hosts_continued(line, part, out))
    }

    /// A line, and the part in which the next one begins.
    fn hosts_continued(&self, line: &str, begins: Part, out: &mut String) -> Part {
        let ends = self.hosts_line(line, begins, out);
        if line.ends_with('\\') { ends } else { Part::Daemons }
    }

    fn hosts_line(&self, line: &str, begins: Part, out: &mut String) -> Part {
        if begins == Part::Daemons && line.starts_with('#') {
            if line.starts_with(LEASE) {
                out.extend([LEASE, OTHER]);
            } else {
                out.push_str(COMMENT);
            }
            return Part::Daemons;
        }
        let mut part = begins;
        let mut rest = line;
        loop {
            let end = part_end(rest);
            let (text, after) = rest.split_at(end);
            match part {
                Part::Daemons if after.is_empty() && !text.trim_matches(['\\', ' ', '\t']).is_empty() => out.push_str(LINE),
                Part::Daemons => words(text, out, |word| self.daemon(word)),
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

    /// A daemon pattern; none where it is not to be read.
    fn daemon(&self, word: &str) -> Option<String> {
        let (daemon, host) = word.split_once('@').map_or((word, None), |(daemon, host)| (daemon, Some(host)));
        let known = daemon == SSHD || ["ALL", "EXCEPT", "\\"].iter().any(|name| daemon.eq_ignore_ascii_case(name));
        (known && host.is_none_or(|host| self.client(host).as_deref() == Some(host))).then(|| word.to_owned())
    }

    /// A client pattern of `hosts_access(5)`; none where it is not to be read.
    fn client(&self, word: &str) -> Option<String> {
        if HOSTS_WORDS.iter().any(|name| word.eq_ignore_ascii_case(name)) || word == "\\" {
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
        let user = (name == "*" || name == "ALL" || !name.is_empty() && (self.user)(name)).then(|| user.to_owned());
        if user.is_none() && host.is_none() {
            return None;
        }
        Some(format!("{}@{}", user.as_deref().unwrap_or(OTHER), host.unwrap_or(OTHER)))
    }

    /// Lines of `sshd_config`.
    pub fn sshd_lines(&self, text: &str) -> String {
        lines(text, |line, out| self.sshd_line(line, out))
    }

    fn sshd_line(&self, line: &str, out: &mut String) {
        let (indent, rest) = line.split_at(line.find(|c: char| !c.is_whitespace()).unwrap_or(line.len()));
        out.push_str(indent);
        let (written, arguments) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()));
        match Line::new(line).directive() {
            Ok(None) if rest.is_empty() => {}
            Ok(None) => out.push_str(COMMENT),
            Ok(Some(directive)) if directive.keyword.eq_ignore_ascii_case(written) => match keyword::find(written) {
                Some(known) => {
                    let (values, comment) = arguments.split_at(comment(arguments));
                    out.extend([written, &self.values(known.name, values), if comment.is_empty() { "" } else { COMMENT }]);
                }
                None => out.push_str(LINE),
            },
            Ok(Some(_)) | Err(_) => out.push_str(LINE),
        }
    }

    /// Values of a keyword of `sshd_config(5)`.
    pub fn values(&self, keyword: &str, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let blank = |c: char| c.is_whitespace() || c == '=' || c == '"';
        let kind = keyword::find(keyword).map(|found| (found.name, found.kind));
        match kind {
            None => out.push_str(OTHER),
            Some(("AllowUsers" | "DenyUsers", _)) => words_with(text, &mut out, blank, |word| self.user_pattern(word)),
            Some(("AllowGroups" | "DenyGroups", _)) => words(text, &mut out, |word| (word == "*").then(|| word.to_owned())),
            Some(("Match", _)) => self.criteria(text, &mut out),
            Some((name, Kind::OneOf(_) | Kind::Number | Kind::Time)) => {
                let is_good = |word: &str| keyword::check(name, &[word.to_owned()]).is_ok();
                words_with(text, &mut out, blank, |word| is_good(word).then(|| word.to_owned()));
            }
            Some((_, Kind::Text)) => {
                words_with(
                    text,
                    &mut out,
                    |c| blank(c) || c == ',',
                    |word| self.names_nobody_else(word).then(|| word.to_owned()),
                );
            }
        }
        out
    }

    /// Whether a word of a value that takes any text is one of a few known ones, a number, or an address that may be read.
    fn names_nobody_else(&self, word: &str) -> bool {
        let known = |word: &str| SSHD_WORDS.contains(&word) || is_number(word);
        known(word) || self.host(word).is_some() || word.split(':').all(known)
    }

    /// A pattern of `AllowUsers`; none where it is not to be read.
    pub fn user_pattern(&self, word: &str) -> Option<String> {
        let Some((user, hosts)) = word.split_once('@') else {
            let name = word.trim_start_matches('!');
            return (name == "*" || !name.is_empty() && (self.user)(name)).then(|| word.to_owned());
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

    /// The criteria of a Match line.
    fn criteria(&self, text: &str, out: &mut String) {
        const FLAGS: [&str; 4] = ["all", "canonical", "final", "invalid-user"];
        let mut criterion = String::new();
        let between = |c: char| c.is_whitespace() || c == '=' || c == '"' || c == ',';
        words_with(text, out, between, |word| {
            let lower = word.to_ascii_lowercase();
            if FLAGS.contains(&lower.as_str()) || CRITERIA.iter().any(|known| known.eq_ignore_ascii_case(word)) {
                criterion = lower;
                return Some(word.to_owned());
            }
            match criterion.as_str() {
                "user" => self.user_pattern(word),
                "host" | "address" | "localaddress" => self.host(word),
                "localport" => is_number(word).then(|| word.to_owned()),
                _ => (word == "*").then(|| word.to_owned()),
            }
        });
    }
}

/// Every line, with its end as it is.
fn lines(text: &str, mut show: impl FnMut(&str, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        show(line, &mut out);
        out.push_str(end);
    }
    out
}

/// A diff of [`crate::text::diff`]: two lines with the names of the files, then lines that each begin with a sign of their own.
fn diff(text: &str, mut show: impl FnMut(&str, &mut String)) -> String {
    let mut header = 2_usize;
    lines(text, |line, out| {
        if header > 0 || line.starts_with("@@ ") || line.starts_with("\\ No newline") {
            header = header.saturating_sub(1);
            return out.push_str(line);
        }
        match line.split_at_checked(1) {
            Some((sign @ (" " | "+" | "-"), line)) => {
                out.push_str(sign);
                show(line, out);
            }
            Some(_) => out.push_str(LINE),
            None => {}
        }
    })
}

/// Where a comment behind arguments begins. One that only looks so, inside quotes, is taken for one, too.
fn comment(arguments: &str) -> usize {
    let starts = |(at, _): &(usize, char)| arguments.get(..*at).is_none_or(|before| before.ends_with(char::is_whitespace));
    arguments.char_indices().filter(|(_, c)| *c == '#').find(starts).map_or(arguments.len(), |(at, _)| at)
}

/// Digits, or a time of `sshd_config(5)`. A long one may be an address to `inet_aton(3)`: 3325256711 is 198.51.100.7.
fn is_number(word: &str) -> bool {
    let is_short = word.len() <= MAX_DIGITS;
    is_short && word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || "smhdw".contains(c))
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
    let few = octets.len() + rest.clone().count() <= 4;
    let is_wildcard = |part: &str| {
        part.contains(['*', '?']) && part.len() <= 3 && part.chars().all(|c| c.is_ascii_digit() || matches!(c, '*' | '?'))
    };
    let only_wildcards = few && rest.clone().count() > 0 && rest.clone().all(is_wildcard);
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

    use proptest::prelude::*;

    use super::*;
    use crate::text::diff;

    fn read(what: Quote, text: &str) -> String {
        let within: [Source; 2] = ["203.0.113.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let (source, user) = (|source: Source| within.iter().any(|net| net.overlaps(source)), |user: &str| user == "alice");
        Reader { source: &source, user: &user }.quote(what, text)
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
            ("# bob's home\n# sshfix lease 1\n# sshfix says bob\n", "# (a comment)\n# sshfix lease ~\n# (a comment)\n"),
            ("sshd: 198.51.* 203.0.*.* /home/bob/list 0.0.0.0/0", "sshd: ~ 203.0.*.* ~ 0.0.0.0/0"),
            ("in.bobd, sshd, bob@203.0.113.7: ALL", "~, sshd, ~: ALL"),
            ("bob was here", "(a line)"),
            ("sshd: @bobs bob@@bobs", "sshd: ~ ~"),
            ("sshd@@bobs: 3325256711 0xc6336407 198.51.25607 [::c633:6407]", "~: ~ ~ ~ ~"),
        ] {
            assert_eq!(read(Quote::HostsLines, text), want.replace('~', OTHER), "{text}");
        }
    }

    #[test]
    fn of_lines_of_sshd_only_what_is_about_the_reader_is_shown() {
        for (text, want) in [
            ("AllowUsers root carol@198.51.100.77 bob@198.51.* alice", "AllowUsers ~ ~ ~ alice"),
            ("allowusers=alice@198.51.100.7,203.0.113.0/24 !*@home.example.org", "allowusers=alice@~,203.0.113.0/24 !*@~"),
            (
                "Match User bob,alice Address 198.51.100.0/24,203.0.113.7\n    DenyUsers bob\n",
                "Match User ~,alice Address ~,203.0.113.7\n    DenyUsers ~\n",
            ),
            ("Match Host bobs-home.example.org Group bobs", "Match Host ~ Group ~"),
            ("Match Usr bob", "Match ~ ~"),
            ("AllowGroups wheel *", "AllowGroups ~ *"),
            ("PermitRootLogin no # bob", "PermitRootLogin no # (a comment)"),
            ("# bob", "# (a comment)"),
            ("MaxStartups 10:30:100", "MaxStartups 10:30:100"),
            ("LoginGraceTime 2m", "LoginGraceTime 2m"),
            ("AuthenticationMethods publickey,password bob", "AuthenticationMethods publickey,password ~"),
            ("PermitRootLogin bob", "PermitRootLogin ~"),
            ("AuthorizedKeysCommandUser bob", "AuthorizedKeysCommandUser ~"),
            ("ListenAddress 203.0.113.1:22", "ListenAddress ~"),
            ("PermitOpen 3325256711:22 030614662007:22 198.51.25607:22 0xc6336407:22", "PermitOpen ~ ~ ~ ~"),
            ("AllowUsers alice@3325256711 alice@198.51.25607", "AllowUsers alice@~ alice@~"),
            ("Match Address 3325256711,203.0.113.7 LocalPort 3325256711", "Match Address ~,203.0.113.7 LocalPort ~"),
            ("AlowUsers root bob alice", "(a line)"),
            ("AllowUsers root alice \"bob", "(a line)"),
            ("\"AllowUsers\" bob", "(a line)"),
            ("bob", "(a line)"),
            ("Subsystem sftp /usr/lib/openssh/sftp-server -u bob", "Subsystem sftp /usr/lib/openssh/sftp-server ~ ~"),
        ] {
            assert_eq!(read(Quote::SshdLines, text), want.replace('~', OTHER), "{text}");
        }
    }

    #[test]
    fn of_a_diff_each_line_is_read_as_what_it_is() {
        let of = |before: &str, after: &str| diff::diff("/f", Some(before.as_bytes()), Some(after.as_bytes()));
        let sshd = of(
            "AllowUsers bob\n-- bob\nAlowUsers bob\n",
            "AllowUsers bob alice\n# sshd does not take this line: AlowUsers bob\n",
        );
        assert_eq!(
            read(Quote::SshdDiff, &sshd),
            "--- /f\n+++ /f\n@@ -1,3 +1,2 @@\n-AllowUsers ~\n-(a line)\n-(a line)\n+AllowUsers ~ alice\n+# (a comment)\n"
                .replace('~', OTHER)
        );
        let hosts = of("sshd: bobs 203.0.113.7\n", "sshd: bobs");
        assert_eq!(
            read(Quote::HostsDiff, &hosts),
            "--- /f\n+++ /f\n@@ -1 +1 @@\n-sshd: ~ 203.0.113.7\n+sshd: ~\n\\ No newline at end of file\n".replace('~', OTHER)
        );
    }

    #[test]
    fn of_values_only_what_is_about_the_reader_is_shown() {
        for (keyword, text, want) in [
            ("AllowUsers", "root bob alice", "~ ~ alice"),
            ("DenyGroups", "bobs, wheel", "~, ~"),
            ("Match", "User alice Address 203.0.113.7", "User alice Address 203.0.113.7"),
            ("MaxAuthTries", "6", "6"),
            ("Banner", "/home/bob/banner", "~"),
            ("NoKeyword", "bob", "~"),
        ] {
            assert_eq!(read(Quote::Values(keyword), text), want.replace('~', OTHER), "{keyword} {text}");
        }
        for what in [Quote::Program, Quote::Unknown] {
            assert_eq!(read(what, "bob"), WORDS);
        }
    }

    /// Not a piece of any word that may stay, in any case.
    const SECRET: &str = "zqxbob";
    const ADDRESS: &str = "198.51.100.77";

    fn lines() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            Just(SECRET.to_owned()),
            Just(ADDRESS.to_owned()),
            Just(format!("{SECRET}@{ADDRESS}")),
            Just(format!("alice@{ADDRESS}")),
            Just(format!("{SECRET}@203.0.113.7")),
            Just("alice".to_owned()),
            Just("203.0.113.7".to_owned()),
            proptest::sample::select(keyword::all()).prop_map(|keyword| keyword.name.to_owned()),
            proptest::sample::select(&CRITERIA[..]).prop_map(str::to_owned),
            proptest::sample::select(&HOSTS_WORDS[..]).prop_map(str::to_owned),
            proptest::sample::select(&SSHD_WORDS[..]).prop_map(str::to_owned),
            proptest::sample::select(&["sshd", "# ", "sshfix lease ", "AlowUsers", "--- ", "+++ ", "@@ ", "/home/", "all"][..])
                .prop_map(str::to_owned),
            "[a-z=:@#!\"',/\\\\+. \\-\\[\\]\t\n*]{1,2}",
        ];
        let between =
            proptest::sample::select(&[" ", " ", " ", "", ",", ": ", "\n", "=", "\"", "\\\n", "@", "!", "# ", "\t"][..]);
        proptest::collection::vec((word, between), 1..12)
            .prop_map(|words| words.into_iter().flat_map(|(word, between)| [word, between.to_owned()]).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_name_and_no_address_of_others_is_left_of_any_quote(text in lines(), other in lines(), kind in 0_usize..7) {
            let diff = || diff::diff("/f", Some(text.as_bytes()), Some(other.as_bytes()));
            let keyword = keyword::all().get(other.len() % keyword::all().len()).map_or("Match", |keyword| keyword.name);
            let (what, text) = match kind {
                0 => (Quote::SshdLines, text.clone()),
                1 => (Quote::SshdDiff, diff()),
                2 => (Quote::Values(keyword), text.clone()),
                3 => (Quote::HostsLines, text.clone()),
                4 => (Quote::HostsDiff, diff()),
                5 => (Quote::Program, text.clone()),
                _ => (Quote::Unknown, text.clone()),
            };
            let shown = read(what, &text);
            prop_assert!(!shown.contains(SECRET) && !shown.contains(ADDRESS), "{what:?} {text:?} is shown as {shown:?}");
        }
    }
}
