//! Completion in bash: the function that bash calls, the words of the line that it has, and candidates in the form in which bash puts them
//! into that line. bash breaks words at `:`, `=` and `@` too, and replaces only what is behind; so the line itself is read here.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

/// What bash is to source. It gives the line up to the cursor, and the text that a candidate will replace.
pub fn registration(program: &str) -> String {
    let program = format!("'{}'", program.replace('\'', r"'\''"));
    SCRIPT.replace("PROGRAM", &program)
}

const SCRIPT: &str = r#"_sshfix() {
    mapfile -t COMPREPLY < <(COMPLETE=bash PROGRAM -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:\ ] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o nosort -F _sshfix sshfix 2>/dev/null || complete -F _sshfix sshfix
"#;

/// Answers what [`registration`] asks: a candidate a line, quoted as the word it goes into.
pub fn candidates(asked: &[OsString], to: &mut impl Write, complete: impl Fn(Vec<OsString>) -> Vec<String>) -> io::Result<()> {
    let [line, replaced] = asked else { return Ok(()) };
    let (Some(line), Some(replaced)) = (line.to_str(), replaced.to_str()) else { return Ok(()) };
    let Some(mut words) = split(line) else { return Ok(()) };
    let Some(last) = words.last() else { return Ok(()) };
    let Some(kept) = last.typed.strip_suffix(replaced) else { return Ok(()) };
    let Some(kept) = unquote(kept) else { return Ok(()) };
    // `NAME=value` before the command.
    let assignments = words.iter().take_while(|word| word.text.contains('=')).count();
    let words = words.split_off(assignments).into_iter().map(|word| OsString::from(word.text));
    let found = complete(words.collect());
    for candidate in found.iter().filter_map(|candidate| candidate.strip_prefix(kept.text.as_str())) {
        if let Some(text) = quoted(candidate, kept.open) {
            writeln!(to, "{text}")?;
        }
    }
    Ok(())
}

/// A word as it was typed up to here, what it means, and the quote that is still open in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    typed: String,
    text: String,
    open: Option<char>,
}

/// The words of a line (bash(1), QUOTING); the last one is empty behind a blank. `None` where one is not only text: `$HOME`.
fn split(line: &str) -> Option<Vec<Word>> {
    let mut words: Vec<String> = vec![String::new()];
    let mut open = None;
    let mut escaped = false;
    for c in line.chars() {
        let blank = open.is_none() && !escaped && c.is_ascii_whitespace();
        match (open, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => open = Some(c),
            (Some(quote), _) if quote == c => open = None,
            _ => {}
        }
        match words.last_mut() {
            Some(word) if !blank => word.push(c),
            Some(word) if word.is_empty() => {}
            _ => words.push(String::new()),
        }
    }
    words.iter().map(|word| unquote(word)).collect()
}

/// What a word means. `None` where bash would put something else in its place.
fn unquote(typed: &str) -> Option<Word> {
    let mut text = String::new();
    let mut open = None;
    let mut chars = typed.chars().peekable();
    while let Some(c) = chars.next() {
        match (open, c) {
            (None, '\\') => text.extend(chars.next()),
            // Between double quotes a backslash escapes only these.
            (Some('"'), '\\') if chars.peek().is_some_and(|next| "$`\"\\".contains(*next)) => text.extend(chars.next()),
            (None, '\'' | '"') => open = Some(c),
            (Some(quote), _) if quote == c => open = None,
            (None | Some('"'), '$' | '`') => return None,
            _ => text.push(c),
        }
    }
    Some(Word { typed: typed.to_owned(), text, open })
}

/// A word of another shell, whose quotes and backslashes mean the same in what is typed here; as it is where that is not so.
pub fn unquoted(word: &OsStr) -> OsString {
    word.to_str().and_then(unquote).map_or_else(|| word.to_owned(), |word| OsString::from(word.text))
}

/// As it is typed behind an open quote or none. `None` where it cannot be.
fn quoted(text: &str, open: Option<char>) -> Option<String> {
    let escape = |special: fn(char) -> bool| {
        let one = |c: char| special(c).then_some('\\').into_iter().chain([c]);
        text.chars().flat_map(one).collect()
    };
    match open {
        _ if text.chars().any(crate::text::is_dangerous) => None,
        None => Some(escape(|c| c.is_ascii() && !c.is_ascii_alphanumeric() && !"_@%+=:,./-^!".contains(c) || c == '!')),
        // `!` begins a word of the history, which no backslash prevents there.
        Some('"') if text.contains('!') => None,
        Some('"') => Some(escape(|c| "$`\"\\".contains(c))),
        Some(_) => (!text.contains('\'')).then(|| text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).unwrap_or_default().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn a_line_has_the_words_that_bash_makes_of_it() {
        assert_eq!(texts("sshfix  ctl 'a b'c \"d \\\" e\" f\\ g"), ["sshfix", "ctl", "a bc", "d \" e", "f g"]);
        assert_eq!(texts("sshfix ctl "), ["sshfix", "ctl", ""]);
        assert_eq!(texts("sshfix --match 'User "), ["sshfix", "--match", "User "]);
        assert_eq!(texts(""), [""]);
        assert_eq!(split("sshfix $HOME/a"), None);
        assert_eq!(split("sshfix \"`id`"), None);
        assert_eq!(texts("sshfix '$x`' \\"), ["sshfix", "$x`", ""]);
    }

    fn answer(line: &str, replaced: &str, found: &[&str]) -> String {
        let asked = [OsString::from(line), OsString::from(replaced)];
        let mut to = Vec::new();
        let _ = candidates(&asked, &mut to, |_| found.iter().map(|one| (*one).to_owned()).collect());
        String::from_utf8(to).unwrap_or_default()
    }

    #[test]
    fn candidates_go_where_bash_puts_them() {
        assert_eq!(answer("sshfix aes128-gcm@op", "@op", &["aes128-gcm@openssh.com"]), "@openssh.com\n");
        assert_eq!(answer("sshfix 2001:", "", &["2001:db8::7"]), "db8::7\n");
        assert_eq!(answer("sshfix 'User al", "User al", &["User alice"]), "User alice\n");
        assert_eq!(answer("sshfix User\\ al", "User\\ al", &["User alice"]), "User\\ alice\n");
        assert_eq!(answer("sshfix User=al", "al", &["User=alice"]), "alice\n");
        assert_eq!(answer("sshfix ", "", &["$(reboot)", "a'b", "a\nb", "\u{202e}x", "~x"]), "\\$\\(reboot\\)\na\\'b\n\\~x\n");
        assert_eq!(answer("sshfix \"", "", &["$(reboot)", "a!b"]), "\\$(reboot)\n");
        assert_eq!(answer("sshfix '", "", &["$(reboot)", "a'b"]), "$(reboot)\n");
        assert_eq!(answer("sshfix a", "something else", &["ab"]), "");
    }
}
