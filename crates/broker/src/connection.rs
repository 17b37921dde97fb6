//! One connection's turn: bytes in, batches through the broker, replies and deliveries out.

pub(crate) mod alarms;
pub(crate) mod assembled;
pub(crate) mod close;
mod ending;
pub(crate) mod login;
pub(crate) mod pause;
pub(crate) mod unfinished;
mod woken;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use leveret_codec::{Method, Table};
use leveret_queue::Unacked;
use leveret_session::{
    Confirms, Event, Fault, Flush, Outlet, OutletLimits, Session, Stranger, Verdict,
};
use leveret_store::{Ticket, Waiter};
use parking_lot::Mutex;

use ending::Ending;
use woken::Woken;

use crate::acting::Acting;
use crate::broker::{Broker, Peer};
use crate::channel::{Channel, UNSUBMITTED};
use crate::connection::assembled::Whole;
use crate::connection::close::{Leaving, Parting};
use crate::connection::login::LoginRefusal;
use crate::connection::pause::Stall;
use crate::connection::unfinished::{Begun, UnfinishedOf};
use crate::context::refusal::Refusal;
use crate::context::stats::{ChannelStats, Count, Event as Counted, SizeCounts, Sizes};
use crate::publish::routes::{ExchangeTally, RouteCache};
use crate::queue::cell::QueueCell;
use crate::queue::lease::Leases;
use crate::queue::pump::Work;
use crate::vhost::Vhost;

/// What the caller does after a turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Bytes understood; the rest comes again in front of the next read.
    pub consumed: usize,
    /// The turn was full, or ended before what has to wait: call again with the rest before reading
    /// more, once there is no [`Pause`](crate::Pause).
    pub unfinished: bool,
    /// A queue grows although its consumers have credit: read on a little later.
    pub pause_ms: u64,
    /// Persistent messages were published: read on when the store takes more.
    pub persistent: bool,
    /// It was spent on finding where messages go: others come first.
    pub laborious: bool,
    /// The login was refused: write the answer a little later.
    pub login_refused: bool,
    /// The client is not told why this is the end, as it has not logged in: let it wait for a good
    /// while, so that trying costs it time.
    pub silent: bool,
    /// Hang up once everything is written.
    pub ended: bool,
    /// The end is the client's wish: it hangs up once it has read `connection.close-ok`.
    pub client_hangs_up: bool,
}

/// A connection, owned by its reader.
pub struct Connection {
    pub(crate) session: Session,
    pub(crate) core: Core,
    /// It ends so, once it has given back what it holds.
    pub(crate) ending: Option<Ending>,
    /// How one side closed it.
    parting: Option<Parting>,
    silent: bool,
}

/// What the batches of a connection work on.
pub(crate) struct Core {
    pub(crate) broker: Arc<Broker>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) vhost: Option<Arc<Vhost>>,
    pub(crate) user: Arc<str>,
    /// Counted among the connections of its virtual host and user.
    pub(crate) entered: bool,
    pub(crate) channels: Vec<Option<Box<Channel>>>,
    pub(crate) confirming: Vec<u16>,
    /// Channels whose answers wait for the disk.
    pub(crate) holding: Vec<u16>,
    pub(crate) held_bytes: usize,
    /// The channel of the method that the rest of the input begins with: it waits for the answers
    /// before it.
    pub(crate) waits: Option<u16>,
    pub(crate) exclusive: Vec<Arc<QueueCell>>,
    pub(crate) routes: RouteCache,
    pub(crate) work: Work,
    /// A message whose route takes more than one turn.
    pub(crate) later: Option<Box<Whole>>,
    pub(crate) settled: Vec<(u32, Unacked, Verdict)>,
    pub(crate) tell_login_failure: bool,
    /// A client that expects `basic.qos` to change consumers that run already.
    pub(crate) live_prefetch: bool,
    pub(crate) login_refused: bool,
    pub(crate) refusal: Option<LoginRefusal>,
    pub(crate) sizes: SizeCounts,
    pub(crate) begun: Begun,
    pub(crate) exchange: ExchangeTally,
    pub(crate) stall: Option<Stall>,
    /// What it is giving back, as it ends.
    pub(crate) leaving: Option<Box<Leaving>>,
    waiter: Arc<Woken>,
}

