//! Publishing on a channel: batches to their queues, returns, confirms.

use std::sync::Arc;

use leveret_codec::{
    ConfirmSelect, ConfirmSelectOk, Properties, SoftCode, ack, basic_return, content, flag, nack,
};
use leveret_record::Blob;
use leveret_session::{BatchMessage, Confirm, Confirms, Fault, Publishes};

use crate::channel::UNSUBMITTED;
use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::publish::expiration::check_expiration;
use crate::publish::reply_to::asks_for_replies;
use crate::publish::room::Room;
use crate::publish::routes::{Route, sender_selected};
use crate::publish::{PUBLISH, enqueue, visible_header};
use crate::queue::effects::STEPS_OF_TURN;
use crate::queue::traced::{Close, Party};

/// Properties that make the broker look closer at a message.
const INSPECTED: u16 = flag::HEADERS | flag::EXPIRATION | flag::USER_ID;
/// Those that an exchange may look at, besides the headers.
const HASHED: u16 = flag::MESSAGE_ID | flag::CORRELATION_ID | flag::TIMESTAMP;

impl OpenChannel<'_> {
    /// Publishes a batch, or of one with many copies or a long way as much as a turn bears; gives
    /// how many messages that were. A fault closes the channel after what came before it has been
    /// published.
    pub(crate) fn publish(&mut self, batch: &Publishes<'_>) -> Result<usize, Fault> {
        if batch.properties & INSPECTED == 0 && !asks(batch) {
            let Some(route) = self.route(batch)? else {
                return Ok(0);
            };
            let alone = batch.len() == 1 && batch.properties & HASHED == 0;
            if !route.is_for_one() || alone {
                let batch = batch.first(STEPS_OF_TURN / route.cells.len().clamp(1, STEPS_OF_TURN));
                let taken = self.publish_to(&route, &batch, None, None)?;
                return Ok(if taken { batch.len() } else { 0 });
            }
        }
        for (before, publish) in batch.iter().enumerate() {
            let one = Publishes::one(batch.channel, batch.route, publish);
            if !self.publish_inspected(&one, publish, None)? {
                return Ok(before);
            }
            if self.effects.is_full() {
                return Ok(before + 1);
            }
        }
        Ok(batch.len())
    }

    /// False, and nothing is done, when its route takes more than what is left of the turn, or a
    /// queue has no room.
    pub(crate) fn publish_inspected(
        &mut self,
        one: &Publishes<'_>,
        publish: BatchMessage<'_>,
        blob: Option<Arc<Blob>>,
    ) -> Result<bool, Fault> {
        let inspected = self
            .inspect(one, publish)
            .map_err(|refusal| self.fault_of(refusal, PUBLISH))?;
        let reply_name = self
            .reply_name(publish.header)
            .map_err(|refusal| self.fault_of(refusal, PUBLISH))?;
        let visible = visible_header(publish.header, reply_name.as_deref());
        let header = visible.as_deref().unwrap_or(publish.header);
        let one = &Publishes::one(one.channel, one.route, BatchMessage { header, ..publish });
        let route = match inspected {
            Inspected::Routed(route) => Some(Arc::new(route)),
            Inspected::Plain => self.route(one)?,
            Inspected::Later => None,
        };
        let Some(route) = route else {
            return Ok(false);
        };
        self.publish_to(&route, one, Some(publish.header), blob)
    }

    /// Checks a message's properties; gives its own route when they have a say in it.
    fn inspect(
        &mut self,
        one: &Publishes<'_>,
        publish: BatchMessage<'_>,
    ) -> Result<Inspected, Refusal> {
        // Whether the user may publish there, and whether there is anything, comes first.
        let acting = self.acting();
        let mut steps = self.effects.steps_left();
        let by_header = if self.shared.routes.goes_by_header() {
            Some(true)
        } else {
            let plain = self.shared.routes.get(acting, one.route, &mut steps)?;
            plain.map(|plain| plain.is_for_one())
        };
        self.effects.steps += steps.taken();
        let Some(by_header) = by_header else {
            return Ok(Inspected::Later);
        };
        let properties = Properties::decode(publish.header)
            .map_err(|error| Refusal::Precondition(format!("invalid message: {error}")))?;
        if let Some(user) = properties.user_id {
            acting.check_user_id(user)?;
        }
        if let Some(expiration) = properties.expiration {
            check_expiration(expiration)?;
        }
        let keys = match properties.headers {
            Some(headers) => sender_selected(headers)?,
            None => Vec::new(),
        };
        if keys.is_empty() && !by_header {
            return Ok(Inspected::Plain);
        }
        let mut steps = self.effects.steps_left();
        let message = (one.route, &*keys, Some((publish.header, &properties)));
        let found = self.shared.routes.resolve(acting, message, &mut steps)?;
        self.effects.steps += steps.taken();
        Ok(found.map_or(Inspected::Later, Inspected::Routed))
    }

    fn route(&mut self, batch: &Publishes<'_>) -> Result<Option<Arc<Route>>, Fault> {
        let acting = self.acting();
        let mut steps = self.effects.steps_left();
        let found = self.shared.routes.get(acting, batch.route, &mut steps);
        self.effects.steps += steps.taken();
        found.map_err(|refusal| self.fault_of(refusal, PUBLISH))
    }

    /// Puts a batch into its queues, returns what goes nowhere, and counts it for confirms. False,
    /// and nothing is done, when it has to wait for room. `original` is the header of a message
    /// that was looked at closely, as it was published.
    fn publish_to(
        &mut self,
        route: &Arc<Route>,
        batch: &Publishes<'_>,
        original: Option<&[u8]>,
        blob: Option<Arc<Blob>>,
    ) -> Result<bool, Fault> {
        let limited = self.vhost.quota.is_set();
        if limited && self.waits_for_quota(batch) {
            return Ok(false);
        }
        // Room for a transaction is found when it is committed.
        let staged = self.state.transaction.is_some();
        let room = if staged {
            Some(Room::Reserved)
        } else {
            self.room_for(route, batch)
        };
        let Some(room) = room else {
            return Ok(false);
        };
        if limited {
            self.vhost.quota.charge_for(batch);
        }
        if self.vhost.holdings.is_traced() {
            let close = original.map(|original| (original, blob.as_ref()));
            self.trace(route, batch, close);
        }
        if staged {
            self.stage_publishes(route, batch, blob.as_ref())?;
            return Ok(true);
        }
        self.count_published(route, batch);
        if route.cells.is_empty() {
            self.return_unroutable(batch);
        }
        self.effects.published += batch.len();
        self.effects.steps += route.cells.len() * batch.len();
        let store = &*self.broker.store;
        let room = room.claimed(store, &route.cells, batch, self.effects);
        let refused = enqueue(&route.cells, batch, blob, room, self.effects);
        if refused != 0 {
            if self.state.confirms.is_some() {
                self.return_refused(batch, refused);
            }
            self.note_refused(batch.route);
        }
        let state = &mut *self.state;
        state.stats.published.add(batch.len() as u64);
        let Some(confirms) = &mut state.confirms else {
            return Ok(true);
        };
        state.stats.published_confirming.add(batch.len() as u64);
        let refused = if route.cells.is_empty() { 0 } else { refused };
        count(confirms, batch.len(), refused, mark(route));
        if !std::mem::replace(&mut state.confirming, true) {
            self.shared.confirming.push(self.number);
        }
        Ok(true)
    }

    /// Counts a batch for its exchange and by its sizes; its channel counts it elsewhere.
    #[inline]
    pub(crate) fn count_published(&mut self, route: &Route, batch: &Publishes<'_>) {
        self.shared.exchange.count(route, batch.len() as u64);
        batch
            .body_lens()
            .for_each(|len| self.shared.sizes.count(len));
    }

    /// Returns or drops what was counted just before.
    pub(crate) fn return_unroutable(&mut self, batch: &Publishes<'_>) {
        const NO_ROUTE: SoftCode = SoftCode::NoRoute;
        let mut returned = 0;
        let mut outlet = self.peer.outlet.lock();
        let frame_max = outlet.frame_max();
        for publish in batch.iter().filter(|publish| publish.mandatory) {
            self.effects.reply(&mut outlet, |out| {
                let (code, text) = (NO_ROUTE.code(), NO_ROUTE.name().as_bytes());
                basic_return(out, batch.channel, code, text, batch.route);
                content(out, batch.channel, publish.header, publish.body, frame_max);
            });
            returned += 1;
        }
        drop(outlet);
        let dropped = batch.len() as u64 - returned;
        self.shared.exchange.count_unroutable(returned, dropped);
        self.state.stats.returned.add(returned);
        self.state.stats.dropped.add(dropped);
    }

    pub(crate) fn confirm_select(&mut self, select: ConfirmSelect) -> Result<(), Refusal> {
        if self.state.transaction.is_some() {
            let text = "cannot switch from tx to confirm mode";
            return Err(Refusal::Precondition(text.into()));
        }
        self.state.confirms.get_or_insert_default();
        self.state.stats.confirming.set(1);
        if !select.nowait {
            self.reply(ConfirmSelectOk {});
        }
        Ok(())
    }

    /// Notes what is published with this route.
    #[cold]
    fn trace(&mut self, route: &Route, batch: &Publishes<'_>, close: Option<Close<'_>>) {
        let party = Party::client(&self.peer.client, batch.channel);
        self.effects.trace(&party, &route.cells, batch, close);
    }
}

