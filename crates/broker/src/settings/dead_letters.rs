//! Where a queue sends what dies in it.

/// Where a queue's dead messages go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// The routing key, unless each keeps its own.
    pub key: Option<String>,
    /// What the full queue refuses goes there, too.
    pub refused_too: bool,
    /// What finds no queue waits until it does.
    pub at_least_once: bool,
}
