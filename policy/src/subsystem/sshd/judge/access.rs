//! Whether sshd's lists let a user in from an address, and by which methods (auth.c `allowed_user`, `auth_root_allowed`; auth2.c).
//! Every value is the one `sshd -T -C` gave for this very login; files and lines are only named.

use std::collections::BTreeSet;

use crate::host::{HostState, Needs, Part};
use crate::ssh::pattern::wildcard;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::keyword::spelling;
use crate::subsystem::sshd::config::{Client, Matching, Place, Setting, Settings, evaluate, is_name, user_pattern};
use crate::subsystem::sshd::facts::state::{Account, Server};
use crate::subsystem::sshd::judge::judgement::{Judgement, Remedy, found};
use crate::subsystem::sshd::judge::login::unit;
use crate::subsystem::sshd::judge::methods_on::{alternatives, switched_off};
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::judge::origin::origin;
use crate::subsystem::sshd::judge::untold;
use crate::subsystem::sshd::quoting::{of_values, said};
use crate::text::quoted::Text;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Stage, Verdict};

/// The whole stage.
pub fn judge(
    host: &HostState,
    server: &Server,
    effective: &Effective,
    client: &Client,
    account: &Part<Account>,
    needs: &mut Needs,
) -> Judgement {
    let settings = match &server.tree {
        Ok(tree) => evaluate(tree, &server.invocation.options, Some(client)).map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    };
    let settings = settings.unwrap_or_default();
    let refused = refusal(effective, client);
    let judgement = match refused {
        Ok(None) => methods(host, effective, client, account, &settings, needs),
        Ok(Some(refusal)) => {
            let evidence = refusal.keywords.iter().flat_map(|keyword| origin(effective, &settings, keyword)).collect();
            Judgement { verdict: Verdict::Refuse, detail: refusal.detail, evidence, blocks: Vec::new() }
        }
        Err(why) => Judgement::unknown(why),
    };
    // The host name was not looked up, and other addresses of the host may be meant.
    let judgement = match undecided(effective, server).map(Text::from).or_else(|| untold::of(server, client)) {
        Some(why) => {
            let detail = why + "; else: " + judgement.detail;
            Judgement { verdict: Verdict::Unknown, detail, ..judgement }
        }
        None => judgement,
    };
    let remedies = remedies(effective, client, &settings);
    with_finding(judgement, host, client).with(remedies)
}

/// What lets this user in from this address and nobody else; nothing where that cannot be written down.
fn remedies(effective: &Effective, client: &Client, settings: &Settings) -> Vec<Remedy> {
    let (user, address) = (&client.user, client.address);
    // auth.c splits the pattern at the first `@`.
    if user.contains('@') {
        return Vec::new();
    }
    let Ok(Some(refusal)) = refusal(effective, client) else {
        let closed = alternatives(effective, client.is_root).is_empty()
            && effective.one("authenticationmethods") == Some("any")
            && effective.one("pubkeyauthentication") == Some("no");
        return if closed { vec![for_this(user, address, "PubkeyAuthentication", "yes")] } else { Vec::new() };
    };
    let keyword = refusal.keywords.first().copied().unwrap_or_default();
    let lines = settings.get(keyword).map_or(&[][..], Vec::as_slice);
    // sshd_config(5), AllowUsers: the lines of all files add up, so that the last one can take one more.
    let longer = |name: &str, pattern: String| {
        let last = lines.last().map(|line| (line.at.clone(), [line.arguments.clone(), vec![pattern]].concat()));
        last.map_or_else(Vec::new, |last| vec![Remedy::Lines { keyword: name.to_owned(), lines: vec![last] }])
    };
    match keyword {
        "allowusers" => longer("AllowUsers", format!("{user}@{address}")),
        "denyusers" => {
            // Only what names this very user can be narrowed; sshd_config(5), PATTERNS: a negated address among those of the pattern.
            let narrow = |pattern: &String| match (user_pattern(client, pattern), pattern.split_once('@')) {
                (Matching::No, _) => Some(pattern.clone()),
                (Matching::Yes, None) if pattern == user => Some(format!("{user}@!{address},*")),
                (Matching::Yes, Some((name, from))) if name == user => Some(format!("{user}@!{address},{from}")),
                _ => None,
            };
            let narrowed = |line: &Setting| Some((line.at.clone(), line.arguments.iter().map(narrow).collect::<Option<_>>()?));
            let all: Option<Vec<(Place, Vec<String>)>> = lines.iter().map(narrowed).collect();
            let changed = |all: Vec<_>| all.into_iter().zip(lines).filter(|((_, to), line)| *to != line.arguments);
            let lines: Vec<_> = all.into_iter().flat_map(changed).map(|(line, _)| line).collect();
            if lines.is_empty() { Vec::new() } else { vec![Remedy::Lines { keyword: "DenyUsers".to_owned(), lines }] }
        }
        // Inside a Match block the list takes the place of the global one, for this login alone; any group of the user's will do.
        "allowgroups" => match client.groups.iter().flatten().find(|group| plain(group)) {
            Some(group) => vec![for_this(user, address, "AllowGroups", group)],
            None => Vec::new(),
        },
        "permitrootlogin" => vec![for_this(user, address, "PermitRootLogin", "prohibit-password")],
        _ => Vec::new(),
    }
}

