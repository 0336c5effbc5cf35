//! The traces of the stages that sshd decides: the Match lines it comes to and whether they match, then the lines that decide in the
//! order in which sshd asks them, then the account. Long runs of Match lines that do not match are counted, not listed.

use std::collections::BTreeSet;

use crate::host::{self, HostState, Needs, Part};
use crate::ssh::pattern::wildcard;
use crate::subsystem::sshd::config::{Block, Client, Line, Matching, Settings, blocks, match_line, user_pattern};
use crate::subsystem::sshd::facts::state::{Account, Need, Server};
use crate::subsystem::sshd::judge::login::{known_login, settings};
use crate::subsystem::sshd::judge::methods_on::alternatives;
use crate::subsystem::sshd::judge::origin::quote;
use crate::subsystem::sshd::quoting::{self, line, of_values, said};
use crate::subsystem::sshd::{Effective, Reading};
use crate::text::quoted::Text;
use crate::verdict::trace::TraceLine;
use crate::verdict::{Connection, Stage};

/// Match lines that do not match and are listed.
const MOST_MISSES: usize = 20;

/// Everything that the connection meets in one of the stages.
pub fn trace(host: &HostState, stage: Stage, connection: &Connection, needs: &mut Needs) -> Vec<TraceLine> {
    let Some(Part::Present(server)) = host.sshd.servers.get(&connection.port) else { return Vec::new() };
    if stage == Stage::SshdAdmission {
        return admission(server);
    }
    let Some((effective, client, account)) = known_login(host, connection) else { return Vec::new() };
    match stage {
        Stage::SshdAccess => {
            let settings = settings(server, Some(&client));
            let mut lines = match_lines(server, &client);
            lines.extend(access(effective, &settings, &client));
            lines
        }
        Stage::Account => of_account(host, effective, &client, account, needs),
        Stage::Route | Stage::Netfilter | Stage::Listener | Stage::HostsAccess | Stage::SshdAdmission => Vec::new(),
    }
}

/// What counts before anybody can log in; none of it can stand in a Match block.
fn admission(server: &Server) -> Vec<TraceLine> {
    let test = match &server.test {
        Ok(()) => TraceLine::new("sshd -t", server.invocation.file(), "sshd takes its files"),
        Err(complaint) => {
            TraceLine::new("sshd -t", said(complaint.lines().next().unwrap_or_default()), "sshd does not take its files")
        }
    };
    let mut lines = vec![test];
    let Ok(effective) = &server.effective else { return lines };
    let settings = settings(server, None);
    for keyword in ["maxstartups", "persourcemaxstartups", "persourcepenalties", "persourcepenaltyexemptlist", "logingracetime"] {
        let effect = match (keyword, server.startups) {
            ("maxstartups", Some(startups)) => {
                let crate::subsystem::sshd::Startups { now, begin, full } = startups;
                format!("{now} connections without login now; drops some from {begin} on and all from {full} on").into()
            }
            _ => Text::from("goes on"),
        };
        lines.extend(of_keyword(effective, &settings, keyword, |_| (effect.clone(), false)));
    }
    lines
}

/// Each line that sets a keyword; the value sshd prints where none does and it has one.
fn of_keyword(
    effective: &Effective,
    settings: &Settings,
    keyword: &str,
    effect: impl Fn(&[String]) -> (Text, bool),
) -> Vec<TraceLine> {
    let values = effective.all(keyword);
    if values.is_empty() {
        return Vec::new();
    }
    let Some(lines) = settings.get(keyword) else {
        let (effect, decides) = effect(values);
        let text = quoting::of_keyword(keyword) + " " + of_values(keyword, values.join(" "));
        let line = TraceLine::new("sshd -T (the default)", text, effect);
        return vec![TraceLine { decides, ..line }];
    };
    let of = |setting: &crate::subsystem::sshd::config::Setting| {
        let (effect, decides) = effect(&setting.arguments);
        let mut source = Text::from(quote(setting).source);
        for (at, outer) in &setting.under {
            source.push(Text::from(", inside ") + line(outer) + format!(" at {at}"));
        }
        let traced = TraceLine::new(source, line(&setting.text), effect);
        TraceLine { depth: usize::from(!setting.under.is_empty()), decides, ..traced }
    };
    lines.iter().map(of).collect()
}

