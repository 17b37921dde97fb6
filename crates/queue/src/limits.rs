//! What bounds a queue, and what happens at the bound.

/// What a full queue does with the next message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest ready messages make room (`drop-head`).
    #[default]
    DropHead,
    /// The publish is refused (`reject-publish`).
    RejectPublish,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The queue is at its own limit.
    Length,
    /// The queue holds its share of the memory for messages.
    Memory,
    /// The disk takes no persistent messages.
    Disk,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Length, Self::Memory, Self::Disk];

    /// Its name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// The bounds of one queue; `u64::MAX` means none.
///
/// `ready_*` are RabbitMQ's `x-max-length` and `x-max-length-bytes`: unacknowledged messages do
/// not count. `total_*` are the broker's own defaults: ready plus unacknowledged, always refusing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most ready messages.
    pub ready_max: u64,
    /// Most body bytes of ready messages.
    pub ready_bytes_max: u64,
    /// Most messages, ready or unacknowledged.
    pub total_max: u64,
    /// Most body bytes of messages, ready or unacknowledged.
    pub total_bytes_max: u64,
    /// What happens at `ready_*`.
    pub overflow: Overflow,
}

impl Limits {
    /// No bound at all.
    pub const NONE: Self = Self {
        ready_max: u64::MAX,
        ready_bytes_max: u64::MAX,
        total_max: u64::MAX,
        total_bytes_max: u64::MAX,
        overflow: Overflow::DropHead,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}
