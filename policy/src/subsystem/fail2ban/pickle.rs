//! Reads the pickles fail2ban answers with (`pickletools.py` of Python, protocols 2 to 5). An allow-list: plain data, strings
//! made by `str(...)` and exceptions as data. Nothing is imported, called or executed; anything else is an error.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::ssh::public_key::printable;

/// Most nodes a reply may have: a million bans need two million.
const MOST_NODES: usize = 4_000_000;
/// Most values of the finished tree, shared ones counted each time.
const MOST_VALUES: usize = 2_000_000;
/// Deepest nesting of a reply; fail2ban's own go to six.
const DEEPEST: usize = 32;

/// A value of a reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `str`, and what `str(...)` would make of its one argument
    Text(String),
    /// `bytes`
    Bytes(Vec<u8>),
    /// `list`, `set`
    List(Vec<Value>),
    /// `tuple`
    Tuple(Vec<Value>),
    /// `dict`, in its order
    Dict(Vec<(Value, Value)>),
    /// An instance that was not made: its class (`fail2ban.exceptions.UnknownJailException`) and arguments.
    Object {
        /// Module and name.
        class: String,
        /// What the class would have been called with.
        args: Vec<Value>,
    },
}

/// Why bytes are not a pickle that is read here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PickleError {
    /// The bytes end in the middle.
    #[error("the reply is cut off")]
    CutOff,
    /// An opcode that fail2ban does not use.
    #[error("the reply holds the pickle opcode {opcode:#04x} at byte {at}, which is not allowed")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where.
        at: usize,
    },
    /// A class or function outside the allow-list.
    #[error("the reply names `{0}`, which is not allowed")]
    Global(String),
    /// Opcodes that do not fit together.
    #[error("the reply is not well-formed: {0}")]
    Malformed(&'static str),
    /// Too large or nested too deeply.
    #[error("the reply is too large or nested too deeply")]
    TooMuch,
}

use PickleError::{CutOff, Malformed, TooMuch};

/// An arena node; children are indexes, so that a memoized container is shared and not copied.
enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    List(Vec<usize>),
    Tuple(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    Class(String),
    Object { class: usize, args: usize },
}

