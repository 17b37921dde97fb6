//! From the queue to its consumers.

use super::{Delivery, Offer, Queue, Rank, Sink};
use crate::chunk::unacked;
use crate::consumers::PumpTurn;

impl<C> Queue<C> {
    /// Moves ready messages to consumers with credit, one a turn, until either runs out.
    #[inline(never)]
    pub(super) fn pump(&mut self, now_ms: u64, sink: &mut impl Sink<C>) {
        if self.ready == 0 || self.behind || !self.consumers.any_ready() {
            return;
        }
        let mut turn = self.consumers.turn();
        while self.ready > 0 && self.pump_some(now_ms, &mut turn, sink) {}
    }

    /// Moves a run of messages to a consumer that has no rival, else one message; `false` when
    /// nobody takes any.
    #[inline]
    fn pump_some(&mut self, now_ms: u64, turn: &mut PumpTurn, sink: &mut impl Sink<C>) -> bool {
        let level = self.lanes.top();
        let lane = self.lanes.at_mut(level);
        if lane.own_ms <= now_ms || !lane.requeued.is_empty() || lane.held_from != u64::MAX {
            return self.pump_closely(level, now_ms, turn, sink);
        }
        let Some((key, consumer)) = self.consumers.alone(*turn) else {
            return self.pump_one(level, turn, sink);
        };
        let no_ack = consumer.asked.no_ack;
        let credit = consumer.credit();
        let mut answer = Offer::Taken;
        let handed = lane
            .chunks
            .hand_out(credit, no_ack, |position, record, blob| {
                let unacked = unacked(level, record.seq, position, record);
                let delivery = Delivery {
                    record,
                    blob,
                    unacked,
                };
                answer = sink.offer(consumer, key, &delivery);
                if answer != Offer::Taken {
                    return false;
                }
                if no_ack && record.persistent {
                    let seq = unacked.seq;
                    sink.settled(Rank { level, seq });
                }
                true
            });
        self.consumers.took(*turn, key, handed.messages);
        self.uncount_ready(level, u64::from(handed.messages), handed.bytes);
        self.counters.redelivered += u64::from(handed.redelivered);
        self.sent(no_ack, u64::from(handed.messages), handed.bytes);
        match answer {
            Offer::Taken => {}
            Offer::Refused => self.consumers.refused(turn, key),
            Offer::Gone => self.consumers.retire(key),
        }
        answer != Offer::Taken || handed.messages > 0
    }

    /// Looks at each message: some behind others may be past their own expiration.
    fn pump_closely(
        &mut self,
        level: u8,
        now_ms: u64,
        turn: &mut PumpTurn,
        sink: &mut impl Sink<C>,
    ) -> bool {
        if self.lanes.at(level).own_ms <= now_ms {
            const EXPIRE_MAX: usize = 256;
            if self.expire_heads(level, (now_ms, false), EXPIRE_MAX, sink) == 0 {
                // More of them than are looked through at once: they may not be handed out.
                (self.behind, self.stale) = (true, true);
                return false;
            }
            if self.lanes.at(level).ready == 0 {
                return true;
            }
        }
        self.pump_one(level, turn, sink)
    }

    #[inline(never)]
    fn pump_one(&mut self, level: u8, turn: &mut PumpTurn, sink: &mut impl Sink<C>) -> bool {
        let lane = self.lanes.at_mut(level);
        let Some((found, unacked)) = lane.head().and_then(|head| lane.look(level, head)) else {
            return false;
        };
        let delivery = Delivery {
            record: &found.record,
            blob: found.blob,
            unacked,
        };
        let (key, no_ack) = loop {
            let Some((key, consumer)) = self.consumers.next(turn) else {
                return false;
            };
            match sink.offer(consumer, key, &delivery) {
                Offer::Taken => break (key, consumer.asked.no_ack),
                Offer::Refused => self.consumers.refused(turn, key),
                Offer::Gone => self.consumers.retire(key),
            }
        };
        let next = found.next;
        self.consumers.took(*turn, key, 1);
        self.leave(&unacked, next);
        self.sent(no_ack, 1, u64::from(unacked.body_len));
        if no_ack {
            self.settle_sent(&unacked, sink);
        }
        true
    }

    /// Counts what consumers were sent.
    #[inline]
    const fn sent(&mut self, no_ack: bool, messages: u64, bytes: u64) {
        if no_ack {
            self.counters.delivered_no_ack += messages;
        } else {
            self.counters.delivered += messages;
            self.unacked += messages;
            self.unacked_bytes += bytes;
        }
    }
}
