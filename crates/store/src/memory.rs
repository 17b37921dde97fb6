//! A store without a disk.

use std::sync::Arc;

use crate::{Batch, Store, StoreRefusal, Ticket, Waiter};

/// Everything is durable at once and forgotten: a broker without durability.
#[derive(Default, Debug)]
pub struct InstantStore;

impl Store for InstantStore {
    fn submit(&self, batch: &mut Batch) -> Result<Ticket, StoreRefusal> {
        let oversize = batch.is_oversize();
        batch.clear();
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
