//! libnftnl behind safe types: parses the kernel's messages into tables, chains, rules, expressions and sets.
//! The unsafe half of the netlink room. Every getter asks `*_is_set` first, because libnftnl reads
//! through NULL where an attribute is not set, and takes the length with the pointer, so that no number is read too wide.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use nftnl::nftnl_sys::{self as sys, libc::nlmsghdr};

use super::message::text;

/// A receive buffer that is aligned for nlmsghdr.
pub struct Buffer(Box<[u64]>);

/// Kernel dumps use up to 32 KiB per datagram.
const BUFFER: usize = 64 << 10;

impl Buffer {
    /// 64 KiB of zeros.
    pub fn new() -> Self {
        Self(vec![0; BUFFER / 8].into_boxed_slice())
    }

    /// To read from.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the box holds `size_of_val` initialized bytes, any of which is a valid u8, for as long as `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(&*self.0)) }
    }

    /// To receive into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed exclusively; any bytes are a valid u64.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), size_of_val(&*self.0)) }
    }
}

/// A message copied to where libmnl wants it: aligned, and with a length that its header does not exceed.
struct Aligned(Vec<u32>);

impl Aligned {
    fn new(message: &[u8]) -> Option<Self> {
        let length = message.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length))?;
        if message.len() < 20 || usize::try_from(length).ok()? > message.len() {
            return None;
        }
        let words = message.chunks(4).map(|chunk| {
            let mut word = [0; 4];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            u32::from_ne_bytes(word)
        });
        Some(Self(words.collect()))
    }

    fn header(&self) -> *const nlmsghdr {
        self.0.as_ptr().cast()
    }
}

/// A value that libnftnl points to, copied out.
///
/// # Safety
/// `data` is NULL or points to `length` readable bytes.
unsafe fn copy(data: *const c_void, length: u32) -> Option<Vec<u8>> {
    let length = usize::try_from(length).ok()?;
    let data = NonNull::new(data.cast_mut().cast::<u8>())?;
    // SAFETY: as the caller promises; the pointer is not NULL.
    Some(unsafe { std::slice::from_raw_parts(data.as_ptr(), length) }.to_vec())
}

/// A C string that libnftnl points to, copied out.
///
/// # Safety
/// `data` is NULL or points to bytes that end with NUL.
unsafe fn c_string(data: *const c_void) -> Option<String> {
    if data.is_null() {
        return None;
    }
    // SAFETY: as the caller promises; the pointer is not NULL.
    Some(unsafe { CStr::from_ptr(data.cast()) }.to_string_lossy().into_owned())
}

/// A number in host byte order of 1, 2, 4 or 8 bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    Some(match *bytes {
        [one] => u64::from(one),
        [_, _] => u64::from(u16::from_ne_bytes(*bytes.first_chunk()?)),
        [_, _, _, _] => u64::from(u32::from_ne_bytes(*bytes.first_chunk()?)),
        [_, _, _, _, _, _, _, _] => u64::from_ne_bytes(*bytes.first_chunk()?),
        _ => return None,
    })
}

/// Attributes of a libnftnl object, by their `NFTNL_*` number.
pub trait Attributes {
    /// Whether the attribute is set.
    fn is_set(&self, attribute: u32) -> bool;

    /// The value, copied; `None` when it is not set.
    fn bytes(&self, attribute: u32) -> Option<Vec<u8>>;

    /// The value of an attribute that libnftnl keeps as a C string, as text.
    ///
    /// Its length is not asked for: libnftnl 1.2.4 says 4 for every `NFTNL_CHAIN_TYPE`.
    fn text(&self, attribute: u32) -> Option<String>;

    /// The value as a number of up to 4 bytes.
    fn u32(&self, attribute: u32) -> Option<u32> {
        self.u64(attribute).and_then(|number| u32::try_from(number).ok())
    }

    /// The same of one that the kernel may leave out: `Some(None)` where it did, `None` where what it sent is no such number.
    #[allow(clippy::option_option, reason = "what was left out is told from what is not understood")]
    fn optional_u32(&self, attribute: u32) -> Option<Option<u32>> {
        if self.is_set(attribute) { self.u32(attribute).map(Some) } else { Some(None) }
    }

    /// The value as a number of up to 8 bytes.
    fn u64(&self, attribute: u32) -> Option<u64> {
        number(&self.bytes(attribute)?)
    }
}

macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $alloc:ident, $free:ident, $parse:ident, $is_set:ident, $get:ident) => {
        $(#[$doc])*
        pub struct $name(NonNull<sys::$raw>);

        impl $name {
            /// From a message of the kernel; `None` when libnftnl cannot take it apart.
            pub fn parse(message: &[u8]) -> Option<Self> {
                let message = Aligned::new(message)?;
                // SAFETY: takes nothing, gives a new object or NULL.
                let object = Self(NonNull::new(unsafe { sys::$alloc() })?);
                // SAFETY: the message is aligned, at least as long as its header says, and outlives the call; the object is
                // ours. libmnl's attribute walk checks every length against the header's.
                let result = unsafe { sys::$parse(message.header(), object.0.as_ptr()) };
                (result >= 0).then_some(object)
            }
        }

        impl Attributes for $name {
            fn is_set(&self, attribute: u32) -> bool {
                // SAFETY: the object is ours and alive.
                u16::try_from(attribute).is_ok_and(|attribute| unsafe { sys::$is_set(self.0.as_ptr(), attribute) })
            }

            fn bytes(&self, attribute: u32) -> Option<Vec<u8>> {
                if !self.is_set(attribute) {
                    return None;
                }
                let attribute = u16::try_from(attribute).ok()?;
                let mut length = 0;
                // SAFETY: the object is ours and alive; the attribute is set, so the getter gives a pointer into the object
                // and how much it holds.
                unsafe { copy(sys::$get(self.0.as_ptr(), attribute, &raw mut length), length) }
            }

            fn text(&self, attribute: u32) -> Option<String> {
                if !self.is_set(attribute) {
                    return None;
                }
                let attribute = u16::try_from(attribute).ok()?;
                let mut length = 0;
                // SAFETY: as above; callers ask for texts only where libnftnl keeps a C string.
                unsafe { c_string(sys::$get(self.0.as_ptr(), attribute, &raw mut length)) }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: allocated in `parse`, freed once.
                unsafe { sys::$free(self.0.as_ptr()) };
            }
        }
    };
}

