//! Queues as the API shows them.

use std::ops::ControlFlow;
use std::sync::Arc;

use leveret_broker::{Death, PagedOut, Peer, Queue, QueueCell, QueueSpec, Rank, Refusal, Vhost};
use leveret_codec::Properties;
use serde_json::{Map, Value, json};

use crate::amqp::table_to_json;
use crate::app::App;
use crate::call::Call;
use crate::consumer;
use crate::history::{AskedSpans, SampleRing};
use crate::list::{Columns, Key, Row, list, list_counted};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::sampler::{MESSAGES, Values, counter_values, length_details, stats};
use crate::walk;

/// Which of [`MESSAGES`] a queue counts.
const COUNTED: [usize; 9] = [0, 4, 5, 6, 7, 8, 9, 10, 11];

/// A queue in a list.
pub(crate) struct QueueRow {
    vhost: Arc<Vhost>,
    cell: Arc<QueueCell>,
    /// Only what costs nothing to know.
    plain: bool,
}

/// What a queue holds at one moment.
struct QueueMoment {
    ready: u64,
    unacked: u64,
    ready_bytes: u64,
    unacked_bytes: u64,
    consumers: u64,
    resident_bytes: u64,
    paged_out: PagedOut,
    lost: u64,
    has_credit: bool,
    exclusive_tag: Option<Value>,
    active_tag: Option<Value>,
    refused: u64,
    dropped: u64,
    expired: u64,
    timed_out: u64,
    flow_ms: u64,
    /// How long a delivery may stay unacknowledged, if that is limited.
    consumer_timeout_ms: Option<u64>,
    moved_on: [u64; 4],
    /// When the message came that has waited longest, unix milliseconds.
    oldest_ms: Option<u64>,
    /// The `timestamp` property of the message that would be served next.
    head_timestamp: Option<u64>,
    /// How many failed attempts a message may have; `u32::MAX`: any number.
    failures_max: u32,
    quorum: bool,
    /// Messages that died and cannot be moved on for now, and the bytes of their bodies.
    stuck: u64,
    stuck_bytes: u64,
    /// Ready messages of each level, in a queue with priorities.
    levels: Vec<(u8, u64)>,
    counters: Values,
}

impl QueueMoment {
    fn of(cell: &QueueCell) -> Self {
        let mut state = cell.lock();
        let oldest_ms = state.queue.oldest_ms();
        let queue = &state.queue;
        let single = cell.spec.arguments.get(b"x-single-active-consumer");
        let single = single.and_then(|value| value.as_bool()) == Some(true);
        let tag = |wanted: bool, exclusive: bool| {
            let mut consumers = queue.consumers();
            let found = consumers.find(|(_, consumer, active)| {
                wanted
                    && if exclusive {
                        consumer.asked.exclusive
                    } else {
                        *active
                    }
            });
            found.map(|(_, consumer, _)| crate::amqp::text(&consumer.handle.tag))
        };
        Self {
            ready: queue.ready(),
            unacked: queue.unacked(),
            ready_bytes: queue.ready_bytes(),
            unacked_bytes: queue.unacked_bytes(),
            consumers: queue.consumer_count() as u64,
            resident_bytes: (queue.resident_bytes() + size_of::<QueueCell>()) as u64,
            paged_out: queue.paged_out(),
            lost: queue.counters().lost,
            has_credit: queue.has_credit(),
            exclusive_tag: tag(queue.has_exclusive_consumer(), true),
            active_tag: tag(single, false),
            refused: queue.counters().refused,
            dropped: queue.counters().dropped,
            expired: queue.counters().expired,
            timed_out: state.timed_out,
            flow_ms: state.flow_ms(),
            consumer_timeout_ms: cell.consumer_timeout_ms(),
            moved_on: queue.counters().moved_on,
            oldest_ms,
            head_timestamp: head_timestamp(queue),
            failures_max: queue.settings().failures_max,
            quorum: kind(&cell.spec) == "quorum",
            stuck: queue.stuck(),
            stuck_bytes: queue.stuck_bytes(),
            levels: if queue.shape().levels > 1 {
                queue.ready_by_level().collect()
            } else {
                Vec::new()
            },
            counters: counter_values(queue.counters(), queue.ready(), queue.unacked()),
        }
    }

