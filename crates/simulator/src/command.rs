//! What simulated clients send, as data: encoded for the wire, judged by the model.

use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos, BasicRecover,
    ChannelClose, ChannelCloseOk, ChannelOpen, ConfirmSelect, ConnectionClose, ConnectionCloseOk,
    Method, Properties, QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind, RawTable,
    Table, TxCommit, TxRollback, TxSelect, Value, body_frame_head, header_frame,
};

use crate::leases::Timeout;

/// The exchanges of the workload. The last one does not exist.
pub(crate) const EXCHANGES: [&str; 5] = ["", "amq.direct", "amq.fanout", "amq.topic", "nowhere"];
/// Binding keys; those with wildcards mean something to the topic exchange only.
pub(crate) const BINDING_KEYS: [&str; 5] = ["a", "a.b", "a.*", "#", "*.b"];
/// Routing keys, besides queue names.
pub(crate) const ROUTING_KEYS: [&str; 4] = ["a", "a.b", "b.b", "c"];

/// What a queue is declared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    /// `x-max-length`.
    pub(crate) length_max: Option<u8>,
    /// `x-overflow` is `reject-publish`.
    pub(crate) refuses: bool,
    pub(crate) single_active: bool,
    pub(crate) mortality: Mortality,
}

/// What messages of a queue die of, and where they go then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mortality {
    /// `x-message-ttl`.
    pub(crate) ttl_ms: Option<u16>,
    /// `x-expires`.
    pub(crate) expires_ms: Option<u16>,
    /// `x-dead-letter-exchange`, and as `x-dead-letter-routing-key` the name of a queue.
    pub(crate) letters: Option<(u8, Option<u8>)>,
    /// `x-dead-letter-strategy` is `at-least-once`.
    pub(crate) at_least_once: bool,
    /// What is refused dies: `x-overflow` is `reject-publish-dlx`.
    pub(crate) refused_die: bool,
    /// `x-delivery-limit`.
    pub(crate) failures_max: Option<u8>,
    /// `x-max-priority`.
    pub(crate) priority_max: u8,
    /// `x-overflow-drop` is `lowest`.
    pub(crate) drops_lowest: bool,
    pub(crate) timeout: Timeout,
}

impl Spec {
    fn arguments(self) -> Vec<u8> {
        let mut table = Table::new();
        let text = |text: &str| Value::LongString(text.into());
        if let Some(max) = self.length_max {
            table.insert("x-max-length", Value::I32(max.into()));
        }
        if self.refuses {
            let overflow = match self.mortality.refused_die {
                true => "reject-publish-dlx",
                false => "reject-publish",
            };
            table.insert("x-overflow", text(overflow));
        }
        if self.single_active {
            table.insert("x-single-active-consumer", Value::Bool(true));
        }
        self.mortality.insert(&mut table);
        table.encoded()
    }

    /// Whether its dead letters wait until somebody has room for them.
    pub(crate) const fn keeps_letters(self) -> bool {
        let Mortality {
            at_least_once,
            refused_die,
            ..
        } = self.mortality;
        at_least_once && self.refuses && !refused_die
    }
}

impl Mortality {
    fn insert(self, table: &mut Table) {
        let text = |text: &str| Value::LongString(text.into());
        let numbers = [
            ("x-message-ttl", self.ttl_ms),
            ("x-expires", self.expires_ms),
            ("x-delivery-limit", self.failures_max.map(u16::from)),
            ("x-consumer-timeout", self.timeout.ms),
            (
                "x-max-priority",
                (self.priority_max > 0).then_some(self.priority_max.into()),
            ),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                table.insert(key, Value::I32(number.into()));
            }
        }
        if let Some((exchange, key)) = self.letters {
            let name = EXCHANGES[usize::from(exchange)];
            table.insert("x-dead-letter-exchange", text(name));
            if let Some(queue) = key {
                let key = queue_name(queue);
                table.insert("x-dead-letter-routing-key", text(&key));
            }
        }
        if self.at_least_once {
            table.insert("x-dead-letter-strategy", text("at-least-once"));
        }
        if self.drops_lowest {
            table.insert("x-overflow-drop", text("lowest"));
        }
        if self.timeout.counts {
            table.insert("x-consumer-timeout-counts", Value::Bool(true));
        }
        if self.timeout.closes {
            table.insert("x-consumer-timeout-action", text("close"));
        }
    }
}

/// One message: everything about it follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) len: u32,
    pub(crate) persistent: bool,
    /// Its own `expiration`, milliseconds.
    pub(crate) expiration_ms: Option<u16>,
    pub(crate) priority: Option<u8>,
}

impl Message {
    pub(crate) fn body(self) -> Vec<u8> {
        let byte = |at: u32| (self.id.wrapping_mul(31)).wrapping_add(u64::from(at)) as u8;
        (0..self.len).map(byte).collect()
    }

