//! The tx class: publishes and settlements that wait for `tx.commit`.
//!
//! Routes are found and delivery tags looked up when they come, as errors close the channel then.
//! A commit first reserves room in every queue, so that it is done whole or refused whole, and is
//! one atomic group in the journal. Consumers may see its parts queue by queue.
//!
//! What is committed is counted then, what is rolled back never.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use leveret_codec::{TxCommitOk, TxRollbackOk, TxSelectOk, delivery_mode, split_route};
use leveret_queue::Reason;
use leveret_record::Blob;
use leveret_session::{BatchMessage, Fault, Publishes, Settlement, Slot, Verdict};

use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::publish::room::Room;
use crate::publish::routes::Route;
use crate::publish::space::record_bytes;
use crate::publish::{PERSISTENT, PUBLISH, enqueue};
use crate::queue::cell::QueueCell;

/// What a settlement takes in the journal, if no other one follows on it.
const SETTLED_BYTES: usize = 20;
/// So much of a commit need not be claimed.
const UNCLAIMED_BYTES: usize = 64 << 10;
/// What a staged publish or settlement costs besides its bytes.
const STAGED_BYTES: usize = 160;

/// What a channel in tx mode has done since its last commit.
#[derive(Default)]
pub(crate) struct Transaction {
    publishes: Vec<Staged>,
    settlements: Vec<(u64, Slot, Verdict)>,
    bytes: usize,
}

/// One publish, with the queues it goes to.
struct Staged {
    route: Arc<Route>,
    /// Exchange and routing key, raw.
    key: Box<[u8]>,
    header: Box<[u8]>,
    body: Box<[u8]>,
    /// Instead of `body`, for a large one.
    blob: Option<Arc<Blob>>,
    mandatory: bool,
}

impl Staged {
    fn body(&self) -> &[u8] {
        self.blob.as_deref().map_or(&*self.body, |blob| blob)
    }
}

impl Transaction {
    /// Publishes, and deliveries whose settlement is not committed.
    pub(crate) const fn len(&self) -> (usize, usize) {
        (self.publishes.len(), self.settlements.len())
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Deliveries whose settlement is not committed.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.settlements.iter().map(|(_, slot, _)| slot)
    }

    /// How many messages and bytes each queue gets.
    fn demand(&self) -> Vec<(Arc<QueueCell>, u64, u64)> {
        let mut places = HashMap::new();
        let mut demand: Vec<(Arc<QueueCell>, u64, u64)> = Vec::new();
        for staged in &self.publishes {
            for cell in &staged.route.cells {
                let place = *places.entry(Arc::as_ptr(cell)).or_insert_with(|| {
                    demand.push((Arc::clone(cell), 0, 0));
                    demand.len() - 1
                });
                if let Some((_, messages, bytes)) = demand.get_mut(place) {
                    *messages += 1;
                    *bytes += staged.body().len() as u64;
                }
            }
        }
        demand
    }

    /// What its persistent messages take in the journal: for each queue one, and bytes.
    fn durable(&self) -> (usize, usize) {
        let lasts = |cell: &Arc<QueueCell>| cell.lane.is_some();
        let publishes = self.publishes.iter().filter(|staged| {
            delivery_mode(&staged.header) == PERSISTENT && staged.route.cells.iter().any(lasts)
        });
        publishes.fold((0, 0), |(messages, bytes), staged| {
            let targets = staged.route.cells.len();
            let content = staged.header.len() + staged.body().len();
            let record = record_bytes(staged.key.len(), targets);
            (messages + targets, bytes + content + record)
        })
    }

    /// What its settlements take at most; they are in one frame with its messages.
    const fn settled_bytes(&self) -> usize {
        self.settlements.len() * SETTLED_BYTES
    }
}

