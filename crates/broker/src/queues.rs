//! The queue class.

use std::sync::Arc;

use leveret_codec::{
    QueueBind, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk, QueuePurge,
    QueuePurgeOk, QueueUnbind, QueueUnbindOk,
};

use crate::cell::{QueueCell, QueueSpec};
use crate::connection::Core;
use crate::exchanges::name_of;
use crate::operations::{Condition, queue_binding};
use crate::refusal::Refusal;
use crate::stats::Event;

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
            self.broker.events.count(Event::QueueDeclared);
            let declared = self
                .broker
                .declare_queue(&vhost, &name, spec, &mut self.work);
            let (cell, created) = declared?;
            if created && cell.spec.owner.is_some() {
                self.exclusive.push(Arc::clone(&cell));
            }
            cell
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
            self.reply_durable(
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
        let binding = queue_binding(&source, &cell, key, bind.arguments.to_table());
        let vhost = self.vhost()?;
        self.broker.bind(&vhost, &binding, &mut self.work)?;
        if !bind.nowait {
            self.reply_durable(channel, QueueBindOk {});
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
                let binding = queue_binding(&source, &cell, unbind.routing_key, arguments);
                let vhost = self.vhost()?;
                self.broker.unbind(&vhost, &binding, &mut self.work)?;
            }
            // What does not exist is not bound either.
            Err(Refusal::NoQueue(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        self.reply_durable(channel, QueueUnbindOk {});
        Ok(())
    }

    pub(crate) fn queue_purge(
        &mut self,
        channel: u16,
        purge: &QueuePurge<'_>,
    ) -> Result<(), Refusal> {
        let cell = self.named_queue(channel, purge.queue)?;
        let count = self.broker.purge_queue(&cell, &mut self.work);
        if !purge.nowait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reply_durable(channel, QueuePurgeOk { message_count });
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
                let deleted = self
                    .broker
                    .delete_queue(&vhost, &cell, condition, &mut self.work)?;
                // Not before: one that stays is still to be deleted with the connection.
                self.exclusive.retain(|own| !Arc::ptr_eq(own, &cell));
                deleted
            }
            Err(Refusal::NoQueue(_)) => 0,
            Err(refusal) => return Err(refusal),
        };
        if !delete.nowait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reply_durable(channel, QueueDeleteOk { message_count });
        }
        Ok(())
    }
}
