//! Publisher confirms of one channel: which sequence numbers are settled, and how.

use std::collections::VecDeque;

/// When a publish may be confirmed: an opaque, ordered mark of the store. 0 needs no waiting.
pub type Mark = u64;

/// One frame to the publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// `basic.ack`.
    Ack {
        /// Sequence number, or the highest one with `multiple`.
        tag: u64,
        /// Settles all before it too.
        multiple: bool,
    },
    /// `basic.nack`.
    Nack {
        /// Sequence number.
        tag: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum AckOrNack {
    Ack { up_to: u64, mark: Mark },
    Nack { tag: u64 },
}

/// Sequence numbers count every publish after `confirm.select`, also refused and returned ones.
///
/// Outcomes leave in the order of their publishes, so an ack with `multiple` never crosses an
/// outstanding or nacked number.
#[derive(Debug, Default)]
pub struct Confirms {
    published: u64,
    settled: u64,
    acked: u64,
    outcomes: VecDeque<AckOrNack>,
}

impl Confirms {
    /// Publishes not yet confirmed.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.published - self.settled
    }

    /// Publishes acked so far.
    #[must_use]
    pub const fn acked(&self) -> u64 {
        self.acked
    }

    /// Counts `count` accepted publishes, to be confirmed once the store has passed `mark`.
    #[inline]
    pub fn accepted(&mut self, count: u64, mark: Mark) {
        if count == 0 {
            return;
        }
        self.published += count;
        match self.outcomes.back_mut() {
            Some(AckOrNack::Ack { up_to, mark: last }) if *last == mark => *up_to = self.published,
            _ => self.outcomes.push_back(AckOrNack::Ack {
                up_to: self.published,
                mark,
            }),
        }
    }

    /// Counts a publish that was refused.
    pub fn refused(&mut self) {
        self.published += 1;
        self.outcomes.push_back(AckOrNack::Nack {
            tag: self.published,
        });
    }

    /// Gives publishes that were counted under the placeholder `unsubmitted` their mark.
    pub fn submitted(&mut self, unsubmitted: Mark, mark: Mark) {
        for outcome in self.outcomes.iter_mut().rev() {
            if let AckOrNack::Ack {
                mark: waits_for, ..
            } = outcome
            {
                if *waits_for == unsubmitted {
                    *waits_for = mark;
                } else if *waits_for != 0 {
                    // From an earlier turn; what needs no waiting may stand in between.
                    return;
                }
            }
        }
    }

    /// The mark the oldest outstanding publish waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<Mark> {
        match self.outcomes.front()? {
            AckOrNack::Ack { mark, .. } => Some(*mark),
            AckOrNack::Nack { .. } => Some(0),
        }
    }

    /// Emits what may be told now that the store has passed `durable`.
    #[inline]
    pub fn emit(&mut self, durable: Mark, mut confirm: impl FnMut(Confirm)) {
        let mut acked = self.settled;
        while let Some(outcome) = self.outcomes.front() {
            match *outcome {
                AckOrNack::Ack { up_to, mark } if mark <= durable => acked = up_to,
                AckOrNack::Ack { .. } => break,
                AckOrNack::Nack { tag } => {
                    self.ack_up_to(acked, &mut confirm);
                    confirm(Confirm::Nack { tag });
                    (self.settled, acked) = (tag, tag);
                }
            }
            self.outcomes.pop_front();
        }
        self.ack_up_to(acked, &mut confirm);
    }

    fn ack_up_to(&mut self, tag: u64, confirm: &mut impl FnMut(Confirm)) {
        if tag > self.settled {
            confirm(Confirm::Ack {
                tag,
                multiple: tag > self.settled + 1,
            });
            self.acked += tag - self.settled;
            self.settled = tag;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emit(confirms: &mut Confirms, durable: Mark) -> Vec<Confirm> {
        let mut out = Vec::new();
        confirms.emit(durable, |confirm| out.push(confirm));
        out
    }

    #[test]
    fn acks_coalesce_but_never_cross_a_nack() {
        let mut confirms = Confirms::default();
        confirms.accepted(3, 0);
        confirms.refused();
        confirms.accepted(1, 0);
        confirms.refused();
        confirms.accepted(2, 0);
        assert_eq!(
            emit(&mut confirms, 0),
            [
                Confirm::Ack {
                    tag: 3,
                    multiple: true
                },
                Confirm::Nack { tag: 4 },
                Confirm::Ack {
                    tag: 5,
                    multiple: false
                },
                Confirm::Nack { tag: 6 },
                Confirm::Ack {
                    tag: 8,
                    multiple: true
                },
            ]
        );
        assert_eq!(emit(&mut confirms, 0), []);
        assert_eq!((confirms.outstanding(), confirms.acked()), (0, 6));
    }

    #[test]
    fn publishes_before_one_that_needs_no_waiting_get_their_mark_too() {
        const UNSUBMITTED: Mark = u64::MAX;
        let mut confirms = Confirms::default();
        confirms.accepted(1, 3);
        confirms.accepted(1, UNSUBMITTED);
        confirms.accepted(1, 0);
        confirms.submitted(UNSUBMITTED, 7);
        let ack = |tag, multiple| Confirm::Ack { tag, multiple };
        assert_eq!(emit(&mut confirms, 3), [ack(1, false)]);
        assert_eq!(emit(&mut confirms, 7), [ack(3, true)]);
    }

    #[test]
    fn nothing_after_an_outstanding_publish_is_told() {
        let mut confirms = Confirms::default();
        confirms.accepted(2, 0);
        confirms.accepted(2, 7);
        confirms.refused();
        confirms.accepted(1, 0);
        assert_eq!(
            emit(&mut confirms, 6),
            [Confirm::Ack {
                tag: 2,
                multiple: true
            }]
        );
        assert_eq!((confirms.waits_for(), confirms.outstanding()), (Some(7), 4));
        assert_eq!(
            emit(&mut confirms, 7),
            [
                Confirm::Ack {
                    tag: 4,
                    multiple: true
                },
                Confirm::Nack { tag: 5 },
                Confirm::Ack {
                    tag: 6,
                    multiple: false
                },
            ]
        );
    }
}
