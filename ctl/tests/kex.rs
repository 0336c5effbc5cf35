//! What the client says of ports that prove nothing. Real servers are asked in `tests/tests/access_proof.rs`.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sshfix::kex::{KexError, prove, targets};
use sshfix_policy::access_proof::KexInit;

const COOKIE: [u8; 16] = [7; 16];

/// A server that does this to its only client.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}

/// Longer than a loaded machine takes for anything here.
const LONG: Duration = Duration::from_mins(1);

fn ask(serve: impl FnOnce(TcpStream) + Send + 'static) -> KexError {
    prove(&[server(serve)], &COOKIE, LONG).unwrap_err()
}

/// Says this, hears the client out, and closes.
fn says(text: &'static [u8]) -> KexError {
    ask(move |mut stream| {
        stream.write_all(text).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (9 + payload.len()) % 8) % 8;
    let length = u32::try_from(1 + payload.len() + padding).unwrap();
    [&length.to_be_bytes(), &[u8::try_from(padding).unwrap()][..], payload, &vec![0; padding]].concat()
}

#[test]
fn a_closed_port_is_refused_and_the_next_target_is_tried() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = prove(&[closed], &COOKIE, LONG).unwrap_err();
    assert!(matches!(error, KexError::Refused { to, .. } if to == closed), "{error}");
    let open = server(|mut stream| stream.write_all(b"Not allowed at this time\r\n").unwrap());
    let error = prove(&[closed, open], &COOKIE, LONG).unwrap_err();
    assert!(matches!(error, KexError::TurnedAway { to, .. } if to == open), "{error}");
    assert!(matches!(prove(&[], &COOKIE, LONG), Err(KexError::Local(_))));
}

#[test]
fn a_port_that_says_no_banner_is_described_by_what_it_does() {
    let error = ask(drop);
    assert!(matches!(error, KexError::NoBanner { .. }), "{error}");
    assert!(error.to_string().contains("closes the connection before its banner, after "), "{error}");

    let error = says(b"Exceeded MaxStartups\r\n");
    assert!(error.to_string().ends_with("turns the connection away: \"Exceeded MaxStartups\""), "{error}");

    for banner in [&b"SSH-1.5-old\r\n"[..], b"SSH-2.0\r\n"] {
        assert!(matches!(says(banner), KexError::NotSsh { .. }));
    }
    let error = ask(|mut stream| while stream.write_all(&[b'x'; 1000]).is_ok() {});
    assert!(matches!(error, KexError::NotSsh { .. }), "{error}");
}

#[test]
fn a_server_that_drips_is_given_up_at_the_deadline() {
    let started = Instant::now();
    let drips = server(|mut stream| {
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
    });
    let error = prove(&[drips], &COOKIE, Duration::from_secs(2)).unwrap_err();
    assert!(matches!(error, KexError::Stalled { during: "banner", .. }), "{error}");
    assert!(started.elapsed() < LONG);
}

#[test]
fn a_server_that_ends_the_exchange_or_breaks_it_is_quoted() {
    let with_banner = |rest: Vec<u8>| {
        ask(move |mut stream| {
            stream.write_all(&[b"a line before\r\nSSH-2.0-test\r\n", &rest[..]].concat()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    let error = with_banner(Vec::new());
    assert!(matches!(error, KexError::Lost { .. }), "{error}");
    let error = with_banner(packet(b"\x01\0\0\0\x02\0\0\0\x03bye\0\0\0\0"));
    assert!(error.to_string().ends_with("it says \"bye\""), "{error}");
    for broken in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\0\0\0\x01\0\x14", b"\xff\xff\xff\xff\x04aaaa", b"\0\0\0\x05\x04\x14aaaa"]
    {
        let error = with_banner(broken.to_vec());
        assert!(matches!(error, KexError::Protocol { .. }), "{error}");
    }
    let error = with_banner(packet(b"\x02\0\0\0\0").repeat(100));
    assert!(matches!(error, KexError::Protocol { .. }), "{error}");

    let kexinit = |kex| packet(&KexInit::encode(&[0; 16], kex, "ssh-ed25519", "aes128-ctr", "hmac-sha2-256", "none"));
    let error = with_banner([packet(b"\x04\0\0\0\0\0\0\0\0\0"), kexinit("sntrup761x25519-sha512")].concat());
    let said = error.to_string();
    assert!(
        said.contains("no common key exchange method") && said.ends_with("the server offers sntrup761x25519-sha512"),
        "{said}"
    );

    // A reply whose key is no point of the curve, and one that nobody signed.
    let reply = |ephemeral: &[u8]| {
        let mut payload = vec![31];
        for part in [&b"\0\0\0\x0bssh-ed25519\0\0\0\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..], ephemeral, b"\0\0\0\0"] {
            sshfix_policy::ssh::blob::put_string(&mut payload, part);
        }
        packet(&payload)
    };
    let error = with_banner([kexinit("curve25519-sha256"), reply(&[0; 32])].concat());
    assert!(error.to_string().contains("no valid point"), "{error}");
    let error = with_banner([kexinit("curve25519-sha256"), reply(&[9; 32])].concat());
    assert!(matches!(error, KexError::NotProven { .. }), "{error}");
}

#[test]
fn every_address_of_this_machine_is_a_target() {
    if std::env::var_os("SSH_CONNECTION").is_some() {
        return;
    }
    let targets = targets(2222);
    assert!(targets.starts_with(&["127.0.0.1:2222".parse().unwrap()]) || targets.len() == 1, "{targets:?}");
}
