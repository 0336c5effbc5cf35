//! Every text that a person may read, in two files that are reviewed as a whole and compared here: the help of each command, and
//! each message in the code. Says nothing about when a message is shown: the lab tests do.

#![allow(clippy::expect_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use sshfix::cli::Cli;

/// Writes what is there in place of comparing: `SSHFIX_REVIEW=write cargo test -p sshfix-tests --test messages`.
const WRITE: &str = "SSHFIX_REVIEW";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

fn compare(name: &str, now: &str) {
    let path = top().join("tests/words").join(name);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, now).expect("the file of messages is written");
        return;
    }
    let reviewed = std::fs::read_to_string(&path).expect("the file of messages is read");
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (reviewed.lines().collect(), now.lines().collect());
    let gone = old.difference(&new).map(|line| format!("- {line}"));
    let changed: Vec<String> = gone.chain(new.difference(&old).map(|line| format!("+ {line}"))).collect();
    assert!(
        reviewed == now,
        "messages are not as they were reviewed in {}:\n{}\nRead them by the rules of docs/words.md, then \
         `{WRITE}=write cargo test -p sshfix-tests --test messages`",
        path.display(),
        changed.join("\n"),
    );
}

#[test]
fn the_help_of_each_command_is_as_reviewed() {
    let mut all = String::new();
    for command in [Cli::command(), sshfix_agent::command_line::Arguments::command()] {
        let mut command = command.term_width(80);
        command.build();
        help(&mut command, &mut all);
    }
    compare("help.txt", &all);
}

fn help(command: &mut clap::Command, all: &mut String) {
    if command.get_name() == "help" || command.is_hide_set() {
        return;
    }
    let line = "=".repeat(80);
    let text = command.render_long_help().to_string();
    let text = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let _ = writeln!(all, "{line}\n{text}\n");
    command.get_subcommands_mut().for_each(|command| help(command, all));
}

#[test]
fn each_message_in_the_code_is_as_reviewed() {
    let mut files = Vec::new();
    for crate_ in ["policy/src", "agent/src", "ctl/src", "ctl/kex/src"] {
        rust_files(&top().join(crate_), &mut files);
    }
    files.sort();
    let mut all = String::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a source file is read");
        let tokens: TokenStream = text.parse().expect("a source file is Rust");
        let mut found = Vec::new();
        messages(tokens, &mut found);
        if !found.is_empty() {
            let name = path.strip_prefix(top()).expect("below the workspace").display();
            let _ = writeln!(all, "{name}");
            for message in found {
                let _ = writeln!(all, "    {message}");
            }
        }
    }
    compare("messages.txt", &all);
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder is read") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "tests" {
                rust_files(&path, files);
            }
        } else if path.extension().is_some_and(|end| end == "rs")
            && !["tests", "laws"].contains(&name)
            && !name.ends_with("_tests")
        {
            files.push(path);
        }
    }
}

/// The texts of some words, in order, without those of tests and of comments.
fn messages(tokens: TokenStream, found: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    let mut of_tests = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                tokens.next_if(|next| matches!(next, TokenTree::Punct(punct) if punct.as_char() == '!'));
                if let Some(TokenTree::Group(group)) = tokens.next_if(|next| matches!(next, TokenTree::Group(_))) {
                    let attribute = group.stream().to_string();
                    of_tests |= attribute.replace(' ', "").starts_with("cfg(test");
                    if !of_tests && attribute.starts_with("error") {
                        messages(group.stream(), found);
                    }
                }
            }
            TokenTree::Group(group) => {
                if !of_tests {
                    messages(group.stream(), found);
                }
                of_tests &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => of_tests = false,
            TokenTree::Literal(literal) if !of_tests => {
                let value = syn::parse_str::<syn::LitStr>(&literal.to_string()).map(|text| text.value());
                found.extend(value.ok().filter(|text| is_prose(text)).map(|text| text.replace('\n', "\\n")));
            }
            _ => {}
        }
    }
}

/// Two words of letters in a row, and no statement of SQL.
fn is_prose(text: &str) -> bool {
    if ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "CREATE ", "PRAGMA "].iter().any(|verb| text.starts_with(verb)) {
        return false;
    }
    let word = |word: &str| word.chars().filter(char::is_ascii_lowercase).count() >= 2;
    let words: Vec<&str> = text.split(' ').collect();
    words.windows(2).any(|pair| pair.iter().all(|one| word(one)))
}
