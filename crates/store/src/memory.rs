//! Stores without a disk, for tests of what sits above: one durable at once, one when told so.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Scratch, Store, StoreRefusal, Ticket, Waiter};

/// Everything is durable at once and forgotten: a broker without durability.
#[derive(Default, Debug)]
pub struct InstantStore;

impl Store for InstantStore {
    fn submit(&self, scratch: &mut Scratch) -> Result<Ticket, StoreRefusal> {
        let oversize = scratch.is_oversize();
        scratch.clear();
        if oversize {
            Err(StoreRefusal::Oversize)
        } else {
            Ok(Ticket(0))
        }
    }

    fn admission(&self) -> Result<(), StoreRefusal> {
        Ok(())
    }

    fn durable(&self) -> Ticket {
        Ticket(0)
    }

    fn wake_at(&self, _ticket: Ticket, waiter: Arc<dyn Waiter>) {
        waiter.durable(false);
    }

    fn staged_bytes(&self) -> usize {
        0
    }
}

/// Each submission has its own ticket and becomes durable when the test says so.
#[derive(Default)]
pub struct DelayedStore {
    state: Mutex<Delayed>,
}

#[derive(Default)]
struct Delayed {
    submitted: u64,
    durable: u64,
    staged: usize,
    refusal: Option<StoreRefusal>,
    waiters: Vec<(Ticket, Arc<dyn Waiter>)>,
}

impl DelayedStore {
    /// Makes everything submitted so far durable and calls the waiters.
    pub fn release(&self) {
        let submitted = self.state.lock().submitted;
        self.release_to(Ticket(submitted));
    }

    /// Makes everything up to `ticket` durable and calls the waiters.
    pub fn release_to(&self, ticket: Ticket) {
        let due = {
            let mut state = self.state.lock();
            state.durable = ticket.0.min(state.submitted).max(state.durable);
            if state.durable == state.submitted {
                state.staged = 0;
            }
            let durable = Ticket(state.durable);
            take_due(&mut state.waiters, durable)
        };
        for waiter in due {
            waiter.durable(false);
        }
    }

    /// Refuses messages (`DiskFull`), or everything (`Stopped`), or admits all again (`None`).
    pub fn refuse(&self, refusal: Option<StoreRefusal>) {
        self.state.lock().refusal = refusal;
    }
}

impl Store for DelayedStore {
    fn submit(&self, scratch: &mut Scratch) -> Result<Ticket, StoreRefusal> {
        let mut state = self.state.lock();
        let (bytes, oversize, empty) = (
            scratch.bytes_len(),
            scratch.is_oversize(),
            scratch.is_empty(),
        );
        scratch.clear();
        if state.refusal == Some(StoreRefusal::Stopped) {
            return Err(StoreRefusal::Stopped);
        }
        if oversize {
            return Err(StoreRefusal::Oversize);
        }
        if empty {
            return Ok(Ticket(0));
        }
        state.submitted += 1;
        state.staged += bytes;
        Ok(Ticket(state.submitted))
    }

    fn admission(&self) -> Result<(), StoreRefusal> {
        self.state.lock().refusal.map_or(Ok(()), Err)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.state.lock().durable)
    }

    fn wake_at(&self, ticket: Ticket, waiter: Arc<dyn Waiter>) {
        let mut state = self.state.lock();
        if state.durable < ticket.0 {
            state.waiters.push((ticket, waiter));
            return;
        }
        drop(state);
        waiter.durable(false);
    }

    fn staged_bytes(&self) -> usize {
        self.state.lock().staged
    }
}

/// Removes and returns the waiters whose ticket the watermark has reached.
pub(crate) fn take_due(
    waiters: &mut Vec<(Ticket, Arc<dyn Waiter>)>,
    durable: Ticket,
) -> Vec<Arc<dyn Waiter>> {
    waiters
        .extract_if(.., |(ticket, _)| *ticket <= durable)
        .map(|(_, waiter)| waiter)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::LaneId;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Waiter for Count {
        fn durable(&self, _few: bool) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waiter_is_called_once_when_its_ticket_is_durable() {
        let store = DelayedStore::default();
        let mut scratch = Scratch::new();
        scratch.settle(LaneId(1), 7);
        let first = store.submit(&mut scratch).unwrap();
        assert!(scratch.is_empty());
        scratch.settle(LaneId(1), 8);
        let second = store.submit(&mut scratch).unwrap();
        assert!(first < second);

        let count = Arc::new(Count::default());
        store.wake_at(second, count.clone());
        store.release_to(first);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        store.release();
        store.release();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(store.durable(), second);
    }

    #[test]
    fn a_stopped_store_takes_nothing() {
        let store = DelayedStore::default();
        store.refuse(Some(StoreRefusal::DiskFull));
        assert!(!store.admits_messages());
        let mut scratch = Scratch::new();
        scratch.settle(LaneId(1), 7);
        assert!(store.submit(&mut scratch).is_ok());
        store.refuse(Some(StoreRefusal::Stopped));
        scratch.settle(LaneId(1), 8);
        assert_eq!(store.submit(&mut scratch), Err(StoreRefusal::Stopped));
    }
}
