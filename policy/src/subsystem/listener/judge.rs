//! Whether a connection meets an SSH server, and what to do where it does not. An address that cannot be compared with the
//! one the client uses is unknown, never open.

use std::net::IpAddr;

use super::{Listener, State, Unit};
use crate::host::block::{Block, Lift};
use crate::host::{HostState, Part};
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::trace::TraceLine;
use crate::verdict::{Connection, Evidence, Stage, StageReport, Verdict};

/// What was found for one connection.
struct Judgement {
    verdict: Verdict,
    detail: String,
    evidence: Vec<Evidence>,
    /// Where it refuses.
    finding: Option<(Cause, Owner, String)>,
}

/// Whether something that speaks SSH takes connections on the port asked about.
pub fn evaluate(host: &HostState, connection: &Connection) -> StageReport {
    let judgement = match &host.listener {
        Part::Present(state) => judge(state, connection),
        Part::Absent(why) | Part::Unreadable(why) => Judgement {
            verdict: Verdict::Unknown,
            detail: format!("the listening sockets could not be read: {why}"),
            evidence: Vec::new(),
            finding: None,
        },
    };
    let Judgement { verdict, detail, evidence, .. } = judgement;
    StageReport::new(Stage::Listener, verdict, detail, evidence)
}

/// Every socket on the port, with whether it can take this connection, SSH servers elsewhere, and the units.
pub fn trace(host: &HostState, connection: &Connection) -> Vec<TraceLine> {
    let Part::Present(state) = &host.listener else { return Vec::new() };
    let loopback = connection.source.first().is_loopback();
    let mut lines: Vec<TraceLine> = Vec::new();
    for listener in &state.listeners {
        let (takes, effect) = if listener.local.port() != connection.port {
            (false, "is on another port")
        } else if !takes_family(listener, connection) {
            (false, "takes no connection of this family")
        } else if !loopback && listener.local.ip().is_loopback() {
            (false, "takes connections of this host only")
        } else if listener.holders.is_empty() {
            (true, "takes it; who holds the socket cannot be seen")
        } else if state.is_ssh(listener) {
            (true, "takes it, and an SSH server answers")
        } else {
            (true, "takes it, and no SSH server answers")
        };
        let Evidence { source, text } = listener.evidence();
        let mut line = TraceLine::new(source, text, effect);
        line.owner = listener.holders.iter().find_map(|holder| holder.unit.clone()).map(Owner::Named);
        line.decides = takes;
        lines.push(line);
    }
    lines.extend(unit_evidence(state).map(|unit| TraceLine::new(unit.source, unit.text, "as systemd has it")));
    lines
}

/// What keeps connections out at this stage. Starting a server or moving it is not done by `unban`: each block says by which
/// command a person does it.
pub fn blocks(host: &HostState, connection: &Connection) -> Vec<Block> {
    let Part::Present(state) = &host.listener else { return Vec::new() };
    let judgement = judge(state, connection);
    let Some((cause, owner, fix)) = judgement.finding else { return Vec::new() };
    let finding = Finding {
        cause,
        blocking: true,
        stage: Stage::Listener,
        owner,
        since: None,
        until: None,
        evidence: judgement.evidence,
        fix: fix.as_str().into(),
    };
    vec![Block { finding, lift: Lift::ByHand(fix), managed: Vec::new(), alternatives: Vec::new() }]
}