object!(
    /// A table.
    Table, nftnl_table, nftnl_table_alloc, nftnl_table_free, nftnl_table_nlmsg_parse, nftnl_table_is_set, nftnl_table_get_data
);
object!(
    /// A chain, without its rules.
    Chain, nftnl_chain, nftnl_chain_alloc, nftnl_chain_free, nftnl_chain_nlmsg_parse, nftnl_chain_is_set, nftnl_chain_get_data
);
object!(
    /// A rule.
    Rule, nftnl_rule, nftnl_rule_alloc, nftnl_rule_free, nftnl_rule_nlmsg_parse, nftnl_rule_is_set, nftnl_rule_get_data
);
object!(
    /// A set, without its elements.
    Set, nftnl_set, nftnl_set_alloc, nftnl_set_free, nftnl_set_nlmsg_parse, nftnl_set_is_set, nftnl_set_get_data
);

impl Chain {
    /// `NFTNL_CHAIN_DEV` or `NFTNL_CHAIN_DEVICES`.
    pub fn devices(&self) -> Vec<String> {
        if let Some(device) = self.text(sys::NFTNL_CHAIN_DEV) {
            return vec![device];
        }
        let mut devices = Vec::new();
        let Ok(attribute) = u16::try_from(sys::NFTNL_CHAIN_DEVICES) else { return devices };
        if !self.is_set(sys::NFTNL_CHAIN_DEVICES) {
            return devices;
        }
        // SAFETY: the chain is ours and alive; a set `NFTNL_CHAIN_DEVICES` is an array of C strings that ends with NULL.
        unsafe {
            let mut next = sys::nftnl_chain_get_array(self.0.as_ptr(), attribute);
            while !next.is_null() && !(*next).is_null() {
                devices.push(CStr::from_ptr(*next).to_string_lossy().into_owned());
                next = next.add(1);
            }
        }
        devices
    }
}

/// An expression of a rule, borrowed from it.
pub struct Expr<'a> {
    raw: NonNull<sys::nftnl_expr>,
    /// It lives in the rule.
    _rule: &'a Rule,
}

impl Attributes for Expr<'_> {
    fn is_set(&self, attribute: u32) -> bool {
        // SAFETY: the rule that owns the expression is borrowed.
        u16::try_from(attribute).is_ok_and(|attribute| unsafe { sys::nftnl_expr_is_set(self.raw.as_ptr(), attribute) })
    }

    fn bytes(&self, attribute: u32) -> Option<Vec<u8>> {
        if !self.is_set(attribute) {
            return None;
        }
        let attribute = u16::try_from(attribute).ok()?;
        let mut length = 0;
        // SAFETY: the rule that owns the expression is borrowed; the attribute is set, so the getter gives a pointer into the
        // expression and how much it holds.
        unsafe { copy(sys::nftnl_expr_get(self.raw.as_ptr(), attribute, &raw mut length), length) }
    }

    fn text(&self, attribute: u32) -> Option<String> {
        if !self.is_set(attribute) {
            return None;
        }
        let attribute = u16::try_from(attribute).ok()?;
        let mut length = 0;
        // SAFETY: as above; callers ask for texts only where libnftnl keeps a C string.
        unsafe { c_string(sys::nftnl_expr_get(self.raw.as_ptr(), attribute, &raw mut length)) }
    }
}

impl Expr<'_> {
    /// As libnftnl prints it.
    pub fn print(&self) -> String {
        let mut line = [0_u8; 512];
        // SAFETY: writes at most the given length, its NUL included, into the buffer.
        unsafe { sys::nftnl_expr_snprintf(line.as_mut_ptr().cast::<c_char>(), line.len(), self.raw.as_ptr(), 0, 0) };
        text(&line).trim().to_owned()
    }
}

impl Rule {
    /// Its expressions in order; `None` where libnftnl does not list them.
    pub fn expressions(&self) -> Option<Vec<Expr<'_>>> {
        let mut expressions = Vec::new();
        // SAFETY: the rule is ours and alive; the iterator is made, used and destroyed here, and gives pointers to expressions
        // that the rule owns, until NULL.
        unsafe {
            let iterator = sys::nftnl_expr_iter_create(self.0.as_ptr());
            if iterator.is_null() {
                return None;
            }
            while let Some(raw) = NonNull::new(sys::nftnl_expr_iter_next(iterator)) {
                expressions.push(Expr { raw, _rule: self });
            }
            sys::nftnl_expr_iter_destroy(iterator);
        }
        Some(expressions)
    }
}
