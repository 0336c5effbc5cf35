//! fail2ban of both releases through its own socket: what is read, what a step does, and what happens when it is dead or hangs.
//! Python's pickle is the oracle of the unpickler.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sshfix_agent::subsystem::fail2ban::Fail2ban;
use sshfix_policy::address::Source;
use sshfix_policy::host::step::Step as AnyStep;
use sshfix_policy::host::{Done, HostState, Part, Question, StepError};
use sshfix_policy::subsystem::fail2ban::pickle::{Value, decode};
use sshfix_policy::subsystem::fail2ban::{self, State, Step, Ticket};
use sshfix_policy::verdict::Connection;
use sshfix_tests::lab::{self, Release, Server};

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

fn about(sources: &[&str]) -> Question {
    Question { sources: sources.iter().map(|text| source(text)).collect(), port: 22, everybody: false }
}

fn everybody() -> Question {
    Question { sources: BTreeSet::new(), port: 22, everybody: true }
}

fn agent(server: &Server) -> Fail2ban {
    Fail2ban::new(server.path("/run/fail2ban/fail2ban.sock"))
}

#[track_caller]
fn read(fail2ban: &mut Fail2ban, question: &Question) -> State {
    match fail2ban.observe(question) {
        Part::Present(state) => state,
        other => panic!("{other:?}"),
    }
}

fn host(state: State) -> HostState {
    HostState { at: Timestamp::now(), fail2ban: Part::Present(state), ..HostState::empty() }
}

fn banned(server: &Server, jail: &str, addresses: &[&str]) {
    server.run(&[&["fail2ban-client", "set", jail, "banip"], addresses].concat()).expect_ok();
}

/// A jail without actions, so that many bans are made quickly.
fn quiet_jail(server: &Server, name: &str) {
    for command in [&["add", name, "polling"][..], &["set", name, "bantime", "3600"], &["start", name]] {
        server.run(&[&["fail2ban-client"], command].concat()).expect_ok();
    }
}

fn tickets(state: &State, jail: &str) -> Vec<String> {
    state.jail(jail).unwrap().tickets.iter().map(|ticket| ticket.source.short()).collect()
}

