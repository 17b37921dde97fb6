//! A simulated client: it keeps the rules of the protocol, and little else.

use std::collections::BTreeMap;

use leveret_codec::{
    ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, HEARTBEAT, Method, PROTOCOL_HEADER,
    RawTable, Table, Value,
};
use leveret_store::sim::Rng;

use crate::command::{BINDING_KEYS, Command, Message, ROUTING_KEYS, Spec, Verdict, queue_name};
use crate::sight::{Observer, Reply, Sight};

/// What all clients of a world share.
pub(crate) struct Plan {
    /// What each queue is usually declared with.
    pub(crate) specs: Vec<Spec>,
    pub(crate) messages: u64,
    pub(crate) consumers: u64,
    /// Publishes are this many times as frequent.
    pub(crate) publishing: u64,
    /// Messages expire and have priorities.
    pub(crate) mortal: bool,
    /// Deliveries have to be settled in time.
    pub(crate) leased: bool,
}

/// A channel as its client sees it.
#[derive(Default)]
struct Channel {
    closing: bool,
    unsettled: Vec<u64>,
    consumers: Vec<u64>,
    confirms: bool,
    transacts: bool,
}

/// A command on its way.
pub(crate) struct Sent {
    pub(crate) channel: u16,
    pub(crate) command: Command,
    /// Where it begins and ends in the stream.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Sent {
    /// Whether both are publishes that the broker may take as one batch.
    pub(crate) fn continues(&self, first: &Self) -> bool {
        fn route(sent: &Sent) -> Option<(u16, u8, &str)> {
            match &sent.command {
                Command::Publish { exchange, key, .. } => Some((sent.channel, *exchange, key)),
                _ => None,
            }
        }
        route(self).is_some() && route(self) == route(first)
    }
}

/// The client's end of a connection.
pub(crate) struct Client {
    observer: Observer,
    channels: BTreeMap<u16, Channel>,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat_s: u16,
    /// Written and not yet with the broker.
    pub(crate) outgoing: Vec<u8>,
    written: u64,
    pub(crate) sent: Vec<Sent>,
    /// It has closed the connection or was told to: nothing more is asked.
    pub(crate) done: bool,
    /// It neither reads nor writes: its machine has lost power.
    pub(crate) mute: bool,
    channels_max: u16,
}

