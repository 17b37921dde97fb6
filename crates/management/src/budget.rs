//! What long answers may take: memory for all of them together, and the processor in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// What an answer takes at least: pieces that wait for the client, one that is being made, and what
/// compresses them.
const ANSWER_BYTES: usize = 256 * 1024;
/// Whoever makes rows looks after so many whether others want to.
const ROWS_OF_TURN: u32 = 64;
const RETRY_AFTER_S: u32 = 1;

/// The budget of all long answers.
pub(crate) struct AnswerBudget {
    max: usize,
    used: AtomicUsize,
    /// One makes rows at a time: however many lists are asked for, the broker has the other cores.
    turns: Arc<Semaphore>,
}

impl AnswerBudget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            used: AtomicUsize::new(0),
            turns: Arc::new(Semaphore::new(1)),
        })
    }

    /// Reserves what a new answer takes, whose rows may be so large.
    pub(crate) fn answer(self: &Arc<Self>, row_bytes: usize) -> Result<ReservedBytes, Problem> {
        let mut reserved = ReservedBytes {
            budget: Arc::clone(self),
            bytes: 0,
        };
        reserved.grow(ANSWER_BYTES.max(row_bytes.saturating_mul(4)))?;
        Ok(reserved)
    }

    /// Waits for a turn, on a thread that may wait.
    pub(crate) fn turn(&self) -> RowsTurn {
        let mut turn = RowsTurn {
            turns: Arc::clone(&self.turns),
            permit: None,
            rows: 0,
        };
        turn.begin();
        turn
    }

    /// Waits for a turn in a task.
    pub(crate) async fn next_turn(self: Arc<Self>) -> RowsTurn {
        let turns = Arc::clone(&self.turns);
        RowsTurn {
            permit: Arc::clone(&turns).acquire_owned().await.ok(),
            turns,
            rows: 0,
        }
    }
}

/// What one answer has of the budget; it goes back when the answer is over.
pub(crate) struct ReservedBytes {
    budget: Arc<AnswerBudget>,
    bytes: usize,
}

impl ReservedBytes {
    /// Reserves more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let AnswerBudget { max, used, .. } = &*self.budget;
        if self.bytes.saturating_add(bytes) > *max {
            return Err(Problem::bad(format!(
                "the answer would take more than the {max} bytes of management.lists_bytes_max \
                 while it is sorted: ask for pages, or without sort"
            )));
        }
        let order = Ordering::Relaxed;
        let add = |used: usize| used.checked_add(bytes).filter(|used| used <= max);
        used.fetch_update(order, order, add)
            .map_err(|_| Problem::Busy {
                reason: "other long answers take all of management.lists_bytes_max".to_owned(),
                retry_after_s: RETRY_AFTER_S,
            })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives some of it back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for ReservedBytes {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A turn to make rows.
pub(crate) struct RowsTurn {
    turns: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    rows: u32,
}

impl RowsTurn {
    /// A row was looked at: now and then whoever waits goes first.
    pub(crate) fn row(&mut self) {
        self.rows += 1;
        if self.rows >= ROWS_OF_TURN {
            self.rows = 0;
            self.permit = None;
            self.begin();
        }
    }

    fn begin(&mut self) {
        let turns = || Arc::clone(&self.turns);
        self.permit = match turns().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => Handle::current().block_on(turns().acquire_owned()).ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_comes_back_and_what_never_fits_is_told_apart() {
        let budget = AnswerBudget::new(3 * ANSWER_BYTES);
        let mut first = budget.answer(0).unwrap();
        let second = budget.answer(0).unwrap();
        first.grow(ANSWER_BYTES).unwrap();
        assert!(matches!(budget.answer(0), Err(Problem::Busy { .. })));
        assert!(matches!(first.grow(1), Err(Problem::Busy { .. })));
        drop(second);
        first.grow(ANSWER_BYTES).unwrap();
        let never = first.grow(1);
        assert!(matches!(&never, Err(problem) if problem.reason().contains("lists_bytes_max")));
        drop(first);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        // Rows with many samples take more.
        assert!(budget.answer(ANSWER_BYTES).is_err());
    }
}
