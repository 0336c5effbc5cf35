//! What sshd does with a connection before anybody can log in: whether it can serve one at all, `MaxStartups`,
//! `PerSourceMaxStartups`, and the penalties it remembers. Knows no user.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::config::{Tree, evaluate};
use super::judge::Judgement;
use super::state::{Dropped, Folder, Need, Server};
use crate::host::{HostState, Needs};
use crate::verdict::{Cause, Connection, Evidence, Finding, Verdict};

/// From here on (OpenSSH 9.8) keys and configuration are handed to `sshd-session`, so that files matter only at the next start, and
/// sources can earn penalties.
const SPLIT: (u16, u16) = (9, 8);

/// The whole stage.
pub fn judge(host: &HostState, server: &Server, connection: &Connection, needs: &mut Needs) -> Judgement {
    let mut judgement = health(host, server);
    if !server.running {
        return judgement;
    }
    for part in [max_startups(server), per_source(server, connection), penalties(host, server, connection, needs)] {
        judgement.add(part);
    }
    judgement
}

/// Whether it can serve a connection now, and start again later.
fn health(host: &HostState, server: &Server) -> Judgement {
    let unit = super::judge::unit(host);
    let split = server.version.map(|version| version >= SPLIT);
    let Err(said) = &server.test else { return Judgement::accept("sshd takes new connections") };
    let cause = complaint(said, &server.privsep);
    // systemd makes the directory at each start and takes it away with the service (RuntimeDirectory); sshd looks for it last.
    if !server.running && cause == Cause::SshdPrivsepDir && server.privsep == Folder::Missing {
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
            vec![Evidence::new("sshd -t", first_lines(said))],
            format!("`install -d -m 0755 -o root -g root /run/sshd`; RuntimeDirectory=sshd in {unit} makes it at each start"),
        ),
        Cause::SshdHostkeys => (
            vec![Evidence::new("sshd -t", first_lines(said))],
            format!(
                "`ssh-keygen -A` makes the keys that are missing; `chmod 600 /etc/ssh/ssh_host_*_key` where the mode is wrong; \
                 then `mkdir -p /run/sshd && sshd -t && systemctl restart {unit}`"
            ),
        ),
        _ => bad_line(server, said, &unit),
    };
    let state = match blocks {
        Some(true) if !server.running => "sshd cannot start",
        Some(true) => "sshd closes every new connection",
        Some(false) => "sshd serves, but would not start again",
        None => "sshd may close every new connection",
    };
    let detail = format!("{state}: {}", summary(said));
    let verdict = match blocks {
        Some(true) => Verdict::Refuse,
        Some(false) => Verdict::Accept,
        None => Verdict::Unknown,
    };
    let owner = unit;
    let finding =
        Finding { cause, blocking: blocks != Some(false), owner, since: None, until: None, evidence: evidence.clone(), fix };
    Judgement { verdict, detail, evidence, findings: vec![finding] }
}

/// What kind of complaint it is. The words are those of sshd.c.
fn complaint(said: &str, privsep: &Folder) -> Cause {
    if *privsep != Folder::Good && (said.contains("privilege separation directory") || said.contains("must be owned by root")) {
        Cause::SshdPrivsepDir
    } else if said.contains("no hostkeys available") {
        Cause::SshdHostkeys
    } else {
        Cause::SshdConfigInvalid
    }
}

/// Whether `sshd -t` complains of nothing but its directory, which systemd makes when it starts the service.
pub fn only_misses_its_directory(said: &str, server: &Server) -> bool {
    server.privsep == Folder::Missing && complaint(said, &server.privsep) == Cause::SshdPrivsepDir
}

/// The line that `sshd -t` names, quoted, and what to do about it.
fn bad_line(server: &Server, said: &str, unit: &str) -> (Vec<Evidence>, String) {
    // While the service is down its directory is away, and `sshd -t` would only complain about that.
    let again = format!("then `mkdir -p /run/sshd && sshd -t && systemctl reload-or-restart {unit}`");
    let Some((file, line)) = said.lines().find_map(place) else {
        return (vec![Evidence::new("sshd -t", first_lines(said))], format!("correct what `sshd -t` names, {again}"));
    };
    let text = server.tree.as_ref().ok().and_then(|tree| quoted(tree, &file, line));
    let mut evidence = vec![Evidence::new(format!("{file} line {line}"), text.unwrap_or_default())];
    evidence.push(Evidence::new("sshd -t", first_lines(said)));
    (evidence, format!("correct or comment out {file} line {line}, {again}"))
}

