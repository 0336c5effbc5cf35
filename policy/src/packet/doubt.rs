//! What an undecided match depends on: the kind, which decisions read, and the words, which people read and nothing else does.

use std::fmt;

use crate::words;

/// Why it cannot be decided whether a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What kind of thing it depends on.
    pub on: On,
    /// The same in words. Not public: it is shown, and decides nothing.
    text: String,
}

/// What kind of thing a doubt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The source address of the packet.
    Source,
    /// The destination address of the packet.
    Destination,
    /// How often or how much (limit, quota, connection count, recent).
    Rate,
    /// Where the connection comes in, and nothing else.
    Arrival,
    /// Anything else.
    Other,
}

impl Doubt {
    /// It depends on something of this kind.
    pub fn about(on: On, text: impl Into<String>) -> Self {
        Self { on, text: text.into() }
    }

    /// It depends on this.
    pub fn on(text: impl Into<String>) -> Self {
        Self::about(On::Other, text)
    }

    /// It depends on this, which counts packets, bytes or connections.
    pub fn rate(text: impl Into<String>) -> Self {
        Self::about(On::Rate, text)
    }

    /// It depends on this way to come in.
    pub fn arrival(text: impl Into<String>) -> Self {
        Self::about(On::Arrival, text)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::shown(&self.text))
    }
}
