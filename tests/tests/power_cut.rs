//! Killed at any instant, the host ends in the state before or the state after: kill -9 of the agent and power cuts of the whole
//! server at random instants of changes over all subsystems, on both releases. `SSHFIX_CUTS=100` makes so many of each release;
//! run it with `--nocapture` to see the counts, and with `SSHFIX_CUTS_SEED` to repeat one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sshfix_tests::lab::{ADMIN_V4, Release, Server, root_or_skip};

/// How many cuts of each release where nobody says otherwise.
const CUTS: usize = 10;

/// What this host loads at every boot, so that a reboot alone changes nothing.
const RULES: &str = "set -e
nft delete table inet hand 2>/dev/null || true
nft -f - <<NFT
table inet hand {
    set bad { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.8 }; }
    chain input {
        type filter hook input priority 0;
        iif lo accept
        ip saddr 198.51.100.7 tcp dport 22 accept
        ip saddr @bad drop
        ip saddr 203.0.113.7 tcp dport 22 reject
    }
}
NFT
iptables-legacy -F INPUT
iptables-legacy -A INPUT -s 203.0.113.8 -j DROP
iptables-legacy -A INPUT -s 203.0.113.7 -p tcp -m tcp --dport 22 -j DROP
ipset create -exist bad hash:ip; ipset -exist add bad 203.0.113.7; ipset -exist add bad 203.0.113.8
iptables-legacy -A INPUT -m set --match-set bad src -j DROP
iptables-legacy -A INPUT -p tcp --dport 22 -m recent --name bad --rcheck -j DROP
echo / >/proc/net/xt_recent/bad; echo +203.0.113.7 >/proc/net/xt_recent/bad; echo +203.0.113.8 >/proc/net/xt_recent/bad
ip route replace blackhole 203.0.113.7
";
const UNIT: &str = "[Unit]\nDefaultDependencies=no\nAfter=lab-network.service\nBefore=network-pre.target sshfix-recover.service\n\n\
                    [Service]\nType=oneshot\nExecStart=/bin/sh /etc/lab-rules\n\n[Install]\nWantedBy=sysinit.target\n";
const HOSTS_DENY: &str = "# kept\nsshd: 203.0.113.7 203.0.113.8\n";

/// The changes that are cut, as shell scripts.
const CHANGES: [(&str, &str); 8] = [
    ("unban", "sshfix ctl unban 203.0.113.7"),
    ("ban", "sshfix ctl ban 203.0.113.70 --jail sshd"),
    ("hosts deny", "sshfix ctl hosts deny 203.0.113.70"),
    // What sshd says to everybody who connects, so that the running one can be seen to follow its file.
    ("sshd set", "sshfix ctl sshd set VersionAddendum cut"),
    (
        "firewall remove",
        "sshfix ctl firewall remove $(sshfix ctl firewall list --json | grep -o 'nft/inet/hand/input/[^\"]*/[0-9]*' | sed -n 2p)",
    ),
    ("firewall accept", "sshfix ctl firewall accept 203.0.113.8"),
    (
        "sshd set, confirmed",
        "sshfix ctl sshd set VersionAddendum cut --json > /root/change || true; sshfix ctl confirm $(grep -o '\"id\":\"[^\"]*' /root/change | cut -d '\"' -f 4)",
    ),
    (
        "hosts deny, confirmed",
        "sshfix ctl hosts deny 203.0.113.70 --json > /root/change || true; sshfix ctl confirm $(grep -o '\"id\":\"[^\"]*' /root/change | cut -d '\"' -f 4)",
    ),
];

/// What a cut is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Agent,
    Power,
}

/// What outlives the kernel, and what does not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    disk: String,
    kernel: String,
}

fn snapshot(server: &Server) -> Snapshot {
    let disk = "cat /etc/hosts.allow /etc/hosts.deny /etc/ssh/sshd_config; ls -a /etc /etc/ssh | grep sshfix || true; \
                stat -c '%a %u %g %n' /etc/hosts.allow /etc/hosts.deny /etc/ssh/sshd_config; sshd -T | grep -i versionaddendum; \
                fail2ban-client get sshd banip | tr ' ' '\\n' | sort";
    let kernel = "nft -s list table inet hand; iptables-legacy -S; ipset save | grep ^add | sort; ip route show type blackhole; \
                  cut -d ' ' -f 1 /proc/net/xt_recent/bad | sort";
    // While sshd reads its files again, nobody listens for a moment.
    let mut banner = String::new();
    server.wait_until("sshd says who it is", Duration::from_mins(1), || {
        banner = server.run(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22 && timeout 5 head -n 1 <&3"]).stdout;
        !banner.is_empty()
    });
    Snapshot { disk: server.sh(disk).expect_ok() + &banner, kernel: server.sh(kernel).expect_ok() }
}

/// Everything as at the beginning, whatever was changed.
fn reset(server: &Server) {
    let waiting = server.ctl(&["status", "--json"]).expect_status(0).json()["waiting"].clone();
    for change in waiting.as_array().into_iter().flatten() {
        server.ctl(&["rollback", change["id"].as_str().unwrap()]).expect_status(0);
    }
    server.write("/etc/hosts.deny", HOSTS_DENY);
    server.sh("cmp -s /root/sshd_config /etc/ssh/sshd_config || { cat /root/sshd_config >/etc/ssh/sshd_config; systemctl reload ssh; }").expect_ok();
    server.sh("sh /etc/lab-rules; fail2ban-client set sshd banip 203.0.113.7 203.0.113.8; fail2ban-client set sshd unbanip 203.0.113.70").expect_ok();
}

fn newest(server: &Server) -> Option<Value> {
    let changes = server.ctl(&["changes", "--json"]).expect_status(0).json();
    changes["changes"].as_array().unwrap().first().cloned()
}

/// A small generator (xorshift64*): the same cuts again for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn prepare(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    // A campaign takes longer than the usual ten minutes of a ban.
    server.write("/etc/fail2ban/jail.d/zz-long.local", "[sshd]\nbantime = 1w\n");
    server.run(&["systemctl", "restart", "fail2ban"]).expect_ok();
    server.wait_for_fail2ban();
    server.write("/etc/lab-rules", RULES);
    server.sh("cp /etc/ssh/sshd_config /root/").expect_ok();
    server.write("/etc/systemd/system/lab-rules.service", UNIT);
    server.run(&["systemctl", "enable", "lab-rules.service"]).expect_ok();
    reset(&server);
    server
}

