//! Acknowledgements, rejections, and everything else that brings deliveries back.

use std::sync::Arc;

use leveret_codec::BasicRecoverOk;
use leveret_queue::Unacked;
use leveret_session::{Fault, Settlement, Slot, Verdict};

use crate::cell::Source;
use crate::connection::Core;
use crate::pump::{Pump, Work};
use crate::refusal::Refusal;

impl Core {
    /// Settles deliveries of one channel; an unknown tag closes it after those before it.
    pub(crate) fn settle(&mut self, channel: u16, settlements: &[Settlement]) -> Result<(), Fault> {
        let mut failed = None;
        let mut outlet = self.peer.outlet.lock();
        let settled = &mut self.settled;
        let (mut acked, mut rejected, mut requeued) = (0, 0, 0);
        let mut counted = settled.len() as u64;
        for settlement in settlements {
            let Settlement {
                tag,
                multiple,
                verdict,
                method,
            } = *settlement;
            let taken = outlet.settle(channel, tag, multiple, |slot| {
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
                Verdict::Requeue => &mut requeued,
            };
            *count += total - counted;
            counted = total;
        }
        let starved = outlet
            .has_starved()
            .then(|| self.work.resume_starved(&mut outlet));
        drop(outlet);
        if let Some(state) = self.channel(channel) {
            state.stats.acked.add(acked);
            state.stats.rejected.add(rejected);
            state.stats.requeued.add(requeued);
        }
        self.release(channel);
        if let Some(starved) = starved {
            self.work.resume(starved);
        }
        match failed {
            None => Ok(()),
            Some((tag, method)) => {
                let vhost = self.vhost.as_ref().map_or("", |vhost| &*vhost.name);
                Err(Refusal::UnknownDeliveryTag(tag).fault(channel, vhost, method))
            }
        }
    }

    /// Gives settled deliveries back to their queues, one lock for each run of one source.
    fn release(&mut self, channel: u16) {
        let Self {
            settled,
            channels,
            work,
            ..
        } = self;
        let state = channels
            .get(usize::from(channel))
            .and_then(Option::as_deref);
        if let Some(state) = state {
            for run in settled.chunk_by(|a, b| a.0 == b.0) {
                let source = run.first().and_then(|(source, ..)| state.source(*source));
                if let Some(source) = source {
                    release(source, run, work);
                }
            }
        }
        settled.clear();
    }

    /// Requeues deliveries of a channel that is going away.
    pub(crate) fn requeue_all(&mut self, sources: &[Source], slots: Vec<Slot>) {
        let mut settled: Vec<_> = slots
            .into_iter()
            .map(|slot| (slot.source, slot.unacked, Verdict::Requeue))
            .collect();
        // By source, so that each queue is pumped only when all it gets back is there.
        settled.sort_by_key(|(source, unacked, _)| (*source, unacked.seq));
        for run in settled.chunk_by(|a, b| a.0 == b.0) {
            let source = run
                .first()
                .and_then(|(source, ..)| sources.get(*source as usize));
            if let Some(source) = source {
                release(source, run, &mut self.work);
            }
        }
    }

    /// `basic.recover`: everything unacknowledged on the channel goes back.
    pub(crate) fn recover(
        &mut self,
        channel: u16,
        requeue: bool,
        answer: bool,
    ) -> Result<(), Refusal> {
        if !requeue {
            return Err(Refusal::NotImplemented("requeue=false".into()));
        }
        let mut outlet = self.peer.outlet.lock();
        let settled = &mut self.settled;
        // Tag 0 with multiple is never an error.
        let _ = outlet.settle(channel, 0, true, |slot| {
            settled.push((slot.source, slot.unacked, Verdict::Requeue));
        });
        let requeued = settled.len() as u64;
        let starved = self.work.resume_starved(&mut outlet);
        drop(outlet);
        if let Some(state) = self.channel(channel) {
            state.stats.requeued.add(requeued);
        }
        if answer {
            self.reply(channel, BasicRecoverOk {});
        }
        self.release(channel);
        self.work.resume(starved);
        Ok(())
    }
}

/// Gives a run of deliveries from one source back to its queue, and pumps it.
fn release(source: &Source, run: &[(u32, Unacked, Verdict)], work: &mut Work) {
    let cell = Arc::clone(&source.cell);
    let mut state = cell.lock();
    if cell.is_deleted() {
        return;
    }
    for part in run.chunk_by(|a, b| a.2 == b.2) {
        let is = |verdict| part.first().is_some_and(|first| first.2 == verdict);
        if is(Verdict::Requeue) {
            for (_, unacked, _) in part {
                let deliveries = state.queue.requeue(source.consumer, unacked);
                if let (Some(lane), true) = (cell.lane, unacked.persistent) {
                    work.journal.returned(lane, unacked.seq, deliveries);
                }
            }
            continue;
        }
        let (queue, unacked) = (&mut state.queue, |one: &(_, Unacked, _)| one.1);
        if is(Verdict::Ack) {
            queue.settle_all(source.consumer, part, unacked);
        } else {
            queue.reject_all(source.consumer, part, unacked);
        }
        if let Some(lane) = cell.lane {
            let persistent = part.iter().filter(|(_, unacked, _)| unacked.persistent);
            persistent.for_each(|(_, unacked, _)| work.journal.settle(lane, unacked.seq));
        }
    }
    state.queue.pump(&mut Pump::new(&cell, work));
}
