//! What sshd does with a connection before anybody can log in: whether it can serve one at all, `MaxStartups`,
//! `PerSourceMaxStartups`, and the penalties it remembers. Knows no user.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::host::HostState;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::{Setting, Tree, evaluate};
use crate::subsystem::sshd::facts::journal::{Dropped, Said, Told};
use crate::subsystem::sshd::facts::state::{Folder, HostKey, KeyProblem, Manager, Server};
use crate::subsystem::sshd::judge::broken::{self, Broken};
use crate::subsystem::sshd::judge::judgement::{self, Judgement, Mend, Remedy, found};
use crate::subsystem::sshd::judge::origin::quote;
use crate::subsystem::sshd::judge::penalty::{self, Terms, block};
use crate::subsystem::sshd::judge::sockets;
use crate::subsystem::sshd::quoting::said;
use crate::text::quoted::{Quote, Text};
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Connection, Evidence, Verdict};

/// From here on (OpenSSH 9.8) keys and configuration are handed to `sshd-session`, so that files matter only at the next start, and
/// sources can earn penalties.
const SPLIT: (u16, u16) = (9, 8);

/// Levels at which sshd logs whom it turns away.
const SAY_IT: [&str; 6] = ["INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"];

/// The whole stage.
pub fn judge(host: &HostState, server: &Server, connection: &Connection, told: &[Told]) -> Judgement {
    let mut judgement = health(host, server);
    if server.test.is_ok() {
        judgement.add(host_keys(host, server));
    }
    if !server.running {
        judgement.add(no_address(host, server));
        return judgement;
    }
    // What sshd takes and did not say when it was asked is no default. Where it does not take its files, the running one has read others.
    if let (Ok(()), Err(why)) = (&server.test, &server.effective) {
        judgement.add(Judgement::unknown(Text::from("what limits and penalties sshd has is not known: ") + said(why)));
    }
    let startups = max_startups(server);
    let full = !startups.blocks.is_empty();
    let turned_away = turned_away(server, connection, told);
    for part in [startups, per_source(server, connection), penalties(host, server, connection, told), turned_away] {
        judgement.add(part);
    }
    if !full {
        judgement.add(was_full(server, connection, told));
    }
    judgement
}

/// It is down, and a start would be in vain.
fn no_address(host: &HostState, server: &Server) -> Judgement {
    let takes = server.test.as_ref().err().is_none_or(|complaint| only_misses_its_directory(complaint, server));
    let found = sockets::has_no_address(host, server, server.effective.as_ref().ok()).filter(|_| takes);
    let Some((why, line)) = found else { return Judgement::accept("") };
    let unit = crate::subsystem::sshd::judge::login::unit(host);
    let line = line.map(|line| Evidence::quote(line.at.to_string(), Quote::SshdLines, line.text));
    let fix = format!("{}; then `systemctl reset-failed {unit}; systemctl start {unit}`", sockets::ADVICE);
    let judgement = judgement::found(Cause::SshdListen, true, Owner::Named(unit), line.into_iter().collect(), fix);
    Judgement { verdict: Verdict::Refuse, detail: why.into(), ..judgement }
}

/// Single host keys that sshd passes over. It says so of few of them, and serves with the others; a client that knows only the one that is
/// gone, or wants only its kind, does not get in.
fn host_keys(host: &HostState, server: &Server) -> Judgement {
    let bad: Vec<_> = server.host_key_files.iter().filter_map(|key| Some((key, key.problem.as_ref()?))).collect();
    // sshd_config(5), `HostKey`: the three default files need not all be there.
    let named = setting(server, "hostkey").is_some();
    let bad: Vec<_> = bad.into_iter().filter(|(_, problem)| named || **problem != KeyProblem::Missing).collect();
    if bad.is_empty() {
        return Judgement::accept("");
    }
    let evidence: Vec<Evidence> = bad.iter().map(|(key, problem)| Evidence::new(key.path.clone(), problem.to_string())).collect();
    let fixes: Vec<String> = bad.iter().map(|(key, problem)| mend(key, problem)).collect();
    let unit = crate::subsystem::sshd::judge::login::unit(host);
    let fix = format!("{}; then `sshd -t && systemctl restart {unit}`", fixes.join("; "));
    let mut judgement = found(Cause::SshdHostkeys, false, Owner::Named(unit), evidence, fix);
    let unread = bad.iter().filter(|(_, problem)| matches!(problem, KeyProblem::Unread(_))).count();
    let detail = match unread {
        0 => format!("sshd serves with its other host keys, and passes over {}", bad.len()),
        _ => format!("sshd passes over {} of its host keys, and whether over {unread} others is not known", bad.len() - unread),
    };
    judgement.detail = detail.into();
    let mends: Vec<Remedy> = bad.iter().filter_map(|(key, _)| mendable(key)).collect();
    // A running sshd has read its keys when it started.
    let reload = (server.running && !mends.is_empty()).then_some(Remedy::Reload);
    judgement.with(mends.into_iter().chain(reload))
}