/// No pattern, and nothing that would have to be quoted.
fn plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// A Match block for one user from one address.
fn for_this(user: &str, address: std::net::IpAddr, keyword: &str, value: &str) -> Remedy {
    let criteria = Some(format!("User {user} Address {address}"));
    Remedy::Set { keyword: keyword.to_owned(), criteria, values: vec![value.to_owned()] }
}

/// Everything in sshd's lists that refuses this user, or may, for the proof: unlike [`judge`] not only the first. `local` is whether the
/// host's address that the client comes to is known.
pub fn objections(server: &Server, effective: &Effective, client: &Client, local: bool) -> Vec<Objection> {
    let user = &client.user;
    let mut found = Vec::new();
    let looked_up = effective.one("usedns") == Some("yes");
    let list = |keyword: &'static str, detail: Text, verdict: Verdict| {
        let reason = Reason::List(keyword, effective.all(keyword).to_vec());
        Objection { verdict, ..Objection::refuse(Stage::SshdAccess, reason, Text::from("sshd: ") + detail) }
    };
    if effective.one("refuseconnection") == Some("yes") {
        let detail = "RefuseConnection yes turns this connection away".into();
        found.push(list("refuseconnection", detail, Verdict::Refuse));
    }
    for (keyword, name) in [("denyusers", "DenyUsers"), ("allowusers", "AllowUsers")] {
        let patterns = effective.all(keyword);
        let (mut matches, mut not_known) = (None, BTreeSet::new());
        for pattern in patterns {
            match user_pattern(client, pattern) {
                _ if looked_up && goes_by_names(pattern, user) => _ = not_known.insert(pattern.clone()),
                Matching::Unknown(_) => _ = not_known.insert(pattern.clone()),
                Matching::Yes => matches = matches.or(Some(pattern)),
                Matching::No => {}
            }
        }
        let from = client.from();
        let may = not_known.first().cloned();
        let unknown = |detail: Text| {
            let why = Text::from("sshd: ") + detail;
            Objection::unknown(Stage::SshdAccess, Reason::Patterns(keyword, not_known.clone()), why)
        };
        let named = |pattern: &str| {
            Text::from("whether ") + denies(name, pattern) + format!(" names {user} from {from} is not known here")
        };
        match (keyword, matches, may) {
            ("denyusers", Some(pattern), _) => {
                let detail = denies(name, pattern) + format!(" refuses {user} from {from}");
                found.push(list("denyusers", detail, Verdict::Refuse));
            }
            (_, None, Some(pattern)) => found.push(unknown(named(&pattern))),
            ("allowusers", None, None) if !patterns.is_empty() => {
                found.push(list("allowusers", format!("{name} does not name {user} from {from}").into(), Verdict::Refuse));
            }
            _ => {}
        }
    }
    let groups = client.groups.as_deref().unwrap_or_default();
    let in_list = |keyword: &str| {
        effective.all(keyword).iter().find(|one| groups.iter().any(|group| wildcard(one, group))).map(String::as_str)
    };
    if let Some(pattern) = in_list("denygroups") {
        let detail = denies("DenyGroups", pattern) + format!(" refuses {user}, who is in ") + named(groups);
        found.push(list("denygroups", detail, Verdict::Refuse));
    }
    if !effective.all("allowgroups").is_empty() && in_list("allowgroups").is_none() {
        let detail = Text::from(format!("AllowGroups names no group of {user}, who is in ")) + named(groups);
        found.push(list("allowgroups", detail, Verdict::Refuse));
    }
    if client.is_root && effective.one("permitrootlogin") == Some("no") {
        found.push(list("permitrootlogin", format!("PermitRootLogin no refuses {user}").into(), Verdict::Refuse));
    }
    // What sshd printed is for a client without a name.
    if looked_up && criterion(server, "host") {
        for objection in &mut found {
            objection.verdict = Verdict::Unknown;
        }
        let why = "sshd: UseDNS is on and the configuration goes by host names, which are not looked up here";
        found.push(Objection::unknown(Stage::SshdAccess, Reason::HostNames(conditional(server)), why));
    }
    if let Some(why) = untold::of(server, client) {
        for objection in &mut found {
            objection.verdict = Verdict::Unknown;
        }
        found.push(Objection::unknown(Stage::SshdAccess, Reason::NotPrinted(conditional(server)), Text::from("sshd: ") + why));
    }
    if !local && criterion(server, "localaddress") {
        let why = "sshd: the configuration goes by LocalAddress, and which address the client uses is not known";
        found.push(Objection::unknown(Stage::SshdAccess, Reason::LocalAddress(conditional(server)), why));
    }
    found
}

