//! What a stage comes to, what was found there, and what would lift it, as data. Judges nothing and plans nothing.

use serde::{Deserialize, Serialize};

use crate::subsystem::sshd::config::{Changed, Setting};
use crate::text::quoted::Text;
use crate::verdict::cause::{Cause, Finding};
use crate::verdict::owner::Owner;
use crate::verdict::{Evidence, Stage, StageReport, Verdict};

/// What one stage, or a part of one, came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Its verdict.
    pub verdict: Verdict,
    /// One line for people.
    pub detail: Text,
    /// What decided.
    pub evidence: Vec<Evidence>,
    /// What was found, blocking or not, and how it is lifted.
    pub blocks: Vec<Found>,
}

/// A finding that does not decide by itself, and that a person must lift.
pub fn found(cause: Cause, blocking: bool, owner: Owner, evidence: Vec<Evidence>, fix: impl Into<Text>) -> Judgement {
    let stage = cause.stage();
    let finding =
        Finding { cause, blocking, stage, owner, since: None, until: None, evidence: evidence.clone(), fix: fix.into() };
    Judgement {
        verdict: Verdict::Accept,
        detail: Text::default(),
        evidence,
        blocks: vec![Found { finding, remedies: Vec::new() }],
    }
}

impl Judgement {
    /// Nothing found.
    pub fn accept(detail: &str) -> Self {
        Self { verdict: Verdict::Accept, detail: detail.into(), evidence: Vec::new(), blocks: Vec::new() }
    }

    /// It cannot be told.
    pub fn unknown(detail: impl Into<Text>) -> Self {
        Self { verdict: Verdict::Unknown, detail: detail.into(), evidence: Vec::new(), blocks: Vec::new() }
    }

    /// The same, lifted by these, in this order.
    pub fn with(mut self, remedies: impl IntoIterator<Item = Remedy>) -> Self {
        if let Some(found) = self.blocks.last_mut() {
            found.remedies.extend(remedies);
        }
        self
    }

    /// A further part of the same stage. The first that refuses, else the first that is unknown, is the one whose words are shown.
    pub fn add(&mut self, other: Self) {
        let both = self.verdict.and(other.verdict);
        if both != self.verdict {
            self.detail = other.detail;
            self.evidence = other.evidence;
        }
        self.verdict = both;
        self.blocks.extend(other.blocks);
    }

    pub(super) fn report(self, stage: Stage) -> (StageReport, Vec<Found>) {
        let Self { verdict, detail, evidence, blocks } = self;
        (StageReport::new(stage, verdict, detail, evidence), blocks)
    }
}

/// What was found, and how it is lifted; without a remedy the finding's `fix` says what a person must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is shown.
    pub finding: Finding,
    /// In this order.
    pub remedies: Vec<Remedy>,
}

/// One way to lift something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Sets a keyword.
    Set {
        /// Which.
        keyword: String,
        /// The criteria of the Match block; `None` for everybody.
        criteria: Option<String>,
        /// To what.
        values: Vec<String>,
    },
    /// Gives single lines of a list other values: lists add up over all files, and the other lines stay as they are.
    Lines {
        /// Which list.
        keyword: String,
        /// Each line, and its values to be.
        lines: Vec<Changed>,
    },
    /// Turns a line that sshd does not take into a comment, a `Match` line with its block, and every other one that it complains of then.
    CommentOut {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
    },
    /// Something besides the configuration.
    Repair(Mend),
    /// Has sshd read its files again, which also forgets its penalties.
    Reload,
    /// Starts the service that is down.
    Start,
}

impl Remedy {
    /// Sets a keyword where the line stands that counts now; `None` inside nested Match blocks. Without a line, for everybody.
    pub fn set(keyword: &str, setting: Option<&Setting>, values: Vec<String>) -> Option<Self> {
        let criteria = match setting.map(|setting| setting.under.as_slice()) {
            None | Some([]) => None,
            Some([(_, text)]) => Some(criteria(text)?),
            Some(_) => return None,
        };
        Some(Remedy::Set { keyword: keyword.to_owned(), criteria, values })
    }
}

/// `Match Address 10.0.0.0/8 # office` without its first word and its comment.
fn criteria(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(|c: char| c.is_whitespace())?;
    let rest = rest.split(" #").next().unwrap_or(rest).trim();
    Some(rest.to_owned())
}

/// What is repaired, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mend {
    /// [`PRIVSEP`], root's; its mode, `None` where it is not there.
    Folder {
        /// As it is.
        before: Option<u32>,
        /// As it will be.
        after: Option<u32>,
    },
    /// The mode of the file of a host key, which is root's.
    KeyMode {
        /// The file.
        path: String,
        /// As it is.
        before: u32,
        /// As it will be.
        after: u32,
    },
    /// A host key where none is.
    Key {
        /// The file; the public half is `.pub` beside it.
        path: String,
        /// As `ssh-keygen -t` calls it.
        kind: String,
        /// Whether it is there afterwards.
        there: bool,
    },
    /// What `pam_faillock` remembers of a user.
    Tally {
        /// Whose.
        user: String,
        /// The file.
        path: String,
        /// As it is.
        before: Vec<u8>,
        /// As it will be.
        after: Vec<u8>,
    },
}
