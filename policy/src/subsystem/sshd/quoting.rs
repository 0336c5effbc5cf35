//! What is quoted of sshd in words for people: lines of its files, values, and what it says. Decides nothing.

use super::config::keyword;
use crate::text::quoted::{Quote, Text};

/// A line of its files.
pub fn line(text: &str) -> Text {
    Text::quote(Quote::SshdLines, text)
}

/// A keyword as sshd prints it: what a file calls one may be anything.
pub fn of_keyword(keyword: &str) -> Text {
    if keyword::find(keyword).is_some() { keyword.into() } else { said(keyword) }
}

/// Values of a keyword.
pub fn of_values(keyword: &str, values: impl Into<String>) -> Text {
    let what = keyword::find(keyword).map_or(Quote::Program, |keyword| Quote::Values(keyword.name));
    Text::quote(what, values)
}

/// What sshd says of its files, or what was said where they could not be read or followed: it may quote them.
pub fn said(text: &str) -> Text {
    Text::quote(Quote::Program, text)
}
