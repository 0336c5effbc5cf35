//! Runs hosts.allow, then hosts.deny, over a request: `hosts_access` and `table_match` of tcp wrappers 7.6.q (`hosts_access.c`).
//! The first rule that matches decides. Where it cannot be told whether one matches, both ways are followed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::document::{Document, Kind, Line, Rule, Token, split_at};
use super::options::{self, Outcome};
use super::pattern::{self, Address, PARANOID, UNKNOWN, address_matches, masked_matches, text_matches};
use super::{Content, Which};
use crate::address::Source;
use crate::host::{Need, Needs};
use crate::packet::Tri;
use crate::text::show;
use crate::verdict::Verdict;

/// How deep files may name files before it is given up.
const FILE_DEPTH: u32 = 8;
/// The longest word `hostfile_match` has room for (`BUFSIZ`, stdio.h).
const WORD: usize = 8191;

/// What a lookup of a host's name gave, as `sock_hostname` (socket.c) judges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostName {
    /// A name that leads back to the address.
    Verified(String),
    /// The address has no name.
    Unknown,
    /// It has a name that does not lead back to it, or is no name.
    Paranoid,
    /// No answer in time: libwrap, which waits longer, may get one. The text says what happened.
    Unanswered(String),
}

/// A file that a pattern names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatternFile {
    /// Its content.
    Content(Vec<u8>),
    /// Not there, so it matches nobody.
    Missing,
    /// There, but not read; the text says why.
    Unreadable(String),
}

/// Facts fetched on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Names of single addresses.
    pub names: BTreeMap<IpAddr, HostName>,
    /// Files named by patterns, by path.
    pub files: BTreeMap<String, PatternFile>,
}

/// The port in a daemon list stands for the server's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Is(u16),
    /// Nobody told us.
    Untold,
    /// There is no connection, so no port matches (`tcpdmatch`).
    None,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The process name libwrap was given.
    pub daemon: &'a str,
    /// The server's port.
    pub port: Port,
    /// The client's address.
    pub client: Address,
    /// The server's address.
    pub server: Address,
    /// The name the client's ident service gives; `None` is not known.
    pub user: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// A connection to a daemon from a source. Names of single addresses are looked up, ident is not.
    pub fn new(daemon: &'a str, port: Port, source: Source) -> Self {
        Self { daemon, port, client: Address::In(source), server: Address::Any, user: None }
    }
}

/// A line of one of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Which file.
    pub which: Which,
    /// Index into [`Document::lines`].
    pub line: usize,
}

/// A client of a rule, by its place in [`Rule::clients`].
pub type Client = (Place, usize);

/// A line that decides, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The line; `None` where the whole file could not be read.
    pub place: Option<Place>,
    /// Yes, or Maybe.
    pub matches: Tri,
    /// What it does then.
    pub outcome: Outcome,
}

/// The way through both files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Every line that may decide, in order; the last one decides for certain. When none does, access is granted.
    pub hits: Vec<Hit>,
    /// Facts that would make it clearer.
    pub needs: Needs,
    /// What could not be told.
    pub unclear: BTreeSet<String>,
}

impl Trace {
    /// The verdict: that of all lines that may decide, if they agree.
    pub fn verdict(&self) -> Verdict {
        let mut verdicts = self.hits.iter().map(|hit| match hit.outcome {
            Outcome::Grant => Verdict::Accept,
            Outcome::Deny | Outcome::Mistake(_) | Outcome::Twist => Verdict::Refuse,
            Outcome::Untold(_) => Verdict::Unknown,
        });
        let last = if self.hits.last().is_some_and(|hit| hit.matches == Tri::Yes) {
            verdicts.next_back().unwrap_or(Verdict::Unknown)
        } else {
            Verdict::Accept
        };
        if verdicts.all(|verdict| verdict == last) { last } else { Verdict::Unknown }
    }

