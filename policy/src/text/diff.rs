//! One edit of a whole file as people see it: how many lines come and go, and the diff of exactly those. Shared by every step that
//! writes a file; writes none itself.

use crate::text::show::show;
use std::fmt::Write;

use similar::TextDiff;

/// `+1 line`, `-1 line`, `-1 +1 lines`. `None` is: there is no such file.
pub fn changes(path: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    let diff = diff(path, before, after);
    let (removed, added) = diff.lines().skip(2).fold((0, 0), |(removed, added), line| match line.chars().next() {
        Some('-') => (removed + 1, added),
        Some('+') => (removed, added + 1),
        _ => (removed, added),
    });
    let lines = if removed + added == 1 { "line" } else { "lines" };
    match (removed, added) {
        (0, added) => format!("+{added} {lines}"),
        (removed, 0) => format!("-{removed} {lines}"),
        (removed, added) => format!("-{removed} +{added} {lines}"),
    }
}

/// A unified diff of the changed lines alone.
pub fn diff(path: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    let side = |content: Option<&[u8]>| escaped(content.unwrap_or_default());
    let name = |content: Option<&[u8]>| if content.is_some() { path } else { "/dev/null" };
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "--- {}\n+++ {}\n", name(before), name(after));
    let (before, after) = (side(before), side(after));
    let diff = TextDiff::from_lines(before.as_str(), after.as_str());
    text.push_str(&diff.unified_diff().context_radius(0).to_string());
    text
}

/// As [`show`], and told apart where two different bytes would look alike: a literal `\x` is `\\x`.
fn escaped(bytes: &[u8]) -> String {
    let mut marked = Vec::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\\' && bytes.get(at + 1).is_some_and(|next| *next == b'x' || *next == b'\\') {
            marked.push(b'\\');
        }
        marked.push(*byte);
    }
    show(&marked)
}