/// Whether a pattern of `AllowUsers` may name this user by a host's name: its host part holds letters, and is neither `*`, nor an address or a
/// range.
fn goes_by_names(pattern: &str, user: &str) -> bool {
    let Some((name, hosts)) = pattern.split_once('@') else { return false };
    wildcard(name, user) && hosts.split(',').any(is_name)
}

/// All that stands under `Match` lines, which decides together: an edit of any of it may be one for a client that is not known enough.
fn conditional(server: &Server) -> Vec<String> {
    let Ok(tree) = &server.tree else { return Vec::new() };
    let mut found = Vec::new();
    let mut all = Vec::new();
    let mut includes = false;
    for (path, document) in &tree.files {
        let mut under = false;
        for (_, line) in document.lines() {
            let keyword = line.directive().ok().flatten().map(|directive| directive.keyword);
            under |= keyword.as_deref() == Some("match");
            includes |= under && keyword.as_deref() == Some("include");
            let text = format!("{path}: {line}");
            found.extend(under.then(|| text.clone()));
            all.push(text);
        }
    }
    // A file that is included under such a line stands under it, too.
    if includes { all } else { found }
}

struct Refusal {
    detail: Text,
    /// What to quote.
    keywords: Vec<&'static str>,
}

/// auth.c, `allowed_user` and `auth_root_allowed`, in their order.
fn refusal(effective: &Effective, client: &Client) -> Result<Option<Refusal>, Text> {
    let user = &client.user;
    let refused = |detail: Text, keywords: &[&'static str]| Ok(Some(Refusal { detail, keywords: keywords.to_vec() }));
    if effective.one("refuseconnection") == Some("yes") {
        return refused("RefuseConnection yes turns this connection away".into(), &["refuseconnection"]);
    }
    if let Some(pattern) = first_match(effective.all("denyusers"), client)? {
        let detail = denies("DenyUsers", pattern) + format!(" refuses {user} from {}", client.from());
        return refused(detail, &["denyusers"]);
    }
    if !effective.all("allowusers").is_empty() && first_match(effective.all("allowusers"), client)?.is_none() {
        return refused(format!("AllowUsers does not name {user} from {}", client.from()).into(), &["allowusers"]);
    }
    let groups = client.groups.as_deref().unwrap_or_default();
    let in_list = |patterns: &[String]| patterns.iter().find(|one| groups.iter().any(|group| wildcard(one, group))).cloned();
    if let Some(pattern) = in_list(effective.all("denygroups")) {
        return refused(denies("DenyGroups", &pattern) + format!(" refuses {user}, who is in ") + named(groups), &["denygroups"]);
    }
    if !effective.all("allowgroups").is_empty() && in_list(effective.all("allowgroups")).is_none() {
        let detail = Text::from(format!("AllowGroups names no group of {user}, who is in ")) + named(groups);
        return refused(detail, &["allowgroups"]);
    }
    if client.is_root && effective.one("permitrootlogin") == Some("no") {
        let also = if user == "root" { "" } else { ", whose uid is 0" };
        return refused(format!("PermitRootLogin no refuses {user}{also}").into(), &["permitrootlogin"]);
    }
    Ok(None)
}

/// The first pattern of `AllowUsers` or `DenyUsers` that matches.
fn first_match<'a>(patterns: &'a [String], client: &Client) -> Result<Option<&'a str>, Text> {
    for pattern in patterns {
        match user_pattern(client, pattern) {
            Matching::Yes => return Ok(Some(pattern)),
            Matching::No => {}
            Matching::Unknown(why) => return Err(said(&why)),
        }
    }
    Ok(None)
}

