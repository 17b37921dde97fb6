//! Space on the disk for a change of durable things: asked for before it is made.

use leveret_store::StoreRefusal;

use crate::broker::Broker;
use crate::context::refusal::Refusal;
use crate::queue::effects::Effects;

/// What a record takes beside a message's bytes, its route and its targets.
pub(crate) const RECORD_BYTES: usize = 80;

impl Broker {
    /// Claims what a declaration takes of the disk; refuses it if there is no such space.
    pub(crate) fn claim_change(
        &self,
        effects: &mut Effects,
        bytes: usize,
        what: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        let claimed = self.claim_record(effects, bytes);
        claimed.map_err(|refused| Refusal::Precondition(format!("cannot {}: {refused}", what())))
    }

    /// The same for anything with so many bytes of names and contents.
    pub(crate) fn claim_record(
        &self,
        effects: &mut Effects,
        bytes: usize,
    ) -> Result<(), StoreRefusal> {
        self.store
            .admit_change(&mut effects.journal, RECORD_BYTES + bytes)
    }
}
