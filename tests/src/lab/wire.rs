//! Two network namespaces on two wires: a server with an address on each, and clients with several addresses behind them. Sends real
//! SYNs and tells what became of each without waiting: what the kernel does at once is done when a marker behind it has come through.

#![allow(clippy::format_push_string, reason = "scripts are put together here")]

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::libc;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::socket::sockopt::{BindToDevice, Linger, ReuseAddr, SocketError};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, connect, getsockname, getsockopt,
    setsockopt, socket,
};
use nix::unistd::Pid;

use super::netns::Netns;

/// A client: its address, and the server's interface it comes in by.
pub type Client = (&'static str, &'static str);

/// The clients.
pub const CLIENTS: [Client; 6] = [
    ("203.0.113.7", "eth0"),
    ("203.0.113.8", "eth0"),
    ("198.51.100.7", "eth1"),
    ("2001:db8::7", "eth0"),
    ("2001:db8::8", "eth0"),
    ("2001:db8:1::7", "eth1"),
];
/// The server's own addresses: the first of each family on eth0, the second on eth1.
pub const SERVERS: [(&str, &str); 4] =
    [("192.0.2.1", "eth0"), ("192.0.2.2", "eth1"), ("2001:db8:2::1", "eth0"), ("2001:db8:2::2", "eth1")];
/// Ports somebody listens on, for every address.
pub const LISTENING: [u16; 3] = [22, 2222, 8022];

/// What became of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The handshake was completed with the listener on this port.
    Open(u16),
    /// The client was told no.
    Refused,
    /// Nothing came back, or the handshake was never completed.
    Silent,
}

impl Fate {
    /// Whether the connection was made.
    pub fn open(self) -> bool {
        matches!(self, Fate::Open(_))
    }
}

/// The two namespaces.
pub struct Wire {
    /// The server's, where rules are loaded.
    pub server: Netns,
    /// The clients'.
    pub client: Netns,
}

impl Wire {
    /// Makes them; every client reaches every address of the server.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    pub fn new() -> Self {
        let (server, client) = (Netns::new(), Netns::new());
        // No answer is held back, no address is waited for, and half-open connections do not stay.
        let quiet = "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.all.accept_dad=0 \
             net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.accept_ra=0 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0 \
             net.ipv4.icmp_ratemask=0 net.ipv6.icmp.ratemask=2 net.ipv4.tcp_synack_retries=1 net.ipv4.tcp_syn_retries=2 net.ipv4.conf.all.route_localnet=0";
        server.sh(quiet).expect_ok();
        client.sh(quiet).expect_ok();
        for name in ["eth0", "eth1"] {
            let peer = client.name();
            server.sh(&format!("ip link add {name} type veth peer name {name} netns {peer}; ip link set {name} up")).expect_ok();
            client.sh(&format!("ip link set {name} up")).expect_ok();
        }
        let of = |device: &str, list: &[(&'static str, &'static str)]| -> Vec<&'static str> {
            list.iter().filter(|(_, by)| *by == device).map(|(address, _)| *address).collect()
        };
        for device in ["eth0", "eth1"] {
            let (server_mac, client_mac) = (mac(&server, device), mac(&client, device));
            let mut script = [String::new(), String::new()];
            let width = |address: &str| if address.contains(':') { 128 } else { 32 };
            let nodad = |address: &str| if address.contains(':') { "nodad" } else { "" };
            for own in of(device, &SERVERS) {
                script[0] += &format!("ip addr add {own}/{} dev {device} {}\n", width(own), nodad(own));
            }
            for theirs in of(device, &CLIENTS) {
                script[1] += &format!("ip addr add {theirs}/{} dev {device} {}\n", width(theirs), nodad(theirs));
                script[0] += &format!("ip route add {theirs}/{} dev {device}\n", width(theirs));
                script[0] += &format!("ip neigh replace {theirs} lladdr {client_mac} dev {device} nud permanent\n");
            }
            for (own, _) in SERVERS {
                let metric = if device == "eth0" { 1 } else { 2 };
                script[1] += &format!("ip route add {own}/{} dev {device} metric {metric}\n", width(own));
                script[1] += &format!("ip neigh replace {own} lladdr {server_mac} dev {device} nud permanent\n");
            }
            server.sh(&script[0]).expect_ok();
            client.sh(&script[1]).expect_ok();
        }
        Wire { server, client }
    }

    /// Connects from each of these client addresses to this address of the server, all at once, to one port. `patience` is waited
    /// before the answers are counted; the kernel itself needs none.
    ///
    /// # Panics
    /// When a socket cannot be made, or the marker does not come through in a minute.
    pub fn connect(&self, tries: &[(Client, IpAddr)], port: u16, patience: Duration) -> Vec<Fate> {
        // A port that is used again must not meet what connection tracking remembers of it.
        let listeners: Vec<TcpListener> = self.server.enter(|| {
            let forget = Command::new("/usr/sbin/conntrack").arg("-F").stderr(Stdio::null()).status();
            assert!(forget.is_ok_and(|status| status.success()), "conntrack -F failed");
            LISTENING.iter().map(|port| listen(*port)).collect()
        });
        let sockets: Vec<(OwnedFd, SocketAddr)> = self.client.enter(|| {
            // What this CPU is sent, it handles in order (`enqueue_to_backlog`, `net/core/dev.c`).
            let mut cpu = CpuSet::new();
            cpu.set(sched_getcpu().expect("a CPU")).expect("its number");
            sched_setaffinity(Pid::from_raw(0), &cpu).expect("to stay on it");
            let sockets = tries.iter().map(|(client, server)| syn(*client, SocketAddr::new(*server, port))).collect();
            marker();
            sleep(patience);
            sockets
        });
        let mut open = Vec::new();
        for listener in &listeners {
            let port = listener.local_addr().expect("its own address").port();
            while let Ok((mut stream, peer)) = listener.accept() {
                // A reset that arrived is seen at once; whoever got it has no connection.
                stream.set_nonblocking(true).expect("a socket");
                let reset = matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::ConnectionReset);
                let _ = setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
                if !reset {
                    open.push((plain(peer), port));
                }
            }
        }
        let fate = |(socket, own): &(OwnedFd, SocketAddr)| match open.iter().find(|(peer, _)| peer == own) {
            Some((_, port)) => Fate::Open(*port),
            None if getsockopt(socket, SocketError).expect("a socket") != 0 => Fate::Refused,
            None => Fate::Silent,
        };
        sockets.iter().map(fate).collect()
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

