//! How much one walk through the packet filters may cost. What needs more is not decided: the verdict is unknown and says so.
//! Decides nothing about rules.

/// Rules that one walk looks at, with all jumps, packets and ways to come in together.
pub const MAX_RULES: u32 = 2_000_000;

/// What is left of [`MAX_RULES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effort {
    left: u32,
}

impl Default for Effort {
    fn default() -> Self {
        Self { left: MAX_RULES }
    }
}

impl Effort {
    /// Takes one rule off. False where none is left.
    pub fn spend(&mut self) -> bool {
        let had = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had
    }

    /// How many were looked at.
    pub fn spent(&self) -> u32 {
        MAX_RULES - self.left
    }

    /// Whether none is left.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Why the walk ended there.
    pub fn exceeded() -> String {
        format!("too much to follow: more than {MAX_RULES} rules with all jumps")
    }
}
