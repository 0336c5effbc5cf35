//! What every walk over one host needs, made once for a question: what is known of ipsets, and the index of the ruleset. Judges nothing.

use std::sync::Arc;

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
}

impl<'h> Prepared<'h> {
    /// For one address or range.
    pub fn new(host: &'h HostState) -> Self {
        let index = host.nf_tables.present().map_or_else(Index::default, Index::new);
        Self { host, ipsets: super::ipset::facts(host), index: Arc::new(index) }
    }

    /// For many addresses.
    pub fn for_many(host: &'h HostState) -> Self {
        let index = host.nf_tables.present().map_or_else(Index::default, Index::of_many);
        Self { host, ipsets: super::ipset::facts(host), index: Arc::new(index) }
    }
}
