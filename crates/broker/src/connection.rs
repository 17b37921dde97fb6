//! One connection's turn: bytes in, batches through the broker, replies and deliveries out.

pub(crate) mod alarms;
pub(crate) mod desk;
mod ending;
pub(crate) mod leaving;
pub(crate) mod login;
mod overdue;
pub(crate) mod parting;
pub(crate) mod pause;
pub(crate) mod phase;
pub(crate) mod unfinished;
mod whole;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_session::{Event, Fault, Flush, Outlet, OutletLimits, Session, Stranger};
use parking_lot::Mutex;

use ending::Ending;

use crate::broker::{Broker, stopping};
use crate::connection::desk::Desk;
use crate::connection::login::{Login, LoginRefusal};
use crate::connection::parting::Parting;
use crate::connection::pause::{Slowed, Stall};
use crate::connection::phase::Phase;
use crate::context::client::{Client, Origin};
use crate::peer::Peer;

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
    /// Messages that were published or deliveries that were settled, whichever are more.
    pub messages: usize,
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
    session: Session,
    desk: Desk,
    phase: Phase,
    login: Login,
    /// It ends so, once it has given back what it holds.
    ending: Option<Ending>,
    /// How one side closed it.
    parting: Option<Parting>,
    silent: bool,
    /// Its replies pile up.
    stall: Option<Stall>,
    /// A queue it publishes to slows it down.
    slowed: Option<Slowed>,
    /// Bytes of a large frame that is not there wholly yet.
    partial_frame_bytes: usize,
}

impl Connection {
    /// A connection that waits for the protocol header. `now_ms` is of the clock that
    /// [`Self::receive`] and the timer are told of.
    #[must_use]
    pub fn new(broker: Arc<Broker>, origin: Origin, now_ms: u64, flusher: Arc<dyn Flush>) -> Self {
        let limits = OutletLimits {
            outbound_bytes_max: broker.config.outbound_bytes_max,
            channel_unacked_max: broker.config.channel_unacked_max,
        };
        let client = Client::new(broker.next_connection(), origin);
        let outlet = Outlet::new(Arc::clone(&flusher), limits);
        let peer = Arc::new(Peer::new(client, Arc::new(Mutex::new(outlet)), now_ms));
        broker.register(&peer);
        // Whoever is there when the broker stops is told; this one may have come a moment later.
        if broker.is_stopping() {
            peer.close(stopping());
        }
        Self {
            session: Session::new(broker.session()),
            desk: Desk::new(broker, peer, flusher),
            phase: Phase::Greeting,
            login: Login::default(),
            ending: None,
            parting: None,
            silent: false,
            stall: None,
            slowed: None,
            partial_frame_bytes: 0,
        }
    }

