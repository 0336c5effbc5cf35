//! hosts.allow and hosts.deny as libwrap reads them, and every byte kept: the lines of a document joined are the file again.
//! Follows `xgets` and `table_match` of tcp wrappers 7.6.q (misc.c, `hosts_access.c`). Decides nothing about addresses.

use std::ops::Range;

/// libwrap's buffer for one logical line, newline and closing NUL included (`BUFLEN`, `hosts_access.c`).
const BUFLEN: usize = 2048;
/// What separates the tokens of a list (`sep`, `hosts_access.c`).
const SEPARATORS: &[u8] = b", \t\r\n";

/// A file, cut into the lines libwrap sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// In order; together they are the file to the byte.
    pub lines: Vec<Line>,
}

/// One logical line: several lines of the file where they are continued with a backslash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The bytes in the file, newline included.
    pub raw: Vec<u8>,
    /// The number of its first line in the file, from 1.
    pub number: usize,
    /// What it is to libwrap.
    pub kind: Kind,
}

/// What a line is to libwrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, a comment, or without a colon: skipped (the last with a warning in the log).
    Skipped,
    /// A rule.
    Rule(Rule),
    /// The last line has no newline: libwrap stops here. In hosts.deny that refuses everybody who came this far.
    Unterminated,
    /// The line does not fit libwrap's buffer: the same.
    TooLong,
    /// What follows such a line: never read.
    NeverRead,
}

/// `daemons : clients [: options]`, with the place of every byte in the raw line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The logical line, continuations joined, newline included.
    text: Vec<u8>,
    /// For every byte of `text`, where it is in `raw`.
    at: Vec<usize>,
    daemons: Range<usize>,
    clients: Range<usize>,
    options: Option<Range<usize>>,
}

/// One token of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its bytes, never empty.
    pub text: &'a [u8],
    /// Where it begins in the logical line.
    start: usize,
}

impl Token<'_> {
    /// The `EXCEPT` operator; case does not matter (`STR_EQ`, tcpd.h).
    pub fn is_except(&self) -> bool {
        self.text.eq_ignore_ascii_case(b"EXCEPT")
    }
}

impl Rule {
    /// The daemon list.
    pub fn daemons(&self) -> Vec<Token<'_>> {
        self.tokens(&self.daemons)
    }

    /// The client list.
    pub fn clients(&self) -> Vec<Token<'_>> {
        self.tokens(&self.clients)
    }

    /// What follows the second colon.
    pub fn options(&self) -> Option<&[u8]> {
        self.options.clone().and_then(|range| self.text.get(range))
    }

    fn tokens(&self, list: &Range<usize>) -> Vec<Token<'_>> {
        let mut tokens = Vec::new();
        let mut start = None;
        for position in list.start..=list.end {
            let byte = self.text.get(position).filter(|_| position < list.end);
            match (byte.filter(|byte| !SEPARATORS.contains(byte)), start) {
                (Some(_), None) => start = Some(position),
                (None, Some(begun)) => {
                    tokens.push(Token { text: self.text.get(begun..position).unwrap_or_default(), start: begun });
                    start = None;
                }
                _ => {}
            }
        }
        tokens
    }

    /// The raw line without the clients at these places of [`Rule::clients`]; `None` where no client would be left before the
    /// first EXCEPT, so that the whole line has to go. Separators go with their token, everything else stays.
    pub fn without_clients(&self, raw: &[u8], drop: &[usize]) -> Option<Vec<u8>> {
        let tokens = self.clients();
        let named = tokens.iter().take_while(|token| !token.is_except()).count();
        if (0..named).all(|index| drop.contains(&index)) {
            return None;
        }
        let mut kept = raw.to_vec();
        let mut index = tokens.len();
        while let Some(last) = index.checked_sub(1) {
            index = last;
            if !drop.contains(&last) {
                continue;
            }
            let mut first = last;
            while let Some(before) = first.checked_sub(1).filter(|before| drop.contains(before)) {
                first = before;
            }
            index = first;
            let (from, to) = match (tokens.get(first), tokens.get(last + 1), tokens.get(last)) {
                (Some(first), Some(next), _) => (self.raw_start(first)?, self.raw_start(next)?),
                (Some(_), None, Some(last)) => (self.raw_end(tokens.get(first.checked_sub(1)?)?)?, self.raw_end(last)?),
                _ => return None,
            };
            kept.drain(from..to);
        }
        Some(kept)
    }

    fn raw_start(&self, token: &Token<'_>) -> Option<usize> {
        self.at.get(token.start).copied()
    }

    fn raw_end(&self, token: &Token<'_>) -> Option<usize> {
        self.at.get((token.start + token.text.len()).checked_sub(1)?).map(|last| last + 1)
    }
}

