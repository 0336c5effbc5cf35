//! Takes one edit of a text file back after others edited the file too: ours is undone, theirs stays, to the byte. What cannot
//! be told apart is not touched. Knows nothing of what the lines mean.

use similar::{Algorithm, DiffOp, capture_diff_slices};

/// `now` without what led from `before` to `after`, or `None` where others changed the very lines.
///
/// The common base of both sides is `after`: we want to go back to `before`, others went on to `now`.
pub fn take_back(before: &[u8], after: &[u8], now: &[u8]) -> Option<Vec<u8>> {
    let (base, ours, theirs) = (lines(after), lines(before), lines(now));
    let (back, on) = (edits(&base, &ours), edits(&base, &theirs));
    if back.iter().any(|back| on.iter().any(|on| back.collides(on))) {
        return None;
    }
    // At the same place ours comes first: it stood there before theirs was written.
    let mut all: Vec<&Edit<'_>> = back.iter().chain(&on).collect();
    all.sort_by_key(|edit| (edit.from, edit.to));
    let mut merged: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    for edit in all {
        merged.extend(base.get(at..edit.from)?);
        merged.extend(edit.lines);
        at = edit.to;
    }
    merged.extend(base.get(at..)?);
    // A line without its end may only be the last one: two would become one.
    let (_, whole) = merged.split_last().unwrap_or((&&[][..], &[]));
    whole.iter().all(|line| line.ends_with(b"\n")).then(|| merged.concat())
}

/// Lines `from..to` of the base become these.
struct Edit<'a> {
    from: usize,
    to: usize,
    lines: &'a [&'a [u8]],
}

impl Edit<'_> {
    /// Whether both change the same lines, or one writes into what the other takes away. Neighbours do not collide.
    fn collides(&self, other: &Self) -> bool {
        self.from < other.to && other.from < self.to
    }
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

fn edits<'a>(base: &[&[u8]], to: &'a [&'a [u8]]) -> Vec<Edit<'a>> {
    let edit = |from: usize, count: usize, new: usize, lines: usize| {
        let lines = to.get(new..new + lines).unwrap_or_default();
        Edit { from, to: from + count, lines }
    };
    capture_diff_slices(Algorithm::Myers, base, to)
        .into_iter()
        .filter_map(|op| match op {
            DiffOp::Equal { .. } => None,
            DiffOp::Delete { old_index, old_len, new_index } => Some(edit(old_index, old_len, new_index, 0)),
            DiffOp::Insert { old_index, new_index, new_len } => Some(edit(old_index, 0, new_index, new_len)),
            DiffOp::Replace { old_index, old_len, new_index, new_len } => Some(edit(old_index, old_len, new_index, new_len)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn back(before: &str, after: &str, now: &str) -> Option<String> {
        take_back(before.as_bytes(), after.as_bytes(), now.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn ours_is_undone_and_theirs_stays() {
        let (before, after) = ("# kept\nsshd: a\n", "# kept\nsshd: a\nsshd: b\n");
        assert_eq!(back(before, after, "# kept\nsshd: a\nsshd: b\nsshd: c\n").unwrap(), "# kept\nsshd: a\nsshd: c\n");
        assert_eq!(back(before, after, "# theirs\n# kept\nsshd: a\nsshd: b\n").unwrap(), "# theirs\n# kept\nsshd: a\n");
        assert_eq!(back(before, after, "# kept\nsshd: b\n").unwrap(), "# kept\n");
        assert_eq!(back(before, after, after).unwrap(), before);
        // A line we took out comes back where it was.
        assert_eq!(back("a\nb\nc\n", "a\nc\n", "a\nc\nd\n").unwrap(), "a\nb\nc\nd\n");
        assert_eq!(back("a\nb\n", "a\n", "a\nc\n").unwrap(), "a\nb\nc\n");
        // Whoever took our line out already did our work.
        assert_eq!(back(before, after, before).as_deref(), None);
    }

    #[test]
    fn what_cannot_be_told_apart_is_left() {
        assert_eq!(back("a\n", "a\nb\n", "a\nB\n"), None, "they changed our line");
        assert_eq!(back("a\nx\n", "a\ny\n", "z\n"), None);
        assert_eq!(back("a", "", "b\n"), None, "a line without an end would swallow the next");
    }

    proptest! {
        #[test]
        fn without_other_edits_it_is_the_old_text(before in "[ab\n]{0,12}", after in "[ab\n]{0,12}") {
            prop_assert_eq!(back(&before, &after, &after), Some(before));
        }

        #[test]
        fn lines_of_others_are_never_lost(before in prop::collection::vec("[abc]", 0..6), keep in prop::collection::vec(any::<bool>(), 6),
                theirs in 0_usize..7) {
            let text = |lines: &[String]| lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
            let after: Vec<String> = before.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(line, _)| line.clone()).collect();
            let mut now = after.clone();
            now.insert(theirs.min(after.len()), "theirs".to_owned());
            let merged = back(&text(&before), &text(&after), &text(&now)).unwrap();
            let without: String = merged.split_inclusive('\n').filter(|line| *line != "theirs\n").collect();
            prop_assert_eq!(without, text(&before));
        }
    }
}