/// How a host key is mended. A key that may still be good is never overwritten.
fn mend(key: &HostKey, problem: &KeyProblem) -> String {
    let path = &key.path;
    if key.is_dsa() && matches!(problem, KeyProblem::Missing | KeyProblem::Corrupt(_)) {
        return format!("take `HostKey {path}` out: it is a DSA key, which OpenSSH takes no more");
    }
    let make =
        key.kind().map_or_else(|| "`ssh-keygen -A`".to_owned(), |kind| format!("`ssh-keygen -q -t {kind} -N '' -f {path}`"));
    match problem {
        KeyProblem::Missing => format!("{make} makes {path}"),
        KeyProblem::Open(_) => format!("`chmod 600 {path}`"),
        KeyProblem::Unread(_) => format!("see what `ssh-keygen -y -f {path}` says"),
        KeyProblem::Corrupt(_) => {
            format!("put {path} back from a backup, else `mv {path} {path}.broken` and {make}: clients that knew it will warn")
        }
    }
}

/// `MaxStartups` was reached lately and is not now.
fn was_full(server: &Server, connection: &Connection, told: &[Told]) -> Judgement {
    let mine = |told: &&Told| {
        told.what == Said::Dropped(Dropped::MaxStartups) && told.from.is_some_and(|from| connection.source.single() == Some(from))
    };
    let drops: Vec<&Told> = told.iter().filter(mine).collect();
    let Some(last) = drops.last() else { return Judgement::accept("") };
    let mut evidence = vec![last.evidence()];
    evidence.extend(setting(server, "maxstartups"));
    let fix = "try again; where it comes often, `sshfix ctl sshd set MaxStartups 100:30:200`".to_owned();
    found(Cause::SshdMaxstartups, false, Owner::Sshd, evidence, fix)
}

/// Whether it can serve a connection now, and start again later.
fn health(host: &HostState, server: &Server) -> Judgement {
    let unit = crate::subsystem::sshd::judge::login::unit(host);
    let split = server.version.map(|version| version >= SPLIT);
    let Err(complaint) = &server.test else { return Judgement::accept("sshd takes new connections") };
    let cause = cause_of(complaint, &server.privsep);
    // systemd makes the directory at each start and takes it away with the service (RuntimeDirectory); sshd looks for it last.
    if (!server.running || waits_for_a_connection(server)) && cause == Cause::SshdPrivsepDir && server.privsep == Folder::Missing
    {
        return Judgement::accept("sshd could start");
    }
    // Measured: without the directory no release serves anybody; older ones read the keys again for each connection.
    let blocks = match (cause, &server.privsep) {
        _ if !server.running => Some(true),
        (Cause::SshdPrivsepDir, Folder::Missing) => Some(true),
        (Cause::SshdPrivsepDir | Cause::SshdHostkeys, _) => split.map(|split| !split),
        _ => Some(false),
    };
    let (evidence, fix) = match cause {
        Cause::SshdPrivsepDir => (
            vec![test_said(complaint)],
            format!("`install -d -m 0755 -o root -g root /run/sshd`; RuntimeDirectory=sshd in {unit} makes it at each start")
                .into(),
        ),
        Cause::SshdHostkeys if server.host_key_files.iter().any(HostKey::is_dsa) => of_a_kind_gone(server, complaint, &unit),
        Cause::SshdHostkeys => (
            vec![test_said(complaint)],
            format!(
                "`ssh-keygen -A` makes the keys that are missing; `chmod 600 /etc/ssh/ssh_host_*_key` where the mode is wrong; \
                 then `mkdir -p /run/sshd && sshd -t && systemctl restart {unit}`"
            )
            .into(),
        ),
        _ => bad_line(server, complaint, &unit),
    };
    let state = match blocks {
        Some(true) if !server.running => "sshd cannot start",
        Some(true) => "sshd closes every new connection",
        Some(false) => "sshd serves, but would not start again",
        None => "sshd may close every new connection",
    };
    let detail = Text::from(format!("{state}: ")) + said(&summary(complaint));
    let verdict = match blocks {
        Some(true) => Verdict::Refuse,
        Some(false) => Verdict::Accept,
        None => Verdict::Unknown,
    };
    let remedies = match cause {
        Cause::SshdPrivsepDir => folder(server).into_iter().collect(),
        Cause::SshdHostkeys => server.host_key_files.iter().filter_map(mendable).collect(),
        _ => complaint
            .lines()
            .find_map(place)
            .map(|(file, line)| Remedy::CommentOut { file, line })
            .into_iter()
            .collect::<Vec<_>>(),
    };
    let judgement = Judgement { verdict, detail, ..found(cause, blocks != Some(false), Owner::Named(unit), evidence, fix) };
    judgement.with(remedies)
}

