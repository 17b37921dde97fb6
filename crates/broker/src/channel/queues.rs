//! The queue class.

use std::borrow::Cow;
use std::sync::Arc;

use leveret_access::Right;
use leveret_codec::{
    QueueBind, QueueBindOk, QueueDeclare, QueueDeclareOk, QueueDelete, QueueDeleteOk, QueuePurge,
    QueuePurgeOk, QueueUnbind, QueueUnbindOk,
};

use crate::access::acting::Resource;
use crate::channel::exchanges::name_of;
use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::context::stats::Churn;
use crate::publish::reply_to::REPLY_TO;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::{Handle, tell_end};
use crate::queue::effects::Effects;
use crate::settings::spec::QueueSpec;
use crate::topology::operations::{Condition, give_default_type};
use crate::vhost::binding::Binding;

impl OpenChannel<'_> {
    pub(crate) fn queue_declare(&mut self, declare: &QueueDeclare<'_>) -> Result<(), Refusal> {
        let name = name_of(declare.queue, "queue name")?;
        if name.starts_with(REPLY_TO) {
            return self.declare_reply_name(declare, &name);
        }
        let cell = if declare.passive {
            self.acting().check_any(Resource::Queue(&name))?;
            let found = self.vhost.queue(&name);
            found.ok_or(Refusal::NoQueue(name))?
        } else {
            let spec = QueueSpec {
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                owner: declare.exclusive.then_some(self.peer.client.id),
                arguments: declare.arguments.to_table(),
                declared_by: Some(Arc::clone(self.user)),
            };
            self.declare(name, spec)?
        };
        self.check_owner(&cell)?;
        let mut state = cell.lock();
        cell.used(&mut state);
        let counts = (state.queue.ready(), state.queue.consumer_count() as u64);
        drop(state);
        self.declared(declare, &cell.name, counts);
        Ok(())
    }

    /// Answers with how many messages are ready, and how many consumers there are.
    pub(crate) fn declared(
        &mut self,
        declare: &QueueDeclare<'_>,
        name: &Arc<str>,
        (ready, consumers): (u64, u64),
    ) {
        self.state.last_queue = Some(Arc::clone(name));
        if !declare.nowait {
            let declared = QueueDeclareOk {
                queue: name.as_bytes(),
                message_count: u32::try_from(ready).unwrap_or(u32::MAX),
                consumer_count: u32::try_from(consumers).unwrap_or(u32::MAX),
            };
            self.reply_durable(declared);
        }
    }

    fn declare(&mut self, name: String, mut spec: QueueSpec) -> Result<Arc<QueueCell>, Refusal> {
        let made_up = name.is_empty();
        give_default_type(self.vhost, &name, &mut spec);
        if made_up && spec.is_quorum() {
            let text = "Cannot declare a server-named queue for type rabbit_quorum_queue";
            return Err(Refusal::Precondition(text.into()));
        }
        let name = if made_up {
            self.broker.queue_name()
        } else {
            name
        };
        self.acting().declare_queue(&name, &spec.arguments)?;
        self.broker.events.count(Churn::QueueDeclared);
        let (cell, created) = if made_up {
            self.broker
                .declare_new_queue(self.vhost, &name, spec, self.effects)?
        } else {
            self.broker
                .declare_queue(self.vhost, &name, spec, self.effects)?
        };
        if created && cell.spec.owner.is_some() {
            self.own(&cell);
        }
        Ok(cell)
    }

    /// Remembers a queue that ends with this connection. Those that have ended before are forgotten
    /// whenever the list would have to grow.
    fn own(&mut self, cell: &Arc<QueueCell>) {
        let own = &mut self.shared.exclusive;
        if own.len() == own.capacity() {
            own.retain(|cell| !cell.is_deleted());
            own.reserve(own.len() + 1);
        }
        own.push(Arc::clone(cell));
    }

    /// An exclusive queue serves its own connection only.
    pub(crate) fn check_owner(&self, cell: &QueueCell) -> Result<(), Refusal> {
        match cell.spec.owner {
            Some(owner) if owner != self.peer.client.id => {
                Err(Refusal::Locked(cell.name.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// The name a method gives; an empty one means the queue declared last on the channel.
    fn queue_name(&self, name: &[u8]) -> Result<String, Refusal> {
        if !name.is_empty() {
            return name_of(name, "queue name");
        }
        let last = self.state.last_queue.as_deref();
        last.map(String::from).ok_or(Refusal::NoPreviousQueue)
    }

    /// The queue a method names, if the user may do to it what the method does.
    pub(crate) fn named_queue(&self, name: &[u8], right: Right) -> Result<Arc<QueueCell>, Refusal> {
        let name = self.queue_name(name)?;
        self.acting().check(right, Resource::Queue(&name))?;
        self.existing_queue(name)
    }

    fn existing_queue(&self, name: String) -> Result<Arc<QueueCell>, Refusal> {
        let cell = self.vhost.queue(&name).ok_or(Refusal::NoQueue(name))?;
        self.check_owner(&cell)?;
        Ok(cell)
    }

    /// The names of queue and exchange, and the routing key, to bind or unbind; where
    /// both queue and key are empty, both are the queue declared last on the channel.
    fn bound_names<'k>(
        &self,
        queue: &[u8],
        exchange: &[u8],
        key: &'k [u8],
    ) -> Result<(String, String, Cow<'k, [u8]>), Refusal> {
        let source = name_of(exchange, "exchange name")?;
        let name = self.queue_name(queue)?;
        let key = if queue.is_empty() && key.is_empty() {
            Cow::Owned(name.clone().into_bytes())
        } else {
            Cow::Borrowed(key)
        };
        Ok((name, source, key))
    }

    pub(crate) fn queue_bind(&mut self, bind: &QueueBind<'_>) -> Result<(), Refusal> {
        let (name, source, key) = self.bound_names(bind.queue, bind.exchange, bind.routing_key)?;
        let resource = Resource::Queue(&name);
        self.acting().bind(&source, resource, &key)?;
        if self
            .vhost
            .directory
            .read()
            .router
            .exchange(&source)
            .is_none()
        {
            return Err(Refusal::NoExchange(source));
        }
        let cell = self.existing_queue(name)?;
        let binding = Binding::of_queue(&source, &cell, &key, bind.arguments.to_table());
        self.broker.bind(self.vhost, &binding, self.effects)?;
        if !bind.nowait {
            self.reply_durable(QueueBindOk {});
        }
        Ok(())
    }

    pub(crate) fn queue_unbind(&mut self, unbind: &QueueUnbind<'_>) -> Result<(), Refusal> {
        let (name, source, key) =
            self.bound_names(unbind.queue, unbind.exchange, unbind.routing_key)?;
        let resource = Resource::Queue(&name);
        self.acting().bind(&source, resource, &key)?;
        // What does not exist is not bound either.
        if let Some(cell) = self.vhost.queue(&name) {
            let binding = Binding::of_queue(&source, &cell, &key, unbind.arguments.to_table());
            if self.vhost.directory.read().router.is_bound(binding.spec()) {
                self.check_owner(&cell)?;
            }
            self.broker.unbind(self.vhost, &binding, self.effects)?;
        } else {
            self.found_gone();
        }
        self.reply_durable(QueueUnbindOk {});
        Ok(())
    }

    /// What was not found may be gone for a moment only: not yet for a restart.
    fn found_gone(&mut self) {
        self.effects.depends_on(self.vhost.directory.read().changed);
    }

    pub(crate) fn queue_purge(&mut self, purge: &QueuePurge<'_>) -> Result<(), Refusal> {
        let cell = self.named_queue(purge.queue, Right::Read)?;
        let count = self.broker.purge_queue(&cell, self.effects);
        if !purge.nowait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reply_durable(QueuePurgeOk { message_count });
        }
        Ok(())
    }

    pub(crate) fn queue_delete(&mut self, delete: &QueueDelete<'_>) -> Result<(), Refusal> {
        let mut own = Vec::new();
        let count = match self.named_queue(delete.queue, Right::Configure) {
            Ok(cell) => {
                let condition = Condition {
                    unused: delete.if_unused,
                    empty: delete.if_empty,
                    ..Condition::default()
                };
                let (number, client) = (self.number, &self.peer.client);
                // Of its own consumers a channel hears behind the answer.
                let tell = |handle: &Arc<Handle>, effects: &mut Effects| {
                    if handle.channel == number && Arc::ptr_eq(&handle.client, client) {
                        own.push(Arc::clone(handle));
                    } else {
                        tell_end(handle, effects);
                    }
                };
                self.broker
                    .end_queue((self.vhost, &cell), condition, tell, self.effects)?
            }
            Err(Refusal::NoQueue(_)) => {
                self.found_gone();
                0
            }
            Err(refusal) => return Err(refusal),
        };
        if !delete.nowait {
            let message_count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reply_durable(QueueDeleteOk { message_count });
        }
        for cancel in own.iter().filter_map(|handle| handle.cancel()) {
            self.reply_durable(cancel);
        }
        Ok(())
    }
}
