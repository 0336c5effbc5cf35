//! Which clients in use have algorithms in common with an sshd, and what it offers no more after a change. By which client somebody comes is
//! not known, so that an edit which leaves a family of them nothing is a lockout of whoever comes. What else goes, and families of versions that
//! nobody maintains any more, are a risk that is shown.

use std::collections::{BTreeMap, BTreeSet};

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::keyword;
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::way_in::serves;

/// What the clients of one kind offer, each list in their order.
struct Family {
    name: &'static str,
    /// Whether newer versions took its place years ago.
    is_old: bool,
    kex: &'static [&'static str],
    ciphers: &'static [&'static str],
    macs: &'static [&'static str],
    host_keys: &'static [&'static str],
}

const ECDH: &[&str] = &["ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"];
const CURVE_AND_ECDH: &[&str] =
    &["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"];
const OLD_CURVE_AND_ECDH: &[&str] =
    &["curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"];
const COUNTERS: &[&str] = &["aes128-ctr", "aes192-ctr", "aes256-ctr"];
const SHA2: &[&str] = &["hmac-sha2-256", "hmac-sha2-512", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"];
const OPENSSH_CIPHERS: &[&str] = &[
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
];
const KEYS: &[&str] =
    &["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256"];
const KEYS_WITH_SHA1: &[&str] = &["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// Where versions differ, the oldest in use of each.
const FAMILIES: [Family; 11] = [
    // myproposal.h, 7.4; group exchange and fixed groups are left out, which newer servers do not offer.
    Family {
        name: "OpenSSH 7 to 9",
        is_old: false,
        kex: CURVE_AND_ECDH,
        ciphers: OPENSSH_CIPHERS,
        macs: &serves::MACS,
        host_keys: KEYS,
    },
    // myproposal.h, 10.0.
    Family {
        name: "OpenSSH 10",
        is_old: false,
        kex: &[
            "mlkem768x25519-sha256",
            "sntrup761x25519-sha512",
            "sntrup761x25519-sha512@openssh.com",
            "curve25519-sha256",
            "curve25519-sha256@libssh.org",
            "ecdh-sha2-nistp256",
            "ecdh-sha2-nistp384",
            "ecdh-sha2-nistp521",
        ],
        ciphers: &[
            "chacha20-poly1305@openssh.com",
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "aes128-ctr",
            "aes192-ctr",
            "aes256-ctr",
        ],
        macs: &serves::MACS,
        host_keys: KEYS,
    },
    // settings.c `ciphernames`, ssh2transport.c `macs`, sshecc.c `ec_kex_list`.
    Family {
        name: "PuTTY before 0.75",
        is_old: true,
        kex: OLD_CURVE_AND_ECDH,
        ciphers: &["aes256-ctr", "aes192-ctr", "aes128-ctr", "chacha20-poly1305@openssh.com"],
        macs: &["hmac-sha2-256", "hmac-sha1", "hmac-sha2-256-etm@openssh.com", "hmac-sha1-etm@openssh.com"],
        host_keys: KEYS_WITH_SHA1,
    },
    Family {
        name: "PuTTY",
        is_old: false,
        kex: CURVE_AND_ECDH,
        ciphers: &["aes256-ctr", "aes192-ctr", "aes128-ctr", "chacha20-poly1305@openssh.com"],
        macs: &["hmac-sha2-256", "hmac-sha1", "hmac-sha2-256-etm@openssh.com", "hmac-sha1-etm@openssh.com"],
        host_keys: KEYS,
    },
    // transport.py, `_preferred_*`.
    Family {
        name: "paramiko before 2.9",
        is_old: true,
        kex: OLD_CURVE_AND_ECDH,
        ciphers: COUNTERS,
        macs: &["hmac-sha2-256", "hmac-sha2-512", "hmac-sha1"],
        host_keys: KEYS_WITH_SHA1,
    },
    Family { name: "paramiko", is_old: false, kex: OLD_CURVE_AND_ECDH, ciphers: COUNTERS, macs: SHA2, host_keys: KEYS },
    // kex.c, 0.9.
    Family {
        name: "libssh",
        is_old: false,
        kex: CURVE_AND_ECDH,
        ciphers: &[
            "chacha20-poly1305@openssh.com",
            "aes256-gcm@openssh.com",
            "aes128-gcm@openssh.com",
            "aes256-ctr",
            "aes192-ctr",
            "aes128-ctr",
        ],
        macs: SHA2,
        host_keys: KEYS,
    },
    // common-algo.c, since 2020.79.
    Family {
        name: "dropbear",
        is_old: false,
        kex: CURVE_AND_ECDH,
        ciphers: &["chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr"],
        macs: &["hmac-sha1", "hmac-sha2-256"],
        host_keys: &["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-256"],
    },
    // common-algo.c, 2019.
    Family {
        name: "dropbear before 2020.79",
        is_old: true,
        kex: CURVE_AND_ECDH,
        ciphers: &["aes128-ctr", "aes256-ctr"],
        macs: &["hmac-sha2-256", "hmac-sha1"],
        host_keys: &["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-ed25519", "rsa-sha2-256"],
    },
    // JSch.java, 0.1.55.
    Family {
        name: "JSch 0.1",
        is_old: true,
        kex: ECDH,
        ciphers: &["aes128-ctr", "aes192-ctr", "aes256-ctr"],
        macs: &["hmac-sha1", "hmac-sha2-256"],
        host_keys: &["ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"],
    },
    // JSch.java of the fork that goes on.
    Family {
        name: "JSch",
        is_old: false,
        kex: CURVE_AND_ECDH,
        ciphers: &["aes128-ctr", "aes192-ctr", "aes256-ctr", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"],
        macs: &[
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha1-etm@openssh.com",
            "hmac-sha2-256",
            "hmac-sha2-512",
            "hmac-sha1",
        ],
        host_keys: KEYS,
    },
];

/// The ciphers that need no MAC.
const AUTHENTICATED: [&str; 3] = ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"];
/// The lists of an sshd that a client must have something in common with.
const LISTS: [&str; 4] = ["kexalgorithms", "ciphers", "macs", "hostkeyalgorithms"];
/// What every sshd since 7.0 offers where no line says otherwise, as far as a family goes by it.
const DEFAULTS: &str = "kexalgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521\n\
    ciphers chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com\n\
    macs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha1-etm@openssh.com,hmac-sha2-256,hmac-sha2-512,hmac-sha1\n\
    hostkeyalgorithms ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256\n";

/// What an sshd has in common with clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// By family, the list that leaves it nothing; `None` where it gets through.
    missing: BTreeMap<&'static str, Option<&'static str>>,
    /// By list, what sshd offers.
    offers: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Clients {
    /// Of an sshd with this configuration; nothing where that is not known.
    pub fn of(server: &Server) -> Self {
        server.effective.as_ref().map(|effective| Self::with(effective, &server.host_keys)).unwrap_or_default()
    }

    /// The same where the one that runs may have read other files: all that it may have offered.
    #[must_use]
    pub fn or_by_default(mut self, host_keys: &[String]) -> Self {
        let by_default = Self::with(&Effective::parse(DEFAULTS), host_keys);
        self.missing.extend(by_default.missing.into_iter().filter(|(_, missing)| missing.is_none()));
        self
    }

    fn with(effective: &Effective, host_keys: &[String]) -> Self {
        let list = |keyword| effective.one(keyword).map(|value| value.split(',').collect::<Vec<&str>>());
        let offers = LISTS.iter().filter_map(|keyword| Some((*keyword, list(keyword)?.into_iter().map(str::to_owned).collect())));
        let missing = FAMILIES.iter().map(|family| (family.name, family.missing(effective, host_keys)));
        Self { missing: missing.collect(), offers: offers.collect() }
    }

    /// The first family that got through before and has nothing in common with sshd any more, and by which list.
    pub fn lost(&self, now: &Self) -> Option<String> {
        let (family, list) = self.lost_families(now).find(|(family, _)| !family.is_old)?;
        let (name, family) = (keyword::spelling(list), family.name);
        Some(format!("sshd: {name} would leave clients like {family} no algorithm, and which client comes is not known"))
    }

    fn lost_families(&self, now: &Self) -> impl Iterator<Item = (&'static Family, &'static str)> {
        let got_through = |family: &&Family| self.missing.get(family.name) == Some(&None);
        let lost = |family: &'static Family| Some((family, (*now.missing.get(family.name)?)?));
        FAMILIES.iter().filter(got_through).filter_map(lost)
    }

    /// What is offered no more, for people.
    pub fn gone(&self, now: &Self) -> Vec<String> {
        let lost = |(keyword, before): (&&str, &BTreeSet<String>)| {
            let after = now.offers.get(*keyword)?;
            let gone: Vec<&str> = before.difference(after).map(String::as_str).collect();
            let name = keyword::spelling(keyword);
            (!gone.is_empty())
                .then(|| format!("{name} without {}: a client that has nothing else cannot log in", gone.join(", ")))
        };
        let old = self.lost_families(now).filter(|(family, _)| family.is_old).map(|(family, list)| {
            let name = keyword::spelling(list);
            format!("{name} leaves clients like {} no algorithm: they cannot log in any more", family.name)
        });
        self.offers.iter().filter_map(lost).chain(old).collect()
    }
}

impl Family {
    /// The list that leaves these clients nothing.
    fn missing(&self, effective: &Effective, host_keys: &[String]) -> Option<&'static str> {
        let list = |keyword: &str| effective.one(keyword).map(|value| value.split(',').collect::<Vec<&str>>());
        let none = |keyword: &str, ours: &[&str]| list(keyword).is_some_and(|all| !ours.iter().any(|one| all.contains(one)));
        if none("kexalgorithms", self.kex) {
            return Some("kexalgorithms");
        }
        // kex.c, `choose_enc`: the first of the client's that sshd has.
        let ciphers = list("ciphers");
        let chosen = self.ciphers.iter().find(|one| ciphers.as_ref().is_none_or(|all| all.contains(one)));
        let Some(chosen) = chosen else { return Some("ciphers") };
        if !AUTHENTICATED.contains(chosen) && none("macs", self.macs) {
            return Some("macs");
        }
        let accepted = list("hostkeyalgorithms").filter(|_| !host_keys.is_empty())?;
        let shown = |one: &&&str| accepted.contains(one) && serves::signs(host_keys, one);
        if self.host_keys.iter().any(|one| shown(&one)) { None } else { Some("hostkeyalgorithms") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str, host_keys: &[&str]) -> Clients {
        let host_keys: Vec<String> = host_keys.iter().map(|key| (*key).to_owned()).collect();
        Clients::with(&Effective::parse(lines), &host_keys)
    }

    const ALL_KEYS: [&str; 3] = ["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"];

    #[test]
    fn every_family_gets_through_where_no_line_says_otherwise() {
        let clients = of(DEFAULTS, &ALL_KEYS);
        assert!(clients.missing.values().all(Option::is_none), "{clients:?}");
        assert_eq!(clients.lost(&clients), None);
        assert_eq!(Clients::default().or_by_default(&ALL_KEYS.map(str::to_owned)).missing, clients.missing);
    }

    #[test]
    fn a_list_that_leaves_a_family_nothing_names_it_and_what_else_goes_is_shown() {
        let before = of(DEFAULTS, &ALL_KEYS);
        for (line, family) in [
            ("ciphers chacha20-poly1305@openssh.com", Some("Ciphers would leave clients like paramiko")),
            ("ciphers aes256-gcm@openssh.com", Some("Ciphers")),
            ("ciphers aes128-ctr", None),
            ("ciphers aes256-ctr,chacha20-poly1305@openssh.com", None),
            ("macs hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com", None),
            ("macs umac-64@openssh.com", Some("MACs would leave clients like")),
            ("macs hmac-sha2-256", None),
            ("macs umac-128@openssh.com", Some("MACs")),
            ("kexalgorithms sntrup761x25519-sha512@openssh.com", Some("KexAlgorithms")),
            ("kexalgorithms curve25519-sha256", Some("KexAlgorithms would leave clients like paramiko")),
            ("kexalgorithms curve25519-sha256,curve25519-sha256@libssh.org,diffie-hellman-group16-sha512", None),
            ("kexalgorithms ecdh-sha2-nistp256,curve25519-sha256", None),
            ("hostkeyalgorithms ssh-ed25519", None),
            ("hostkeyalgorithms rsa-sha2-512", Some("HostKeyAlgorithms would leave clients like")),
            ("hostkeyalgorithms ssh-ed25519,ecdsa-sha2-nistp256", None),
        ] {
            let keyword = line.split(' ').next().unwrap_or_default();
            let others: Vec<&str> = DEFAULTS.lines().filter(|other| !other.trim_start().starts_with(keyword)).collect();
            let after = of(&format!("{line}\n{}\n", others.join("\n")), &ALL_KEYS);
            let lost = before.lost(&after);
            assert_eq!(lost.is_some(), family.is_some(), "{line}: {lost:?}");
            assert!(lost.unwrap_or_default().contains(family.unwrap_or_default()), "{line}");
            let told = before.gone(&after);
            assert!(told.len() == 1 || told.iter().skip(1).all(|one| one.contains("cannot log in any more")), "{line}: {told:?}");
            assert_eq!(after.lost(&after), None, "what was so before: {line}");
            assert_eq!(after.lost(&before), None, "more than before: {line}");
        }
        // A key that goes takes its algorithms along.
        let one_key = of(DEFAULTS, &["ssh-ed25519"]);
        assert!(before.lost(&one_key).is_none() && before.gone(&one_key).iter().any(|one| one.contains("like JSch 0.1")));
        assert!(before.lost(&of(DEFAULTS, &["ssh-rsa"])).is_none());
        assert_eq!(before.lost(&of(DEFAULTS, &ALL_KEYS[1..])), None);
    }
}
