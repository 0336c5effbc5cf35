//! Edits of one keyword: where they go, that they win, and that no other byte changes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::tests::{MAIN, tree};
use super::*;

/// `Keyword value ...` or `Keyword`, in a Match block where one is given.
fn change(tree: &Tree, block: Option<&str>, words: &str) -> Result<Edit, EditError> {
    let mut words = words.split(' ').map(str::to_owned);
    let keyword = words.next().unwrap();
    let arguments: Vec<String> = words.collect();
    let mut edits = edit(tree, &[], &[], block, &keyword, (!arguments.is_empty()).then_some(arguments.as_slice()))?;
    assert_eq!(edits.len(), 1, "in one file");
    Ok(edits.remove(0))
}

fn after(edit: &Edit) -> String {
    String::from_utf8(edit.after.clone()).unwrap()
}

#[test]
fn an_edit_goes_where_it_wins_and_changes_no_other_byte() {
    let main = "# my server\nInclude /d/*.conf\n\tPermitRootLogin yes # old\nUsePAM yes\n\nMatch User bob\n\tBanner /x";
    let tree = tree(&[(MAIN, main), ("/d/a.conf", "MaxAuthTries 4\r\nPort 1\nPort 2\n")], &[("/d/*.conf", &["/d/a.conf"])]);

    let edit = change(&tree, None, "permitrootlogin no").unwrap();
    assert_eq!(after(&edit), main.replace("PermitRootLogin yes # old", "PermitRootLogin no"));
    let same = change(&tree, None, "PermitRootLogin yes").unwrap();
    assert_eq!(same.after, same.before);
    let edit = change(&tree, None, "MaxAuthTries 6").unwrap();
    assert_eq!((edit.path.as_str(), after(&edit).as_str()), ("/d/a.conf", "MaxAuthTries 6\r\nPort 1\nPort 2\n"));
    assert_eq!(edit.why, "/d/a.conf line 1 is the first to set MaxAuthTries, and the first wins");
    let edit = super::edit(&tree, &[], &[], None, "Banner", Some(&["/etc/my banner".into()])).unwrap().remove(0);
    assert_eq!(after(&edit), main.replace("Match User bob", "Banner \"/etc/my banner\"\nMatch User bob"));
    assert_eq!(edit.besides, ["`Match User bob` at /etc/ssh/sshd_config line 7 sets Banner for those it matches"]);
    let edit = change(&tree, None, "Port 22").unwrap();
    assert_eq!(after(&edit), "MaxAuthTries 4\r\nPort 22\n");
    let edit = change(&tree, None, "Port 22 2222 2200").unwrap();
    assert_eq!(after(&edit), "MaxAuthTries 4\r\nPort 22\nPort 2222\nPort 2200\n");
    let edit = change(&tree, None, "permitrootlogin").unwrap();
    assert_eq!(after(&edit), main.replace("\tPermitRootLogin yes # old\n", ""));
}

#[test]
fn what_is_no_keyword_value_or_criterion_is_refused_with_what_would_be() {
    let tree = tree(&[(MAIN, "Port 22\nAllowUsers a\n")], &[]);
    let says = |block: Option<&str>, words: &str| change(&tree, block, words).unwrap_err().to_string();
    assert_eq!(says(None, "LogLevel"), "LogLevel is not set by any file");
    assert_eq!(says(None, "PermitRotLogin no"), "sshd has no keyword `PermitRotLogin`; did you mean PermitRootLogin?");
    assert!(change(&tree, None, "UsePAM maybe").is_ok(), "which values there are, sshd decides");
    assert_eq!(
        says(Some("User a"), "Port 23"),
        "Port cannot stand in a Match block: it counts for everybody (sshd_config(5), Match)"
    );
    assert!(says(Some("Weather fine"), "Banner /x").starts_with("`Weather fine` cannot stand behind Match"));
    let options = ["-o", "MaxAuthTries=2"].map(str::to_owned);
    let refused = edit(&tree, &options, &[], None, "MaxAuthTries", Some(&["6".into()]));
    assert!(matches!(refused, Err(EditError::CommandLine(_))));
    for (keyword, value) in [("Banner", "a\nPermitRootLogin yes"), ("Match", "all"), ("Ban ner", "x"), ("Banner", "a\"b")] {
        assert!(edit(&tree, &[], &[], None, keyword, Some(&[value.into()])).is_err(), "{keyword} {value}");
    }
    assert!(edit(&tree, &[], &["newkeyword"], None, "NewKeyword", Some(&["x".into()])).is_ok());
}

