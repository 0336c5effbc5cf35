#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn ed25519(first: u8) -> String {
    let blob = [&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &[first], &[7; 31]].concat();
    format!("ssh-ed25519 {}", STANDARD.encode(blob))
}

#[test]
fn an_empty_file_takes_no_key_back_and_a_list_of_keys_takes_those() {
    assert_eq!(revoked_keys(b""), RevokedKeys::Keys(BTreeSet::new()));
    assert_eq!(revoked_keys(b"# only\n  # comments\n\t\n"), RevokedKeys::Keys(BTreeSet::new()));
    let (a, b) = (ed25519(1), ed25519(2));
    let RevokedKeys::Keys(keys) = revoked_keys(format!("# old\n{a} me\r\n\n \t{b}").as_bytes()) else {
        panic!("these are lines of keys");
    };
    assert_eq!(keys.len(), 2);
    // Shorter than any key that sshd knows.
    let short = "ssh-rsa AAAAB3NzaC1yc2EAAAABAwAAAAMAgAE=";
    assert_eq!(revoked_keys(short.as_bytes()), RevokedKeys::Keys(BTreeSet::new()));
    assert!(matches!(revoked_keys(b"SSHKRL\n\0\0\0\0\x01"), RevokedKeys::Krl(_)));
}

#[test]
fn one_line_that_is_no_key_takes_every_key_back() {
    let key = ed25519(1);
    for (line, number) in [
        ("root:x:0:0:root:/root:/bin/bash".to_owned(), 1),
        (format!("{key} me\nSHA256:abc"), 2),
        (format!("from=\"x\" {key}"), 1),
        ("ssh-ed25519 AAAA bad".to_owned(), 1),
        ("\r".to_owned(), 1),
        ("-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(), 1),
        (format!("# a\n\n@revoked * {key}"), 3),
    ] {
        let found = revoked_keys(line.as_bytes());
        assert_eq!(found, RevokedKeys::Broken(format!("line {number} is no public key")), "{line:?}");
    }
    // Some versions know it.
    assert!(matches!(revoked_keys(b"ssh-dss AAAAB3NzaC1kc3M= x"), RevokedKeys::Unread(_)));
}
