//! The end of every piece of work: what it left is carried out, and handed to the store.

use leveret_store::Ticket;

use crate::broker::Broker;
use crate::queue::effects::Effects;

impl Broker {
    /// Hands what was recorded to the store and gives when all of it is durable. Everything that
    /// has [`Effects`] ends with this, and with [`Effects::flush`] or [`Effects::wake`].
    pub fn submit(&self, effects: &mut Effects) -> Ticket {
        if !effects.traced.is_empty() {
            self.emit_traced(effects);
        }
        if !effects.dying.is_empty() {
            self.bury(effects);
        }
        effects.submit(&*self.store);
        if !effects.warm.is_empty() {
            self.warm.lock().append(&mut effects.warm);
        }
        std::mem::take(&mut effects.ticket)
    }
}
