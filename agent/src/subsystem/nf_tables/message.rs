//! The bytes of netlink messages: nlmsghdr, nfgenmsg and attributes (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`).
//! Builds and walks them without unsafe; knows nothing of rules or sets.

use nix::libc;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`.
const BATCH_END: u16 = 17;
/// Bytes of nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: the kernel answers each message with its error number, 0 for done.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: the dumped list changed meanwhile.
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP`: `NLM_F_ROOT | NLM_F_MATCH`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_APPEND`: a rule goes to the end of its chain, or behind `NFTA_RULE_POSITION`; without it, before.
pub const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
pub const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: without the nested and byte-order flags.
const TYPE_MASK: u16 = 0x3fff;

/// What a message asks or answers: `NFT_MSG_*`, `NLMSG_*` and the batch marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `NLMSG_ERROR`, which is also the ack.
    Error,
    /// `NLMSG_DONE`, the end of a dump.
    Done,
    /// `NFNL_MSG_BATCH_BEGIN`.
    BatchBegin,
    /// `NFNL_MSG_BATCH_END`.
    BatchEnd,
    /// A message of `NFNL_SUBSYS_NFTABLES`: an `NFT_MSG_*`.
    Nft(u8),
    /// Anything else.
    Other(u16),
}

/// `NFT_MSG_*` of `linux/netfilter/nf_tables.h`.
pub mod nft {
    pub const NEW_TABLE: u8 = 0;
    pub const GET_TABLE: u8 = 1;
    pub const NEW_CHAIN: u8 = 3;
    pub const GET_CHAIN: u8 = 4;
    pub const NEW_RULE: u8 = 6;
    pub const GET_RULE: u8 = 7;
    pub const DEL_RULE: u8 = 8;
    pub const NEW_SET: u8 = 9;
    pub const GET_SET: u8 = 10;
    pub const NEW_ELEMENT: u8 = 12;
    pub const GET_ELEMENT: u8 = 13;
    pub const DEL_ELEMENT: u8 = 14;
    pub const NEW_GENERATION: u8 = 15;
    pub const GET_GENERATION: u8 = 16;
}

impl Kind {
    fn number(self) -> u16 {
        match self {
            Kind::Error => 2,
            Kind::Done => 3,
            Kind::BatchBegin => BATCH_BEGIN,
            Kind::BatchEnd => BATCH_END,
            Kind::Nft(message) => SUBSYSTEM << 8 | u16::from(message),
            Kind::Other(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        let [subsystem, message] = number.to_be_bytes();
        match number {
            2 => Kind::Error,
            3 => Kind::Done,
            BATCH_BEGIN => Kind::BatchBegin,
            BATCH_END => Kind::BatchEnd,
            _ if u16::from(subsystem) == SUBSYSTEM => Kind::Nft(message),
            _ => Kind::Other(number),
        }
    }
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// What it is.
    pub kind: Kind,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The request it answers.
    pub sequence: u32,
    /// All of it, headers included, for libnftnl.
    pub bytes: &'a [u8],
}

impl<'a> Received<'a> {
    /// Takes a message apart; `None` when it is shorter than its header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<16>()?;
        let [_, _, _, _, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        Some(Self {
            kind: Kind::from_number(u16::from_ne_bytes([k0, k1])),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            bytes,
        })
    }

    /// The error number of `NLMSG_ERROR` and `NLMSG_DONE`, positive; 0 is an ack. One without its number is no ack.
    pub fn errno(&self) -> i32 {
        let payload = self.bytes.get(16..).unwrap_or_default();
        payload.first_chunk::<4>().map_or(libc::EBADMSG, |code| i32::from_ne_bytes(*code).saturating_neg())
    }

    /// `nfgen_family`.
    pub fn family(&self) -> u8 {
        self.bytes.get(16).copied().unwrap_or_default()
    }

    /// The attributes of a nf_tables message.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes(self.bytes.get(HEADERS..).unwrap_or_default())
    }
}

/// Walks the messages of one datagram; ends at the first one that does not fit.
#[derive(Clone, Debug)]
pub struct Datagram<'a>(pub &'a [u8]);

impl<'a> Iterator for Datagram<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = self.0.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length))?;
        let length = usize::try_from(length).ok()?;
        let message = Received::parse(self.0.get(..length)?)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Walks attributes: the type without its flags, and the payload. Ends at the first one that does not fit.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_first_chunk::<4>()?;
        let [l0, l1, t0, t1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & TYPE_MASK, payload))
    }
}

impl<'a> Attributes<'a> {
    /// The payload of the first attribute of this type.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, payload)| payload)
    }

    /// The same, as attributes.
    pub fn nested(&self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// The same, as a big-endian number.
    pub fn be32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// The same, as a big-endian number.
    pub fn be64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// The same, as text up to its NUL.
    pub fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }
}

/// Bytes up to the first NUL, as text. The kernel's names are ASCII in practice; others are shown with replacement signs
/// and then match nothing.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

/// Attributes being built.
#[derive(Clone, Debug, Default)]
pub struct Attrs {
    bytes: Vec<u8>,
    /// An attribute did not fit into 64 KiB; such a message is never sent.
    too_long: bool,
}

impl Attrs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an attribute, padded to 4 bytes.
    #[must_use]
    pub fn put(mut self, kind: u16, payload: &[u8]) -> Self {
        if let Ok(length) = u16::try_from(payload.len().saturating_add(4)) {
            self.bytes.extend(length.to_ne_bytes());
            self.bytes.extend(kind.to_ne_bytes());
            self.bytes.extend(payload);
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        } else {
            self.too_long = true;
        }
        self
    }

    /// Appends an attribute that holds attributes.
    #[must_use]
    pub fn nest(mut self, kind: u16, inner: &Attrs) -> Self {
        self.too_long |= inner.too_long;
        self.put(kind | NESTED, &inner.bytes)
    }

    /// Appends attributes as the kernel sent them, or as [`Attrs::finish`] gave them.
    #[must_use]
    pub fn raw(mut self, attributes: &[u8]) -> Self {
        self.bytes.extend(attributes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a NUL-terminated text.
    #[must_use]
    pub fn text(self, kind: u16, text: &str) -> Self {
        let mut payload = text.as_bytes().to_vec();
        payload.push(0);
        self.put(kind, &payload)
    }

    /// Appends a number.
    #[must_use]
    pub fn be32(self, kind: u16, number: u32) -> Self {
        self.put(kind, &number.to_be_bytes())
    }

    /// Appends a number.
    #[must_use]
    pub fn be64(self, kind: u16, number: u64) -> Self {
        self.put(kind, &number.to_be_bytes())
    }

    /// The payload for an attribute to come, as [`Attrs::raw`] takes it.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The messages of one request or batch, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Messages {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message: nlmsghdr, nfgenmsg (batch marks name the subsystem in `res_id`), attributes.
    #[must_use]
    pub fn add(mut self, kind: Kind, family: u8, flags: u16, sequence: u32, attrs: &Attrs) -> Self {
        let resource = if matches!(kind, Kind::BatchBegin | Kind::BatchEnd) { SUBSYSTEM } else { 0 };
        let length = u32::try_from(HEADERS.saturating_add(attrs.bytes.len()));
        self.too_long |= attrs.too_long || length.is_err();
        self.bytes.extend(length.unwrap_or(0).to_ne_bytes());
        self.bytes.extend(kind.number().to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attrs.bytes);
        self
    }

    /// Ready to send; `None` when an attribute did not fit.
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.too_long).then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_what_is_read() {
        let inner = Attrs::new().put(1, &[1, 2, 3]);
        let attrs = Attrs::new().text(1, "filter").be32(2, 7).nest(3, &inner).be64(4, 9);
        let bytes = Messages::new().add(Kind::Nft(nft::GET_RULE), 2, ACK, 77, &attrs).finish().unwrap_or_default();
        let Some(read) = Received::parse(&bytes) else { panic!("too short") };
        assert_eq!((read.kind, read.sequence, read.family(), read.flags), (Kind::Nft(nft::GET_RULE), 77, 2, ACK | REQUEST));
        assert_eq!(bytes.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length)), u32::try_from(bytes.len()).ok());
        let all = read.attributes();
        assert_eq!(all.text(1).as_deref(), Some("filter"));
        assert_eq!((all.be32(2), all.be64(4)), (Some(7), Some(9)));
        assert_eq!(all.nested(3).and_then(|inner| inner.get(1)), Some([1, 2, 3].as_slice()));
        assert_eq!(all.get(5), None);
    }

    #[test]
    fn an_error_without_its_number_is_no_ack() {
        let message = Messages::new().add(Kind::Error, 0, 0, 1, &Attrs::new()).finish().unwrap_or_default();
        let errno = |bytes: &[u8]| Received::parse(bytes).map(|message| message.errno());
        assert_eq!(errno(&message), Some(0), "four bytes of nfgenmsg read as a number: {message:?}");
        assert_eq!(errno(message.get(..16).unwrap_or_default()), Some(libc::EBADMSG));
    }

    #[test]
    fn cut_off_bytes_end_the_walk_and_never_panic() {
        let attrs = Attrs::new().text(1, "filter").put(2, &[0; 40]).finish();
        for length in 0..attrs.len() {
            for (_, payload) in Attributes(attrs.get(..length).unwrap_or_default()) {
                assert!(payload.len() <= 40);
            }
        }
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0, "a length below the header's would loop for ever");
        assert!(Received::parse(&[0; 15]).is_none());
    }

    #[test]
    fn an_attribute_over_64_kib_is_never_sent() {
        let attrs = Attrs::new().nest(1, &Attrs::new().put(1, &vec![0; 70_000]));
        assert!(Messages::new().add(Kind::Nft(0), 0, 0, 1, &attrs).finish().is_none());
    }
}
