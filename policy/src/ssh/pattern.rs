//! Pattern lists as in `ssh_config(5)` PATTERNS: `*`, `?`, comma-separated, `!` excludes. Matches names, never addresses.

/// A list of patterns; a name matches when a pattern matches it and no `!`pattern does. Letter case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternList(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    negated: bool,
    text: String,
}

impl PatternList {
    /// From a comma-separated list. Empty items match only the empty name, as in OpenSSH's `match_pattern_list`.
    pub fn new(list: &str) -> Self {
        Self::from_items(list.split(','))
    }

    /// From the single patterns.
    pub fn from_items<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        let pattern = |item: &str| match item.strip_prefix('!') {
            Some(rest) => Pattern { negated: true, text: rest.to_owned() },
            None => Pattern { negated: false, text: item.to_owned() },
        };
        Self(items.into_iter().map(pattern).collect())
    }

    /// Whether the list lets this name in.
    pub fn matches(&self, name: &str) -> bool {
        let hits = |negated| self.0.iter().any(|pattern| pattern.negated == negated && wildcard(&pattern.text, name));
        hits(false) && !hits(true)
    }

    /// The one name that this list stands for, where it is a single pattern without `*`, `?` or `!`.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [one] if !one.negated && !one.text.is_empty() && !one.text.contains(['*', '?']) => Some(&one.text),
            _ => None,
        }
    }
}

/// `*` is any run of characters, `?` any one. Linear in the name for each `*`: on a mismatch only the last `*` takes one more.
pub fn wildcard(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(&wanted) if wanted == b'?' || wanted == byte => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after, at)) = star else { return false };
                star = Some((after, at + 1));
                p = after;
                n = at + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_openssh() {
        for (list, name, want) in [
            ("alice", "alice", true),
            ("alice", "Alice", false),
            ("alice", "alice2", false),
            ("*@example.com", "alice@example.com", true),
            ("*@example.com", "alice@example.org", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("*,!bob", "alice", true),
            ("*,!bob", "bob", false),
            ("!bob,*", "bob", false),
            ("!bob", "alice", false),
            ("bob,carol", "carol", true),
            ("", "", true),
            ("", "root", false),
            ("*", "", true),
        ] {
            assert_eq!(PatternList::new(list).matches(name), want, "{list} against {name}");
        }
    }

    #[test]
    fn only_a_single_plain_pattern_is_a_literal() {
        assert_eq!(PatternList::new("root").literal(), Some("root"));
        for list in ["*", "roo?", "!root", "root,alice", ""] {
            assert_eq!(PatternList::new(list).literal(), None, "{list}");
        }
    }

    #[test]
    fn a_hostile_pattern_does_not_take_for_ever() {
        let name = "a".repeat(5000);
        assert!(!PatternList::new(&format!("{}b", "*a".repeat(200))).matches(&name));
    }
}
