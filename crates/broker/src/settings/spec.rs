//! What a queue is declared with.

use std::sync::Arc;

use leveret_codec::Table;
use leveret_settings::is_quorum;

use crate::context::client::ConnectionId;
use crate::settings::policy::Object;

/// What a queue was declared with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueSpec {
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when its last consumer is gone.
    pub auto_delete: bool,
    /// Belongs to one connection and is deleted with it.
    pub owner: Option<ConnectionId>,
    /// `queue.declare` arguments.
    pub arguments: Table,
    /// The user who declared it, where that is known.
    pub declared_by: Option<Arc<str>>,
}

impl QueueSpec {
    /// Whether it is to behave as RabbitMQ's quorum queues.
    pub(crate) fn is_quorum(&self) -> bool {
        is_quorum(&self.arguments)
    }

    /// What policies see of a queue of that name.
    pub(crate) fn object<'a>(&self, name: &'a str) -> Object<'a> {
        Object::Queue(name, self.is_quorum())
    }
}
