//! The data types of the SSH protocol (RFC 4251 section 5), read and written byte by byte. Knows no key and no signature.

use thiserror::Error;

/// The bytes end before the value does, or go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlobError {
    /// Shorter than it says.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// Longer than it should be.
    #[error("{0} bytes too many at its end")]
    Trailing(usize),
    /// A text that is not one.
    #[error("{0} is not valid UTF-8")]
    NotText(&'static str),
}

/// Reads values from the front of a byte slice. Every method names what it reads, for the error.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Exactly `count` bytes.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], BlobError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(BlobError::Short(what))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BlobError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(BlobError::Short(what))?;
        self.0 = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, BlobError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// A big-endian 32-bit number.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, BlobError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// A big-endian 64-bit number.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, BlobError> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A length and as many bytes.
    pub fn string(&mut self, what: &'static str) -> Result<&'a [u8], BlobError> {
        let length = usize::try_from(self.u32(what)?).map_err(|_| BlobError::Short(what))?;
        self.bytes(length, what)
    }

    /// A string that holds UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<&'a str, BlobError> {
        std::str::from_utf8(self.string(what)?).map_err(|_| BlobError::NotText(what))
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), BlobError> {
        if self.0.is_empty() { Ok(()) } else { Err(BlobError::Trailing(self.0.len())) }
    }
}

/// Appends a string: its length in four bytes, then the bytes. Nothing we build comes near 4 GiB; a longer one is cut, so that
/// length and bytes always agree and the signature over it fails.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend(bytes.iter().take(usize::try_from(length).unwrap_or(usize::MAX)));
}

/// Appends a natural number, big-endian, as an `mpint`: no leading zeros but the one that keeps it from looking negative.
pub fn put_mpint(out: &mut Vec<u8>, number: &[u8]) {
    let digits = number.iter().position(|byte| *byte != 0).and_then(|first| number.get(first..)).unwrap_or_default();
    let sign = digits.first().is_some_and(|byte| byte & 0x80 != 0);
    put_string(out, &[if sign { &[0][..] } else { &[] }, digits].concat());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_comes_back_and_a_cut_one_is_refused() {
        let mut bytes = Vec::new();
        put_string(&mut bytes, b"abc");
        assert_eq!(bytes, b"\0\0\0\x03abc");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.string("x"), Ok(&b"abc"[..]));
        assert_eq!(reader.end(), Ok(()));
        for cut in 0..bytes.len() {
            let cut = bytes.get(..cut).unwrap_or_default();
            assert_eq!(Reader::new(cut).string("x"), Err(BlobError::Short("x")));
        }
        assert_eq!(Reader::new(b"\xff\xff\xff\xffabc").string("x"), Err(BlobError::Short("x")));
        assert_eq!(Reader::new(b"a").end(), Err(BlobError::Trailing(1)));
    }

    #[test]
    fn numbers_are_written_as_rfc_4251_section_5_shows() {
        for (number, want) in [
            (&b""[..], &b"\0\0\0\0"[..]),
            (b"\0\0", b"\0\0\0\0"),
            (b"\x09\xa3\x78\xf9\xb2\xe3\x32\xa7", b"\0\0\0\x08\x09\xa3\x78\xf9\xb2\xe3\x32\xa7"),
            (b"\x80", b"\0\0\0\x02\0\x80"),
            (b"\0\0\x80", b"\0\0\0\x02\0\x80"),
            (b"\0\x7f", b"\0\0\0\x01\x7f"),
        ] {
            let mut out = Vec::new();
            put_mpint(&mut out, number);
            assert_eq!(out, want);
        }
    }
}
