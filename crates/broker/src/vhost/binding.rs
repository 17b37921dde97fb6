//! A binding to be made or removed.

use std::sync::Arc;

use leveret_codec::Table;
use leveret_router::{BindingSpec, Destination, ExchangeKind};

use crate::context::refusal::Refusal;
use crate::queue::cell::QueueCell;
use crate::vhost::Directory;

/// A binding, and the queue it is of: a queue that is deleted leaves its identity in the router to
/// the next one.
pub struct Binding {
    spec: BindingSpec,
    cell: Option<Arc<QueueCell>>,
}

impl Binding {
    /// One of a queue.
    #[must_use]
    pub fn of_queue(source: &str, cell: &Arc<QueueCell>, key: &[u8], arguments: Table) -> Self {
        Self {
            spec: BindingSpec {
                source: source.into(),
                destination: Destination::Queue(cell.id),
                key: key.into(),
                arguments,
            },
            cell: Some(Arc::clone(cell)),
        }
    }

    /// One between exchanges.
    #[must_use]
    pub fn of_exchange(source: &str, destination: &str, key: &[u8], arguments: Table) -> Self {
        Self {
            spec: BindingSpec {
                source: source.into(),
                destination: Destination::Exchange(destination.into()),
                key: key.into(),
                arguments,
            },
            cell: None,
        }
    }

    /// One that was found in a directory.
    #[must_use]
    pub fn found(spec: BindingSpec, directory: &Directory) -> Self {
        let cell = match spec.destination {
            Destination::Queue(id) => directory.cell(id).cloned(),
            Destination::Exchange(_) => None,
        };
        Self { spec, cell }
    }

    /// What the router knows it by, as long as its queue exists.
    #[must_use]
    pub const fn spec(&self) -> &BindingSpec {
        &self.spec
    }

    /// Its queue, if it is of one.
    pub(crate) const fn cell(&self) -> Option<&Arc<QueueCell>> {
        self.cell.as_ref()
    }

    /// Refuses a queue that is not of the classic type at an exchange that is for queues of one
    /// node, as RabbitMQ does.
    pub(crate) fn check_queue_type(&self, directory: &Directory) -> Result<(), Refusal> {
        let source = directory.router.exchange(&self.spec.source);
        let is_local = source.is_some_and(|found| found.spec().kind == ExchangeKind::LocalRandom);
        let kind = self.cell.as_ref().filter(|_| is_local);
        let kind = kind.and_then(|cell| cell.spec.arguments.get(b"x-queue-type"));
        match kind.and_then(|kind| kind.as_str_bytes()) {
            Some(b"quorum") => Err(Refusal::Precondition(
                "Queue type rabbit_quorum_queue not valid for this exchange type".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Whether its queue, if it is of one, is in the directory.
    pub(crate) fn has_queue(&self, directory: &Directory) -> bool {
        match (&self.spec.destination, &self.cell) {
            (Destination::Exchange(_), _) => true,
            (Destination::Queue(id), Some(cell)) => directory
                .cell(*id)
                .is_some_and(|known| Arc::ptr_eq(known, cell)),
            (Destination::Queue(_), None) => false,
        }
    }
}
