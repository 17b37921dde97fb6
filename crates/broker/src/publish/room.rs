//! Room for messages in memory: who may take how much of it.
//!
//! Nobody is bounded until four fifths of `limits.resident_bytes` are taken. From then on a queue
//! that holds more than a 32nd of what is free gets nothing more, and all others go on: a hundred
//! queues that take all they may, one after the other, leave a twentieth of the last fifth to
//! whoever comes next. The share is derived when it is asked for and stored nowhere. It is how
//! network switches divide the memory their ports share ("dynamic thresholds").
//!
//! A connection that publishes to a queue above its share is blocked, as by an alarm: what it has
//! to publish waits unread. In confirm mode that lasts two seconds, then the queue refuses, as a
//! nack loses nothing and the client may be the one who has to make room. HTTP publishes and
//! commits are refused at once.
//!
//! That is so where the disk takes nothing. Else queues above their own shares are written to the
//! disk: then nobody is refused, and who can wait does for as long as that goes on.

use leveret_queue::{Message, Queue, Rank, Reason, Sink};

use crate::broker::Broker;
use crate::queue::cell::QueueCell;

/// The last part in so many of the memory for messages is shared out.
const LAST_PART: u64 = 5;
/// A queue may hold one part in so many of what is free of it.
const SHARE_PART: u64 = 32;
/// A queue has to fall to so many hundredths of its share, or all queues to one part in so many
/// less than what is not shared out, before its publishers go on: they are not told of both by
/// turns.
const RESUME_PERCENT: u64 = 75;
const RESUME_PART: u64 = 16;
/// Beyond the bound by one part in so many, no queue takes anything.
const OVERSHOOT_PART: u64 = 8;
/// What is known of the room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is plenty: only the queue's own limits count.
    Plenty,
    /// Something is scarce.
    Scarce {
        /// What a queue may hold in memory; none may take more if there is none.
        share: Option<u64>,
        /// The disk takes no persistent messages.
        disk_full: bool,
    },
    /// It was reserved.
    Reserved,
}

impl Room {
    /// What is known before any queue is asked.
    #[inline]
    pub(crate) fn of(broker: &Broker) -> Self {
        let (resident, max) = (
            broker.memory.resident_bytes(),
            broker.config.resident_bytes_max,
        );
        let disk_full = !broker.store.admits_messages();
        if resident <= scarce_from(max) && !disk_full {
            return Self::Plenty;
        }
        Self::Scarce {
            share: share(resident, max),
            disk_full,
        }
    }

    /// The same for those who cannot wait: where the disk makes room, a share is nothing to refuse
    /// them for.
    pub(crate) fn of_impatient(broker: &Broker) -> Self {
        match Self::of(broker) {
            Self::Scarce {
                share: Some(_),
                disk_full: false,
            } if broker.pager.makes_room() => Self::Plenty,
            Self::Scarce {
                share: Some(_),
                disk_full,
            } if broker.pager.makes_room() => Self::Scarce {
                share: Some(u64::MAX),
                disk_full,
            },
            room => room,
        }
    }

    /// The same, but the disk takes no persistent messages.
    pub(crate) const fn without_disk(self) -> Self {
        let share = match self {
            Self::Plenty => Some(u64::MAX),
            Self::Scarce { share, .. } => share,
            Self::Reserved => return self,
        };
        Self::Scarce {
            share,
            disk_full: true,
        }
    }

    /// The same, but every queue has room in memory.
    pub(crate) const fn without_shares(self) -> Self {
        match self {
            Self::Scarce { disk_full, .. } => Self::Scarce {
                share: Some(u64::MAX),
                disk_full,
            },
            other => other,
        }
    }

    /// Whether the memory for messages has no room for more in this queue.
    pub(crate) fn is_above_share<C>(self, queue: &Queue<C>) -> bool {
        match self {
            Self::Scarce { share, .. } => share.is_none_or(|share| queue.held_bytes() > share),
            Self::Plenty | Self::Reserved => false,
        }
    }

    /// Why a queue takes none of its messages, or no persistent ones.
    pub(crate) fn refuses<C>(self, queue: &Queue<C>, persistent: bool) -> Option<Reason> {
        if self.is_above_share(queue) {
            return Some(Reason::Memory);
        }
        let disk_full = matches!(
            self,
            Self::Scarce {
                disk_full: true,
                ..
            }
        );
        (disk_full && persistent).then_some(Reason::Disk)
    }
}

impl Room {
    /// Appends a message to a queue.
    #[expect(clippy::inline_always, reason = "a call costs as much as it does")]
    #[inline(always)]
    pub(crate) fn push<C>(
        self,
        queue: &mut Queue<C>,
        message: &Message<'_>,
        sink: &mut impl Sink<C>,
    ) -> Result<Rank, Reason> {
        match self {
            Self::Plenty => {}
            Self::Reserved => return Ok(queue.push_reserved(message)),
            Self::Scarce { .. } => {
                if let Some(reason) = self.refuses(queue, message.persistent) {
                    queue.refuse(1);
                    return Err(reason);
                }
            }
        }
        queue.push(message, sink).map_err(|_| Reason::Length)
    }
}

const fn scarce_from(max: u64) -> u64 {
    max - max / LAST_PART
}

/// What a queue may hold; nothing is taken any more if it is none.
fn share(resident: u64, max: u64) -> Option<u64> {
    if resident <= scarce_from(max) {
        return Some(u64::MAX);
    }
    let most = max.saturating_add(max / OVERSHOOT_PART);
    (resident <= most).then(|| max.saturating_sub(resident) / SHARE_PART)
}

impl Broker {
    pub(crate) fn has_room_again(&self, cell: &QueueCell) -> bool {
        let (resident, max) = (self.memory.resident_bytes(), self.config.resident_bytes_max);
        let plenty = scarce_from(max) - scarce_from(max) / RESUME_PART;
        if cell.is_deleted() || resident <= plenty {
            return true;
        }
        let held = cell.lock().queue.held_bytes();
        share(resident, max).is_some_and(|share| held <= share / 100 * RESUME_PERCENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_take_all_they_may_one_after_the_other_leave_room_for_the_next() {
        const MAX: u64 = 1 << 32;
        let mut resident = scarce_from(MAX) + 1;
        for _ in 0..100 {
            let mut held = 0;
            while share(resident, MAX).is_some_and(|share| held <= share) {
                held += 4096;
                resident += 4096;
            }
        }
        assert!(MAX - resident >= MAX / 5 / 25, "{}", MAX - resident);
        assert!(share(resident, MAX).unwrap() >= 1 << 20);
        assert_eq!(share(MAX, MAX), Some(0), "an empty queue takes one");
        assert_eq!(share(MAX + MAX / 4, MAX), None);
        assert_eq!(share(MAX / 2, MAX), Some(u64::MAX));
    }
}
