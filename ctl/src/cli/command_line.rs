//! From an operation back to the command line that asks for it, to be shown and pasted. Nothing in it can become another command.

use sshfix_policy::request::{Decision, Intent, Operation, Query, Records};
use sshfix_policy::text::shell::word as shell_word;

use super::audit;

/// The command line that asks for an operation, to be shown and pasted.
pub fn command_line(operation: &Operation) -> String {
    let mut words = vec!["sshfix".to_owned(), "ctl".to_owned()];
    let mut flag = Vec::new();
    let mut option = |name: &str, value: Option<String>| {
        flag.extend(value.map(|value| format!("--{name} {}", shell_word(&value))));
    };
    let verb = match operation {
        Operation::Query(Query::Diagnose { address, user, port, explain }) => {
            option("user", user.clone());
            option("port", port.map(|port| port.to_string()));
            format!("diagnose {address}{}", if *explain { " --explain" } else { "" })
        }
        Operation::Intent(Intent::Unban { source, jail, ignore_for, range }) => {
            option("jail", jail.clone());
            option("ignore-for", ignore_for.map(|seconds| format!("{seconds}s")));
            format!("unban {}{}", source.short(), if *range { " --range" } else { "" })
        }
        Operation::Intent(Intent::Fix { address, user, port }) => {
            option("user", user.clone());
            option("port", port.map(|port| port.to_string()));
            format!("fix {address}")
        }
        Operation::Intent(Intent::Ban { source, jail }) => {
            option("jail", Some(jail.clone()));
            format!("ban {}", source.short())
        }
        Operation::Query(Query::Banned { source: None }) => "banned".to_owned(),
        Operation::Query(Query::Banned { source: Some(source) }) => format!("banned {}", source.short()),
        Operation::Query(Query::HostsList) => "hosts list".to_owned(),
        Operation::Intent(Intent::HostsAllow { source, daemon }) => {
            option("daemon", daemon.clone());
            format!("hosts allow {}", source.short())
        }
        Operation::Intent(Intent::HostsDeny { source, daemon }) => {
            option("daemon", daemon.clone());
            format!("hosts deny {}", source.short())
        }
        Operation::Intent(Intent::HostsRemove { source, daemon }) => {
            option("daemon", daemon.clone());
            format!("hosts remove {}", source.short())
        }
        Operation::Query(Query::FirewallList) => "firewall list".to_owned(),
        Operation::Query(Query::FirewallWho { port }) => {
            option("port", port.map(|port| port.to_string()));
            "firewall who".to_owned()
        }
        Operation::Intent(Intent::FirewallAccept { source }) => format!("firewall accept {}", source.short()),
        Operation::Intent(Intent::FirewallRemove { reference }) => format!("firewall remove {}", shell_word(reference)),
        Operation::Query(Query::Fail2banJails) => "fail2ban jails".to_owned(),
        Operation::Intent(Intent::Fail2banIgnore { source, jail }) => {
            option("jail", jail.clone());
            format!("fail2ban ignore {}", source.short())
        }
        Operation::Intent(Intent::Fail2banUnignore { source, jail }) => {
            option("jail", jail.clone());
            format!("fail2ban unignore {}", source.short())
        }
        Operation::Query(Query::SshdShow { keywords, user, address, port }) => {
            option("user", user.clone());
            option("address", address.map(|address| address.to_string()));
            option("port", port.map(|port| port.to_string()));
            let words = keywords.iter().map(|keyword| shell_word(keyword));
            ["sshd".to_owned(), "show".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
        }
        Operation::Query(Query::SshdCheck) => "sshd check".to_owned(),
        Operation::Intent(Intent::SshdSet { keyword, values, criteria }) => {
            // Before the values, which may begin with a dash.
            let block = criteria.as_ref().map_or_else(String::new, |criteria| format!("--match {} ", shell_word(criteria)));
            let dash = if values.iter().any(|value| value.starts_with('-')) { "-- " } else { "" };
            // A record holds none; its change does.
            let none = values.is_empty().then(|| "VALUE".to_owned());
            let values: Vec<String> = values.iter().map(|value| shell_word(value)).chain(none).collect();
            format!("sshd set {block}{} {dash}{}", shell_word(keyword), values.join(" "))
        }
        Operation::Intent(Intent::SshdUnset { keyword, criteria }) => {
            option("match", criteria.clone());
            format!("sshd unset {}", shell_word(keyword))
        }
        Operation::Intent(Intent::SshdReload) => "sshd reload".to_owned(),
        Operation::Intent(Intent::SshdRestart) => "sshd restart".to_owned(),
        Operation::Intent(Intent::Allow { source, seconds }) => {
            format!("allow {} --for {}", source.short(), duration_text(*seconds))
        }
        Operation::Records(Records::Leases) => "leases".to_owned(),
        Operation::Intent(Intent::Revoke { id }) => format!("revoke {}", shell_word(id)),
        Operation::Records(Records::AuditShow { filter }) => audit::show_line(filter),
        Operation::Records(Records::AuditVerify { checkpoint: None }) => "audit verify".to_owned(),
        Operation::Records(Records::AuditVerify { checkpoint: Some(_) }) => "audit verify --checkpoint FILE".to_owned(),
        Operation::Records(Records::AuditCheckpoint) => "audit checkpoint".to_owned(),
        Operation::Records(Records::Changes { id: None }) => "changes".to_owned(),
        Operation::Records(Records::Changes { id: Some(id) }) => format!("changes {}", shell_word(id)),
        Operation::Decision(Decision::Confirm { id, .. }) => format!("confirm {}", shell_word(id)),
        Operation::Decision(Decision::Rollback { id, abandon }) => {
            let flag = if *abandon { " --abandon" } else { "" };
            format!("rollback {}{flag}", shell_word(id))
        }
        Operation::Query(Query::Status) => "status".to_owned(),
    };
    words.push(verb);
    words.extend(flag);
    words.join(" ")
}

/// As [`parse_duration`] reads it: `2h`, `90s`.
fn duration_text(seconds: u64) -> String {
    let units = [("w", 7 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60)];
    let whole = units.into_iter().find(|(_, length)| seconds > 0 && seconds.is_multiple_of(*length));
    whole.map_or_else(|| format!("{seconds}s"), |(unit, length)| format!("{}{unit}", seconds / length))
}