    /// This connection as others see it.
    #[must_use]
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.desk.peer
    }

    /// Whether login and virtual host are settled.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.session.is_running()
    }

    /// Whether what it sends next may be a login.
    #[must_use]
    pub fn awaits_login(&self) -> bool {
        matches!(self.phase, Phase::Greeting) && !self.session.is_closing()
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
        let mut turn = Turn::default();
        self.begin_turn(input, now_ms);
        turn.unfinished = self.take_back();
        let rest = self.take_steps(input, &mut turn);
        let rest = rest.then(|| input.get(turn.consumed..).unwrap_or_default());
        self.count_unfinished(rest.filter(|_| !input.is_empty()), now_ms);
        if let Some(running) = self.phase.running_mut() {
            running.release_held(&mut self.desk);
        }
        self.forward_replies();
        self.end_turn();
        self.tell(&mut turn);
        turn
    }

    fn begin_turn(&mut self, input: &[u8], now_ms: u64) {
        let Desk { broker, peer, .. } = &self.desk;
        if !input.is_empty() {
            peer.received_ms.store(now_ms, Ordering::Relaxed);
            peer.reads.add(1);
            if let Some(running) = self.phase.running_mut() {
                running.waits = None;
            }
        }
        self.session.set_now(now_ms);
        broker.set_now(now_ms);
        self.close_if_asked();
        if let Some(running) = self.phase.running_mut()
            && let Err(fault) = running.publish_later(&mut self.desk)
        {
            self.fail(fault);
        }
    }

    /// Takes steps until the turn is full or the input at its end; tells whether it is the latter.
    fn take_steps(&mut self, input: &[u8], turn: &mut Turn) -> bool {
        loop {
            if self.desk.effects.is_full() || self.waits_for_room() {
                turn.unfinished = true;
                return false;
            }
            match self.step(input, &mut turn.consumed) {
                Ok(Step::More) => {}
                Ok(Step::Pending) => return true,
                Ok(Step::Waits | Step::Unread) => {
                    turn.unfinished = true;
                    return false;
                }
                Ok(step @ (Step::Closed | Step::Ended)) => {
                    turn.ended = true;
                    turn.client_hangs_up = matches!(step, Step::Closed);
                    return false;
                }
                Err(fault) => {
                    if matches!(self.fail(fault), Step::Waits) {
                        return false;
                    }
                }
            }
            self.forward_replies();
        }
    }

    fn step(&mut self, input: &[u8], at: &mut usize) -> Result<Step, Fault> {
        if let Some(ending) = self.ending.take() {
            return Ok(self.end(ending));
        }
        let Self {
            session,
            desk,
            phase,
            ..
        } = self;
        if let Some(running) = phase.running_mut()
            && let Some((channel, message)) = running.parked.take()
        {
            return running.assembled(channel, message, desk);
        }
        match session.next(input, at)? {
            Event::Pending => return Ok(Step::Pending),
            Event::Progress => {}
            Event::Login {
                client_properties,
                mechanism,
                response,
            } => {
                let login = &mut self.login;
                let opening = login.check(desk, client_properties, mechanism, response)?;
                *phase = Phase::Opening(opening);
                session.tune();
            }
            Event::Open { vhost } => {
                phase.enter(vhost, desk)?;
                desk.agreed(session);
                session.open_ok();
            }
            Event::ChannelOpened(channel) => {
                phase.at_work()?.open_channel(channel, desk)?;
                session.channel_open_ok(channel);
            }
            Event::ChannelClosed(channel) => {
                phase.at_work()?.close_channel(channel, desk);
                session.channel_close_ok(channel);
            }
            Event::Closed { code, text } => {
                let parting = || Parting::by_client(code, text);
                self.parting.get_or_insert_with(parting);
                return Ok(self.end(Ending::Closed));
            }
            Event::Ended => return Ok(Step::Ended),
            event => {
                let step = phase.at_work()?.take(event, at, desk)?;
                if matches!(step, Step::Unread) {
                    session.unread(at);
                    return Ok(Step::Waits);
                }
                return Ok(step);
            }
        }
        Ok(Step::More)
    }

    /// Hands the turn's records to the store, confirms what needs no waiting, flushes.
    fn end_turn(&mut self) {
        let desk = &mut self.desk;
        let ticket = desk.broker.submit(&mut desk.effects);
        let running = self.phase.running_mut();
        let waits_for = running.and_then(|running| running.end_turn(ticket, desk));
        if let Some(ticket) = waits_for {
            desk.wake_at(ticket);
        }
        // The answer to a refused login waits for the caller.
        if !self.login.refused_now {
            desk.effects.flush();
        }
    }

    /// Tells the caller what to do after the turn.
    fn tell(&mut self, turn: &mut Turn) {
        let Desk { peer, effects, .. } = &mut self.desk;
        turn.unfinished |= self.ending.is_some();
        if let Some(running) = self.phase.running_mut() {
            turn.unfinished |= running.waits.is_some();
            turn.laborious = running.shared.routes.were_laborious();
        }
        peer.received_bytes.add(turn.consumed as u64);
        turn.ended |= peer.dead.load(Ordering::Acquire);
        turn.pause_ms = std::mem::take(&mut effects.pause_ms);
        effects.steps = 0;
        turn.persistent = std::mem::take(&mut effects.persistent);
        let (published, settled) = (&mut effects.published, &mut effects.settled);
        turn.messages = std::mem::take(published).max(std::mem::take(settled));
        turn.login_refused = std::mem::take(&mut self.login.refused_now);
        turn.silent = std::mem::take(&mut self.silent);
        if let Some((cell, _)) = self.desk.effects.slowed.take() {
            self.slow_down(cell);
        }
        if turn.pause_ms > 0 {
            let now_ms = self.desk.broker.now_ms();
            self.desk.peer.was_slowed(turn.pause_ms, now_ms);
        }
    }

    /// Moves the session's own frames to the outlet.
    fn forward_replies(&mut self) {
        let replies = self.session.replies();
        if !replies.is_empty() {
            let mut outlet = self.desk.peer.outlet.lock();
            self.desk
                .effects
                .reply(&mut outlet, |out| out.extend_from_slice(replies));
            // Replies are rare, connections may be many.
            *replies = Vec::new();
        }
    }

    /// The same for frames after which only `close-ok` may follow.
    fn forward_last(&mut self) {
        let replies = self.session.replies();
        if !replies.is_empty() {
            let mut outlet = self.desk.peer.outlet.lock();
            if outlet.close_ok(|out| out.extend_from_slice(replies)) {
                self.desk.effects.dirtied(&outlet);
            }
            replies.clear();
        }
    }

    /// Why the login was refused, if it was: for logs, not for the client.
    #[must_use]
    pub const fn login_refusal(&self) -> Option<&LoginRefusal> {
        self.login.refusal.as_ref()
    }

    /// How one side closed it, if any did: whichever was first.
    #[must_use]
    pub const fn parting(&self) -> Option<&Parting> {
        self.parting.as_ref()
    }

    /// Whether its replies pile up, as the client does not read them.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        self.stall.is_some()
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
    /// What comes next has to wait,
    Waits,
    /// and so has what was just read.
    Unread,
    /// By the client.
    Closed,
    Ended,
}
