//! Whether sshd lets an access path in: where it listens, whether it serves at all, its lists, the account and the methods that can
//! work for the user. For the proof, which asks before and after each step on sshd; every value is sshd's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::config::{Client, Document, Tree};
use super::journal::Entrance;
use super::plan::difference;
use super::state::{Login, Need, Server};
use super::{Effective, access, account, candidate, methods, serves};
use crate::address::Source;
use crate::host::{self, AccessPath, HostState, Needs, Part};
use crate::ranges;
use crate::verdict::Verdict;

/// What sshd makes of one access path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayIn {
    /// Whether it lets it in.
    pub verdict: Verdict,
    /// What decided, for the witness.
    pub why: String,
    /// What can work, where it is let in: `publickey`.
    pub methods: Vec<String>,
    /// What counts for each login that was asked about.
    logins: Vec<Counts>,
}

/// What counts for one login.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counts {
    user: String,
    address: IpAddr,
    effective: Effective,
    /// The keys that may log in.
    keys: BTreeSet<String>,
    /// The methods that can work.
    methods: Vec<String>,
    /// How those who are in so came in; empty where that is not known of each of them.
    entered: Vec<Entrance>,
}

/// More logins than this are not asked about for one range.
const MOST_LOGINS: usize = 24;

/// Values that let nobody in and keep nobody out: what a session may do, what is logged and shown.
const HARMLESS: [&str; 44] = [
    "acceptenv",
    "allowagentforwarding",
    "allowstreamlocalforwarding",
    "allowtcpforwarding",
    "banner",
    "channeltimeout",
    "clientalivecountmax",
    "clientaliveinterval",
    "compression",
    "debianbanner",
    "disableforwarding",
    "exposeauthinfo",
    "fingerprinthash",
    "gatewayports",
    "gssapicleanupcredentials",
    "ipqos",
    "loglevel",
    "logverbose",
    "permitlisten",
    "permitopen",
    "permittty",
    "permittunnel",
    "permituserenvironment",
    "permituserrc",
    "persourcepenaltyexemptlist",
    "pidfile",
    "printlastlog",
    "printmotd",
    "rekeylimit",
    "setenv",
    "streamlocalbindmask",
    "streamlocalbindunlink",
    "subsystem",
    "syslogfacility",
    "tcpkeepalive",
    "unusedconnectiontimeout",
    "usedns",
    "versionaddendum",
    "x11displayoffset",
    "x11forwarding",
    "x11uselocalhost",
    "xauthlocation",
    "kerberosticketcleanup",
    "kerberosgetafstoken",
];
/// Values about connections, which are judged whoever comes.
const OF_CONNECTIONS: [&str; 14] = [
    "port",
    "listenaddress",
    "addressfamily",
    "hostkey",
    "hostkeyalgorithms",
    "hostcertificate",
    "hostkeyagent",
    "ciphers",
    "macs",
    "kexalgorithms",
    "maxstartups",
    "persourcemaxstartups",
    "logingracetime",
    "maxauthtries",
];

/// Judges a path by the sshd on `port`, which steps were predicted on; `read` is the host as it was read. A path to another server
/// is none of its business.
pub fn way_in(read: &HostState, now: &HostState, port: u16, path: &AccessPath, needs: &mut Needs) -> WayIn {
    let (Some(before), Some(server)) = (candidate::resolved(read, port, needs), candidate::resolved(now, port, needs)) else {
        let why = match now.sshd.servers.get(&port) {
            Some(Part::Absent(why) | Part::Unreadable(why)) => why.clone(),
            _ => "sshd, which was not asked yet".to_owned(),
        };
        return WayIn::of(Verdict::Unknown, why);
    };
    if path.port != port && !serves::addresses(&before).is_some_and(|all| all.iter().any(|at| at.port() == path.port)) {
        return WayIn::of(Verdict::Accept, String::new());
    }
    // Nobody comes in while it does not run. What runs was started or reloaded with files that it took.
    if !server.running {
        return WayIn::of(Verdict::Refuse, "nobody: sshd does not run".to_owned());
    }
    if let Some((verdict, why)) = serves::problem(&server) {
        return WayIn::of(verdict, why);
    }
    let sessions = Sessions::of(read, path);
    if let Some((verdict, why)) = serves::listens(read, &before, &server, path.port, path.source.first(), &sessions.locals) {
        return WayIn::of(verdict, why);
    }
    let users = sessions.users(path);
    if users.is_empty() {
        return nobody_named(&before, &server);
    }
    let addresses = representatives(path.source, [&before, &server]);
    if addresses.len() * users.len() > MOST_LOGINS {
        return WayIn::of(Verdict::Unknown, "sshd: the configuration parts this range into too many".to_owned());
    }
    let mut all = WayIn::of(Verdict::Accept, String::new());
    for user in &users {
        for address in &addresses {
            let local = sessions.locals.first().copied();
            let mut way = login(now, &server, user, *address, local, path.port, needs);
            way.logins.iter_mut().for_each(|counts| counts.entered = sessions.entered(read, user, *address, needs));
            all.add(way);
        }
    }
    all
}

