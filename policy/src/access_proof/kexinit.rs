//! `SSH_MSG_KEXINIT` (RFC 4253 section 7.1): its lists, and what two sides agree on. Knows no cryptography.

use thiserror::Error;

use crate::ssh::blob::{BlobError, Reader, put_string};
use crate::ssh::public_key::printable;

/// The message number.
const KEXINIT: u8 = 20;
/// Bytes of the cookie.
pub const COOKIE: usize = 16;
/// Markers that stand among the methods and are none (RFC 8308; PROTOCOL of OpenSSH, section 1.10).
const MARKERS: [&str; 4] = ["ext-info-c", "ext-info-s", "kex-strict-c-v00@openssh.com", "kex-strict-s-v00@openssh.com"];

/// Why bytes are not the payload of a KEXINIT.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KexInitError {
    /// Cut, or longer than it should be.
    #[error("malformed: {0}")]
    Malformed(#[from] BlobError),
    /// Another message.
    #[error("it is message {0}, not {KEXINIT}")]
    Other(u8),
}

/// No algorithm that both sides know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no common {what}: the client offers {client}; the server offers {server}")]
pub struct NoCommon {
    /// Of what.
    pub what: &'static str,
    /// The client's list.
    pub client: String,
    /// The server's list.
    pub server: String,
}

/// The lists of one side, in its order of preference. Names are taken as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KexInit<'a> {
    cookie: &'a [u8; COOKIE],
    /// kex, host key, cipher c→s and s→c, MAC c→s and s→c, compression c→s and s→c, language c→s and s→c.
    lists: [&'a str; 10],
}

/// What both sides use, by the rules of RFC 4253 section 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated<'a> {
    /// The method of key exchange.
    pub kex: &'a str,
    /// The algorithm the host key signs by.
    pub host_key: &'a str,
}

impl<'a> KexInit<'a> {
    /// From a payload, message number included.
    pub fn parse(payload: &'a [u8]) -> Result<Self, KexInitError> {
        let mut reader = Reader::new(payload);
        match reader.u8("the message number")? {
            KEXINIT => {}
            other => return Err(KexInitError::Other(other)),
        }
        let cookie = reader.bytes(COOKIE, "the cookie")?;
        let cookie = <&[u8; COOKIE]>::try_from(cookie).map_err(|_| BlobError::Short("the cookie"))?;
        let mut lists = [""; 10];
        for list in &mut lists {
            *list = reader.text("a name-list")?;
        }
        reader.u8("first_kex_packet_follows")?;
        reader.u32("the reserved field")?;
        reader.end()?;
        Ok(Self { cookie, lists })
    }

    /// The payload of a message with these lists; languages stay empty, and no guessed packet follows.
    pub fn encode(cookie: &[u8; COOKIE], kex: &str, host_key: &str, cipher: &str, mac: &str, compression: &str) -> Vec<u8> {
        let mut payload = vec![KEXINIT];
        payload.extend_from_slice(cookie);
        for list in [kex, host_key, cipher, cipher, mac, mac, compression, compression, "", ""] {
            put_string(&mut payload, list.as_bytes());
        }
        payload.extend_from_slice(&[0; 5]);
        payload
    }

    /// The 16 bytes that are random elsewhere.
    pub fn cookie(&self) -> &'a [u8; COOKIE] {
        self.cookie
    }

    /// The first name on the client's list that is also on the server's, for each list that must have one. The MAC is not
    /// looked at: it does not count where the cipher brings its own.
    pub fn negotiate(client: &Self, server: &Self) -> Result<Negotiated<'a>, NoCommon> {
        let [kex, host_key, cipher_in, cipher_out, _, _, compression_in, compression_out, _, _] = client.lists;
        let [s_kex, s_host_key, s_cipher_in, s_cipher_out, _, _, s_compression_in, s_compression_out, _, _] = server.lists;
        for (what, ours, theirs) in [
            ("cipher", cipher_in, s_cipher_in),
            ("cipher", cipher_out, s_cipher_out),
            ("compression", compression_in, s_compression_in),
            ("compression", compression_out, s_compression_out),
        ] {
            first_common(what, ours, theirs)?;
        }
        Ok(Negotiated {
            kex: first_common("key exchange method", kex, s_kex)?,
            host_key: first_common("host key algorithm", host_key, s_host_key)?,
        })
    }
}

fn first_common<'a>(what: &'static str, client: &'a str, server: &str) -> Result<&'a str, NoCommon> {
    let known = |name: &&str| !name.is_empty() && !MARKERS.contains(name) && server.split(',').any(|other| other == *name);
    client.split(',').find(known).ok_or_else(|| NoCommon { what, client: brief(client), server: brief(server) })
}

/// A list, fit for a message.
fn brief(list: &str) -> String {
    const MOST: usize = 400;
    let names = list.split(',').filter(|name| !MARKERS.contains(name)).map(printable).collect::<Vec<_>>().join(",");
    match names.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", names.get(..end).unwrap_or_default()),
        None if names.is_empty() => "nothing".to_owned(),
        None => names,
    }
}
