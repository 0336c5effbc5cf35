//! A client and an sshd that have no algorithm in common: what would, on either side, safest first. Knows the algorithms of OpenSSH 8.0
//! to 10.x by their strength; judges no cryptography itself.

use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::config::{Setting, Settings};
use crate::subsystem::sshd::facts::journal::{Said, Told};
use crate::subsystem::sshd::facts::state::{HostKey, KeyProblem, Server};
use crate::subsystem::sshd::judge::judgement::{Judgement, Mend, Remedy, found};
use crate::subsystem::sshd::judge::origin::quote;
use crate::subsystem::sshd::quoting::of_values;
use crate::text::quoted::Text;
use crate::verdict::cause::Cause;
use crate::verdict::owner::Owner;
use crate::verdict::{Evidence, Verdict};

/// A kind of algorithm in `Unable to negotiate ...`, and where sshd and ssh have their lists.
struct Kind {
    /// In the journal.
    name: &'static str,
    /// In `sshd -T`.
    keyword: &'static str,
    /// In `ssh_config` and `sshd_config`.
    option: &'static str,
    /// Safest first (`sshd_config(5)`, and the order of OpenSSH 10's own defaults).
    strong: &'static [&'static str],
    /// Known, and broken or on the way there: SHA-1, CBC, MD5, groups of 1024 bits.
    weak: &'static [&'static str],
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "key exchange method",
        keyword: "kexalgorithms",
        option: "KexAlgorithms",
        strong: &[
            "mlkem768x25519-sha256",
            "sntrup761x25519-sha512",
            "sntrup761x25519-sha512@openssh.com",
            "curve25519-sha256",
            "curve25519-sha256@libssh.org",
            "ecdh-sha2-nistp521",
            "ecdh-sha2-nistp384",
            "ecdh-sha2-nistp256",
            "diffie-hellman-group18-sha512",
            "diffie-hellman-group16-sha512",
            "diffie-hellman-group-exchange-sha256",
            "diffie-hellman-group14-sha256",
        ],
        weak: &["diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1", "diffie-hellman-group1-sha1"],
    },
    Kind {
        name: "cipher",
        keyword: "ciphers",
        option: "Ciphers",
        strong: &[
            "chacha20-poly1305@openssh.com",
            "aes256-gcm@openssh.com",
            "aes128-gcm@openssh.com",
            "aes256-ctr",
            "aes192-ctr",
            "aes128-ctr",
        ],
        weak: &["aes256-cbc", "aes192-cbc", "aes128-cbc", "3des-cbc"],
    },
    Kind {
        name: "MAC",
        keyword: "macs",
        option: "MACs",
        strong: &[
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha2-256-etm@openssh.com",
            "umac-128-etm@openssh.com",
            "hmac-sha2-512",
            "hmac-sha2-256",
            "umac-128@openssh.com",
        ],
        weak: &[
            "umac-64-etm@openssh.com",
            "umac-64@openssh.com",
            "hmac-sha1-etm@openssh.com",
            "hmac-sha1",
            "hmac-sha1-96",
            "hmac-md5",
            "hmac-md5-96",
        ],
    },
    Kind {
        name: "host key type",
        keyword: "hostkeyalgorithms",
        option: "HostKeyAlgorithms",
        strong: &[
            "ssh-ed25519",
            "ecdsa-sha2-nistp521",
            "ecdsa-sha2-nistp384",
            "ecdsa-sha2-nistp256",
            "rsa-sha2-512",
            "rsa-sha2-256",
        ],
        weak: &["ssh-rsa", "ssh-dss"],
    },
];

/// What would let the client in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Would {
    /// The option, as both sides call it.
    pub option: &'static str,
    /// What sshd would have to take besides: the safest that the client offered. Whether it is weak.
    pub server: Option<(String, bool)>,
    /// A kind of host key that has to be made first: `rsa`.
    pub host_key: Option<&'static str>,
    /// What the client would have to offer: the safest that sshd takes.
    pub client: Option<String>,
}

