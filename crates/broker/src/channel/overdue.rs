//! Deliveries that were not settled in time go back to their queues.

use leveret_codec::SoftCode;
use leveret_session::{Fault, Looked};

use crate::channel::open::OpenChannel;
use crate::channel::settle::give_back;
use crate::queue::pump::Pump;

impl OpenChannel<'_> {
    /// Gives back a part of what was not settled in time.
    ///
    /// # Errors
    /// When the channel has to be closed for it.
    pub(crate) fn take_back(&mut self, now_ms: u64) -> Result<(), Fault> {
        let channel = self.number;
        let (sources, taken) = (&self.state.sources, &mut self.shared.settled);
        let looked = self.peer.outlet.lock().take_overdue(
            channel,
            now_ms,
            |source| sources.get(source as usize)?.term(),
            |slot| {
                if let Some(source) = sources.get(slot.source as usize) {
                    taken.push((slot.source, slot.unacked, source.overdue()));
                }
            },
        );
        self.give_back_overdue();
        let Looked::Closes(timeout_ms) = looked else {
            return Ok(());
        };
        let text = format!(
            "delivery acknowledgement on channel {channel} timed out. Timeout value used: \
             {timeout_ms} ms. This timeout value can be configured, see consumers doc guide to \
             learn more"
        );
        Err(Fault::channel(
            channel,
            SoftCode::PreconditionFailed,
            text,
            (0, 0),
        ))
    }

    /// Gives taken deliveries back to their queues, one lock for each run of one source.
    fn give_back_overdue(&mut self) {
        let taken = &mut self.shared.settled;
        for run in taken.chunk_by(|a, b| a.0 == b.0) {
            let source = run.first().map(|(source, ..)| *source);
            let Some(source) = source.and_then(|source| self.state.source(source)) else {
                continue;
            };
            let mut queue = source.cell.lock();
            if !source.cell.is_deleted() {
                queue.timed_out += run.len() as u64;
                let mut pump = Pump::new(&source.cell, self.effects);
                give_back(&mut queue, source, run, &mut pump);
                source.cell.run(&mut queue, &mut pump);
            }
        }
        taken.clear();
        self.share_room();
    }
}
