//! The whole configuration: the main file and everything it includes, as it was read. Says which files are still missing; reads none.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::document::Document;
use super::line::LineError;

/// servconf.c, `SSHDIR`: what relative `Include` patterns are relative to.
const SSH_DIRECTORY: &str = "/etc/ssh";
/// servconf.c, `SERVCONF_MAX_DEPTH`.
pub const DEPTH_MAX: usize = 16;

/// Files and the patterns that name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// The path of the main file.
    pub main: String,
    /// Every file that was read, by its path.
    pub files: BTreeMap<String, Document>,
    /// What each `Include` pattern names, in the order of glob(7).
    pub includes: BTreeMap<String, Vec<String>>,
    /// The files of them that sshfix would not write, and why: symbolic links, what others than root can write.
    pub not_replaceable: BTreeMap<String, String>,
}

/// Where a line is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The file; `the command line` for options of the program.
    pub file: String,
    /// From 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 { write!(f, "{}", self.file) } else { write!(f, "{} line {}", self.file, self.line) }
    }
}

/// Why the configuration has no meaning that could be told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A line that sshd does not take either.
    #[error("{at}: {why}")]
    Line {
        /// Which.
        at: Place,
        /// What is wrong.
        why: LineError,
    },
    /// Includes that go in circles.
    #[error("{0}: more than {DEPTH_MAX} nested Includes")]
    TooDeep(Place),
    /// A file that was not read.
    #[error("{0} was not read")]
    NotRead(String),
    /// A condition that cannot be decided.
    #[error("{at}: {why}")]
    Undecided {
        /// Of the `Match` line.
        at: Place,
        /// Why not.
        why: String,
    },
}

impl Tree {
    /// With nothing but the name of the main file.
    pub fn new(main: &str) -> Self {
        Self { main: main.to_owned(), files: BTreeMap::new(), includes: BTreeMap::new(), not_replaceable: BTreeMap::new() }
    }

    /// The files and patterns to read next; none when the tree is whole.
    pub fn missing(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let named = self.includes.values().flatten().chain([&self.main]);
        let files = named.filter(|file| !self.files.contains_key(*file)).cloned().collect();
        let patterns = self.files.values().flat_map(Document::lines).filter_map(|(_, line)| {
            let directive = line.directive().ok().flatten()?;
            (directive.keyword == "include").then_some(directive.arguments)
        });
        let patterns =
            patterns.flatten().map(|pattern| absolute(&pattern)).filter(|it| !self.includes.contains_key(it)).collect();
        (files, patterns)
    }

    /// The document of a file.
    pub fn file(&self, path: &str) -> Result<&Document, ConfigError> {
        self.files.get(path).ok_or_else(|| ConfigError::NotRead(path.to_owned()))
    }

    /// The files that an `Include` argument names.
    pub fn included(&self, argument: &str) -> Result<&[String], ConfigError> {
        let pattern = absolute(argument);
        self.includes.get(&pattern).map(Vec::as_slice).ok_or(ConfigError::NotRead(pattern))
    }
}

/// servconf.c, `process_server_config_line`, `sInclude`.
fn absolute(pattern: &str) -> String {
    if pattern.starts_with(['/', '~']) { pattern.to_owned() } else { format!("{SSH_DIRECTORY}/{pattern}") }
}
