//! Connection tracking: whether it has room for a new connection (`__nf_conntrack_alloc` in `net/netfilter/nf_conntrack_core.c`).
//! Reads nothing, knows no rule.

use serde::{Deserialize, Serialize};

use crate::verdict::Evidence;

/// How full the table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// `net.netfilter.nf_conntrack_count`: entries of this network namespace.
    pub count: u64,
    /// `net.netfilter.nf_conntrack_max`; 0 is no limit.
    pub max: u64,
    /// Whether an entry may be evicted for a new one: any that is not assured (`early_drop`). Looked for only where the table is full.
    pub evictable: Option<bool>,
}

impl Fill {
    /// Whether the next entry is one too many.
    pub fn full(&self) -> bool {
        self.max != 0 && self.count >= self.max
    }

    /// `the connection tracking table is full (262144 of 262144)`
    pub fn text(&self) -> String {
        format!("the connection tracking table is full ({} of {})", self.count, self.max)
    }

    /// As evidence.
    pub fn evidence(&self) -> Evidence {
        let text = format!("net.netfilter.nf_conntrack_count = {}\nnet.netfilter.nf_conntrack_max = {}", self.count, self.max);
        Evidence::new("/proc/sys/net/netfilter", text)
    }

    /// Twice as many.
    pub fn fix(&self) -> String {
        format!(
            "sysctl -w net.netfilter.nf_conntrack_max={}   # in a container: on its host; `conntrack -L` shows what fills the table",
            self.max.saturating_mul(2)
        )
    }
}
