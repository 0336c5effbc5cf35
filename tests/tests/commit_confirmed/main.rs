//! Changes that undo themselves, on real servers of both releases: pending until a confirm that counts, taken back at the deadline
//! by an agent that nobody helps, also when it was killed, stopped, or the server was rebooted; the lockout itself is tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions, missing_docs)]

mod confirm;
mod drift;
mod lockout;
mod restart;

use std::time::{Duration, Instant};

use serde_json::Value;
use sshfix_tests::lab::{self, Server};

/// How long a change waits where the tests wait for its end: a loaded machine logs in meanwhile, also where a packet filter has the
/// login wait for its seven seconds.
const WITHIN: &str = "20s";
/// The same, and the time in which a loaded machine comes to it. How late it was by the agent's own clock is `restart`'s.
const AFTER: Duration = Duration::from_secs(20 + 120);

/// The same, where changes may wait for as short as these tests want.
fn on_both(test: impl Fn(&mut Server)) {
    lab::on_both(|server| {
        server.wait_for_fail2ban();
        let config = server.read("/etc/sshfix/agent.toml");
        server.write("/etc/sshfix/agent.toml", format!("{config}\n[confirm]\nmin_seconds = 3\n"));
        server.run(&["systemctl", "restart", "sshfix-agent.service"]).expect_ok();
        test(server);
    });
}

/// Makes a change that waits for its end in this test; its id.
#[track_caller]
fn pending(server: &Server, arguments: &[&str]) -> String {
    pending_for(server, WITHIN, arguments)
}

/// Makes a change that waits so long; its id.
#[track_caller]
fn pending_for(server: &Server, within: &str, arguments: &[&str]) -> String {
    let change = server.ctl(&[arguments, &["--confirm-within", within, "--json"]].concat()).expect_status(5).json();
    assert_eq!((&change["state"], &change["changed"]), (&"pending".into(), &true.into()), "{change:#}");
    assert_eq!(change["plan"]["confirm"], "required");
    assert!(change["deadline"].is_string(), "{change:#}");
    change["id"].as_str().unwrap().to_owned()
}

/// Where a change is.
#[track_caller]
fn state(server: &Server, id: &str) -> String {
    one(server, id)["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn one(server: &Server, id: &str) -> Value {
    let found = server.ctl(&["changes", id, "--json"]).expect_status(0).json();
    assert_eq!(found["schema"], "sshfix.changes/1");
    found["changes"][0].clone()
}

/// Waits until a change was taken back.
#[track_caller]
fn taken_back(server: &Server, id: &str, since: Instant) {
    server.wait_until("the change is taken back", AFTER.saturating_sub(since.elapsed()), || state(server, id) == "rolled-back");
}

fn kill_agent(server: &Server) {
    server.run(&["systemctl", "kill", "--kill-whom=main", "-s", "KILL", "sshfix-agent.service"]).expect_ok();
}