#[test]
fn a_new_line_goes_behind_its_commented_default() {
    let main = "#Port 22\n#ListenAddress 0.0.0.0\n#ListenAddress ::\n\n#PermitRootLogin prohibit-password\n# PermitRootLogin is said above\nUsePAM yes\n\n# Example\n#Match User anoncvs\n#\tBanner none\nMatch User x\n\tPermitTTY no\n#X11Forwarding no\n";
    let tree = tree(&[(MAIN, main)], &[]);
    for (words, behind) in
        [("PermitRootLogin no", "#PermitRootLogin prohibit-password\n"), ("ListenAddress 192.0.2.1", "#ListenAddress ::\n")]
    {
        let edit = change(&tree, None, words).unwrap();
        assert_eq!(after(&edit), main.replace(behind, &format!("{behind}{words}\n")), "{}", edit.why);
    }
    // The comment is a block's, or there is none: the end of the global section, before the comment of the block.
    for words in ["X11Forwarding no", "MaxAuthTries 3"] {
        let edit = change(&tree, None, words).unwrap();
        assert_eq!(after(&edit), main.replace("# Example\n", &format!("{words}\n# Example\n")), "{}", edit.why);
    }
}

#[test]
fn lists_are_replaced_whole_and_lines_in_other_files_are_named() {
    let files = [
        (MAIN, "AllowUsers a b\nPort 22\nAllowUsers c\nSubsystem sftp /old\nSubsystem x /x\nInclude /i\nAcceptEnv A\n"),
        ("/i", "AcceptEnv B\n"),
    ];
    let tree = tree(&files, &[("/i", &["/i"])]);
    let main = files[0].1;
    let edit = change(&tree, None, "AllowUsers alice bob").unwrap();
    assert_eq!(after(&edit), main.replace("AllowUsers a b", "AllowUsers alice bob").replace("AllowUsers c\n", ""));
    let edit = change(&tree, None, "AllowUsers").unwrap();
    assert_eq!(after(&edit), main.replace("AllowUsers a b\n", "").replace("AllowUsers c\n", ""));
    let edit = change(&tree, None, "Subsystem sftp internal-sftp").unwrap();
    assert_eq!(after(&edit), main.replace("/old", "internal-sftp"));
    let edit = change(&tree, None, "Subsystem y /y").unwrap();
    assert_eq!(after(&edit), format!("{main}Subsystem y /y\n"));
    let edit = change(&tree, None, "ListenAddress 192.0.2.1 rdomain red ::1").unwrap();
    assert_eq!(after(&edit), format!("{main}ListenAddress 192.0.2.1 rdomain red\nListenAddress ::1\n"));
}

#[test]
fn a_list_over_several_files_becomes_exactly_what_was_asked_for() {
    let files = [
        (MAIN, "Include /a\nAllowUsers c # c\nPort 22\nInclude /b\n"),
        ("/a", "# a\nAllowUsers a\nAllowUsers a2\n"),
        ("/b", "AllowUsers b\r\nBanner /b"),
    ];
    let tree = tree(&files, &[("/a", &["/a"]), ("/b", &["/b"])]);
    let edited = |values: Option<&[String]>| {
        let edits = edit(&tree, &[], &[], None, "AllowUsers", values).unwrap();
        edits.into_iter().map(|edit| (edit.path.clone(), after(&edit), edit.why.as_str().to_owned())).collect::<Vec<_>>()
    };
    let owned = |path: &str, after: &str, why: &str| (path.to_owned(), after.to_owned(), why.to_owned());
    let main = owned(MAIN, "Include /a\nPort 22\nInclude /b\n", "/etc/ssh/sshd_config line 2 would add to AllowUsers");
    let b = owned("/b", "Banner /b", "/b line 1 would add to AllowUsers");
    let why = "/a line 2 is the first of the lines of AllowUsers, which add up; the others go: /a line 3, /etc/ssh/sshd_config line 2, /b line 1";
    assert_eq!(edited(Some(&["x".into(), "y".into()])), [owned("/a", "# a\nAllowUsers x y\n", why), main.clone(), b.clone()]);
    let all = edited(None);
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].1.as_str(), all[0].2.as_str()), ("# a\n", "/a line 2, /a line 3 set AllowUsers"));
    assert_eq!((&all[1].1, &all[2].1), (&main.1, &b.1));
}