/// The steps that `unban` of one address would take here.
fn unban(state: &State, address: &str) -> Vec<Step> {
    let connection = Connection { source: source(address), port: 22, user: None };
    let mut steps = Vec::new();
    for block in fail2ban::blocks(&host(state.clone()), &connection) {
        let sshfix_policy::host::block::Lift::Steps(lift) = block.lift else { panic!("{:?}", block.lift) };
        steps.extend(lift);
    }
    steps
        .into_iter()
        .map(|step| match step {
            AnyStep::Fail2ban(step) => step,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn bans_of_addresses_and_ranges_are_read_with_their_times_and_lifted_one_by_one() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        let mut agent = agent(&server);
        let before = read(&mut agent, &everybody());
        assert_eq!(before.version, if release == Release::Bookworm { "1.0.2" } else { "1.1.0" });
        assert_eq!(tickets(&before, "sshd"), Vec::<String>::new());

        let start = Timestamp::now();
        banned(&server, "sshd", &["203.0.113.7", "203.0.113.70", "198.51.100.0/24", "2001:db8::7", "2001:db8:7::/48"]);
        quiet_jail(&server, "forever");
        server.run(&["fail2ban-client", "set", "forever", "bantime", "-1"]).expect_ok();
        banned(&server, "forever", &["203.0.113.7", "some user"]);

        let all = read(&mut agent, &everybody());
        assert_eq!(
            tickets(&all, "sshd"),
            ["198.51.100.0/24", "203.0.113.7", "203.0.113.70", "2001:db8::7", "2001:db8:7::/48"],
            "{release}"
        );
        assert_eq!(all.jail("forever").unwrap().others, 1);
        let one = read(&mut agent, &about(&["203.0.113.7", "198.51.100.7", "2001:db8:7::1"]));
        assert_eq!(tickets(&one, "sshd"), ["198.51.100.0/24", "203.0.113.7", "2001:db8:7::/48"]);

        // Times, in this host's zone: since within the minutes of this test, until ten minutes later; for ever has no end.
        let ticket = |jail: &str| one.jail(jail).unwrap().ticket(source("203.0.113.7")).unwrap().clone();
        let timed = ticket("sshd");
        let since = timed.since.unwrap();
        assert!((since.duration_since(start)).abs() < SignedDuration::from_mins(10), "{timed:?}");
        assert_eq!(timed.until.unwrap().duration_since(since), SignedDuration::from_mins(10));
        assert!(timed.text.starts_with("203.0.113.7 20") && timed.text.contains(" + 600 = "), "{}", timed.text);
        let forever = ticket("forever");
        assert!(forever.since.is_some() && forever.until.is_none() && forever.text.contains(" + -1 = 9999"), "{forever:?}");

        // Unban: this address in both jails, the range and the neighbours stay.
        let steps = unban(&one, "203.0.113.7");
        assert_eq!(
            steps.iter().map(Step::summary).collect::<Vec<_>>(),
            ["unban 203.0.113.7 in jail forever", "unban 203.0.113.7 in jail sshd"]
        );
        assert_eq!(unban(&one, "198.51.100.7"), [], "a range is not lifted whole for one address");
        for step in &steps {
            assert_eq!(agent.apply(step), Ok(Done::Changed), "{release}: {}", step.summary());
            // Soon after its start fail2ban may still be restoring its bans, and "not banned" is not believed.
            server.wait_until("not banned is believed", Duration::from_mins(2), || agent.apply(step) == Ok(Done::Already));
        }
        let after = host(read(&mut agent, &everybody()));
        for step in &steps {
            assert_eq!(step.holds(&after), Ok(()));
        }
        let after = read(&mut agent, &everybody());
        assert_eq!(tickets(&after, "sshd"), ["198.51.100.0/24", "203.0.113.70", "2001:db8::7", "2001:db8:7::/48"]);

        // A range that fail2ban forgot meanwhile is not asked for again: that would unban every address in it.
        let range = Step::Ticket {
            jail: "sshd".to_owned(),
            source: source("203.0.113.0/24"),
            before: Some(Ticket::new(source("203.0.113.0/24"))),
            after: None,
            leftovers: Vec::new(),
            through: Vec::new(),
        };
        assert_eq!(agent.apply(&range), Ok(Done::Already));
        assert_eq!(tickets(&read(&mut agent, &everybody()), "sshd").len(), 4);

        // Undo bans again, and the kernel feels it at once: fail2ban answers after its action ran.
        for step in steps.iter().rev() {
            assert_eq!(agent.apply(&step.inverse()), Ok(Done::Changed));
        }
        let kernel = server.sh("nft list ruleset").expect_ok();
        assert!(kernel.contains("203.0.113.7"), "{release}: {kernel}");
        assert_eq!(tickets(&read(&mut agent, &about(&["203.0.113.7"])), "sshd"), ["203.0.113.7"]);
    }
}

#[test]
fn ignoreip_entries_come_and_go_and_the_others_stay() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        for entry in ["198.51.100.0/24", "name.example.org"] {
            server.run(&["fail2ban-client", "set", "sshd", "addignoreip", entry]).expect_ok();
        }
        let mut agent = agent(&server);
        let first = read(&mut agent, &about(&["203.0.113.7"]));
        let kept = first.jail("sshd").unwrap().ignore.clone();
        assert!(kept.iter().any(|entry| entry == "name.example.org") && first.jail("sshd").unwrap().ignore_self, "{kept:?}");

        for who in ["203.0.113.7", "2001:db8::7", "2001:db8:7::/48"] {
            let state = host(read(&mut agent, &about(&[who])));
            let steps = fail2ban::plan_ignore(&state, source(who), Some("sshd")).unwrap();
            let [AnyStep::Fail2ban(step)] = steps.as_slice() else { panic!("{steps:?}") };
            assert_eq!(agent.apply(step), Ok(Done::Changed), "{release} {who}");
            assert_eq!(agent.apply(step), Ok(Done::Already));
            let state = host(read(&mut agent, &about(&[who])));
            assert_eq!(step.holds(&state), Ok(()));
            assert_eq!(fail2ban::plan_ignore(&state, source(who), Some("sshd")).unwrap(), []);
            let steps = fail2ban::plan_unignore(&state, source(who), None).unwrap();
            let [AnyStep::Fail2ban(back)] = steps.as_slice() else { panic!("{steps:?}") };
            assert_eq!(*back, step.inverse());
            assert_eq!(agent.apply(back), Ok(Done::Changed));
            assert_eq!(agent.apply(back), Ok(Done::Already));
        }
        assert_eq!(read(&mut agent, &about(&[])).jail("sshd").unwrap().ignore, kept);
    }
}

