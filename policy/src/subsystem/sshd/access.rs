//! Whether sshd's lists let a user in from an address, and by which methods (auth.c `allowed_user`, `auth_root_allowed`; auth2.c).
//! Every value is the one `sshd -T -C` gave for this very login; files and lines are only named.

use super::Effective;
use super::config::{Client, Matching, Place, Setting, Settings, evaluate, user_pattern};
use super::judge::{Judgement, found, unit};
use super::objection::{Objection, Reason};
use super::remedy::Remedy;
use super::state::{Account, Server};
use crate::host::{HostState, Needs, Part};
use crate::owner::Owner;
use crate::pattern::wildcard;
use crate::verdict::{Cause, Evidence, Stage, Verdict};

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
    let judgement = match undecided(effective, server) {
        Some(why) => Judgement { verdict: Verdict::Unknown, detail: format!("{why}; else: {}", judgement.detail), ..judgement },
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
        let closed = alternatives(effective, user).is_empty()
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
pub fn objections(server: &Server, effective: &Effective, client: &Client, is_root: bool, local: bool) -> Vec<Objection> {
    let user = &client.user;
    let mut found = Vec::new();
    let mut by_name: Vec<String> = Vec::new();
    let looked_up = effective.one("usedns") == Some("yes");
    let list = |keyword: &'static str, detail: String, verdict: Verdict| Objection {
        verdict,
        ..Objection::refuse(Stage::SshdAccess, Reason::List(keyword, effective.all(keyword).to_vec()), format!("sshd: {detail}"))
    };
    if effective.one("refuseconnection") == Some("yes") {
        let detail = "RefuseConnection yes turns this connection away".to_owned();
        found.push(list("refuseconnection", detail, Verdict::Refuse));
    }
    for keyword in ["denyusers", "allowusers"] {
        let patterns = effective.all(keyword);
        let (mut matches, mut not_known) = (None, None);
        for pattern in patterns {
            let named = looked_up && goes_by_names(pattern);
            match user_pattern(client, pattern) {
                Matching::Yes if !named => matches = matches.or(Some(pattern)),
                Matching::No if !named => {}
                Matching::Yes | Matching::No | Matching::Unknown(_) => {
                    by_name.extend(named.then(|| pattern.clone()));
                    not_known = Some(pattern);
                }
            }
        }
        let (name, from) = (if keyword == "denyusers" { "DenyUsers" } else { "AllowUsers" }, client.address);
        let verdict = if not_known.is_some() { Verdict::Unknown } else { Verdict::Refuse };
        match (keyword, matches, not_known) {
            ("denyusers", Some(pattern), _) => {
                found.push(list("denyusers", format!("{name} {pattern} refuses {user} from {from}"), Verdict::Refuse));
            }
            ("denyusers", None, Some(pattern)) => {
                found.push(list("denyusers", format!("{name} {pattern} may refuse {user} from {from}"), verdict));
            }
            ("allowusers", None, _) if !patterns.is_empty() => {
                found.push(list("allowusers", format!("{name} does not name {user} from {from}"), verdict));
            }
            _ => {}
        }
    }
    let groups = client.groups.as_deref().unwrap_or_default();
    let in_list = |keyword: &str| {
        effective.all(keyword).iter().find(|one| groups.iter().any(|group| wildcard(one, group))).map(String::as_str)
    };
    if let Some(pattern) = in_list("denygroups") {
        let detail = format!("DenyGroups {pattern} refuses {user}, who is in {}", groups.join(", "));
        found.push(list("denygroups", detail, Verdict::Refuse));
    }
    if !effective.all("allowgroups").is_empty() && in_list("allowgroups").is_none() {
        let detail = format!("AllowGroups names no group of {user}, who is in {}", groups.join(", "));
        found.push(list("allowgroups", detail, Verdict::Refuse));
    }
    if is_root && effective.one("permitrootlogin") == Some("no") {
        found.push(list("permitrootlogin", format!("PermitRootLogin no refuses {user}"), Verdict::Refuse));
    }
    // What sshd printed is for a client without a name.
    if looked_up && criterion(server, "host") {
        by_name.push("Match Host".to_owned());
        for objection in &mut found {
            objection.verdict = Verdict::Unknown;
        }
    }
    if !by_name.is_empty() {
        let why = "sshd: UseDNS is on and the configuration goes by host names, which are not looked up here";
        found.push(Objection::unknown(Stage::SshdAccess, Reason::HostNames(by_name), why));
    }
    if !local && criterion(server, "localaddress") {
        let why = "sshd: the configuration goes by LocalAddress, and which address the client uses is not known";
        found.push(Objection::unknown(Stage::SshdAccess, Reason::LocalAddress, why));
    }
    found
}

