//! Exchanges, queues and bindings that a store remembers, made again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use leveret_router::{BindingSpec, Destination, ExchangeKind, ExchangeSpec};
use leveret_store::LaneId;

use crate::broker::Broker;
use crate::queue::cell::{QueueCell, QueueIdentity, StoreLanes};
use crate::queue::effects::Effects;
use crate::settings::arguments::InForce;
use crate::settings::spec::QueueSpec;
use crate::topology::{DurableKind, FieldReader, queue};
use crate::vhost::Vhost;

/// A record of the topology that cannot be understood: a newer version wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Where the store has it.
    pub key: Vec<u8>,
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_ascii();
        write!(
            f,
            "the topology holds a record this version does not understand: '{key}'"
        )
    }
}

impl std::error::Error for NotUnderstood {}

impl Broker {
    /// Makes what a store remembers: everything durable but the messages. Before any connection.
    /// Lanes from `next_lane` on are new to the store.
    ///
    /// # Errors
    /// [`NotUnderstood`].
    pub fn restore(
        &self,
        topology: &BTreeMap<Vec<u8>, Vec<u8>>,
        next_lane: u32,
    ) -> Result<(), NotUnderstood> {
        self.begin_lanes_at(next_lane);
        for (key, value) in topology {
            self.restore_one(key, value)
                .ok_or_else(|| NotUnderstood { key: key.clone() })?;
        }
        for vhost in self.vhosts() {
            vhost.directory.write().recount();
            self.give_lanes(&vhost);
        }
        Ok(())
    }

    /// Gives queues with priorities the lanes for them that the first version did not.
    fn give_lanes(&self, vhost: &Vhost) {
        let mut effects = Effects::default();
        for cell in vhost.directory.read().queues() {
            let others = cell.levels() - 1;
            if others > 0
                && cell.other_lanes().is_none()
                && let Some(lowest) = self.next_lanes(others)
            {
                cell.set_other_lanes(lowest);
                queue(&mut effects, vhost, cell);
            }
        }
        effects.submit(&*self.store);
    }

    fn restore_one(&self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, parts) = key.split_first()?;
        let (mut parts, mut value) = (FieldReader::new(parts), FieldReader::new(value));
        if *kind == DurableKind::Exchange as u8 {
            self.restore_exchange(&mut parts, &mut value)
        } else if *kind == DurableKind::Queue as u8 {
            self.restore_queue(&mut parts, &mut value)
        } else if *kind == DurableKind::Binding as u8 {
            self.restore_binding(&mut parts)
        } else {
            self.restore_administration(*kind, &mut parts, value.rest())
        }
    }

    fn restore_exchange(
        &self,
        parts: &mut FieldReader<'_>,
        value: &mut FieldReader<'_>,
    ) -> Option<()> {
        let vhost = self.add_vhost(parts.text()?);
        let name = parts.text()?;
        let kind = ExchangeKind::from_name(value.text()?)?;
        let [auto_delete, internal] = value.flags()?;
        let spec = ExchangeSpec {
            kind,
            durable: true,
            auto_delete,
            internal,
            arguments: value.table()?,
        };
        let mut directory = vhost.directory.write();
        directory.router.declare(name, spec).ok()?;
        vhost.apply_to_new_exchange(&mut directory, name);
        Some(())
    }

    fn restore_queue(
        &self,
        parts: &mut FieldReader<'_>,
        value: &mut FieldReader<'_>,
    ) -> Option<()> {
        let vhost = self.add_vhost(parts.text()?);
        let name = parts.text()?;
        let lane = LaneId(value.number()?);
        // The store has not heard of it if nothing was ever published to the queue.
        self.begin_lanes_at(lane.0.saturating_add(1));
        let [auto_delete] = value.flags()?;
        let spec = QueueSpec {
            durable: true,
            auto_delete,
            owner: None,
            arguments: value.table()?,
            // Queues of older journals do not tell.
            declared_by: value
                .text()
                .filter(|name| !name.is_empty())
                .map(|name| self.declarer(name)),
        };
        let mut directory = vhost.directory.write();
        let id = directory.next_id();
        let policy = vhost.rules.read().effective(spec.object(name));
        let in_force = InForce::of(&spec, policy, self.limits().queue);
        let count = u32::from(in_force.shape.levels - 1);
        let others = value.number().filter(|_| count > 0);
        if let Some(lowest) = others {
            self.begin_lanes_at(lowest.saturating_add(count));
        }
        let lanes = StoreLanes {
            first: Some(lane),
            others: others.map(LaneId),
        };
        let identity = QueueIdentity {
            name: name.into(),
            id,
            home: vhost.home(),
        };
        let cell = Arc::new(QueueCell::new(identity, spec, lanes, in_force));
        directory.insert(&cell);
        Some(())
    }

    fn restore_binding(&self, parts: &mut FieldReader<'_>) -> Option<()> {
        let vhost = self.add_vhost(parts.text()?);
        let source = parts.text()?.into();
        let kind = parts.bytes()?;
        let name = parts.text()?;
        let mut directory = vhost.directory.write();
        let destination = match kind {
            b"q" => Destination::Queue(directory.queue(name)?.id),
            b"x" => Destination::Exchange(name.into()),
            _ => return None,
        };
        let spec = BindingSpec {
            source,
            destination,
            key: parts.bytes()?.into(),
            arguments: parts.table()?,
        };
        directory.router.bind(&spec).ok().map(|_| ())
    }
}
