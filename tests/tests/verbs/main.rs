//! Every verb on real servers of both releases, as the admin at three in the morning uses it and as a hostile user abuses it:
//! what it does, what it leaves alone, what it refuses, and that the real ssh agrees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

mod authority;
mod bans;
mod discovery;
mod firewall;
mod hosts;
mod plan;
mod unban;

use serde_json::Value;
use sshfix_tests::lab::{CtlResult, Server};

/// Everything the verbs could touch, without what counts by itself. The order inside fail2ban's own chain means nothing.
fn snapshot(server: &Server) -> String {
    let rules = server.sh("nft list tables | sort | while read -r _ family table; do nft -s list table $family $table; done; \
         iptables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; \
         ip6tables-legacy-save | grep -v '^#' | sed 's/\\[.*\\]//'; cat /etc/hosts.allow /etc/hosts.deny; \
         fail2ban-client get sshd banip | tr ' ' '\\n' | sort; fail2ban-client get sshd ignoreip; \
         stat -c '%a %u %g %n' /etc/hosts.allow /etc/hosts.deny");
    let (mut fail2ban, rest): (Vec<_>, Vec<_>) =
        rules.expect_ok().lines().map(str::to_owned).partition(|line| line.to_lowercase().contains("reject"));
    fail2ban.sort();
    [rest, fail2ban].concat().join("\n")
}

fn banned_by_fail2ban(server: &Server) -> Vec<String> {
    let list = server.sh("fail2ban-client get sshd banip").expect_ok();
    let mut list: Vec<String> = list.split_whitespace().map(str::to_owned).collect();
    list.sort();
    list
}

fn ignored_by_fail2ban(server: &Server) -> String {
    server.sh("fail2ban-client get sshd ignoreip").expect_ok()
}

#[track_caller]
fn expect_in(server: &Server, addresses: &[&str]) {
    for address in addresses {
        let login = server.ssh(address);
        assert!(login.ok, "{} must get in: {}", address, login.stderr);
    }
}

/// All at the same time: a dropped SYN is waited for.
#[track_caller]
fn expect_out(server: &Server, addresses: &[&str]) {
    let got_in: Vec<_> = std::thread::scope(|scope| {
        let logins: Vec<_> = addresses.iter().map(|address| scope.spawn(move || (address, knock(server, address)))).collect();
        logins.into_iter().map(|login| login.join().unwrap()).filter(|(_, ok)| *ok).map(|(address, _)| address).collect()
    });
    assert!(got_in.is_empty(), "must stay out: {got_in:?}");
}

/// A login that is given up sooner than [`Server::ssh`]'s; one that works takes a tenth of this.
fn knock(server: &Server, from: &str) -> bool {
    let mut command = server.ssh_command(from);
    for word in command.iter_mut().filter(|word| word.starts_with("ConnectTimeout=")) {
        "ConnectTimeout=3".clone_into(word);
    }
    command.push("true".to_owned());
    sshfix_tests::lab::run(&command.iter().map(String::as_str).collect::<Vec<_>>()).ok()
}

#[track_caller]
fn expect_nothing_to_do(result: CtlResult) {
    let change = result.expect_status(0).json();
    assert_eq!((&change["state"], &change["changed"]), (&"unchanged".into(), &false.into()), "{change:#}");
}

fn restart_agent(server: &Server) {
    server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
}

fn addresses(bans: &Value, by: &str) -> Vec<String> {
    let bans = bans["bans"].as_array().unwrap();
    let of = |ban: &&Value| ban["by"].as_str().unwrap().contains(by);
    bans.iter().filter(of).map(|ban| ban["source"].as_str().unwrap().to_owned()).collect()
}

/// The bodies of all audit records.
fn audit(server: &Server) -> Vec<String> {
    let script = "import sqlite3, json
db = sqlite3.connect('file:/var/lib/sshfix/state.db?mode=ro', uri=True)
print(json.dumps([row[0] for row in db.execute('SELECT body FROM audit ORDER BY seq')]))";
    let text = server.run(&["python3", "-c", script]).expect_ok();
    serde_json::from_str(&text).unwrap()
}