impl Document {
    /// Cuts any bytes into lines. Never fails: what libwrap does not understand is a line it skips or stops at.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut lines = Vec::new();
        let mut rest = bytes;
        let mut number = 1;
        while !rest.is_empty() {
            let (length, kind) = next_line(rest);
            let (raw, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            let stops = matches!(kind, Kind::Unterminated | Kind::TooLong);
            let newlines = raw.split(|byte| *byte == b'\n').count() - 1;
            lines.push(Line { raw: raw.to_vec(), number, kind });
            number += newlines;
            rest = after;
            if stops && !rest.is_empty() {
                lines.push(Line { raw: rest.to_vec(), number, kind: Kind::NeverRead });
                break;
            }
        }
        Self { lines }
    }

    /// The file again.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.iter().copied()).collect()
    }
}

impl Line {
    /// Whether a line put after this one stands on its own.
    pub fn is_closed(&self) -> bool {
        match self.kind {
            Kind::Rule(_) => true,
            Kind::Skipped => self.raw.ends_with(b"\n") && !self.raw.ends_with(b"\\\n") && !self.raw.contains(&0),
            Kind::Unterminated | Kind::TooLong | Kind::NeverRead => false,
        }
    }
}

/// One call of `xgets` and what `table_match` makes of it: how many bytes were taken, and what the line is.
fn next_line(bytes: &[u8]) -> (usize, Kind) {
    let mut text = Vec::new();
    let mut at = Vec::new();
    let mut taken = 0;
    let mut room = BUFLEN;
    loop {
        // fgets(ptr, room): up to room - 1 bytes, no further than a newline. libwrap sees them up to the first NUL.
        let rest = bytes.get(taken..).unwrap_or_default();
        let chunk = rest.get(..rest.len().min(room - 1)).unwrap_or_default();
        let length = chunk.iter().position(|byte| *byte == b'\n').map_or(chunk.len(), |newline| newline + 1);
        let chunk = chunk.get(..length).unwrap_or_default();
        if chunk.is_empty() {
            // The end of the file: what was joined so far is a line without a newline.
            return (taken, if text.is_empty() { Kind::Skipped } else { Kind::Unterminated });
        }
        let mut seen = chunk.split(|byte| *byte == 0).next().unwrap_or_default();
        let ended = seen.ends_with(b"\n");
        let continued = seen.ends_with(b"\\\n");
        if continued {
            seen = seen.get(..seen.len() - 2).unwrap_or_default();
        }
        text.extend_from_slice(seen);
        at.extend(taken..taken + seen.len());
        room -= seen.len();
        taken += chunk.len();
        if ended && !continued {
            return (taken, rule_or_skipped(text, at));
        }
        if room <= 1 {
            return (taken, Kind::TooLong);
        }
    }
}

/// `table_match`, from the newline check on: comments, blank lines and lines without a colon are skipped.
fn rule_or_skipped(text: Vec<u8>, at: Vec<usize>) -> Kind {
    if text.first() == Some(&b'#') || text.iter().all(|byte| b" \t\r\n".contains(byte)) {
        return Kind::Skipped;
    }
    let Some(colon) = split_at(&text, b':') else { return Kind::Skipped };
    let clients = colon + 1;
    let second = text.get(clients..).and_then(|rest| split_at(rest, b':')).map(|at| clients + at);
    let end = text.len();
    Kind::Rule(Rule {
        daemons: 0..colon,
        clients: clients..second.unwrap_or(end),
        options: second.map(|second| second + 1..end),
        text,
        at,
    })
}

