//! How queues end: whoever deletes one, or uses it no more. What died in it goes on before.

use std::sync::Arc;

use crate::broker::Broker;
use crate::context::refusal::Refusal;
use crate::queue::cell::QueueCell;
use crate::queue::consumer::{Handle, tell_end};
use crate::queue::effects::Effects;
use crate::topology::operations::Condition;
use crate::vhost::Vhost;

impl Broker {
    /// Deletes a queue and tells how many messages were ready. Deleting it twice is no error.
    ///
    /// # Errors
    /// When the condition does not hold.
    pub fn delete_queue(
        &self,
        vhost: &Vhost,
        cell: &Arc<QueueCell>,
        condition: Condition,
        effects: &mut Effects,
    ) -> Result<u64, Refusal> {
        self.end_queue(
            (vhost, cell),
            condition,
            |one, effects| tell_end(one, effects),
            effects,
        )
    }

    /// The same; `tell` sees the consumers that end with it.
    pub(crate) fn end_queue(
        &self,
        (vhost, cell): (&Vhost, &Arc<QueueCell>),
        condition: Condition,
        mut tell: impl FnMut(&Arc<Handle>, &mut Effects),
        effects: &mut Effects,
    ) -> Result<u64, Refusal> {
        let (directory, mut state) = loop {
            // What has died is no part of it any more.
            self.bury_all(cell, effects);
            let (directory, state) = (vhost.directory.write(), cell.lock());
            let (now_ms, queue) = (self.timer.now_ms(), &state.queue);
            if !queue.has_unburied(now_ms) && !queue.burial_waits_for_page(now_ms) {
                break (directory, state);
            }
        };
        if cell.is_deleted() {
            effects.depends_on(directory.changed);
            return Ok(0);
        }
        let consumers = state.queue.consumer_count();
        if condition.unused && consumers > 0 {
            return Err(Refusal::InUse("queue", cell.name.to_string()));
        }
        if condition.empty && state.queue.ready() > 0 {
            return Err(Refusal::NotEmpty(cell.name.to_string()));
        }
        let lives_on = condition.expired && !state.is_over(self.timer.now_ms());
        if (condition.abandoned && consumers > 0) || lives_on {
            return Ok(0);
        }
        cell.mark_deleted();
        self.take_out(vhost, directory, cell, effects);
        self.timer.disarm(cell, &mut state);
        let ended = state.queue.take();
        // With the queue locked: a channel that is closing, or has one of these consumers end,
        // waits for that, so that it is not told of what it has been done with.
        for handle in ended.handles() {
            handle.end();
            tell(handle, effects);
        }
        drop(state);
        Ok(ended.ready())
    }

    /// A consumer has left: the queue may end with it, or another one may be active now.
    pub(crate) fn consumer_left(
        &self,
        vhost: &Vhost,
        cell: &Arc<QueueCell>,
        effects: &mut Effects,
    ) {
        if cell.spec.auto_delete {
            let abandoned = Condition {
                abandoned: true,
                ..Condition::default()
            };
            // Its only condition is looked at there; that it fails means somebody else consumes.
            let _ = self.delete_queue(vhost, cell, abandoned, effects);
        }
        cell.pump(effects);
    }

    /// Deletes queues and exchanges that do not survive a restart.
    ///
    /// # Errors
    /// None is expected: what is in use is deleted as well.
    pub fn forget_transient(&self, effects: &mut Effects) -> Result<(), Refusal> {
        for vhost in self.vhosts() {
            let directory = vhost.directory.read();
            let cells = directory.queues().filter(|cell| !cell.spec.durable);
            let cells: Vec<_> = cells.cloned().collect();
            let exchanges = directory.router.exchanges();
            let transient = exchanges.filter(|exchange| !exchange.spec().durable);
            let names: Vec<_> = transient
                .map(|exchange| exchange.name().to_owned())
                .collect();
            drop(directory);
            for cell in cells {
                self.delete_queue(&vhost, &cell, Condition::default(), effects)?;
            }
            for name in names {
                self.delete_exchange(&vhost, &name, false, effects)?;
            }
        }
        Ok(())
    }
}
