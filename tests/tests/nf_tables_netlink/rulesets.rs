//! Rulesets with one rule of every kind that nft and iptables-nft can make on this kernel.

use super::{nft, run};

/// (family and table, chain, rule): everything Debian's kernels and nft 1.0.6 share, but for `queue`, which needs a listener's module.
const RULES: &[(&str, &str, &str)] = &[
    ("inet f", "in", "tcp dport 22 ip saddr 203.0.113.7 counter packets 3 bytes 180 drop comment \"a ban\""),
    ("inet f", "in", "tcp dport 22 ip saddr 203.0.113.7 counter packets 3 bytes 180 drop comment \"a ban\""),
    ("inet f", "in", "ip saddr @s reject with icmp type admin-prohibited"),
    ("inet f", "in", "ip6 saddr 2001:db8::/32 tcp dport 22 reject with tcp reset"),
    ("inet f", "in", "ip saddr 10.0.0.0/8 tcp dport 20-29 accept"),
    ("inet f", "in", "ip saddr vmap @vm"),
    ("inet f", "in", "meta mark set ip saddr map @mm"),
    ("inet f", "in", "counter name ip saddr map @om"),
    ("inet f", "in", "counter name cnt"),
    ("inet f", "in", "quota name q drop"),
    ("inet f", "in", "limit name lim accept"),
    ("inet f", "in", "ct helper set ftp"),
    ("inet f", "in", "ct state established,related accept"),
    ("inet f", "in", "ct state vmap { established : accept, invalid : drop }"),
    ("inet f", "in", "tcp dport { 22, 80 } accept"),
    ("inet f", "in", "jump { drop; }"),
    ("inet f", "in", "limit rate over 10/minute burst 5 packets drop"),
    ("inet f", "in", "limit rate 10 mbytes/second accept"),
    ("inet f", "in", "quota over 5 mbytes used 3 mbytes drop"),
    ("inet f", "in", "log prefix \"x: \" group 2"),
    ("inet f", "in", "log prefix \"y: \" level info"),
    ("inet f", "in", "ct count over 10 drop"),
    ("inet f", "in", "add @dyn { ip saddr timeout 5m } accept"),
    ("inet f", "in", "update @dyn { ip saddr limit rate 5/minute } accept"),
    ("inet f", "in", "fib saddr . iif oif missing drop"),
    ("inet f", "in", "fib daddr type local accept"),
    ("inet f", "in", "ip saddr . tcp dport @conc drop"),
    ("inet f", "in", "iifname \"eth*\" accept"),
    ("inet f", "in", "meta skuid 0 accept"),
    ("inet f", "in", "meta hour \"10:00\"-\"11:00\" accept"),
    ("inet f", "in", "notrack"),
    ("inet f", "in", "tcp option maxseg size set 1300"),
    ("inet f", "in", "tcp flags syn / fin,syn accept"),
    ("inet f", "in", "ip dscp set cs1"),
    ("inet f", "in", "ct mark set mark"),
    ("inet f", "in", "ct mark set 0x10"),
    ("inet f", "in", "meta mark set meta mark & 0xff | 0x100"),
    ("inet f", "in", "meta mark set ct mark lshift 8"),
    ("inet f", "in", "numgen random mod 10 < 5 drop"),
    ("inet f", "in", "jhash ip saddr mod 3 0 drop"),
    ("inet f", "in", "socket transparent 1 accept"),
    ("inet f", "in", "rt classid 3 accept"),
    ("inet f", "in", "osf name \"Linux\" accept"),
    ("inet f", "in", "synproxy mss 1460 wscale 7"),
    ("inet f", "in", "ip option lsrr exists drop"),
    ("inet f", "in", "ipsec in reqid 1 accept"),
    ("inet f", "in", "jump other"),
    ("inet f", "in", "goto other"),
    ("inet f", "in", "return"),
    ("inet f", "in", "continue"),
    ("inet f", "in", "@th,16,16 22 drop"),
    ("inet f", "in", "@ih,0,32 0x53534800 drop"),
    ("inet f", "in", "udp checksum set 0"),
    ("inet f", "in", "ether saddr 00:11:22:33:44:55 drop"),
    ("inet f", "in", "ip saddr != 10.0.0.0-10.0.0.99 drop"),
    ("inet f", "in", "icmp type echo-request accept"),
    ("inet f", "in", "meta nftrace set 1"),
    ("inet f", "pre", "meta l4proto tcp tproxy ip to 127.0.0.1:1000"),
    ("inet n", "post", "masquerade random"),
    ("inet n", "post", "oifname \"eth0\" meta l4proto tcp snat ip to 10.0.0.1-10.0.0.9:1000-2000 persistent"),
    ("inet n", "pre", "tcp dport 22 dnat ip to 10.0.0.2:22"),
    ("inet n", "pre", "tcp dport 22 redirect to :2222"),
    ("bridge b", "in", "ether type ip drop"),
    ("arp a", "in", "arp operation request accept"),
    ("netdev d", "in", "ip saddr 10.0.0.1 fwd to lo"),
    ("netdev d", "in", "ip saddr 10.0.0.1 dup to lo"),
    ("ip6 six", "in", "exthdr frag exists drop"),
    ("ip dormant", "in", "ip saddr 10.0.0.1 drop"),
];