/// `/etc/ssh/sshd_config: line 3: Bad configuration option: X`, `/etc/ssh/sshd_config line 3: no argument after keyword "Port"`.
fn place(said: &str) -> Option<(String, usize)> {
    let (file, rest) = said.split_once(": line ").or_else(|| said.split_once(" line "))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    (file.starts_with('/') && !file.contains(' ')).then_some(())?;
    Some((file.to_owned(), digits.parse().ok()?))
}

fn quoted(tree: &Tree, file: &str, line: usize) -> Option<String> {
    tree.files.get(file)?.line(line).map(ToString::to_string)
}

/// The first line that tells something: OpenSSH frames warnings about keys with `@`.
fn summary(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@'));
    let told = lines().find(|line| line.contains("too open")).or_else(|| lines().next());
    told.unwrap_or("it does not say why").chars().take(200).collect()
}

fn first_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@')).collect();
    lines.iter().take(6).copied().collect::<Vec<_>>().join("\n")
}

/// `MaxStartups begin:rate:full` (sshd.c, `should_drop_connection`).
fn max_startups(server: &Server) -> Judgement {
    let Some(startups) = server.startups else { return Judgement::accept("") };
    let rate = server.effective.as_ref().ok().and_then(|effective| effective.one("maxstartups")).and_then(rate);
    let Some(percent) = drop_percent(startups.now, startups.begin, startups.full, rate) else { return Judgement::accept("") };
    if percent == 0 {
        return Judgement::accept("");
    }
    let (now, begin, full) = (startups.now, startups.begin, startups.full);
    let title = format!("{now} of {begin}-{full} startups");
    let mut evidence = vec![Evidence::new("the title of the listening sshd", title)];
    evidence.extend(setting(server, "maxstartups"));
    evidence.extend(holders(server));
    let detail = format!("{now} connections are not logged in yet, so sshd drops {percent} of 100 new ones (MaxStartups)");
    let fix = format!(
        "those connections end by themselves after LoginGraceTime; a higher MaxStartups than {begin}:{}:{full} in sshd_config and a \
         reload let more in",
        rate.unwrap_or(100)
    );
    let finding = Finding {
        cause: Cause::SshdMaxstartups,
        blocking: percent == 100,
        owner: "sshd".to_owned(),
        since: None,
        until: None,
        evidence: evidence.clone(),
        fix,
    };
    let verdict = if percent == 100 { Verdict::Refuse } else { Verdict::Unknown };
    Judgement { verdict, detail, evidence, findings: vec![finding] }
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
    let net = block(effective.one("persourcenetblocksize").unwrap_or("32:128"), address);
    let same: Vec<String> =
        server.unauthenticated.iter().filter(|peer| net.contains(&peer.ip())).map(ToString::to_string).collect();
    if same.len() < limit {
        return Judgement::accept("");
    }
    let detail = format!("{} connections from {net} are not logged in yet, and PerSourceMaxStartups is {limit}", same.len());
    let mut evidence = vec![Evidence::new("unauthenticated connections", same.join("\n"))];
    evidence.extend(setting(server, "persourcemaxstartups"));
    let fix = "end those connections, or raise PerSourceMaxStartups in sshd_config and reload".to_owned();
    let finding = Finding {
        cause: Cause::SshdMaxstartups,
        blocking: true,
        owner: "sshd".to_owned(),
        since: None,
        until: None,
        evidence: evidence.clone(),
        fix,
    };
    Judgement { verdict: Verdict::Refuse, detail, evidence, findings: vec![finding] }
}