/// Where a connection comes from.
pub struct Origin {
    /// `client:port -> server:port`.
    pub name: String,
    /// From the broker's own machine.
    pub loopback: bool,
    /// When, as the system's clock had it: unix milliseconds, to be shown.
    pub connected_at_ms: u64,
}

fn outlet_limits(broker: &Broker) -> OutletLimits {
    OutletLimits {
        outbound_bytes_max: broker.config.outbound_bytes_max,
        channel_unacked_max: broker.config.channel_unacked_max,
    }
}

impl Connection {
    /// A connection that waits for the protocol header. `now_ms` is of the clock that
    /// [`Self::receive`] and the timer are told of.
    #[must_use]
    pub fn new(broker: Arc<Broker>, origin: Origin, now_ms: u64, flusher: Arc<dyn Flush>) -> Self {
        let limits = outlet_limits(&broker);
        let peer = Arc::new(Peer {
            id: broker.next_connection(),
            name: origin.name,
            loopback: origin.loopback,
            outlet: Arc::new(Mutex::new(Outlet::new(Arc::clone(&flusher), limits))),
            user: Mutex::default(),
            vhost: Mutex::default(),
            client_properties: Mutex::new(Table::new()),
            connected_at_ms: origin.connected_at_ms,
            cancel_notify: AtomicBool::new(false),
            received_ms: AtomicU64::new(now_ms),
            heartbeat_s: AtomicU16::new(0),
            channel_max: AtomicU16::new(0),
            mechanism: OnceLock::new(),
            wrote: AtomicU64::new(0),
            wrote_ms: AtomicU64::new(now_ms),
            close: Mutex::default(),
            dead: AtomicBool::new(false),
            leases: Leases::default(),
            paused: AtomicBool::new(false),
            blocked: AtomicU8::new(0),
            blocked_notify: AtomicBool::new(false),
            channels: Mutex::default(),
            arguments_bytes: AtomicUsize::new(0),
            sizes: Sizes::default(),
            unfinished: UnfinishedOf::default(),
            received_bytes: Count::default(),
            reads: Count::default(),
        });
        broker.register(&peer);
        let session = Session::new(broker.session());
        let core = Core {
            routes: RouteCache::new(broker.next_seed()),
            broker,
            peer,
            vhost: None,
            user: Arc::default(),
            entered: false,
            channels: Vec::new(),
            confirming: Vec::new(),
            holding: Vec::new(),
            held_bytes: 0,
            waits: None,
            exclusive: Vec::new(),
            work: Work::default(),
            later: None,
            settled: Vec::new(),
            tell_login_failure: false,
            live_prefetch: false,
            login_refused: false,
            refusal: None,
            sizes: SizeCounts::default(),
            begun: Begun::default(),
            exchange: ExchangeTally::default(),
            stall: None,
            leaving: None,
            waiter: Woken::new(flusher),
        };
        Self {
            session,
            core,
            ending: None,
            parting: None,
            silent: false,
        }
    }