/// A `HostKey` of a kind that sshd takes no more: nothing makes that key good.
fn of_a_kind_gone(server: &Server, complaint: &str, unit: &str) -> (Vec<Evidence>, Text) {
    let gone: Vec<&str> = server.host_key_files.iter().filter(|key| key.is_dsa()).map(|key| key.path.as_str()).collect();
    let settings = server.tree.as_ref().ok().and_then(|tree| evaluate(tree, &server.invocation.options, None).ok());
    let lines = settings.as_ref().and_then(|settings| settings.get("hostkey")).map_or(&[][..], Vec::as_slice);
    let is_one = |line: &&Setting| line.arguments.first().is_some_and(|path| gone.contains(&path.as_str()));
    let named: Vec<&Setting> = lines.iter().filter(is_one).collect();
    let places: Vec<String> = named.iter().map(|line| line.at.to_string()).collect();
    let what = if places.is_empty() { format!("the HostKey {}", gone.join(" and ")) } else { places.join(" and ") };
    let fix = format!(
        "comment out {what}: this sshd takes no DSA key, and `ssh-keygen -A` makes none; where no HostKey line is left it takes its default keys, \
         else `HostKey /etc/ssh/ssh_host_ed25519_key`; then `ssh-keygen -A && mkdir -p /run/sshd && sshd -t && systemctl restart {unit}`"
    );
    (named.into_iter().map(quote).chain([test_said(complaint)]).collect(), fix.into())
}

/// systemd listens for it, and starts it with the next connection.
pub fn waits_for_a_connection(server: &Server) -> bool {
    let by_socket = matches!(&server.manager, Manager::Service { socket: Some(_), .. } | Manager::Connections(_));
    by_socket && server.startups.is_none()
}

/// The directory where it is missing, or root's with a mode that lets others write.
fn folder(server: &Server) -> Option<Remedy> {
    let before = match server.privsep {
        Folder::Missing => None,
        Folder::Wrong { uid: 0, mode } => Some(mode),
        Folder::Wrong { .. } | Folder::Good => return None,
    };
    Some(Remedy::Repair(Mend::Folder { before, after: Some(0o755) }))
}

/// A host key whose file is missing or has the wrong mode. What may still be a good key is never overwritten.
fn mendable(key: &HostKey) -> Option<Remedy> {
    let path = key.path.clone();
    Some(Remedy::Repair(match (key.problem.as_ref()?, key.kind()) {
        (KeyProblem::Missing, Some(kind)) => Mend::Key { path, kind: kind.to_owned(), there: true },
        (KeyProblem::Open(before), _) => Mend::KeyMode { path, before: *before, after: 0o600 },
        (KeyProblem::Missing, None) | (KeyProblem::Corrupt(_) | KeyProblem::Unread(_), _) => return None,
    }))
}

