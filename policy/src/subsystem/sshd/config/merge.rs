//! Takes one edit of a file of the configuration back after others edited the file too. Our lines go back only where they mean what they
//! meant: for the same clients, and without changing for whom the lines of others are. Judges no value.

use std::collections::BTreeMap;

use super::Document;
use crate::text::merge;

/// How often each line stands under each `Match` line.
type Lines = BTreeMap<(Section, Vec<u8>), i64>;

/// The arguments of the `Match` line above; none before the first.
type Section = Option<Vec<String>>;

/// `now` without what led from `before` to `after`. The error says why it was not undone.
pub fn take_back(before: &[u8], after: &[u8], now: &[u8]) -> Result<Vec<u8>, String> {
    let merged = merge::take_back(before, after, now).ok_or("others changed the very lines that this change had changed")?;
    // What goes and what comes back, line by line, must be what the change had brought and taken.
    let (ours, does) = (difference(after, before), difference(now, &merged));
    let odd = |of: &Lines, than: &Lines| {
        of.iter().find(|(line, count)| than.get(*line) != Some(*count)).map(|(line, count)| (line.clone(), *count))
    };
    let Some(((section, line), count)) = odd(&does, &ours).or_else(|| odd(&ours, &does).map(|(line, _)| (line, -1))) else {
        return Ok(merged);
    };
    let would = if count > 0 { "come to stand" } else { "not stand" };
    Err(format!(
        "others edited Match lines of it meanwhile, so that `{}`, with the change undone, would {would} {}, where that was different before",
        String::from_utf8_lossy(&line),
        name(&section)
    ))
}

/// Which lines come and which go.
fn difference(from: &[u8], to: &[u8]) -> Lines {
    let mut lines = Lines::new();
    for (bytes, count) in [(from, -1), (to, 1)] {
        let mut section: Section = None;
        for (_, line) in Document::parse(bytes).lines() {
            let text = line.bytes().trim_ascii();
            match line.directive() {
                // Blank, or a comment.
                Ok(None) => continue,
                Ok(Some(directive)) if directive.keyword == "match" => section = Some(directive.arguments),
                Ok(Some(_)) | Err(_) => {}
            }
            *lines.entry((section.clone(), text.to_vec())).or_default() += count;
        }
    }
    lines.retain(|_, count| *count != 0);
    lines
}

fn name(section: &Section) -> String {
    section
        .as_ref()
        .map_or_else(|| "before every Match line".to_owned(), |arguments| format!("under `Match {}`", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const BEFORE: &str = "X11Forwarding no\nMatch Address 10.0.0.0/8\n\tBanner none\n\tAllowUsers bob\n\tMaxAuthTries 6\n";
    const AFTER: &str = "X11Forwarding no\nMatch Address 10.0.0.0/8\n\tBanner none\n\tMaxAuthTries 6\n";

    fn back(before: &str, after: &str, now: &str) -> Result<String, String> {
        take_back(before.as_bytes(), after.as_bytes(), now.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_line_goes_back_only_under_its_own_match_line() {
        let widened = AFTER.replace("Match Address 10.0.0.0/8", "Match all");
        let error = back(BEFORE, AFTER, &widened).unwrap_err();
        assert!(error.contains("`AllowUsers bob`, with the change undone, would come to stand under `Match all`"), "{error}");
        let error = back(BEFORE, AFTER, "X11Forwarding no\n\tBanner none\n\tMaxAuthTries 6\n").unwrap_err();
        assert!(error.contains("before every Match line"), "{error}");
        // Around it, and how it is written, does not matter.
        let beside =
            AFTER.replace("X11Forwarding no", "# theirs\nPort 22\nX11Forwarding no").replace("Match Address", "match  address");
        let merged = back(BEFORE, AFTER, &beside.replace("address", "Address")).unwrap();
        assert!(merged.contains("\tBanner none\n\tAllowUsers bob\n"), "{merged}");
        assert_eq!(back(BEFORE, AFTER, AFTER).unwrap(), BEFORE);
    }

    #[test]
    fn lines_of_others_are_for_the_same_clients_afterwards() {
        // A block of ours at the end, below which others wrote a line of theirs: without our Match line it would be for everybody.
        let (before, after) = ("Port 22\n", "Port 22\nMatch User bob\n\tPermitTTY no\n");
        let error = back(before, after, &format!("{after}\tPermitRootLogin yes\n")).unwrap_err();
        assert!(error.contains("PermitRootLogin yes"), "{error}");
        assert_eq!(
            back(before, after, &format!("{after}Match User eve\n\tX11Forwarding no\n")).unwrap(),
            "Port 22\nMatch User eve\n\tX11Forwarding no\n"
        );
        assert!(back(after, "Port 22\n", "Port 22\n# theirs\n").is_ok());
    }

    proptest! {
        /// Whatever others did, what is undone is undone under the same Match lines, or nothing is.
        #[test]
        fn every_line_that_moves_is_ours(
            before in prop::collection::vec(0_usize..6, 0..7), drop in prop::collection::vec(any::<bool>(), 7),
            theirs in prop::collection::vec((0_usize..8, 0_usize..6), 0..3),
        ) {
            const LINES: [&str; 6] = ["Match all\n", "Match User a\n", "AllowUsers a\n", "DenyUsers b\n", "PermitTTY no\n", "# x\n"];
            let text = |lines: &[usize]| lines.iter().filter_map(|line| LINES.get(*line)).copied().collect::<String>();
            let after: Vec<usize> = before.iter().zip(&drop).filter(|(_, drop)| !**drop).map(|(line, _)| *line).collect();
            let mut now = after.clone();
            for (at, line) in theirs {
                now.insert(at.min(now.len()), line);
            }
            let (before, after, now) = (text(&before), text(&after), text(&now));
            if let Ok(merged) = back(&before, &after, &now) {
                let (ours, does) = (difference(after.as_bytes(), before.as_bytes()), difference(now.as_bytes(), merged.as_bytes()));
                prop_assert_eq!(does, ours);
            }
        }
    }
}
