//! What a connection is at, with what is known and held then. Each step consumes the phase before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_codec::{ConnectionUpdateSecretOk, HardCode, Method};
use leveret_session::{Assembled, Confirms, Event, Fault};
use leveret_store::Ticket;

use crate::channel::open::{ChannelsShared, OpenChannel};
use crate::channel::{Channel, UNSUBMITTED};
use crate::connection::Step;
use crate::connection::desk::Desk;
use crate::connection::leaving::Leaving;
use crate::connection::whole::UnroutedMessage;
use crate::context::stats::{ChannelStats, Churn};
use crate::vhost::Vhost;

/// A phase of a connection.
pub(crate) enum Phase {
    /// Nobody has logged in.
    Greeting,
    /// A user has, and opens a virtual host next.
    Opening(Opening),
    /// At work in a virtual host.
    Running(Box<Running>),
    /// It gives back what it held, a part at a time.
    Leaving(Box<Leaving>),
    /// It holds nothing, and nothing more happens on it.
    Over,
}

/// A user without a virtual host.
pub(crate) struct Opening {
    pub(crate) user: Arc<str>,
    /// Its client expects `basic.qos` to change consumers that run already.
    pub(crate) live_prefetch: bool,
}

/// A user at work in a virtual host, where it counts as a connection.
pub(crate) struct Running {
    pub(crate) user: Arc<str>,
    pub(crate) vhost: Arc<Vhost>,
    pub(crate) channels: Vec<Option<Box<Channel>>>,
    pub(crate) shared: ChannelsShared,
    /// The channel of the method that the rest of the input begins with: it waits for the answers
    /// before it.
    pub(crate) waits: Option<u16>,
    /// A message that is complete, but has to wait for the end of an alarm.
    pub(crate) parked: Option<(u16, Assembled)>,
    /// A message whose route takes more than one turn.
    pub(crate) later: Option<Box<UnroutedMessage>>,
}