/// Whether it complains of nothing but its directory or its host keys.
pub fn complains_of_these(said: &str, privsep: &Folder) -> bool {
    matches!(cause_of(said, privsep), Cause::SshdPrivsepDir | Cause::SshdHostkeys)
}

/// Whether `sshd -t` complains of its directory: `Missing privilege separation directory: /run/sshd` (sshd.c).
pub(crate) fn is_about_directory(said: &str) -> bool {
    said.contains("privilege separation directory")
}

/// What kind of complaint it is. The words are those of sshd.c.
fn cause_of(said: &str, privsep: &Folder) -> Cause {
    if *privsep != Folder::Good && (is_about_directory(said) || said.contains("must be owned by root")) {
        Cause::SshdPrivsepDir
    } else if said.contains("no hostkeys available") {
        Cause::SshdHostkeys
    } else {
        Cause::SshdConfigInvalid
    }
}

/// Whether `sshd -t` complains of nothing but its directory, which systemd makes when it starts the service.
pub fn only_misses_its_directory(said: &str, server: &Server) -> bool {
    // Amid attempts to start it, a directory that was there when it was looked at is gone when sshd is asked.
    let missing = server.privsep == Folder::Missing || !server.running && server.privsep == Folder::Good;
    missing && cause_of(said, &Folder::Missing) == Cause::SshdPrivsepDir
}

/// The line that `sshd -t` names, quoted, and what to do about it.
fn bad_line(server: &Server, complaint: &str, unit: &str) -> (Vec<Evidence>, Text) {
    // While the service is down its directory is away, and `sshd -t` would only complain about that.
    let again = format!("then `mkdir -p /run/sshd && sshd -t && systemctl reload-or-restart {unit}`");
    let Some((file, line)) = complaint.lines().find_map(place) else {
        return (vec![test_said(complaint)], format!("correct what `sshd -t` names, {again}").into());
    };
    let text = server.tree.as_ref().ok().and_then(|tree| quoted(tree, &file, line));
    let mut evidence = vec![Evidence::quote(format!("{file} line {line}"), Quote::SshdLines, text.unwrap_or_default())];
    evidence.push(test_said(complaint));
    let judged = server.tree.as_ref().ok().and_then(|tree| broken::judge(tree, &file, line).ok());
    let what: Text = match judged {
        Some(Broken::Comment { lines, .. }) => match lines.as_slice() {
            [_, .., last] => format!("correct {file} line {line}, or comment out lines {line} to {last}, its whole block").into(),
            _ => format!("correct or comment out {file} line {line}").into(),
        },
        Some(Broken::ByHand { what, .. }) => what,
        None => format!("correct {file} line {line}").into(),
    };
    (evidence, what + format!(", {again}"))
}

/// `/etc/ssh/sshd_config: line 3: Bad configuration option: X`, `/etc/ssh/sshd_config line 3: no argument after keyword "Port"`.
pub(crate) fn place(said: &str) -> Option<(String, usize)> {
    let (file, rest) = said.split_once(": line ").or_else(|| said.split_once(" line "))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    (file.starts_with('/') && !file.contains(' ')).then_some(())?;
    Some((file.to_owned(), digits.parse().ok()?))
}

/// A line as it stands there.
pub(crate) fn quoted(tree: &Tree, file: &str, line: usize) -> Option<String> {
    tree.files.get(file)?.line(line).map(ToString::to_string)
}

/// The first line that tells something: OpenSSH frames warnings about keys with `@`.
fn summary(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@'));
    let told = lines().find(|line| line.contains("too open")).or_else(|| lines().next());
    told.unwrap_or("it does not say why").chars().take(200).collect()
}

fn test_said(complaint: &str) -> Evidence {
    Evidence::quote("sshd -t", Quote::Program, first_lines(complaint))
}

fn first_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@')).collect();
    lines.iter().take(6).copied().collect::<Vec<_>>().join("\n")
}

