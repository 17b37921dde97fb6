//! A channel for the time of one event, with everything its methods need.

use std::sync::Arc;

use leveret_codec::{AccessRequestOk, ChannelFlowOk, Method};
use leveret_queue::Unacked;
use leveret_session::{Fault, Verdict};

use crate::access::acting::Acting;
use crate::broker::Broker;
use crate::channel::Channel;
use crate::channel::room::RoomOfPublishers;
use crate::context::refusal::Refusal;
use crate::context::stats::SizeCounts;
use crate::peer::Peer;
use crate::publish::routes::{ExchangeTally, RouteCache};
use crate::queue::cell::QueueCell;
use crate::queue::effects::Effects;
use crate::vhost::Vhost;

/// What the channels of a connection have together.
pub(crate) struct ChannelsShared {
    pub(crate) routes: RouteCache,
    /// Channels with something to confirm.
    pub(crate) confirming: Vec<u16>,
    /// Channels whose answers wait for the disk.
    pub(crate) holding: Vec<u16>,
    /// What these answers take.
    pub(crate) held_bytes: usize,
    /// Queues that end with the connection.
    pub(crate) exclusive: Vec<Arc<QueueCell>>,
    /// Deliveries that are being settled; empty between two events, and kept for its memory.
    pub(crate) settled: Vec<(u32, Unacked, Verdict)>,
    /// A client that expects `basic.qos` to change consumers that run already.
    pub(crate) live_prefetch: bool,
    /// Bytes of all transactions that are not committed.
    pub(crate) staged_bytes: usize,
    pub(crate) room: RoomOfPublishers,
    /// Sizes of what this turn published,
    pub(crate) sizes: SizeCounts,
    /// and where to.
    pub(crate) exchange: ExchangeTally,
}

impl ChannelsShared {
    /// `seed` is for the routes' tables.
    pub(crate) fn new(seed: u64, live_prefetch: bool) -> Self {
        Self {
            routes: RouteCache::new(seed),
            confirming: Vec::new(),
            holding: Vec::new(),
            held_bytes: 0,
            exclusive: Vec::new(),
            settled: Vec::new(),
            live_prefetch,
            staged_bytes: 0,
            room: RoomOfPublishers::default(),
            sizes: SizeCounts::default(),
            exchange: ExchangeTally::default(),
        }
    }

    /// Shows what the turn published.
    pub(crate) fn count_turn(&mut self, peer: &Peer) {
        let sizes = std::mem::take(&mut self.sizes);
        if sizes != SizeCounts::default() {
            peer.sizes.add(&sizes);
        }
        self.exchange.show();
    }
}

/// An open channel, borrowed for one event.
pub(crate) struct OpenChannel<'a> {
    pub(crate) number: u16,
    pub(crate) state: &'a mut Channel,
    pub(crate) shared: &'a mut ChannelsShared,
    pub(crate) user: &'a Arc<str>,
    pub(crate) vhost: &'a Arc<Vhost>,
    pub(crate) broker: &'a Arc<Broker>,
    pub(crate) peer: &'a Arc<Peer>,
    pub(crate) effects: &'a mut Effects,
}

impl<'a> OpenChannel<'a> {
    /// Its user at work.
    pub(crate) fn acting(&self) -> Acting<'a> {
        Acting {
            broker: self.broker,
            vhost: self.vhost,
            user: self.user,
        }
    }

    pub(crate) fn fault_of(&self, refusal: Refusal, method: (u16, u16)) -> Fault {
        refusal.fault(self.number, &self.vhost.name, method)
    }

    /// A method that is not part of a batch.
    pub(crate) fn method(&mut self, method: &Method<'_>) -> Result<(), Fault> {
        self.command(method)
            .map_err(|refusal| self.fault_of(refusal, method.id()))
    }

    fn command(&mut self, method: &Method<'_>) -> Result<(), Refusal> {
        match *method {
            Method::ExchangeDeclare(declare) => self.exchange_declare(&declare),
            Method::ExchangeDelete(delete) => self.exchange_delete(&delete),
            Method::ExchangeBind(bind) => self.exchange_bind(&bind),
            Method::ExchangeUnbind(unbind) => self.exchange_unbind(&unbind),
            Method::QueueDeclare(declare) => self.queue_declare(&declare),
            Method::QueueBind(bind) => self.queue_bind(&bind),
            Method::QueueUnbind(unbind) => self.queue_unbind(&unbind),
            Method::QueuePurge(purge) => self.queue_purge(&purge),
            Method::QueueDelete(delete) => self.queue_delete(&delete),
            Method::BasicConsume(consume) => self.consume(&consume),
            Method::BasicCancel(cancel) => self.cancel(&cancel),
            Method::BasicGet(get) => self.get(&get),
            Method::BasicQos(qos) => self.qos(qos),
            Method::BasicRecover(recover) => self.recover(recover.requeue, true),
            Method::BasicRecoverAsync(recover) => self.recover(recover.requeue, false),
            Method::ConfirmSelect(select) => self.confirm_select(select),
            Method::ChannelFlow(flow) => self.flow(flow.active),
            Method::AccessRequest(_) => {
                self.reply(AccessRequestOk { ticket: 1 });
                Ok(())
            }
            Method::TxSelect(_) => self.tx_select(),
            Method::TxCommit(_) => self.tx_commit(),
            Method::TxRollback(_) => self.tx_rollback(),
            Method::BasicCancelOk(_) | Method::ChannelFlowOk(_) => Ok(()),
            ref other => Err(Refusal::Unexpected(other.name())),
        }
    }

    fn flow(&mut self, active: bool) -> Result<(), Refusal> {
        if !active {
            return Err(Refusal::NotImplemented("active=false".into()));
        }
        self.reply(ChannelFlowOk { active });
        Ok(())
    }
}
