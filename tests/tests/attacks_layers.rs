//! Layers around sshd that let in or keep out what sshfix does not mean: hosts behind a router, policy rules by port, ARP, `IPsec`, the age of
//! passwords, modules of PAM, folders of a chroot, shells that may not be run. Real packets and real logins judge. One server a release.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use sshfix_tests::lab::{self, CtlResult, Release, Server};

const FROM: &str = "198.51.100.7";
const OTHER: &str = "198.51.100.8";
const SERVER: &str = "203.0.113.1";
/// A host behind the server, with a server of its own on port 22.
const INNER: &str = "10.99.0.2";

fn boot(release: Release) -> Server {
    let server = Server::boot(release);
    server.install_sshfix();
    server.run(&["systemctl", "stop", "fail2ban"]).expect_ok();
    server
        .sh("useradd -m -s /bin/bash -p '*' alice
            cp -r /root/.ssh /home/alice/; chown -R alice: /home/alice; chmod 755 /home/alice
            useradd -m -s /bin/bash -G sshfix mallory
            install -d -m 700 -o mallory -g mallory /home/mallory/.ssh
            runuser -u mallory -- ssh-keygen -q -t ed25519 -N '' -f /home/mallory/.ssh/id_ed25519
            echo \"mallory $(cut -d ' ' -f 1,2 /home/mallory/.ssh/id_ed25519.pub)\" >>/etc/sshfix/allowed_signers
            ! sshd -T | grep -q persourcepenalties || echo 'PerSourcePenalties no' >/etc/ssh/sshd_config.d/10-quiet.conf
            systemctl reload ssh.service")
        .expect_ok();
    let policy = server.read("/etc/sshfix/policy.toml");
    let grant = "[[grant]]\nprincipal = \"mallory\"\nnetworks = [\"198.51.100.7/32\"]\nactions = [\"diagnose\", \"unban\", \"fix\", \
                 \"allow\", \"revoke\", \"firewall-accept\"]\n";
    server.write("/etc/sshfix/policy.toml", format!("{policy}\n{grant}"));
    server
}

fn as_mallory(server: &Server, words: &[&str]) -> CtlResult {
    let who = ["runuser", "-u", "mallory", "--", "env", "HOME=/home/mallory", "/usr/local/bin/sshfix", "ctl"];
    server.run(&[&who[..], words].concat()).into()
}

/// nft 1.0 wants a rule to end before the brace.
fn nft(server: &Server, rules: &str) {
    let rules = rules.replace("; }", "\n}\n").replace("} }", "}\n}\n").replace("} chain", "}\nchain");
    server.run_with_input(&["nft", "-f", "-"], format!("flush ruleset\n{rules}").as_bytes()).expect_ok();
}

/// A host behind the server that answers on port 22.
fn router(server: &Server) {
    server
        .sh("ip netns add inner; ip link add v0 type veth peer name v1; ip link set v1 netns inner
            ip addr add 10.99.0.1/24 dev v0; ip link set v0 up
            ip -n inner addr add 10.99.0.2/24 dev v1; ip -n inner link set v1 up; ip -n inner link set lo up
            ip -n inner route add default via 10.99.0.1
            echo 1 >/proc/sys/net/ipv4/ip_forward")
        .expect_ok();
    let banner =
        "import socket; s = socket.socket(); s.bind(('10.99.0.2', 22)); s.listen(9)\nwhile True: s.accept()[0].sendall(b'inner')";
    let unit = ["systemd-run", "-q", "--unit=inner", "ip", "netns", "exec", "inner", "python3", "-c", banner];
    server.run(&unit).expect_ok();
    lab::run(&["ip", "-n", server.clients_netns(), "route", "add", "10.99.0.0/24", "via", "203.0.113.1"]).expect_ok();
    server
        .wait_until("the host behind answers", std::time::Duration::from_mins(1), || answers(server, [(INNER, FROM)]) == [true]);
}

/// Whether something answers on port 22 of these hosts to these clients, all at once: what drops their packets is given a second.
fn answers<const N: usize>(server: &Server, tries: [(&str, &str); N]) -> [bool; N] {
    let words = tries.map(|(to, from)| format!("('{to}', '{from}')"));
    let script = format!(
        "import socket, concurrent.futures as f
def ask(ends):
    try: return bool(socket.create_connection((ends[0], 22), 1, (ends[1], 0)).recv(9))
    except OSError: return False
print(*f.ThreadPoolExecutor().map(ask, [{}]))",
        words.join(", ")
    );
    let said = lab::run(&["ip", "netns", "exec", server.clients_netns(), "python3", "-c", &script]).expect_ok();
    let said: Vec<bool> = said.split_whitespace().map(|word| word == "True").collect();
    said.try_into().unwrap()
}

/// Opens the way of one address, by somebody who may do that for this address alone: this server, and not those behind it.
fn an_unban_opens_this_host_alone(server: &Server) {
    router(server);
    let legacy = "iptables-legacy -t raw -A PREROUTING -s 198.51.100.0/24 -j DROP";
    let by_nft = "iptables-nft -t mangle -A PREROUTING -s 198.51.100.0/24 -j DROP";
    let shared = "table inet f { chain common { ip saddr 198.51.100.0/24 drop; } chain input { type filter hook input priority 0; jump \
                  common; } chain forward { type filter hook forward priority 0; jump common; } }";
    let before = "table ip f { chain pre { type filter hook prerouting priority -150; ip saddr 198.51.100.0/24 drop; } }";
    let device =
        "table netdev f { chain in { type filter hook ingress device host0 priority 0; ip saddr 198.51.100.0/24 drop; } }";
    let (unban, accept) = (&["unban", FROM][..], &["firewall", "accept", FROM][..]);
    let lease = &["allow", FROM, "--for", "1m"][..];
    for (rules, words) in
        [(shared, unban), (shared, accept), (shared, lease), (before, unban), (device, lease), (legacy, lease), (by_nft, unban)]
    {
        if rules.starts_with("iptables") {
            nft(server, "");
            server.sh(rules).expect_ok();
        } else {
            nft(server, rules);
        }
        let all = [(SERVER, FROM), (INNER, FROM), (SERVER, OTHER)];
        assert_eq!(answers(server, all), [false; 3], "{rules}: nobody of that network");
        let done = as_mallory(server, words);
        assert_eq!(done.status, 0, "{rules} {words:?}: {} {}", done.stdout, done.stderr);
        let ruleset = server.sh("nft list ruleset; iptables-legacy-save").stdout;
        assert!(server.gets_in("root", FROM, 22), "{words:?}: {ruleset}");
        assert_eq!(answers(server, all), [true, false, false], "{words:?} opens this host to one address: {ruleset}");
        if words == lease {
            let leases = server.ctl(&["leases", "--json"]).expect_status(0).json();
            server.ctl(&["revoke", leases["leases"][0]["id"].as_str().unwrap()]).expect_status(0);
            assert_eq!(answers(server, all), [false; 3], "the lease ended: {}", server.sh("nft list ruleset").stdout);
        }
        server.sh("iptables-legacy -t raw -F PREROUTING").expect_ok();
    }
    // What is taken away, is taken away for the hosts behind, too: that is said, and is no matter of one address.
    for rules in [
        "table ip f { chain pre { type filter hook prerouting priority -150; ip saddr 198.51.100.7 drop; } }",
        "table ip f { set s { type ipv4_addr; elements = { 198.51.100.7 } } chain in { type filter hook input priority 0; ip saddr @s \
         drop; } chain fw { type filter hook forward priority 0; ip saddr @s drop; } }",
    ] {
        nft(server, rules);
        let refused = as_mallory(server, &["unban", FROM]);
        assert!(refused.status != 0 && refused.stderr.contains("hosts behind this one"), "{} {}", refused.status, refused.stderr);
        assert_eq!(answers(server, [(INNER, FROM), (SERVER, FROM)]), [false; 2]);
        let said = server.ctl(&["unban", FROM]).expect_status(0).stdout;
        assert!(said.contains("opens hosts behind this one, too"), "{said}");
        assert_eq!(answers(server, [(INNER, FROM), (SERVER, FROM)]), [true; 2]);
    }
    // Where the host forwards nothing, there is nobody behind.
    server.sh("echo 0 >/proc/sys/net/ipv4/ip_forward").expect_ok();
    nft(server, "table ip f { chain pre { type filter hook prerouting priority -150; ip saddr 198.51.100.7 drop; } }");
    as_mallory(server, &["unban", FROM]).expect_status(0);
    server.sh("nft flush ruleset; systemctl stop inner; ip link del v0").expect_ok();
}

/// What drops packets below or beside the packet filters: a login that fails is never called open, and one that works stays so.
fn what_drops_packets_elsewhere_is_not_open(server: &Server) {
    let moved = "ip rule add pref 2 lookup local; ip rule del pref 0";
    let back = "ip rule add pref 0 lookup local; ip rule del pref 2";
    let rule = |rule: &str| (format!("ip rule add {rule}"), format!("ip rule del {rule}"));
    let arp = |policy: &str| {
        let chain = format!("{{ type filter hook input priority 0; policy {policy}; }}");
        (
            format!("nft add table arp a; nft 'add chain arp a in {chain}'; ip neigh flush dev host0"),
            "nft delete table arp a".to_owned(),
        )
    };
    let flush = |on: &str| (on.to_owned(), "ip xfrm policy flush".to_owned());
    let mark = "nft add table ip m; nft 'add chain ip m out { type route hook output priority 0; }'; \
                nft add rule ip m out tcp sport 22 meta mark set 5";
    let gateway = "ip neigh replace 203.0.113.254 lladdr 02:00:00:00:00:01 dev host0 nud permanent";
    let mut wrong: Vec<String> = Vec::new();
    for ((on, off), open) in [
        (rule("to 198.51.100.7 ipproto tcp sport 22 prohibit"), false),
        (rule("to 198.51.100.7 ipproto tcp sport 2222 prohibit"), true),
        (rule("to 198.51.100.7 ipproto tcp dport 1-65534 prohibit"), false),
        (rule("fwmark 5 prohibit"), true),
        (
            (format!("{mark}; ip rule add fwmark 5 prohibit"), "nft delete table ip m; ip rule del fwmark 5 prohibit".to_owned()),
            false,
        ),
        (
            (format!("ip rule add from 198.51.100.7 iif host0 pref 1 prohibit; {moved}"), format!("{back}; ip rule del pref 1")),
            false,
        ),
        (
            (format!("ip rule add from 198.51.100.8 iif host0 pref 1 prohibit; {moved}"), format!("{back}; ip rule del pref 1")),
            true,
        ),
        (("ip route add 198.51.100.7 dev lo".to_owned(), "ip route del 198.51.100.7 dev lo".to_owned()), false),
        (flush("ip xfrm policy add src 198.51.100.7 dst 203.0.113.1 dir in action block"), false),
        (flush("ip xfrm policy add src 203.0.113.1 dst 198.51.100.7 dir out action block"), false),
        (flush("ip xfrm policy add src 198.51.100.8 dst 203.0.113.1 dir in action block"), true),
        (arp("accept"), true),
        (arp("drop"), false),
        ((gateway.to_owned(), "ip neigh del 203.0.113.254 dev host0".to_owned()), false),
    ] {
        server.sh(&on).expect_ok();
        let comes = answers(server, [(SERVER, FROM)]) == [true];
        let said = server.ctl(&["diagnose", FROM, "--json"]);
        server.sh(&off).expect_ok();
        if comes != open || (said.status == 0) != open {
            wrong.push(format!("{on}: it comes: {comes}; {} {}", said.status, said.stdout));
        }
    }
    assert!(wrong.is_empty() && server.gets_in("root", FROM, 22), "{}", wrong.join("\n"));
}

/// What PAM and the shell do with an account: its real login judges what is said of it.
fn an_account_that_pam_or_its_shell_refuses_is_not_open(server: &Server) {
    server.wait_until("sshd serves", std::time::Duration::from_secs(30), || server.gets_in("alice", FROM, 22));
    let fresh = "chage -d 20000 -M 99999 -I -1 alice";
    let pam = "sed -i 's/^# *\\(account *required *pam_access.so\\)/\\1/' /etc/pam.d/sshd; echo '-:ALL EXCEPT root:ALL' >>/etc/security/access.conf";
    let no_pam =
        "sed -i 's/^\\(account *required *pam_access.so\\)/# \\1/' /etc/pam.d/sshd; sed -i '$d' /etc/security/access.conf";
    let reload = "systemctl reload ssh.service; sleep 0.5";
    let off = format!("echo 'UsePAM no' >/etc/ssh/sshd_config.d/50-x.conf; {reload}");
    let on = format!("rm /etc/ssh/sshd_config.d/50-x.conf; {reload}");
    for (make, undo, gets_in, status, says) in [
        ("true", "true", true, 0, ""),
        ("chage -d 0 alice", fresh, false, 8, "chage -d"),
        ("chage -d 2020-01-01 -M 30 alice", fresh, false, 8, "PAM wants a new password"),
        ("chage -d 2020-01-01 -M 30 -I 10 alice", fresh, false, 8, "was not changed in time"),
        ("chage -d 2020-01-01 -M 30 -I 9000 alice", fresh, false, 8, "PAM wants a new password"),
        (&format!("chage -d 0 alice; {off}"), &format!("{fresh}; {on}"), true, 0, ""),
        (pam, no_pam, false, 9, "/etc/pam.d/sshd line"),
        ("chmod 0700 /bin/bash", "chmod 0755 /bin/bash", false, 8, "may not run /bin/bash"),
    ] {
        server.sh(make).expect_ok();
        let login = [server.login_command("alice", FROM, 22), vec!["true".to_owned()]].concat();
        let login = lab::run(&login.iter().map(String::as_str).collect::<Vec<_>>());
        let said = server.ctl(&["diagnose", FROM, "--user", "alice", "--json"]);
        server.sh(undo).expect_ok();
        assert_eq!(login.ok(), gets_in, "{make}: {}", login.stderr);
        assert!(said.status == status && said.stdout.contains(says), "{make}: {} {}", said.status, said.stdout);
    }
    assert!(server.gets_in("alice", FROM, 22));
}

fn all(release: Release) {
    if !lab::root_or_skip() {
        return;
    }
    let server = boot(release);
    an_account_that_pam_or_its_shell_refuses_is_not_open(&server);
    what_drops_packets_elsewhere_is_not_open(&server);
    an_unban_opens_this_host_alone(&server);
}

#[test]
fn on_bookworm() {
    all(Release::Bookworm);
}

#[test]
fn on_trixie() {
    all(Release::Trixie);
}
