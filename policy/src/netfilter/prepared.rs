//! What every walk over one host needs, made once for a question: what is known of ipsets, and the index of the ruleset. Judges nothing.

use std::sync::{Arc, OnceLock};

use crate::host::HostState;
use crate::subsystem::ipset;
use crate::subsystem::nf_tables::index::Index;

/// A host, ready to be walked.
pub struct Prepared<'h> {
    /// The host.
    pub host: &'h HostState,
    /// What is known of ipsets; see [`super::ipset::facts`].
    pub ipsets: ipset::State,
    /// The index of its `nf_tables` ruleset.
    pub index: Arc<Index<'h>>,
    /// Whether connections are tracked, of IPv4 and of IPv6: every rule says it, so it is looked for once.
    tracked: [OnceLock<bool>; 2],
}

impl<'h> Prepared<'h> {
    /// For one address or range.
    pub fn new(host: &'h HostState) -> Self {
        let index = host.nf_tables.present().map_or_else(Index::default, Index::new);
        Self::with(host, index)
    }

    /// For many addresses.
    pub fn for_many(host: &'h HostState) -> Self {
        let index = host.nf_tables.present().map_or_else(Index::default, Index::of_many);
        Self::with(host, index)
    }

    fn with(host: &'h HostState, index: Index<'h>) -> Self {
        Self { host, ipsets: super::ipset::facts(host), index: Arc::new(index), tracked: Default::default() }
    }

    /// Whether connections of this family are tracked.
    pub fn tracks(&self, v6: bool) -> bool {
        let [of_v4, of_v6] = &self.tracked;
        *if v6 { of_v6 } else { of_v4 }.get_or_init(|| super::conntrack::in_use(self.host, v6))
    }
}
