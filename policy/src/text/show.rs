//! Bytes of a file as a person may see them. Knows no format.

use std::fmt::Write as _;

/// Bytes as text for people: what is no UTF-8, or would move a terminal's cursor, as `\x1b`. Newlines and tabs stay.
pub fn show(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && character != '\n' && character != '\t' {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\x{:02x}", u32::from(character));
            } else {
                shown.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::show;

    #[test]
    fn control_bytes_and_bad_utf8_are_shown_escaped() {
        assert_eq!(show(b"a\x1b[2J\xff\xc3\xa9\t\n"), "a\\x1b[2J\\xff\u{e9}\t\n");
    }
}