/// Loads them all.
pub fn load_nft() {
    nft("table inet f {
           counter cnt { }
           quota q { over 10 mbytes }
           ct helper ftp { type \"ftp\" protocol tcp; }
           limit lim { rate 5/second }
           set s { type ipv4_addr; }
           set dyn { type ipv4_addr; flags dynamic,timeout; timeout 1h; size 100; }
           map vm { type ipv4_addr : verdict; }
           map mm { type ipv4_addr : mark; }
           map om { type ipv4_addr : counter; }
           set conc { type ipv4_addr . inet_service; flags interval; }
           chain other { }
           chain in { type filter hook input priority 0; }
           chain pre { type filter hook prerouting priority -150; policy drop; }
         }
         table inet n {
           chain post { type nat hook postrouting priority 100; }
           chain pre { type nat hook prerouting priority -100; }
         }
         table bridge b { chain in { type filter hook input priority 0; } }
         table arp a { chain in { type filter hook input priority 0; } }
         table netdev d { chain in { type filter hook ingress device lo priority 0; } }
         table ip6 six { chain in { type filter hook input priority 0; } }
         table ip dormant { flags dormant; chain in { type filter hook input priority 0; } }");
    let adds: Vec<String> = RULES.iter().map(|(table, chain, rule)| format!("add rule {table} {chain} {rule}\n")).collect();
    run("/usr/sbin/nft", &["-f", "-"], &adds.concat());
}

/// What iptables-nft users really have: fail2ban's chain, multiport, conntrack, recent, hashlimit, ipset-free matches.
const IPTABLES: &str = "*filter
:INPUT ACCEPT [7:420]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:f2b-sshd - [0:0]
[2:120] -A INPUT -p tcp -m multiport --dports 22,2222 -j f2b-sshd
-A INPUT -s 203.0.113.7/32 -p tcp -m tcp --dport 22 -m comment --comment \"a b\" -j DROP
-A INPUT -s 203.0.113.7/32 -p tcp -m tcp --dport 22 -m comment --comment \"a b\" -j DROP
-A INPUT ! -s 10.0.0.0/8 ! -p udp -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m state --state NEW -p tcp --syn -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m recent --set --name ssh --mask 255.255.255.255 --rsource
-A INPUT -p tcp -m tcp --dport 22 -m recent --update --seconds 60 --hitcount 4 --name ssh --mask 255.255.255.255 --rsource -j DROP
-A INPUT -p tcp -m hashlimit --hashlimit-upto 5/min --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name h -j ACCEPT
-A INPUT -p tcp -m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr -j REJECT --reject-with tcp-reset
-A INPUT -m limit --limit 3/min -j LOG --log-prefix \"in: \" --log-level 4
-A INPUT -m iprange --src-range 10.0.0.1-10.0.0.9 -j ACCEPT
-A INPUT -m mac --mac-source 00:11:22:33:44:55 -j ACCEPT
-A INPUT -m mark --mark 0x1/0xff -j ACCEPT
-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT
-A INPUT -i eth+ ! -o lo -f -j ACCEPT
-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A INPUT -p udp -m udp --sport 53 -j ACCEPT
-A INPUT -m pkttype --pkt-type broadcast -j DROP
-A INPUT -m string --string \"x\" --algo bm -j DROP
-A INPUT -m statistic --mode random --probability 0.5 -j ACCEPT
-A INPUT -m u32 --u32 \"0x0=0x1\" -j ACCEPT
-A INPUT -m time --timestart 10:00:00 --timestop 11:00:00 -j ACCEPT
-A INPUT -p tcp -j TCPMSS --set-mss 1300
-A INPUT -j NFLOG --nflog-group 3
-A INPUT -j MARK --set-xmark 0x1/0xffffffff
-A f2b-sshd -s 203.0.113.7/32 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -s 198.51.100.0/24 -j REJECT --reject-with icmp-port-unreachable
-A f2b-sshd -j RETURN
COMMIT
";

/// Loads them with iptables-nft, and the ones IPv6 has with ip6tables-nft. Rules with a match that this kernel lacks are left out.
pub fn load_iptables() {
    load_with("/usr/sbin/iptables-nft-restore", "/usr/sbin/iptables-nft", IPTABLES);
    let six = IPTABLES
        .replace("203.0.113.7/32", "2001:db8::7/128")
        .replace("198.51.100.0/24", "2001:db8:1::/48")
        .replace("10.0.0.0/8", "fd00::/8")
        .replace("10.0.0.1-10.0.0.9", "fd00::1-fd00::9")
        .replace("--mask 255.255.255.255", "--mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
        .replace("--connlimit-mask 32", "--connlimit-mask 128")
        .replace("icmp-port-unreachable", "icmp6-port-unreachable")
        .replace("-p icmp -m icmp --icmp-type 8", "-p ipv6-icmp -m icmp6 --icmpv6-type 128")
        .replace("! -o lo -f", "! -o lo")
        .replace("--hashlimit-name h", "--hashlimit-name h6")
        .replace("--name ssh", "--name ssh6");
    load_with("/usr/sbin/ip6tables-nft-restore", "/usr/sbin/ip6tables-nft", &six);
}

fn load_with(restore: &str, single: &str, rules: &str) {
    let supported = |line: &&str| {
        let Some(rule) = line.strip_prefix("-A INPUT ") else { return true };
        let rule = format!("*filter\n-A INPUT {rule}\nCOMMIT\n");
        let mut test = std::process::Command::new(restore);
        let mut test =
            test.args(["--test"]).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::io::Write::write_all(&mut test.stdin.take().unwrap(), rule.as_bytes()).unwrap();
        let loads = test.wait().unwrap().success();
        if !loads {
            eprintln!("{single}: not on this kernel: {line}");
        }
        loads
    };
    let lines: Vec<&str> = rules.lines().filter(supported).collect();
    assert!(lines.len() > 25, "too few rules load: {lines:?}");
    run(restore, &[], &(lines.join("\n") + "\n"));
}
