//! How long deliveries of a queue may wait for their settlement, as it is set.

/// How long deliveries of a queue may wait for their settlement, and what comes then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseSettings {
    /// Milliseconds; none is for as long as they like.
    pub(crate) timeout_ms: Option<u64>,
    /// An attempt that was not settled in time has failed: it counts for the delivery limit.
    pub(crate) counts: bool,
    /// The channel is closed then, as RabbitMQ does it; else the delivery goes back alone.
    pub(crate) closes: bool,
}