#[test]
fn a_value_for_some_goes_into_their_block_or_a_new_one_and_wins() {
    let main = "PasswordAuthentication no\nMatch Address 10.0.0.0/8\n\tPasswordAuthentication yes # lan\n\n# bob\nMatch User bob\n  MaxAuthTries 2\n";
    let tree = tree(&[(MAIN, main)], &[]);
    let at = |block: &str, words: &str| change(&tree, Some(block), words).unwrap();
    assert_eq!(after(&at("address 10.0.0.0/8", "PasswordAuthentication no")), main.replace("yes # lan", "no"));
    assert_eq!(after(&at("user=bob", "Banner /b")), main.replace("Tries 2\n", "Tries 2\n  Banner /b\n"));
    let new = at("Group staff", "PasswordAuthentication yes");
    assert_eq!(after(&new), format!("{main}Match Group staff\n    PasswordAuthentication yes\n"));
    assert_eq!(
        new.besides,
        [
            "`Match Address 10.0.0.0/8` at /etc/ssh/sshd_config line 2 sets PasswordAuthentication too and comes first for those that both match"
        ]
    );
    // At the end it would lose to the block of the whole net.
    let inner = at("Address 10.0.0.7", "PasswordAuthentication no");
    assert_eq!(
        after(&inner),
        main.replace("Match Address", "Match Address 10.0.0.7\n    PasswordAuthentication no\nMatch Address")
    );
    assert_eq!(
        inner.why,
        "a new block goes before `Match Address 10.0.0.0/8` at /etc/ssh/sshd_config line 2, which would win otherwise"
    );
    assert_eq!(after(&at("User bob", "MaxAuthTries")), main.replace("Match User bob\n  MaxAuthTries 2\n", ""));
    let gone = at("Address 10.0.0.0/8", "PasswordAuthentication");
    assert_eq!(
        gone.besides,
        ["for those that `Address 10.0.0.0/8` matches /etc/ssh/sshd_config line 1 counts then: PasswordAuthentication no"]
    );
    assert_eq!(
        change(&tree, Some("User bob"), "Banner").unwrap_err().to_string(),
        "Banner is not set by any file inside `Match User bob`"
    );
}

#[test]
fn what_match_all_sets_wins_over_the_global_section_and_that_is_said() {
    let tree = tree(&[(MAIN, "PermitTTY yes\nMatch all\n  PermitTTY no\n")], &[]);
    assert_eq!(
        change(&tree, None, "PermitTTY yes").unwrap_err().to_string(),
        "PermitTTY would not win: /etc/ssh/sshd_config line 3 does"
    );
    let alice = change(&tree, Some("User alice"), "PermitTTY yes").unwrap();
    assert_eq!(after(&alice), "PermitTTY yes\nMatch User alice\n    PermitTTY yes\nMatch all\n  PermitTTY no\n");
}

#[test]
fn a_blank_line_before_a_last_line_without_end_stays() {
    let tree = tree(&[(MAIN, "AllowUsers alice\n\nAllowUsers alice")], &[]);
    assert_eq!(after(&change(&tree, None, "AllowUsers alice").unwrap()), "AllowUsers alice\n\n");
}

const KEYWORDS: [(&str, &[&str]); 8] = [
    ("Banner", &["/b", "none"]),
    ("UsePAM", &["yes", "no"]),
    ("MaxAuthTries", &["1", "2", "3"]),
    ("LogLevel", &["INFO", "DEBUG"]),
    ("AllowUsers", &["alice", "bob carol"]),
    ("Port", &["22", "2222"]),
    ("PermitTTY", &["yes", "no"]),
    ("AcceptEnv", &["LANG", "LC_*"]),
];
const BLOCKS: [&str; 5] = ["all", "User alice", "Address 10.0.0.0/8", "User alice Address 10.0.0.0/8", "Group wheel"];

fn one() -> impl Strategy<Value = (String, String)> {
    (0..KEYWORDS.len(), 0..3usize).prop_map(|(keyword, value)| {
        let (keyword, values) = KEYWORDS[keyword];
        (keyword.to_owned(), values[value % values.len()].to_owned())
    })
}

