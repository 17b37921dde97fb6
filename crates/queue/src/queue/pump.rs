//! From the queue to its consumers.

use super::{Delivery, Gone, Offer, Queue, Sink, unacked};
use crate::consumers::Turn;

impl<C> Queue<C> {
    /// Moves ready messages to consumers with credit, one a turn, until either runs out.
    #[inline(never)]
    pub fn pump(&mut self, sink: &mut impl Sink<C>) {
        if self.ready == 0 || !self.consumers.any_ready() {
            return;
        }
        let mut turn = self.consumers.turn();
        while self.ready > 0 && self.pump_some(&mut turn, sink) {}
    }

    /// Moves a run of messages to a consumer that has no rival, else one message; `false` when
    /// nobody takes any.
    #[inline]
    fn pump_some(&mut self, turn: &mut Turn, sink: &mut impl Sink<C>) -> bool {
        if !self.requeued.is_empty() {
            return self.pump_one(turn, sink);
        }
        let Some((key, consumer)) = self.consumers.alone(*turn) else {
            return self.pump_one(turn, sink);
        };
        let no_ack = consumer.asked.no_ack;
        let credit = consumer.credit();
        let mut answer = Offer::Taken;
        let handed = self
            .chunks
            .hand_out(credit, no_ack, |position, record, blob| {
                let unacked = unacked(record.seq, position, record);
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
                    sink.gone(unacked.seq, Gone::Sent);
                }
                true
            });
        self.consumers.took(*turn, key, handed.messages);
        self.left(u64::from(handed.messages), handed.bytes);
        self.counters.redelivered += u64::from(handed.redelivered);
        self.sent(no_ack, u64::from(handed.messages), handed.bytes);
        match answer {
            Offer::Taken => {}
            Offer::Refused => self.consumers.refused(turn, key),
            Offer::Gone => self.consumers.left(key),
        }
        answer != Offer::Taken || handed.messages > 0
    }

    #[inline(never)]
    fn pump_one(&mut self, turn: &mut Turn, sink: &mut impl Sink<C>) -> bool {
        let Some(position) = self.head() else {
            return false;
        };
        let Some((record, blob, next)) = self.chunks.record(position) else {
            return false;
        };
        let unacked = self.unacked_of(position, &record);
        let (key, no_ack) = loop {
            let Some((key, consumer)) = self.consumers.next(turn) else {
                return false;
            };
            let delivery = Delivery {
                record: &record,
                blob,
                unacked,
            };
            match sink.offer(consumer, key, &delivery) {
                Offer::Taken => break (key, consumer.asked.no_ack),
                Offer::Refused => self.consumers.refused(turn, key),
                Offer::Gone => self.consumers.left(key),
            }
        };
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
