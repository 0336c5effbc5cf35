//! One line of `sshd_config` as OpenSSH takes it apart: `strdelim` for the keyword (misc.c), `argv_split` for the arguments.
//! Keeps every byte of what it was given; knows no keyword.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A line with its end. Any bytes are a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line(Vec<u8>);

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// In lower case: keywords are case-insensitive.
    pub keyword: String,
    /// Without quotes and comment.
    pub arguments: Vec<String>,
    /// Whether quotes or backslashes took part, which versions of sshd read differently on a `Match` line.
    pub quoted: bool,
}

/// Why a line is not a directive to sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum LineError {
    /// `Port`
    #[error("no argument after the keyword")]
    NoArgument,
    /// `Banner "x`
    #[error("a quote that is not closed")]
    Quote,
    /// sshd reads C strings: it would join such a line with the next.
    #[error("a NUL byte")]
    Nul,
    /// Nothing that sshd knows by name has such bytes outside of comments.
    #[error("bytes that are not UTF-8")]
    NotText,
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

impl Line {
    /// From its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directive, where it is none of empty and comment.
    pub fn directive(&self) -> Result<Option<Directive>, LineError> {
        let line = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
        if line.contains(&0) {
            return Err(LineError::Nul);
        }
        // servconf.c, load_server_config and process_server_config_line: blanks go at both ends, form feeds at the second.
        let start = line.iter().position(|byte| !is_blank(*byte)).unwrap_or(line.len());
        let line = line.get(start..).unwrap_or_default();
        let end = line.iter().rposition(|byte| !is_blank(*byte) && *byte != 0x0c).map_or(0, |last| last + 1);
        let line = line.get(..end).unwrap_or_default();
        if line.is_empty() || line.first() == Some(&b'#') {
            return Ok(None);
        }
        let (keyword, rest) = keyword(line)?;
        if keyword.is_empty() || keyword.first() == Some(&b'#') {
            return Ok(None);
        }
        if rest.is_empty() {
            return Err(LineError::NoArgument);
        }
        let (arguments, quoted) = arguments(rest)?;
        Ok(Some(Directive { keyword: text(keyword)?.to_ascii_lowercase(), arguments, quoted }))
    }

    /// The bytes before the keyword, which an edit keeps.
    pub fn indentation(&self) -> &[u8] {
        let length = self.0.iter().position(|byte| !is_blank(*byte)).unwrap_or(0);
        self.0.get(..length).unwrap_or_default()
    }
}

/// For people: without its end, and with bytes that are no text replaced.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.0).trim())
    }
}

fn text(bytes: Vec<u8>) -> Result<String, LineError> {
    String::from_utf8(bytes).map_err(|_| LineError::NotText)
}

/// misc.c, `strdelim`: up to a blank, a quote or `=`; blanks and at most one `=` are passed over behind it.
fn keyword(line: &[u8]) -> Result<(Vec<u8>, &[u8]), LineError> {
    let Some(end) = line.iter().position(|byte| is_blank(*byte) || matches!(byte, b'"' | b'=')) else {
        return Ok((line.to_vec(), &[]));
    };
    let (word, rest) = line.split_at(end);
    if let Some(rest) = rest.strip_prefix(b"\"") {
        let close = rest.iter().position(|byte| *byte == b'"').ok_or(LineError::Quote)?;
        let (inside, rest) = rest.split_at(close);
        return Ok(([word, inside].concat(), skip_blanks(rest.get(1..).unwrap_or_default())));
    }
    let equals = rest.first() == Some(&b'=');
    let rest = skip_blanks(rest.get(1..).unwrap_or_default());
    let rest = match rest.strip_prefix(b"=") {
        Some(after) if !equals => skip_blanks(after),
        _ => rest,
    };
    Ok((word.to_vec(), rest))
}

fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().position(|byte| !is_blank(*byte)).unwrap_or(bytes.len());
    bytes.get(length..).unwrap_or_default()
}

