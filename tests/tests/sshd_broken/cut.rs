//! kill -9 of the agent between any two system calls of an edit. A run is made and taken back whole to learn how many there are and
//! where files are written; then the agent is killed at places spread over all of it, densely where the files change. After each:
//! sshd takes its files, the admin gets in, the session lives, and the agent that is started again takes the edit back or finds it
//! whole. `SSHFIX_CUTS=n` makes n a release. Then the same of the writer around its renames: the edit is made all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use sshfix_tests::lab::{self, Release, Server};
use sshfix_tests::rulesets::Dice;

use super::{ADMIN, Session, files, number, prepared};

const EDIT: [&str; 4] = ["sshd", "set", "MaxAuthTries", "5"];
const MAIN: &str = "/etc/ssh/sshd_config";
const PATIENCE: Duration = Duration::from_mins(3);

const AGENT: &str = "sshfix-agent.service";
const WRITER: &str = "sshfix-write.service";

/// The main process of a service, as this machine numbers it.
fn main_process(server: &Server, unit: &str) -> u32 {
    let inside = || server.run(&["systemctl", "show", "-p", "MainPID", "--value", unit]).expect_ok();
    let mut found = None;
    server.wait_until("the service runs", PATIENCE, || {
        found = outside(server, inside().trim());
        found.is_some()
    });
    found.unwrap()
}

/// Its number here: the last of `NSpid` is the one inside, and its root is the server's.
fn outside(server: &Server, inside: &str) -> Option<u32> {
    let namespace = fs::read_link(format!("/proc/{}/ns/pid", server.leader())).ok()?;
    let mut pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let same = || fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|of| of == namespace);
        inside != "0" && numbers.split_ascii_whitespace().last() == Some(inside) && same()
    })
}

/// `cut-at` on a service.
struct Cut {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Cut {
    fn at(server: &Server, unit: &str, count: u64) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_cut-at"));
        let pid = main_process(server, unit).to_string();
        let mut child =
            Command::new(program).args([pid, count.to_string()]).stdout(Stdio::piped()).spawn().expect("cut-at can be run");
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut cut = Self { child, lines };
        assert_eq!(cut.line().as_deref(), Some("ready"));
        cut
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).unwrap_or(0);
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Lets the service go, and what was said: the count, to a hundred, and where files were written.
    fn end(mut self) -> (u64, Vec<u64>, bool) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let (mut count, mut writes, mut killed) = (0, Vec::new(), false);
        while let Some(line) = self.line() {
            let (word, value) = line.split_once(' ').unwrap();
            let value = value.parse().unwrap();
            match word {
                "count" => count = value,
                "write" => writes.push(value),
                _ => killed = true,
            }
        }
        (count, writes, killed)
    }
}

/// Takes back what waits for a confirm; whether there was something.
fn taken_back(server: &Server) -> bool {
    let status = server.ctl(&["status", "--json"]).expect_status(0).json();
    let waiting = status["waiting"].as_array().cloned().unwrap_or_default();
    for change in &waiting {
        assert_ne!(change["state"], "stuck", "{status:#}");
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
    }
    !waiting.is_empty()
}