/// The MAC address of an interface, as `ip` prints it.
fn mac(netns: &Netns, device: &str) -> String {
    let shown = netns.sh(&format!("ip -o link show {device}")).stdout;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).map(str::to_owned).expect("a MAC address")
}

fn listen(port: u16) -> TcpListener {
    let listener = TcpListener::bind(("::", port)).unwrap_or_else(|error| panic!("cannot listen on port {port}: {error}"));
    listener.set_nonblocking(true).expect("a socket");
    listener
}

/// Sends a SYN. The socket, and the address it came from.
fn syn((from, device): Client, to: SocketAddr) -> (OwnedFd, SocketAddr) {
    let from: IpAddr = from.parse().expect("an address");
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None).expect("a socket");
    setsockopt(&socket, BindToDevice, &device.into()).expect("root may bind to a device");
    setsockopt(&socket, ReuseAddr, &true).expect("a socket option");
    setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("a socket option");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).expect("a free port");
    let own: SockaddrStorage = getsockname(socket.as_raw_fd()).expect("its own address");
    let port = own.as_sockaddr_in().map(SockaddrIn::port).or_else(|| own.as_sockaddr_in6().map(SockaddrIn6::port));
    let own = SocketAddr::new(from, port.expect("a port"));
    // What happens at once is an error here, else it is one of the socket.
    let _ = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    (socket, own)
}

/// Sends itself some packets by loopback, one after the other: they queue up behind what was sent before, and behind the answers to
/// it.
fn marker() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback device that is up");
    socket.connect(socket.local_addr().expect("its own address")).expect("itself");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("a socket option");
    for _ in 0..12 {
        socket.send(b"marker").expect("to send to itself");
        socket.recv(&mut [0; 8]).expect("what it sent itself");
    }
}

/// A v4-mapped address as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_reaches_every_address_and_a_rule_makes_the_difference_it_says() {
        if !crate::lab::root_or_skip() {
            return;
        }
        let wire = Wire::new();
        let tries: Vec<(Client, IpAddr)> = CLIENTS
            .iter()
            .flat_map(|client| SERVERS.iter().map(move |(server, _)| (*client, server.parse::<IpAddr>().expect("an address"))))
            .filter(|((client, _), server)| client.contains(':') == server.is_ipv6())
            .collect();
        let fates = |port| wire.connect(&tries, port, Duration::ZERO);
        assert_eq!(fates(22), vec![Fate::Open(22); tries.len()]);
        assert_eq!(fates(23), vec![Fate::Refused; tries.len()], "nobody listens there");
        let rules = "table inet t { chain c { type filter hook input priority 0; policy accept;
            iifname eth1 drop; ip daddr 192.0.2.2 reject; ip6 saddr 2001:db8::8 tcp flags & (syn|ack) == ack drop
        }
        }";
        wire.server.run_with_input(&["nft", "-f", "-"], rules.as_bytes()).expect_ok();
        let wanted = |((client, device), server): &(Client, IpAddr)| {
            let silent = *device == "eth1" || *client == "2001:db8::8";
            let refused = server.to_string() == "192.0.2.2";
            if silent {
                Fate::Silent
            } else if refused {
                Fate::Refused
            } else {
                Fate::Open(22)
            }
        };
        assert_eq!(fates(22), tries.iter().map(wanted).collect::<Vec<_>>());
        // What leaves is part of the handshake.
        let rules = "table inet u { chain c { type filter hook output priority 0; policy drop;
}
}";
        wire.server.run_with_input(&["nft", "-f", "-"], rules.as_bytes()).expect_ok();
        assert_eq!(fates(22), vec![Fate::Silent; tries.len()]);
    }
}