/// Reads one pickle. Bytes after its STOP are refused.
pub fn decode(bytes: &[u8]) -> Result<Value, PickleError> {
    let mut machine = Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() };
    let root = machine.run()?;
    if machine.at != bytes.len() {
        return Err(Malformed("bytes after its end"));
    }
    // A value takes a byte at least; what is shared is counted again, so a little more is allowed.
    let mut budget = bytes.len().saturating_mul(4).min(MOST_VALUES);
    machine.value(root, DEEPEST, &mut budget)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, usize>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<usize, PickleError> {
        loop {
            let at = self.at;
            let [opcode] = self.take_array()?;
            match opcode {
                // PROTO
                0x80 => {
                    if !(2..=5).contains(&self.u8()?) {
                        return Err(Malformed("an unknown protocol"));
                    }
                }
                // FRAME: only a hint for readers of streams
                0x95 => {
                    self.take(8)?;
                }
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                // MEMOIZE
                0x94 => {
                    let key = u32::try_from(self.memo.len()).map_err(|_| TooMuch)?;
                    self.remember(key)?;
                }
                // BINPUT, LONG_BINPUT
                b'q' => {
                    let key = self.u8()?.into();
                    self.remember(key)?;
                }
                b'r' => {
                    let key = self.u32()?;
                    self.remember(key)?;
                }
                // BINGET, LONG_BINGET
                b'h' => {
                    let key = self.u8()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.u32()?;
                    self.recall(key)?;
                }
                b'N' => self.push(Node::None)?,
                // NEWTRUE, NEWFALSE
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                // BININT, BININT1, BININT2, LONG1
                b'J' => {
                    let int = i32::from_le_bytes(self.take_array()?);
                    self.push(Node::Int(int.into()))?;
                }
                b'K' => {
                    let int = self.u8()?;
                    self.push(Node::Int(int.into()))?;
                }
                b'M' => {
                    let int = u16::from_le_bytes(self.take_array()?);
                    self.push(Node::Int(int.into()))?;
                }
                0x8a => {
                    let len = self.u8()?;
                    let int = long(self.take(len.into())?)?;
                    self.push(Node::Int(int))?;
                }
                // BINFLOAT
                b'G' => {
                    let float = f64::from_be_bytes(self.take_array()?);
                    self.push(Node::Float(float))?;
                }
                // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8; SHORT_BINSTRING, BINSTRING: `str` of Python 2
                0x8c | b'U' => {
                    let len = self.u8()?.into();
                    self.text(len)?;
                }
                b'X' | b'T' => {
                    let len = self.u32()?.into();
                    self.text(len)?;
                }
                0x8d => {
                    let len = u64::from_le_bytes(self.take_array()?);
                    self.text(len)?;
                }
                // SHORT_BINBYTES, BINBYTES
                b'C' => {
                    let len = self.u8()?;
                    let bytes = self.take(len.into())?;
                    self.push(Node::Bytes(bytes))?;
                }
                b'B' => {
                    let len = usize::try_from(self.u32()?).map_err(|_| CutOff)?;
                    let bytes = self.take(len)?;
                    self.push(Node::Bytes(bytes))?;
                }
                // EMPTY_LIST, EMPTY_SET, EMPTY_TUPLE, EMPTY_DICT
                b']' | 0x8f => self.push(Node::List(Vec::new()))?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                // TUPLE, TUPLE1, TUPLE2, TUPLE3
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                0x85..=0x87 => {
                    let start = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or(Malformed("an empty stack"))?;
                    let items = self.stack.split_off(start);
                    self.push(Node::Tuple(items))?;
                }
                // APPEND
                b'a' => {
                    let item = self.pop()?;
                    self.top_list()?.push(item);
                }
                // APPENDS, ADDITEMS
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.top_list()?.extend(items);
                }
                // SETITEM
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.top_dict()?.push((key, value));
                }
                // SETITEMS
                b'u' => {
                    let items = self.pop_to_mark()?;
                    let pairs = items.chunks(2).map(|pair| match pair {
                        [key, value] => Ok((*key, *value)),
                        _ => Err(Malformed("a key without a value")),
                    });
                    let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
                    self.top_dict()?.extend(pairs);
                }
                // STACK_GLOBAL, GLOBAL
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let class = class(self.text_at(module)?, self.text_at(name)?)?;
                    self.push(Node::Class(class))?;
                }
                b'c' => {
                    let module = self.line()?;
                    let class = class(module, self.line()?)?;
                    self.push(Node::Class(class))?;
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let (args, class) = (self.pop()?, self.pop()?);
                    self.reduce(class, args)?;
                }
                // BUILD: the state of an exception, of no interest
                b'b' => {
                    self.pop()?;
                    if !matches!(self.stack.last().and_then(|top| self.nodes.get(*top)), Some(Node::Object { .. })) {
                        return Err(Malformed("a state for something that is no object"));
                    }
                }
                opcode => return Err(PickleError::Opcode { opcode, at }),
            }
        }
    }

    /// `str(x)` is the string x; other classes stay data.
    fn reduce(&mut self, class: usize, args: usize) -> Result<(), PickleError> {
        let Some(Node::Class(name)) = self.nodes.get(class) else {
            return Err(Malformed("a call of something that is no class"));
        };
        let Some(Node::Tuple(items)) = self.nodes.get(args) else { return Err(Malformed("a call without arguments")) };
        if name == "builtins.str" {
            let [text] = items.as_slice() else { return Err(Malformed("str() without one argument")) };
            let text = *text;
            self.text_at(text)?;
            self.stack.push(text);
            return Ok(());
        }
        self.push(Node::Object { class, args })
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), PickleError> {
        if self.nodes.len() >= MOST_NODES {
            return Err(TooMuch);
        }
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    /// Pops, but never below the innermost mark.
    fn pop(&mut self) -> Result<usize, PickleError> {
        if self.marks.last().is_some_and(|mark| self.stack.len() <= *mark) {
            return Err(Malformed("an empty stack above its mark"));
        }
        self.stack.pop().ok_or(Malformed("an empty stack"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>, PickleError> {
        let mark = self.marks.pop().ok_or(Malformed("no mark"))?;
        if mark > self.stack.len() {
            return Err(Malformed("a mark beyond the stack"));
        }
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, key: u32) -> Result<(), PickleError> {
        let top = *self.stack.last().ok_or(Malformed("nothing to remember"))?;
        if self.memo.len() >= MOST_NODES {
            return Err(TooMuch);
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), PickleError> {
        let node = *self.memo.get(&key).ok_or(Malformed("nothing remembered under that number"))?;
        if self.stack.len() >= MOST_NODES {
            return Err(TooMuch);
        }
        self.stack.push(node);
        Ok(())
    }

    fn top_list(&mut self) -> Result<&mut Vec<usize>, PickleError> {
        match self.stack.last().and_then(|top| self.nodes.get_mut(*top)) {
            Some(Node::List(items)) => Ok(items),
            _ => Err(Malformed("items for something that is no list")),
        }
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(usize, usize)>, PickleError> {
        match self.stack.last().and_then(|top| self.nodes.get_mut(*top)) {
            Some(Node::Dict(items)) => Ok(items),
            _ => Err(Malformed("items for something that is no dict")),
        }
    }

    fn text_at(&self, node: usize) -> Result<&'a str, PickleError> {
        match self.nodes.get(node) {
            Some(Node::Text(text)) => Ok(text),
            _ => Err(Malformed("a name that is no string")),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(len).ok_or(CutOff)?;
        let taken = self.bytes.get(self.at..end).ok_or(CutOff)?;
        self.at = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        self.take(N)?.try_into().map_err(|_| CutOff)
    }

    fn u8(&mut self) -> Result<u8, PickleError> {
        self.take_array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, PickleError> {
        self.take_array().map(u32::from_le_bytes)
    }

    fn text(&mut self, len: u64) -> Result<(), PickleError> {
        let bytes = self.take(usize::try_from(len).map_err(|_| CutOff)?)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a string that is not UTF-8"))?;
        self.push(Node::Text(text))
    }

    /// A line of GLOBAL.
    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = self.bytes.get(self.at..).ok_or(CutOff)?;
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or(CutOff)?;
        let line = self.take(len)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| Malformed("a name that is not UTF-8"))
    }

    /// The finished tree. Shared nodes are counted each time they occur, so that a small pickle cannot become a huge value.
    fn value(&self, node: usize, depth: usize, budget: &mut usize) -> Result<Value, PickleError> {
        let depth = depth.checked_sub(1).ok_or(TooMuch)?;
        *budget = budget.checked_sub(1).ok_or(TooMuch)?;
        let values = |items: &[usize], budget: &mut usize| -> Result<Vec<Value>, PickleError> {
            items.iter().map(|item| self.value(*item, depth, budget)).collect()
        };
        Ok(match self.nodes.get(node).ok_or(Malformed("a missing value"))? {
            Node::None => Value::None,
            Node::Bool(bool) => Value::Bool(*bool),
            Node::Int(int) => Value::Int(*int),
            Node::Float(float) => Value::Float(*float),
            Node::Text(text) => Value::Text((*text).to_owned()),
            Node::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            Node::List(items) => Value::List(values(items, budget)?),
            Node::Tuple(items) => Value::Tuple(values(items, budget)?),
            Node::Dict(items) => Value::Dict(
                items
                    .iter()
                    .map(|(key, value)| Ok((self.value(*key, depth, budget)?, self.value(*value, depth, budget)?)))
                    .collect::<Result<_, PickleError>>()?,
            ),
            Node::Class(_) => return Err(Malformed("a class as a value")),
            Node::Object { class, args } => match (self.nodes.get(*class), self.nodes.get(*args)) {
                (Some(Node::Class(class)), Some(Node::Tuple(args))) => {
                    Value::Object { class: class.clone(), args: values(args, budget)? }
                }
                _ => return Err(Malformed("a call of something that is no class")),
            },
        })
    }
}

/// The allow-list: builtins (Python 2 calls them `__builtin__` and `exceptions`) and fail2ban's own exceptions.
fn class(module: &str, name: &str) -> Result<String, PickleError> {
    let module = match module {
        "builtins" | "__builtin__" | "exceptions" => "builtins",
        "fail2ban.exceptions" => "fail2ban.exceptions",
        _ => return Err(PickleError::Global(printable(&format!("{module}.{name}")))),
    };
    let name = if module == "builtins" && name == "unicode" { "str" } else { name };
    if name.is_empty() || name.len() > 100 || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(PickleError::Global(printable(&format!("{module}.{name}"))));
    }
    Ok(format!("{module}.{name}"))
}

/// A LONG1: little-endian two's complement of any length; more than 64 bits do not occur here.
fn long(bytes: &[u8]) -> Result<i64, PickleError> {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len()).ok_or(Malformed("a number of more than 64 bits"))?.copy_from_slice(bytes);
    Ok(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests;
