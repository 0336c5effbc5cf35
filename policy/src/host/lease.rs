//! What a lease added to a host, as it is found again. Plans nothing, and decides nothing about time.

use serde::{Deserialize, Serialize};

use crate::address::Source;
use crate::host::step::Step;
use crate::text::quoted::Text;

/// One thing that a lease added, or that it counts on because another lease did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// Accept rules for this source whose comment is the mark, in any table.
    Rules {
        /// For whom.
        source: Source,
        /// `sshfix lease 3`
        mark: String,
    },
    /// A line of hosts.allow for this source, below a comment line that is the mark.
    Line {
        /// For whom.
        source: Source,
        /// `sshfix lease 3`
        mark: String,
        /// Whether there was no hosts.allow before.
        created: bool,
    },
    /// An entry of sshd's `PerSourcePenaltyExemptList`. The list has no place for a mark: it is ours because it was not there.
    Exempt {
        /// For whom.
        source: Source,
        /// Of the sshd on this port.
        port: u16,
    },
    /// An ignoreip entry of a jail. fail2ban keeps no comments: it is ours because it was not there.
    Ignore {
        /// In which jail.
        jail: String,
        /// As fail2ban prints it.
        entry: String,
    },
}

impl Item {
    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Item::Rules { source, .. } => format!("accept {} in the packet filter", source.short()),
            Item::Line { source, .. } => format!("{} in hosts.allow", source.short()),
            Item::Exempt { source, .. } => format!("{} in sshd's PerSourcePenaltyExemptList", source.short()),
            Item::Ignore { jail, entry } => format!("jail {jail} ignores {entry}"),
        }
    }

    /// Whether it is about exactly this source. One that also holds for others is theirs: whoever counted on it would keep it
    /// for them past the end of their lease.
    pub fn is_for(&self, wanted: Source) -> bool {
        match self {
            Item::Rules { source, .. } | Item::Line { source, .. } | Item::Exempt { source, .. } => *source == wanted,
            Item::Ignore { entry, .. } => entry.parse() == Ok(wanted),
        }
    }
}

/// A lease that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// For whom.
    pub source: Option<Source>,
    /// What it added and counts on.
    pub items: Vec<Item>,
}

impl Running {
    /// Whether this item stays for it when the lease that added it ends: never one that lets in others as well.
    pub fn counts_on(&self, item: &Item) -> bool {
        self.items.contains(item) && self.source.is_none_or(|source| item.is_for(source))
    }
}

/// What planning must know of leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Those that run.
    pub running: Vec<Running>,
    /// The id of the one that is made.
    pub next: String,
    /// The longest that may be asked for, in seconds; 0 is any.
    pub longest: u64,
}

impl Leases {
    /// What other leases added and one about this source can count on, so that it stays until the last of them ends.
    pub fn shared(&self, source: Source, but: &str) -> Vec<Item> {
        let mut items: Vec<Item> = self.items_of_others(but).filter(|item| item.is_for(source)).cloned().collect();
        items.sort();
        items.dedup();
        items
    }

    /// What other leases added and one about this source cannot count on, because it ends without asking for it.
    pub fn ends_without(&self, source: Source, but: &str) -> impl Iterator<Item = &Item> {
        self.items_of_others(but).filter(move |item| !item.is_for(source))
    }

    fn items_of_others(&self, but: &str) -> impl Iterator<Item = &Item> {
        self.running.iter().filter(move |lease| lease.id != but).flat_map(|lease| &lease.items)
    }
}

/// The comment on everything that a lease adds.
pub fn mark(id: &str) -> String {
    format!("sshfix lease {id}")
}

/// How a lease is taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// What removes what is still there as it was added.
    pub steps: Vec<Step>,
    /// What is left, because somebody changed it or another lease counts on it.
    pub left: Vec<String>,
    /// What could not be looked at; the end must be tried again for it.
    pub unread: Vec<String>,
    /// What the reload of sshd brings into effect besides: files that somebody edited and sshd has not read yet.
    pub besides: Vec<Text>,
}

impl End {
    /// An end that nobody looks at leaves sshd alone where a reload would bring edits of others into effect, and is tried again. The
    /// entry lets nobody in meanwhile.
    #[must_use]
    pub fn unattended(mut self) -> Self {
        if !self.besides.is_empty() {
            self.steps.retain(|step| !matches!(step, Step::Sshd(_)));
            self.unread.extend(self.besides.drain(..).map(|text| text.as_str().to_owned()));
        }
        self
    }
}
