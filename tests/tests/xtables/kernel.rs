//! The kernel as oracle: random legacy rulesets are loaded in a namespace, real connections from several addresses tried, and
//! what became of them compared with what the evaluator says. It may say unknown; it must never be wrong.
//! `SSHFIX_RULESETS=n` runs n rulesets (each family half), `SSHFIX_SEED=n` starts from another seed.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sshfix_policy::packet::{Interface, Tracking};
use sshfix_policy::subsystem::ipset;
use sshfix_policy::subsystem::xtables::evaluate::{End, run};
use sshfix_policy::subsystem::xtables::view::{Span, View};
use sshfix_policy::subsystem::xtables::{Hook, State};
use sshfix_tests::lab::Netns;

use super::{look, restore};

/// A small generator (xorshift64*): a seed that fails can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }

    /// The text in one of `of` throws.
    fn perhaps(&mut self, of: usize, text: impl FnOnce(&mut Dice) -> String) -> String {
        if self.roll(of) == 0 { text(self) } else { String::new() }
    }
}

const CLIENTS4: [&str; 3] = ["203.0.113.7", "203.0.113.8", "198.51.100.7"];
const CLIENTS6: [&str; 3] = ["2001:db8::7", "2001:db8::8", "2001:db8:1::7"];
const SERVERS4: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
const SERVERS6: [&str; 3] = ["2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::3"];

fn rule(dice: &mut Dice, v6: bool, table: &str, chain: &str, chains: &[&str]) -> String {
    let sources: &[&str] = if v6 {
        &["2001:db8::7", "2001:db8::8", "2001:db8::/64", "2001:db8::/32", "2001:db8:1::/48", "::/0", "2001:db8::70"]
    } else {
        &["203.0.113.7", "203.0.113.8", "203.0.113.0/24", "203.0.113.0/29", "198.51.100.0/24", "0.0.0.0/0", "203.0.113.70"]
    };
    let server = if v6 { SERVERS6[0] } else { SERVERS4[0] };
    let mut text = format!("-A {chain}");
    text += &dice.perhaps(2, |dice| format!(" {}-s {}", dice.one(&["", "", "", "! "]), dice.one(sources)));
    text += &dice.perhaps(8, |dice| format!(" {}-d {server}", dice.one(&["", "! "])));
    if chain == "INPUT" || chain == "PREROUTING" {
        text += &dice.perhaps(4, |dice| format!(" {}-i {}", dice.one(&["", "! "]), dice.one(&["lo", "xts0", "xts+", "eth0"])));
    }
    let tcp = dice.roll(2) == 0;
    if tcp {
        text += " -p tcp";
        text += &dice.perhaps(2, |dice| {
            format!(" -m tcp {}--dport {}", dice.one(&["", "", "! "]), dice.one(&["22", "1:1024", "2222", "22:80", "80"]))
        });
        text += &dice.perhaps(4, |dice| {
            let option = dice.one(&["--dports 22,2222", "--dports 80,443", "! --dports 22", "--ports 1:30", "--sports 1:1023"]);
            format!(" -m multiport {option}")
        });
        text += &dice.perhaps(6, |dice| {
            format!(" -m tcp {}", dice.one(&["--syn", "! --syn", "--tcp-flags ALL SYN", "--tcp-flags SYN,FIN SYN,FIN"]))
        });
    } else {
        text += &dice.perhaps(5, |dice| format!(" {}-p {}", dice.one(&["", "! "]), dice.one(&["udp", "tcp", "47"])));
    }
    let range = if v6 { "2001:db8::1-2001:db8::7" } else { "203.0.113.1-203.0.113.7" };
    text += &dice.perhaps(3, |dice| {
        let one = dice.one(&[
            "-m conntrack --ctstate NEW",
            "-m conntrack --ctstate RELATED,ESTABLISHED",
            "-m conntrack ! --ctstate NEW",
            "-m conntrack --ctstate INVALID,UNTRACKED",
            "-m conntrack --ctdir ORIGINAL",
            "-m conntrack --ctdir REPLY",
            "-m conntrack --ctproto 6 --ctorigsrc SOURCE",
            "-m conntrack ! --ctorigsrc SOURCE --ctstate NEW",
            "-m conntrack --ctproto 6 --ctorigdstport 22",
            "-m state --state NEW",
            "-m state --state ESTABLISHED",
            "-m iprange --src-range RANGE",
            "-m iprange ! --src-range RANGE",
            "-m addrtype --dst-type LOCAL",
            "-m addrtype ! --dst-type LOCAL",
            "-m mark --mark 0x1",
            "-m mark ! --mark 0x1/0x3",
            "-m connmark --mark 0",
            "-m connmark ! --mark 0",
            "-m comment --comment words",
            "-m length --length 0:20",
            "-m pkttype --pkt-type unicast",
            "-m pkttype ! --pkt-type unicast",
            "-m pkttype --pkt-type broadcast",
            "-m limit --limit 1/hour --limit-burst 1",
        ]);
        format!(" {one}").replace("SOURCE", sources[dice.roll(sources.len())]).replace("RANGE", range)
    });
    if v6 {
        text += &dice.perhaps(6, |dice| {
            let one = dice.one(&[
                "-m rt --rt-type 0",
                "-m rt ! --rt-type 0",
                "-m ipv6header --header prot --soft",
                "-m ipv6header ! --header prot",
                "-m ipv6header --header hop,prot",
                "-m ipv6header ! --header route --soft",
                "-m frag --fragfirst",
                "-m hbh",
            ]);
            format!(" {one}")
        });
    }
    let target = match dice.roll(12) {
        0..=2 => "-j ACCEPT".to_owned(),
        3 | 4 => "-j DROP".to_owned(),
        5 if table == "filter" => if tcp { "-j REJECT --reject-with tcp-reset" } else { "-j REJECT" }.to_owned(),
        6 => "-j RETURN".to_owned(),
        7 => format!("-j MARK --set-xmark {}", dice.one(&["0x1/0xffffffff", "0x2/0x2", "0x0/0xffffffff"])),
        8 if table == "raw" => "-j CT --notrack".to_owned(),
        9 => String::new(),
        _ if !chains.is_empty() => format!("{} {}", dice.one(&["-j", "-j", "-j", "-g"]), dice.one(chains)),
        _ => "-j DROP".to_owned(),
    };
    let mangle_only = target.contains("MARK") && table != "mangle";
    format!("{text} {}", if mangle_only { "-j ACCEPT" } else { &target })
}

