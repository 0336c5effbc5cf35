//! The effective configuration in the words of `sshd -T` (sshd(8)): one line a value, the keyword in lower case. Judges nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `sshd -T` printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective(BTreeMap<String, Vec<String>>);

impl Effective {
    /// From its output. Keywords that come more than once keep their order.
    pub fn parse(output: &str) -> Self {
        let mut values = BTreeMap::<String, Vec<String>>::new();
        for line in output.lines() {
            let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
            if !keyword.is_empty() {
                values.entry(keyword.to_ascii_lowercase()).or_default().push(value.to_owned());
            }
        }
        Self(values)
    }

    /// The same with this value alone for a keyword (in lower case).
    #[must_use]
    pub fn with(mut self, keyword: &str, value: &str) -> Self {
        self.0.insert(keyword.to_owned(), vec![value.to_owned()]);
        self
    }

    /// Every value of a keyword (in lower case), in order; none where sshd does not print it.
    pub fn all(&self, keyword: &str) -> &[String] {
        self.0.get(keyword).map_or(&[], Vec::as_slice)
    }

    /// The value of a keyword that has one.
    pub fn one(&self, keyword: &str) -> Option<&str> {
        self.all(keyword).first().map(String::as_str)
    }

    /// All keywords and values, sorted by keyword.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(keyword, values)| (keyword.as_str(), values.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_keywords_keep_their_order_and_empty_values_stay() {
        let effective =
            Effective::parse("port 22\nhostkey /b\nhostkey /a\nallowusers alice@10.0.0.0/8\nversionaddendum none\nx\n\n");
        assert_eq!(effective.all("hostkey"), ["/b", "/a"]);
        assert_eq!(effective.one("port"), Some("22"));
        assert_eq!(effective.one("x"), Some(""));
        assert_eq!(effective.one("denyusers"), None);
        assert_eq!(effective.iter().count(), 5);
    }
}