/// The first delimiter outside square brackets (`split_at`, misc.c). A closing bracket too many counts as well, as there.
pub fn split_at(text: &[u8], delimiter: u8) -> Option<usize> {
    let mut depth = 0i32;
    for (position, byte) in text.iter().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            _ if depth == 0 && *byte == delimiter => return Some(position),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
    use proptest::prelude::*;

    use super::*;

    fn rule(text: &[u8]) -> (Vec<u8>, Rule) {
        let document = Document::parse(text);
        match &document.lines[0].kind {
            Kind::Rule(rule) => (document.lines[0].raw.clone(), rule.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn without(text: &[u8], drop: &[usize]) -> Option<String> {
        let (raw, rule) = rule(text);
        rule.without_clients(&raw, drop).map(|raw| String::from_utf8(raw).unwrap())
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_as_they_were(bytes: Vec<u8>) {
            prop_assert_eq!(Document::parse(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn hosts_like_bytes_come_back_as_they_were(text in "([a-zA-Z0-9:.,#\\[\\]@/*? \\\\\n\r\t\0]|sshd: |ALL|EXCEPT ){0,200}") {
            prop_assert_eq!(Document::parse(text.as_bytes()).to_bytes(), text.as_bytes());
        }

        #[test]
        fn dropping_clients_leaves_the_other_tokens(
            before in proptest::collection::vec("[a-z0-9.]{1,6}", 1..6),
            separators in proptest::collection::vec("(, | |,|\t|, \\\\\n )", 6),
            drop in proptest::collection::vec(0usize..6, 0..6),
        ) {
            let mut line = String::from("sshd :");
            for (token, separator) in before.iter().zip(&separators) {
                line.push_str(separator);
                line.push_str(token);
            }
            line.push_str(" : allow\n");
            let (raw, rule) = rule(line.as_bytes());
            let want: Vec<_> = before.iter().enumerate().filter(|(index, _)| !drop.contains(index)).map(|(_, token)| token.clone()).collect();
            match rule.without_clients(&raw, &drop) {
                None => prop_assert!(want.is_empty()),
                Some(kept) => {
                    let document = Document::parse(&kept);
                    let Kind::Rule(after) = &document.lines[0].kind else { panic!("{kept:?}") };
                    let left: Vec<_> = after.clients().iter().map(|token| String::from_utf8(token.text.to_vec()).unwrap()).collect();
                    prop_assert_eq!(left, want);
                    prop_assert_eq!(after.options(), rule.options());
                    prop_assert_eq!(document.lines.len(), 1);
                }
            }
        }
    }

    #[test]
    fn only_the_token_and_its_separator_go() {
        assert_eq!(without(b"sshd: 10.0.0.1, 10.0.0.10 # x\n", &[0]).unwrap(), "sshd: 10.0.0.10 # x\n");
        assert_eq!(without(b"sshd : a,b , c:deny\n", &[1]).unwrap(), "sshd : a,c:deny\n");
        assert_eq!(without(b"sshd : a,b , c:deny\n", &[2]).unwrap(), "sshd : a,b:deny\n");
        assert_eq!(without(b"sshd: a b EXCEPT c\n", &[1]).unwrap(), "sshd: a EXCEPT c\n");
        assert_eq!(without(b"sshd: a EXCEPT c\n", &[0]), None);
        assert_eq!(without(b"sshd: a, \\\n  b\n", &[1]).unwrap(), "sshd: a\n");
    }

    #[test]
    fn lines_are_joined_and_numbered_as_libwrap_does() {
        let document = Document::parse(b"# c\n\nsshd: \\\n a\nx\nsshd: b");
        let kinds: Vec<_> = document.lines.iter().map(|line| (line.number, std::mem::discriminant(&line.kind))).collect();
        let (skipped, stop) = (std::mem::discriminant(&Kind::Skipped), std::mem::discriminant(&Kind::Unterminated));
        assert_eq!(kinds.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 5, 6]);
        assert_eq!(kinds.iter().map(|(_, kind)| *kind == skipped).collect::<Vec<_>>(), [true, true, false, true, false]);
        assert_eq!(kinds[4].1, stop);
    }

    #[test]
    fn a_line_longer_than_the_buffer_stops_libwrap() {
        let mut long = b"sshd: ".to_vec();
        long.resize(2046, b'a');
        long.push(b'\n');
        assert!(matches!(Document::parse(&long).lines[0].kind, Kind::Rule(_)), "2047 bytes with the newline fit");
        long.insert(7, b'a');
        let document = Document::parse(&long);
        assert!(matches!(document.lines[0].kind, Kind::TooLong));
        assert!(matches!(document.lines[1].kind, Kind::NeverRead));
    }
}