impl Phase {
    /// Takes the phase out, to make the next one of it.
    pub(crate) const fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }

    pub(crate) const fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) const fn running_mut(&mut self) -> Option<&mut Running> {
        match self {
            Self::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Goes on from a user who has logged in to one at work in a virtual host.
    pub(crate) fn enter(&mut self, vhost: &[u8], desk: &Desk) -> Result<(), Fault> {
        let Self::Opening(opening) = self.take() else {
            return Err(unexpected());
        };
        *self = Self::Running(Box::new(opening.enter(desk, vhost)?));
        Ok(())
    }

    /// Where channels are: the session tells of any only there.
    #[inline]
    pub(crate) fn at_work(&mut self) -> Result<&mut Running, Fault> {
        self.running_mut().ok_or_else(unexpected)
    }
}

/// Session and broker do not agree on what is open: that is nobody's fault but ours.
#[cold]
fn unexpected() -> Fault {
    debug_assert!(false, "the session knows what is open");
    let text = "an event of what is not open";
    Fault::connection(HardCode::InternalError, text, (0, 0))
}

impl Running {
    pub(crate) fn new(opening: Opening, vhost: Arc<Vhost>, desk: &Desk) -> Self {
        let mut shared = ChannelsShared::new(desk.broker.next_seed(), opening.live_prefetch);
        if desk.hung_up {
            shared.room.hang_up();
        }
        Self {
            user: opening.user,
            vhost,
            channels: Vec::new(),
            shared,
            waits: None,
            parked: None,
            later: None,
        }
    }

    /// What came on a channel: a batch, or a method.
    #[inline]
    pub(super) fn take(
        &mut self,
        event: Event<'_>,
        at: &mut usize,
        desk: &mut Desk,
    ) -> Result<Step, Fault> {
        match event {
            Event::Publishes(_) if self.is_alarmed(desk) => return Ok(Step::Unread),
            Event::Publishes(batch) => {
                let published = self.opened(batch.channel, desk)?.publish(&batch)?;
                if published < batch.len() {
                    *at = batch.end_of(published).unwrap_or(*at);
                }
            }
            Event::Settlements(channel, settlements) => {
                self.opened(channel, desk)?.settle(settlements)?;
            }
            Event::Part if self.is_alarmed(desk) => return Ok(Step::Waits),
            Event::Part => {}
            Event::Assembled(channel, message) => {
                let now_ms = desk.peer.received_ms.load(Ordering::Relaxed);
                desk.peer.unfinished.completed(now_ms);
                return self.assembled(channel, message, desk);
            }
            Event::Method(channel, Method::ConnectionUpdateSecret(_)) => {
                // A password never expires, so that any secret will do, as in RabbitMQ.
                desk.send(channel, ConnectionUpdateSecretOk {});
            }
            Event::Method(channel, method) => {
                let mut open = self.opened(channel, desk)?;
                if open.must_wait(&method) {
                    self.waits = Some(channel);
                    return Ok(Step::Unread);
                }
                open.method(&method)?;
            }
            _ => return Err(unexpected()),
        }
        Ok(Step::More)
    }

    /// A channel that the session has told of, which only does so of open ones.
    #[inline]
    fn opened<'a>(&'a mut self, number: u16, desk: &'a mut Desk) -> Result<OpenChannel<'a>, Fault> {
        self.open(number, desk).ok_or_else(unexpected)
    }

    /// An open channel, for the time of one event.
    #[inline]
    pub(crate) fn open<'a>(
        &'a mut self,
        number: u16,
        desk: &'a mut Desk,
    ) -> Option<OpenChannel<'a>> {
        let state = self.channels.get_mut(usize::from(number))?;
        Some(OpenChannel {
            number,
            state: state.as_deref_mut()?,
            shared: &mut self.shared,
            user: &self.user,
            vhost: &self.vhost,
            broker: &desk.broker,
            peer: &desk.peer,
            effects: &mut desk.effects,
        })
    }

    pub(crate) fn open_channel(&mut self, number: u16, desk: &Desk) -> Result<(), Fault> {
        self.count_channel(desk)?;
        let index = usize::from(number);
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        let stats = Arc::new(ChannelStats {
            number,
            ..ChannelStats::default()
        });
        let (broker, peer) = (&desk.broker, &desk.peer);
        peer.channels.lock().open.push(Arc::clone(&stats));
        broker.events.count(Churn::ChannelOpened);
        if let Some(slot) = self.channels.get_mut(index) {
            *slot = Some(Box::new(Channel::new(stats)));
        }
        peer.outlet.lock().open_channel(number);
        Ok(())
    }

    /// Counts a channel that is being opened.
    fn count_channel(&self, desk: &Desk) -> Result<(), Fault> {
        let limits = desk.broker.user_limits(&self.user);
        let counted = desk.broker.uses.lock().open_channel(&self.user, limits);
        counted.map_err(|max| {
            let text = format!(
                "number of channels opened for user '{}' has reached the maximum allowed user \
                 limit of ({max})",
                self.user
            );
            Fault::connection(HardCode::NotAllowed, text, (20, 10))
        })
    }

    /// Whether it has a consumer on any channel.
    pub(crate) fn consumes(&self) -> bool {
        let mut open = self.channels.iter().flatten();
        open.any(|channel| channel.stats.consumers.get() > 0)
    }

    /// Whether the rest of the input waits for answers before it.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits
            .is_some_and(|channel| self.shared.holding.contains(&channel))
    }

    /// Sends the answers that need wait no more.
    pub(crate) fn release_held(&mut self, desk: &mut Desk) {
        if self.shared.holding.is_empty() {
            return;
        }
        let durable = desk.broker.store.durable();
        let mut holding = std::mem::take(&mut self.shared.holding);
        holding.retain(|&channel| {
            let open = self.open(channel, desk);
            open.is_some_and(|mut open| open.release_held(durable))
        });
        self.shared.holding = holding;
    }

    /// Ends a turn whose records have this ticket: confirms what needs no waiting. Gives what the
    /// rest waits for.
    pub(crate) fn end_turn(&mut self, ticket: Ticket, desk: &mut Desk) -> Option<Ticket> {
        let mut waits_for = self.held_for();
        if !self.shared.confirming.is_empty() {
            // Also with nothing recorded: publishes of this turn then wait for nothing.
            waits_for = waits_for.max(self.confirm(ticket, desk));
        }
        self.shared.count_turn(&desk.peer);
        waits_for
    }

    /// The ticket that the first of the answers in waiting needs.
    fn held_for(&self) -> Option<Ticket> {
        let fronts = self.shared.holding.iter().filter_map(|channel| {
            let state = self.channels.get(usize::from(*channel))?.as_deref()?;
            state.held.front().map(|(ticket, _)| *ticket)
        });
        fronts.min()
    }

    /// Sends the confirms that the store's watermark allows; gives what the others wait for, those
    /// of this turn for the ticket of its records.
    fn confirm(&mut self, ticket: Ticket, desk: &mut Desk) -> Option<Ticket> {
        let durable = desk.broker.store.durable();
        let mut outlet = desk.peer.outlet.lock();
        let mut first = false;
        let mut waits_for = None;
        let channels = &mut self.channels;
        self.shared.confirming.retain(|&number| {
            let state = channels
                .get_mut(usize::from(number))
                .and_then(Option::as_deref_mut);
            let Some(state) = state else { return false };
            if let Some(confirms) = &mut state.confirms {
                confirms.submitted(UNSUBMITTED, ticket.0);
            }
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
            desk.effects.dirtied(&outlet);
        }
        waits_for.map(Ticket)
    }
}
