//! Addresses in free text that a reader may not know of: found however they are written there, and put out of sight. What names no
//! address is left as it is. Decides nothing about who may read what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::address::Source;

/// What stands for an address that is not shown.
pub const MASK: &str = "(another address)";

/// The text without the addresses and ranges that may not be read; `None` where it names none.
pub fn masked(text: &str, may_read: &dyn Fn(Source) -> bool) -> Option<String> {
    let mut masker = Masker { may_read, out: String::with_capacity(text.len()), hidden: false };
    let mut rest = text;
    while let Some(start) = rest.find(is_of_an_address) {
        let (before, from) = rest.split_at(start);
        masker.out.push_str(before);
        let (run, after) = from.split_at(from.find(|c| !is_of_an_address(c)).unwrap_or(from.len()));
        let used = masker.run(run, after);
        rest = after.get(used..).unwrap_or_default();
    }
    masker.out.push_str(rest);
    masker.hidden.then_some(masker.out)
}

fn is_of_an_address(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, ':' | '.')
}

struct Masker<'a> {
    may_read: &'a dyn Fn(Source) -> bool,
    out: String,
    hidden: bool,
}

impl Masker<'_> {
    /// A run of such characters, and what follows it: how much of that belongs to it.
    fn run(&mut self, run: &str, after: &str) -> usize {
        // A colon before it and punctuation behind it are none of its own, unless it cannot be read otherwise.
        let starts = usize::from(run.starts_with(':'));
        let ends = run.len() - run.trim_end_matches(['.', ':']).len();
        for (lead, trail) in (0..=starts).flat_map(|lead| (0..=ends.min(2)).map(move |trail| (lead, trail))) {
            let Some(inner) = run.get(lead..run.len().saturating_sub(trail)) else { continue };
            if let Ok(address) = inner.parse::<Ipv6Addr>() {
                self.out.push_str(run.get(..lead).unwrap_or_default());
                let used = self.address(address.into(), inner, if trail == 0 { after } else { "" });
                self.out.push_str(run.get(run.len() - trail..).unwrap_or_default());
                return used;
            }
        }
        let mut rest = run;
        while let Some(start) = rest.find(is_of_v4) {
            let (before, from) = rest.split_at(start);
            self.out.push_str(before);
            let (group, behind) = from.split_at(from.find(|c| !is_of_v4(c)).unwrap_or(from.len()));
            let used = self.group(group, if behind.is_empty() { after } else { "" });
            if behind.is_empty() {
                return used;
            }
            rest = behind;
        }
        self.out.push_str(rest);
        0
    }

    /// Digits and dots: an IPv4 address, the start of some (`203.0.113.` of `hosts_access(5)`), or a number.
    fn group(&mut self, group: &str, after: &str) -> usize {
        let body = group.trim_end_matches('.');
        let dots = group.get(body.len()..).unwrap_or_default();
        if let Ok(address) = body.parse::<Ipv4Addr>() {
            let used = self.address(address.into(), body, if dots.is_empty() { after } else { "" });
            self.out.push_str(dots);
            return used;
        }
        let all = format!("{body}.0");
        match all.parse::<Ipv4Addr>().ok().and_then(|first| IpNet::new(first.into(), 24).ok()) {
            Some(net) if dots == "." && !(self.may_read)(Source::new(net)) => self.hide(),
            _ => self.out.push_str(group),
        }
        0
    }

    /// One address; what follows it may make it a range.
    fn address(&mut self, address: IpAddr, text: &str, after: &str) -> usize {
        let end = after.strip_prefix('/').map_or(0, |rest| 1 + rest.find(|c| !is_of_v4(c)).unwrap_or(rest.len()));
        let suffix = after.get(..end).unwrap_or_default();
        let suffix = suffix.trim_end_matches('.');
        let net = suffix.strip_prefix('/').and_then(|length| match length.parse::<u8>() {
            Ok(length) => IpNet::new(address, length).ok(),
            Err(_) => IpNet::with_netmask(address, length.parse().ok()?).ok(),
        });
        let (source, used) = net.map_or((Source::from(address), 0), |net| (Source::new(net), suffix.len()));
        if (self.may_read)(source) {
            self.out.push_str(text);
            self.out.push_str(after.get(..used).unwrap_or_default());
        } else {
            self.hide();
        }
        used
    }

    fn hide(&mut self) {
        self.out.push_str(MASK);
        self.hidden = true;
    }
}

fn is_of_v4(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn mask(text: &str) -> String {
        let within: [Source; 2] = ["203.0.113.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        masked(text, &|source| within.iter().any(|net| net.overlaps(source))).unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn addresses_elsewhere_are_hidden_however_they_are_written() {
        for (text, want) in [
            ("sshd: 203.0.113.7, 198.51.100.7", "sshd: 203.0.113.7, X"),
            ("sshd: 198.51.100., 203.0.113.", "sshd: X, 203.0.113."),
            ("from 198.51.100.7.", "from X."),
            ("198.51.100.0/24 and 203.0.0.0/16", "X and 203.0.0.0/16"),
            ("198.51.100.0/255.255.255.0;203.0.113.0/255.255.255.0", "X;203.0.113.0/255.255.255.0"),
            ("198.51.100.7:22 [::ffff:198.51.100.7]:22 [2001:db8::7]:22", "X:22 [X]:22 [2001:db8::7]:22"),
            ("198.51.100.7-198.51.100.9", "X-X"),
            ("ip6 saddr fd00::/8 drop; fd00:: 2001:db8::", "ip6 saddr X drop; X 2001:db8::"),
            ("peer:fd00::7, addr=198.51.100.7", "peer:X, addr=X"),
            ("fe80::1%eth0", "X%eth0"),
            ("user@198.51.100.7/32", "user@X"),
            ("0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0"),
            ("face:198.51.100.7", "face:X"),
        ] {
            assert_eq!(mask(text), want.replace('X', MASK), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "handle 4, line 10. It took 1.5 s",
            "2026-11-21T06:34:31Z",
            "aa:bb:cc:dd:ee:ff",
            "OpenSSH_10.0p2 Debian-7+deb13u4",
            "sha256:0a1b2c, nft inet filter input handle 9: tcp dport 22 drop",
            "Dead, added, fee",
            "",
            "…:.",
        ] {
            assert_eq!(mask(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_nothing_is_hidden_twice(text in "[0-9a-f:./x é-]{0,60}") {
            let once = mask(&text);
            prop_assert_eq!(mask(&once), once);
        }

        #[test]
        fn no_address_elsewhere_is_left(octets in any::<[u8; 4]>(), before in "[a-z ,=\\[]{0,3}", after in "[a-z ,\\]/%:]{0,3}") {
            let address = Ipv4Addr::from(octets);
            prop_assume!(octets[..3] != [203, 0, 113]);
            let text = format!("{before}{address}{after}");
            prop_assert!(!mask(&text).contains(&address.to_string()));
        }
    }
}
