//! Direct reply-to: replies that reach a channel without a queue being declared for them.
//!
//! A client consumes from the name `amq.rabbitmq.reply-to`. In its requests `reply_to` is replaced
//! by a name nobody can guess, and the default exchange takes whoever publishes to that to the
//! consumer. Behind the name is a queue like any other, bounded and with flow control, except that
//! it is in no list and no method finds it; it ends with its one consumer, as `auto_delete` does.
//!
//! <https://www.rabbitmq.com/docs/direct-reply-to>

use std::sync::Arc;

use leveret_codec::{BasicConsume, QueueDeclare};
use leveret_queue::Consuming;

use crate::broker::Broker;
use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::publish::reply_to::{REPLY_TO, asks_for_replies, no_consumer};
use crate::queue::cell::{QueueCell, QueueIdentity, StoreLanes};
use crate::settings::arguments::InForce;
use crate::settings::spec::QueueSpec;
use crate::vhost::Vhost;

/// What the names given to responders begin with.
const NAME_PREFIX: &str = "amq.rabbitmq.reply-to.";

impl Broker {
    fn create_reply_queue(&self, vhost: &Vhost) -> Result<Arc<QueueCell>, Refusal> {
        let name = self.names.next(NAME_PREFIX);
        let spec = QueueSpec {
            auto_delete: true,
            ..QueueSpec::default()
        };
        let in_force = InForce::of(&spec, None, self.limits().queue);
        let mut directory = vhost.directory.write();
        directory.check_open(vhost)?;
        let id = directory.next_id();
        let identity = QueueIdentity {
            name: name.into(),
            id,
            home: vhost.home(),
        };
        let lanes = StoreLanes::default();
        let cell = Arc::new(QueueCell::new(identity, spec, lanes, in_force));
        directory.insert_unlisted(&cell);
        Ok(cell)
    }
}

impl OpenChannel<'_> {
    /// Whether `basic.consume` of this queue means [`REPLY_TO`]; an empty name stands for what was
    /// declared last.
    pub(crate) fn means_replies(&self, queue: &[u8]) -> bool {
        let last = self.state.last_queue.as_deref();
        queue == REPLY_TO.as_bytes() || queue.is_empty() && last == Some(REPLY_TO)
    }

    /// `basic.consume` from [`REPLY_TO`]. Neither permissions nor arguments matter.
    pub(crate) fn consume_replies(&mut self, consume: &BasicConsume<'_>) -> Result<(), Refusal> {
        self.check_consumers()?;
        if !consume.no_ack {
            let text = "reply consumer cannot acknowledge";
            return Err(Refusal::Precondition(text.into()));
        }
        if self.replies().is_some() {
            let text = "reply consumer already set";
            return Err(Refusal::Precondition(text.into()));
        }
        let tag = self.consumer_tag(consume.consumer_tag)?;
        let cell = self.broker.create_reply_queue(self.vhost)?;
        self.state.replies = Some(Arc::clone(&cell));
        let asked = Consuming {
            prefetch: 0,
            no_ack: true,
            exclusive: false,
            priority: 0,
        };
        let plain = BasicConsume {
            nowait: consume.nowait,
            ..BasicConsume::default()
        };
        self.start_consumer(tag, &cell, asked, &plain)
    }

    /// The queue of the channel's replies, if it consumes any.
    fn replies(&self) -> Option<&Arc<QueueCell>> {
        let replies = self.state.replies.as_ref();
        replies.filter(|replies| !replies.is_deleted())
    }

    /// The name by which replies to a message reach its publisher, if it asks for that.
    ///
    /// # Errors
    /// 406 when its channel consumes no replies.
    pub(crate) fn reply_name(&self, header: &[u8]) -> Result<Option<Arc<str>>, Refusal> {
        if !asks_for_replies(header) {
            return Ok(None);
        }
        let replies = self.replies().ok_or_else(no_consumer)?;
        Ok(Some(Arc::clone(&replies.name)))
    }

    /// `queue.declare` of a name of direct reply-to never makes a queue: it tells whether replies
    /// would still reach somebody.
    ///
    /// # Errors
    /// 404 when nobody is there any more.
    pub(crate) fn declare_reply_name(
        &mut self,
        declare: &QueueDeclare<'_>,
        name: &str,
    ) -> Result<(), Refusal> {
        let router = &self.vhost.directory.read().router;
        if name != REPLY_TO && router.queue_by_name(name.as_bytes()).is_none() {
            return Err(Refusal::NoQueue(name.into()));
        }
        self.declared(declare, &name.into(), (0, 1));
        Ok(())
    }
}