impl Client {
    /// A client that has sent its whole handshake.
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let frame_max = [4096, 4096, 8192, 131_072][rng.below(4) as usize];
        let heartbeat_s = if rng.one_in(2) { 10 } else { 0 };
        let mut client = Self {
            observer: Observer::default(),
            channels: BTreeMap::new(),
            frame_max,
            heartbeat_s,
            outgoing: handshake(frame_max, heartbeat_s),
            written: 0,
            sent: Vec::new(),
            done: false,
            mute: false,
            channels_max: 1 + rng.below(3) as u16,
        };
        client.written = client.outgoing.len() as u64;
        client
    }

    /// Sends a command, its frames possibly between those of the one before.
    pub(crate) fn send(&mut self, channel: u16, command: Command) {
        let bytes = command.frames(channel, self.frame_max).concat();
        let from = self.written;
        self.written += bytes.len() as u64;
        self.outgoing.extend_from_slice(&bytes);
        self.sent.push(Sent {
            channel,
            command,
            from,
            to: self.written,
        });
    }

    /// Sends two publishes on different channels with their frames mixed.
    fn send_mixed(&mut self, rng: &mut Rng, publishes: [(u16, Command); 2]) {
        let mut frames = publishes.each_ref().map(|(channel, command)| {
            let mut frames = command.frames(*channel, self.frame_max);
            frames.reverse();
            frames
        });
        let from = self.written;
        let mut ends = [0, 0];
        while frames.iter().any(|frames| !frames.is_empty()) {
            let pick = rng.below(2) as usize;
            if let Some(frame) = frames[pick].pop() {
                self.outgoing.extend_from_slice(&frame);
                self.written += frame.len() as u64;
                ends[pick] = self.written;
            }
        }
        let [first, second] = publishes;
        let mut both = [(first, ends[0]), (second, ends[1])];
        both.sort_by_key(|(_, to)| *to);
        for ((channel, command), to) in both {
            self.sent.push(Sent {
                channel,
                command,
                from,
                to,
            });
        }
    }

    pub(crate) fn beat(&mut self) {
        self.written += HEARTBEAT.len() as u64;
        self.outgoing.extend_from_slice(&HEARTBEAT);
    }

    /// Reads what came and answers what the protocol says must be answered.
    ///
    /// # Errors
    /// What no server may say.
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        for seen in self.observer.take(bytes)? {
            let number = seen.channel;
            match seen.sight {
                Sight::Reply(Reply::Close(_)) if number == 0 => {
                    self.done = true;
                    self.channels.clear();
                    self.send(0, Command::ConnectionCloseOk);
                }
                Sight::Reply(Reply::Close(_)) => {
                    // With its own close under way it waits for that one's answer.
                    let closing = self.channels.get(&number).is_some_and(|it| it.closing);
                    if !closing {
                        self.channels.remove(&number);
                    }
                    self.send(number, Command::ChannelCloseOk);
                }
                Sight::Reply(Reply::Plain(20, 41)) => drop(self.channels.remove(&number)),
                Sight::Deliver { consumer, tag, .. } => self.unsettled(number, tag, Some(consumer)),
                Sight::Reply(Reply::GetOk { tag, .. }) => self.unsettled(number, tag, None),
                Sight::Cancelled(tag) => {
                    if let Some(channel) = self.channels.get_mut(&number) {
                        channel.consumers.retain(|other| *other != tag);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn unsettled(&mut self, number: u16, tag: u64, consumer: Option<u64>) {
        if consumer.is_some_and(goes_without) {
            return;
        }
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.unsettled.push(tag);
        }
    }

    /// Closes the connection in an orderly way.
    pub(crate) fn close(&mut self) {
        if !self.done {
            self.done = true;
            self.send(0, Command::CloseConnection);
        }
    }

    /// Does something.
    pub(crate) fn act(&mut self, rng: &mut Rng, plan: &mut Plan) {
        if self.done || self.mute {
            return;
        }
        if self.channels.is_empty() || rng.one_in(40) {
            let free = (1..=self.channels_max).find(|it| !self.channels.contains_key(it));
            if let Some(number) = free {
                self.channels.insert(number, Channel::default());
                self.send(number, Command::OpenChannel);
                for _ in 0..rng.below(3) {
                    let queue = pick_queue(rng, plan);
                    let declare = declare(queue, plan.specs[usize::from(queue)]);
                    self.send(number, declare);
                }
            }
        }
        let pick = rng.below(self.channels.len().max(1) as u64) as usize;
        let number = self.channels.keys().nth(pick).copied();
        let Some(number) = number.filter(|it| !self.channels[it].closing) else {
            return;
        };
        match rng.below(30 + plan.publishing) {
            0 => self.end_something(rng, number),
            1 | 2 => self.consume(rng, number, plan),
            3..=5 => self.topology(rng, number, plan),
            6 | 7 => {
                let command = Command::Get {
                    queue: pick_queue(rng, plan),
                    no_ack: rng.one_in(3),
                };
                self.send(number, command);
            }
            8..=11 => self.settle_something(rng, number),
            12..=24 => self.settle(rng, number),
            _ => self.publish(rng, number, plan),
        }
    }

    fn end_something(&mut self, rng: &mut Rng, number: u16) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        match rng.below(12) {
            0 => self.close(),
            1 => {
                // Nobody opened this one.
                let command = Command::Qos {
                    prefetch: 1,
                    global: false,
                };
                self.send(9, command);
            }
            2..=6 => {
                channel.closing = true;
                channel.unsettled.clear();
                self.send(number, Command::CloseChannel);
            }
            _ => {
                if !channel.consumers.is_empty() {
                    let pick = rng.below(channel.consumers.len() as u64) as usize;
                    let tag = channel.consumers.remove(pick);
                    let nowait = rng.one_in(3);
                    self.send(number, Command::Cancel { tag, nowait });
                }
            }
        }
    }

    fn consume(&mut self, rng: &mut Rng, number: u16, plan: &mut Plan) {
        if rng.one_in(2) {
            let command = Command::Qos {
                prefetch: [0, 1, 2, 5, 20][rng.below(5) as usize],
                global: rng.one_in(4),
            };
            self.send(number, command);
        }
        plan.consumers += 1;
        let tag = plan.consumers;
        let command = Command::Consume {
            queue: pick_queue(rng, plan),
            tag,
            no_ack: goes_without(tag),
            exclusive: rng.one_in(20),
            nowait: rng.one_in(5),
            timeout_ms: (plan.leased && rng.one_in(4)).then(|| 1 + rng.below(3_000) as u16),
        };
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.consumers.push(tag);
        }
        self.send(number, command);
    }

    fn topology(&mut self, rng: &mut Rng, number: u16, plan: &Plan) {
        let queue = pick_queue(rng, plan);
        let command = match rng.below(20) {
            0 => Command::Delete {
                queue,
                if_unused: rng.one_in(2),
                if_empty: rng.one_in(2),
            },
            1 => Command::Purge { queue },
            2..=8 => Command::Bind {
                queue,
                exchange: if rng.one_in(30) {
                    rng.below(5)
                } else {
                    1 + rng.below(3)
                } as u8,
                key: BINDING_KEYS[rng.below(5) as usize],
                nowait: rng.one_in(4),
            },
            9 | 10 => Command::Unbind {
                queue,
                exchange: 1 + rng.below(3) as u8,
                key: BINDING_KEYS[rng.below(5) as usize],
            },
            _ => {
                let mut spec = plan.specs[usize::from(queue)];
                if rng.one_in(30) {
                    spec.durable = !spec.durable;
                }
                Command::Declare {
                    queue,
                    spec,
                    passive: rng.one_in(10),
                    nowait: rng.one_in(5),
                }
            }
        };
        self.send(number, command);
    }

    /// One or a few settlements in a row.
    fn settle(&mut self, rng: &mut Rng, number: u16) {
        for _ in 0..=rng.below(4) {
            let Some(channel) = self.channels.get_mut(&number) else {
                return;
            };
            if channel.unsettled.is_empty() {
                return;
            }
            // Mostly the oldest, as clients do.
            let pick = match rng.below(3) {
                0 => rng.below(channel.unsettled.len() as u64) as usize,
                _ => 0,
            };
            let tag = channel.unsettled.remove(pick);
            let verdict = pick_verdict(rng);
            let command = Command::Settle {
                tag,
                multiple: false,
                verdict,
            };
            self.send(number, command);
        }
    }

    /// Several at once, all, or what was never delivered.
    fn settle_something(&mut self, rng: &mut Rng, number: u16) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let verdict = match pick_verdict(rng) {
            // Only one at a time is rejected.
            Verdict::Retry => Verdict::Requeue,
            verdict => verdict,
        };
        let of = |tag, multiple| Command::Settle {
            tag,
            multiple,
            verdict,
        };
        let command = match rng.below(40) {
            0 => of(1_000_000, false),
            1 => of(1_000_000, true),
            2..=4 => {
                channel.unsettled.clear();
                of(0, true)
            }
            5 => {
                channel.unsettled.clear();
                Command::Recover
            }
            6 if !channel.confirms => {
                channel.transacts = true;
                Command::TxSelect
            }
            7..=20 if channel.transacts => Command::TxCommit,
            21 if channel.transacts => Command::TxRollback,
            22 => Command::TxCommit,
            _ if channel.unsettled.is_empty() => return,
            _ => {
                let pick = rng.below(channel.unsettled.len() as u64) as usize;
                let tag = channel.unsettled[pick];
                channel.unsettled.retain(|other| *other > tag);
                of(tag, true)
            }
        };
        self.send(number, command);
    }

    /// Publishes one message, a batch on one route, or two with their frames mixed.
    fn publish(&mut self, rng: &mut Rng, number: u16, plan: &mut Plan) {
        if rng.one_in(6)
            && !self
                .channels
                .get(&number)
                .is_some_and(|channel| channel.transacts)
            && let Some(channel) = self.channels.get_mut(&number)
            && !std::mem::replace(&mut channel.confirms, true)
        {
            self.send(number, Command::ConfirmSelect);
        }
        let batch = match rng.below(5) {
            0 => 1 + rng.below(20),
            _ => 1,
        };
        let (exchange, key, mandatory) = pick_route(rng, plan);
        let mut command = |rng: &mut Rng| {
            plan.messages += 1;
            Command::Publish {
                message: Message {
                    id: plan.messages,
                    len: pick_len(rng),
                    persistent: rng.one_in(2) || plan.mortal && rng.one_in(2),
                    expiration_ms: plan.mortal.then(|| pick_expiration(rng)).flatten(),
                    priority: (plan.mortal && rng.one_in(2)).then(|| rng.below(5) as u8),
                },
                exchange,
                key: key.clone(),
                mandatory,
            }
        };
        let other = self
            .channels
            .iter()
            .find(|(it, state)| **it != number && !state.closing);
        if let Some((&other, _)) = other
            && rng.one_in(8)
        {
            let (first, second) = (command(rng), command(rng));
            return self.send_mixed(rng, [(number, first), (other, second)]);
        }
        for _ in 0..batch {
            let command = command(rng);
            self.send(number, command);
        }
    }
}

