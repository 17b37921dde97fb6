//! One virtual host: its exchanges, bindings and queues by name.

pub(crate) mod binding;
pub(crate) mod policies;
pub(crate) mod quota;
pub(crate) mod refused;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use leveret_router::{QueueId, Removal, Router};
use leveret_store::Ticket;
use parking_lot::RwLock;

use crate::context::refusal::Refusal;
use crate::context::stats::{Churn, Ended, Events, Existing, Holdings};
use crate::queue::cell::{Home, QueueCell};
use crate::settings::rules::Rules;
use crate::vhost::quota::Quota;

/// Entries up to which a table is not worth shrinking.
pub(crate) const SHRINK_ABOVE: usize = 64;
/// One that is filled to less than this part is.
pub(crate) const SPARSE: usize = 8;

/// A virtual host.
pub struct Vhost {
    /// Unique in the broker.
    pub name: Arc<str>,
    /// Exchanges, bindings and queues. Read on a route-cache miss, written when one is declared or
    /// deleted; taken before any queue.
    pub directory: RwLock<Directory>,
    /// What its queues hold.
    pub holdings: Arc<Holdings>,
    /// What connections to it came to that have ended.
    pub(crate) ended: Ended,
    /// What administrators set. Never locked while a queue is.
    pub rules: RwLock<Rules>,
    /// What of them publishers have to keep to.
    pub(crate) quota: Quota,
    home: Home,
}

impl Vhost {
    pub(crate) fn new(home: Home, seed: u64, events: Arc<Events>) -> Self {
        let holdings = Arc::<Holdings>::default();
        Self {
            name: Arc::clone(&home.vhost),
            directory: RwLock::new(Directory::new(seed, Arc::clone(&holdings), events)),
            holdings,
            ended: Ended::default(),
            rules: RwLock::default(),
            quota: Quota::default(),
            home,
        }
    }

    /// Where its queues live.
    pub(crate) fn home(&self) -> Home {
        self.home.clone()
    }

    /// A queue by name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<Arc<QueueCell>> {
        self.directory.read().queue(name).cloned()
    }
}

/// What a virtual host knows by name.
pub struct Directory {
    /// Exchanges and bindings.
    pub router: Router,
    /// When every durable change so far is durable.
    pub(crate) changed: Ticket,
    /// The virtual host is being deleted: nothing more may be made in it.
    pub(crate) closed: bool,
    queues: HashMap<Arc<str>, Arc<QueueCell>>,
    /// The same in the order of their names, so that a list goes on where it stopped.
    ordered: BTreeMap<Arc<str>, Arc<QueueCell>>,
    cells: Vec<Option<Arc<QueueCell>>>,
    free: Vec<QueueId>,
    holdings: Arc<Holdings>,
    events: Arc<Events>,
    /// Queues, exchanges and bindings, as they are counted for the whole broker.
    counted: [usize; 3],
}

impl Directory {
    fn new(seed: u64, holdings: Arc<Holdings>, events: Arc<Events>) -> Self {
        let mut empty = Self {
            router: Router::with_seed(seed),
            changed: Ticket(0),
            closed: false,
            queues: HashMap::new(),
            ordered: BTreeMap::new(),
            cells: Vec::new(),
            free: Vec::new(),
            holdings,
            events,
            counted: [0; 3],
        };
        // A virtual host begins with exchanges.
        empty.recount();
        empty
    }

    /// Has the broker's totals follow, after a change.
    pub(crate) fn recount(&mut self) {
        let exchanges = self.router.exchange_count();
        let bindings = self.router.binding_count();
        self.count([self.queues.len(), exchanges, bindings]);
    }

    fn count(&mut self, now: [usize; 3]) {
        let before = std::mem::replace(&mut self.counted, now);
        for (kind, (before, now)) in Existing::ALL.into_iter().zip(before.into_iter().zip(now)) {
            self.events.exist(kind, before, now);
        }
    }

    /// Whether something may be made.
    pub(crate) fn check_open(&self, vhost: &Vhost) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::NoVhost(vhost.name.to_string()));
        }
        Ok(())
    }

    /// A queue by name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Arc<QueueCell>> {
        self.queues.get(name)
    }

    /// A queue by its identity in the router.
    #[must_use]
    pub fn cell(&self, id: QueueId) -> Option<&Arc<QueueCell>> {
        self.cells.get(id.0 as usize)?.as_ref()
    }

    /// All queues, in no order.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = &Arc<QueueCell>> {
        self.queues.values()
    }

    /// The queues from this name on, in the order of their names.
    pub fn queues_from(&self, name: Bound<&str>) -> impl Iterator<Item = (&str, &Arc<QueueCell>)> {
        let later = self.ordered.range::<str, _>((name, Bound::Unbounded));
        later.map(|(name, cell)| (&**name, cell))
    }

    pub(crate) fn next_id(&mut self) -> QueueId {
        while let Some(id) = self.free.pop() {
            // One that was cut off, and perhaps given again since, is not free.
            if matches!(self.cells.get(id.0 as usize), Some(None)) {
                return id;
            }
        }
        self.cells.push(None);
        QueueId(u32::try_from(self.cells.len() - 1).unwrap_or(u32::MAX))
    }

    pub(crate) fn insert(&mut self, cell: &Arc<QueueCell>) {
        self.insert_unlisted(cell);
        self.queues.insert(Arc::clone(&cell.name), Arc::clone(cell));
        self.ordered
            .insert(Arc::clone(&cell.name), Arc::clone(cell));
        cell.count_in(&self.holdings);
        self.events.count(Churn::QueueCreated);
        self.recount();
    }

    /// The same of a queue that the default exchange knows, and nobody else.
    pub(crate) fn insert_unlisted(&mut self, cell: &Arc<QueueCell>) {
        self.router.add_queue(&cell.name, cell.id);
        if let Some(slot) = self.cells.get_mut(cell.id.0 as usize) {
            *slot = Some(Arc::clone(cell));
        }
    }

    /// Takes a queue out, and tells what went with it; nothing when it is gone already.
    pub(crate) fn remove(&mut self, cell: &QueueCell) -> Option<Removal> {
        let slot = self.cells.get_mut(cell.id.0 as usize)?;
        let found = slot.as_ref()?;
        if !std::ptr::eq(Arc::as_ptr(found), cell) {
            return None;
        }
        *slot = None;
        if self.queues.remove(&*cell.name).is_some() {
            self.ordered.remove(&*cell.name);
            self.events.count(Churn::QueueDeleted);
        }
        self.free.push(cell.id);
        let removal = self.router.remove_queue(cell.id);
        self.recount();
        self.trim();
        Some(removal)
    }
}

impl Directory {
    /// Gives memory back once tables are nearly empty for their size.
    fn trim(&mut self) {
        let (len, capacity) = (self.queues.len(), self.queues.capacity());
        if capacity > SHRINK_ABOVE && len < capacity / SPARSE {
            self.queues.shrink_to(len * 2);
        }
        while let Some(None) = self.cells.last() {
            self.cells.pop();
        }
        let (kept, capacity) = (self.cells.len(), self.cells.capacity());
        if capacity > SHRINK_ABOVE && kept < capacity / SPARSE {
            self.cells.shrink_to(kept * 2);
            self.free.retain(|id| (id.0 as usize) < kept);
            self.free.shrink_to(kept * 2);
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.count([0; 3]);
    }
}
