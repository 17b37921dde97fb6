//! The broker's time, and the queues that something is due for.
//!
//! There is no timer for a message: a queue tells the next time it has to be run at, and whoever
//! keeps the time calls [`Broker::run_due`] then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use crate::broker::{Broker, Peer};
use crate::queue::cell::{QueueCell, QueueState};
use crate::queue::pump::{Pump, Work};
use crate::topology::operations::Condition;

/// Queues that are run, and connections that are woken, before others get their turn.
const OWNERS_OF_TURN: usize = 256;

/// Wakes whoever keeps the time, as something is due earlier than was said.
type Waker = Box<dyn Fn() + Send + Sync>;

/// What time it is, and what is due when; one for a broker.
#[derive(Default)]
pub(crate) struct Timer {
    /// Unix milliseconds; never goes back.
    now_ms: AtomicU64,
    /// When the first queue is due, as whoever keeps the time knows it.
    next_ms: AtomicU64,
    /// One entry for a queue or a connection at most: [`QueueState::armed_ms`] and
    /// [`Leases::armed_ms`](crate::queue::lease::Leases::armed_ms) say which.
    due: Mutex<BTreeMap<Due, Owner>>,
    waker: OnceLock<Waker>,
}

/// When something is due, and whose it is: where that lives tells those of one time apart.
type Due = (u64, usize);

/// Whose something is that is due.
enum Owner {
    /// It has to be run.
    Queue(Weak<QueueCell>),
    /// It has to look at the deliveries it has not settled.
    Peer(Weak<Peer>),
}

impl Timer {
    /// Unix milliseconds, as of the last turn of anybody.
    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// It is so late; if it was later already, it stays so.
    #[inline]
    pub(crate) fn set_now(&self, now_ms: u64) {
        // Most turns of one millisecond write nothing: all cores read this line.
        if self.now_ms() < now_ms {
            self.now_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
    }

    /// Has a queue run at a time, or as soon as possible after it, unless it is run before anyway.
    pub(crate) fn arm(&self, cell: &Arc<QueueCell>, state: &mut QueueState, at_ms: u64) {
        if at_ms >= state.armed_ms {
            return;
        }
        let place = Arc::as_ptr(cell).addr();
        let owner = Owner::Queue(Arc::downgrade(cell));
        self.put((state.armed_ms, place), at_ms, owner);
        state.armed_ms = at_ms;
    }

    /// Has a connection look at its deliveries at a time, unless it does so before anyway. Its
    /// outlet is locked.
    pub(crate) fn arm_peer(&self, peer: &Arc<Peer>, at_ms: u64) {
        let before_ms = peer.leases.armed_ms.load(Ordering::Relaxed);
        if at_ms >= before_ms {
            return;
        }
        let place = Arc::as_ptr(peer).addr();
        let owner = Owner::Peer(Arc::downgrade(peer));
        self.put((before_ms, place), at_ms, owner);
        peer.leases.armed_ms.store(at_ms, Ordering::Relaxed);
    }

    fn put(&self, before: Due, at_ms: u64, owner: Owner) {
        let mut due = self.due.lock();
        due.remove(&before);
        due.insert((at_ms, before.1), owner);
        drop(due);
        if at_ms < self.next_ms.load(Ordering::Relaxed)
            && let Some(wake) = self.waker.get()
        {
            wake();
        }
    }

    /// Forgets a queue that is deleted: it is not kept for a time that may be far.
    pub(crate) fn disarm(&self, cell: &QueueCell, state: &mut QueueState) {
        let place = std::ptr::from_ref(cell).addr();
        self.due.lock().remove(&(state.armed_ms, place));
        state.armed_ms = u64::MAX;
    }

    /// The same for a connection that has ended. Its outlet is locked.
    pub(crate) fn disarm_peer(&self, peer: &Peer) {
        let place = std::ptr::from_ref(peer).addr();
        let armed_ms = peer.leases.armed_ms.swap(u64::MAX, Ordering::Relaxed);
        self.due.lock().remove(&(armed_ms, place));
    }

    /// What is due now, so many at most, each with its time.
    fn take_due(&self, now_ms: u64) -> Vec<(u64, Owner)> {
        let mut due = self.due.lock();
        let mut taken = Vec::new();
        while taken.len() < OWNERS_OF_TURN
            && let Some(first) = due.first_entry()
            && first.key().0 <= now_ms
        {
            let ((at_ms, _), owner) = first.remove_entry();
            taken.push((at_ms, owner));
        }
        taken
    }

    /// When the next queue is due; from now on somebody waits for that.
    fn next(&self) -> Option<u64> {
        let due = self.due.lock();
        let next_ms = due.first_key_value().map(|((at_ms, _), _)| *at_ms);
        self.next_ms
            .store(next_ms.unwrap_or(u64::MAX), Ordering::Relaxed);
        next_ms
    }
}

impl Broker {
    /// It is so late, unix milliseconds. Whoever has the broker do something says so before.
    #[inline]
    pub fn set_now(&self, now_ms: u64) {
        self.timer.set_now(now_ms);
    }

    /// Unix milliseconds, as of the last turn of anybody.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.timer.now_ms()
    }

    /// Calls `wake` whenever something is due before the time that [`Broker::run_due`] gave.
    pub fn wake_timer_with(&self, wake: impl Fn() + Send + Sync + 'static) {
        // There is one who keeps the time.
        let _ = self.timer.waker.set(Box::new(wake));
    }