    /// This connection as others see it.
    #[must_use]
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.core.peer
    }

    /// Whether login and virtual host are settled.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.session.is_running()
    }

    /// Whether what it sends next may be a login.
    #[must_use]
    pub fn awaits_login(&self) -> bool {
        self.core.user.is_empty() && !self.session.is_closing()
    }

    /// Whether `connection.close` was sent, or nothing is awaited any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.session.is_closing()
    }

    /// The largest frame in force, bytes.
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.session.frame_max()
    }

    /// Takes one read's bytes through the broker and flushes what that made dirty.
    ///
    /// Call it with no bytes after an interruption. `now_ms` never goes back nor leaps.
    pub fn receive(&mut self, input: &[u8], now_ms: u64) -> Turn {
        if !input.is_empty() {
            self.core.peer.received_ms.store(now_ms, Ordering::Relaxed);
            self.core.peer.reads.add(1);
            self.core.waits = None;
        }
        let mut turn = Turn::default();
        let mut rest = false;
        self.session.set_now(now_ms);
        self.core.broker.set_now(now_ms);
        self.close_if_asked();
        if let Err(fault) = self.core.publish_later() {
            self.fail(fault);
        }
        turn.unfinished = self.take_back();
        loop {
            if self.core.work.is_full() || self.waits_for_room() {
                turn.unfinished = true;
                break;
            }
            match self.step(input, &mut turn.consumed) {
                Ok(Step::More) => {}
                Ok(Step::Pending) => {
                    rest = true;
                    break;
                }
                Ok(Step::Waits) => {
                    turn.unfinished = true;
                    break;
                }
                Ok(step @ (Step::Closed | Step::Ended)) => {
                    turn.ended = true;
                    turn.client_hangs_up = matches!(step, Step::Closed);
                    break;
                }
                Err(fault) => {
                    if matches!(self.fail(fault), Step::Waits) {
                        break;
                    }
                }
            }
            self.forward_replies();
        }
        let rest = rest.then(|| input.get(turn.consumed..).unwrap_or_default());
        self.count_unfinished(rest.filter(|_| !input.is_empty()), now_ms);
        self.core.release_held();
        self.forward_replies();
        self.core.end_turn();
        turn.unfinished |= self.core.waits.is_some() || self.ending.is_some();
        self.core.peer.received_bytes.add(turn.consumed as u64);
        turn.ended |= self.core.peer.dead.load(Ordering::Acquire);
        turn.pause_ms = std::mem::take(&mut self.core.work.pause_ms);
        turn.laborious = self.core.routes.were_laborious();
        self.core.work.steps = 0;
        turn.persistent = std::mem::take(&mut self.core.work.persistent);
        turn.login_refused = std::mem::take(&mut self.core.login_refused);
        turn.silent = std::mem::take(&mut self.silent);
        turn
    }

    fn step(&mut self, input: &[u8], at: &mut usize) -> Result<Step, Fault> {
        if let Some(ending) = self.ending.take() {
            return Ok(self.end(ending));
        }
        let Self { session, core, .. } = self;
        if let Some((channel, message)) = core.begun.parked.take() {
            return core.assembled(channel, message);
        }
        match session.next(input, at)? {
            Event::Publishes(_) if core.is_alarmed() => {
                session.unread(at);
                return Ok(Step::Waits);
            }
            Event::Publishes(batch) => {
                let published = core.publish(&batch)?;
                if published < batch.len() {
                    *at = batch.end_of(published).unwrap_or(*at);
                }
            }
            Event::Settlements(channel, settlements) => core.settle(channel, settlements)?,
            Event::Pending => return Ok(Step::Pending),
            Event::Part if core.is_alarmed() => return Ok(Step::Waits),
            Event::Progress | Event::Part => {}
            Event::Assembled(channel, message) => {
                let now_ms = core.peer.received_ms.load(Ordering::Relaxed);
                core.peer.unfinished.completed(now_ms);
                return core.assembled(channel, message);
            }
            Event::Method(channel, method) if core.must_wait(channel, &method) => {
                session.unread(at);
                core.waits = Some(channel);
                return Ok(Step::Waits);
            }
            Event::Method(channel, method) => core.method(channel, &method)?,
            Event::ChannelOpened(channel) => {
                core.open_channel(channel)?;
                session.channel_open_ok(channel);
            }
            Event::ChannelClosed(channel) => {
                core.close_channel(channel);
                session.channel_close_ok(channel);
            }
            Event::Login {
                client_properties,
                mechanism,
                response,
            } => {
                core.login(client_properties, mechanism, response)?;
                session.tune();
            }
            Event::Open { vhost } => {
                core.open_vhost(vhost)?;
                core.peer.outlet.lock().set_frame_max(session.frame_max());
                let channel_max = session.channel_max();
                core.peer.channel_max.store(channel_max, Ordering::Relaxed);
                core.broker.set_heartbeat(&core.peer, session.heartbeat_s());
                session.open_ok();
                self.refuse_if_stopping()?;
            }
            Event::Closed { code, text } => {
                let parting = || Parting::by_client(code, text);
                self.parting.get_or_insert_with(parting);
                return Ok(self.end(Ending::Closed));
            }
            Event::Ended => return Ok(Step::Ended),
        }
        Ok(Step::More)
    }

    /// Moves the session's own frames to the outlet.
    fn forward_replies(&mut self) {
        let replies = self.session.replies();
        if !replies.is_empty() {
            let mut outlet = self.core.peer.outlet.lock();
            self.core
                .work
                .reply(&mut outlet, |out| out.extend_from_slice(replies));
            // Replies are rare, connections may be many.
            *replies = Vec::new();
        }
    }

    /// The same for frames after which only `close-ok` may follow.
    fn forward_last(&mut self) {
        let replies = self.session.replies();
        if !replies.is_empty() {
            let mut outlet = self.core.peer.outlet.lock();
            if outlet.close_ok(|out| out.extend_from_slice(replies)) {
                self.core.work.dirtied(&outlet);
            }
            replies.clear();
        }
    }

    /// Why the login was refused, if it was: for logs, not for the client.
    #[must_use]
    pub const fn login_refusal(&self) -> Option<&LoginRefusal> {
        self.core.refusal.as_ref()
    }

    /// How one side closed it, if any did: whichever was first.
    #[must_use]
    pub const fn parting(&self) -> Option<&Parting> {
        self.parting.as_ref()
    }

    /// Whether its replies pile up, as the client does not read them.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        self.core.stall.is_some()
    }

    /// What the client speaks instead of AMQP 0-9-1, if it has begun with that.
    #[must_use]
    pub const fn stranger(&self) -> Option<Stranger> {
        self.session.stranger()
    }
}