/// The same before any step. Where sshd has not read its files since they changed, what they say is not what let these people in:
/// that they are in is all that is known, and it is enough.
pub fn way_in_now(read: &HostState, port: u16, path: &AccessPath, needs: &mut Needs) -> WayIn {
    let judged = way_in(read, read, port, path, needs);
    let stale = matches!(read.sshd.servers.get(&port), Some(Part::Present(server)) if !server.stale.is_empty());
    if stale && path.origin == host::PathOrigin::Session {
        return WayIn { verdict: Verdict::Accept, ..judged };
    }
    judged
}

impl WayIn {
    fn of(verdict: Verdict, why: String) -> Self {
        Self { verdict, why, methods: Vec::new(), logins: Vec::new() }
    }

    fn add(&mut self, other: Self) {
        let both = self.verdict.and(other.verdict);
        if both != self.verdict {
            self.why = other.why;
        }
        self.verdict = both;
        self.logins.extend(other.logins);
        for method in other.methods {
            if !self.methods.contains(&method) {
                self.methods.push(method);
            }
        }
    }

    /// What makes a path that was so worse off so. What was not known may stay unknown only where nothing changed that could decide.
    pub fn worse(&self, now: &WayIn) -> Option<(Verdict, String)> {
        let worse = match (self.verdict, now.verdict) {
            (Verdict::Refuse, _) => return None,
            (_, Verdict::Accept) => false,
            (_, Verdict::Refuse) | (Verdict::Accept, Verdict::Unknown) => true,
            (Verdict::Unknown, Verdict::Unknown) => {
                let differs = |(was, is): (&Counts, &Counts)| differ(&was.effective, &is.effective).next().is_some();
                self.why != now.why || self.logins.len() != now.logins.len() || self.logins.iter().zip(&now.logins).any(differs)
            }
        };
        if worse {
            return Some((now.verdict, now.why.clone()));
        }
        let mut pairs = now.logins.iter().filter_map(|is| self.login(is).map(|was| (was, is)));
        pairs
            .find_map(|(was, is)| {
                no_session(was, is).or_else(|| match is.entered.first() {
                    Some(first) => lost_way(was, is, first),
                    None => lost_keys(was, is),
                })
            })
            .map(|why| (Verdict::Unknown, why))
    }

    /// The same login; where the new files part addresses that the old ones did not, the old ones said the same of all of them.
    fn login(&self, is: &Counts) -> Option<&Counts> {
        let of_user = || self.logins.iter().filter(|was| was.user == is.user);
        of_user().find(|was| was.address == is.address).or_else(|| of_user().next())
    }

