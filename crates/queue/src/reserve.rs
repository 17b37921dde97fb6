//! Limits, and the room that is kept from those who publish: for messages that come together or
//! not at all, and for dead ones that cannot be moved on.

use crate::limits::{Limits, Overflow, Settings};
use crate::message::Message;
use crate::queue::{Queue, Rank};

/// So many messages with so many bytes of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    pub(crate) const NONE: Self = Self {
        messages: 0,
        bytes: 0,
    };
}

/// Room kept from those who publish, and the limits without it.
#[derive(Debug)]
pub(crate) struct Reserved {
    /// For transactions.
    to_come: Amount,
    /// Of messages that died and cannot be moved on for now.
    stuck: Amount,
    limits: Limits,
}

impl Reserved {
    /// The limits for everybody else.
    const fn left(&self) -> Limits {
        let mut limits = self.limits;
        let messages = self.to_come.messages.saturating_add(self.stuck.messages);
        let bytes = self.to_come.bytes.saturating_add(self.stuck.bytes);
        limits.total_max = limits.total_max.saturating_sub(messages);
        limits.total_bytes_max = limits.total_bytes_max.saturating_sub(bytes);
        if matches!(limits.overflow, Overflow::RejectPublish) {
            limits.ready_max = limits.ready_max.saturating_sub(messages);
            limits.ready_bytes_max = limits.ready_bytes_max.saturating_sub(bytes);
        }
        limits
    }
}

/// How far a limit of a queue is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// What counts towards it, with what room is kept for.
    pub used: u64,
    /// How far it goes.
    pub limit: u64,
    /// They are bytes of bodies, not messages.
    pub in_bytes: bool,
}

impl Filled {
    const fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

impl<C> Queue<C> {
    /// The limit that refuses: one of messages that are as many as may be, else the one of bytes
    /// with the least left.
    #[must_use]
    pub fn filled(&self) -> Filled {
        let mut limits = self.settings().limits;
        if limits.overflow == Overflow::DropHead {
            // These drop, and refuse nothing.
            (limits.ready_max, limits.ready_bytes_max) = (u64::MAX, u64::MAX);
        }
        let kept = self.reserved.as_ref().map_or(Amount::NONE, |reserved| {
            let (to_come, stuck) = (reserved.to_come, reserved.stuck);
            Amount {
                messages: to_come.messages + stuck.messages,
                bytes: to_come.bytes + stuck.bytes,
            }
        });
        let of = |in_bytes, used, limit| Filled {
            used,
            limit,
            in_bytes,
        };
        let (messages, bytes) = (self.ready + kept.messages, self.ready_bytes + kept.bytes);
        let lengths = [
            of(false, messages, limits.ready_max),
            of(false, messages + self.unacked, limits.total_max),
        ];
        let sizes = [
            of(true, bytes, limits.ready_bytes_max),
            of(true, bytes + self.unacked_bytes, limits.total_bytes_max),
        ];
        let full = lengths.into_iter().find(|filled| filled.left() == 0);
        full.unwrap_or_else(|| {
            let [ready, all] = sizes;
            std::cmp::min_by_key(ready, all, Filled::left)
        })
    }

    /// Changes the settings, for what is there as well; the caller runs the queue afterwards.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        self.is_mortal_now();
        if let Some(reserved) = &mut self.reserved {
            reserved.limits = settings.limits;
            self.settings.limits = reserved.left();
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let limits = self
            .reserved
            .as_ref()
            .map_or(self.settings.limits, |reserved| reserved.limits);
        Settings {
            limits,
            ..self.settings
        }
    }

    /// Keeps room for messages to come, each with [`Queue::push_reserved`]; others find the queue
    /// that much smaller. `false`, and nothing is kept, when there is not so much.
    pub fn reserve(&mut self, messages: u64, bytes: u64) -> bool {
        if !self.has_room_for(messages, bytes) {
            self.counters.refused += messages;
            return false;
        }
        self.change_reserved(|reserved| {
            reserved.to_come.messages += messages;
            reserved.to_come.bytes += bytes;
        });
        true
    }

    /// Gives up room that [`Queue::reserve`] has kept.
    pub fn release_reserved(&mut self, messages: u64, bytes: u64) {
        self.change_reserved(|reserved| {
            let to_come = &mut reserved.to_come;
            to_come.messages = to_come.messages.saturating_sub(messages);
            to_come.bytes = to_come.bytes.saturating_sub(bytes);
        });
    }

    /// Dead messages that cannot be moved on take so much of the queue from now on.
    pub(crate) fn set_stuck(&mut self, stuck: Amount) {
        if self.stuck_room() != stuck {
            self.change_reserved(|reserved| reserved.stuck = stuck);
        }
    }

    pub(crate) fn stuck_room(&self) -> Amount {
        let reserved = self.reserved.as_ref();
        reserved.map_or(Amount::NONE, |reserved| reserved.stuck)
    }

    fn change_reserved(&mut self, change: impl FnOnce(&mut Reserved)) {
        let limits = self.settings.limits;
        let reserved = self.reserved.get_or_insert_with(|| {
            Box::new(Reserved {
                to_come: Amount::NONE,
                stuck: Amount::NONE,
                limits,
            })
        });
        change(reserved);
        self.settings.limits = reserved.left();
        if (reserved.to_come, reserved.stuck) == (Amount::NONE, Amount::NONE) {
            self.settings.limits = reserved.limits;
            self.reserved = None;
        }
    }

    /// The same as [`Queue::push`] for a message whose room was reserved.
    pub fn push_reserved(&mut self, message: &Message<'_>) -> Rank {
        let bytes = message.body_len();
        self.release_reserved(1, bytes);
        self.accept(message, bytes)
    }
}
