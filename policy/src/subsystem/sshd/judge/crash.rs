//! An sshd that crashes: killed by a signal, or by the kernel for want of memory. Told by the kernel, systemd, or sshd of its own parts.

use crate::host::HostState;
use crate::subsystem::listener::Unit;
use crate::subsystem::sshd::facts::journal::{Crash, Said, Told};
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::judge::judgement::{Judgement, Remedy, found};
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Evidence, Verdict};

/// What systemd calls it (systemd.exec(5), `$SERVICE_RESULT`).
const RESULTS: [&str; 4] = ["signal", "core-dump", NO_MEMORY, "watchdog"];
/// See [`RESULTS`].
const NO_MEMORY: &str = "oom-kill";

/// Crashes of the last quarter of an hour, and a unit that ended by one. A process that crashes for one client does not say that it will
/// for the next; an sshd that is down after a crash refuses everybody.
pub fn judge(host: &HostState, server: Option<&Server>, told: &[&Told]) -> Judgement {
    // The kernel names a program by its name alone, and anybody can crash one of that name: such a line only goes with another one.
    let all: Vec<&&Told> = told.iter().filter(|told| matches!(told.what, Said::Crashed(_))).collect();
    let crashes = if all.iter().any(|told| told.vouched) { all } else { Vec::new() };
    let units = || host.listener.present().into_iter().flat_map(|state| state.units.iter().flatten());
    let ended = |unit: &&Unit| unit.active != "active" && unit.result.as_deref().is_some_and(|result| RESULTS.contains(&result));
    let down = units().filter(|_| server.is_none_or(|server| !server.running)).find(ended);
    if crashes.is_empty() && down.is_none() {
        return Judgement::accept("");
    }
    let mut evidence: Vec<Evidence> =
        down.iter().map(|unit| Evidence::new(format!("systemd {}", unit.name), unit.to_string())).collect();
    evidence.extend(crashes.iter().rev().take(3).map(|told| told.evidence()));
    let unit = crate::subsystem::sshd::judge::login::unit(host);
    let program = server.map_or("sshd", |server| server.invocation.program.as_str());
    let version = host
        .listener
        .present()
        .and_then(|state| state.version.clone())
        .or_else(|| server.and_then(|server| server.version).map(|(major, minor)| format!("OpenSSH {major}.{minor}")));
    let version = version.map_or_else(String::new, |version| format!(" ({version})"));
    let starved = down.as_ref().is_some_and(|unit| unit.result.as_deref() == Some(NO_MEMORY))
        || crashes.iter().any(|told| told.what == Said::Crashed(Crash::NoMemory));
    let why = if starved {
        "make room in memory, or raise MemoryMax of the unit".to_owned()
    } else {
        format!(
            "if it comes again: `systemctl cat {unit}` shows what limits the unit (SystemCallFilter, LimitAS, LD_PRELOAD), `dpkg -V \
             openssh-server` whether {program}{version} is as it was packaged, `apt-get install --only-upgrade openssh-server` a fixed one"
        )
    };
    let fix = format!("`mkdir -p /run/sshd && sshd -t && systemctl restart {unit}`; {why}");
    let (verdict, detail) = match (down.as_ref(), crashes.len()) {
        (Some(unit), _) => (Verdict::Refuse, format!("sshd crashed and is down: {unit}")),
        (None, count) => {
            // Somebody who got in since was served by the same program; and one that was started since may be another one.
            let last = crashes.last().map(|told| told.at);
            let since = |told: &&&Told| last.is_some_and(|last| told.at > last);
            let over = told.iter().filter(since).any(|told| told.came_in().is_some() || told.what == Said::Listening);
            let verdict = if over { Verdict::Accept } else { Verdict::Unknown };
            (verdict, format!("sshd crashed {count} times in the last quarter of an hour"))
        }
    };
    let mut judgement = found(Cause::SshdCrash, verdict != Verdict::Accept, Owner::Named(unit), evidence, fix);
    judgement.verdict = verdict;
    judgement.detail = detail.into();
    judgement.with(down.map(|_| Remedy::Start))
}