/// Whether the agent answers and nothing is under way or stuck, but perhaps a change that waits.
fn settled(server: &Server) -> bool {
    let status = server.ctl(&["status", "--json"]);
    status.status == 0
        && status.json()["waiting"].as_array().is_none_or(|waiting| waiting.iter().all(|change| change["state"] == "pending"))
}

fn cut_at_random_instants(release: Release) {
    if !root_or_skip() {
        return;
    }
    let mut server = prepare(release);
    let before = snapshot(&server);
    // Each change once, uncut: how long it takes and what it makes.
    let mut planned = BTreeMap::new();
    for (name, script) in CHANGES {
        let started = Instant::now();
        let output = server.sh(script);
        assert!([0, 5].contains(&output.status), "{name}: {output:#?}");
        planned.insert(name, (started.elapsed(), snapshot(&server)));
        reset(&server);
        assert_eq!(snapshot(&server), before, "after {name}");
    }
    let seed = number("SSHFIX_CUTS_SEED").unwrap_or_else(|| u64::from(std::process::id()) | 1 << 40);
    let cuts = number("SSHFIX_CUTS").map_or(CUTS, |cuts| usize::try_from(cuts).unwrap());
    let mut random = Random(seed);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for index in 0..cuts {
        let (name, script) = CHANGES[index % CHANGES.len()];
        let cut = if random.below(2) == 0 { Cut::Agent } else { Cut::Power };
        let (time, after) = &planned[name];
        let limit = u64::try_from(time.as_micros()).unwrap() * 5 / 4;
        let instant = Duration::from_micros(random.below(limit));
        let said = format!("{release}: seed {seed}, cut {index}: {cut:?} {instant:?} into {name}");
        let earlier = newest(&server);

        let leader = server.leader().to_string();
        let mut client = Command::new("nsenter")
            .args(["-t", &leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--", "sh", "-c", script])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter runs");
        std::thread::sleep(instant);
        match cut {
            Cut::Agent => {
                server.run(&["systemctl", "kill", "--kill-whom=main", "-s", "KILL", "sshfix-agent.service"]).expect_ok();
            }
            Cut::Power => {
                server.power_cut();
                // Returns when the admin has logged in.
                server.start();
                server.wait_for_fail2ban();
            }
        }
        client.wait().expect("the client ends");
        server.wait_until(&said, Duration::from_mins(3), || settled(&server));
        let login = server.ssh_beside_reload(ADMIN_V4);
        let log = || server.sh("journalctl --no-pager -b -u ssh -u sshfix-recover -u sshfix-agent -n 60").stdout;
        assert!(login.ok, "{said}: the admin must get in: {}\n{}", login.stderr, log());

        let change = newest(&server)
            .filter(|change| Some(change) != earlier.as_ref() && earlier.as_ref().is_none_or(|e| e["id"] != change["id"]));
        let state = change.as_ref().map_or("not begun", |change| change["state"].as_str().unwrap()).to_owned();
        // A change that was made and not confirmed keeps what it would put back.
        let unconfirmed = &planned[name.trim_end_matches(", confirmed")].1;
        let expected = match state.as_str() {
            "not begun" | "rolled-back" => &before,
            "pending" => unconfirmed,
            "confirmed" => after,
            other => panic!("{said}: {other}: {change:#?}"),
        };
        // fail2ban answers before it has banned again whom it has in its database.
        let stays =
            ["203.0.113.8", "203.0.113.7"].into_iter().take(if expected.disk.contains("\n203.0.113.7\n") { 2 } else { 1 });
        server.wait_until("fail2ban has its bans again", Duration::from_mins(3), || {
            let banned = server.sh("fail2ban-client get sshd banip").expect_ok();
            stays.clone().all(|address| banned.split_whitespace().any(|one| one == address))
        });
        let now = snapshot(&server);
        assert_eq!(now.disk, expected.disk, "{said}: {state}");
        // What a boot loads is what it loaded before: the kernel forgot the rest.
        let kernel = if cut == Cut::Power { &before.kernel } else { &expected.kernel };
        assert_eq!(&now.kernel, kernel, "{said}: {state}");
        assert!(cut == Cut::Agent || state != "pending", "{said}: nothing waits after a reboot");
        *counts.entry(format!("{cut:?}, {name}: {state}")).or_default() += 1;
        reset(&server);
        assert_eq!(snapshot(&server), before, "{said}: put back for the next");
    }
    println!("{release}: {cuts} cuts with seed {seed}, every one as before or as planned");
    for (what, count) in counts {
        println!("{count:5}  {what}");
    }
}

#[test]
fn a_cut_at_any_instant_leaves_the_state_before_or_after_on_debian_12() {
    cut_at_random_instants(Release::Bookworm);
}

#[test]
fn a_cut_at_any_instant_leaves_the_state_before_or_after_on_debian_13() {
    cut_at_random_instants(Release::Trixie);
}
