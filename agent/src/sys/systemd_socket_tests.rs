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

#[test]
fn a_signal_right_behind_the_handshake_is_named_too() {
    let handshake = b"OK 0123456789abcdef0123456789abcdef\r\nAGREE_UNIX_FD\r\n";
    for (order, sender) in [(b'l', SENDER[0]), (b'B', SENDER[1])] {
        let of_the_signal = fields(sender);
        let length = u32::try_from(of_the_signal.len()).unwrap();
        let length = if order == b'l' { length.to_le_bytes() } else { length.to_be_bytes() };
        let signal = [&[order, 4, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0][..], &length, &of_the_signal].concat();
        let signal = [&signal[..], &vec![0; signal.len().next_multiple_of(8) - signal.len()]].concat();
        let mut expected = signal.clone();
        name_uniquely(&mut expected[START..]);
        assert_ne!(expected, signal);
        let sent = [&handshake[..], &signal, &signal].concat();
        let read = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap().block_on(async {
            let (here, mut systemd) = UnixStream::pair().unwrap();
            systemd.write_all(&sent).await.unwrap();
            drop(systemd);
            let (mut reader, _) = SystemdSocket(here).split().take();
            let mut read = Vec::new();
            let mut buffer = [0; 64];
            loop {
                let (length, _) = reader.recvmsg(&mut buffer).await.unwrap();
                if length == 0 {
                    break read;
                }
                read.extend_from_slice(&buffer[..length]);
            }
        });
        assert_eq!(read, [&handshake[..], &expected, &expected].concat());
    }
}