/// Every Match line, in the order in which sshd comes to it.
fn match_lines(server: &Server, client: &Client) -> Vec<TraceLine> {
    let Ok(tree) = &server.tree else { return Vec::new() };
    let all = blocks(tree).unwrap_or_default();
    let mut found: Vec<TraceLine> = Vec::new();
    let mut holds: Vec<Matching> = Vec::new();
    let mut misses = 0;
    for block in &all {
        let matching = of_block(block, client, &holds);
        let depth = usize::from(block.outer.is_some());
        let effect = match &matching {
            Matching::Yes => "matches: its lines count before those of the global section".into(),
            Matching::No => "does not match".into(),
            Matching::Unknown(why) => Text::from("unknown: ") + said(why),
        };
        misses += usize::from(matching == Matching::No);
        if matching != Matching::No || misses <= MOST_MISSES {
            found.push(TraceLine { depth, ..TraceLine::new(block.at.to_string(), line(&block.text), effect) });
        }
        holds.push(matching);
    }
    if let Some(more) = misses.checked_sub(MOST_MISSES).filter(|more| *more > 0) {
        let text = format!("{more} more Match lines");
        found.push(TraceLine::new(tree.main.clone(), text, "do not match"));
    }
    found
}

/// In a file that a block includes, a Match line counts only where that block matches.
fn of_block(block: &Block, client: &Client, before: &[Matching]) -> Matching {
    match block.outer.and_then(|outer| before.get(outer)) {
        Some(Matching::No) => Matching::No,
        Some(Matching::Unknown(why)) => Matching::Unknown(why.clone()),
        Some(Matching::Yes) | None => match Line::new(block.text.as_str()).directive() {
            Ok(Some(directive)) => match_line(&directive, Some(client)),
            Ok(None) | Err(_) => Matching::Unknown("the line cannot be read".to_owned()),
        },
    }
}

/// auth.c, `allowed_user`, in its order; then root's own keyword and the methods.
fn access(effective: &Effective, settings: &Settings, client: &Client) -> Vec<TraceLine> {
    let user = &client.user;
    let by_user = |patterns: &[String]| -> Result<Option<Text>, Text> {
        for pattern in patterns {
            match user_pattern(client, pattern) {
                Matching::Yes => return Ok(Some(of_values("AllowUsers", pattern.as_str()))),
                Matching::No => {}
                Matching::Unknown(why) => return Err(said(&why)),
            }
        }
        Ok(None)
    };
    let groups = client.groups.clone().unwrap_or_default();
    let by_group = |patterns: &[String]| -> Result<Option<Text>, Text> {
        let found = patterns.iter().find(|pattern| groups.iter().any(|group| wildcard(pattern, group)));
        Ok(found.map(|pattern| of_values("AllowGroups", pattern.as_str())))
    };
    let whole = |keyword: &str| effective.all(keyword);
    let matches = |pattern: Text| Text::from("`") + pattern + "` matches: ";
    let deny = |found: Result<Option<Text>, Text>| match found {
        Ok(Some(pattern)) => (matches(pattern) + format!("refuses {user}"), true),
        Ok(None) => ("no match".into(), false),
        Err(why) => (Text::from("unknown: ") + why, false),
    };
    // Where no line of the list names the user, all of them together refuse.
    let allow = |found: Result<Option<Text>, Text>, any: bool| match found {
        Ok(Some(pattern)) => (matches(pattern) + format!("lets {user} go on"), false),
        Ok(None) if any => ("no match".into(), false),
        Ok(None) => (format!("no match: refuses {user}").into(), true),
        Err(why) => (Text::from("unknown: ") + why, false),
    };
    let mut lines = Vec::new();
    let mut list = |keyword: &str, effect: &dyn Fn(&[String]) -> (Text, bool)| {
        lines.extend(of_keyword(effective, settings, keyword, effect));
    };
    if settings.contains_key("refuseconnection") {
        list("refuseconnection", &|values| {
            if values.first().is_some_and(|value| value == "yes") { ("refuses".into(), true) } else { ("goes on".into(), false) }
        });
    }
    list("denyusers", &|values| deny(by_user(values)));
    let any = matches!(by_user(whole("allowusers")), Ok(Some(_)));
    list("allowusers", &|values| allow(by_user(values), any));
    list("denygroups", &|values| deny(by_group(values)));
    let any = matches!(by_group(whole("allowgroups")), Ok(Some(_)));
    list("allowgroups", &|values| allow(by_group(values), any));
    if client.is_root {
        list("permitrootlogin", &|values| match values.first().map(String::as_str) {
            Some("no") => ("refuses root".into(), true),
            Some("yes") => ("lets root go on".into(), false),
            Some("forced-commands-only") => ("lets root go on with a key that has a forced command".into(), false),
            _ => ("lets root go on without a password".into(), false),
        });
    }
    let none_left = alternatives(effective, client.is_root).is_empty();
    for keyword in ["pubkeyauthentication", "passwordauthentication", "kbdinteractiveauthentication"] {
        list(keyword, &|values| {
            let off = values.first().is_some_and(|value| value == "no");
            ((if off { "that method is off" } else { "that method is on" }).into(), off && none_left)
        });
    }
    list("authenticationmethods", &|_| {
        let effect = if none_left { "none of them is left" } else { "at least one of them is left" };
        (effect.into(), none_left)
    });
    lines
}