#[test]
fn a_fail2ban_that_is_gone_dead_or_hanging_is_said_so_and_nobody_waits_for_it() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        let mut agent = agent(&server);
        let step = Step::Ticket {
            jail: "nojail".to_owned(),
            source: source("203.0.113.7"),
            before: None,
            after: Some(Ticket::new(source("203.0.113.7"))),
            leftovers: Vec::new(),
            through: Vec::new(),
        };
        let drifted = StepError::Drifted("fail2ban has no jail nojail any more".to_owned());
        assert_eq!(agent.apply(&step), Err(drifted));

        let pid = server.run(&["systemctl", "show", "-P", "MainPID", "fail2ban"]).expect_ok();
        server.run(&["kill", "-STOP", &pid]).expect_ok();
        // The first ones fill the backlog of the server that hangs, the last cannot even connect.
        for _ in 0..4 {
            let started = Instant::now();
            let Part::Unreadable(why) = agent.observe(&everybody()) else { panic!("read from a server that hangs") };
            assert!(why.contains("did not answer") && why.contains("within 1.5 s"), "{why}");
            assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        }
        server.run(&["kill", "-CONT", &pid]).expect_ok();
        server.wait_until("it answers again", Duration::from_mins(2), || agent.observe(&everybody()).present().is_some());

        // Killed: its socket is left behind.
        server.run(&["systemctl", "mask", "--runtime", "fail2ban"]).expect_ok();
        server.run(&["kill", "-KILL", &pid]).expect_ok();
        server.wait_until(
            "it is dead",
            Duration::from_mins(2),
            || matches!(agent.observe(&everybody()), Part::Absent(why) if why.contains("is not running")),
        );
        let applied = agent.apply(&step);
        assert!(matches!(&applied, Err(StepError::Failed(why)) if why.contains("nothing was changed")), "{applied:?}");

        server.sh("rm -f /run/fail2ban/fail2ban.sock").expect_ok();
        assert!(matches!(agent.observe(&everybody()), Part::Absent(_)));
    }
}

/// Answers of a server nobody should trust: too much, cut off, other objects, nothing at all.
#[test]
fn a_server_that_answers_nonsense_is_unreadable() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    for (number, answer) in [
        &b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.<F2B_END_COMMAND>"[..],
        b"\x80\x04K\x00\x8c\x051.0.2",
        b"nonsense<F2B_END_COMMAND>",
        b"<F2B_END_COMMAND>",
        b"",
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(format!("{number}.sock"));
        let server = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        });
        let answer = Fail2ban::new(&path).observe(&everybody());
        assert!(matches!(answer, Part::Unreadable(_)), "{number}: {answer:?}");
        thread.join().unwrap();
    }
}