/// `MaxStartups begin:rate:full` (sshd.c, `should_drop_connection`).
fn max_startups(server: &Server) -> Judgement {
    let Some(startups) = server.startups else { return Judgement::accept("") };
    let rate = server.effective.as_ref().ok().and_then(|effective| effective.one("maxstartups")).and_then(rate);
    let Some(percent) = drop_percent(startups.now, startups.begin, startups.full, rate) else {
        return Judgement::unknown(format!(
            "{} connections are not logged in yet, and how many new ones sshd drops is not known",
            startups.now
        ));
    };
    if percent == 0 {
        return Judgement::accept("");
    }
    let (now, begin, full) = (startups.now, startups.begin, startups.full);
    let title = format!("{now} of {begin}-{full} startups");
    let mut evidence = vec![Evidence::new("the title of the listening sshd", title)];
    evidence.extend(setting(server, "maxstartups"));
    evidence.extend(holders(server));
    let detail = format!("{now} connections are not logged in yet, so sshd drops {percent} of 100 new ones (MaxStartups)");
    let raised = format!("{}:30:{}", full.saturating_mul(2).max(100), full.saturating_mul(4).max(200));
    let fix = format!(
        "wait: those connections end by themselves after LoginGraceTime; or let more in than {begin}:{}:{full}: \
         `sshfix ctl sshd set MaxStartups {raised}`",
        rate.unwrap_or(100)
    );
    let verdict = if percent == 100 { Verdict::Refuse } else { Verdict::Unknown };
    let judgement =
        Judgement { verdict, detail: detail.into(), ..found(Cause::SshdMaxstartups, percent == 100, Owner::Sshd, evidence, fix) };
    judgement.with(set("MaxStartups", raised))
}

fn rate(value: &str) -> Option<u32> {
    value.split(':').nth(1)?.parse().ok()
}

/// How many of 100 new connections are dropped; `None` where the rate would be needed and is not known.
pub fn drop_percent(now: u32, begin: u32, full: u32, rate: Option<u32>) -> Option<u32> {
    if now < begin {
        return Some(0);
    }
    if now >= full {
        return Some(100);
    }
    let rate = rate?.min(100);
    let span = full.checked_sub(begin).filter(|span| *span > 0)?;
    Some((100 - rate) * (now - begin) / span + rate)
}