/// The account itself, as the stage asks it.
fn of_account(
    host: &HostState,
    effective: &Effective,
    client: &Client,
    account: &Part<Account>,
    needs: &mut Needs,
) -> Vec<TraceLine> {
    let user = &client.user;
    let Part::Present(account) = account else {
        return vec![TraceLine { decides: true, ..TraceLine::new("getent passwd", user.clone(), "no such user") }];
    };
    let line = |source: &str, text: String, problem: Option<String>, good: &str| TraceLine {
        decides: problem.is_some(),
        ..TraceLine::new(source, text, problem.unwrap_or_else(|| good.to_owned()))
    };
    let passwd = format!("{user}:...:{}:...:{}:{}", account.uid, account.home, account.shell);
    let unknown = |why: &str| format!("unknown: {why}");
    let mut lines = vec![match &account.shell_problem {
        Ok(problem) => line("getent passwd", passwd, problem.clone(), "the shell can be run"),
        Err(why) => line("getent passwd", passwd, None, &unknown(why)),
    }];
    match &account.nologin {
        Ok(Some((file, text))) if account.uid == 0 => lines.push(line(file, text.clone(), None, "root may log in")),
        Ok(Some((file, text))) => lines.push(line(file, text.clone(), Some("refuses all users but root".to_owned()), "")),
        Ok(None) => lines.push(line("nologin(5)", "no such file".to_owned(), None, "goes on")),
        Err(why) => lines.push(line("nologin(5)", String::new(), None, &unknown(why))),
    }
    lines.push(match &account.expired {
        Ok(day) => line("/etc/shadow", format!("{user}:..."), day.as_ref().map(|day| format!("expired on {day}")), "not expired"),
        Err(why) => line("/etc/shadow", format!("{user}:..."), None, &unknown(why)),
    });
    let strict = crate::subsystem::sshd::judge::key_places::is_strict(effective);
    for path in crate::subsystem::sshd::judge::key_places::key_paths(effective, user, account) {
        let Some(file) = host.sshd.key_files.get(&(user.clone(), path.clone())) else {
            needs.insert(host::Need::Sshd(Need::KeyFile { user: user.clone(), path: path.clone() }));
            lines.push(TraceLine::new(path, "AuthorizedKeysFile", "not read yet"));
            continue;
        };
        for (path, file) in file.each(&path) {
            let effect = match file.read(strict) {
                Reading::Keys(keys) => {
                    let types: BTreeSet<&str> = keys.iter().map(|key| key.kind.as_str()).collect();
                    format!("sshd reads it: {}", types.into_iter().collect::<Vec<_>>().join(", "))
                }
                Reading::Missing => "not there".to_owned(),
                Reading::PassedOver(why) => format!("sshd passes over it: {why}"),
                Reading::Unknown(why) => unknown(why),
            };
            lines.push(TraceLine::new(path, "AuthorizedKeysFile", effect));
        }
    }
    lines
}