#[test]
fn twenty_thousand_bans_are_listed_once_and_every_change_is_seen() {
    if !lab::root_or_skip() {
        return;
    }
    for release in Release::ALL {
        let server = Server::boot(release);
        quiet_jail(&server, "big");
        let addresses: Vec<String> = (0..20_000u32).map(|i| std::net::Ipv4Addr::from(0x0a00_0000 + i * 7).to_string()).collect();
        for chunk in addresses.chunks(2_000) {
            banned(&server, "big", &chunk.iter().map(String::as_str).collect::<Vec<_>>());
        }
        banned(&server, "big", &["203.0.113.0/24"]);
        let mut agent = agent(&server);
        let question = about(&["203.0.113.7"]);
        let timed = |agent: &mut Fail2ban| {
            let started = Instant::now();
            let state = read(agent, &question);
            (started.elapsed(), state)
        };
        let (cold, state) = timed(&mut agent);
        assert_eq!(tickets(&state, "big"), ["203.0.113.0/24"]);
        assert!(state.jail("big").unwrap().tickets[0].since.is_some());
        let warm = (0..5).map(|_| timed(&mut agent).0).min().unwrap();
        eprintln!("{release}: 20,001 bans, cold {cold:?}, warm {warm:?}");
        assert!(warm * 5 < cold, "{release}: cold {cold:?}, warm {warm:?}");

        // One comes, one goes, in the same breath: the number of bans is the same, the list is not.
        banned(&server, "big", &["203.0.113.7"]);
        server.run(&["fail2ban-client", "set", "big", "unbanip", "203.0.113.0/24"]).expect_ok();
        assert_eq!(tickets(&read(&mut agent, &question), "big"), ["203.0.113.7"], "{release}");
        assert_eq!(read(&mut agent, &everybody()).jail("big").unwrap().tickets.len(), 20_001);

        // Another server process, another list.
        server.run(&["systemctl", "restart", "fail2ban"]).expect_ok();
        server.wait_for_fail2ban();
        let state = read(&mut agent, &everybody());
        assert!(state.jail("big").is_none(), "a jail that is in no configuration file is gone");
    }
}

/// What Python makes of random data, in every protocol that a fail2ban of the last fifteen years may speak.
const ORACLE: &str = r#"
import pickle, random, sys
random.seed(int(sys.argv[1]))
class Str:
    def __init__(self, text): self.text = text
    def __reduce__(self): return (str, (self.text,))
def make(depth):
    kind = random.randrange(9 if depth else 6)
    if kind == 0: return None, "None"
    if kind == 1: b = random.random() < .5; return b, "Bool(%s)" % str(b).lower()
    if kind == 2: i = random.choice([0, 1, 255, 256, 65535, 65536, -1, 2**31, -2**31, 2**62, -2**63, random.randrange(10**6)]); return i, "Int(%d)" % i
    if kind in (3, 4, 5):
        t = random.choice(["", "sshd", "203.0.113.7", "2001:db8::7", "\u00fc\u4e2d", "x" * 300])
        return (Str(t) if kind == 5 else t), 'Text("%s")' % t
    items = [make(depth - 1) for _ in range(random.randrange(5))]
    values, shown = [i[0] for i in items], ", ".join(i[1] for i in items)
    if kind == 6: return values, "List([%s])" % shown
    if kind == 7: return tuple(values), "Tuple([%s])" % shown
    cls = random.choice([Exception, ValueError, KeyError])
    return cls(*values), 'Object { class: "builtins.%s", args: [%s] }' % (cls.__name__, shown)
for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
    for _ in range(400):
        value, shown = make(4)
        print(pickle.dumps(value, protocol).hex(), shown)
"#;

#[test]
fn the_unpickler_reads_what_python_wrote() {
    let seed = "20261121";
    let output = lab::run(&["python3", "-c", ORACLE, seed]).expect_ok();
    let mut count = 0;
    for line in output.lines() {
        let (hex, want) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let value: Value = decode(&bytes).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(format!("{value:?}"), want);
        count += 1;
    }
    assert!(count >= 1_600, "{count}");
}
