#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

/// A string of RFC 4251.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn ed25519(first: u8) -> String {
    STANDARD.encode([string(b"ssh-ed25519"), string(&[&[first][..], &[7; 31]].concat())].concat())
}

fn rsa(bits: usize) -> String {
    let modulus = [vec![0, 0x80], vec![1; bits / 8 - 1]].concat();
    STANDARD.encode([string(b"ssh-rsa"), string(b"\x01\0\x01"), string(&modulus)].concat())
}

fn ecdsa(curve: &str, length: usize) -> String {
    let kind = format!("ecdsa-sha2-{curve}");
    STANDARD
        .encode([string(kind.as_bytes()), string(curve.as_bytes()), string(&[&[4][..], &vec![9; length - 1]].concat())].concat())
}

#[test]
fn keys_are_read_in_the_order_of_their_lines_each_once() {
    let (a, b, p) = (ed25519(1), ed25519(2), ecdsa("nistp256", 65));
    let text = format!(
        "# ssh-dss x\nssh-ed25519 {a} a\n\n  command=\"echo \\\"ssh-rsa a\\\" b\",no-pty ecdsa-sha2-nistp256 {p}\n\
         cert-authority ssh-ed25519 {b} ca\nno-pty ssh-ed25519 {a}\r\nssh-ed25519 {a} again\nssh-dss AAAA\n"
    );
    let keys = authorized_keys(&text);
    let told: Vec<(&str, u32, bool)> = keys.iter().map(|key| (key.kind.as_str(), key.line, key.fault.is_some())).collect();
    let expected = [
        ("ssh-ed25519", 2, false),
        ("ecdsa-sha2-nistp256", 4, false),
        // An authority.
        (UNKNOWN, 5, false),
        ("ssh-ed25519", 6, false),
        (UNKNOWN, 8, false),
    ];
    assert_eq!(told, expected);
    assert_eq!(keys[1].option("Command").as_deref(), Some("echo \"ssh-rsa a\" b"));
    assert_eq!((keys[1].option("no-pty").as_deref(), keys[1].option("from")), (Some(""), None));
    assert!(keys.iter().all(AuthorizedKey::is_well_formed));
    assert_eq!(authorized_keys(""), []);
}

#[test]
fn a_line_that_sshd_passes_over_is_no_key_and_says_why() {
    use LineFault::{NoQuotes, NoType, NotWhole, OptionValue, OtherType, Principals, Quotes, Twice, UnknownOption};
    let (key, cut) = (format!("ssh-ed25519 {} me@host", ed25519(1)), ed25519(1)[..40].to_owned());
    for (line, fault) in [
        (format!("ssh-ed25519 {cut}"), NotWhole),
        (format!("ssh-ed25519 {cut}* me"), NotWhole),
        ("ssh-ed25519".to_owned(), NotWhole),
        (format!("no-pty ssh-ed25519 {cut}"), NotWhole),
        (format!("{} me@host", &ed25519(1)[40..]), NoType),
        (format!("\u{feff}{key}"), NoType),
        (format!("\"{key}\""), NoType),
        ("---- BEGIN SSH2 PUBLIC KEY ----".to_owned(), NoType),
        (format!("ecdsa-sha2-nistp256 {}", ed25519(1)), OtherType),
        (format!("ecdsa-sha2-nistp256 {}", ecdsa("nistp256", 64)), NotWhole),
        (format!("no-pty, no-X11-forwarding {key}"), NoType),
        (format!("command=\"a {key}"), Quotes),
        (format!("no-ptty {key}"), UnknownOption),
        (format!("ptyx {key}"), UnknownOption),
        (format!("no-restrict {key}"), UnknownOption),
        (format!("ssh-rsa {key}"), UnknownOption),
        (format!("from=203.0.113.8 {key}"), NoQuotes),
        (format!("command=/bin/sh {key}"), NoQuotes),
        (format!("command=\"a\",command=\"b\" {key}"), Twice),
        (format!("from=\"a\",no-pty,FROM=\"b\" {key}"), Twice),
        (format!("principals=\"a\" {key}"), Principals),
        (format!("permitopen=\"host\" {key}"), OptionValue),
        (format!("permitopen=\"host:0\" {key}"), OptionValue),
        (format!("permitlisten=\"70000\" {key}"), OptionValue),
        (format!("tunnel=\"x\" {key}"), OptionValue),
        (format!("environment=\"A\" {key}"), OptionValue),
        (format!("expiry-time=\"2026-01-01\" {key}"), OptionValue),
    ] {
        let found = authorized_keys(&line);
        assert_eq!(found.iter().map(|key| (key.line, key.fault)).collect::<Vec<_>>(), [(1, Some(fault))], "{line}");
        assert!(found.iter().all(|key| !key.is_key() && key.is_well_formed()), "{line}");
    }
    for options in [
        "restrict",
        "NO-PTY",
        "no-pty,no-pty",
        ",no-pty,",
        "agent-forwarding,no-user-rc,touch-required,no-touch-required,verify-required,X11-forwarding",
        "command=\"a \\\" b\",from=\"203.0.113.8\"",
        "permitopen=\"host:22\",permitopen=\"[::1]:*\",permitlisten=\"8080\",permitlisten=\"localhost:*\"",
        "tunnel=\"0\",environment=\"A_1=b=c\",expiry-time=\"20300101\"",
        "tunnel=\"any\",expiry-time=\"203001011200Z\"",
    ] {
        let found = authorized_keys(&format!("{options} {key}\r\n"));
        assert_eq!(found.iter().map(|key| key.options.as_str()).collect::<Vec<_>>(), [options]);
    }
    // Whether sshd knows that is not known here.
    for line in ["ssh-new AAAA", "no-pty ssh-new AAAA", &format!("permitopen=\"a:ssh\" {key}")] {
        let found = authorized_keys(line);
        assert_eq!(found.iter().map(|key| (key.is_key(), key.fault)).collect::<Vec<_>>(), [(false, None)], "{line}");
    }
    let junk: Vec<String> = (0..100).map(|n| format!("junk {n}")).collect();
    let many = format!("{}\n{key}", junk.join("\n"));
    assert_eq!(authorized_keys(&many).last().unwrap().kind, "ssh-ed25519");
    assert!(authorized_keys(&many).len() <= MAX_FAULTS + 1);
}

#[test]
fn an_rsa_key_is_taken_where_it_is_long_enough() {
    let keys = authorized_keys(&format!("ssh-rsa {} me\n", rsa(2048)));
    let key = keys.first().unwrap();
    assert_eq!(key.rsa_bits, Some(2048));
    let signs = |size: &str, algorithms: &str| -> Vec<&str> {
        let effective = Effective::parse(&format!("requiredrsasize {size}\npubkeyacceptedalgorithms {algorithms}\n"));
        key.signs_by(&effective).into_iter().collect()
    };
    assert_eq!(signs("2048", "ssh-ed25519,rsa-sha2-256"), ["rsa-sha2-256"]);
    assert_eq!(signs("1024", "rsa-sha2-512,ssh-rsa"), ["rsa-sha2-512", "ssh-rsa"]);
    assert_eq!(signs("2049", "rsa-sha2-256"), [""; 0]);
    assert_eq!(signs("1024", "ssh-ed25519"), [""; 0]);
}
