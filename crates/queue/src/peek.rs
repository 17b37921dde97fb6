//! Looks at ready messages where they are; nothing about the queue changes.

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_record::{Blob, Record};

use crate::queue::Queue;

impl<C> Queue<C> {
    /// Shows the ready messages with sequence numbers from `from` on, in order, until `show`
    /// breaks. Chunks before the first of them are stepped over whole.
    pub fn peek(
        &self,
        from: u64,
        mut show: impl FnMut(u64, &Record<'_>, Option<&Arc<Blob>>) -> ControlFlow<()>,
    ) {
        if self.requeued_from(from, &mut show).is_break() {
            return;
        }
        let before = |record: &Record<'_>| record.seq < from;
        self.chunks()
            .unread_from(before, |record, blob| show(record.seq, record, blob));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Consumer, ConsumerKey, Delivery, Gone, Limits, Message, MessageBody, Offer, Sink};

    struct Nowhere;

    impl Sink<()> for Nowhere {
        fn offer(&mut self, _: &Consumer<()>, _: ConsumerKey, _: &Delivery<'_>) -> Offer {
            Offer::Refused
        }

        fn gone(&mut self, _: u64, _: Gone) {}
    }

    fn seqs(queue: &Queue<()>, from: u64, max: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        queue.peek(from, |seq, record, blob| {
            assert_eq!(record.body.len(), 8);
            assert!(blob.is_none());
            seen.push(seq);
            if seen.len() == max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        seen
    }

    #[test]
    fn ready_messages_are_seen_in_order_and_stay() {
        let mut queue = Queue::<()>::new(Limits::NONE, false);
        for number in 0..20_000_u64 {
            let message = Message {
                route: b"\0\x01k",
                header: &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0],
                body: MessageBody::Inline(&number.to_be_bytes()),
                expiry_ms: None,
                persistent: false,
                deliveries: 0,
            };
            queue.push(&message, &mut Nowhere).unwrap();
        }
        let mut taken = Vec::new();
        for _ in 0..100 {
            queue.get(false, &mut Nowhere, |delivery, _| {
                taken.push(delivery.unacked)
            });
        }
        assert_eq!(seqs(&queue, 0, 2), [100, 101]);
        queue.requeue(None, &taken[7]);
        queue.requeue(None, &taken[50]);
        assert_eq!(seqs(&queue, 0, 4), [7, 50, 100, 101]);
        assert_eq!(seqs(&queue, 8, 2), [50, 100]);
        assert_eq!(seqs(&queue, 15_000, 3), [15_000, 15_001, 15_002]);
        assert_eq!(seqs(&queue, 19_999, 3), [19_999]);
        assert_eq!(seqs(&queue, 20_000, 3), []);
        assert_eq!(queue.ready(), 19_902);
    }
}