/// Who holds the places: the sources with most of them first.
fn holders(server: &Server) -> Option<Evidence> {
    let mut counts = BTreeMap::<IpAddr, usize>::new();
    for peer in &server.unauthenticated {
        *counts.entry(peer.ip()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(address, count)| (std::cmp::Reverse(*count), *address));
    let lines: Vec<String> = counts.iter().take(10).map(|(address, count)| format!("{count} from {address}")).collect();
    (!lines.is_empty()).then(|| Evidence::new("unauthenticated connections", lines.join("\n")))
}

/// `PerSourceMaxStartups` (srclimit.c, `srclimit_check_allow`).
fn per_source(server: &Server, connection: &Connection) -> Judgement {
    let Ok(effective) = &server.effective else { return Judgement::accept("") };
    let limit = effective.one("persourcemaxstartups").and_then(|value| value.parse::<usize>().ok());
    let (Some(limit), Some(address)) = (limit, connection.source.single()) else { return Judgement::accept("") };
    let net = block(effective, address);
    let same: Vec<String> =
        server.unauthenticated.iter().filter(|peer| net.contains(&peer.ip())).map(ToString::to_string).collect();
    if same.len() < limit {
        return Judgement::accept("");
    }
    let detail = format!("{} connections from {net} are not logged in yet, and PerSourceMaxStartups is {limit}", same.len());
    let mut evidence = vec![Evidence::new("unauthenticated connections", same.join("\n"))];
    evidence.extend(setting(server, "persourcemaxstartups"));
    let fix = "end those connections, or raise PerSourceMaxStartups in sshd_config and reload".to_owned();
    let raised = same.len().saturating_add(limit.max(10)).to_string();
    let judgement = Judgement {
        verdict: Verdict::Refuse,
        detail: detail.into(),
        ..found(Cause::SshdMaxstartups, true, Owner::Sshd, evidence, fix)
    };
    judgement.with(set("PerSourceMaxStartups", raised))
}

/// `PerSourcePenalties`: refused while sshd's own words say so, unknown while a penalty could still count.
fn penalties(host: &HostState, server: &Server, connection: &Connection, told: &[Told]) -> Judgement {
    let nothing = Judgement::accept("");
    let (Ok(effective), Some(address)) = (&server.effective, connection.source.single()) else { return nothing };
    let terms = match Terms::of(effective) {
        Ok(terms) => terms.filter(|_| !penalty::exempt(effective, address)),
        Err(why) => return Judgement::unknown(format!("cannot tell whether sshd turns {address} away for a penalty: {why}")),
    };
    let Some(terms) = terms else { return nothing };
    let net = block(effective, address);
    let Some(ledger) = penalty::ledger(told, net, &terms, host.at) else {
        // Without a listener of its own nobody remembers one (sshd.c, `inetd_flag`).
        if matches!(server.manager, Manager::Connections(_)) {
            return nothing;
        }
        if let Some(overflown) = overflown(host, (server, effective), address, &terms, told) {
            return overflown;
        }
        return unseen(host, effective, &terms).map_or(nothing, |why| {
            Judgement::unknown(format!("cannot tell whether sshd turns {net} away for a penalty: {why}"))
        });
    };
    let mut evidence: Vec<Evidence> =
        ledger.lines.iter().map(|(by, text)| Evidence::quote(by.clone(), Quote::Program, text.clone())).collect();
    if !ledger.earned.is_empty() {
        evidence.push(Evidence::new("the last quarter of an hour", ledger.earned.join("\n")));
    }
    evidence.extend(setting(server, "persourcepenalties"));
    let left = |until: &jiff::Timestamp| until.duration_since(host.at).as_secs().max(0);
    let (verdict, detail) = match &ledger.at_least {
        Some(until) => (
            Verdict::Refuse,
            format!(
                "sshd turns {net} away for a penalty, for {} s more at least, probably {}, {} at most; only sshd knows its end",
                left(until),
                left(&ledger.probably),
                left(&ledger.at_most)
            ),
        ),
        None => (
            Verdict::Unknown,
            format!(
                "sshd turned {net} away for a penalty, which by what the journal has lasts for {} s more, {} s at most; only sshd knows its end",
                left(&ledger.probably),
                left(&ledger.at_most)
            ),
        ),
    };
    let unit = crate::subsystem::sshd::judge::login::unit(host);
    let fix = format!(
        "wait, or clear all penalties by `sshd -t && systemctl reload {unit}`; `PerSourcePenaltyExemptList {address}` in sshd_config \
         keeps it from earning new ones"
    );
    let mut judgement = found(Cause::SshdPenalty, true, Owner::Sshd, evidence, fix);
    for block in &mut judgement.blocks {
        (block.finding.since, block.finding.until) = (Some(ledger.since), Some(ledger.at_most));
    }
    let list = exempted(effective, address);
    Judgement { verdict, detail: detail.into(), ..judgement }.with(set("PerSourcePenaltyExemptList", list))
}

/// Whether others' penalties turn an address away that is not exempt.
fn overflown(
    host: &HostState,
    (server, effective): (&Server, &Effective),
    address: IpAddr,
    terms: &Terms,
    told: &[Told],
) -> Option<Judgement> {
    let told = since_read(server, told);
    let (why, lines) = penalty::overflown(told, address.is_ipv4(), terms, effective, host.at)?;
    let mut evidence: Vec<Evidence> = lines.iter().map(Told::evidence).collect();
    evidence.extend(setting(server, "persourcepenalties"));
    let unit = crate::subsystem::sshd::judge::login::unit(host);
    let fix = format!(
        "wait, or clear all penalties by `sshd -t && systemctl reload {unit}`; `overflow:permissive` in PerSourcePenalties turns nobody away \
         for the penalties of others"
    );
    let detail = format!("whether sshd turns everybody away for penalties of others is not known: {why}");
    let found = found(Cause::SshdPenalty, true, Owner::Sshd, evidence, fix);
    let judgement = Judgement { verdict: Verdict::Unknown, detail: detail.into(), ..found };
    Some(judgement.with(set("PerSourcePenaltyExemptList", exempted(effective, address))))
}

/// The list of those who earn no penalties with an address more.
fn exempted(effective: &Effective, address: IpAddr) -> String {
    let listed = effective.one("persourcepenaltyexemptlist").filter(|list| *list != "none");
    listed.map_or_else(|| address.to_string(), |list| format!("{list},{address}"))
}

/// What sshd said since it read its files: with these it forgets all penalties (srclimit.c, `srclimit_init`).
fn since_read<'a>(server: &Server, told: &'a [Told]) -> &'a [Told] {
    let first = server.read_at.map_or(0, |read| told.partition_point(|told| told.at < read));
    told.get(first..).unwrap_or_default()
}

