//! The filter that the kernel applies to its list of sockets: a program for `INET_DIAG_REQ_BYTECODE` (`linux/inet_diag.h`; what it may
//! look like says `net/ipv4/inet_diag.c`, `inet_diag_bc_audit`). Knows ports only.

use std::io;
use std::ops::RangeInclusive;

/// The attribute.
const REQ_BYTECODE: u16 = 1;
/// Goes on where it says.
const JMP: u8 = 1;
/// Whether the socket's own port is at least this.
const S_GE: u8 = 2;
/// Whether it is at most this.
const S_LE: u8 = 3;
/// `struct inet_diag_bc_op`; a comparison is two, of which the second holds the port.
const OP: u16 = 4;
const COMPARISON: u8 = 8;
/// Two comparisons and the jump to the end.
const RANGE: u16 = 20;

/// The attribute with a filter that lets through the sockets whose own port is in one of these ranges; none at all for no range, which lets
/// through every socket.
pub fn on_ports(ranges: &[RangeInclusive<u16>]) -> io::Result<Vec<u8>> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let too_many = || io::Error::other("too many ports for one question to the kernel");
    let count = u16::try_from(ranges.len()).map_err(|_| too_many())?;
    let length = count.checked_mul(RANGE).and_then(|length| length.checked_add(OP)).ok_or_else(too_many)?;
    let mut attribute = [length.to_ne_bytes(), REQ_BYTECODE.to_ne_bytes()].concat();
    let mut left = length - OP;
    for range in ranges {
        // Past the end is no; the end is yes.
        let no = if left == RANGE { RANGE + OP } else { RANGE };
        op(&mut attribute, S_GE, COMPARISON, no);
        op(&mut attribute, 0, 0, *range.start());
        op(&mut attribute, S_LE, COMPARISON, no - u16::from(COMPARISON));
        op(&mut attribute, 0, 0, *range.end());
        op(&mut attribute, JMP, 4, left - 2 * u16::from(COMPARISON));
        left -= RANGE;
    }
    Ok(attribute)
}

fn op(program: &mut Vec<u8>, code: u8, yes: u8, no: u16) {
    program.extend([code, yes]);
    program.extend(no.to_ne_bytes());
}
