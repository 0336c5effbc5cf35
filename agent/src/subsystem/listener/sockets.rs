//! TCP sockets as the kernel lists them (`sock_diag(7)`): all that listen, and the established ones of given local ports, which the
//! kernel filters. Read only.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use sshfix_policy::address::canonical;

use crate::sys::netlink;

/// The kernel answers at once; this is for one that does not, and not for an agent that a busy host lets wait.
const LIMIT: Duration = Duration::from_secs(4);
/// A host with more sockets on its SSH port than this is not listed whole.
const MOST_SOCKETS: usize = 100_000;

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own end; v4-mapped addresses are IPv4.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// `IPV6_V6ONLY`; the kernel tells it of listening sockets.
    pub v6_only: bool,
    /// Found in `/proc/PID/fd` as `socket:[INODE]`; 0 where no process holds it any more.
    pub inode: u32,
    /// Whose it is: of whoever made it.
    pub uid: u32,
}

/// The listening sockets of both families.
pub fn listening() -> io::Result<Vec<TcpSocket>> {
    dump(&StateFlags::LISTEN, 0)
}

/// The established sockets with this local port.
pub fn established(port: u16) -> io::Result<Vec<TcpSocket>> {
    dump(&StateFlags::ESTABLISHED, port)
}

fn dump(states: &StateFlags, port: u16) -> io::Result<Vec<TcpSocket>> {
    let socket = netlink::open(NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for (family, mut id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        id.source_port = port;
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: states.clone(),
            socket_id: id,
        };
        match ask(&socket, request, &mut found) {
            // A kernel without IPv6.
            Err(error) if family == AF_INET6 && error.raw_os_error() == Some(nix::libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(found)
}

fn ask(socket: &Socket, request: InetRequest, found: &mut Vec<TcpSocket>) -> io::Result<()> {
    netlink::send(socket, NLM_F_DUMP, SockDiagMessage::InetRequest(request))?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let datagram = netlink::receive(socket, deadline, "the kernel did not list its sockets in time")?;
        for message in netlink::messages::<SockDiagMessage>(&datagram) {
            match message?.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => found.push(tcp_socket(&response)),
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
        v6_only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
        inode: response.header.inode,
        uid: response.header.uid,
    }
}