/// The kind of key that signs by this algorithm.
fn key_type(algorithm: &str) -> Option<&'static str> {
    if algorithm.starts_with("ssh-ed25519") {
        Some("ed25519")
    } else if algorithm.starts_with("ecdsa-") {
        Some("ecdsa")
    } else if algorithm.starts_with("rsa-") || algorithm == "ssh-rsa" {
        Some("rsa")
    } else {
        None
    }
}

/// The remedy for an offer; `None` where sshd takes it by now, or nobody knows the kind. `keys` are the host keys that it could load.
fn remedy(kind: &str, offer: &[String], effective: &Effective, keys: &[&'static str]) -> Option<Would> {
    let kind = KINDS.iter().find(|one| one.name == kind)?;
    let enabled: Vec<&str> = effective.one(kind.keyword)?.split(',').collect();
    let is_key = kind.keyword == "hostkeyalgorithms";
    let has_key = |algorithm: &str| !is_key || key_type(algorithm).is_some_and(|key| keys.contains(&key));
    let takes = |algorithm: &str| enabled.contains(&algorithm) && has_key(algorithm);
    if offer.iter().any(|one| takes(one)) {
        return None;
    }
    let offered = |algorithm: &&&str| offer.iter().any(|one| one == **algorithm);
    let strong = kind.strong.iter().find(offered).map(|one| ((*one).to_owned(), false));
    let server = strong.or_else(|| kind.weak.iter().find(offered).map(|one| ((*one).to_owned(), true)));
    let missing = server.as_ref().filter(|(one, _)| !has_key(one)).and_then(|(one, _)| key_type(one));
    let client = kind.strong.iter().find(|one| takes(one)).or_else(|| kind.weak.iter().find(|one| takes(one)));
    Some(Would { option: kind.option, server, host_key: missing, client: client.map(|one| (*one).to_owned()) })
}

/// The last refusal of an offer from this client, where nobody from there got in since. Whether it comes again depends on the client.
pub fn judge(server: &Server, told: &[&Told], settings: &Settings) -> Judgement {
    let nothing = Judgement::accept("");
    let Ok(effective) = &server.effective else { return nothing };
    let last = told.iter().rev().find_map(|told| match &told.what {
        Said::NoMatch { kind, offer } => Some(Some((told, kind, offer))),
        Said::Accepted(_) => Some(None),
        _ => None,
    });
    let Some(Some((told, kind, offer))) = last else { return nothing };
    let keys: Vec<&'static str> =
        server.host_key_files.iter().filter(|key| key.problem.is_none()).filter_map(HostKey::kind).collect();
    let Some(remedy) = remedy(kind, offer, effective, &keys) else { return nothing };
    let Would { option, server: more, host_key, client } = &remedy;
    let mut ways = Vec::new();
    let at_client = client
        .as_ref()
        .map(|one| format!("at the client: a newer one, or `ssh -o {option}={one} ...` where its configuration left that out"));
    let at_server = match (more, host_key) {
        (Some((one, _)), Some(key)) => Some(format!(
            "at the server: make a host key for {one}: `ssh-keygen -q -t {key} -N '' -f /etc/ssh/ssh_host_{key}_key`"
        )),
        (Some((one, false)), None) => {
            Some(format!("at the server: take {one} too, which is safe: `sshfix ctl sshd set {option} ...`"))
        }
        (Some((one, true)), None) => {
            Some(format!("at the server, last and only for a while: `{option} +{one}`, which is weak and opens it to everybody"))
        }
        (None, _) => None,
    };
    let safe = more.as_ref().is_some_and(|(_, weak)| !weak);
    if safe {
        ways.extend(at_server);
        ways.extend(at_client);
    } else {
        ways.extend(at_client);
        ways.extend(at_server);
    }
    let enabled =
        effective.one(KINDS.iter().find(|one| one.name == kind.as_str()).map_or("", |one| one.keyword)).unwrap_or_default();
    let mut evidence = vec![told.evidence()];
    evidence.push(Evidence::new("sshd -T", Text::from(format!("{} ", option.to_ascii_lowercase())) + of_values(option, enabled)));
    let setting = settings.get(&option.to_ascii_lowercase()).and_then(|lines| lines.first());
    evidence.extend(setting.map(quote));
    let detail = format!("the client offered no {kind} that sshd takes: {}", offer.join(", "));
    let fix = if ways.is_empty() { "the client needs a newer SSH".to_owned() } else { ways.join("; ") };
    let mut judgement = found(Cause::SshdAlgorithms, true, Owner::Sshd, evidence, fix);
    judgement.verdict = Verdict::Unknown;
    judgement.detail = detail.into();
    judgement.with(remedies(server, &remedy, setting))
}

/// A safe algorithm that sshd leaves out, or a host key that is missing where its files name one. Nothing weak is done without being asked.
fn remedies(server: &Server, remedy: &Would, setting: Option<&Setting>) -> Vec<Remedy> {
    let (Some((one, false)), option) = (&remedy.server, remedy.option) else { return Vec::new() };
    if let Some(kind) = remedy.host_key {
        let missing = |key: &&HostKey| key.problem == Some(KeyProblem::Missing) && key.kind() == Some(kind);
        let make = |key: &HostKey| Mend::Key { path: key.path.clone(), kind: kind.to_owned(), there: true };
        let file = server.host_key_files.iter().find(missing).map(make);
        return file.into_iter().flat_map(|part| [Remedy::Repair(part), Remedy::Reload]).collect();
    }
    let value = match setting.and_then(|setting| setting.arguments.first()) {
        None => format!("+{one}"),
        // What is taken away from the defaults, and what is moved to their front, is for a person to weigh.
        Some(list) if list.starts_with(['-', '^']) => return Vec::new(),
        Some(list) => format!("{list},{one}"),
    };
    Remedy::set(option, setting, vec![value]).into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ask(kind: &str, offer: &str, list: &str, keys: &[&'static str]) -> Option<Would> {
        let offer: Vec<String> = offer.split(',').map(str::to_owned).collect();
        remedy(kind, &offer, &Effective::parse(list), keys)
    }

    #[test]
    fn the_safest_that_would_do_is_named_on_either_side_and_weak_ones_are_called_so() {
        let kex = "kexalgorithms curve25519-sha256,ecdh-sha2-nistp256\n";
        let old =
            ask("key exchange method", "diffie-hellman-group1-sha1,diffie-hellman-group14-sha1,ext-info-c", kex, &[]).unwrap();
        assert_eq!(old.server, Some(("diffie-hellman-group14-sha1".to_owned(), true)));
        assert_eq!(old.client.as_deref(), Some("curve25519-sha256"));
        let fair = ask("key exchange method", "diffie-hellman-group14-sha1,diffie-hellman-group14-sha256", kex, &[]).unwrap();
        assert_eq!(fair.server, Some(("diffie-hellman-group14-sha256".to_owned(), false)));
        assert_eq!(ask("key exchange method", "curve25519-sha256", kex, &[]), None, "it takes it by now");
        let cbc = ask("cipher", "aes128-cbc,3des-cbc", "ciphers aes128-ctr,aes256-ctr\n", &[]).unwrap();
        assert_eq!((cbc.server, cbc.client.as_deref()), (Some(("aes128-cbc".to_owned(), true)), Some("aes256-ctr")));
        assert_eq!(ask("compression method", "zlib", "compression no\n", &[]), None);
    }

    #[test]
    fn a_host_key_algorithm_without_a_key_names_the_key() {
        let list = "hostkeyalgorithms ssh-ed25519,rsa-sha2-512,rsa-sha2-256\n";
        let asked = ask("host key type", "rsa-sha2-512,rsa-sha2-256,ssh-rsa", list, &["ed25519"]).unwrap();
        assert_eq!((asked.server, asked.host_key), (Some(("rsa-sha2-512".to_owned(), false)), Some("rsa")));
        assert_eq!(asked.client.as_deref(), Some("ssh-ed25519"));
        assert_eq!(ask("host key type", "rsa-sha2-512", list, &["ed25519", "rsa"]), None);
    }
}