    /// The line that decides for certain.
    pub fn decider(&self) -> Option<&Hit> {
        self.hits.last().filter(|hit| hit.matches == Tri::Yes)
    }
}

/// Both files, cut into lines once. `None` is a file that could not be read.
#[derive(Clone, Debug)]
pub struct Tables {
    /// hosts.allow
    pub allow: Option<Document>,
    /// hosts.deny
    pub deny: Option<Document>,
}

impl Tables {
    /// Cuts both.
    pub fn new(allow: &Content, deny: &Content) -> Self {
        let parse = |content: &Content| match content {
            Content::Missing => Some(Document::parse(&[])),
            Content::Bytes(bytes) => Some(Document::parse(bytes)),
            Content::Unreadable(_) => None,
        };
        Self { allow: parse(allow), deny: parse(deny) }
    }

    /// One of the two.
    pub fn get(&self, which: Which) -> Option<&Document> {
        match which {
            Which::Allow => self.allow.as_ref(),
            Which::Deny => self.deny.as_ref(),
        }
    }

    /// The line at a place.
    pub fn line(&self, place: Place) -> Option<&Line> {
        self.get(place.which)?.lines.get(place.line)
    }

    /// Runs a request. Rules in `without` count as if they were not there, and so do the clients in `dropped`.
    pub fn trace(&self, request: &Request<'_>, facts: &Facts, without: &BTreeSet<Place>, dropped: &BTreeSet<Client>) -> Trace {
        let mut asked = Asked { facts, needs: Needs::new(), unclear: BTreeSet::new() };
        let mut hits = Vec::new();
        'tables: for which in [Which::Allow, Which::Deny] {
            let Some(document) = self.get(which) else {
                let outcome = Outcome::Untold(format!("{which}, which could not be read"));
                hits.push(Hit { place: None, matches: Tri::Maybe, outcome });
                continue;
            };
            for (index, line) in document.lines.iter().enumerate() {
                let place = Place { which, line: index };
                if without.contains(&place) {
                    continue;
                }
                let rule = match &line.kind {
                    Kind::Rule(rule) => rule,
                    Kind::Skipped | Kind::NeverRead => continue,
                    // table_match gives up with -1: no match in hosts.allow, but not "no match" in hosts.deny.
                    Kind::Unterminated | Kind::TooLong => match which {
                        Which::Allow => break,
                        Which::Deny => {
                            hits.push(Hit { place: Some(place), matches: Tri::Yes, outcome: Outcome::Deny });
                            break 'tables;
                        }
                    },
                };
                let skip = |client: usize| dropped.contains(&(place, client));
                let matches = asked.rule_matches(rule, request, &skip);
                if matches == Tri::No {
                    continue;
                }
                let outcome = options::outcome(rule.options(), &which.default_outcome());
                hits.push(Hit { place: Some(place), matches, outcome });
                if matches == Tri::Yes {
                    break 'tables;
                }
            }
        }
        Trace { hits, needs: asked.needs, unclear: asked.unclear }
    }
}

/// Whether a rule's daemon list can name the daemon.
pub fn daemons_match(rule: &Rule, daemon: &str, port: Port) -> Tri {
    let facts = Facts::default();
    let mut asked = Asked { facts: &facts, needs: Needs::new(), unclear: BTreeSet::new() };
    let request = Request { daemon, port, client: Address::Any, server: Address::Any, user: None };
    asked.list(&rule.daemons(), &|_| false, &mut |asked, token| asked.daemon(token, &request))
}

/// Collects what is missing while patterns are matched.
struct Asked<'a> {
    facts: &'a Facts,
    needs: Needs,
    unclear: BTreeSet<String>,
}

/// The name of a peer as far as it is known.
#[derive(Clone, Copy)]
enum Name<'a> {
    /// As libwrap has it: the name, or one of its two words for none.
    Text(&'a str),
    /// Not to be had.
    Untold,
}

