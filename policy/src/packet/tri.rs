//! Three-valued truth: what holds, what does not, and what cannot be told. Knows no packet.

/// Yes, no, or it cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// It cannot be told.
    Maybe,
}

impl Tri {
    /// Both hold.
    #[must_use]
    pub fn and(self, other: Tri) -> Tri {
        match (self, other) {
            (Tri::No, _) | (_, Tri::No) => Tri::No,
            (Tri::Yes, Tri::Yes) => Tri::Yes,
            (Tri::Maybe, _) | (_, Tri::Maybe) => Tri::Maybe,
        }
    }

    /// At least one holds.
    #[must_use]
    pub fn or(self, other: Tri) -> Tri {
        match (self, other) {
            (Tri::Yes, _) | (_, Tri::Yes) => Tri::Yes,
            (Tri::No, Tri::No) => Tri::No,
            (Tri::Maybe, _) | (_, Tri::Maybe) => Tri::Maybe,
        }
    }

    /// It does not hold, where `invert` is set.
    #[must_use]
    pub fn invert(self, invert: bool) -> Tri {
        match (self, invert) {
            (Tri::Yes, true) => Tri::No,
            (Tri::No, true) => Tri::Yes,
            (same, _) => same,
        }
    }
}

impl Tri {
    /// The answer, where there is one.
    pub fn known(self) -> Option<bool> {
        match self {
            Tri::Yes => Some(true),
            Tri::No => Some(false),
            Tri::Maybe => None,
        }
    }
}

impl From<bool> for Tri {
    fn from(holds: bool) -> Self {
        if holds { Tri::Yes } else { Tri::No }
    }
}