#[test]
fn killed_between_any_two_system_calls_of_an_edit_sshd_serves_and_the_files_are_whole() {
    if !lab::root_or_skip() {
        return;
    }
    let cuts = number("SSHFIX_CUTS", 30) as u64;
    for release in Release::ALL {
        let server = prepared(release);
        let mut session = Session::open(&server);
        assert!(session.answers());
        let before = files(&server);

        // Once whole: how many calls there are, and where the files change.
        let whole = Cut::at(&server, AGENT, 0);
        server.ctl_from(ADMIN, &EDIT).expect_status(5);
        let (count, writes, _) = whole.end();
        let edited = files(&server);
        assert_ne!(before, edited);
        assert!(taken_back(&server) && files(&server) == before, "{release}: not as before");
        assert!(count > 1000 && !writes.is_empty(), "{release}: {count} calls, writes {writes:?}");

        // A third over all of it, the others around the last write: the copies sshd is asked about are before it.
        let mut dice = Dice::new(number("SSHFIX_SEED", 7) as u64, release as u64);
        let last = *writes.last().unwrap();
        let places: Vec<u64> = (0..cuts)
            .map(|n| match n % 3 {
                0 => 1 + n * count / cuts,
                1 => last.saturating_sub(20) + dice.roll(40) as u64,
                _ => last + (dice.roll(usize::try_from(count.saturating_sub(last).max(2)).unwrap()) as u64),
            })
            .collect();
        let mut report: BTreeMap<&str, usize> = BTreeMap::new();
        for (n, place) in places.iter().enumerate() {
            let cut = Cut::at(&server, AGENT, *place);
            let answer = server.ctl_from(ADMIN, &EDIT);
            let shown = format!("{release} cut {n} at call {place} of {count}, writes {writes:?}, ctl {}", answer.status);
            // Before anybody helps.
            let now = files(&server);
            // The old version is kept beside the file while the edit waits.
            let was_there = |path: &str| before.contains_key(path);
            let whole = |of: &BTreeMap<String, Vec<u8>>| {
                of.iter().filter(|(path, _)| was_there(path)).all(|(path, bytes)| now.get(path) == Some(bytes))
            };
            assert!(whole(&before) || whole(&edited), "{shown}: files between before and after");
            server.sh("sshd -t").expect_ok();
            let journal = || server.sh("journalctl -q --no-pager -n 40 -u ssh -u sshfix-agent").stdout;
            let login = server.ssh_beside_reload(ADMIN);
            assert!(login.ok, "{shown}: the admin does not get in: {}\n{}", login.stderr, journal());
            let (_, _, killed) = cut.end();
            assert!(killed || answer.status == 5, "{shown}: {answer:#?}");

            // The agent comes back by itself.
            main_process(&server, AGENT);
            let waited = taken_back(&server);
            let what = match (killed, whole(&before), waited) {
                (false, ..) => "not reached, taken back",
                (true, true, _) => "killed before the file changed",
                (true, false, true) => "killed when it was whole, taken back on request",
                (true, false, false) => "killed when the file was changed, taken back by the agent",
            };
            *report.entry(what).or_default() += 1;
            assert!(files(&server) == before, "{shown} ({what}): not as before\n{}", journal());
            server.wait_until("sshd runs what is in its files", PATIENCE, || {
                server.ctl(&["sshd", "check", "--json"]).expect_status(0).json()["running"]["state"] == "current"
            });
            assert!(server.ssh(ADMIN).ok, "{shown} ({what}): the admin does not get in afterwards\n{}", journal());
            assert!(session.answers(), "{shown} ({what}): the session was cut\n{}", journal());
        }
        writer_is_cut(&server, &before, &edited, &mut dice);
        assert!(session.answers(), "{release}: the session was cut");
        assert_eq!(
            server.sh("ls -a /etc/ssh /run/sshfix | grep -e new -e candidate || true").expect_ok(),
            "",
            "{release}: leavings"
        );
        println!("{release}: {cuts} cuts in an edit of {count} system calls, {MAIN} written at {last}: {report:?}");
        assert!(report.len() > 1, "{release}: all cuts were alike: {report:?}");
    }
}

/// The writer is killed before, at and after its renames: it is started again, and the agent's order is done.
fn writer_is_cut(server: &Server, before: &BTreeMap<String, Vec<u8>>, edited: &BTreeMap<String, Vec<u8>>, dice: &mut Dice) {
    let whole = Cut::at(server, WRITER, 0);
    server.ctl_from(ADMIN, &EDIT).expect_status(5);
    let (_, writes, _) = whole.end();
    assert!(taken_back(server) && files(server) == *before);
    let last = *writes.last().unwrap();
    for _ in 0..4 {
        let place = last.saturating_sub(6) + dice.roll(12) as u64;
        let cut = Cut::at(server, WRITER, place);
        let answer = server.ctl_from(ADMIN, &EDIT);
        let (_, _, killed) = cut.end();
        let shown = format!("{} the writer at call {place}, writes {writes:?}, killed: {killed}", server.release());
        assert_eq!(answer.status, 5, "{shown}: {answer:#?}");
        assert!(files(server) == *edited, "{shown}: not whole");
        assert!(taken_back(server) && files(server) == *before, "{shown}: not as before");
    }
}