/// A ruleset for iptables-legacy-restore.
fn ruleset(dice: &mut Dice, v6: bool) -> String {
    let mut text = String::new();
    let tables: &[(&str, &[&str])] = &[
        ("raw", &["PREROUTING", "OUTPUT"]),
        ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
        ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ];
    for (table, built_in) in tables {
        text += &format!("*{table}\n");
        let used = *table == "filter" || dice.roll(3) == 0;
        for chain in *built_in {
            let drop = used && *chain == "INPUT" && dice.roll(4) == 0;
            text += &format!(":{chain} {} [0:0]\n", if drop { "DROP" } else { "ACCEPT" });
        }
        // Chains jump only to later ones, so that there is no loop.
        let chains = ["one", "two", "three"];
        for chain in chains {
            text += &format!(":{chain} - [0:0]\n");
        }
        if used {
            let entry = if *table == "filter" { &["INPUT"][..] } else { &built_in[..1] };
            for chain in entry {
                for _ in 0..=dice.roll(5) {
                    text += &format!("{}\n", rule(dice, v6, table, chain, &chains));
                }
            }
            for (index, chain) in chains.iter().enumerate() {
                for _ in 0..dice.roll(4) {
                    text += &format!("{}\n", rule(dice, v6, table, chain, &chains[index + 1..]));
                }
            }
        }
        text += "COMMIT\n";
    }
    text
}

/// What the evaluator says of a connection: `Some(true)` gets through, `Some(false)` does not, `None` unknown. The SYN must
/// come in, and the ACK that completes the handshake.
fn predict(state: &State, client: IpAddr, server: IpAddr) -> Option<bool> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let syn = View {
        v6: client.is_ipv6(),
        source: Span::one(bits(client)),
        destination: Span::one(bits(server)),
        destination_local: Some(true),
        source_port: Span { low: 1024, high: 0xffff },
        destination_port: Span::one(22_u16),
        tcp_flags: 0x02,
        input: &Interface::NotLoopback,
        output: &Interface::None,
        tracking: Tracking::INVALID,
        reply: false,
        mark: Some(0),
        connmark: Some(0),
        dnat: Some(false),
        length: Span { low: 40, high: 0xffff },
    };
    let (syn_passes, tracked) = pass(state, syn, Tracking::NEW);
    let then = match tracked {
        Tracking::NEW => Tracking::ESTABLISHED,
        // Without the SYN, conntrack may take the ACK for the beginning, or for nothing.
        _ => Tracking(Tracking::NEW.0 | Tracking::ESTABLISHED.0 | Tracking::INVALID.0),
    };
    let (ack_passes, _) = pass(state, View { tcp_flags: 0x10, ..syn }, then);
    match (syn_passes, ack_passes) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// One packet through the tables on its way in; `tracked` is its state once conntrack has seen it, if no rule exempts it.