    /// Does what is due: messages and queues that have waited too long go, and connections look at
    /// deliveries that have. Gives when it has to be called again, unix milliseconds; at once if
    /// there is more to do.
    pub fn run_due(&self, now_ms: u64, work: &mut Work) -> Option<u64> {
        self.set_now(now_ms);
        for (at_ms, owner) in self.timer.take_due(now_ms) {
            match owner {
                Owner::Queue(cell) => {
                    if let Some(cell) = cell.upgrade()
                        && self.run_one(&cell, at_ms, work)
                    {
                        self.expire_queue(&cell, work);
                    }
                }
                Owner::Peer(peer) => {
                    if let Some(peer) = peer.upgrade() {
                        wake(&peer, at_ms);
                    }
                }
            }
        }
        self.submit(work);
        work.wake();
        self.timer.next()
    }

    /// Runs a queue that is due; `true` when nobody has used it for too long.
    fn run_one(&self, cell: &Arc<QueueCell>, at_ms: u64, work: &mut Work) -> bool {
        let mut state = cell.lock();
        if state.armed_ms == at_ms {
            state.armed_ms = u64::MAX;
        }
        if cell.is_deleted() {
            return false;
        }
        state.queue.woken(self.timer.now_ms());
        cell.run(&mut state, &mut Pump::new(cell, work));
        state
            .unused_until()
            .is_some_and(|until_ms| until_ms <= self.timer.now_ms())
    }

    fn expire_queue(&self, cell: &Arc<QueueCell>, work: &mut Work) {
        let Some(vhost) = self.vhost(&cell.vhost) else {
            return;
        };
        let unused = Condition {
            unused: true,
            ..Condition::default()
        };
        // It cannot be refused but for a consumer that has come just now: then it is used.
        let _ = self.delete_queue(&vhost, cell, unused, work);
    }
}

/// Has a connection look at its deliveries.
fn wake(peer: &Peer, at_ms: u64) {
    let outlet = peer.outlet.lock();
    if peer.leases.armed_ms.load(Ordering::Relaxed) == at_ms {
        peer.leases.armed_ms.store(u64::MAX, Ordering::Relaxed);
    }
    peer.is_overdue(&outlet);
}

#[cfg(test)]
mod tests {
    use leveret_access::Access;
    use leveret_codec::{Table, Value};
    use leveret_session::{Publish, Publishes};
    use leveret_store::InstantStore;

    use super::*;
    use crate::broker::BrokerConfig;
    use crate::publish::enqueue;
    use crate::publish::room::Room;
    use crate::queue::cell::QueueSpec;

    fn header(expiration: &str) -> Vec<u8> {
        let mut header = Vec::new();
        let properties = leveret_codec::Properties {
            expiration: Some(expiration.as_bytes()),
            ..Default::default()
        };
        properties.encode(1, &mut header);
        header
    }

    fn queue(broker: &Broker, name: &str, work: &mut Work) -> Arc<QueueCell> {
        let mut arguments = Table::new();
        arguments.insert("x-expires", Value::I32(3_600_000));
        arguments.insert("x-message-ttl", Value::I32(7_000_000));
        let spec = QueueSpec {
            arguments,
            ..QueueSpec::default()
        };
        let vhost = broker.add_vhost("/");
        broker.declare_queue(&vhost, name, spec, work).unwrap().0
    }

    fn publish(cell: &Arc<QueueCell>, expiration: &str, work: &mut Work) {
        let header = header(expiration);
        let publish = Publish {
            header: &header,
            body: b"m",
            mandatory: false,
        };
        let one = Publishes::one(0, b"\0\x01q", publish);
        enqueue(std::slice::from_ref(cell), &one, None, Room::Plenty, work);
    }

    /// However deadlines come and go, a queue takes one place, and none when it is deleted.
    #[test]
    fn a_queue_has_one_entry_whatever_is_due_in_it() {
        let broker = Broker::new(
            BrokerConfig::default(),
            Access::default(),
            Arc::new(InstantStore),
        );
        let (mut work, mut now_ms) = (Work::default(), 1_000_000);
        broker.set_now(now_ms);
        let cell = queue(&broker, "q", &mut work);
        publish(&cell, "5000000", &mut work);
        for round in 0..200 {
            publish(&cell, "10", &mut work);
            publish(&cell, &(4_000_000 - round).to_string(), &mut work);
            now_ms += 10;
            broker.run_due(now_ms, &mut work);
            assert_eq!(broker.timer.due.lock().len(), 1, "round {round}");
        }
        assert_eq!(cell.lock().queue.ready(), 201);
        let unused = broker.run_due(now_ms + 3_600_000, &mut work);
        assert!(cell.is_deleted(), "{unused:?}");
        assert_eq!(broker.timer.due.lock().len(), 0);
    }

    #[test]
    fn a_deleted_queue_is_not_kept_for_its_deadline() {
        let broker = Broker::new(
            BrokerConfig::default(),
            Access::default(),
            Arc::new(InstantStore),
        );
        let mut work = Work::default();
        broker.set_now(1_000_000);
        let vhost = broker.add_vhost("/");
        for _ in 0..10 {
            let cell = queue(&broker, "q", &mut work);
            let any = Condition::default();
            broker.delete_queue(&vhost, &cell, any, &mut work).unwrap();
        }
        assert_eq!(broker.timer.due.lock().len(), 0);
    }
}
