//! Rules with every match and target that the decoder knows. Each, read from the kernel's bytes, must be drawn as
//! iptables-save prints it.

use super::{in_namespace, look, restore, run};

/// Rules of one table of one family.
pub struct Rules {
    pub v6: bool,
    pub table: &'static str,
    pub lines: &'static [&'static str],
}

/// The ipsets that the rules use.
pub fn create_sets() {
    run("/usr/sbin/ipset", &["create", "bad", "hash:ip"], "");
    run("/usr/sbin/ipset", &["create", "pairs", "hash:net,port"], "");
    run("/usr/sbin/ipset", &["create", "bad6", "hash:ip", "family", "inet6"], "");
}

pub const ALL: &[Rules] = &[
    Rules {
        v6: false,
        table: "filter",
        lines: &[
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
    },
    Rules {
        v6: false,
        table: "mangle",
        lines: &[
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
    },
    Rules {
        v6: false,
        table: "raw",
        lines: &[
            "-A PREROUTING -p tcp -m tcp --dport 22 -j NOTRACK",
            "-A PREROUTING -j CT --notrack",
            "-A PREROUTING -j CT --zone 5",
            "-A PREROUTING -j CT --ctevents new,destroy --zone-orig mark",
            "-A PREROUTING -j TRACE",
        ],
    },
    Rules {
        v6: false,
        table: "nat",
        lines: &[
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
    },
    Rules {
        v6: true,
        table: "filter",
        lines: &[
            "-A INPUT -m rt --rt-type 0 -j DROP",
            "-A INPUT -m rt --rt-type 2 ! --rt-segsleft 1:3 --rt-len 12 -j DROP",
            "-A INPUT -m ipv6header --header prot --soft -j DROP",
            "-A INPUT -m ipv6header ! --header hop,dst,route,frag,auth,esp,none -j DROP",
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
    },
    Rules {
        v6: true,
        table: "nat",
        lines: &[
            "-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22",
            "-A PREROUTING -p tcp -m tcp --dport 22 -j DNAT --to-destination [2001:db8::5]:2222",
            "-A PREROUTING -j DNAT --to-destination 2001:db8::5",
            "-A POSTROUTING -j MASQUERADE",
            "-A POSTROUTING -j SNAT --to-source 2001:db8::1-2001:db8::9",
        ],
    },
];

#[test]
fn rules_are_drawn_as_iptables_save_prints_them() {
    in_namespace(|| {
        create_sets();
        let mut wrong = String::new();
        for Rules { v6, table, lines } in ALL {
            for rule in *lines {
                let chain = rule.split(' ').nth(1).unwrap();
                restore(*v6, &format!("*{table}\n:user - [0:0]\n{rule}\nCOMMIT\n"));
                let state = look();
                let held = state.table(*v6, table).unwrap().chain(chain).unwrap().rules.last().unwrap();
                let drawn = held.draw(*v6, &state.set_names);
                if Some(&drawn) != held.save.as_ref() || drawn.contains("not decoded") {
                    wrong.push_str(&format!("loaded  {rule}\ndrawn   {drawn}\nprinted {:?}\n\n", held.save));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    });
}