pub(crate) enum Step {
    More,
    Pending,
    /// What comes next has to wait.
    Waits,
    /// By the client.
    Closed,
    Ended,
}

impl Core {
    pub(crate) fn channel(&mut self, channel: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(channel))?.as_deref_mut()
    }

    fn open_channel(&mut self, channel: u16) -> Result<(), Fault> {
        self.count_channel()?;
        let index = usize::from(channel);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        let stats = Arc::new(ChannelStats {
            number: channel,
            ..ChannelStats::default()
        });
        self.peer.channels.lock().open.push(Arc::clone(&stats));
        self.broker.events.count(Counted::ChannelOpened);
        if let Some(slot) = self.channels.get_mut(index) {
            *slot = Some(Box::new(Channel::new(stats)));
        }
        self.peer.outlet.lock().open_channel(channel);
        Ok(())
    }

    /// This connection's user at work.
    pub(crate) fn acting<'a>(&'a self, vhost: &'a Vhost) -> Acting<'a> {
        Acting {
            broker: &self.broker,
            vhost,
            user: &self.user,
        }
    }

    /// Hands the turn's records to the store, confirms what needs no waiting, flushes.
    pub(crate) fn end_turn(&mut self) {
        let ticket = self.broker.submit(&mut self.work);
        let mut waits_for = self.held_for();
        if !self.confirming.is_empty() {
            // Also with nothing recorded: publishes of this turn then wait for nothing.
            self.submitted(ticket);
            waits_for = waits_for.max(self.confirm());
        }
        self.count_turn();
        if let Some(ticket) = waits_for
            && !self.waiter.waiting.swap(true, Ordering::AcqRel)
        {
            let waiter: Arc<dyn Waiter> = Arc::clone(&self.waiter) as Arc<dyn Waiter>;
            self.broker.store.wake_at(ticket, waiter);
        }
        // The answer to a refused login waits for the caller.
        if !self.login_refused {
            self.work.flush();
        }
    }

    /// Shows what the turn published.
    fn count_turn(&mut self) {
        let sizes = std::mem::take(&mut self.sizes);
        if sizes != SizeCounts::default() {
            self.peer.sizes.add(&sizes);
        }
        self.exchange.show();
    }

    /// Publishes of this turn wait for the ticket of its records.
    fn submitted(&mut self, ticket: Ticket) {
        for index in 0..self.confirming.len() {
            let Some(&channel) = self.confirming.get(index) else {
                return;
            };
            if let Some(confirms) = self.channel(channel).and_then(|ch| ch.confirms.as_mut()) {
                confirms.submitted(UNSUBMITTED, ticket.0);
            }
        }
    }

    /// Sends the confirms that the store's watermark allows; gives what the others wait for.
    fn confirm(&mut self) -> Option<Ticket> {
        let durable = self.broker.store.durable();
        let mut outlet = self.peer.outlet.lock();
        let mut first = false;
        let mut waits_for = None;
        let channels = &mut self.channels;
        self.confirming.retain(|&number| {
            let state = channels
                .get_mut(usize::from(number))
                .and_then(Option::as_deref_mut);
            let Some(state) = state else { return false };
            if !state.held.is_empty() {
                // They come after the answer to confirm.select.
                return true;
            }
            first |= state.confirm(number, durable, &mut outlet);
            let waits = state.confirms.as_ref().and_then(Confirms::waits_for);
            waits_for = waits_for.max(waits);
            state.confirming = waits.is_some();
            state.confirming
        });
        if first {
            self.work.dirtied(&outlet);
        }
        waits_for.map(Ticket)
    }

    /// A method that is not part of a batch.
    fn method(&mut self, channel: u16, method: &Method<'_>) -> Result<(), Fault> {
        let id = method.id();
        self.command(channel, method)
            .map_err(|refusal| self.fault_of(refusal, channel, id))
    }

    pub(crate) fn fault_of(&self, refusal: Refusal, channel: u16, method: (u16, u16)) -> Fault {
        let vhost = self.vhost.as_ref().map_or("", |vhost| &*vhost.name);
        refusal.fault(channel, vhost, method)
    }

    fn command(&mut self, channel: u16, method: &Method<'_>) -> Result<(), Refusal> {
        match *method {
            Method::ExchangeDeclare(declare) => self.exchange_declare(channel, &declare),
            Method::ExchangeDelete(delete) => self.exchange_delete(channel, &delete),
            Method::ExchangeBind(bind) => self.exchange_bind(channel, &bind),
            Method::ExchangeUnbind(unbind) => self.exchange_unbind(channel, &unbind),
            Method::QueueDeclare(declare) => self.queue_declare(channel, &declare),
            Method::QueueBind(bind) => self.queue_bind(channel, &bind),
            Method::QueueUnbind(unbind) => self.queue_unbind(channel, &unbind),
            Method::QueuePurge(purge) => self.queue_purge(channel, &purge),
            Method::QueueDelete(delete) => self.queue_delete(channel, &delete),
            Method::BasicConsume(consume) => self.consume(channel, &consume),
            Method::BasicCancel(cancel) => self.cancel(channel, &cancel),
            Method::BasicGet(get) => self.get(channel, &get),
            Method::BasicQos(qos) => self.qos(channel, qos),
            Method::BasicRecover(recover) => self.recover(channel, recover.requeue, true),
            Method::BasicRecoverAsync(recover) => self.recover(channel, recover.requeue, false),
            Method::ConfirmSelect(select) => self.confirm_select(channel, select),
            Method::ChannelFlow(flow) => self.flow(channel, flow.active),
            Method::AccessRequest(_) => {
                self.reply(channel, leveret_codec::AccessRequestOk { ticket: 1 });
                Ok(())
            }
            Method::TxSelect(_) => self.tx_select(channel),
            Method::TxCommit(_) => self.tx_commit(channel),
            Method::TxRollback(_) => self.tx_rollback(channel),
            Method::ConnectionUpdateSecret(_) => {
                self.update_secret();
                Ok(())
            }
            Method::BasicCancelOk(_) | Method::ChannelFlowOk(_) => Ok(()),
            ref other => Err(Refusal::Unexpected(other.name())),
        }
    }

    /// The virtual host; every command comes after `connection.open`.
    pub(crate) fn vhost(&self) -> Result<Arc<Vhost>, Refusal> {
        self.vhost
            .clone()
            .ok_or_else(|| Refusal::NotImplemented("no virtual host".into()))
    }
}
