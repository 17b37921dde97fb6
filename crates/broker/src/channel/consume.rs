//! Consumers: `basic.consume`, `cancel`, `qos` and `get`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leveret_access::Right;
use leveret_codec::{
    BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty, BasicQos,
    BasicQosOk, DeliverTemplate, GetOk, Method, RawTable, get_ok,
};
use leveret_queue::Consuming;
use leveret_record::Record;
use leveret_session::Parcel;

use crate::broker::paging::{LOADS_MAX, PageLoad, unreadable};
use crate::channel::open::OpenChannel;
use crate::context::refusal::Refusal;
use crate::queue::attempts::counted_header;
use crate::queue::cell::{QueueCell, QueueGuard, QueueState};
use crate::queue::consumer::{DeliverySource, Handle, KeptArguments};
use crate::queue::lease::lease;
use crate::queue::pump::Pump;
use crate::queue::traced::{Party, Traced};
use crate::settings::arguments::{check_size, own_timeout};

/// Argument tables of the largest size that the consumers of one connection may have, together.
const KEPT_TABLES_MAX: usize = 256;

impl OpenChannel<'_> {
    pub(crate) fn consume(&mut self, consume: &BasicConsume<'_>) -> Result<(), Refusal> {
        if self.means_replies(consume.queue) {
            return self.consume_replies(consume);
        }
        let cell = self.named_queue(consume.queue, Right::Read)?;
        let asked = self.asked(&cell, consume)?;
        self.check_arguments(consume.arguments)?;
        let tag = self.consumer_tag(consume.consumer_tag)?;
        self.start_consumer(tag, &cell, asked, consume)
    }

    /// Adds a consumer that may be one to its queue.
    pub(crate) fn start_consumer(
        &mut self,
        tag: Box<[u8]>,
        cell: &Arc<QueueCell>,
        asked: Consuming,
        consume: &BasicConsume<'_>,
    ) -> Result<(), Refusal> {
        let source = self.add_source(cell);
        let handle = Arc::new(Handle {
            client: Arc::clone(&self.peer.client),
            outlet: Arc::clone(&self.peer.outlet),
            channel: self.number,
            source,
            cell: Arc::clone(cell),
            stats: Arc::clone(&self.state.stats),
            template: DeliverTemplate::new(self.number, &tag),
            arguments: KeptArguments::new(&self.peer.client, consume.arguments),
            own_timeout_ms: own_timeout(&cell.name, consume.arguments)?,
            leases: Arc::clone(&self.peer.leases),
            tag: tag.clone(),
            waiting: AtomicBool::new(false),
            replies: !cell.is_listed(),
            ended: AtomicBool::new(false),
        });
        if handle.own_timeout_ms.is_some() {
            cell.lease_to_one();
        }
        let mut state = cell.lock();
        check_consumable(cell, &state, asked)?;
        let key = state.queue.consume(Arc::clone(&handle), asked);
        handle.joined();
        if let Some(source) = self.state.sources.get_mut(source as usize) {
            (source.cancelled, source.consumer) = (false, Some(key));
            source.own_timeout_ms = handle.own_timeout_ms;
        }
        self.state.consumers.insert(tag.clone(), source);
        if !consume.nowait {
            // Before any delivery: nothing is pumped yet, and the queue is locked.
            let consumer_tag = &tag;
            self.reply_now(BasicConsumeOk { consumer_tag });
        }
        cell.run(&mut state, &mut Pump::new(cell, self.effects));
        Ok(())
    }

    fn asked(
        &mut self,
        cell: &QueueCell,
        consume: &BasicConsume<'_>,
    ) -> Result<Consuming, Refusal> {
        own_timeout(&cell.name, consume.arguments)?;
        let priority = match consume.arguments.get(b"x-priority") {
            None => 0,
            Some(value) => value
                .as_integer()
                .map(|priority| {
                    i32::try_from(priority).unwrap_or(if priority < 0 {
                        i32::MIN
                    } else {
                        i32::MAX
                    })
                })
                .ok_or_else(|| Refusal::InvalidArgument {
                    argument: "x-priority".into(),
                    kind: "queue",
                    name: cell.name.to_string(),
                    reason: format!("\"expected integer, got {}\"", value.type_name()),
                })?,
        };
        self.check_consumers()?;
        Ok(Consuming {
            prefetch: u32::from(self.state.prefetch),
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            priority,
        })
    }

    /// Checks that the channel may have one more consumer.
    pub(crate) fn check_consumers(&mut self) -> Result<(), Refusal> {
        let max = self.broker.limits().consumers_per_channel_max;
        if self.state.count_consumers(max) >= max {
            return Err(Refusal::TooManyConsumers(max));
        }
        Ok(())
    }

    /// Checks what the consumers of this connection have the broker keep.
    fn check_arguments(&self, arguments: RawTable<'_>) -> Result<(), Refusal> {
        let max = self.broker.limits().arguments_bytes_max;
        check_size(arguments, max)?;
        let kept =
            self.peer.client.arguments_bytes.load(Ordering::Relaxed) + arguments.as_bytes().len();
        let max = max.saturating_mul(KEPT_TABLES_MAX);
        if kept > max {
            return Err(Refusal::Limit(format!(
                "arguments of all consumers of the connection exceed {max} bytes"
            )));
        }
        Ok(())
    }

    /// The tag asked for, or one that is made up.
    pub(crate) fn consumer_tag(&mut self, tag: &[u8]) -> Result<Box<[u8]>, Refusal> {
        if tag.is_empty() {
            return Ok(self.broker.names.next("amq.ctag-").into_bytes().into());
        }
        let state = &mut *self.state;
        if let Some(&source) = state.consumers.get(tag) {
            // The consumer of a deleted queue is gone without the client having to say so.
            if !state.source(source).is_some_and(DeliverySource::has_ended) {
                let tag = String::from_utf8_lossy(tag).into_owned();
                return Err(Refusal::ConsumerTagInUse(tag));
            }
            state.forget_consumer(tag);
        }
        Ok(tag.into())
    }

    /// A source stays marked as cancelled until its consumer is registered.
    fn add_source(&mut self, cell: &Arc<QueueCell>) -> u32 {
        let source = DeliverySource {
            cell: Arc::clone(cell),
            consumer: None,
            cancelled: true,
            own_timeout_ms: None,
            unused: false,
        };
        let outlet = self.peer.outlet.lock();
        self.state
            .add_source(source, || outlet.sources_in_use(self.number))
    }

    pub(crate) fn cancel(&mut self, cancel: &BasicCancel<'_>) -> Result<(), Refusal> {
        self.end_consumer(cancel.consumer_tag);
        if !cancel.nowait {
            self.reply(BasicCancelOk {
                consumer_tag: cancel.consumer_tag,
            });
        }
        Ok(())
    }

    /// Takes a consumer off its queue, which may be the end of that; an unknown tag is no error.
    fn end_consumer(&mut self, tag: &[u8]) {
        let source = self.state.forget_consumer(tag);
        let Some(source) = source.and_then(|at| self.state.sources.get_mut(at as usize)) else {
            return;
        };
        let Some(key) = source.consumer.take() else {
            return;
        };
        let cell = Arc::clone(&source.cell);
        let mut state = cell.lock();
        let gone = state.queue.cancel(key);
        if gone.is_some() && state.queue.consumer_count() == 0 {
            cell.used(&mut state);
        }
        drop(state);
        if let Some(handle) = gone {
            handle.end();
            self.broker.consumer_left(self.vhost, &cell, self.effects);
        }
    }

    pub(crate) fn qos(&mut self, qos: BasicQos) -> Result<(), Refusal> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Refusal::NotImplemented(text));
        }
        if qos.global {
            let mut outlet = self.peer.outlet.lock();
            outlet.set_prefetch(self.number, u32::from(qos.prefetch_count));
            drop(outlet);
            let stats = &self.state.stats;
            stats.channel_prefetch.set(u64::from(qos.prefetch_count));
            self.share_room();
        } else {
            self.set_prefetch(qos.prefetch_count);
        }
        self.reply(BasicQosOk {});
        Ok(())
    }

    fn set_prefetch(&mut self, prefetch: u16) {
        let state = &mut *self.state;
        state.prefetch = prefetch;
        state.stats.prefetch.set(u64::from(prefetch));
        if !self.shared.live_prefetch {
            return;
        }
        let running: Vec<_> = state
            .sources
            .iter()
            .filter_map(|source| Some((Arc::clone(&source.cell), source.consumer?)))
            .collect();
        for (cell, key) in running {
            cell.lock().queue.set_prefetch(key, u32::from(prefetch));
            cell.pump(self.effects);
        }
    }

    pub(crate) fn get(&mut self, get: &BasicGet<'_>) -> Result<(), Refusal> {
        let cell = self.named_queue(get.queue, Right::Read)?;
        let (cell, no_ack) = (&cell, get.no_ack);
        let source = self.get_source(cell);
        let channel = self.number;
        let template = DeliverTemplate::new(channel, b"");
        let outlet = &self.peer.outlet;
        let mut state = self.ready_to_get(cell)?;
        let (mut first, mut taken, mut traced) = (false, None, None);
        let (client, leases) = (&self.peer.client, &self.peer.leases);
        let mut pump = Pump::new(cell, self.effects);
        let is_traced = pump.traced;
        let found = state.queue.get(no_ack, &mut pump, |delivery, left| {
            let counted = counted_header(cell, delivery);
            let header = counted.as_deref().unwrap_or(delivery.record.header);
            let record = &Record {
                header,
                ..*delivery.record
            };
            let parcel = Parcel {
                template: &template,
                source,
                no_ack,
                urgent: false,
                record,
                blob: delivery.blob,
                unacked: delivery.unacked,
            };
            let message_count = u32::try_from(left).unwrap_or(u32::MAX);
            let redelivered = delivery.unacked.attempts.acquired > 0;
            if is_traced {
                let party = || Party::client(client, channel);
                traced = Traced::delivered(party, cell, delivery);
            }
            let route = delivery.record.route;
            taken = Some(delivery.unacked);
            let mut outlet = outlet.lock();
            first = outlet.give(channel, &parcel, |out, delivery_tag| {
                get_ok(
                    out,
                    channel,
                    GetOk {
                        delivery_tag,
                        redelivered,
                        route,
                        message_count,
                    },
                );
            });
            if let Some(timeout_ms) = cell.lease.timeout_ms(None).filter(|_| !no_ack) {
                lease(cell, leases, (&mut outlet, channel), timeout_ms);
            }
        });
        if let Some(unacked) = taken.filter(|_| !no_ack) {
            pump.note_delivered(&unacked);
        }
        pump.effects.traced.extend(traced);
        drop(state);
        if !found {
            self.state.stats.got_empty.add(1);
            self.reply_now(Method::BasicGetEmpty(BasicGetEmpty {}));
        } else if first {
            self.effects.dirtied(&outlet.lock());
        }
        Ok(())
    }

    /// Locks a queue in which what may not be served any more is gone. Nothing holds an outlet
    /// afterwards: it may be the one that the next message goes to.
    fn ready_to_get<'c>(&mut self, cell: &'c Arc<QueueCell>) -> Result<QueueGuard<'c>, Refusal> {
        /// Runs, of some hundreds of messages each; then the queue may seem empty for a moment.
        const RUNS_MAX: usize = 256;
        let mut failures = 0;
        for _ in 0..RUNS_MAX {
            let mut state = cell.lock();
            if cell.is_deleted() {
                break;
            }
            cell.used(&mut state);
            cell.run(&mut state, &mut Pump::new(cell, self.effects));
            let waits = state.queue.waits_for_page();
            if !state.queue.is_behind() && !waits {
                return Ok(state);
            }
            drop(state);
            if waits && self.broker.load_now(cell, self.effects) == PageLoad::NotNow {
                failures += 1;
                if failures == LOADS_MAX {
                    return Err(unreadable(&cell.name));
                }
            }
            self.broker.bury(self.effects);
        }
        let state = cell.lock();
        if cell.is_deleted() {
            return Err(Refusal::NoQueue(cell.name.to_string()));
        }
        Ok(state)
    }

    /// All `basic.get` of a channel on one queue are one source.
    fn get_source(&mut self, cell: &Arc<QueueCell>) -> u32 {
        let known = self.state.sources.iter().position(|source| {
            let consumes = source.consumer.is_some() || source.own_timeout_ms.is_some();
            !consumes && !source.unused && Arc::ptr_eq(&source.cell, cell)
        });
        match known {
            Some(index) => u32::try_from(index).unwrap_or(u32::MAX),
            None => self.add_source(cell),
        }
    }
}

fn check_consumable(cell: &QueueCell, state: &QueueState, asked: Consuming) -> Result<(), Refusal> {
    let name = || cell.name.to_string();
    if cell.is_deleted() {
        return Err(Refusal::NoQueue(name()));
    }
    let (queue, alone) = (&state.queue, asked.exclusive);
    if queue.has_exclusive_consumer()
        || alone && (queue.consumer_count() > 0 || queue.is_single_active())
    {
        return Err(Refusal::ExclusiveUse(name()));
    }
    Ok(())
}