/// The addresses that count as one source: `32:128` are prefix lengths of IPv4 and IPv6.
fn block(sizes: &str, address: IpAddr) -> ipnet::IpNet {
    let (v4, v6) = sizes.split_once(':').unwrap_or((sizes, "128"));
    let (text, most) = if address.is_ipv4() { (v4, 32) } else { (v6, 128) };
    let length = text.parse().ok().filter(|length| *length <= most).unwrap_or(most);
    ipnet::IpNet::new(address, length).map_or_else(|_| ipnet::IpNet::from(address), |net| net.trunc())
}

/// `PerSourcePenalties`. The table is in sshd's memory only; the journal tells of refusals, not of all of them (it is rate-limited),
/// and not how long they go on. So a recent one makes the answer unknown, never open.
fn penalties(host: &HostState, server: &Server, connection: &Connection, needs: &mut Needs) -> Judgement {
    let Ok(effective) = &server.effective else { return Judgement::accept("") };
    let (Some(settings), Some(address)) = (effective.one("persourcepenalties"), connection.source.single()) else {
        return Judgement::accept("");
    };
    let Some(longest) = longest_penalty(settings) else { return Judgement::accept("") };
    let drops = match host.sshd.drops.get(&address) {
        None => {
            needs.insert(crate::host::Need::Sshd(Need::Drops(address)));
            return Judgement::accept("");
        }
        Some(Ok(drops)) => drops,
        Some(Err(_)) => return Judgement::accept(""),
    };
    let penalized: Vec<&Dropped> = drops.iter().filter(|drop| drop.reason.starts_with("penalty")).collect();
    let (Some(first), Some(last)) = (penalized.first(), penalized.last()) else { return Judgement::accept("") };
    let until = last.at.checked_add(SignedDuration::from_secs(longest)).unwrap_or(Timestamp::MAX);
    if until <= host.at {
        return Judgement::accept("");
    }
    let evidence: Vec<Evidence> =
        [Evidence::new("journal of sshd", last.text.clone())].into_iter().chain(setting(server, "persourcepenalties")).collect();
    let ago = host.at.duration_since(last.at).as_secs().max(0);
    let detail = format!(
        "sshd turned this address away {ago} s ago for a penalty, which lasts at most {longest} s; only sshd knows its end"
    );
    let unit = super::judge::unit(host);
    let fix = format!(
        "wait, or clear all penalties by `sshd -t && systemctl reload {unit}`; `PerSourcePenaltyExemptList {address}` in sshd_config \
         keeps it from earning new ones"
    );
    let finding = Finding {
        cause: Cause::SshdPenalty,
        blocking: true,
        owner: "sshd".to_owned(),
        since: Some(first.at),
        until: Some(until),
        evidence: evidence.clone(),
        fix,
    };
    Judgement { verdict: Verdict::Unknown, detail, evidence, findings: vec![finding] }
}

/// `max:` of `crash:90 authfail:5 noauth:1 ... max:600 min:15 ...`, in seconds; `None` with `no`.
fn longest_penalty(settings: &str) -> Option<i64> {
    settings.split_ascii_whitespace().find_map(|word| word.strip_prefix("max:")?.parse().ok())
}

/// The line that sets a keyword for everybody, where one does.
fn setting(server: &Server, keyword: &str) -> Option<Evidence> {
    let tree = server.tree.as_ref().ok()?;
    let settings = evaluate(tree, &server.invocation.options, None).ok()?;
    let setting = settings.get(keyword)?.first()?;
    Some(Evidence::new(setting.at.to_string(), setting.text.clone()))
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

    #[test]
    fn sources_count_by_their_block() {
        let net = |sizes, address: &str| block(sizes, address.parse().unwrap_or(IpAddr::from([0; 4]))).to_string();
        assert_eq!(net("24:56", "203.0.113.7"), "203.0.113.0/24");
        assert_eq!(net("24:56", "2001:db8::7"), "2001:db8::/56");
        assert_eq!(net("32:none", "203.0.113.7"), "203.0.113.7/32");
        assert_eq!(longest_penalty("crash:90 authfail:5 max:600 min:15"), Some(600));
        assert_eq!(longest_penalty("no"), None);
    }
}