/// Whether the host part of a pattern of `AllowUsers` holds letters of a name: neither `*`, nor an address or a range.
fn goes_by_names(pattern: &str) -> bool {
    let is_name = |item: &str| !item.contains(':') && item.contains(char::is_alphabetic);
    pattern.split_once('@').is_some_and(|(_, hosts)| hosts.split(',').any(is_name))
}

struct Refusal {
    detail: String,
    /// What to quote.
    keywords: Vec<&'static str>,
}

/// auth.c, `allowed_user` and `auth_root_allowed`, in their order.
fn refusal(effective: &Effective, client: &Client) -> Result<Option<Refusal>, String> {
    let user = &client.user;
    let refused = |detail: String, keywords: &[&'static str]| Ok(Some(Refusal { detail, keywords: keywords.to_vec() }));
    if effective.one("refuseconnection") == Some("yes") {
        return refused("RefuseConnection yes turns this connection away".to_owned(), &["refuseconnection"]);
    }
    if let Some(pattern) = first_match(effective.all("denyusers"), client)? {
        return refused(format!("DenyUsers {pattern} refuses {user} from {}", client.address), &["denyusers"]);
    }
    if !effective.all("allowusers").is_empty() && first_match(effective.all("allowusers"), client)?.is_none() {
        return refused(format!("AllowUsers does not name {user} from {}", client.address), &["allowusers"]);
    }
    let groups = client.groups.as_deref().unwrap_or_default();
    let in_list = |patterns: &[String]| patterns.iter().find(|one| groups.iter().any(|group| wildcard(one, group))).cloned();
    if let Some(pattern) = in_list(effective.all("denygroups")) {
        return refused(format!("DenyGroups {pattern} refuses {user}, who is in {}", groups.join(", ")), &["denygroups"]);
    }
    if !effective.all("allowgroups").is_empty() && in_list(effective.all("allowgroups")).is_none() {
        return refused(format!("AllowGroups names no group of {user}, who is in {}", groups.join(", ")), &["allowgroups"]);
    }
    if user == "root" && effective.one("permitrootlogin") == Some("no") {
        return refused("PermitRootLogin no refuses root".to_owned(), &["permitrootlogin"]);
    }
    Ok(None)
}

/// The first pattern of `AllowUsers` or `DenyUsers` that matches.
fn first_match<'a>(patterns: &'a [String], client: &Client) -> Result<Option<&'a str>, String> {
    for pattern in patterns {
        match user_pattern(client, pattern) {
            Matching::Yes => return Ok(Some(pattern)),
            Matching::No => {}
            Matching::Unknown(why) => return Err(why),
        }
    }
    Ok(None)
}

/// The methods that are switched on, by the names `AuthenticationMethods` has for them (auth2.c, `authmethods`).
pub fn enabled(effective: &Effective, user: &str) -> Vec<&'static str> {
    let on = |keyword: &str| effective.one(keyword).is_some_and(|value| value != "no");
    let mut methods: Vec<&'static str> = [
        ("publickey", "pubkeyauthentication"),
        ("password", "passwordauthentication"),
        ("keyboard-interactive", "kbdinteractiveauthentication"),
        ("gssapi-with-mic", "gssapiauthentication"),
        ("hostbased", "hostbasedauthentication"),
    ]
    .into_iter()
    .filter(|(_, keyword)| on(keyword))
    .map(|(method, _)| method)
    .collect();
    if user == "root" {
        match effective.one("permitrootlogin") {
            Some("without-password" | "prohibit-password") => {
                methods.retain(|method| !matches!(*method, "password" | "keyboard-interactive"));
            }
            Some("forced-commands-only") => methods.retain(|method| *method == "publickey"),
            _ => {}
        }
    }
    methods
}