fn judge(state: &State, connection: &Connection) -> Judgement {
    let loopback = connection.source.first().is_loopback();
    let there: Vec<&Listener> = state
        .listeners
        .iter()
        .filter(|listener| listener.local.port() == connection.port)
        .filter(|listener| takes_family(listener, connection) && (loopback || !listener.local.ip().is_loopback()))
        .collect();
    if there.is_empty() {
        return nobody(state, connection);
    }
    let evidence = || there.iter().map(|listener| listener.evidence()).collect::<Vec<_>>();
    let unknown = |detail: String| Judgement { verdict: Verdict::Unknown, detail, evidence: evidence(), finding: None };
    if there.iter().any(|listener| listener.holders.is_empty()) {
        return unknown(format!("port {} is held by a process that cannot be seen from here", connection.port));
    }
    let (ssh, other): (Vec<&Listener>, Vec<&Listener>) = there.iter().copied().partition(|listener| state.is_ssh(listener));
    let Some(first) = ssh.first() else {
        if other.iter().any(|listener| listener.holders.iter().any(|holder| holder.pid == 1)) && state.units.is_none() {
            return unknown(format!("port {} is held by process 1 and systemd did not say for which unit", connection.port));
        }
        let holders = || other.iter().flat_map(|listener| &listener.holders);
        if let Some(unproven) = holders().find(|holder| holder.uid == 0 && super::is_ssh_name(&holder.name)) {
            return unknown(format!(
                "{} holds port {}; that it is this host's own SSH server could not be proven (another container's, or another file)",
                unproven.describe(),
                connection.port
            ));
        }
        return not_ssh(&other, connection, evidence());
    };
    if !other.is_empty() {
        return unknown(format!("port {} is shared by an SSH server and another program", connection.port));
    }
    let anywhere: Vec<&Listener> = ssh.iter().copied().filter(|listener| listener.device.is_none()).collect();
    if let (true, Some(device)) = (anywhere.is_empty(), &first.device) {
        return unknown(format!(
            "an SSH server listens on {}, but only for what comes in by {device}; whether its connection does is not known",
            list(ssh.iter().map(|listener| listener.local))
        ));
    }
    let missed = missed_addresses(state, &anywhere, connection);
    if !missed.is_empty() {
        return unknown(format!(
            "an SSH server listens on {} only; a client that connects to {} is refused",
            list(ssh.iter().map(|listener| listener.local)),
            list(missed)
        ));
    }
    let holder = match state.socket_unit(first) {
        Some(unit) if !first.holders.iter().any(super::speaks_ssh) => format!("systemd ({})", unit.name),
        _ => first.holders.iter().find(|holder| super::speaks_ssh(holder)).map_or_else(String::new, super::Process::describe),
    };
    Judgement {
        verdict: Verdict::Accept,
        detail: format!("{holder} listens on {}", list(ssh.iter().map(|listener| listener.local))),
        evidence: evidence(),
        finding: None,
    }
}

/// Whether packets of the connection's family can reach the socket: `::` takes both unless it is v6-only (ipv6(7)).
fn takes_family(listener: &Listener, connection: &Connection) -> bool {
    match listener.local.ip() {
        IpAddr::V4(_) => connection.source.is_ipv4(),
        IpAddr::V6(v6) => !connection.source.is_ipv4() || (v6.is_unspecified() && !listener.v6_only),
    }
}

/// The host's addresses of this family that no SSH socket covers. Which of them the client uses is not known here.
fn missed_addresses(state: &State, ssh: &[&Listener], connection: &Connection) -> Vec<IpAddr> {
    if ssh.iter().any(|listener| listener.local.ip().is_unspecified()) || connection.source.first().is_loopback() {
        return Vec::new();
    }
    state
        .addresses
        .iter()
        .filter(|address| address.is_ipv4() == connection.source.is_ipv4() && !address.is_loopback() && !link_local(address))
        .filter(|address| !ssh.iter().any(|listener| listener.local.ip() == **address))
        .copied()
        .collect()
}

/// `fe80::/10`: never the address a remote client is given.
fn link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Another program on the port.
fn not_ssh(other: &[&Listener], connection: &Connection, evidence: Vec<Evidence>) -> Judgement {
    let holder = other.iter().flat_map(|listener| &listener.holders).next();
    let who = holder.map_or_else(|| "another program".to_owned(), super::Process::describe);
    let stop = match holder {
        Some(process) => match process.unit.as_deref().filter(|unit| unit.ends_with(".service") || unit.ends_with(".socket")) {
            Some(unit) => format!("`systemctl stop {unit}`"),
            None => format!("`kill {}`", process.pid),
        },
        None => "stop it".to_owned(),
    };
    let fix = format!("port {} belongs to {who}: {stop}, then start the SSH server", connection.port);
    Judgement {
        verdict: Verdict::Refuse,
        detail: format!("{who} holds port {}, which is no SSH server of this host", connection.port),
        evidence,
        finding: Some((
            Cause::PortNotSsh,
            holder.map_or(Owner::Nobody, |holder| Owner::Named(holder.unit.as_ref().unwrap_or(&holder.name).clone())),
            fix,
        )),
    }
}