/// misc.c, `argv_split` with `terminate_on_comment`: blanks part, `#` at the start of a word ends, either quote quotes, and a
/// backslash escapes quotes, itself and, outside of quotes, a space.
fn arguments(rest: &[u8]) -> Result<(Vec<String>, bool), LineError> {
    let (mut words, mut quoted) = (Vec::new(), false);
    let mut bytes = rest.iter().copied().peekable();
    while let Some(&first) = bytes.peek() {
        if matches!(first, b' ' | b'\t') {
            bytes.next();
            continue;
        }
        if first == b'#' {
            break;
        }
        let (mut word, mut quote) = (Vec::new(), None);
        while let Some(byte) = bytes.next() {
            match (byte, quote) {
                (b'\\', _) => {
                    quoted = true;
                    match bytes.peek() {
                        Some(&next) if matches!(next, b'\'' | b'"' | b'\\') || (quote.is_none() && next == b' ') => {
                            word.push(next);
                            bytes.next();
                        }
                        _ => word.push(byte),
                    }
                }
                (b' ' | b'\t', None) => break,
                (b'"' | b'\'', None) => {
                    quoted = true;
                    quote = Some(byte);
                }
                (_, Some(open)) if byte == open => quote = None,
                _ => word.push(byte),
            }
        }
        if quote.is_some() {
            return Err(LineError::Quote);
        }
        words.push(text(word)?);
    }
    Ok((words, quoted))
}

/// The first of these values that cannot be written without escapes.
pub fn unwritable(arguments: &[String]) -> Option<&String> {
    arguments.iter().find(|argument| argument.chars().any(char::is_control) || argument.contains(['"', '\\']))
}

/// `Keyword value "value with blanks"`.
pub fn written(keyword: &str, arguments: &[String]) -> String {
    let word = |argument: &String| {
        let quote = argument.is_empty() || argument.starts_with(['#', '=']) || argument.contains([' ', '\'']);
        if quote { format!("\"{argument}\"") } else { argument.clone() }
    };
    std::iter::once(keyword.to_owned()).chain(arguments.iter().map(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn words(line: &str) -> Result<Option<Vec<String>>, LineError> {
        let directive = Line::new(line).directive()?;
        Ok(directive.map(|directive| std::iter::once(directive.keyword).chain(directive.arguments).collect()))
    }

    #[test]
    fn lines_are_taken_apart_as_sshd_does() {
        for (line, want) in [
            ("Port 22\n", "port 22"),
            ("  pOrT\t=22 \r\n", "port 22"),
            ("Port = 22 # there", "port 22"),
            ("Port==22", "port =22"),
            ("\"Port\" 22", "port 22"),
            ("Banner \"/etc/a b\"", "banner /etc/a b"),
            ("Banner '/etc/a b'", "banner /etc/a b"),
            ("Banner /etc/a\\ b", "banner /etc/a b"),
            ("Banner /etc/a#b", "banner /etc/a#b"),
            ("AllowUsers alice  bob@10.0.0.0/8#x #y", "allowusers alice bob@10.0.0.0/8#x"),
            ("Banner \"a'b\" 'c\"d'", "banner a'b c\"d"),
            ("Banner \\n\\\\\\\"", "banner \\n\\\""),
            ("Banner none\u{c}", "banner none"),
        ] {
            assert_eq!(words(line).map(|words| words.unwrap().join(" ")), Ok(want.to_owned()), "{line:?}");
        }
        for line in ["", "\n", " \t\r\n", "#Port 22", "   # x"] {
            assert_eq!(words(line), Ok(None), "{line:?}");
        }
        for (line, error) in [
            ("Port", LineError::NoArgument),
            ("Port =", LineError::NoArgument),
            ("Banner \"x", LineError::Quote),
            ("\"Port 22", LineError::Quote),
            ("Port 22\0", LineError::Nul),
        ] {
            assert_eq!(words(line), Err(error), "{line:?}");
        }
        assert_eq!(Line::new(b"Banner \xff".to_vec()).directive(), Err(LineError::NotText));
        assert_eq!(Line::new(b"Port 22 # \xff".to_vec()).directive().unwrap().unwrap().arguments, ["22"]);
    }
}
