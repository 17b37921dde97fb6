//! The queue class.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_codec::{
    BasicCancel, Method, QueueBind, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete,
    QueueDeleteOk, QueuePurge, QueuePurgeOk, QueueUnbind, QueueUnbindOk, Table,
};
use leveret_router::{BindingSpec, Destination};

use crate::arguments::{equivalent, meaning, validate};
use crate::broker::Broker;
use crate::cell::{QueueCell, QueueSpec};
use crate::connection::Core;
use crate::exchanges::name_of;
use crate::pump::Work;
use crate::refusal::{Refusal, from_router};
use crate::vhost::{Directory, Vhost};

impl Core {
    pub(crate) fn queue_declare(
        &mut self,
        channel: u16,
        declare: &QueueDeclare<'_>,
    ) -> Result<(), Refusal> {
        let vhost = self.vhost()?;
        let mut name = name_of(declare.queue, "queue name")?;
        if name.is_empty() && declare.passive {
            name = self.last_queue(channel)?;
        }
        let cell = if declare.passive {
            vhost
                .queue(&name)
                .ok_or_else(|| Refusal::NoQueue(name.clone()))?
        } else {
            let spec = QueueSpec {
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                owner: declare.exclusive.then_some(self.peer.id),
                arguments: declare.arguments.to_table(),
            };
            self.declare(&vhost, name, spec)?
        };
        self.check_owner(&cell)?;
        if let Some(channel) = self.channel(channel) {
            channel.last_queue = Some(Arc::clone(&cell.name));
        }
        if !declare.nowait {
            let state = cell.lock();
            let message_count = u32::try_from(state.queue.ready()).unwrap_or(u32::MAX);
            let consumer_count = u32::try_from(state.queue.consumer_count()).unwrap_or(u32::MAX);
            drop(state);
            let queue = cell.name.as_bytes();
            self.reply(
                channel,
                QueueDeclareOk {
                    queue,
                    message_count,
                    consumer_count,
                },
            );
        }
        Ok(())
    }

    /// Finds the queue and compares it, or makes it.
    fn declare(
        &mut self,
        vhost: &Vhost,
        mut name: String,
        spec: QueueSpec,
    ) -> Result<Arc<QueueCell>, Refusal> {
        if let Some(cell) = vhost.queue(&name) {
            return self.redeclare(&cell, &spec);
        }
        if name.starts_with("amq.") {
            return Err(Refusal::ReservedName("queue", name));
        }
        validate(&name, &spec)?;
        if name.is_empty() {
            name = self.broker.names.next("amq.gen-");
        }
        let mut directory = vhost.directory.write();
        if let Some(cell) = directory.queue(&name).cloned() {
            drop(directory);
            return self.redeclare(&cell, &spec);
        }
        let max = self.broker.config.queues_max;
        if directory.queues().len() >= max {
            return Err(Refusal::Limit(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({max}) is reached",
                vhost.name
            )));
        }
        let cell = create(&self.broker, &mut directory, name, spec);
        if cell.spec.owner.is_some() {
            self.exclusive.push(Arc::clone(&cell));
        }
        Ok(cell)
    }

    fn redeclare(
        &self,
        cell: &Arc<QueueCell>,
        spec: &QueueSpec,
    ) -> Result<Arc<QueueCell>, Refusal> {
        self.check_owner(cell)?;
        if spec.owner.is_some() != cell.spec.owner.is_some() {
            return Err(Refusal::Locked(cell.name.to_string()));
        }
        equivalent(&cell.name, &cell.spec, spec)?;
        Ok(Arc::clone(cell))
    }

    /// An exclusive queue serves its own connection only.
    pub(crate) fn check_owner(&self, cell: &QueueCell) -> Result<(), Refusal> {
        match cell.spec.owner {
            Some(owner) if owner != self.peer.id => Err(Refusal::Locked(cell.name.to_string())),
            _ => Ok(()),
        }
    }

    fn last_queue(&mut self, channel: u16) -> Result<String, Refusal> {
        let last = self
            .channel(channel)
            .and_then(|channel| channel.last_queue.as_deref());
        last.map(String::from).ok_or(Refusal::NoPreviousQueue)
    }

    /// The queue a method names; an empty name means the one declared last on the channel.
    pub(crate) fn named_queue(
        &mut self,
        channel: u16,
        name: &[u8],
    ) -> Result<Arc<QueueCell>, Refusal> {
        let vhost = self.vhost()?;
        let name = if name.is_empty() {
            self.last_queue(channel)?
        } else {
            name_of(name, "queue name")?
        };
        let cell = vhost.queue(&name).ok_or(Refusal::NoQueue(name))?;
        self.check_owner(&cell)?;
        Ok(cell)
    }

    pub(crate) fn queue_bind(&mut self, channel: u16, bind: &QueueBind<'_>) -> Result<(), Refusal> {
        let cell = self.named_queue(channel, bind.queue)?;
        let named_by_channel = bind.queue.is_empty() && bind.routing_key.is_empty();
        let key = if named_by_channel {
            cell.name.as_bytes()
        } else {
            bind.routing_key
        };
        let source = name_of(bind.exchange, "exchange name")?;
        let binding = binding(&source, &cell, key, bind.arguments.to_table());
        let bound = self.vhost()?.directory.write().router.bind(&binding);
        bound.map_err(|refused| from_router(refused, &source))?;
        if !bind.nowait {
            self.reply(channel, QueueBindOk {});
        }
        Ok(())
    }

    pub(crate) fn queue_unbind(
        &mut self,
        channel: u16,
        unbind: &QueueUnbind<'_>,
    ) -> Result<(), Refusal> {
        let source = name_of(unbind.exchange, "exchange name")?;
        match self.named_queue(channel, unbind.queue) {
            Ok(cell) => {
                let arguments = unbind.arguments.to_table();
                let binding = binding(&source, &cell, unbind.routing_key, arguments);
                let unbound = self.vhost()?.directory.write().router.unbind(&binding);
                unbound.map_err(|refused| from_router(refused, &source))?;
            }
            // What does not exist is not bound either.
            Err(Refusal::NoQueue(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        self.reply(channel, QueueUnbindOk {});
        Ok(())
    }

    pub(crate) fn queue_purge(
        &mut self,
        channel: u16,
        purge: &QueuePurge<'_>,
    ) -> Result<(), Refusal> {
        let cell = self.named_queue(channel, purge.queue)?;
        let count = cell.purge(&mut self.work);
        if !purge.nowait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reply(channel, QueuePurgeOk { message_count });
        }
        Ok(())
    }

    pub(crate) fn queue_delete(
        &mut self,
        channel: u16,
        delete: &QueueDelete<'_>,
    ) -> Result<(), Refusal> {
        let count = match self.named_queue(channel, delete.queue) {
            Ok(cell) => {
                let condition = Condition {
                    unused: delete.if_unused,
                    empty: delete.if_empty,
                    abandoned: false,
                };
                let vhost = self.vhost()?;
                self.exclusive.retain(|own| !Arc::ptr_eq(own, &cell));
                vhost.delete_queue(&cell, condition, &mut self.work)?
            }
            Err(Refusal::NoQueue(_)) => 0,
            Err(refusal) => return Err(refusal),
        };
        if !delete.nowait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reply(channel, QueueDeleteOk { message_count });
        }
        Ok(())
    }
}