/// Whether a consumer gets deliveries without having to acknowledge them.
const fn goes_without(consumer: u64) -> bool {
    consumer.is_multiple_of(4)
}

const fn declare(queue: u8, spec: Spec) -> Command {
    Command::Declare {
        queue,
        spec,
        passive: false,
        nowait: false,
    }
}

fn pick_queue(rng: &mut Rng, plan: &Plan) -> u8 {
    rng.below(plan.specs.len() as u64) as u8
}

fn pick_verdict(rng: &mut Rng) -> Verdict {
    match rng.below(10) {
        0 => Verdict::Requeue,
        1 => Verdict::Retry,
        2 | 3 => Verdict::Discard,
        _ => Verdict::Ack,
    }
}

/// The times messages live: not at all, a moment, or beyond most steps of the clock.
fn pick_expiration(rng: &mut Rng) -> Option<u16> {
    let lives = rng.one_in(3);
    lives.then(|| match rng.below(8) {
        0 => 0,
        1..=3 => 1 + rng.below(40) as u16,
        _ => 1 + rng.below(3_000) as u16,
    })
}

fn pick_len(rng: &mut Rng) -> u32 {
    let len = match rng.below(40) {
        0 => rng.below(60_000),
        1..=4 => rng.below(9_000),
        5..=12 => rng.below(900),
        13 => 0,
        _ => rng.below(100),
    };
    len as u32
}