    /// What becomes different for this path: `publickey stays`, then each value.
    pub fn changes(&self, now: &WayIn) -> Vec<String> {
        let stays = |method: &&String| now.methods.contains(method);
        let listed = |what: &str, methods: Vec<&String>| {
            (!methods.is_empty())
                .then(|| format!("{} {what}", methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ")))
        };
        let (kept, lost): (Vec<&String>, Vec<&String>) = self.methods.iter().partition(stays);
        let new = now.methods.iter().filter(|method| !self.methods.contains(method)).collect();
        let words: Vec<String> =
            [listed("stays", kept), listed("goes", lost), listed("comes", new)].into_iter().flatten().collect();
        let mut lines: Vec<String> = if words.is_empty() { Vec::new() } else { vec![words.join(", ")] };
        for (was, is) in self.logins.iter().zip(&now.logins) {
            let lost = gone(was, is);
            let keys = (!lost.is_empty()).then(|| format!("{} of {} keys goes: {}", lost.len(), was.keys.len(), lost.join(", ")));
            for line in keys.into_iter().chain(difference(&was.effective, &is.effective)) {
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        lines
    }
}

/// Whoever gets in is to get a shell as before: what another command or another root directory gives is not known.
fn no_session(was: &Counts, is: &Counts) -> Option<String> {
    ["ForceCommand", "ChrootDirectory"].into_iter().find_map(|name| {
        let keyword = name.to_ascii_lowercase();
        let value = is.effective.one(&keyword).filter(|value| *value != "none" && was.effective.one(&keyword) != Some(value))?;
        Some(format!("{name} {value}: whether that gives {} a shell is not known", is.user))
    })
}

/// The keys that would count no more.
fn gone<'a>(was: &'a Counts, is: &'a Counts) -> Vec<&'a str> {
    was.keys.difference(&is.keys).map(String::as_str).collect()
}

/// A key may be the only one that somebody has. What else is left for the user is enough: that a method goes is said.
fn lost_keys(was: &Counts, is: &Counts) -> Option<String> {
    let lost = gone(was, is);
    let only_keys = is.methods.iter().all(|way| way.starts_with("publickey"));
    (!lost.is_empty() && only_keys).then(|| {
        let user = &is.user;
        format!(
            "sshd: {} of the {} keys of {user} would count no more ({}), and which one comes is not known",
            lost.len(),
            was.keys.len(),
            lost.join(", ")
        )
    })
}

/// Whoever is in shall be able to come again as he came: of no other way is it known that he has the key, or the password.
fn lost_way(was: &Counts, is: &Counts, first: &Entrance) -> Option<String> {
    let stays = |entrance: &Entrance| {
        // PAM asks for the same password either way.
        let typed = |method: &str| matches!(method, "password" | "keyboard-interactive");
        let same = |method: &str| method == entrance.method || typed(method) && typed(&entrance.method);
        let by = |way: &String| way.split(" and ").any(|method| same(method.split(':').next().unwrap_or(method)));
        let offers = |counts: &Counts| counts.methods.iter().any(by);
        // The key of a certificate, or one from elsewhere, stands in no file.
        let takes = |counts: &Counts, key: &String| counts.keys.iter().any(|known| known.ends_with(key.as_str()));
        let key_lost = entrance.key.as_ref().is_some_and(|key| takes(was, key) && !takes(is, key));
        !offers(was) || offers(is) && !key_lost
    };
    (!is.entered.iter().any(stays)).then(|| {
        let Entrance { user, method, key } = first;
        let by = key.as_ref().map_or_else(|| method.clone(), |key| format!("{method} ({key})"));
        format!(
            "sshd: {user} is in by {by}, which would count no more; whether {user} can come in by {} is not known: log in by that first",
            is.methods.join(" or ")
        )
    })
}

/// The keywords that differ and may decide who gets in.
fn differ<'a>(was: &'a Effective, is: &'a Effective) -> impl Iterator<Item = &'a str> {
    let keywords: BTreeSet<&str> = was.iter().chain(is.iter()).map(|(keyword, _)| keyword).collect();
    keywords.into_iter().filter(|keyword| was.all(keyword) != is.all(keyword) && !HARMLESS.contains(keyword))
}

/// The live sessions that a path stands for.
struct Sessions {
    /// The addresses of the host that they came to.
    locals: Vec<IpAddr>,
    /// The clients' ends, and as whom.
    peers: Vec<(SocketAddr, String)>,
}

impl Sessions {
    fn of(host: &HostState, path: &AccessPath) -> Self {
        let there = host.listener.present().into_iter().flat_map(|state| &state.sessions);
        let of_path = there.filter(|session| {
            path.source.single() == Some(crate::address::canonical(session.peer.ip())) && session.port == path.port
        });
        let of_path: Vec<_> = of_path.collect();
        let locals: BTreeSet<IpAddr> = of_path.iter().map(|session| session.local).collect();
        let peers = of_path.iter().filter_map(|session| Some((session.peer, session.user.clone()?)));
        Self { locals: locals.into_iter().collect(), peers: peers.collect() }
    }

    /// How those of them who came so logged in; empty where that is not known of each.
    fn entered(&self, host: &HostState, user: &str, address: IpAddr, needs: &mut Needs) -> Vec<Entrance> {
        let came = self.peers.iter().filter(|(peer, who)| peer.ip() == address && who == user);
        let peers: Vec<SocketAddr> = came.map(|(peer, _)| *peer).collect();
        let Some(known) = &host.sshd.entrances else {
            if !peers.is_empty() {
                needs.insert(host::Need::Sshd(Need::Entrances));
            }
            return Vec::new();
        };
        let entered = peers.iter().map(|peer| known.get(peer).filter(|entrance| entrance.user == user).cloned());
        entered.collect::<Option<Vec<Entrance>>>().unwrap_or_default()
    }

    /// As whom somebody comes this way: whoever became another user after the login still comes in as who logged in.
    fn users(&self, path: &AccessPath) -> BTreeSet<String> {
        let came: BTreeSet<String> = self.peers.iter().map(|(_, user)| user.clone()).collect();
        match (&path.user, path.origin) {
            (Some(user), host::PathOrigin::Requester) if !came.is_empty() && !came.contains(user) => came,
            (Some(user), _) => [user.clone()].into(),
            (None, _) => came,
        }
    }
}

/// A path whose user is not known: whatever selects by user could keep just that user out, unless it only lets more in.
fn nobody_named(before: &Server, now: &Server) -> WayIn {
    let (Ok(was), Ok(is)) = (&before.effective, &now.effective) else {
        return WayIn::of(Verdict::Unknown, "sshd: which user comes this way is not known".to_owned());
    };
    let edited: BTreeSet<String> = now.edited.values().flat_map(|(was, is)| edited_keywords(was, is)).collect();
    let decides = |keyword: &&String| {
        let keyword = keyword.as_str();
        !HARMLESS.contains(&keyword) && !OF_CONNECTIONS.contains(&keyword) && !only_opens(keyword, was, is)
    };
    match edited.iter().find(decides) {
        None => WayIn::of(Verdict::Accept, String::new()),
        Some(keyword) => WayIn::of(
            Verdict::Unknown,
            format!(
                "sshd: which user comes this way is not known, and {keyword} changes; name the user in [[keep]] of agent.toml"
            ),
        ),
    }
}

/// The keywords of the lines that come and go; `match` for what no keyword can be told of.
fn edited_keywords(before: &[u8], after: &[u8]) -> BTreeSet<String> {
    let lines =
        |bytes: &[u8]| -> Vec<super::config::Line> { Document::parse(bytes).lines().map(|(_, line)| line.clone()).collect() };
    let (before, after) = (lines(before), lines(after));
    let gone = before.iter().filter(|line| !after.contains(line));
    let come = after.iter().filter(|line| !before.contains(line));
    let keyword = |line: &super::config::Line| match line.directive() {
        Ok(None) => None,
        Ok(Some(directive)) => Some(super::config::keyword::canonical(&directive.keyword)),
        Err(_) => Some("match".to_owned()),
    };
    let found: BTreeSet<String> = gone.chain(come).filter_map(keyword).collect();
    // Lines that only changed places: what they mean may have, too.
    if found.is_empty() && before != after { ["match".to_owned()].into() } else { found }
}

/// Whether the global value of a keyword changed, and only lets more in.
fn only_opens(keyword: &str, was: &Effective, is: &Effective) -> bool {
    let (old, new) = (was.all(keyword), is.all(keyword));
    if old == new {
        return false;
    }
    let rank = |value: &[String]| match value.first().map(String::as_str) {
        Some("no") => Some(0),
        Some("forced-commands-only") => Some(1),
        Some("prohibit-password" | "without-password") => Some(2),
        Some("yes") => Some(3),
        _ => None,
    };
    match keyword {
        "allowusers" | "allowgroups" => new.is_empty() || (!old.is_empty() && old.iter().all(|one| new.contains(one))),
        "denyusers" | "denygroups" => new.iter().all(|one| old.contains(one)),
        "permitrootlogin" | "passwordauthentication" | "pubkeyauthentication" | "kbdinteractiveauthentication" => {
            rank(old).zip(rank(new)).is_some_and(|(old, new)| old < new)
        }
        _ => false,
    }
}

/// Addresses of a source, one of every part that lines of these configurations tell apart.
fn representatives(source: Source, servers: [&Server; 2]) -> Vec<IpAddr> {
    if let Some(single) = source.single() {
        return vec![single];
    }
    let mut found: BTreeSet<IpAddr> = [source.first(), source.last()].into();
    for tree in servers.iter().filter_map(|server| server.tree.as_ref().ok()) {
        for named in named_sources(tree) {
            let v6 = !named.is_ipv4();
            let (first, last) = ranges::span(named);
            let outside = last.checked_add(1).filter(|at| *at <= ranges::highest(v6));
            let ends = [Some(first), Some(last), outside, first.checked_sub(1)].into_iter().flatten();
            found.extend(ends.map(|at| ranges::address(v6, at)).filter(|address| source.contains((*address).into())));
        }
    }
    found.into_iter().collect()
}

/// Every address and range that stands in a line.
fn named_sources(tree: &Tree) -> BTreeSet<Source> {
    let directives = tree.files.values().flat_map(Document::lines).filter_map(|(_, line)| line.directive().ok().flatten());
    let words = directives.flat_map(|directive| directive.arguments);
    let parts = words.flat_map(|word| {
        let parts = word.split([',', '@', '=']).map(|part| part.trim_start_matches('!').to_owned());
        parts.collect::<Vec<_>>()
    });
    parts.filter_map(|part| part.parse().ok()).collect()
}

fn login(
    host: &HostState,
    server: &Server,
    user: &str,
    address: IpAddr,
    local: Option<IpAddr>,
    port: u16,
    needs: &mut Needs,
) -> WayIn {
    let unknown = |why: String| WayIn::of(Verdict::Unknown, why);
    let same = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4() && ip.is_loopback() == address.is_loopback();
    let own = host.listener.present().and_then(|state| state.addresses.iter().find(same).copied());
    let local = local.or(own).unwrap_or(address);
    let Some(login) = Login::new(user, address, local, port) else {
        return unknown("sshd: that is no name sshfix asks about".to_owned());
    };
    let account = host.sshd.accounts.get(user);
    if account.is_none() {
        needs.insert(host::Need::Sshd(Need::Account(user.to_owned())));
    }
    let effective = candidate::login_as(host, server, &login, needs);
    let (Some(known), Some(effective)) = (account, effective) else {
        return unknown("sshd, which was not asked yet".to_owned());
    };
    let effective = match effective {
        Ok(effective) => effective,
        Err(why) => return unknown(format!("sshd -T: {why}")),
    };
    let Part::Present(user_account) = known else {
        return WayIn::of(Verdict::Refuse, format!("sshd: there is no user {user}"));
    };
    let groups = Some(user_account.groups.clone());
    let client = Client {
        user: user.to_owned(),
        groups,
        host: address.to_string(),
        address,
        local_address: Some(local),
        local_port: port,
    };
    let (working, methods) = methods::working(host, effective, user, user_account, needs);
    let keys = methods::keys(host, effective, user, user_account);
    let counts = Counts {
        user: user.to_owned(),
        address,
        effective: effective.clone(),
        keys,
        methods: methods.clone(),
        entered: Vec::new(),
    };
    let mut all = WayIn { methods, logins: vec![counts], ..WayIn::of(Verdict::Accept, String::new()) };
    for judgement in [access::judge(host, server, effective, &client), account::judge(host, effective, &client, known, needs)] {
        let quoted =
            judgement.evidence.first().map_or(String::new(), |evidence| format!(" ({}: {})", evidence.source, evidence.text));
        all.add(WayIn::of(judgement.verdict, format!("sshd: {}{quoted}", judgement.detail)));
    }
    let why = match working {
        Verdict::Refuse => format!("sshd: no authentication method is left that can work for {user}"),
        _ => format!("sshd: whether {} works for {user} is not known", all.methods.join(" or ")),
    };
    all.add(WayIn::of(working, why));
    all
}
