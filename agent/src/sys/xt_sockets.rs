//! The socket options by which the kernel tells its legacy iptables tables and the names of ipsets. Reads only. Asking for a
//! table that does not exist makes the kernel create it, so callers ask only for those in `/proc/net/ip_tables_names`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// `sizeof(struct ipt_getinfo)`, the same for IPv6.
const INFO_SIZE: usize = 84;
/// `sizeof(struct ipt_get_entries)` without its entries: name, size, and padding to the entries' 8-byte alignment.
const ENTRIES_HEAD: usize = 40;
/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`
const SO_GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`
const SO_GET_ENTRIES: libc::c_int = 65;
/// `SO_IP_SET` (`linux/netfilter/ipset/ip_set.h`)
const SO_IP_SET: libc::c_int = 83;
/// More than any kernel table: 256 MiB. A larger announcement is not believed.
const MOST: usize = 1 << 28;

/// A raw socket in this thread's network namespace. Needs `CAP_NET_RAW` to open and `CAP_NET_ADMIN` to ask.
#[derive(Debug)]
pub struct XtSocket {
    socket: OwnedFd,
    level: libc::c_int,
}

impl XtSocket {
    /// Opens one for iptables, or for ip6tables.
    pub fn open(v6: bool) -> io::Result<Self> {
        let (family, level) =
            if v6 { (AddressFamily::Inet6, libc::IPPROTO_IPV6) } else { (AddressFamily::Inet, libc::IPPROTO_IP) };
        // IPPROTO_RAW receives nothing.
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        Ok(Self { socket, level })
    }

    /// `struct ipt_getinfo` of a table that exists.
    pub fn info(&self, table: &str) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; INFO_SIZE];
        put_name(&mut buffer, table)?;
        self.get(SO_GET_INFO, &mut buffer)?;
        Ok(buffer)
    }

    /// The entries of a table; `size` is the one that [`XtSocket::info`] told. EAGAIN when the table has changed since.
    pub fn entries(&self, table: &str, size: u32) -> io::Result<Vec<u8>> {
        let len = usize::try_from(size).ok().filter(|len| *len <= MOST).and_then(|len| len.checked_add(ENTRIES_HEAD));
        let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the table is too large"))?;
        let mut buffer = vec![0; len];
        put_name(&mut buffer, table)?;
        if let Some(field) = buffer.get_mut(32..36) {
            field.copy_from_slice(&size.to_ne_bytes());
        }
        self.get(SO_GET_ENTRIES, &mut buffer)?;
        Ok(buffer.split_off(ENTRIES_HEAD))
    }

    /// The name of the ipset with this index, if there is one (`IP_SET_OP_GET_BYINDEX`). Only on the IPv4 socket.
    pub fn ipset_name(&self, index: u16) -> io::Result<Option<String>> {
        // struct ip_set_req_get_set: op, version, then a union of name and index
        let mut buffer = vec![0_u8; 40];
        let index = index.to_ne_bytes();
        // IPSET_PROTOCOL_MIN 6, which kernels of protocol 6 and 7 take
        let head = [7_u32.to_ne_bytes(), 6_u32.to_ne_bytes()].concat();
        for (slot, byte) in buffer.iter_mut().zip(head.into_iter().chain(index)) {
            *slot = byte;
        }
        self.get(SO_IP_SET, &mut buffer)?;
        let name = buffer.get(8..).unwrap_or_default();
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned();
        Ok((!name.is_empty()).then_some(name))
    }

    fn get(&self, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let mut len = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let whole = len;
        let pointer = buffer.as_mut_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the descriptor is open while `self` is; pointer and length are those of one initialized buffer that nobody
        // else uses meanwhile, and the kernel writes plain bytes and at most `len` of them.
        let status = unsafe { libc::getsockopt(self.socket.as_raw_fd(), self.level, option, pointer.cast(), &raw mut len) };
        if status != 0 {
            return Err(io::Error::last_os_error());
        }
        if len != whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the kernel gave {len} bytes of {whole}")));
        }
        Ok(())
    }
}

/// `char name[XT_TABLE_MAXNAMELEN]`, NUL at the end.
fn put_name(buffer: &mut [u8], table: &str) -> io::Result<()> {
    if table.is_empty() || table.len() >= 32 || table.bytes().any(|byte| byte == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a table's name"));
    }
    for (slot, byte) in buffer.iter_mut().zip(table.bytes()) {
        *slot = byte;
    }
    Ok(())
}