/// A keyword and one of its patterns.
fn denies(keyword: &str, pattern: &str) -> Text {
    Text::from(format!("{keyword} ")) + of_values(keyword, pattern)
}

/// Groups.
fn named(groups: &[String]) -> Text {
    of_values("AllowGroups", groups.join(", "))
}

fn methods(
    host: &HostState,
    effective: &Effective,
    client: &Client,
    account: &Part<Account>,
    settings: &Settings,
    needs: &mut Needs,
) -> Judgement {
    let user = &client.user;
    let ways = alternatives(effective, client.is_root);
    if ways.is_empty() {
        let keywords = [
            "authenticationmethods",
            "pubkeyauthentication",
            "passwordauthentication",
            "kbdinteractiveauthentication",
            "permitrootlogin",
        ];
        // The line that switches a method off is the cause, where there is one: not the one that asks for the method.
        let off = switched_off(effective, client.is_root);
        let first = |keyword: &&str| off.iter().any(|(_, name)| name == keyword) && settings.contains_key(*keyword);
        let (causes, others): (Vec<&str>, Vec<&str>) = keywords.into_iter().partition(first);
        let evidence = causes.into_iter().chain(others).flat_map(|keyword| origin(effective, settings, keyword)).collect();
        let off: Vec<String> = off.iter().map(|(method, keyword)| format!("{method} (by {})", spelling(keyword))).collect();
        let why = if off.is_empty() {
            String::new()
        } else {
            format!(": AuthenticationMethods asks for what is off: {}", off.join(", "))
        };
        let detail = format!("no authentication method is left for {user}{why}").into();
        return Judgement { verdict: Verdict::Refuse, detail, evidence, blocks: Vec::new() };
    }
    let shown: Vec<String> = ways.iter().map(|way| way.join(" and ")).collect();
    let only = match effective.one("permitrootlogin") {
        Some("forced-commands-only") if client.is_root => ", and only with a key that has a forced command",
        _ => "",
    };
    let on = format!("methods that are on: {}", shown.join(", or "));
    let detail = match account {
        Part::Present(account) => {
            match crate::subsystem::sshd::judge::methods::ways(host, effective, client, account, needs).best() {
                (Verdict::Accept, work) => format!("{user} may log in by {}{only}", work.join(", or ")),
                (Verdict::Unknown, _) => format!("sshd's lists do not refuse {user}; {on}, and whether one works is not known"),
                (Verdict::Refuse, _) => format!("sshd's lists do not refuse {user}; {on}, and none can work for {user}"),
            }
        }
        Part::Absent(_) => format!("sshd's lists do not refuse the name {user}; {on}"),
        Part::Unreadable(_) => format!("sshd's lists do not refuse {user}; {on}"),
    };
    Judgement::accept(&detail)
}

