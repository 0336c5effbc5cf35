//! Text from the host on its way to a terminal: rule comments, user names and log lines are written by others and may hold
//! escape sequences. Nothing else may print such text.

use std::fmt::Write;

/// Characters that move the cursor, change colours, or turn the reading direction: C0, DEL, C1, and Unicode's invisible ones.
pub fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// One line, dangerous characters shown as `\u{1b}` so that nobody is fooled by what is missing. A tab is a space.
pub fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if is_dangerous(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// The same of a line that may be endless: its beginning and its end.
pub fn short(text: &str) -> String {
    const KEPT: usize = 200;
    let characters = text.chars().count();
    if characters <= 2 * KEPT {
        return line(text);
    }
    let begin: String = text.chars().take(KEPT).collect();
    let end: String = text.chars().skip(characters - KEPT).collect();
    format!("{} [...] {}", line(&begin), line(&end))
}

/// Several lines, each as [`line`] makes it.
pub fn lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(line)
}

/// A JSON document in which no such character stands for itself: between strings there are none, inside them an escape means
/// the same.
pub fn json_for_terminals(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_dangerous(c) && !matches!(c, '\n' | '\r' | '\t') {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(line("a\u{1b}[2Jb\rc\u{9b}31m\td"), r"a\u{1b}[2Jb\u{d}c\u{9b}31m d");
        assert_eq!(line("\u{202e}evil\u{2066}"), r"\u{202e}evil\u{2066}");
        assert_eq!(line("grüße 203.0.113.7 ✓"), "grüße 203.0.113.7 ✓");
        assert_eq!(lines("a\nb\u{7}").collect::<Vec<_>>(), ["a", r"b\u{7}"]);
    }

    #[test]
    fn json_means_the_same_without_dangerous_characters() {
        let value = serde_json::json!({"text": "a\u{1b}\u{7f}\u{9b}\u{202e}\u{feff}ü😀"});
        let out = json_for_terminals(&value.to_string());
        assert!(!out.chars().any(is_dangerous), "{out}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), value);
    }
}
