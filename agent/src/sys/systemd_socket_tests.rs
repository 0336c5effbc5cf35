//! The name that zbus takes stands where systemd's was, and nothing else is another byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

/// A signal as systemd sends it, with this sender.
fn fields(sender: &[u8]) -> Vec<u8> {
    let mut fields = b"\x01\x01o\0\x03\0\0\0/ab\0\0\0\0\0".to_vec();
    fields.extend_from_slice(sender);
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend_from_slice(b"\x08\x01g\0\x01s\0");
    fields
}

#[test]
fn a_well_known_sender_becomes_a_unique_one_of_the_same_length() {
    for sender in SENDER {
        let mut named = fields(sender);
        let before = named.clone();
        name_uniquely(&mut named);
        let at = named.windows(UNIQUE.len()).position(|bytes| bytes == UNIQUE).unwrap();
        assert_eq!(named[..at], before[..at]);
        assert_eq!(named[at + UNIQUE.len()..], before[at + UNIQUE.len()..]);
    }
}

#[test]
fn another_sender_and_a_text_that_looks_so_stay() {
    for other in [&b"\x07\x01s\0\x03\0\0\0:1.\0"[..], b"\x06\x01s\0\x18\0\0\0org.freedesktop.systemd1\0", b"", b"\x07"] {
        let mut named = fields(other);
        name_uniquely(&mut named);
        assert_eq!(named, fields(other));
    }
}

#[test]
fn a_length_is_read_in_both_orders_and_bounded() {
    let little = b"l\x02\x01\x01\x05\0\0\0\x01\0\0\0\x09\0\0\0";
    let big = b"B\x02\x01\x01\0\0\0\x05\0\0\0\x01\0\0\0\x09";
    assert_eq!(lengths(little), Some((9, 16 + 16 + 5)));
    assert_eq!(lengths(big), lengths(little));
    assert_eq!(lengths(b"l\x02\x01\x01\xff\xff\xff\xff\x01\0\0\0\x09\0\0\0"), None);
    assert_eq!(lengths(b"l\x02\x01"), None);
}
