//! Queues and connections that something is due for.

use std::sync::Arc;

use crate::broker::Broker;
use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::queue::pump::Pump;
use crate::queue::timer::Owner;
use crate::topology::operations::Condition;

/// Queues that are run, and connections that are woken, before others get their turn: each may have
/// much to do.
const OWNERS_OF_TURN: usize = 4;

impl Broker {
    /// Does what is due: messages and queues that have waited too long go, and connections look at
    /// deliveries that have. Gives when it has to be called again, unix milliseconds; at once if
    /// there is more to do.
    pub fn run_due(&self, now_ms: u64, effects: &mut Effects) -> Option<u64> {
        self.set_now(now_ms);
        effects.briefly = true;
        for (at_ms, owner) in self.timer.take_due(now_ms, OWNERS_OF_TURN) {
            match owner {
                Owner::Queue(cell) => {
                    if let Some(cell) = cell.upgrade()
                        && self.run_one(&cell, at_ms, effects)
                    {
                        self.expire_queue(&cell, effects);
                    }
                }
                Owner::Leases(leases) => {
                    if let Some(leases) = leases.upgrade() {
                        leases.wake(at_ms);
                    }
                }
            }
        }
        self.submit(effects);
        effects.wake();
        self.timer.next()
    }

    /// Runs a queue that is due; `true` when nobody has used it for too long.
    fn run_one(&self, cell: &Arc<QueueCell>, at_ms: u64, effects: &mut Effects) -> bool {
        let mut state = cell.lock();
        if state.armed_ms == at_ms {
            state.armed_ms = u64::MAX;
        }
        if cell.is_deleted() {
            return false;
        }
        let now_ms = self.timer.now_ms();
        state.queue.woken(now_ms);
        cell.run(&mut state, &mut Pump::new(cell, effects));
        state.is_over(now_ms)
    }

    fn expire_queue(&self, cell: &Arc<QueueCell>, effects: &mut Effects) {
        let Some(vhost) = self.vhost(&cell.vhost) else {
            return;
        };
        let expired = Condition {
            expired: true,
            ..Condition::default()
        };
        // Its only condition is looked at there: somebody may have used it just now.
        let _ = self.delete_queue(&vhost, cell, expired, effects);
    }
}

#[cfg(test)]
mod tests {
    use leveret_access::Access;
    use leveret_codec::{Table, Value};
    use leveret_session::{BatchMessage, Publishes};
    use leveret_store::InstantStore;

    use super::*;
    use crate::context::config::BrokerConfig;
    use crate::publish::enqueue;
    use crate::publish::room::Room;
    use crate::settings::spec::QueueSpec;

    fn header(expiration: &str) -> Vec<u8> {
        let mut header = Vec::new();
        let properties = leveret_codec::Properties {
            expiration: Some(expiration.as_bytes()),
            ..Default::default()
        };
        properties.encode(1, &mut header);
        header
    }

    fn broker() -> Broker {
        let config = BrokerConfig::default();
        Broker::new(config, Access::default(), Arc::new(InstantStore))
    }

    fn queue(broker: &Broker, name: &str, effects: &mut Effects) -> Arc<QueueCell> {
        let mut arguments = Table::new();
        arguments.insert("x-expires", Value::I32(3_600_000));
        arguments.insert("x-message-ttl", Value::I32(7_000_000));
        let spec = QueueSpec {
            arguments,
            ..QueueSpec::default()
        };
        let vhost = broker.add_vhost("/");
        broker.declare_queue(&vhost, name, spec, effects).unwrap().0
    }

    fn publish(cell: &Arc<QueueCell>, expiration: &str, effects: &mut Effects) {
        let header = header(expiration);
        let publish = BatchMessage {
            header: &header,
            body: b"m",
            mandatory: false,
        };
        let one = Publishes::one(0, b"\0\x01q", publish);
        enqueue(
            std::slice::from_ref(cell),
            &one,
            None,
            Room::Plenty,
            effects,
        );
    }

    /// However deadlines come and go, a queue takes one place, and none when it is deleted.
    #[test]
    fn a_queue_has_one_entry_whatever_is_due_in_it() {
        let broker = broker();
        let (mut effects, mut now_ms) = (Effects::default(), 1_000_000);
        broker.set_now(now_ms);
        let cell = queue(&broker, "q", &mut effects);
        publish(&cell, "5000000", &mut effects);
        for round in 0..200 {
            publish(&cell, "10", &mut effects);
            publish(&cell, &(4_000_000 - round).to_string(), &mut effects);
            now_ms += 10;
            broker.run_due(now_ms, &mut effects);
            assert_eq!(broker.timer.entries(), 1, "round {round}");
        }
        assert_eq!(cell.lock().queue.ready(), 201);
        let unused = broker.run_due(now_ms + 3_600_000, &mut effects);
        assert!(cell.is_deleted(), "{unused:?}");
        assert_eq!(broker.timer.entries(), 0);
    }

    /// It was due, and then used before it could be deleted.
    #[test]
    fn a_queue_that_is_used_just_in_time_lives_on() {
        let broker = broker();
        let mut effects = Effects::default();
        broker.set_now(1_000_000);
        let cell = queue(&broker, "q", &mut effects);
        broker.set_now(1_000_000 + 3_600_000);
        cell.used(&mut cell.lock());
        broker.expire_queue(&cell, &mut effects);
        assert!(!cell.is_deleted());
        broker.set_now(1_000_000 + 2 * 3_600_000);
        broker.expire_queue(&cell, &mut effects);
        assert!(cell.is_deleted());
    }

    #[test]
    fn a_deleted_queue_is_not_kept_for_its_deadline() {
        let broker = broker();
        let mut effects = Effects::default();
        broker.set_now(1_000_000);
        let vhost = broker.add_vhost("/");
        for _ in 0..10 {
            let cell = queue(&broker, "q", &mut effects);
            let any = Condition::default();
            broker
                .delete_queue(&vhost, &cell, any, &mut effects)
                .unwrap();
        }
        assert_eq!(broker.timer.entries(), 0);
    }
}