fn pass(state: &State, packet: View<'static>, tracked: Tracking) -> (Option<bool>, Tracking) {
    let sets = ipset::State { names: state.set_names.clone(), ..ipset::State::new() };
    let mut view = packet;
    let mut passes = Some(true);
    for (hook, table) in
        [(Hook::Prerouting, "raw"), (Hook::Prerouting, "mangle"), (Hook::Input, "mangle"), (Hook::Input, "filter")]
    {
        let ran = run(state.table(view.v6, table).unwrap(), hook, view, &sets);
        let refuses = |end: &End| matches!(end, End::Drop | End::Reject(_));
        if ran.outcomes.iter().all(|one| refuses(&one.end)) {
            return (Some(false), view.tracking);
        }
        if ran.outcomes.iter().any(|one| one.end != End::Accept) {
            passes = None;
        }
        view = ran.view;
        if table == "raw" {
            let exempt = view.tracking.0 & Tracking::UNTRACKED.0;
            let certain = view.tracking == Tracking::UNTRACKED;
            view.tracking = if certain { view.tracking } else { Tracking(tracked.0 | exempt) };
        }
    }
    (passes, view.tracking)
}

/// Connects and waits for the byte that the server sends once it has the ACK.
fn greeted(server: IpAddr, patience: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 22), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.read_exact(&mut [0])
}

/// Whether each address can connect, all tried at once from the namespace of the thread. The route to the n-th address of the
/// server prefers the n-th address of the client.
fn connect(servers: &[IpAddr], patience: Duration) -> Vec<bool> {
    std::thread::scope(|scope| {
        let tries: Vec<_> = servers.iter().map(|server| scope.spawn(move || greeted(*server, patience).is_ok())).collect();
        tries.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

#[test]
fn the_evaluator_is_never_wrong_about_a_real_connection() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "these tests need root");
        eprintln!("skipped: needs root");
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let rulesets = number("SSHFIX_RULESETS", 120);
    let seed = number("SSHFIX_SEED", 1);

    let (server, client) = (Netns::new(), Netns::new());
    server
        .sh(&format!("ip link add xts0 type veth peer name xtc0; ip link set xtc0 netns {}; ip link set xts0 up", client.name()));
    client.sh("ip link set xtc0 up");
    for (us, them, width) in [(CLIENTS4, SERVERS4, 32), (CLIENTS6, SERVERS6, 128)] {
        let nodad = if width == 128 { "nodad" } else { "" };
        for (us, them) in us.iter().zip(them) {
            client.sh(&format!("ip addr add {us}/{width} dev xtc0 {nodad}"));
            server.sh(&format!("ip addr add {them}/{width} dev xts0 {nodad}; ip route add {us} dev xts0 src {them}"));
            client.sh(&format!("ip route add {them} dev xtc0 src {us}"));
        }
    }
    server.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
    let listener: TcpListener = server.enter(|| TcpListener::bind("[::]:22").unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"x");
        }
    });
    let addresses = |v6: bool, four: [&str; 3], six: [&str; 3]| -> Vec<IpAddr> {
        (if v6 { six } else { four }).iter().map(|address| address.parse().unwrap()).collect()
    };
    let clients = |v6| addresses(v6, CLIENTS4, CLIENTS6);
    let servers = |v6| addresses(v6, SERVERS4, SERVERS6);
    // Neighbours are found before any rule is there.
    for v6 in [false, true] {
        let open = client.enter(|| connect(&servers(v6), Duration::from_secs(4)));
        assert_eq!(open, [true; 3], "{:?} cannot reach the server without any rule", clients(v6));
    }

    let (mut accepted, mut refused, mut unknown) = (0, 0, 0);
    let mut wrong = String::new();
    for number in 0..rulesets {
        let v6 = number % 2 == 1;
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number + 1));
        let text = ruleset(&mut dice, v6);
        let state = server.enter(|| {
            restore(v6, &text);
            look()
        });
        let open = client.enter(|| connect(&servers(v6), Duration::from_millis(60)));
        for ((address, server), open) in clients(v6).into_iter().zip(servers(v6)).zip(open) {
            match predict(&state, address, server) {
                None => unknown += 1,
                Some(says) if says == open => *(if open { &mut accepted } else { &mut refused }) += 1,
                // A busy machine may need more than 60 ms.
                Some(true) if client.enter(|| connect(&[server], Duration::from_secs(3))) == [true] => accepted += 1,
                Some(says) => {
                    wrong +=
                        &format!("seed {seed} ruleset {number} {address}: kernel open={open}, evaluator open={says}\n{text}\n");
                }
            }
        }
    }
    println!("{rulesets} rulesets: {accepted} accepted, {refused} refused, {unknown} unknown");
    assert!(wrong.is_empty(), "{wrong}");
    // It would be easy to be never wrong by never knowing.
    assert!(accepted > 0 && refused > 0 && unknown * 3 < accepted + refused, "{accepted} {refused} {unknown}");
}