fn pick_route(rng: &mut Rng, plan: &Plan) -> (u8, String, bool) {
    let exchange = match rng.below(100) {
        0 => 4,
        1..=60 => 0,
        _ => 1 + rng.below(3) as u8,
    };
    let key = match exchange {
        0 => queue_name(pick_queue(rng, plan)),
        _ => ROUTING_KEYS[rng.below(4) as usize].into(),
    };
    (exchange, key, rng.one_in(3))
}

fn handshake(frame_max: u32, heartbeat: u16) -> Vec<u8> {
    let mut capabilities = Table::new();
    capabilities.insert("consumer_cancel_notify", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    let properties = properties.encoded();
    let start_ok = ConnectionStartOk {
        client_properties: RawTable::parse(&properties).unwrap_or(RawTable::EMPTY),
        mechanism: b"PLAIN",
        response: b"\0guest\0guest",
        locale: b"en_US",
    };
    let tune_ok = ConnectionTuneOk {
        channel_max: 15,
        frame_max,
        heartbeat,
    };
    let mut bytes = PROTOCOL_HEADER.to_vec();
    Method::from(start_ok).encode(0, &mut bytes);
    Method::from(tune_ok).encode(0, &mut bytes);
    Method::from(ConnectionOpen { virtual_host: b"/" }).encode(0, &mut bytes);
    bytes
}
