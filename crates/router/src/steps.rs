//! How much work a route may be now: what is beyond waits for the next turn.

/// Steps that are left. One is a node of a trie, a header compared, an edge between exchanges, a
/// key looked up or a few ids copied: some ten nanoseconds, more where memory is far away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Steps {
    left: usize,
    given: usize,
}

impl Steps {
    /// So many.
    #[must_use]
    pub const fn new(given: usize) -> Self {
        Self { left: given, given }
    }

    /// More than any route takes.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// How many were taken, of those given.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.given - self.left
    }

    /// Takes one; false when none is left.
    #[inline]
    pub(crate) const fn take(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Takes what was done already.
    #[inline]
    pub(crate) const fn took(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }
}