/// What a user can log in with: alternatives, each a list of methods that must all succeed.
pub fn alternatives(effective: &Effective, user: &str) -> Vec<Vec<String>> {
    let enabled = enabled(effective, user);
    let lists = effective.one("authenticationmethods").unwrap_or("any");
    if lists == "any" {
        return enabled.iter().map(|method| vec![(*method).to_owned()]).collect();
    }
    let whole = |list: &&str| {
        let known = |method: &str| enabled.contains(&method.split(':').next().unwrap_or(method));
        list.split(',').all(known)
    };
    lists.split_ascii_whitespace().filter(whole).map(|list| list.split(',').map(str::to_owned).collect()).collect()
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
    let ways = alternatives(effective, user);
    if ways.is_empty() {
        let keywords = [
            "authenticationmethods",
            "pubkeyauthentication",
            "passwordauthentication",
            "kbdinteractiveauthentication",
            "permitrootlogin",
        ];
        let evidence = keywords.iter().flat_map(|keyword| origin(effective, settings, keyword)).collect();
        let detail = format!("no authentication method is left for {user}");
        return Judgement { verdict: Verdict::Refuse, detail, evidence, blocks: Vec::new() };
    }
    let shown: Vec<String> = ways.iter().map(|way| way.join(" and ")).collect();
    let only = match effective.one("permitrootlogin") {
        Some("forced-commands-only") if user == "root" => ", and only with a key that has a forced command",
        _ => "",
    };
    let on = format!("methods that are on: {}", shown.join(", or "));
    let detail = match account {
        Part::Present(account) => match super::methods::ways(host, effective, client, account, needs).best() {
            (Verdict::Accept, work) => format!("{user} may log in by {}{only}", work.join(", or ")),
            (Verdict::Unknown, _) => format!("sshd's lists do not refuse {user}; {on}, and whether one works is not known"),
            (Verdict::Refuse, _) => format!("sshd's lists do not refuse {user}; {on}, and none can work for {user}"),
        },
        Part::Absent(_) => format!("sshd's lists do not refuse the name {user}; {on}"),
        Part::Unreadable(_) => format!("sshd's lists do not refuse {user}; {on}"),
    };
    Judgement::accept(&detail)
}

/// The lines that set a keyword for this login, or what `sshd -T` prints of it where no line does.
fn origin(effective: &Effective, settings: &Settings, keyword: &str) -> Vec<Evidence> {
    match settings.get(keyword) {
        Some(lines) => lines.iter().map(quote).collect(),
        None => effective
            .all(keyword)
            .iter()
            .map(|value| Evidence::new("sshd -T (the default, or not found in a file)", format!("{keyword} {value}")))
            .collect(),
    }
}

/// `/etc/ssh/sshd_config.d/50-x.conf line 3`, inside its Match lines.
pub fn quote(setting: &Setting) -> Evidence {
    let under = setting.under.iter().map(|(at, text)| format!("{text}   # {at}\n")).collect::<Vec<_>>().concat();
    let indent = if under.is_empty() { "" } else { "    " };
    Evidence::new(setting.at.to_string(), format!("{under}{indent}{}", setting.text))
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

/// Whether any Match line has this criterion.
fn criterion(server: &Server, name: &str) -> bool {
    let Ok(tree) = &server.tree else { return false };
    let matches =
        tree.files.values().flat_map(super::config::Document::lines).filter_map(|(_, line)| line.directive().ok().flatten());
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