fn binding(source: &str, cell: &QueueCell, key: &[u8], arguments: Table) -> BindingSpec {
    let destination = Destination::Queue(cell.id);
    BindingSpec {
        source: source.into(),
        destination,
        key: key.into(),
        arguments,
    }
}

fn create(
    broker: &Broker,
    directory: &mut Directory,
    name: String,
    spec: QueueSpec,
) -> Arc<QueueCell> {
    let id = directory.next_id();
    let meaning = meaning(&spec.arguments, broker.config.queue);
    let cell = Arc::new(QueueCell::new(name.into(), id, spec, None, meaning));
    directory.insert(&cell);
    cell
}

/// When a queue may be deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Condition {
    /// Only without consumers.
    pub unused: bool,
    /// Only without ready messages.
    pub empty: bool,
    /// Only if its last consumer has gone: `auto_delete`.
    pub abandoned: bool,
}

impl QueueCell {
    /// Drops all ready messages and tells how many there were.
    pub fn purge(&self, work: &mut Work) -> u64 {
        let mut state = self.lock();
        state.queue.purge(|from, to| {
            if let Some(lane) = self.lane {
                for seq in from..to {
                    work.journal.settle(lane, seq);
                }
            }
        })
    }
}

impl Vhost {
    /// Deletes a queue and tells how many messages were ready. Deleting it twice is no error.
    ///
    /// # Errors
    /// When the condition does not hold.
    pub fn delete_queue(
        &self,
        cell: &Arc<QueueCell>,
        condition: Condition,
        work: &mut Work,
    ) -> Result<u64, Refusal> {
        let mut directory = self.directory.write();
        let mut state = cell.lock();
        if cell.is_deleted() {
            return Ok(0);
        }
        let consumers = state.queue.consumer_count();
        if condition.unused && consumers > 0 {
            return Err(Refusal::InUse("queue", cell.name.to_string()));
        }
        if condition.empty && state.queue.ready() > 0 {
            return Err(Refusal::NotEmpty(cell.name.to_string()));
        }
        if condition.abandoned && consumers > 0 {
            return Ok(0);
        }
        cell.mark_deleted();
        directory.remove(cell);
        drop(directory);
        let ready = state.queue.ready();
        let handles = state.queue.cancel_all();
        state.queue.purge(|_, _| ());
        drop(state);
        for handle in handles {
            if handle.peer.cancel_notify.load(Ordering::Relaxed) {
                let cancel = BasicCancel {
                    consumer_tag: &handle.tag,
                    nowait: true,
                };
                let mut outlet = handle.outlet.lock();
                work.reply(&mut outlet, |out| {
                    Method::from(cancel).encode(handle.channel, out)
                });
            }
        }
        Ok(ready)
    }
}