/// Nothing takes the connection: an SSH server listens elsewhere, or there is none.
fn nobody(state: &State, connection: &Connection) -> Judgement {
    let family = if connection.source.is_ipv4() { "IPv4" } else { "IPv6" };
    let elsewhere: Vec<&Listener> = state.ssh_listeners().collect();
    let mut evidence: Vec<Evidence> = elsewhere.iter().map(|listener| listener.evidence()).collect();
    evidence.extend(unit_evidence(state));
    if let Some(first) = elsewhere.first() {
        let places = list(elsewhere.iter().map(|listener| listener.local));
        let socket = state.socket_unit(first);
        let owner = match socket {
            Some(unit) => Owner::Named(unit.name.clone()),
            None => first.holders.iter().find_map(|holder| holder.unit.clone()).map_or(Owner::Sshd, Owner::Named),
        };
        let port = first.local.port();
        let fix = if elsewhere.iter().any(|listener| listener.local.port() == connection.port) {
            let (keyword, file) = if socket.is_some() { ("ListenStream", "") } else { ("ListenAddress", "sshd_config of ") };
            format!("the SSH server listens on {places} only: add a {keyword} of {family} to {file}{owner} and restart it")
        } else {
            let place = if socket.is_some() { "ListenStream in" } else { "Port in sshd_config of" };
            format!("the SSH server listens on {places}: connect with `ssh -p {port}`, or change {place} {owner}")
        };
        return Judgement {
            verdict: Verdict::Refuse,
            detail: format!("nothing listens on port {} for {family}; an SSH server listens on {places}", connection.port),
            evidence,
            finding: Some((Cause::SshdListen, owner, fix)),
        };
    }
    let unit = state.units.as_deref().and_then(chosen_unit);
    let (detail, owner, fix) = match (unit, &state.units) {
        (Some(unit), _) => (format!("no SSH server listens: {unit}"), Owner::Named(unit.name.clone()), start(unit)),
        (None, Some(_)) => {
            let fix = "install an SSH server: `apt install openssh-server` or `dnf install openssh-server`".to_owned();
            ("no SSH server listens, and there is no unit for one".to_owned(), Owner::Nobody, fix)
        }
        (None, None) => (
            "no SSH server listens, and no systemd answers that could say why".to_owned(),
            Owner::Nobody,
            "start it: `mkdir -p /run/sshd && /usr/sbin/sshd -t && service ssh start`".to_owned(),
        ),
    };
    Judgement { verdict: Verdict::Refuse, detail, evidence, finding: Some((Cause::SshdDown, owner, fix)) }
}

fn unit_evidence(state: &State) -> impl Iterator<Item = Evidence> {
    let units = state.units.iter().flatten().filter(|unit| unit.load != "not-found");
    units.map(|unit| Evidence::new(format!("systemd {}", unit.name), unit.to_string()))
}

/// The unit that should be listening: one that failed or is masked before an enabled one, sockets before services where enabled.
fn chosen_unit(units: &[Unit]) -> Option<&Unit> {
    units.iter().filter(|unit| unit.load != "not-found").min_by_key(|unit| {
        let socket = unit.name.ends_with(".socket");
        if unit.enabled() {
            u8::from(!socket)
        } else if unit.active != "inactive" && unit.load != "masked" {
            2
        } else {
            3 + u8::from(socket)
        }
    })
}

/// The command that starts a unit, by what is wrong with it. systemd takes /run/sshd away with the service, and `sshd -t` wants it.
fn start(unit: &Unit) -> String {
    let name = &unit.name;
    if unit.load == "masked" {
        return format!("`systemctl unmask {name} && systemctl start {name}`");
    }
    match unit.active.as_str() {
        "failed" => format!(
            "see why with `journalctl -u {name} -n 30`, then `mkdir -p /run/sshd && sshd -t && systemctl reset-failed {name} && systemctl start {name}`"
        ),
        "activating" | "reloading" => {
            format!("it is starting or restarting all the time: see `journalctl -u {name} -n 30` and `sshd -t`")
        }
        "active" => {
            format!(
                "it runs but does not listen: see `journalctl -u {name} -n 30`, then `mkdir -p /run/sshd && sshd -t && systemctl restart {name}`"
            )
        }
        _ => format!("`mkdir -p /run/sshd && sshd -t && systemctl start {name}`"),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" and ")
}
