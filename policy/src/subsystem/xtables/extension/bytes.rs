//! Reads numbers and names out of kernel structs, every access checked. Knows no struct; must never panic on short input.

/// The bytes of one struct, in the machine's own byte order unless a method says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// A part of it.
    pub fn slice(self, offset: usize, len: usize) -> Option<&'a [u8]> {
        self.0.get(offset..offset.checked_add(len)?)
    }

    fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.slice(offset, N)?.try_into().ok()
    }

    /// `__u8`
    pub fn u8(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    /// `__u16`
    pub fn u16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_ne_bytes)
    }

    /// `__be16`
    pub fn be16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_be_bytes)
    }

    /// `__u32`
    pub fn u32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_ne_bytes)
    }

    /// `int`
    pub fn i32(self, offset: usize) -> Option<i32> {
        self.array(offset).map(i32::from_ne_bytes)
    }

    /// `__be32`
    pub fn be32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_be_bytes)
    }

    /// `__u64`
    pub fn u64(self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_ne_bytes)
    }

    /// `struct in6_addr`
    pub fn be128(self, offset: usize) -> Option<u128> {
        self.array(offset).map(u128::from_be_bytes)
    }

    /// `union nf_inet_addr`: the first four bytes of an IPv4 address, all sixteen of an IPv6 address.
    pub fn address(self, offset: usize, v6: bool) -> Option<u128> {
        if v6 { self.be128(offset) } else { self.be32(offset).map(u128::from) }
    }

    /// A fixed-size C string: up to the first NUL. Bytes that are not UTF-8 are shown as U+FFFD.
    pub fn text(self, offset: usize, len: usize) -> Option<String> {
        let bytes = self.slice(offset, len)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len);
        Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
    }
}