    fn write(&self, row: &mut Map<String, Value>) {
        let PagedOut {
            messages: away,
            bytes: away_bytes,
            ..
        } = self.paged_out;
        let ready_ram = self.ready.saturating_sub(away);
        let numbers = [
            ("messages", self.ready + self.unacked + self.stuck),
            ("messages_ready", self.ready),
            ("messages_unacknowledged", self.unacked),
            ("messages_ram", ready_ram + self.unacked),
            ("messages_ready_ram", ready_ram),
            ("messages_unacknowledged_ram", self.unacked),
            (
                "message_bytes",
                self.ready_bytes + self.unacked_bytes + self.stuck_bytes,
            ),
            ("message_bytes_ready", self.ready_bytes),
            ("message_bytes_unacknowledged", self.unacked_bytes),
            (
                "message_bytes_ram",
                (self.ready_bytes + self.unacked_bytes).saturating_sub(away_bytes),
            ),
            ("messages_paged_out", away),
            ("message_bytes_paged_out", away_bytes),
            ("consumers", self.consumers),
            ("memory", self.resident_bytes),
            // Ours: RabbitMQ does not tell what a full queue cost.
            ("x_messages_refused", self.refused),
            ("x_messages_dropped", self.dropped),
            ("x_messages_expired", self.expired),
            ("x_messages_timed_out", self.timed_out),
            ("x_messages_lost", self.lost),
            ("x_flow_ms", self.flow_ms),
        ];
        for (name, number) in numbers {
            row.insert(name.to_owned(), number.into());
        }
        let capacity = if self.consumers == 0 {
            0.0
        } else {
            f64::from(u8::from(self.has_credit || self.ready == 0))
        };
        row.insert("consumer_capacity".to_owned(), capacity.into());
        row.insert("consumer_utilisation".to_owned(), capacity.into());
        let deaths = Death::ALL.iter().zip(self.moved_on);
        let deaths: Map<_, _> = deaths
            .map(|(death, count)| (death.name().to_owned(), count.into()))
            .collect();
        row.insert("x_messages_dead_lettered".to_owned(), deaths.into());
        row.insert("x_oldest_message_ms".to_owned(), self.oldest_ms.into());
        let timeout_ms = self.consumer_timeout_ms.into();
        row.insert("x_consumer_timeout_ms".to_owned(), timeout_ms);
        let timestamp = self.head_timestamp.into();
        row.insert("head_message_timestamp".to_owned(), timestamp);
        self.write_levels(row);
        let tags = [
            ("exclusive_consumer_tag", &self.exclusive_tag),
            ("single_active_consumer_tag", &self.active_tag),
        ];
        for (name, tag) in tags {
            if let Some(tag) = tag {
                row.insert(name.to_owned(), tag.clone());
            }
        }
    }
}

impl QueueMoment {
    /// Priorities, the limit of failed attempts and the dead that wait, where RabbitMQ has them.
    fn write_levels(&self, row: &mut Map<String, Value>) {
        let of = |levels: &mut dyn Iterator<Item = &(u8, u64)>| -> Map<String, Value> {
            levels
                .map(|(level, ready)| (level.to_string(), (*ready).into()))
                .collect()
        };
        if self.quorum {
            let used = of(&mut self.levels.iter().filter(|(_, ready)| *ready > 0));
            row.insert("messages_active_priorities".to_owned(), used.len().into());
            row.insert("messages_by_priority".to_owned(), used.into());
            row.insert("messages_dlx".to_owned(), self.stuck.into());
            row.insert("message_bytes_dlx".to_owned(), self.stuck_bytes.into());
        } else if !self.levels.is_empty() {
            let status = json!({ "priority_lengths": of(&mut self.levels.iter()) });
            row.insert("backing_queue_status".to_owned(), status);
        }
        let limit = match self.failures_max {
            u32::MAX => "unlimited".into(),
            limit => Value::from(limit),
        };
        if self.quorum || self.failures_max != u32::MAX {
            row.insert("delivery_limit".to_owned(), limit);
        }
    }
}

fn head_timestamp<C>(queue: &Queue<C>) -> Option<u64> {
    let first = Rank {
        level: u8::MAX,
        seq: 0,
    };
    let mut timestamp = None;
    // Of one that is on the disk only it is not known.
    queue.peek(first, None, |head| {
        let properties = Properties::decode(head.record.header);
        timestamp = properties.ok().and_then(|properties| properties.timestamp);
        ControlFlow::Break(())
    });
    timestamp
}

impl QueueRow {
    pub(crate) fn new(vhost: &Arc<Vhost>, cell: &Arc<QueueCell>) -> Self {
        Self {
            vhost: Arc::clone(vhost),
            cell: Arc::clone(cell),
            plain: false,
        }
    }