impl OpenChannel<'_> {
    pub(crate) fn tx_select(&mut self) -> Result<(), Refusal> {
        if self.state.confirms.is_some() {
            let text = "cannot switch from confirm to tx mode";
            return Err(Refusal::Precondition(text.into()));
        }
        self.state.transaction.get_or_insert_default();
        self.state.stats.transactional.set(1);
        self.reply(TxSelectOk {});
        Ok(())
    }

    /// Keeps a batch for the commit.
    pub(crate) fn stage_publishes(
        &mut self,
        route: &Arc<Route>,
        batch: &Publishes<'_>,
        blob: Option<&Arc<Blob>>,
    ) -> Result<(), Fault> {
        for publish in batch.iter() {
            let shared = blob.is_some();
            let bytes = batch.route.len()
                + publish.header.len()
                + publish.body.len()
                + size_of_val(&*route.cells);
            self.charge(bytes, PUBLISH)?;
            let staged = Staged {
                route: Arc::clone(route),
                key: batch.route.into(),
                header: publish.header.into(),
                body: if shared { &[][..] } else { publish.body }.into(),
                blob: blob.cloned(),
                mandatory: publish.mandatory,
            };
            if let Some(transaction) = &mut self.state.transaction {
                transaction.publishes.push(staged);
            }
        }
        self.state.count_uncommitted();
        Ok(())
    }

    /// Keeps settlements for the commit; an unknown tag closes the channel now.
    pub(crate) fn stage_settlements(&mut self, settlements: &[Settlement]) -> Result<(), Fault> {
        for settlement in settlements {
            let mut taken = Vec::new();
            let mut outlet = self.peer.outlet.lock();
            let (tag, multiple) = (settlement.tag, settlement.multiple);
            let known = outlet.stage(self.number, tag, multiple, |tag, slot| {
                taken.push((tag, slot, settlement.verdict));
            });
            let count = taken.len();
            if let Some(transaction) = &mut self.state.transaction {
                transaction.settlements.append(&mut taken);
            }
            drop(outlet);
            if known.is_err() {
                let refusal = Refusal::UnknownDeliveryTag(tag);
                return Err(self.fault_of(refusal, settlement.method));
            }
            self.charge(count.saturating_sub(1) * STAGED_BYTES, settlement.method)?;
        }
        self.state.count_uncommitted();
        Ok(())
    }

    /// Counts one more staged thing against the bound of a transaction.
    fn charge(&mut self, bytes: usize, method: (u16, u16)) -> Result<(), Fault> {
        let max = self.broker.limits().transaction_bytes_max;
        let Some(transaction) = &mut self.state.transaction else {
            return Ok(());
        };
        transaction.bytes += bytes + STAGED_BYTES;
        let fits = transaction.bytes <= max;
        self.shared.staged_bytes += bytes + STAGED_BYTES;
        if fits {
            return Ok(());
        }
        let text = format!("transaction is larger than the limit ({max} bytes)");
        Err(self.fault_of(Refusal::Limit(text), method))
    }

    pub(crate) fn tx_commit(&mut self) -> Result<(), Refusal> {
        self.reserve()?;
        let Transaction {
            publishes,
            settlements,
            bytes,
        } = self.take_transaction()?;
        self.shared.staged_bytes -= bytes;
        self.state.count_uncommitted();
        self.effects.journal.begin_group();
        for staged in publishes {
            self.publish_staged(staged);
        }
        self.count_settled(&settlements);
        let settled = settlements
            .iter()
            .map(|(_, slot, verdict)| (slot.source, slot.unacked, *verdict));
        self.shared.settled.extend(settled);
        self.release();
        self.effects.journal.end_group();
        self.effects.submit(&*self.broker.store);
        self.peer.outlet.lock().end_transaction(self.number);
        self.share_room();
        self.reply_durable(TxCommitOk {});
        Ok(())
    }

    /// The channel goes on with an empty one.
    fn take_transaction(&mut self) -> Result<Transaction, Refusal> {
        let transaction = self.state.transaction.as_deref_mut();
        transaction
            .map(std::mem::take)
            .ok_or_else(not_transactional)
    }

    /// Finds room for the whole of a transaction. Refused, it stays as it is.
    fn reserve(&mut self) -> Result<(), Refusal> {
        let Some(transaction) = &self.state.transaction else {
            return Err(not_transactional());
        };
        let (demand, settled) = (transaction.demand(), transaction.settled_bytes());
        let (messages, bytes) = transaction.durable();
        let persistent = messages > 0;
        // A few settlements find their place in any frame, and need none to be claimed.
        let room = if persistent || settled > UNCLAIMED_BYTES {
            self.room_for_commit(messages, bytes + settled)?
        } else {
            Room::of_impatient(self.broker)
        };
        for (done, (cell, messages, bytes)) in demand.iter().enumerate() {
            let mut state = cell.lock();
            if cell.is_deleted() {
                continue;
            }
            let reason = room.refuses(&state.queue, persistent && cell.lane.is_some());
            if reason.is_some() {
                state.queue.refuse(*messages);
            } else if state.queue.reserve(*messages, *bytes) {
                continue;
            }
            drop(state);
            for (cell, messages, bytes) in demand.iter().take(done) {
                cell.lock().queue.release_reserved(*messages, *bytes);
            }
            let reason = reason.unwrap_or(Reason::Length);
            self.note_not_committed(cell, reason);
            return Err(not_published(reason, &cell.name, &self.vhost.name));
        }
        Ok(())
    }

    /// Takes note of what a commit would have put into a queue, by the exchange it came from.
    fn note_not_committed(&self, cell: &Arc<QueueCell>, reason: Reason) {
        let mut by_exchange = BTreeMap::new();
        let staged = self.state.transaction.iter();
        for staged in staged.flat_map(|transaction| &transaction.publishes) {
            if staged
                .route
                .cells
                .iter()
                .any(|other| Arc::ptr_eq(other, cell))
            {
                let exchange = split_route(&staged.key).map(|(exchange, _)| exchange);
                let counted = by_exchange.entry(exchange.unwrap_or_default());
                counted.or_insert_with(|| (staged.key.clone(), 0)).1 += 1;
            }
        }
        let refused: Vec<_> = by_exchange.into_values().collect();
        for (route, messages) in refused {
            let mut refused = vec![(Arc::clone(cell), reason, messages)];
            let account = &self.broker.refused;
            account.note_all(self.vhost, &route, &mut refused);
        }
    }

    /// Claims what a commit takes of the disk; what came before it is no part of the group.
    fn room_for_commit(&mut self, messages: usize, bytes: usize) -> Result<Room, Refusal> {
        let room = Room::of_impatient(self.broker);
        let store = &self.broker.store;
        self.effects.submit(&**store);
        match store.claim(&mut self.effects.journal, messages, bytes) {
            Ok(()) => Ok(room),
            Err(_) if messages > 0 => Ok(room.without_disk()),
            Err(refused) => Err(Refusal::Precondition(format!(
                "cannot commit so many settlements at once: {refused}"
            ))),
        }
    }

    fn publish_staged(&mut self, staged: Staged) {
        let publish = BatchMessage {
            header: &staged.header,
            body: staged.body(),
            mandatory: staged.mandatory,
        };
        let one = Publishes::one(self.number, &staged.key, publish);
        self.count_published(&staged.route, &one);
        self.state.stats.published.add(1);
        let cells = &staged.route.cells;
        // Queues may have been deleted since it was published.
        if cells.iter().all(|cell| cell.is_deleted()) {
            self.return_unroutable(&one);
            return;
        }
        self.effects.steps += cells.len();
        let blob = staged.blob.clone();
        enqueue(cells, &one, blob, Room::Reserved, self.effects);
    }

    fn count_settled(&self, settlements: &[(u64, Slot, Verdict)]) {
        for (.., verdict) in settlements {
            self.state.stats.settled(*verdict).add(1);
        }
    }

    /// Forgets publishes, and that deliveries were settled: they wait again.
    pub(crate) fn tx_rollback(&mut self) -> Result<(), Refusal> {
        let transaction = self.take_transaction()?;
        self.shared.staged_bytes -= transaction.bytes;
        self.state.count_uncommitted();
        let mut outlet = self.peer.outlet.lock();
        outlet.end_transaction(self.number);
        for (tag, slot, _) in transaction.settlements {
            outlet.restore(self.number, tag, slot);
        }
        drop(outlet);
        self.reply(TxRollbackOk {});
        Ok(())
    }
}

fn not_published(reason: Reason, queue: &str, vhost: &str) -> Refusal {
    let why = match reason {
        Reason::Length => format!("queue '{queue}' in vhost '{vhost}' is full"),
        Reason::Memory => "the memory for messages is full".into(),
        Reason::Disk => "the disk is full".into(),
    };
    let text = format!("partial tx completion: nothing was published, {why}");
    Refusal::Precondition(text)
}

fn not_transactional() -> Refusal {
    Refusal::Precondition("channel is not transactional".into())
}
