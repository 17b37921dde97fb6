//! Waits until what a request changed is on disk.

use std::sync::Arc;
use std::time::Duration;

use leveret_broker::{Broker, Effects};
use leveret_store::{StoreRefusal, Ticket, Waiter};
use parking_lot::{Condvar, Mutex};

use crate::problem::Problem;

/// A disk that does not answer for so long fails the request; what it changed stays changed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Signal {
    done: Mutex<bool>,
    changed: Condvar,
}

impl Waiter for Signal {
    fn durable(&self, _few: bool) {
        *self.done.lock() = true;
        self.changed.notify_all();
    }
}

/// Hands over what some work recorded, wakes whom it concerns, and waits for the disk.
pub(crate) fn finish(broker: &Broker, effects: &mut Effects) -> Result<(), Problem> {
    let ticket = broker.submit(effects);
    effects.wake();
    wait(broker, ticket)
}

/// Waits until a ticket is durable.
pub(crate) fn wait(broker: &Broker, ticket: Ticket) -> Result<(), Problem> {
    if broker.store.durable() >= ticket {
        return Ok(());
    }
    if broker.store.admission() == Err(StoreRefusal::Stopped) {
        return Err(Problem::Internal(StoreRefusal::Stopped.to_string()));
    }
    let signal = Arc::<Signal>::default();
    let waiter: Arc<dyn Waiter> = Arc::clone(&signal) as Arc<dyn Waiter>;
    broker.store.wake_at(ticket, waiter);
    let mut done = signal.done.lock();
    let until = std::time::Instant::now() + PATIENCE;
    while !*done {
        if signal.changed.wait_until(&mut done, until).timed_out() {
            return Err(Problem::Busy {
                reason: "the disk did not confirm the change in time".to_owned(),
                retry_after_s: 5,
            });
        }
    }
    Ok(())
}
