//! docs/threat-model.md names a test for each protection. Every name must be a test, or a part of one. Reads files only.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn model() -> String {
    fs::read_to_string(root().join("docs/threat-model.md")).unwrap()
}

/// `PATH.rs: name` between backticks.
fn named(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|quoted| quoted.split_once(".rs: ")).map(|(path, name)| (format!("{path}.rs"), name.to_owned())).collect()
}

/// Whether this source has such a test, or a function that one of its tests calls.
fn has(source: &str, name: &str) -> bool {
    let declared = |line: &str| {
        line.trim_start()
            .trim_start_matches("async ")
            .strip_prefix("fn ")
            .is_some_and(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('(')))
    };
    let mut is_test = false;
    for line in source.lines() {
        if declared(line) {
            let calls = source.matches(&format!("{name}(")).count() > 1;
            return is_test || calls && source.contains("#[test]");
        }
        let attribute = line.trim_start().starts_with("#[");
        is_test = attribute && (is_test || line.contains("test]") || line.contains("test(")) || is_test && line.trim().is_empty();
    }
    false
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let named = named(&model());
    assert!(named.len() > 60, "{} names only", named.len());
    let missing: Vec<String> = named
        .iter()
        .filter(|(path, name)| !fs::read_to_string(root().join(path)).is_ok_and(|source| has(&source, name)))
        .map(|(path, name)| format!("{path}: {name}"))
        .collect();
    assert!(missing.is_empty(), "docs/threat-model.md names tests that do not exist: {missing:#?}");
}

/// A line of a list is about a protection, but for those under these headings.
#[test]
fn every_protection_names_a_test() {
    let mut heading = String::new();
    for line in model().lines() {
        if let Some(text) = line.strip_prefix("## ") {
            text.clone_into(&mut heading);
        }
        let promises = !["What is protected", "Trusted", "Not defended"].contains(&heading.as_str());
        if promises && line.starts_with("- ") {
            assert!(!named(line).is_empty(), "no test is named: {line}");
        }
    }
}

#[test]
fn only_tests_and_what_they_call_count() {
    let source = "#[test]\nfn whole() {\n    part();\n}\n\nfn part() {}\n\nfn alone() {}\n#[tokio::test(x)]\n#[ignore]\nasync fn slow() {}\n";
    for (name, want) in [("whole", true), ("part", true), ("slow", true), ("alone", false), ("who", false), ("none", false)] {
        assert_eq!(has(source, name), want, "{name}");
    }
}
