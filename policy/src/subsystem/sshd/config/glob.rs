//! One component of a glob(7) pattern against one file name: `*`, `?`, `[...]`, `\`. The folders are walked by the agent.

/// Whether a component needs matching at all; others name exactly one file.
pub fn is_pattern(component: &str) -> bool {
    component.contains(['*', '?', '[', '\\'])
}

/// Whether a pattern matches a name. A leading dot must be matched by a dot (glob(7)).
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') && !pattern.starts_with("\\.") {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Greedy with one way back: the last `*` takes one character more (no pattern costs more than pattern times name).
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&character) = name.get(n) {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some(next) = one(&pattern, p, character) {
            p = next;
            n += 1;
        } else if let Some((at, taken)) = star {
            p = at + 1;
            n = taken + 1;
            star = Some((at, n));
        } else {
            return false;
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|character| *character == '*'))
}

/// Where the pattern goes on behind the one item at `at`, if that matches the character.
fn one(pattern: &[char], at: usize, character: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '\\' => match pattern.get(at + 1) {
            Some(&escaped) => (escaped == character).then_some(at + 2),
            None => (character == '\\').then_some(at + 1),
        },
        '[' => match bracket(pattern, at + 1, character) {
            Some((true, next)) => Some(next),
            Some((false, _)) => None,
            // Not closed: an ordinary character.
            None => (character == '[').then_some(at + 1),
        },
        &other => (other == character).then_some(at + 1),
    }
}

/// `[abc]`, `[a-z]`, `[!abc]`, `]` first is itself; and where the pattern goes on. Named classes are not used for file names.
fn bracket(pattern: &[char], start: usize, character: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(start), Some('!' | '^'));
    let first = if negated { start + 1 } else { start };
    let mut at = first;
    let mut found = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((found != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(&high)) if high != ']' => {
                found |= (low..=high).contains(&character);
                at += 3;
            }
            _ => {
                found |= low == character;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_glob_7_says() {
        for (pattern, name, want) in [
            ("*.conf", "50-x.conf", true),
            ("*.conf", ".conf", false),
            ("*.conf", ".x.conf", false),
            (".*", ".x", true),
            ("*.conf", "x.conf.bak", false),
            ("?-*", "5-", true),
            ("[0-9]*", "5x", true),
            ("[!0-9]*", "5x", false),
            ("[]a]", "]", true),
            ("[", "[", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b*", "xxaxxbx", true),
            ("*a*b*", "xxbxxa", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