    /// What the queue was declared with, and what governs it.
    fn definition(&self, app: &App) -> Map<String, Value> {
        let mut row = Map::new();
        let spec = &self.cell.spec;
        row.insert("name".to_owned(), Value::from(&*self.cell.name));
        row.insert("vhost".to_owned(), Value::from(&*self.vhost.name));
        row.insert("type".to_owned(), kind(spec).into());
        row.insert("durable".to_owned(), spec.durable.into());
        row.insert("auto_delete".to_owned(), spec.auto_delete.into());
        row.insert("exclusive".to_owned(), spec.owner.is_some().into());
        row.insert("arguments".to_owned(), arguments(spec));
        row.insert("node".to_owned(), app.node().into());
        row.insert("state".to_owned(), "running".into());
        self.effective(&mut row);
        if let Some(owner) = spec.owner
            && let Some(peer) = app.broker.peer(owner)
        {
            row.insert("owner_pid_details".to_owned(), owner_of(&peer));
        }
        row
    }
}

impl QueueRow {
    /// What `message_stats` holds under this name, a counter or its rate.
    fn counter_key(&self, app: &App, name: &str) -> Option<Key> {
        let rated = name.strip_suffix("_details.rate");
        let wanted = rated.unwrap_or(name);
        let field = COUNTED
            .into_iter()
            .find(|field| MESSAGES[*field] == wanted)?;
        let number = if rated.is_some() {
            let rate = |ring: Option<&SampleRing<16>>| ring.map_or(0.0, |ring| ring.rate(field));
            app.sampler.with_queue(&self.cell, rate)
        } else {
            let state = self.cell.lock();
            counter_values(state.queue.counters(), 0, 0)[field] as f64
        };
        Some(Key::Number(number))
    }

    /// The policies that apply.
    fn effective(&self, row: &mut Map<String, Value>) {
        let Some(effective) = self.cell.lock().policy.clone() else {
            row.insert("effective_policy_definition".to_owned(), json!({}));
            return;
        };
        for (name, policy) in [
            ("policy", &effective.policy),
            ("operator_policy", &effective.operator_policy),
        ] {
            if let Some(policy) = policy {
                row.insert(name.to_owned(), policy.as_str().into());
            }
        }
        row.insert(
            "effective_policy_definition".to_owned(),
            effective.definition.clone().into(),
        );
    }
}

impl Row for QueueRow {
    fn name(&self) -> &str {
        &self.cell.name
    }

    fn key(&self, app: &App, field: &str) -> Option<Key> {
        if let Some(counter) = field.strip_prefix("message_stats.") {
            return self.counter_key(app, counter);
        }
        let text = |text: &str| Some(Key::text(text));
        match field {
            "name" => return text(&self.cell.name),
            "vhost" => return text(&self.vhost.name),
            "type" => return text(kind(&self.cell.spec)),
            "state" => return text("running"),
            "durable" => return Some(Key::Number(f64::from(u8::from(self.cell.spec.durable)))),
            _ => {}
        }
        let state = self.cell.lock();
        let queue = &state.queue;
        let number = match field {
            "messages" => queue.ready() + queue.unacked() + queue.stuck(),
            "messages_ready" => queue.ready(),
            "messages_unacknowledged" => queue.unacked(),
            "message_bytes" => queue.ready_bytes() + queue.unacked_bytes() + queue.stuck_bytes(),
            "message_bytes_ready" => queue.ready_bytes(),
            "consumers" => queue.consumer_count() as u64,
            "memory" => queue.resident_bytes() as u64,
            "x_messages_refused" => queue.counters().refused,
            "x_messages_dropped" => queue.counters().dropped,
            _ => return None,
        };
        Some(Key::Number(number as f64))
    }

    fn json(&self, app: &App, window: &AskedSpans) -> Map<String, Value> {
        let mut row = self.definition(app);
        let held = QueueMoment::of(&self.cell);
        held.write(&mut row);
        if self.plain {
            return row;
        }
        let now_ms = app.now_ms();
        app.sampler.with_queue(&self.cell, |ring| {
            for (name, details) in length_details(ring, window.lengths, now_ms) {
                row.insert(name.to_owned(), details);
            }
            if held
                .counters
                .iter()
                .take(MESSAGES.len())
                .all(|count| *count == 0)
            {
                return;
            }
            let counters = COUNTED.into_iter();
            let counters = counters.map(|field| (field, MESSAGES[field], held.counters[field]));
            let stats = stats(ring, counters, window.message_rates, now_ms);
            row.insert("message_stats".to_owned(), stats.into());
        });
        row
    }
}

