//! What bounds a queue and its messages, and what happens at the bound.

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

/// What a queue is for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Serves one consumer only.
    pub single_active: bool,
    /// How many levels of priority it has, 1 to 256: a message of a higher one is served first.
    pub levels: u16,
}

impl Shape {
    /// No priorities, any number of consumers.
    pub const PLAIN: Self = Self {
        single_active: false,
        levels: 1,
    };
}

/// What holds for a queue and its messages until it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How much the queue holds.
    pub limits: Limits,
    /// How long a message may wait, milliseconds; `u64::MAX`: for ever.
    pub ttl_ms: u64,
    /// How many failed attempts a message may have; `u32::MAX`: any number.
    pub failures_max: u32,
    /// Dead messages are kept until somebody has moved them on ([`crate::Queue::buried`]).
    pub keeps_dead: bool,
    /// Over a length limit the oldest message of the lowest level goes, not of the highest.
    pub drops_lowest: bool,
}

impl Settings {
    /// Nothing is bounded, and nobody asks for the dead.
    pub const NONE: Self = Self {
        limits: Limits::NONE,
        ttl_ms: u64::MAX,
        failures_max: u32::MAX,
        keeps_dead: false,
        drops_lowest: false,
    };
}

/// Why a message died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// A consumer rejected it.
    Rejected,
    /// It waited too long.
    Expired,
    /// It was over a length limit.
    MaxLength,
    /// It failed too often.
    DeliveryLimit,
}

impl Death {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [
        Self::Rejected,
        Self::Expired,
        Self::MaxLength,
        Self::DeliveryLimit,
    ];

    /// RabbitMQ's name for it, as `x-death` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}
