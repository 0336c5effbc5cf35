//! iptables-legacy against the real kernel, in throw-away network namespaces, with rulesets that the real iptables loaded.
//! Needs root; without it the tests say so, and fail under `CI=true`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};
use sshfix_agent::subsystem::xtables::{apply, observe};
use sshfix_policy::address::Source;
use sshfix_policy::host::{Done, Part, StepError};
use sshfix_policy::subsystem::xtables::step::Step;
use sshfix_policy::subsystem::xtables::{Hook, Place, State};

/// The lock of all iptables programs is one for the whole machine; only one test holds it for seconds.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the test in a thread with a network namespace of its own, which ends with it.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(program);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}\n{input:.2000}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn restore(v6: bool, ruleset: &str) {
    run(&tool(v6, "restore"), &["--counters", "-w", "10"], ruleset);
}

fn tool(v6: bool, what: &str) -> String {
    format!("/usr/sbin/{}-legacy-{what}", if v6 { "ip6tables" } else { "iptables" })
}

/// What iptables-legacy-save prints, counters included, the two lines with the date left out.
fn saved(v6: bool) -> String {
    let text = run(&tool(v6, "save"), &["-c"], "");
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

fn look() -> State {
    match observe() {
        Part::Present(state) => state,
        Part::Absent(why) | Part::Unreadable(why) => panic!("{why}"),
    }
}

fn names() -> String {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    read("/proc/thread-self/net/ip_tables_names") + &read("/proc/thread-self/net/ip6_tables_names")
}

fn place(v6: bool, table: &str, chain: &str, position: usize) -> Place {
    Place { v6, table: table.to_owned(), chain: chain.to_owned(), position }
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

/// Loads the rules one by one; each, read from the kernel's bytes, is drawn as iptables-save prints it.
fn draws_like_iptables_save(v6: bool, table: &str, rules: &[&str]) {
    let mut wrong = String::new();
    for rule in rules {
        let chain = rule.split(' ').nth(1).unwrap();
        restore(v6, &format!("*{table}\n:user - [0:0]\n{rule}\nCOMMIT\n"));
        let state = look();
        let held = &state.table(v6, table).unwrap();
        let held = held.chain(chain).unwrap().rules.last().unwrap();
        let drawn = held.draw(v6, &state.set_names);
        if Some(&drawn) != held.save.as_ref() || drawn.contains("not decoded") {
            wrong.push_str(&format!("loaded  {rule}\ndrawn   {drawn}\nprinted {:?}\n\n", held.save));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn looking_creates_no_table() {
    in_namespace(|| {
        assert_eq!(names(), "");
        assert!(matches!(observe(), Part::Absent(_)));
        assert_eq!(names(), "", "observing made the kernel create a table");
        restore(false, "*mangle\n-A INPUT -s 203.0.113.7/32 -j DROP\nCOMMIT\n");
        let state = look();
        assert_eq!((state.v4.len(), state.v6.len()), (1, 0));
        assert_eq!(names(), "mangle\n");
    });
}

#[test]
fn ipv4_rules_are_drawn_as_iptables_save_prints_them() {
    in_namespace(|| {
        run("/usr/sbin/ipset", &["create", "bad", "hash:ip"], "");
        run("/usr/sbin/ipset", &["create", "pairs", "hash:net,port"], "");
        draws_like_iptables_save(
            false,
            "filter",
            &[
                "-A INPUT",
                "-A INPUT -j ACCEPT",
                "-A INPUT -s 203.0.113.7 -j DROP",
                "-A INPUT ! -s 203.0.113.0/24 -d 198.51.100.0/255.255.255.0 -i eth0 -j user",
                "-A INPUT -s 10.0.0.1/255.0.255.0 ! -i eth+ -g user",
                "-A FORWARD -i a+ ! -o abcdefghijklmno -j RETURN",
                "-A INPUT -f -j DROP",
                "-A INPUT ! -f -j DROP",
                "-A INPUT -p tcp -j DROP",
                "-A INPUT ! -p udp -j DROP",
                "-A INPUT -p 47 -j DROP",
                "-A INPUT -p icmp -m icmp --icmp-type any -j DROP",
                "-A INPUT -p icmp -m icmp --icmp-type echo-request -j DROP",
                "-A INPUT -p icmp -m icmp ! --icmp-type 3/4 -j DROP",
                "-A INPUT -p tcp -m tcp --dport 22 -j DROP",
                "-A INPUT -p tcp -m tcp ! --sport 1024:65535 ! --dport 22:23 -j DROP",
                "-A INPUT -p tcp -m tcp --syn -j DROP",
                "-A INPUT -p tcp -m tcp ! --syn -j DROP",
                "-A INPUT -p tcp -m tcp --tcp-flags ALL NONE -j DROP",
                "-A INPUT -p tcp -m tcp --tcp-option 8 -j DROP",
                "-A INPUT -p udp -m udp --sport 53 ! --dport 1:10 -j DROP",
                "-A INPUT -p tcp -m multiport --dports 22,2222 -j DROP",
                "-A INPUT -p tcp -m multiport ! --sports 1:1023,8080 -j DROP",
                "-A INPUT -p tcp -m multiport --ports 22 -j DROP",
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A INPUT -m conntrack ! --ctstate NEW,INVALID,UNTRACKED,DNAT,SNAT -j ACCEPT",
                "-A INPUT -m conntrack --ctproto 6 --ctorigsrc 203.0.113.7 ! --ctorigdst 198.51.100.0/24 -j ACCEPT",
                "-A INPUT -m conntrack --ctproto tcp --ctorigdstport 22:23 --ctstatus ASSURED,CONFIRMED --ctdir ORIGINAL -j ACCEPT",
                "-A INPUT -m conntrack --ctexpire 1:100 --ctdir REPLY -j ACCEPT",
                "-A INPUT -m state --state NEW -j ACCEPT",
                "-A INPUT -m state --state RELATED,ESTABLISHED,UNTRACKED -j ACCEPT",
                "-A INPUT -m set --match-set bad src -j DROP",
                "-A INPUT -m set ! --match-set pairs src,dst --return-nomatch -j DROP",
                "-A INPUT -m set --match-set pairs src,dst ! --update-counters --packets-gt 5 ! --bytes-eq 7 -j DROP",
                "-A INPUT -m recent --set --name SSH --rsource",
                "-A INPUT -m recent --update --seconds 60 --hitcount 4 --rttl --name SSH --rsource -j DROP",
                "-A INPUT -m recent ! --rcheck --seconds 60 --reap --name SSH --mask 255.255.255.0 --rdest -j DROP",
                "-A INPUT -m recent --remove --name SSH -j DROP",
                "-A INPUT -m limit --limit 10/min -j ACCEPT",
                "-A INPUT -m limit --limit 3/hour --limit-burst 7 -j ACCEPT",
                "-A INPUT -m limit --limit 6/day -j ACCEPT",
                "-A INPUT -m limit --limit 10000/s -j ACCEPT",
                "-A INPUT -m hashlimit --hashlimit-upto 3/min --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name ssh -j ACCEPT",
                "-A INPUT -m hashlimit --hashlimit-above 100/sec --hashlimit-mode srcip,dstport --hashlimit-srcmask 24 --hashlimit-name a --hashlimit-htable-expire 5000 --hashlimit-htable-size 1024 --hashlimit-htable-max 4096 --hashlimit-htable-gcinterval 2000 -j DROP",
                "-A INPUT -p tcp -m connlimit --connlimit-above 3 --connlimit-mask 32 -j REJECT",
                "-A INPUT -p tcp -m connlimit --connlimit-upto 3 --connlimit-mask 24 --connlimit-daddr -j ACCEPT",
                "-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT",
                "-A INPUT -m addrtype ! --src-type LOCAL,BROADCAST ! --dst-type UNICAST --limit-iface-in -j ACCEPT",
                "-A INPUT -m mac --mac-source 02:00:00:00:00:ab -j ACCEPT",
                "-A INPUT -m mac ! --mac-source 02:00:00:00:00:ab -j ACCEPT",
                "-A INPUT -m mark --mark 0x1 -j ACCEPT",
                "-A INPUT -m mark ! --mark 0x10/0xf0 -j ACCEPT",
                "-A INPUT -m connmark --mark 0x1/0xff -j ACCEPT",
                "-A INPUT -m comment --comment plain-comment -j ACCEPT",
                "-A INPUT -m comment --comment \"it's a \\\"quoted\\\" \\\\ one\" -j ACCEPT",
                "-A OUTPUT -m owner --uid-owner 0 -j ACCEPT",
                "-A OUTPUT -m owner ! --uid-owner 1000-2000 --gid-owner 5 -j ACCEPT",
                "-A OUTPUT -m owner ! --socket-exists -j ACCEPT",
                "-A INPUT -m time --timestart 08:00 --timestop 17:30:15 --weekdays Mon,Tue,Fri -j ACCEPT",
                "-A INPUT -m time --datestart 2026-01-01T00:00:00 --datestop 2026-12-31T23:59:59 --monthdays 1,15 --kerneltz -j ACCEPT",
                "-A INPUT -m time --timestart 23:00 --timestop 01:00 --contiguous ! --weekdays Sun -j ACCEPT",
                "-A INPUT -m iprange --src-range 203.0.113.1-203.0.113.9 -j DROP",
                "-A INPUT -m iprange ! --src-range 203.0.113.1-203.0.113.9 ! --dst-range 10.0.0.1-10.0.0.2 -j DROP",
                "-A INPUT -p tcp -m tcp --syn -m tcpmss --mss 1:500 -j DROP",
                "-A INPUT -p tcp -m tcp --syn -m tcpmss ! --mss 536 -j DROP",
                "-A INPUT -m length --length 0:100 -j DROP",
                "-A INPUT -m length ! --length 40 -j DROP",
                "-A INPUT -m pkttype --pkt-type broadcast -j DROP",
                "-A INPUT -m pkttype ! --pkt-type multicast -j DROP",
                "-A INPUT -m physdev --physdev-in eth0 -j DROP",
                "-A FORWARD -m physdev --physdev-is-bridged ! --physdev-in a+ --physdev-out b -j DROP",
                "-A INPUT -m physdev ! --physdev-is-in -j DROP",
                "-A INPUT -m socket --transparent --nowildcard -j ACCEPT",
                "-A INPUT -m statistic --mode random --probability 0.25 -j DROP",
                "-A INPUT -m statistic --mode random ! --probability 0.33 -j DROP",
                "-A INPUT -m statistic --mode nth --every 4 --packet 1 -j DROP",
                "-A INPUT -m quota --quota 100000 -j ACCEPT",
                "-A INPUT -m quota ! --quota 100000 -j ACCEPT",
                "-A OUTPUT -m cgroup --cgroup 7 -j ACCEPT",
                "-A INPUT -m dscp --dscp 0x0a -j ACCEPT",
                "-A INPUT -m dscp ! --dscp-class EF -j ACCEPT",
                "-A INPUT -m tos --tos 0x10/0x3f -j ACCEPT",
                "-A INPUT -m tos ! --tos 0x10 -j ACCEPT",
                "-A INPUT -m ttl --ttl-eq 64 -j ACCEPT",
                "-A INPUT -m ttl ! --ttl-eq 64 -j ACCEPT",
                "-A INPUT -m ttl --ttl-lt 64 -j ACCEPT",
                "-A INPUT -m ttl --ttl-gt 64 -j ACCEPT",
                "-A INPUT -m helper --helper ftp -j ACCEPT",
                "-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW -m recent --set --name A -m comment --comment \"three matches\" -j user",
                "-A user -j RETURN",
                "-A INPUT -j REJECT",
                "-A INPUT -p tcp -j REJECT --reject-with tcp-reset",
                "-A INPUT -j REJECT --reject-with icmp-admin-prohibited",
                "-A INPUT -j REJECT --reject-with icmp-host-prohibited",
                "-A INPUT -j REJECT --reject-with icmp-net-unreachable",
                "-A INPUT -j REJECT --reject-with icmp-proto-unreachable",
                "-A INPUT -j LOG",
                "-A INPUT -j LOG --log-prefix \"[UFW BLOCK] \" --log-level debug --log-tcp-options --log-uid",
                "-A INPUT -j LOG --log-prefix plain --log-tcp-sequence --log-ip-options --log-macdecode",
                "-A INPUT -j NFLOG --nflog-prefix x --nflog-group 5 --nflog-threshold 3",
                "-A INPUT -j NFLOG --nflog-size 100",
                "-A INPUT -j NFQUEUE --queue-num 3 --queue-bypass",
                "-A INPUT -j NFQUEUE --queue-balance 0:3 --queue-cpu-fanout",
                "-A INPUT -j SET --add-set bad src --exist --timeout 60",
                "-A INPUT -j SET --del-set pairs src,dst",
                "-A INPUT -j AUDIT --type accept",
            ],
        );
        draws_like_iptables_save(
            false,
            "mangle",
            &[
                "-A INPUT -j MARK --set-mark 5",
                "-A INPUT -j MARK --or-mark 0x10",
                "-A PREROUTING -j CONNMARK --set-mark 1",
                "-A PREROUTING -j CONNMARK --save-mark",
                "-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff00",
                "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
                "-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400",
                "-A OUTPUT -j DSCP --set-dscp 0x0a",
                "-A OUTPUT -j TOS --set-tos 0x10/0x3f",
                "-A POSTROUTING -j CLASSIFY --set-class 1:a0",
                "-A PREROUTING -p tcp -j TPROXY --on-port 3128 --on-ip 127.0.0.1 --tproxy-mark 0x1/0x1",
                "-A PREROUTING -m rpfilter --loose --validmark --invert -j DROP",
            ],
        );
        draws_like_iptables_save(
            false,
            "raw",
            &[
                "-A PREROUTING -p tcp -m tcp --dport 22 -j NOTRACK",
                "-A PREROUTING -j CT --notrack",
                "-A PREROUTING -j CT --zone 5",
                "-A PREROUTING -j CT --ctevents new,destroy --zone-orig mark",
                "-A PREROUTING -j TRACE",
            ],
        );
        draws_like_iptables_save(
            false,
            "nat",
            &[
                "-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22",
                "-A PREROUTING -p tcp -j REDIRECT --to-ports 1000-1010 --random",
                "-A PREROUTING -j REDIRECT",
                "-A PREROUTING -p tcp -m tcp --dport 22 -j DNAT --to-destination 10.0.0.5:2222",
                "-A PREROUTING -j DNAT --to-destination 10.0.0.5-10.0.0.9 --persistent",
                "-A PREROUTING -p tcp -j DNAT --to-destination :2200-2210 --random",
                "-A POSTROUTING -j SNAT --to-source 198.51.100.1",
                "-A POSTROUTING -p tcp -j SNAT --to-source 198.51.100.1-198.51.100.9:1024-2000",
                "-A POSTROUTING -j MASQUERADE",
                "-A POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-2000 --random",
                "-A POSTROUTING -j MASQUERADE --random-fully",
            ],
        );
    });
}

#[test]
fn ipv6_rules_are_drawn_as_ip6tables_save_prints_them() {
    in_namespace(|| {
        run("/usr/sbin/ipset", &["create", "bad6", "hash:ip", "family", "inet6"], "");
        draws_like_iptables_save(
            true,
            "filter",
            &[
                "-A INPUT",
                "-A INPUT -s 2001:db8::7 -j DROP",
                "-A INPUT ! -s 2001:db8::/32 ! -d ::1 -i eth0 ! -p tcp -j user",
                "-A INPUT -s ::/1 -g user",
                "-A INPUT -s ::ffff:203.0.113.7 -j DROP",
                "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT",
                "-A INPUT -p ipv6-icmp -m icmp6 ! --icmpv6-type 1/4 -j ACCEPT",
                "-A INPUT -p tcp -m tcp --dport 22 -j DROP",
                "-A INPUT -p tcp -m multiport --dports 22,2222 -j DROP",
                "-A INPUT -m conntrack --ctorigsrc 2001:db8::/32 --ctorigdst ::1 -j ACCEPT",
                "-A INPUT -m set --match-set bad6 src -j DROP",
                "-A INPUT -m recent --update --seconds 60 --name SSH --rsource -j DROP",
                "-A INPUT -m connlimit --connlimit-above 3 --connlimit-mask 64 -j REJECT",
                "-A INPUT -m connlimit --connlimit-above 3 -j REJECT",
                "-A INPUT -m hashlimit --hashlimit-upto 3/min --hashlimit-mode srcip --hashlimit-srcmask 64 --hashlimit-name s -j ACCEPT",
                "-A INPUT -m iprange --src-range 2001:db8::1-2001:db8::9 -j DROP",
                "-A INPUT -m hl --hl-eq 255 -j ACCEPT",
                "-A INPUT -m hl ! --hl-eq 255 -j ACCEPT",
                "-A INPUT -m hl --hl-lt 5 -j ACCEPT",
                "-A INPUT -m hl --hl-gt 5 -j ACCEPT",
                "-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT",
                "-A INPUT -j REJECT",
                "-A INPUT -j REJECT --reject-with icmp6-adm-prohibited",
                "-A INPUT -j REJECT --reject-with icmp6-no-route",
                "-A INPUT -j REJECT --reject-with icmp6-addr-unreachable",
                "-A INPUT -j REJECT --reject-with icmp6-policy-fail",
                "-A INPUT -j REJECT --reject-with icmp6-reject-route",
                "-A INPUT -p tcp -j REJECT --reject-with tcp-reset",
            ],
        );
        draws_like_iptables_save(
            true,
            "nat",
            &[
                "-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22",
                "-A PREROUTING -p tcp -m tcp --dport 22 -j DNAT --to-destination [2001:db8::5]:2222",
                "-A PREROUTING -j DNAT --to-destination 2001:db8::5",
                "-A POSTROUTING -j MASQUERADE",
                "-A POSTROUTING -j SNAT --to-source 2001:db8::1-2001:db8::9",
            ],
        );
    });
}

const DUPLICATES: &str = "*filter
:INPUT ACCEPT [10:600]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:f2b-sshd - [0:0]
[1:60] -A INPUT -p tcp -m multiport --dports 22,2222 -j f2b-sshd
[2:120] -A INPUT -s ADDRESS -j DROP
[3:180] -A INPUT -s ADDRESS0 -j DROP
[4:240] -A INPUT -s ADDRESS -j DROP
[5:300] -A INPUT -m comment --comment \"it's the \\\"last\\\" one\" -j ACCEPT
[6:360] -A f2b-sshd -s ADDRESS -j REJECT
[7:420] -A f2b-sshd -j RETURN
COMMIT
";

fn duplicates(v6: bool) -> String {
    DUPLICATES.replace("ADDRESS", if v6 { "2001:db8::1" } else { "10.0.0.1" })
}

/// Loads the ruleset for both families, so that each test also shows that the other one stays as it is.
fn load_both() -> (String, String) {
    for v6 in [false, true] {
        restore(v6, &duplicates(v6));
    }
    (saved(false), saved(true))
}

#[test]
fn deleting_one_of_two_equal_rules_takes_exactly_that_one_and_undo_gives_every_byte_back() {
    in_namespace(|| {
        load_both();
        for v6 in [false, true] {
            for position in 1..=5 {
                let before = (saved(v6), saved(!v6));
                let step = Step::delete(&look(), &place(v6, "filter", "INPUT", position), None).unwrap();
                assert_eq!(apply(&step), Ok(Done::Changed), "{position}");
                // The line that is missing is the one at this position, told by its counters.
                let gone: Vec<&str> = before.0.lines().filter(|line| !saved(v6).contains(line)).collect();
                assert_eq!(gone.len(), 1, "{gone:?}");
                assert!(gone[0].starts_with(&format!("[{position}:{}] -A INPUT", position * 60)), "{gone:?}");
                assert_eq!(apply(&step), Ok(Done::Already));
                assert_eq!(apply(&step.inverse()), Ok(Done::Changed));
                assert_eq!((saved(v6), saved(!v6)), before);
                assert_eq!(apply(&step.inverse()), Ok(Done::Already));
            }
        }
    });
}

#[test]
fn a_plan_that_deletes_both_equal_rules_is_done_and_undone_in_reverse_order() {
    in_namespace(|| {
        let before = load_both();
        let state = look();
        let first = Step::delete(&state, &place(false, "filter", "INPUT", 2), None).unwrap();
        assert_eq!(apply(&first), Ok(Done::Changed));
        let second = Step::delete(&look(), &place(false, "filter", "INPUT", 3), None).unwrap();
        assert_eq!(apply(&second), Ok(Done::Changed));
        assert!(!saved(false).contains("INPUT -s 10.0.0.1/32"));
        assert!(saved(false).contains("-A INPUT -s 10.0.0.10/32 -j DROP"));
        assert_eq!(apply(&first), Ok(Done::Already));
        assert_eq!(apply(&second.inverse()), Ok(Done::Changed));
        assert_eq!(apply(&first.inverse()), Ok(Done::Changed));
        assert_eq!((saved(false), saved(true)), before);
    });
}

#[test]
fn an_accept_is_inserted_before_the_rule_that_decides_and_taken_out_again() {
    in_namespace(|| {
        load_both();
        for (v6, address) in [(false, "10.0.0.1"), (true, "2001:db8::1")] {
            let before = saved(v6);
            let width = if v6 { 128 } else { 32 };
            for (chain, last) in [("INPUT", 6), ("f2b-sshd", 3)] {
                for position in 1..=last {
                    let step = Step::accept(&look(), &place(v6, "filter", chain, position), source(address), 2222).unwrap();
                    assert_eq!(apply(&step), Ok(Done::Changed));
                    let line = format!("-A {chain} -s {address}/{width} -p tcp -m tcp --dport 2222 -j ACCEPT");
                    let text = saved(v6);
                    let rules: Vec<&str> = text.lines().filter(|line| line.contains(&format!("-A {chain} "))).collect();
                    assert!(rules[position - 1].ends_with(&line), "{rules:?}");
                    assert_eq!(apply(&step), Ok(Done::Already));
                    assert_eq!(apply(&step.inverse()), Ok(Done::Changed));
                    assert_eq!(saved(v6), before);
                }
            }
            assert!(Step::accept(&look(), &place(!v6, "filter", "INPUT", 1), source(address), 22).is_none());
        }
    });
}

#[test]
fn a_step_on_a_chain_that_changed_finds_its_rule_or_says_drifted_and_changes_nothing() {
    in_namespace(|| {
        load_both();
        let state = look();
        let delete = Step::delete(&state, &place(false, "filter", "INPUT", 4), None).unwrap();
        let iptables = |args: &[&str]| run("/usr/sbin/iptables-legacy", &[&["-w", "10"], args].concat(), "");

        // Somebody put a rule at the head: the same copy is still the one that goes.
        iptables(&["-I", "INPUT", "-s", "192.0.2.1", "-j", "DROP"]);
        assert_eq!(apply(&delete), Ok(Done::Changed));
        assert!(!saved(false).contains("[4:240]"));
        // Its neighbours are still neighbours, one position further down.
        assert_eq!(apply(&delete.inverse()), Ok(Done::Changed));
        let text = saved(false);
        let order: Vec<&str> = text.lines().filter(|line| line.contains("-A INPUT")).map(|line| &line[..6]).collect();
        assert_eq!(order, ["[0:0] ", "[1:60]", "[2:120", "[3:180", "[4:240", "[5:300"]);

        // A third copy: it is not certain any more which one was meant.
        iptables(&["-A", "INPUT", "-s", "10.0.0.1", "-j", "DROP"]);
        let before = saved(false);
        assert!(matches!(apply(&delete), Err(StepError::Drifted(_))));
        // A neighbour is gone: nobody knows where it stood.
        iptables(&["-D", "INPUT", "7"]);
        assert_eq!(apply(&delete), Ok(Done::Changed));
        iptables(&["-D", "INPUT", "-m", "comment", "--comment", "it's the \"last\" one", "-j", "ACCEPT"]);
        assert!(matches!(apply(&delete.inverse()), Err(StepError::Drifted(_))), "{before}");
        iptables(&["-F"]);
        iptables(&["-X"]);
        let gone = Step::delete(&state, &place(false, "filter", "f2b-sshd", 1), None).unwrap();
        assert!(matches!(apply(&gone), Err(StepError::Drifted(_))));
        assert!(matches!(apply(&gone.inverse()), Err(StepError::Drifted(_))));
    });
}

#[test]
fn a_rule_that_cannot_be_given_back_to_iptables_is_read_and_never_changed() {
    in_namespace(|| {
        // A comment with a line break makes iptables-save print two lines, the second of which says what its author likes.
        run(
            "/usr/sbin/iptables-legacy",
            &["-A", "INPUT", "-s", "10.0.0.1", "-m", "comment", "--comment", "x\n-A INPUT -j ACCEPT", "-j", "DROP"],
            "",
        );
        let state = look();
        let table = state.table(false, "filter").unwrap();
        assert_eq!(table.chain("INPUT").unwrap().rules.len(), 1);
        assert!(table.readonly.is_some());
        assert_eq!(Step::delete(&state, &place(false, "filter", "INPUT", 1), None), None);
        assert_eq!(Step::accept(&state, &place(false, "filter", "INPUT", 1), source("10.0.0.1"), 22), None);
    });
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    in_namespace(|| {
        load_both();
        let step = Step::delete(&look(), &place(false, "filter", "INPUT", 2), None).unwrap();
        let before = saved(false);
        let lock = std::fs::File::options().create(true).truncate(false).write(true).open("/run/xtables.lock").unwrap();
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
        let started = std::time::Instant::now();
        assert!(matches!(apply(&step), Err(StepError::TimedOut(why)) if why.contains("/run/xtables.lock")));
        assert!(started.elapsed() < std::time::Duration::from_secs(7));
        assert_eq!(saved(false), before);
        drop(lock);
        assert_eq!(apply(&step), Ok(Done::Changed));
    });
}