    pub(crate) fn header(self) -> Vec<u8> {
        let told = |number: Option<u64>| number.map_or_else(String::new, |it| it.to_string());
        let expiration = told(self.expiration_ms.map(u64::from));
        let id = format!(
            "{}:{}:{}:{expiration}:{}",
            self.id,
            self.len,
            u8::from(self.persistent),
            told(self.priority.map(u64::from)),
        );
        let properties = Properties {
            delivery_mode: self.persistent.then_some(2),
            message_id: Some(id.as_bytes()),
            expiration: self.expiration_ms.map(|_| expiration.as_bytes()),
            priority: self.priority,
            ..Properties::default()
        };
        let mut header = Vec::new();
        properties.encode(self.len.into(), &mut header);
        header
    }

    /// Reads a header back.
    pub(crate) fn of(header: &[u8]) -> Option<Self> {
        let properties = Properties::decode(header).ok()?;
        let id = std::str::from_utf8(properties.message_id?).ok()?;
        let mut parts = id.split(':');
        Some(Self {
            id: parts.next()?.parse().ok()?,
            len: parts.next()?.parse().ok()?,
            persistent: parts.next()? == "1",
            expiration_ms: parts.next()?.parse().ok(),
            priority: parts.next()?.parse().ok(),
        })
    }
}

/// What becomes of a settled delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Requeue,
    /// It comes back as a failed attempt.
    Retry,
    Discard,
}

/// One command of a client on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    OpenChannel,
    CloseChannel,
    /// The answer to the server's own close.
    ChannelCloseOk,
    CloseConnection,
    ConnectionCloseOk,
    Declare {
        queue: u8,
        spec: Spec,
        passive: bool,
        nowait: bool,
    },
    Delete {
        queue: u8,
        if_unused: bool,
        if_empty: bool,
    },
    Purge {
        queue: u8,
    },
    Bind {
        queue: u8,
        exchange: u8,
        key: &'static str,
        nowait: bool,
    },
    Unbind {
        queue: u8,
        exchange: u8,
        key: &'static str,
    },
    Publish {
        message: Message,
        exchange: u8,
        key: String,
        mandatory: bool,
    },
    ConfirmSelect,
    TxSelect,
    TxCommit,
    TxRollback,
    Qos {
        prefetch: u16,
        global: bool,
    },
    Consume {
        queue: u8,
        tag: u64,
        no_ack: bool,
        exclusive: bool,
        nowait: bool,
        /// `x-consumer-timeout`, its own.
        timeout_ms: Option<u16>,
    },
    Cancel {
        tag: u64,
        nowait: bool,
    },
    Get {
        queue: u8,
        no_ack: bool,
    },
    Settle {
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    },
    Recover,
}

pub(crate) fn queue_name(queue: u8) -> String {
    format!("q{queue}")
}

pub(crate) fn consumer_tag(tag: u64) -> String {
    format!("c{tag}")
}

impl Command {
    /// Whether the model cannot tell from what was seen which deliveries came before it, or how it
    /// ended: the broker gets such a command in a turn of its own.
    pub(crate) const fn stands_alone(&self) -> bool {
        match self {
            Self::Recover | Self::OpenChannel => true,
            Self::TxSelect | Self::TxCommit | Self::TxRollback => true,
            Self::Delete { if_empty, .. } => *if_empty,
            Self::Qos { global, .. } => *global,
            Self::Settle { tag, .. } => *tag == 0,
            _ => false,
        }
    }

    /// Its frames, one by one.
    pub(crate) fn frames(&self, channel: u16, frame_max: u32) -> Vec<Vec<u8>> {
        if let Self::Publish {
            message,
            exchange,
            key,
            mandatory,
        } = self
        {
            let publish = BasicPublish {
                exchange: EXCHANGES[usize::from(*exchange)].as_bytes(),
                routing_key: key.as_bytes(),
                mandatory: *mandatory,
                immediate: false,
            };
            let mut frames = vec![encoded(channel, publish)];
            frames.append(&mut content_frames(*message, channel, frame_max));
            return frames;
        }
        vec![self.method_frame(channel)]
    }

    fn method_frame(&self, channel: u16) -> Vec<u8> {
        match *self {
            Self::OpenChannel => encoded(channel, ChannelOpen {}),
            Self::CloseChannel => encoded(channel, channel_close()),
            Self::ChannelCloseOk => encoded(channel, ChannelCloseOk {}),
            Self::CloseConnection => encoded(0, connection_close()),
            Self::ConnectionCloseOk => encoded(0, ConnectionCloseOk {}),
            Self::ConfirmSelect => encoded(channel, ConfirmSelect { nowait: false }),
            Self::TxSelect => encoded(channel, TxSelect {}),
            Self::TxCommit => encoded(channel, TxCommit {}),
            Self::TxRollback => encoded(channel, TxRollback {}),
            Self::Recover => encoded(channel, BasicRecover { requeue: true }),
            Self::Qos { prefetch, global } => encoded(
                channel,
                BasicQos {
                    prefetch_size: 0,
                    prefetch_count: prefetch,
                    global,
                },
            ),
            Self::Cancel { tag, nowait } => encoded(
                channel,
                BasicCancel {
                    consumer_tag: consumer_tag(tag).as_bytes(),
                    nowait,
                },
            ),
            Self::Settle { .. } => self.settlement(channel),
            Self::Consume { .. } | Self::Get { .. } => self.reading(channel),
            _ => self.topology(channel),
        }
    }

