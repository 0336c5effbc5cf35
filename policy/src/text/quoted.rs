//! Words for people in which each quote of the host is known as what it is, so that a reader who may not know of everybody gets it
//! masked before it is put between the other words, and nobody looks for names in a text afterwards. Decides nothing about who may
//! read what.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Add, Range};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::words;

/// What a quote is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// Lines of a file of `sshd_config(5)`, with the `Match` lines they stand under.
    SshdLines,
    /// A diff of such a file, as [`crate::text::diff`] writes it.
    SshdDiff,
    /// Values of this keyword of `sshd_config(5)`, as the manual writes it: `root alice` of `AllowUsers`, the criteria of `Match`.
    Values(&'static str),
    /// Lines of hosts.allow or hosts.deny.
    HostsLines,
    /// A diff of such a file.
    HostsDiff,
    /// What a program says in words of its own: `sshd -t`, sshd in the journal.
    Program,
    /// Anything, from a record: what it quotes is not known any more.
    Unknown,
}

/// Words for people. Two are equal where they read the same.
#[derive(Clone, Default)]
pub struct Text {
    words: String,
    /// In order, and apart from each other.
    quotes: Box<[(Range<usize>, Quote)]>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Words of sshfix.
    Ours(&'a str),
    /// A quote.
    Quoted(Quote, &'a str),
}

impl Text {
    /// All of it is one quote.
    pub fn quote(what: Quote, text: impl Into<String>) -> Self {
        let words = text.into();
        let quotes: Box<[_]> = if words.is_empty() { Box::default() } else { Box::new([(0..words.len(), what)]) };
        Self { words, quotes }
    }

    /// As who may know of everybody reads it.
    pub fn as_str(&self) -> &str {
        &self.words
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Its parts in order; together they are the whole.
    pub fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut at = 0;
        let between = |from: usize, to: usize| self.words.get(from..to).unwrap_or_default();
        for (range, what) in &*self.quotes {
            parts.push(Part::Ours(between(at, range.start)));
            parts.push(Part::Quoted(*what, between(range.start, range.end)));
            at = range.end;
        }
        parts.push(Part::Ours(between(at, self.words.len())));
        parts.retain(|part| !matches!(part, Part::Ours("")));
        parts
    }

    /// Appends.
    pub fn push(&mut self, more: impl Into<Text>) {
        let Text { words, quotes } = more.into();
        let at = self.words.len();
        self.words.push_str(&words);
        let more = quotes.into_iter().map(|(range, what)| (range.start + at..range.end + at, what));
        self.quotes = std::mem::take(&mut self.quotes).into_iter().chain(more).collect();
    }

    /// All of them, with this between them.
    pub fn joined<'a>(texts: impl IntoIterator<Item = &'a Text>, between: &str) -> Self {
        let mut all = Text::default();
        for (index, text) in texts.into_iter().enumerate() {
            if index > 0 {
                all.push(between);
            }
            all.push(text.clone());
        }
        all
    }

    /// In a test that says everything in other words, other words; they quote nothing.
    #[must_use]
    pub(crate) fn said(self) -> Self {
        match words::said(self.words.clone()) {
            other if other == self.words => self,
            other => other.into(),
        }
    }
}

impl<T: Into<Text>> Add<T> for Text {
    type Output = Text;

    fn add(mut self, more: T) -> Text {
        self.push(more);
        self
    }
}

impl From<&str> for Text {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl From<String> for Text {
    fn from(words: String) -> Self {
        Self { words, quotes: Box::default() }
    }
}

impl From<&String> for Text {
    fn from(words: &String) -> Self {
        words.clone().into()
    }
}

impl From<Cow<'_, str>> for Text {
    fn from(words: Cow<'_, str>) -> Self {
        words.into_owned().into()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Text {}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.words == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.words == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        self.words == *other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.fmt(f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.words)
    }
}

/// What is read back may quote anything.
impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Text::quote(Quote::Unknown, String::deserialize(deserializer)?))
    }
}

/// Tests look at the words as anybody reads them who may know of everybody. Elsewhere there is no such way: a text that is put into another
/// one keeps its quotes.
#[cfg(test)]
mod tests {
    use std::ops::Deref;

    use super::*;

    impl Deref for Text {
        type Target = str;

        fn deref(&self) -> &str {
            &self.words
        }
    }

    impl fmt::Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.words)
        }
    }

    #[test]
    fn a_text_knows_its_quotes_wherever_it_is_put() {
        let quote = Text::quote(Quote::SshdLines, "AllowUsers bob");
        let text = Text::joined(&[Text::from("make it `") + quote + "`", Text::quote(Quote::Program, "no")], "; ");
        let parts = [
            Part::Ours("make it `"),
            Part::Quoted(Quote::SshdLines, "AllowUsers bob"),
            Part::Ours("`; "),
            Part::Quoted(Quote::Program, "no"),
        ];
        assert_eq!(text.parts(), parts);
        assert_eq!(text.as_str(), "make it `AllowUsers bob`; no");
        let json = serde_json::to_string(&text).unwrap_or_default();
        assert_eq!(json, "\"make it `AllowUsers bob`; no\"", "nobody sees in the JSON what is a quote");
        let read: Text = serde_json::from_str(&json).unwrap_or_default();
        assert_eq!((read.parts(), &read), (vec![Part::Quoted(Quote::Unknown, text.as_str())], &text));
    }
}
