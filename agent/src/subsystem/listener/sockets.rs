//! TCP sockets as the kernel lists them (`sock_diag(7)`): those that listen and those that are established. The kernel leaves out what
//! nobody asked for, so that the sockets of others cost next to nothing, however many they are. Read only.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NetlinkPayload, NetlinkSerializable};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use sshfix_policy::address::canonical;

use super::filter;
use crate::sys::netlink;

/// The kernel answers at once; this is for one that does not, and not for an agent that a busy host lets wait.
const LIMIT: Duration = Duration::from_secs(4);
/// A host with more of those sockets that are looked for is not listed whole.
const MOST_SOCKETS: usize = 100_000;
/// `TCP_LISTEN` (`net/tcp_states.h`)
const LISTENS: u8 = 10;

/// `TCPF_BOUND_INACTIVE`
const BOUND: u32 = 1 << 13;

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own end; v4-mapped addresses are IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// Whether it listens, or is established.
    pub listens: bool,
    /// `IPV6_V6ONLY`; the kernel tells it of listening sockets.
    pub v6_only: bool,
    /// The index of the interface that it is bound to: by `SO_BINDTODEVICE`, or, of a connection from a link-local address, because it came by
    /// that (`tcp_v6_init_req`); 0 is none.
    pub device: u32,
    /// Found in `/proc/PID/fd` as `socket:[INODE]`; 0 where no process holds it any more.
    pub inode: u32,
    /// Whose it is: of whoever made it.
    pub uid: u32,
}

/// The listening sockets of both families on these ports, whoever made them.
pub fn listening(ports: &[RangeInclusive<u16>]) -> io::Result<Vec<TcpSocket>> {
    dump(&StateFlags::LISTEN, ports, &|_| true)
}

/// Those on these ports that others than root made, whatever they do with them: one that is only bound can listen as soon as nobody else
/// does. Before Linux 6.8 the kernel does not list those.
pub fn of_others(ports: &[RangeInclusive<u16>]) -> io::Result<Vec<TcpSocket>> {
    // Of connections that are being made or are over the kernel does not know whose they are.
    let whole = StateFlags::all().difference(StateFlags::SYN_RECV.union(StateFlags::TIME_WAIT));
    dump(&whole.union(StateFlags::from_bits_retain(BOUND)), ports, &|socket| socket.uid != 0)
}

/// Those of root's, on any port.
pub fn listening_of_root() -> io::Result<Vec<TcpSocket>> {
    dump(&StateFlags::LISTEN, &[], &|socket| socket.uid == 0)
}

/// The established sockets on these ports that a process of root's took. The ends that others made themselves serve nobody.
pub fn established(ports: &[RangeInclusive<u16>]) -> io::Result<Vec<TcpSocket>> {
    dump(&StateFlags::ESTABLISHED, ports, &|socket| socket.uid == 0)
}

/// Those with these inodes, whatever their port is. The kernel has no filter for it and lists all there are.
pub fn with_inodes(inodes: &BTreeSet<u32>) -> io::Result<Vec<TcpSocket>> {
    dump(&StateFlags::LISTEN.union(StateFlags::ESTABLISHED), &[], &|socket| inodes.contains(&socket.inode))
}

/// One question to the kernel (`linux/inet_diag.h`, `struct inet_diag_req_v2` and its attributes).
struct Dump {
    request: SockDiagMessage,
    filter: Vec<u8>,
}

impl NetlinkSerializable for Dump {
    fn message_type(&self) -> u16 {
        self.request.message_type()
    }

    fn buffer_len(&self) -> usize {
        self.request.buffer_len() + self.filter.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Some((request, filter)) = buffer.split_at_mut_checked(self.request.buffer_len()) {
            self.request.serialize(request);
            filter.copy_from_slice(&self.filter);
        }
    }
}

/// No ports are all.
fn dump(states: &StateFlags, ports: &[RangeInclusive<u16>], wanted: &dyn Fn(&TcpSocket) -> bool) -> io::Result<Vec<TcpSocket>> {
    let socket = netlink::open(NETLINK_SOCK_DIAG)?;
    let filter = filter::on_ports(ports)?;
    let mut found = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let (extensions, states) = (ExtensionFlags::empty(), states.clone());
        let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
        let dump = Dump { request: SockDiagMessage::InetRequest(request), filter: filter.clone() };
        match ask(&socket, dump, wanted, &mut found) {
            // A kernel without IPv6.
            Err(error) if family == AF_INET6 && error.raw_os_error() == Some(nix::libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(found)
}

fn ask(socket: &Socket, dump: Dump, wanted: &dyn Fn(&TcpSocket) -> bool, found: &mut Vec<TcpSocket>) -> io::Result<()> {
    netlink::send(socket, NLM_F_DUMP, dump)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let datagram = netlink::receive(socket, deadline, "the kernel did not list its sockets in time")?;
        for message in netlink::messages::<SockDiagMessage>(&datagram) {
            match message?.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.extend(Some(tcp_socket(&response)).filter(wanted));
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            if found.len() > MOST_SOCKETS {
                return Err(io::Error::other(format!("more than {MOST_SOCKETS} sockets")));
            }
        }
    }
}

fn tcp_socket(response: &InetResponse) -> TcpSocket {
    let id = &response.header.socket_id;
    let end = |address: IpAddr, port| SocketAddr::new(canonical(address), port);
    TcpSocket {
        local: end(id.source_address, id.source_port),
        peer: end(id.destination_address, id.destination_port),
        listens: response.header.state == LISTENS,
        v6_only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
        device: id.interface_id,
        inode: response.header.inode,
        uid: response.header.uid,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_lists_the_sockets_on_the_ports_that_are_asked_for_and_no_others() {
        let listeners: Vec<TcpListener> = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0", "127.0.0.1:0"]
            .iter()
            .filter_map(|address| TcpListener::bind(address).ok())
            .collect();
        let mut ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let clients: Vec<TcpStream> =
            listeners.iter().map(|listener| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        let served: Vec<(TcpStream, SocketAddr)> = listeners.iter().map(|listener| listener.accept().unwrap()).collect();
        let without = ports.pop().unwrap();
        for count in 1..=ports.len() {
            let asked = || ports.iter().take(count);
            let ranges: Vec<RangeInclusive<u16>> = asked().map(|port| *port..=*port).collect();
            for found in [listening(&ranges).unwrap(), dump(&StateFlags::ESTABLISHED, &ranges, &|_| true).unwrap()] {
                let found: BTreeSet<u16> = found.iter().map(|socket| socket.local.port()).collect();
                assert_eq!(found, asked().copied().collect::<BTreeSet<u16>>());
            }
        }
        let (low, high) = (*ports.iter().min().unwrap(), *ports.iter().max().unwrap());
        let ranges = [low..=low, 1..=1, low..=high];
        assert!(listening(&ranges).unwrap().iter().all(|socket| (low..=high).contains(&socket.local.port())));
        let everywhere = dump(&StateFlags::LISTEN, &[], &|_| true).unwrap();
        let inode = everywhere.iter().find(|socket| socket.local.port() == without).unwrap().inode;
        assert!(everywhere.iter().all(|socket| socket.listens));
        let by_inode = with_inodes(&[inode].into()).unwrap();
        assert_eq!(by_inode.iter().map(|socket| socket.local.port()).collect::<Vec<_>>(), [without]);
        drop((clients, served));
    }
}
