//! Limits, and room kept for messages that come together or not at all.

use crate::limits::{Limits, Overflow, Settings};
use crate::message::Message;
use crate::queue::{Queue, Rank};

/// Room kept for transactions, and the limits without it.
#[derive(Debug)]
pub(crate) struct Reserved {
    messages: u64,
    bytes: u64,
    limits: Limits,
}

impl Reserved {
    /// The limits for everybody else.
    const fn left(&self) -> Limits {
        let mut limits = self.limits;
        limits.total_max = limits.total_max.saturating_sub(self.messages);
        limits.total_bytes_max = limits.total_bytes_max.saturating_sub(self.bytes);
        if matches!(limits.overflow, Overflow::RejectPublish) {
            limits.ready_max = limits.ready_max.saturating_sub(self.messages);
            limits.ready_bytes_max = limits.ready_bytes_max.saturating_sub(self.bytes);
        }
        limits
    }
}

impl<C> Queue<C> {
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
        let limits = &self.settings.limits;
        let fits = |have: u64, more: u64, max: u64| have.saturating_add(more) <= max;
        let total = fits(
            self.ready + self.unacked + self.stuck(),
            messages,
            limits.total_max,
        ) && fits(
            self.ready_bytes + self.unacked_bytes + self.stuck_bytes(),
            bytes,
            limits.total_bytes_max,
        );
        let ready = limits.overflow == Overflow::DropHead
            || (fits(self.ready + self.stuck(), messages, limits.ready_max)
                && fits(
                    self.ready_bytes + self.stuck_bytes(),
                    bytes,
                    limits.ready_bytes_max,
                ));
        if !total || !ready {
            self.counters.refused += messages;
            return false;
        }
        let reserved = self.reserved.get_or_insert_with(|| {
            Box::new(Reserved {
                messages: 0,
                bytes: 0,
                limits: self.settings.limits,
            })
        });
        reserved.messages += messages;
        reserved.bytes += bytes;
        self.settings.limits = reserved.left();
        true
    }

    /// Gives up room that [`Queue::reserve`] has kept.
    pub fn release_reserved(&mut self, messages: u64, bytes: u64) {
        let Some(reserved) = &mut self.reserved else {
            return;
        };
        reserved.messages = reserved.messages.saturating_sub(messages);
        reserved.bytes = reserved.bytes.saturating_sub(bytes);
        self.settings.limits = reserved.left();
        if reserved.messages == 0 {
            self.settings.limits = reserved.limits;
            self.reserved = None;
        }
    }

    /// The same as [`Queue::push`] for a message whose room was reserved.
    pub fn push_reserved(&mut self, message: &Message<'_>) -> Rank {
        self.release_reserved(1, message.body_len());
        self.accept(message)
    }
}