impl Asked<'_> {
    /// Daemons first: names are looked up only for rules about this daemon.
    fn rule_matches(&mut self, rule: &Rule, request: &Request<'_>, skip: &dyn Fn(usize) -> bool) -> Tri {
        let daemons = self.list(&rule.daemons(), &|_| false, &mut |asked, token| asked.daemon(token, request));
        if daemons == Tri::No {
            return Tri::No;
        }
        daemons.and(self.list(&rule.clients(), skip, &mut |asked, token| asked.client(token, request)))
    }

    /// `list_match`: any token before the first EXCEPT, unless the list after it matches, and so on: `a EXCEPT b EXCEPT c` is
    /// `a EXCEPT (b EXCEPT c)`. Tokens of the first list can be left out.
    fn list(
        &mut self,
        tokens: &[Token<'_>],
        skip: &dyn Fn(usize) -> bool,
        matches: &mut dyn FnMut(&mut Self, &[u8]) -> Tri,
    ) -> Tri {
        let mut any = Tri::No;
        for (index, token) in tokens.iter().enumerate() {
            if token.is_except() {
                return match any {
                    Tri::No => Tri::No,
                    _ => any.and(self.list(tokens.get(index + 1..).unwrap_or_default(), &|_| false, matches).invert(true)),
                };
            }
            if !skip(index) && any != Tri::Yes {
                any = any.or(matches(self, token.text));
            }
        }
        any
    }

    /// `server_match` and `daemon_or_port_match`.
    fn daemon(&mut self, token: &[u8], request: &Request<'_>) -> Tri {
        let (daemon, host) = split_user(token);
        let process = match (port_number(daemon), request.port) {
            (Some(wanted), Port::Is(port)) => Tri::from(wanted == port),
            (Some(_), Port::Untold) => Tri::Maybe,
            (Some(_), Port::None) => Tri::No,
            (None, _) => Tri::from(text_matches(daemon, request.daemon)),
        };
        match host {
            Some(host) if process != Tri::No => process.and(self.host(host, request.server, 0)),
            _ => process,
        }
    }

    /// `client_match`.
    fn client(&mut self, token: &[u8], request: &Request<'_>) -> Tri {
        let (user, host) = split_user(token);
        let Some(host) = host else { return self.host(token, request.client, 0) };
        let from = self.host(host, request.client, 0);
        if from == Tri::No {
            return Tri::No;
        }
        from.and(match request.user {
            Some(name) => Tri::from(text_matches(user, name)),
            None if user.eq_ignore_ascii_case(b"ALL") || user.iter().all(|byte| *byte == b'*') => Tri::Yes,
            None => {
                self.unclear.insert(format!("`{}` asks the client's ident service who the user is", show(token)));
                Tri::Maybe
            }
        })
    }

    /// `host_match`.
    fn host(&mut self, token: &[u8], address: Address, depth: u32) -> Tri {
        if token.first() == Some(&b'@') {
            self.unclear.insert(format!("netgroup `{}` cannot be looked up", show(token)));
            return Tri::Maybe;
        }
        if token.first() == Some(&b'/') {
            return self.host_file(token, address, depth);
        }
        if token.eq_ignore_ascii_case(b"KNOWN") {
            return match (address, self.name(address)) {
                (Address::None, _) => Tri::No,
                (_, Name::Text(name)) => Tri::from(is_known(name)),
                (_, Name::Untold) => Tri::Maybe,
            };
        }
        if token.eq_ignore_ascii_case(b"LOCAL") {
            return match self.name(address) {
                Name::Text(name) => Tri::from(is_known(name) && !name.contains('.')),
                Name::Untold => Tri::Maybe,
            };
        }
        if let Some(slash) = split_at(token, b'/') {
            let (net, mask) = token.split_at_checked(slash).unwrap_or((token, &[]));
            return masked_matches(net, mask.get(1..).unwrap_or_default(), address);
        }
        let by_address = address_matches(token, address);
        if by_address == Tri::Yes || pattern::is_only_address(token) || token.starts_with(b"[") && token.ends_with(b"]") {
            return by_address;
        }
        by_address.or(match self.name(address) {
            Name::Text(name) => Tri::from(text_matches(token, name)),
            Name::Untold => Tri::Maybe,
        })
    }

    /// `hostfile_match`: the words of a file, each a pattern.
    fn host_file(&mut self, path: &[u8], address: Address, depth: u32) -> Tri {
        let Ok(path) = std::str::from_utf8(path) else {
            self.unclear.insert(format!("the file name `{}` is no UTF-8", show(path)));
            return Tri::Maybe;
        };
        let facts = self.facts;
        match facts.files.get(path) {
            _ if depth >= FILE_DEPTH => {
                self.unclear.insert(format!("{path} names files that name files, deeper than {FILE_DEPTH}"));
                Tri::Maybe
            }
            None => {
                self.needs.insert(Need::PatternFile(path.to_owned()));
                Tri::Maybe
            }
            Some(PatternFile::Missing) => Tri::No,
            Some(PatternFile::Unreadable(why)) => {
                self.unclear.insert(format!("{path} could not be read: {why}"));
                Tri::Maybe
            }
            Some(PatternFile::Content(bytes)) => {
                let mut any = Tri::No;
                for word in bytes.split(|byte| byte.is_ascii_whitespace() || *byte == 0x0b).filter(|word| !word.is_empty()) {
                    let seen = word.split(|byte| *byte == 0).next().unwrap_or_default();
                    any = any.or(if word.len() > WORD || seen.is_empty() {
                        self.unclear.insert(format!("{path} holds a word that libwrap cannot read"));
                        Tri::Maybe
                    } else {
                        self.host(seen, address, depth + 1)
                    });
                    if any == Tri::Yes {
                        break;
                    }
                }
                any
            }
        }
    }

    /// `eval_hostname`, from the facts.
    fn name(&mut self, address: Address) -> Name<'_> {
        let Address::In(source) = address else {
            return if address == Address::None {
                Name::Text(UNKNOWN)
            } else {
                self.unclear.insert("a pattern asks for the server's own address or name".into());
                Name::Untold
            };
        };
        let Some(single) = source.single() else {
            self.unclear.insert("a pattern asks for host names, which differ within a range".into());
            return Name::Untold;
        };
        let facts = self.facts;
        match facts.names.get(&single) {
            Some(HostName::Verified(name)) => Name::Text(name),
            Some(HostName::Unknown) => Name::Text(UNKNOWN),
            Some(HostName::Paranoid) => Name::Text(PARANOID),
            Some(HostName::Unanswered(why)) => {
                self.unclear.insert(format!("the host name of {single} is not known: {why}"));
                Name::Untold
            }
            None => {
                self.needs.insert(Need::HostName(single));
                Name::Untold
            }
        }
    }
}

/// `HOSTNAME_KNOWN` (tcpd.h).
fn is_known(name: &str) -> bool {
    !name.eq_ignore_ascii_case(UNKNOWN) && !name.eq_ignore_ascii_case(PARANOID)
}

/// `user@host`: the `@` is looked for from the second byte on.
fn split_user(token: &[u8]) -> (&[u8], Option<&[u8]>) {
    match token.get(1..).and_then(|rest| split_at(rest, b'@')) {
        Some(at) => (token.get(..=at).unwrap_or_default(), token.get(at + 2..)),
        None => (token, None),
    }
}

/// `sscanf("%u%c") == 1` and no larger than 65535: a port instead of a daemon's name.
fn port_number(token: &[u8]) -> Option<u16> {
    let (sign, digits) = match token {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, token),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // strtoul saturates at 64 bits; scanf keeps the low 32.
    let value = digits.iter().try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    let value = match (value, sign) {
        (None, _) => u64::MAX,
        (Some(value), true) => value.wrapping_neg(),
        (Some(value), false) => value,
    };
    u16::try_from(value & 0xffff_ffff).ok()
}