    fn settlement(&self, channel: u16) -> Vec<u8> {
        let Self::Settle {
            tag,
            multiple,
            verdict,
        } = *self
        else {
            return Vec::new();
        };
        let delivery_tag = tag;
        if verdict == Verdict::Ack {
            return encoded(
                channel,
                BasicAck {
                    delivery_tag,
                    multiple,
                },
            );
        }
        let requeue = verdict != Verdict::Discard;
        if verdict != Verdict::Retry && (multiple || tag % 2 == 0 || requeue) {
            let nack = BasicNack {
                delivery_tag,
                multiple,
                requeue,
            };
            return encoded(channel, nack);
        }
        let reject = leveret_codec::BasicReject {
            delivery_tag,
            requeue,
        };
        encoded(channel, reject)
    }

    fn reading(&self, channel: u16) -> Vec<u8> {
        match *self {
            Self::Consume {
                queue,
                tag,
                no_ack,
                exclusive,
                nowait,
                timeout_ms,
            } => {
                let mut table = Table::new();
                if let Some(timeout_ms) = timeout_ms {
                    table.insert("x-consumer-timeout", Value::I32(timeout_ms.into()));
                }
                encoded(
                    channel,
                    BasicConsume {
                        queue: queue_name(queue).as_bytes(),
                        consumer_tag: consumer_tag(tag).as_bytes(),
                        no_ack,
                        exclusive,
                        nowait,
                        arguments: RawTable::parse(&table.encoded()).unwrap_or(RawTable::EMPTY),
                        ..Default::default()
                    },
                )
            }
            Self::Get { queue, no_ack } => encoded(
                channel,
                BasicGet {
                    queue: queue_name(queue).as_bytes(),
                    no_ack,
                },
            ),
            _ => Vec::new(),
        }
    }

    fn topology(&self, channel: u16) -> Vec<u8> {
        match *self {
            Self::Declare {
                queue,
                spec,
                passive,
                nowait,
            } => encoded(
                channel,
                QueueDeclare {
                    queue: queue_name(queue).as_bytes(),
                    passive,
                    durable: spec.durable,
                    exclusive: spec.exclusive,
                    auto_delete: spec.auto_delete,
                    nowait,
                    arguments: RawTable::parse(&spec.arguments()).unwrap_or(RawTable::EMPTY),
                },
            ),
            Self::Delete {
                queue,
                if_unused,
                if_empty,
            } => encoded(
                channel,
                QueueDelete {
                    queue: queue_name(queue).as_bytes(),
                    if_unused,
                    if_empty,
                    nowait: false,
                },
            ),
            Self::Purge { queue } => encoded(
                channel,
                QueuePurge {
                    queue: queue_name(queue).as_bytes(),
                    nowait: false,
                },
            ),
            Self::Bind {
                queue,
                exchange,
                key,
                nowait,
            } => encoded(
                channel,
                QueueBind {
                    queue: queue_name(queue).as_bytes(),
                    exchange: EXCHANGES[usize::from(exchange)].as_bytes(),
                    routing_key: key.as_bytes(),
                    nowait,
                    arguments: RawTable::EMPTY,
                },
            ),
            Self::Unbind {
                queue,
                exchange,
                key,
            } => encoded(
                channel,
                QueueUnbind {
                    queue: queue_name(queue).as_bytes(),
                    exchange: EXCHANGES[usize::from(exchange)].as_bytes(),
                    routing_key: key.as_bytes(),
                    arguments: RawTable::EMPTY,
                },
            ),
            _ => Vec::new(),
        }
    }
}

fn encoded<'a>(channel: u16, method: impl Into<Method<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    method.into().encode(channel, &mut out);
    out
}

fn channel_close() -> ChannelClose<'static> {
    ChannelClose {
        reply_code: 200,
        reply_text: b"bye",
        ..Default::default()
    }
}

fn connection_close() -> ConnectionClose<'static> {
    ConnectionClose {
        reply_code: 200,
        reply_text: b"bye",
        ..Default::default()
    }
}

/// A content header frame and body frames, sometimes smaller than they could be.
fn content_frames(message: Message, channel: u16, frame_max: u32) -> Vec<Vec<u8>> {
    let mut header = Vec::new();
    header_frame(&mut header, channel, &message.header());
    let mut frames = vec![header];
    let largest = frame_max as usize - leveret_codec::FRAME_OVERHEAD;
    let step = match message.id % 4 {
        0 => largest.min((message.len as usize / 3).max(1)),
        _ => largest,
    };
    for chunk in message.body().chunks(step) {
        let mut frame = Vec::new();
        body_frame_head(&mut frame, channel, chunk.len() as u32);
        frame.extend_from_slice(chunk);
        frame.push(leveret_codec::FRAME_END);
        frames.push(frame);
    }
    frames
}
