//! Whether a configuration serves anybody at all, whoever comes: where it listens, host keys and algorithms that ordinary clients
//! have in common with it, and limits that drop every connection. Knows no user.

use std::collections::BTreeSet;

use crate::access_proof::Method;
use crate::subsystem::sshd::Effective;
use crate::subsystem::sshd::facts::state::Server;
use crate::subsystem::sshd::judge::objection::{Objection, Reason};
use crate::subsystem::sshd::quoting::said;
use crate::subsystem::sshd::way_in::risk::no_connections;
use crate::text::quoted::Text;
use crate::verdict::{Stage, Verdict};

/// What OpenSSH's client offers by default (`ssh_config(5)`, `Ciphers`, `MACs`, `HostKeyAlgorithms`), without what it only offered once.
const CIPHERS: [&str; 6] = [
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
];
/// Those of them that need no MAC.
const AUTHENTICATED: usize = 3;
pub(crate) const MACS: [&str; 10] = [
    "umac-64-etm@openssh.com",
    "umac-128-etm@openssh.com",
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha1-etm@openssh.com",
    "umac-64@openssh.com",
    "umac-128@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha1",
];

/// The keyword, the verdict and why.
type Problem = (&'static str, Verdict, Text);

fn refuse(keyword: &'static str, why: impl Into<Text>) -> Problem {
    (keyword, Verdict::Refuse, why.into())
}

fn unknown(keyword: &'static str, why: impl Into<Text>) -> Problem {
    (keyword, Verdict::Unknown, why.into())
}

/// What keeps everybody out.
pub fn objections(server: &Server) -> Vec<Objection> {
    let stage = Stage::SshdAdmission;
    if let Err(complaint) = &server.test {
        let why = Text::from("sshd, which does not take its files: ") + said(complaint);
        return vec![Objection::refuse(stage, Reason::Files(complaint.clone()), why)];
    }
    let effective = match &server.effective {
        Ok(effective) => effective,
        Err(why) => {
            let text = Text::from("sshd, whose effective configuration is not known: ") + said(why);
            return vec![Objection::unknown(stage, Reason::Unasked(why.clone()), text)];
        }
    };
    let algorithms = algorithms(effective, &server.host_keys);
    let algorithms =
        algorithms.map(|(keyword, verdict, why)| Objection { stage, reason: Reason::Algorithms(keyword), verdict, why });
    let no_room = no_connections(effective).map(|(keyword, why)| Objection::refuse(stage, Reason::NoRoom(keyword), why));
    algorithms.into_iter().chain(no_room).collect()
}

/// The methods of key exchange that sshfix can prove access by are among those every client has.
fn algorithms(effective: &Effective, host_keys: &[String]) -> Option<Problem> {
    let list = |keyword: &str| effective.one(keyword).map(|value| value.split(',').collect::<Vec<_>>());
    if let Some(kex) = list("kexalgorithms")
        && !Method::ALL.iter().any(|method| kex.contains(&method.name()))
    {
        let why = "KexAlgorithms, which has none of curve25519-sha256, ecdh-sha2-nistp256 and ecdh-sha2-nistp384";
        return Some(refuse("kexalgorithms", why));
    }
    let Some(ciphers) = list("ciphers") else { return Some(unknown("ciphers", "the ciphers, which sshd does not print")) };
    let common: Vec<&str> = CIPHERS.into_iter().filter(|cipher| ciphers.contains(cipher)).collect();
    if common.is_empty() {
        return Some(refuse("ciphers", "Ciphers, which has none that clients offer by default"));
    }
    let authenticated = CIPHERS.iter().take(AUTHENTICATED).any(|cipher| common.contains(cipher));
    if let Some(macs) = list("macs").filter(|_| !authenticated)
        && !MACS.iter().any(|mac| macs.contains(mac))
    {
        return Some(refuse("macs", "MACs, which has none that clients offer by default"));
    }
    let Some(accepted) = list("hostkeyalgorithms") else {
        return Some(unknown("hostkeyalgorithms", "the host key algorithms, which sshd does not print"));
    };
    if host_keys.is_empty() {
        return Some(unknown("hostkey", "the host keys, of which no public half can be read"));
    }
    if !offered(&accepted, host_keys).is_empty() {
        return None;
    }
    let why = format!("HostKey and HostKeyAlgorithms: no key is of an accepted type ({})", host_keys.join(", "));
    Some(refuse("hostkeyalgorithms", why))
}

/// The host keys that a client can be shown, by what `HostKeyAlgorithms` accepts.
fn offered(accepted: &[&str], host_keys: &[String]) -> BTreeSet<String> {
    let signs = |kind: &&String| match kind.as_str() {
        "ssh-rsa" => accepted.contains(&"rsa-sha2-512") || accepted.contains(&"rsa-sha2-256"),
        kind => accepted.contains(&kind),
    };
    host_keys.iter().filter(signs).cloned().collect()
}

/// Whether one of these types of host keys signs by this algorithm.
pub fn signs(host_keys: &[String], algorithm: &str) -> bool {
    let kind = if matches!(algorithm, "rsa-sha2-512" | "rsa-sha2-256") { "ssh-rsa" } else { algorithm };
    host_keys.iter().any(|key| key == kind)
}

/// By what clients may know this host: the types of its keys that they can be shown, and its certificates.
pub fn identities(server: &Server) -> BTreeSet<String> {
    let Ok(effective) = &server.effective else { return BTreeSet::new() };
    let accepted: Vec<&str> = effective.one("hostkeyalgorithms").unwrap_or_default().split(',').collect();
    // Of a key whose file sshd would not load now only the running one can show what it read before.
    let loads = |kind: &String| {
        let mut files = server.host_key_files.iter().filter(|key| key.algorithm.as_ref() == Some(kind)).peekable();
        files.peek().is_none() || files.any(|key| !key.is_lost())
    };
    let keys = offered(&accepted, &server.host_keys).into_iter().filter(loads).map(|kind| format!("the {kind} key"));
    let certificates = effective.all("hostcertificate").iter().map(|path| format!("the certificate {path}"));
    keys.chain(certificates).collect()
}

/// The same of the sshd that runs: of a key whose file changed since, it shows the one that it read.
pub fn identities_now(server: &Server) -> BTreeSet<String> {
    let mut found = identities(server);
    for key in server.host_key_files.iter().filter(|key| key.changed) {
        let kind = key.algorithm.as_deref().unwrap_or("host");
        found.remove(&format!("the {kind} key"));
        found.insert(format!("the {kind} key that sshd read before {} changed", key.path));
    }
    found
}

/// Why no key by which clients know the host would be left, because of files that changed since sshd read them.
pub fn no_key_stays(was: &BTreeSet<String>, is: &BTreeSet<String>) -> Option<String> {
    let changed = was.iter().any(|identity| identity.ends_with(" changed"));
    (changed && was.is_disjoint(is)).then(|| {
        let was: Vec<&str> = was.iter().map(String::as_str).collect();
        format!(
            "the host keys: clients know this host by {}, and sshd would show none of them any more; where that is meant, or the files hold \
             the same keys again, reload sshd by hand",
            was.join(" and ")
        )
    })
}
