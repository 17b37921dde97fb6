//! Acknowledgements, rejections, and everything else that brings deliveries back.

use leveret_codec::BasicRecoverOk;
use leveret_queue::Unacked;
use leveret_session::{Fault, Settlement, Verdict};

use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::queue::cell::QueueState;
use crate::queue::consumer::DeliverySource;
use crate::queue::effects::Effects;
use crate::queue::pump::Pump;

impl OpenChannel<'_> {
    /// Settles deliveries of one channel; an unknown tag closes it after those before it.
    pub(crate) fn settle(&mut self, settlements: &[Settlement]) -> Result<(), Fault> {
        if self.state.transaction.is_some() {
            return self.stage_settlements(settlements);
        }
        let mut failed = None;
        let mut outlet = self.peer.outlet.lock();
        let settled = &mut self.shared.settled;
        let (mut acked, mut rejected, mut requeued) = (0, 0, 0);
        let mut counted = settled.len() as u64;
        for settlement in settlements {
            let Settlement {
                tag,
                multiple,
                verdict,
                method,
            } = *settlement;
            let taken = outlet.settle(self.number, tag, multiple, |_, slot| {
                settled.push((slot.source, slot.unacked, verdict));
            });
            if taken.is_err() {
                failed = Some((tag, method));
                break;
            }
            let total = settled.len() as u64;
            let count = match verdict {
                Verdict::Ack => &mut acked,
                Verdict::Discard => &mut rejected,
                Verdict::Requeue | Verdict::Retry => &mut requeued,
            };
            *count += total - counted;
            counted = total;
        }
        let others_wait = outlet.has_line(self.number);
        drop(outlet);
        let stats = &self.state.stats;
        stats.acked.add(acked);
        stats.rejected.add(rejected);
        stats.requeued.add(requeued);
        self.effects.settled += self.shared.settled.len();
        self.release();
        if others_wait {
            self.share_room();
        }
        match failed {
            None => Ok(()),
            Some((tag, method)) => Err(self.fault_of(Refusal::UnknownDeliveryTag(tag), method)),
        }
    }

    /// Gives settled deliveries back to their queues, one lock for each run of one source.
    pub(crate) fn release(&mut self) {
        let settled = &mut self.shared.settled;
        for run in settled.chunk_by(|a, b| a.0 == b.0) {
            let source = run.first();
            let source = source.and_then(|(source, ..)| self.state.source(*source));
            if let Some(source) = source {
                release(source, run, self.effects);
            }
        }
        settled.clear();
    }

    /// `basic.recover`: everything unacknowledged on the channel goes back.
    pub(crate) fn recover(&mut self, requeue: bool, answer: bool) -> Result<(), Refusal> {
        if !requeue {
            return Err(Refusal::NotImplemented("requeue=false".into()));
        }
        let mut outlet = self.peer.outlet.lock();
        let settled = &mut self.shared.settled;
        outlet.take_all(self.number, |slot| {
            settled.push((slot.source, slot.unacked, Verdict::Requeue));
        });
        let requeued = settled.len() as u64;
        drop(outlet);
        self.state.stats.requeued.add(requeued);
        if answer {
            self.reply(BasicRecoverOk {});
        }
        self.release();
        self.share_room();
        Ok(())
    }

    /// Gives room that was made on a channel to the queues that wait for it, one delivery each, the
    /// one that has waited longest first.
    pub(crate) fn share_room(&mut self) {
        loop {
            let next = self.peer.outlet.lock().next_in_line(self.number);
            let Some(handle) = next else { return };
            handle.cell.pump(self.effects);
        }
    }
}

/// Gives a run of deliveries from one source back to its queue, unless that is gone, and pumps it.
fn release(source: &DeliverySource, run: &[(u32, Unacked, Verdict)], effects: &mut Effects) {
    let mut state = source.cell.lock();
    if source.cell.is_deleted() {
        return;
    }
    let mut pump = Pump::new(&source.cell, effects);
    give_back(&mut state, source, run, &mut pump);
    source.cell.run(&mut state, &mut pump);
}

/// Gives a run of deliveries from one source back to its queue, which is not deleted and wants to
/// be run then.
pub(crate) fn give_back(
    state: &mut QueueState,
    source: &DeliverySource,
    run: &[(u32, Unacked, Verdict)],
    pump: &mut Pump<'_>,
) {
    let (queue, unacked) = (&mut state.queue, |one: &(_, Unacked, _)| one.1);
    for part in run.chunk_by(|a, b| a.2 == b.2) {
        match part.first().map(|first| first.2) {
            Some(Verdict::Ack) => {
                queue.settle_all(source.consumer, part, unacked);
                pump.note_settled(part.iter().map(unacked));
            }
            Some(Verdict::Discard) => queue.reject_all(source.consumer, part, unacked, pump),
            Some(Verdict::Requeue) => {
                // That they were delivered stands in the journal already.
                queue.requeue_all(source.consumer, part, (unacked, false), pump);
            }
            Some(Verdict::Retry) => {
                queue.requeue_all(source.consumer, part, (unacked, true), pump);
                pump.note_failed(part.iter().map(unacked));
            }
            None => {}
        }
    }
}