/// Why the answer for this address could be another one.
fn undecided(effective: &Effective, server: &Server) -> Option<String> {
    let names = || {
        let patterns = [effective.all("allowusers"), effective.all("denyusers")].concat();
        let by_name = |pattern: &String| pattern.split_once('@').is_some_and(|(_, host)| host.contains(char::is_alphabetic));
        patterns.iter().any(by_name) || criterion(server, "host")
    };
    if effective.one("usedns") == Some("yes") && names() {
        return Some("UseDNS is on and the configuration goes by host names, which are not looked up here".to_owned());
    }
    criterion(server, "localaddress")
        .then(|| "the configuration goes by LocalAddress, and which address the client uses is not known".to_owned())
}

/// Whether sshd looks up the names of clients and Match lines go by them.
pub fn matches_names(server: &Server) -> bool {
    let looks_up = server.effective.as_ref().is_ok_and(|it| it.one("usedns") == Some("yes"));
    looks_up && criterion(server, "host")
}

/// Whether any Match line has this criterion.
fn criterion(server: &Server, name: &str) -> bool {
    let Ok(tree) = &server.tree else { return false };
    let matches = tree
        .files
        .values()
        .flat_map(crate::subsystem::sshd::config::Document::lines)
        .filter_map(|(_, line)| line.directive().ok().flatten());
    let has = |word: &String| word.split('=').next().is_some_and(|word| word.eq_ignore_ascii_case(name));
    matches.filter(|directive| directive.keyword == "match").any(|directive| directive.arguments.iter().any(has))
}