/// A file in which global keywords stand before the first block only.
fn text() -> impl Strategy<Value = String> {
    let noise = prop_oneof![Just(String::new()), "#[ -~]{0,12}", "#(Port|Banner|MaxAuthTries) [a-z0-9]{1,3}"];
    let line = || prop_oneof![2 => one().prop_map(|(keyword, value)| format!("{keyword} {value}")), 1 => noise.clone()];
    let global = proptest::collection::vec(line(), 0..6);
    let block = (0..BLOCKS.len(), proptest::collection::vec(line(), 0..4)).prop_map(|(block, lines)| {
        let may = |line: &String| !line.starts_with("UsePAM") && !line.starts_with("Port");
        let lines = lines.into_iter().filter(may).map(|line| format!("  {line}\n"));
        format!("Match {}\n{}", BLOCKS[block], lines.collect::<String>())
    });
    (global, proptest::collection::vec(block, 0..4), any::<bool>()).prop_map(|(global, blocks, cut)| {
        let text = global.iter().map(|line| format!("{line}\n")).chain(blocks).collect::<String>();
        if cut { text.trim_end_matches('\n').to_owned() } else { text }
    })
}

/// Whether all lines of the one stand in the other, in their order.
fn holds_in_order(whole: &Document, part: &Document) -> bool {
    let mut lines = whole.lines().map(|(_, line)| line.to_string());
    part.lines().all(|(_, line)| lines.any(|other| other == line.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_is_set_counts_and_all_other_lines_stay(
        main in text(), included in text(), first in any::<bool>(), (keyword, value) in one(), block in 0..=BLOCKS.len(),
    ) {
        let main = if first { format!("Include /i\n{main}") } else { main };
        let tree = tree(&[(MAIN, &main), ("/i", &included)], &[("/i", &["/i"])]);
        let block = BLOCKS.get(block).copied();
        let values: Vec<String> = value.split(' ').map(str::to_owned).collect();
        let edits = match edit(&tree, &[], &[], block, &keyword, Some(&values)) {
            Ok(edits) => edits,
            Err(EditError::NotInMatch(_) | EditError::WouldNotWin { .. }) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let mut edited = tree.clone();
        edited.files.extend(edits.iter().map(|edit| (edit.path.clone(), Document::parse(&edit.after))));
        let client = block.map(|block| Criteria::parse(block).unwrap().client(22).unwrap());
        let settings = evaluate(&edited, &[], client.as_ref()).unwrap();
        let values: Vec<String> = settings[&keyword.to_ascii_lowercase()].iter().flat_map(|line| line.arguments.clone()).collect();
        let wanted: Vec<&str> = value.split(' ').collect();
        prop_assert_eq!(values, wanted);
        // Without the lines of the keyword, and the one new Match line, the two files are the same.
        let without = |bytes: &[u8]| {
            let document = Document::parse(bytes);
            let kept = document.lines().filter(|(_, line)| {
                !line.directive().ok().flatten().is_some_and(|it| it.keyword.eq_ignore_ascii_case(&keyword))
            });
            Document::parse(kept.flat_map(|(_, line)| [line.to_string(), "\n".to_owned()]).collect::<String>().as_bytes())
        };
        for edit in &edits {
            let (before, after) = (without(&edit.before), without(&edit.after));
            prop_assert!(holds_in_order(&after, &before));
            prop_assert!(after.lines().count() - before.lines().count() <= usize::from(block.is_some()));
        }
    }

    #[test]
    fn unset_takes_back_what_set_added(
        main in text(), included in text(), first in any::<bool>(), (keyword, value) in one(), block in 0..=BLOCKS.len(),
    ) {
        let main = if first { format!("Include /i\n{main}") } else { main };
        let tree = tree(&[(MAIN, &main), ("/i", &included)], &[("/i", &["/i"])]);
        let block = BLOCKS.get(block).copied();
        let unset_before = matches!(edit(&tree, &[], &[], block, &keyword, None), Err(EditError::NotSet(..)));
        prop_assume!(unset_before);
        let edit = match change(&tree, block, &format!("{keyword} {value}")) {
            Ok(edit) => edit,
            Err(EditError::NotInMatch(_) | EditError::WouldNotWin { .. }) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let mut edited = tree.clone();
        edited.files.insert(edit.path.clone(), Document::parse(&edit.after));
        let back = change(&edited, block, &keyword).unwrap();
        prop_assert_eq!(&back.path, &edit.path);
        prop_assert_eq!(back.after, edit.before);
    }
}