/// What a queue was declared with. Its type is there in any case, as in RabbitMQ.
pub(crate) fn arguments(spec: &QueueSpec) -> Value {
    let mut arguments = table_to_json(spec.arguments.as_raw());
    if let Value::Object(arguments) = &mut arguments {
        let kind = || kind(spec).into();
        arguments.entry("x-queue-type").or_insert_with(kind);
    }
    arguments
}

/// The type a queue was declared with.
pub(crate) fn kind(spec: &QueueSpec) -> &str {
    let kind = spec.arguments.get(b"x-queue-type");
    let kind = kind.and_then(|kind| kind.as_str_bytes());
    kind.and_then(|kind| std::str::from_utf8(kind).ok())
        .unwrap_or("classic")
}

fn owner_of(peer: &Peer) -> Value {
    let (host, port) = crate::connection::client_address(&peer.client.name);
    json!({"name": peer.client.name, "peer_host": host, "peer_port": port})
}

/// `GET /api/queues` and `/api/queues/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let vhosts = call.vhosts()?;
    let plain = call.flag("disable_stats");
    let count = vhosts
        .iter()
        .map(|vhost| vhost.directory.read().queues().len())
        .sum();
    let rows = vhosts.into_iter().flat_map(move |vhost| {
        let cells = walk::queues(&vhost);
        cells.map(move |cell| QueueRow {
            vhost: Arc::clone(&vhost),
            cell,
            plain,
        })
    });
    list_counted(call, rows, count)
}

/// `GET /api/users/{user}/queues`: those that a user has declared, as far as the caller sees them.
pub(crate) fn of_user(call: &Call) -> Answer {
    let user: Arc<str> = call.segment("user").into();
    let rows = call.vhosts()?.into_iter().flat_map(move |vhost| {
        let user = Arc::clone(&user);
        let cells = walk::queues(&vhost);
        let theirs = cells.filter(move |cell| cell.spec.declared_by.as_ref() == Some(&user));
        theirs.map(move |cell| QueueRow::new(&vhost, &cell))
    });
    list(call, rows)
}

/// The queue that the path names.
pub(crate) fn find(call: &Call) -> Result<(Arc<Vhost>, Arc<QueueCell>), Problem> {
    let vhost = call.vhost()?;
    let cell = vhost
        .queue(call.segment("queue"))
        .ok_or(Problem::NotFound)?;
    Ok((vhost, cell))
}

/// An exclusive queue serves its own connection only.
pub(crate) fn not_exclusive(vhost: &Vhost, cell: &QueueCell) -> Result<(), Problem> {
    locked(cell).map_or(Ok(()), |refusal| {
        Err(Problem::refused(refusal, &vhost.name))
    })
}

/// Why a queue serves nobody here, if it is another connection's own.
pub(crate) fn locked(cell: &QueueCell) -> Option<Refusal> {
    let is_exclusive = cell.spec.owner.is_some();
    is_exclusive.then(|| Refusal::Locked(cell.name.to_string()))
}

/// `GET /api/queues/{vhost}/{queue}`.
pub(crate) fn show(call: &Call) -> Answer {
    let (vhost, cell) = find(call)?;
    let window = AskedSpans::of(call)?;
    let mut row = QueueRow::new(&vhost, &cell).json(&call.app, &window);
    row.insert("deliveries".to_owned(), json!([]));
    row.insert("incoming".to_owned(), json!([]));
    let app = Arc::clone(&call.app);
    let consumers = consumer::of_queue(&vhost, &cell);
    let consumers = consumers.map(move |consumer| consumer.json(&app, &window));
    Columns::reply_with(call, row, "consumer_details", consumers)
}

/// `POST /api/rebalance/queues`: there is one node, so every queue is in its place.
pub(crate) fn rebalance(_: &Call) -> Answer {
    Ok(Reply::NoContent)
}

/// Lists without any row, for what Leveret does not have, such as streams.
pub(crate) fn none(_: &Call) -> Answer {
    Ok(Reply::Json(json!([])))
}

/// The same for one virtual host, which must exist.
pub(crate) fn none_in(call: &Call) -> Answer {
    call.vhost()?;
    Ok(Reply::Json(json!([])))
}