/// What a message's properties say of its way.
enum Inspected {
    /// Nothing: it goes where its routing key says.
    Plain,
    Routed(Route),
    /// That takes more than what is left of the turn.
    Later,
}

/// Whether a message of the batch has its `reply_to` replaced.
#[inline]
fn asks(batch: &Publishes<'_>) -> bool {
    let asks = |publish: BatchMessage<'_>| asks_for_replies(publish.header);
    batch.properties & flag::REPLY_TO != 0 && batch.iter().any(asks)
}

/// Whether the store has a say in when these publishes may be confirmed.
fn mark(route: &Route) -> u64 {
    if route.cells.iter().any(|cell| cell.lane.is_some()) {
        UNSUBMITTED
    } else {
        0
    }
}

fn count(confirms: &mut Confirms, messages: usize, refused: u128, mark: u64) {
    if refused == 0 {
        return confirms.accepted(messages as u64, mark);
    }
    for index in 0..messages {
        if refused & (1 << index) == 0 {
            confirms.accepted(1, mark);
        } else {
            confirms.refused();
        }
    }
}

/// Encodes one confirm.
pub(crate) fn encode_confirm(out: &mut Vec<u8>, channel: u16, confirm: Confirm) {
    match confirm {
        Confirm::Ack { tag, multiple } => ack(out, channel, tag, multiple),
        Confirm::Nack { tag } => nack(out, channel, tag, false, false),
    }
}
