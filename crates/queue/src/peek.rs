//! Looks at ready messages where they are; nothing about the queue changes.

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_record::{Attempts, Blob, Record, RunPlace};

use crate::chunk::LoadedPage;
use crate::queue::{Queue, Rank};

/// A ready message where it is stored.
#[derive(Clone, Copy, Debug)]
pub struct PeekedMessage<'a> {
    /// Where it stands in its queue.
    pub rank: Rank,
    /// How often it was tried.
    pub attempts: Attempts,
    /// The record; its body is in `blob` when it is a shared one.
    pub record: &'a Record<'a>,
    /// The shared body, if the record names one.
    pub blob: Option<&'a Arc<Blob>>,
}

impl<C> Queue<C> {
    /// Shows the ready messages from a rank on, in order, until `show` breaks. Chunks before the
    /// first of them are stepped over whole.
    ///
    /// Of a chunk on the disk `copy` may be what was read. Gives the place of the first one that is
    /// neither that nor in memory: what is behind it was not shown.
    pub fn peek(
        &self,
        from: Rank,
        copy: Option<&LoadedPage>,
        mut show: impl FnMut(&PeekedMessage<'_>) -> ControlFlow<()>,
    ) -> Option<RunPlace> {
        let levels = self
            .lanes()
            .iter()
            .filter(|(level, _)| *level <= from.level);
        for (level, lane) in levels {
            let from = if level == from.level { from.seq } else { 0 };
            let at = |seq| Rank { level, seq };
            let mut shown = lane.requeued_from(from, copy, |run, record, blob| {
                show(&PeekedMessage {
                    rank: at(run.first),
                    attempts: run.attempts,
                    record,
                    blob,
                })
            });
            if shown.is_continue() {
                shown = lane.chunks.unread_from(from, copy, |record, blob| {
                    show(&PeekedMessage {
                        rank: at(record.seq),
                        attempts: record.attempts,
                        record,
                        blob,
                    })
                });
            }
            if let ControlFlow::Break(place) = shown {
                return place;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use leveret_record::Memory;

    use super::*;
    use crate::{
        Consumer, ConsumerKey, Delivery, Message, MessageBody, Offer, Settings, Shape, Sink,
    };

    struct Nowhere;

    impl Sink<()> for Nowhere {
        fn offer(&mut self, _: &Consumer<()>, _: ConsumerKey, _: &Delivery<'_>) -> Offer {
            Offer::Refused
        }

        fn settled(&mut self, _: Rank) {}
    }

    fn seqs(queue: &Queue<()>, from: u64, max: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        let from = Rank {
            level: 0,
            seq: from,
        };
        queue.peek(from, None, |one| {
            assert_eq!(one.record.body.len(), 8);
            assert!(one.blob.is_none());
            seen.push(one.rank.seq);
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
        let mut queue = Queue::<()>::new(Settings::NONE, Shape::PLAIN, Memory::default());
        for number in 0..20_000_u64 {
            let message = Message {
                route: b"\0\x01k",
                header: &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0],
                body: MessageBody::Inline(&number.to_be_bytes()),
                entered_ms: 0,
                expiration_ms: None,
                priority: 0,
                persistent: false,
                deaths: false,
                attempts: Attempts::NONE,
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
        queue.requeue(None, &taken[7], true, &mut Nowhere);
        queue.requeue(None, &taken[50], false, &mut Nowhere);
        assert_eq!(seqs(&queue, 0, 4), [7, 50, 100, 101]);
        assert_eq!(seqs(&queue, 8, 2), [50, 100]);
        assert_eq!(seqs(&queue, 15_000, 3), [15_000, 15_001, 15_002]);
        assert_eq!(seqs(&queue, 19_999, 3), [19_999]);
        assert_eq!(seqs(&queue, 20_000, 3), []);
        assert_eq!(queue.ready(), 19_902);
    }
}
