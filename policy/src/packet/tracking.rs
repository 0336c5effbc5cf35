//! What connection tracking may make of a packet: its state, its zone, and ends that were written over past it. Follows no rule.

use super::{Bits, Tri};

/// Possible states of connection tracking, as bits: the same bits that nft's `ct state` loads, and `XT_STATE_*` of `-m state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracking(pub u8);

impl Tracking {
    /// No entry: invalid, or before connection tracking ran (`NF_CT_STATE_INVALID_BIT`).
    pub const INVALID: Tracking = Tracking(1);
    /// Seen in both directions.
    pub const ESTABLISHED: Tracking = Tracking(2);
    /// Expected by another connection.
    pub const RELATED: Tracking = Tracking(4);
    /// The first packet.
    pub const NEW: Tracking = Tracking(8);
    /// Exempt (`notrack`).
    pub const UNTRACKED: Tracking = Tracking(64);
    /// Cannot be told.
    pub const ANY: Tracking = Tracking(79);

    /// Whether the state is one of `states`.
    pub fn among(self, states: u8) -> Tri {
        match (self.0 & states != 0, self.0 & !states != 0) {
            (true, false) => Tri::Yes,
            (false, _) => Tri::No,
            (true, true) => Tri::Maybe,
        }
    }

    /// Whether conntrack has an entry for the packet.
    pub fn entry(self) -> Tri {
        self.among(Self::ESTABLISHED.0 | Self::RELATED.0 | Self::NEW.0)
    }

    /// Either state.
    #[must_use]
    pub fn join(self, other: Tracking) -> Self {
        Self(self.0 | other.0)
    }
}

/// The zone of connection tracking that a rule ahead of it gave the packet: entries of other zones are not found (`nf_ct_zone_equal`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// None, which is zone 0.
    Default,
    /// This one. Rules that come later change it no more, nor exempt the packet from tracking (`xt_ct_target`, `nft_notrack_eval`).
    Is(u16),
    /// Cannot be told.
    Unknown,
}

impl Zone {
    /// What is known where it is one or the other.
    #[must_use]
    pub fn join(self, other: Zone) -> Self {
        if self == other { self } else { Zone::Unknown }
    }

    /// Whether an entry of the one is found from the other.
    pub fn equals(self, other: Zone) -> Tri {
        let number = |zone| match zone {
            Zone::Default => Some(0),
            Zone::Is(number) => Some(number),
            Zone::Unknown => None,
        };
        number(self).zip(number(other)).map_or(Tri::Maybe, |(one, two)| Tri::from(one == two))
    }

    /// As `ct zone` loads it: 2 bytes in the machine's order. That of one direction may be another.
    pub fn bits(self, direction: Option<u8>) -> Bits {
        match (self, direction) {
            (Zone::Default, None) => Bits::exactly(&0_u16.to_ne_bytes()),
            (Zone::Is(number), None) => Bits::exactly(&number.to_ne_bytes()),
            (Zone::Unknown, _) | (_, Some(_)) => Bits::unknown(2),
        }
    }
}

/// What connection tracking found of a packet, and what rules ahead of it told it to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The state.
    pub state: Tracking,
    /// The zone.
    pub zone: Zone,
    /// Whether connection tracking has looked at it.
    pub seen: bool,
}

impl Tracked {
    /// Whether the packet carries a template, which tells connection tracking what to do with it once it comes there (`nf_ct_tmpl_alloc`).
    /// Until then rules see the template as the entry of a new connection.
    pub fn template(self) -> Tri {
        match self.zone {
            Zone::Default => Tri::No,
            Zone::Is(_) | Zone::Unknown if self.seen => Tri::No,
            Zone::Is(_) => Tri::Yes,
            Zone::Unknown => Tri::Maybe,
        }
    }

    /// After a rule that gives it a zone: a tracked packet keeps its own, and the first one given stays (`nft_ct_set_zone_eval`,
    /// `xt_ct_target`). `anew` is for nft, whose rule also takes back that it is exempt from tracking.
    #[must_use]
    pub fn zoned(self, zone: Zone, anew: bool) -> Self {
        let Self { state, seen, .. } = self;
        let untracked = state.among(Tracking::UNTRACKED.0);
        if state.entry() == Tri::Yes || self.template() == Tri::Yes || !anew && untracked == Tri::Yes {
            return self;
        }
        if seen || state.entry() == Tri::Maybe {
            // What a template does behind connection tracking is not followed.
            return Self { state: Tracking::ANY, zone: Zone::Unknown, seen };
        }
        match (self.zone, untracked) {
            (Zone::Default, _) if anew => Self { state: Tracking::INVALID, zone, seen },
            (Zone::Default, Tri::No) => Self { state, zone, seen },
            (Zone::Default | Zone::Is(_) | Zone::Unknown, _) => {
                Self { state: state.join(Tracking::INVALID), zone: Zone::Unknown, seen }
            }
        }
    }

    /// After a rule that exempts it from tracking: one with an entry or a template stays as it is (`nft_notrack_eval`, `notrack_tg`).
    #[must_use]
    pub fn exempt(self) -> Self {
        let state = match self.state.entry().or(self.template()) {
            Tri::Yes => self.state,
            Tri::No => Tracking::UNTRACKED,
            Tri::Maybe => self.state.join(Tracking::UNTRACKED),
        };
        Self { state, ..self }
    }

    /// The state as rules see it.
    pub fn shown(self) -> Tracking {
        match self.template() {
            Tri::Yes => Tracking::NEW,
            Tri::No => self.state,
            Tri::Maybe => self.state.join(Tracking::NEW),
        }
    }
}

/// Whether a rule wrote other addresses or ports into a packet by hand (`payload ... set`), past connection tracking's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten {
    /// No rule did.
    No,
    /// To values that are known: the packet shows them.
    Known,
    /// Perhaps, or to what is not known, or other fields by which a connection is known.
    Unknown,
}

impl Rewritten {
    /// What is known of a packet that was the one before and is the other now.
    #[must_use]
    pub fn then(self, next: Rewritten) -> Self {
        match (self, next) {
            (Rewritten::Unknown, _) | (_, Rewritten::Unknown) => Rewritten::Unknown,
            (Rewritten::No, Rewritten::No) => Rewritten::No,
            (Rewritten::Known, _) | (_, Rewritten::Known) => Rewritten::Known,
        }
    }
}