fn with_finding(mut judgement: Judgement, host: &HostState, client: &Client) -> Judgement {
    if judgement.verdict == Verdict::Refuse {
        let place = judgement.evidence.first().map_or("sshd_config", |evidence| evidence.source.as_str());
        let fix = format!(
            "edit {place} so that it lets {} in from {}, then `sshd -t && systemctl reload {}`; keep this session open until a new \
             login works",
            client.user,
            client.address,
            unit(host)
        );
        judgement.blocks.extend(found(Cause::SshdAccessList, true, Owner::Sshd, judgement.evidence.clone(), fix).blocks);
    }
    judgement
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::subsystem::sshd::Invocation;
    use crate::subsystem::sshd::judge::objection::first_new;

    fn server(text: &str) -> Server {
        Server::with_files(Invocation::plain("/usr/sbin/sshd"), &[("/etc/ssh/sshd_config", text)])
    }

    /// Of alice, from 203.0.113.7, with what `sshd -T` prints of these files.
    fn of_alice(files: &str, effective: &str) -> Vec<Objection> {
        let client = Client {
            user: "alice".to_owned(),
            groups: Some(vec!["alice".to_owned()]),
            host: "203.0.113.7".to_owned(),
            address: "203.0.113.7".parse().unwrap(),
            local_address: None,
            local_port: 22,
            is_root: false,
            interface: None,
        };
        let effective = Effective::parse(&format!("usedns yes\n{effective}"));
        objections(&server(files), &effective, &client, true)
    }

    #[test]
    fn whoever_has_uid_0_is_root_whatever_the_name() {
        let of = |is_root: bool, effective: &str| {
            let client = Client {
                user: "toor".to_owned(),
                groups: Some(vec!["root".to_owned()]),
                host: "203.0.113.7".to_owned(),
                address: "203.0.113.7".parse().unwrap(),
                local_address: None,
                local_port: 22,
                is_root,
                interface: None,
            };
            let effective = Effective::parse(effective);
            (refusal(&effective, &client).unwrap().is_some(), alternatives(&effective, client.is_root).len())
        };
        let on = "pubkeyauthentication yes\npasswordauthentication yes\nauthenticationmethods any\n";
        assert_eq!(of(false, &format!("permitrootlogin no\n{on}")), (false, 2));
        assert_eq!(of(true, &format!("permitrootlogin no\n{on}")), (true, 2));
        assert_eq!(of(true, &format!("permitrootlogin prohibit-password\n{on}")), (false, 1));
    }

    #[test]
    fn a_list_by_names_that_takes_more_in_is_no_news_and_one_that_takes_less_is() {
        let printed = |keyword: &str, patterns: &[&str]| {
            let lines: Vec<String> = patterns.iter().map(|pattern| format!("{keyword} {pattern}\n")).collect();
            of_alice("", &lines.concat())
        };
        let of = |patterns: &str| printed("allowusers", &patterns.split(' ').collect::<Vec<_>>());
        let by_name = of("*@*.example.net");
        assert_eq!(by_name.iter().map(|one| one.verdict).collect::<Vec<_>>(), [Verdict::Unknown]);
        assert_eq!(first_new(&by_name, &of("*@*.example.net bob")), None);
        assert_eq!(first_new(&by_name, &of("*@*.example.net *@*.example.org")), None);
        assert_eq!(of("*@*.example.net alice"), [], "named besides");
        assert_eq!(of("alice bob@*.example.net"), [], "of somebody else");
        assert!(first_new(&by_name, &of("*@*.example.org")).is_some());
        assert_eq!(first_new(&by_name, &of("bob")).unwrap().verdict, Verdict::Refuse);
        let denied = |patterns: &[&str]| printed("denyusers", patterns);
        let few = denied(&["*@*.example.net"]);
        assert_eq!(first_new(&few, &denied(&["*@*.example.net", "bob@*.example.org"])), None);
        assert!(first_new(&few, &denied(&["*@*.example.net", "*@*.example.org"])).is_some());
        assert_eq!(first_new(&few, &denied(&[])), None);
    }

    #[test]
    fn an_edit_beside_a_match_line_that_sshd_cannot_be_asked_about_is_news() {
        let block = "Match RDomain *\n  PermitRootLogin no\n";
        let found = of_alice(block, "denyusers alice\n");
        assert!(found.iter().all(|one| one.verdict == Verdict::Unknown), "{found:?}");
        assert!(found.iter().any(|one| one.why.as_str().contains("RDomain *: PermitRootLogin no")), "{found:?}");
        assert!(first_new(&of_alice("", ""), &found).is_some());
        assert!(first_new(&found, &of_alice(&format!("{block}  DenyUsers alice\n"), "denyusers alice\n")).is_some());
    }

    #[test]
    fn an_edit_under_a_match_line_by_names_is_news_and_one_of_the_global_section_is_not() {
        let block = "Match Host *.example.net\n  PermitTTY no\n";
        let of = |files: &str| of_alice(files, "");
        let was = of(&format!("X11Forwarding no\n{block}"));
        assert_eq!(first_new(&was, &of(&format!("X11Forwarding yes\n{block}"))), None);
        for under in ["  DenyUsers alice\n", "Match User bob\n  PermitTTY yes\n", "  Include /etc/ssh/x\n"] {
            assert!(first_new(&was, &of(&format!("X11Forwarding no\n{block}{under}"))).is_some(), "{under}");
        }
    }
}
