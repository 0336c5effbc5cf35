//! Addresses in free text that a reader may not know of, and what people wrote beside rules: found however they are written there, and put
//! out of sight. What names nobody is left as it is. Decides nothing about who may read what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::patterns::WORDS;
use crate::address::Source;
use crate::subsystem::sshd::config::inet_aton;

/// What stands for an address that is not shown.
pub const MASK: &str = "(another address)";
/// What nft prints before words of whoever made a rule or an element,
const NFT_REMARKS: [&str; 2] = ["comment \"", "log prefix \""];
/// and iptables.
const IPTABLES_REMARKS: [&str; 6] =
    ["--comment ", "--log-prefix ", "--nflog-prefix ", "--ulog-prefix ", "--string ", "--hex-string "];
/// What sshfix writes there itself,
const OURS: &str = "sshfix";
/// with the number of the lease.
const LEASE: &str = "sshfix lease ";

/// The text without the addresses and ranges that may not be read, and without the comments of rules; `None` where it has none.
pub fn masked(text: &str, may_read: &dyn Fn(Source) -> bool) -> Option<String> {
    let remarked = without_remarks(text);
    match (without_addresses(remarked.as_deref().unwrap_or(text), may_read), remarked) {
        (Some(masked), _) | (None, Some(masked)) => Some(masked),
        (None, None) => None,
    }
}

/// The text without what people wrote beside rules and elements: comments, and prefixes of log lines.
fn without_remarks(text: &str) -> Option<String> {
    let (mut out, mut hidden) = (String::new(), false);
    let mut rest = text;
    // nft's option ends with the quote that its words begin with.
    let next = |rest: &str| {
        let nft = NFT_REMARKS.iter().filter_map(|option| rest.find(option).map(|at| at + option.len() - 1));
        let iptables = IPTABLES_REMARKS.iter().filter_map(|option| rest.find(option).map(|at| at + option.len()));
        nft.chain(iptables).min()
    };
    while let Some((before, words)) = next(rest).and_then(|at| rest.split_at_checked(at)) {
        out.push_str(before);
        let (words, after) = words.split_at_checked(end_of_word(words)).unwrap_or((words, ""));
        if is_ours(words.trim_matches('"')) {
            out.push_str(words);
        } else {
            out.push_str(WORDS);
            hidden = true;
        }
        rest = after;
    }
    out.push_str(rest);
    hidden.then_some(out)
}

/// Where a word ends: behind the quote that closes it, if it has quotes. One in the middle has a backslash before it.
fn end_of_word(text: &str) -> usize {
    let Some(inner) = text.strip_prefix('"') else {
        return text.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')).unwrap_or(text.len());
    };
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            '"' if !escaped => return at + 2,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

fn is_ours(words: &str) -> bool {
    let number = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    words == OURS || words.strip_prefix(LEASE).is_some_and(number)
}

fn without_addresses(text: &str, may_read: &dyn Fn(Source) -> bool) -> Option<String> {
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
        // `inet_aton(3)` takes fewer numbers, too, of which the last is a large one, and octal ones.
        let (parts, last) = (body.split('.').count(), body.rsplit('.').next().and_then(|last| last.parse::<u32>().ok()));
        if let Some(address) = inet_aton(body).filter(|_| parts == 4 || parts > 1 && last.is_some_and(|last| last > 255)) {
            self.address(address, body, "");
            self.out.push_str(dots);
            return 0;
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
            ("sshd: 198.51.25607, 198.3368967 0306.063.0144.07.", "sshd: X, X X."),
            ("sshd: 203.0.28935", "sshd: 203.0.28935"),
        ] {
            assert_eq!(mask(text), want.replace('X', MASK), "{text}");
        }
    }

    #[test]
    fn what_people_write_beside_rules_is_hidden() {
        for (text, want) in [
            ("tcp dport 22 drop comment \"of bob\"", "tcp dport 22 drop comment ~"),
            ("203.0.113.7 timeout 1m comment \"bob\" : drop", "203.0.113.7 timeout 1m comment ~ : drop"),
            ("log prefix \"bob: \" group 2 comment \"bob\"", "log prefix ~ group 2 comment ~"),
            ("-m comment --comment \"bob's \\\"own\\\" rule\\\\\" -j DROP", "-m comment --comment ~ -j DROP"),
            ("-m comment --comment bob -j LOG --log-prefix \"bob \"", "-m comment --comment ~ -j LOG --log-prefix ~"),
            ("-m string --string bob --algo bm", "-m string --string ~ --algo bm"),
            ("drop comment \"bob", "drop comment ~"),
            ("-A INPUT -m comment --comment sshfix -j DROP", "-A INPUT -m comment --comment sshfix -j DROP"),
            ("accept comment \"sshfix lease 12\"", "accept comment \"sshfix lease 12\""),
            ("accept comment \"sshfix lease bob\"", "accept comment ~"),
            ("accept comment \"sshfix of bob\"", "accept comment ~"),
            ("no comment", "no comment"),
        ] {
            assert_eq!(mask(text), want.replace('~', WORDS), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "handle 4, line 10. It took 1.5 s",
            "Linux 6.1.0-41-amd64, systemd 257.9, change 1234567890",
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
