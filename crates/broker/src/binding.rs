//! A binding to be made or removed.

use std::sync::Arc;

use leveret_codec::Table;
use leveret_router::{BindingSpec, Destination};

use crate::cell::QueueCell;
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
