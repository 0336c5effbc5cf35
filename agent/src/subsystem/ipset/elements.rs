//! Elements of ipsets as a listing shows them (`IPSET_CMD_LIST`), and their text as `ipset save` prints it. Asks nothing itself.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use sshfix_policy::ranges;
use sshfix_policy::subsystem::ipset::Element;

use super::super::nf_tables::message::Attributes;

/// `IPSET_ATTR_*` of one element.
const IP: u16 = 1;
const IP_TO: u16 = 2;
const CIDR: u16 = 3;
const PORT: u16 = 4;
const PORT_TO: u16 = 5;
const TIMEOUT: u16 = 6;
const PROTO: u16 = 7;
const CADT_FLAGS: u16 = 8;
const MARK: u16 = 10;
const BITMASK: u16 = 12;
const ETHER: u16 = 17;
const NAME: u16 = 18;
const NETMASK: u16 = 20;
const IP2: u16 = 20;
const CIDR2: u16 = 21;
const IP2_TO: u16 = 22;
const IFACE: u16 = 23;
/// `IPSET_FLAG_NOMATCH`
const NOMATCH: u32 = 1 << 2;

/// How many bits of an address count in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedBits {
    /// The set has no mask.
    All,
    /// The set's `netmask`, or a `bitmask` that is a prefix.
    Prefix(u8),
    /// A mask that is no prefix, or that cannot be read.
    Other,
}

/// How many bits of an address count in a set. `data` is the set's own.
pub fn counted_bits(data: &Attributes<'_>) -> CountedBits {
    if let Some(bits) = data.get(NETMASK) {
        return bits.first().map_or(CountedBits::Other, |bits| CountedBits::Prefix(*bits));
    }
    let Some(mask) = data.nested(BITMASK) else { return CountedBits::All };
    let Some(mask) = address(&mask) else { return CountedBits::Other };
    let (bits, all) = (ranges::number(mask), if mask.is_ipv4() { 32 } else { 128 });
    let ones = bits.count_ones();
    let prefix = ones == 0 || bits.trailing_zeros() == all - ones;
    match u8::try_from(ones) {
        Ok(ones) if prefix => CountedBits::Prefix(ones),
        _ => CountedBits::Other,
    }
}

/// One element; `data` is its `IPSET_ATTR_DATA`. `None` when it holds no field that is known.
pub fn element(data: &[u8], counted: Option<u8>) -> Option<Element> {
    let attributes = Attributes(data);
    let mut addresses = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut rest = String::new();
    for (from, to, cidr, counted) in [(IP, IP_TO, CIDR, counted), (IP2, IP2_TO, CIDR2, None)] {
        let Some(first) = attributes.nested(from).and_then(|nested| address(&nested)) else { continue };
        let length = attributes.get(cidr).and_then(|bytes| bytes.first().copied());
        let last = attributes.nested(to).and_then(|nested| address(&nested));
        let net = length.or(counted).and_then(|length| IpNet::new(first, length).ok());
        addresses.push(match (last, net) {
            (Some(last), _) => (first, last),
            (None, Some(net)) => (net.network(), net.broadcast()),
            (None, None) => (first, first),
        });
        let full = if first.is_ipv4() { 32 } else { 128 };
        words.push(match (last, length) {
            (Some(last), _) if last != first => format!("{first}-{last}"),
            (_, Some(length)) if length < full => format!("{first}/{length}"),
            _ => first.to_string(),
        });
        // The port stands between two addresses.
        if from == IP {
            words.extend(port(&attributes));
        }
    }
    if addresses.is_empty() {
        words.extend(port(&attributes));
    } else {
        // Set apart by everything but the addresses themselves.
        for word in words.iter().filter(|word| word.parse::<IpAddr>().is_err() && word.parse::<IpNet>().is_err()) {
            let _ = write!(rest, "{word},");
        }
    }
    if let Some(mac) = attributes.get(ETHER) {
        words.push(mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
    }
    words.extend(attributes.be32(MARK).map(|mark| format!("{mark:#010x}")));
    words.extend(attributes.text(IFACE));
    let member = attributes.text(NAME);
    words.extend(member.clone());
    if words.is_empty() {
        return None;
    }
    let nomatch = attributes.be32(CADT_FLAGS).unwrap_or(0) & NOMATCH != 0;
    for kind in [PORT, PORT_TO, PROTO, CADT_FLAGS, MARK, ETHER, IFACE] {
        if let Some(bytes) = attributes.get(kind) {
            let _ = write!(rest, "{kind}={bytes:02x?};");
        }
    }
    let mut text = words.join(",");
    if nomatch {
        text.push_str(" nomatch");
    }
    // 0 is: never ends.
    let left = attributes.be32(TIMEOUT).filter(|left| *left != 0);
    Some(Element { text, addresses, rest, nomatch, member, left, raw: data.to_vec() })
}

/// `tcp:22`, or `22` in a set without protocols.
fn port(attributes: &Attributes<'_>) -> Option<String> {
    let number = attributes.get(PORT)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
    Some(match attributes.get(PROTO).and_then(|bytes| bytes.first()) {
        None => number.to_string(),
        Some(6) => format!("tcp:{number}"),
        Some(17) => format!("udp:{number}"),
        Some(132) => format!("sctp:{number}"),
        Some(other) => format!("{other}:{number}"),
    })
}

/// `IPSET_ATTR_IPADDR_IPV4` 1, `_IPV6` 2
fn address(nested: &Attributes<'_>) -> Option<IpAddr> {
    let v4 = nested.get(1).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
    v4.or_else(|| nested.get(2).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::super::nf_tables::message::Attrs;
    use super::*;

    fn v4(address: [u8; 4]) -> Attrs {
        Attrs::new().put(1, &address)
    }

    #[test]
    fn elements_are_named_as_ipset_save_does_and_told_apart_by_what_is_no_address() {
        let net = Attrs::new().nest(IP, &v4([203, 0, 113, 0])).put(CIDR, &[24]).finish();
        let found = element(&net, None).unwrap();
        assert_eq!(found.text, "203.0.113.0/24");
        assert_eq!(found.addresses, [("203.0.113.0".parse().unwrap(), "203.0.113.255".parse().unwrap())]);
        let excluded = Attrs::new().nest(IP, &v4([203, 0, 113, 8])).be32(CADT_FLAGS, NOMATCH).be32(TIMEOUT, 60).finish();
        let excluded = element(&excluded, None).unwrap();
        assert_eq!((excluded.text.as_str(), excluded.nomatch, excluded.left), ("203.0.113.8 nomatch", true, Some(60)));
        assert_ne!(found.rest, excluded.rest);
        let pair = Attrs::new().nest(IP, &v4([203, 0, 113, 7])).put(PORT, &[0, 22]).put(PROTO, &[6]).finish();
        assert_eq!(element(&pair, None).unwrap().text, "203.0.113.7,tcp:22");
        let masked = Attrs::new().nest(IP, &v4([203, 0, 113, 8])).finish();
        assert_eq!(
            element(&masked, Some(29)).unwrap().addresses,
            [("203.0.113.8".parse().unwrap(), "203.0.113.15".parse().unwrap())]
        );
        assert_eq!(element(&[], None), None);
    }
}
