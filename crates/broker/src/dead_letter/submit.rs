//! The end of every piece of work: what it left is carried out, and handed to the store.

use leveret_store::Ticket;

use crate::broker::Broker;
use crate::queue::work::Work;

impl Broker {
    /// Hands what some work recorded to the store and gives when all of it is durable. Everything
    /// that fills a [`Work`] ends with this, and with [`Work::flush`] or [`Work::wake`].
    pub fn submit(&self, work: &mut Work) -> Ticket {
        if !work.traced.is_empty() {
            self.emit_traced(work);
        }
        if !work.dying.is_empty() {
            self.bury(work);
        }
        work.submit(&*self.store);
        if !work.warm.is_empty() {
            self.warm.lock().append(&mut work.warm);
        }
        std::mem::take(&mut work.ticket)
    }
}
