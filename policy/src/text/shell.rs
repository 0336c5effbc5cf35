//! Words of a command that people paste into a shell: nothing in one can become another command. Knows no command.

/// One word, quoted where it must be.
pub fn word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        for (given, quoted) in [
            ("/home/alice/.ssh", "/home/alice/.ssh"),
            ("", "''"),
            ("/home/a b", "'/home/a b'"),
            ("/a;reboot", "'/a;reboot'"),
            ("$(reboot)'", r"'$(reboot)'\'''"),
            ("~root", "'~root'"),
        ] {
            assert_eq!(word(given), quoted);
        }
    }
}