/// sshd said that it turned this very address away, for a reason that no other part of this stage knows: how long that lasts is not known.
fn turned_away(server: &Server, connection: &Connection, told: &[Told]) -> Judgement {
    let Some(address) = connection.source.single() else { return Judgement::accept("") };
    let unexplained = |said: &Said| matches!(said, Said::Dropped(Dropped::TooManyPenalties | Dropped::Other));
    let of_this = |told: &&Told| told.vouched && told.from == Some(address) && unexplained(&told.what);
    let Some(last) = since_read(server, told).iter().rev().find(of_this) else { return Judgement::accept("") };
    let detail = format!("sshd turned {address} away lately, and whether it does so still is not known");
    let fix =
        "see the line of sshd's journal; try again, or have sshd begin anew with `sshd -t && systemctl reload ssh`".to_owned();
    let found = found(Cause::SshdPenalty, true, Owner::Sshd, vec![last.evidence()], fix);
    Judgement { verdict: Verdict::Unknown, detail: detail.into(), ..found }
}

/// Why sshd could turn somebody away for a penalty without a line that was read.
fn unseen(host: &HostState, effective: &Effective, terms: &Terms) -> Option<String> {
    // sshd.c, `drop_connection`: written at INFO and at those that say more. Others there are (`sshd -T` prints SILENT for QUIET, log.c), and
    // may come to be.
    let level = effective.one("loglevel").unwrap_or("INFO");
    if !SAY_IT.contains(&level.to_ascii_uppercase().as_str()) {
        return Some(format!("with LogLevel {level} it does not say so"));
    }
    // Until it is read it is asked for.
    let why = host.sshd.journal.as_ref()?.gap(host.at, terms.longest())?;
    Some(format!("the journal could not be read whole: {why}"))
}

/// For everybody: these keywords stand in no Match block.
fn set(keyword: &str, value: String) -> Option<Remedy> {
    Remedy::set(keyword, None, vec![value])
}

/// The line that sets a keyword for everybody, where one does.
fn setting(server: &Server, keyword: &str) -> Option<Evidence> {
    let tree = server.tree.as_ref().ok()?;
    let settings = evaluate(tree, &server.invocation.options, None).ok()?;
    let setting = settings.get(keyword)?.first()?;
    Some(Evidence::quote(setting.at.to_string(), Quote::SshdLines, setting.text.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_probability_is_that_of_sshd() {
        let percent = |now| drop_percent(now, 10, 100, Some(30));
        assert_eq!([9, 10, 55, 99, 100, 200].map(percent), [Some(0), Some(30), Some(65), Some(99), Some(100), Some(100)]);
        assert_eq!(drop_percent(10, 10, 10, Some(100)), Some(100));
        assert_eq!(drop_percent(50, 10, 100, None), None);
        assert_eq!(drop_percent(5, 10, 100, None), Some(0));
    }

    #[test]
    fn the_line_of_a_complaint_is_found_in_both_wordings() {
        let at = |text: &str| place(text).map(|(file, line)| format!("{file}:{line}"));
        assert_eq!(at("/a/x.conf: line 1: Bad configuration option: X").as_deref(), Some("/a/x.conf:1"));
        assert_eq!(at("/a/x.conf line 12: no argument after keyword \"Port\"").as_deref(), Some("/a/x.conf:12"));
        assert_eq!(at("command-line: line 0: Bad configuration option: x"), None);
        assert_eq!(at("sshd: no hostkeys available -- exiting."), None);
    }
}
