//! `floor`: turns publish frames into deliver frames straight into the consumer's connection.
//!
//! No queue, no credit, no unacknowledged messages: what any broker must do at least.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use crate::floor::fanout::Fanout;
use crate::floor::handshake::{self, Directory};
use crate::floor::journal::Journal;
use crate::floor::outbound::Outbound;
use crate::wire::{
    BASIC_ACK, BASIC_DELIVER, CONFIRM_SELECT, CONNECTION_CLOSE, Fields, Frame, HEAD, Method,
    MethodId, PROTOCOL_HEADER,
};

/// Bytes of one receive.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of a publish frame before its exchange name: head, class, method, reserved short.
const PUBLISH_FIXED: usize = HEAD + 4 + 2;

/// What a publish does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// One consumer per routing key, appended to directly.
    Direct,
    /// Many consumers per routing key: each connection's own task encodes its copies.
    Fanout,
}

/// Serves connections for ever; with a `journal`, confirms wait for it.
pub async fn serve(
    listener: TcpListener,
    mode: Mode,
    journal: Option<Arc<Journal>>,
) -> std::io::Result<()> {
    let directory = Arc::new(Directory::new());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stream = Arc::new(stream);
        let outbound = Arc::new(Outbound::new(Arc::clone(&stream)));
        let consumer = Consumer {
            outbound,
            fanout: Fanout::new(&stream),
        };
        let reader = Reader {
            consumer,
            directory: Arc::clone(&directory),
            mode,
            journal: journal.clone(),
            route: None,
            confirming: false,
            published: 0,
        };
        tokio::spawn(connection(stream, reader));
    }
}

/// A connection as its publishers see it.
#[derive(Clone)]
struct Consumer {
    outbound: Arc<Outbound>,
    fanout: Fanout,
}

async fn connection(stream: Arc<TcpStream>, mut reader: Reader) {
    let outbound = Arc::clone(&reader.consumer.outbound);
    let blocked = Arc::clone(&outbound);
    let writer = tokio::spawn(async move { blocked.write_when_blocked().await });
    let fanout = reader.consumer.fanout.clone();
    let copies = tokio::spawn(async move { fanout.write_copies().await });
    let forget = Arc::clone(&reader.directory);
    reader.run(&stream).await;
    forget.forget(|other| Arc::ptr_eq(&other.outbound, &outbound));
    writer.abort();
    copies.abort();
}

struct Reader {
    consumer: Consumer,
    directory: Arc<Directory<Consumer>>,
    mode: Mode,
    journal: Option<Arc<Journal>>,
    route: Option<Route>,
    confirming: bool,
    published: u64,
}

/// Where the publishes of one exchange and routing key go.
struct Route {
    key: Vec<u8>,
    targets: Vec<(Consumer, Arc<[Template]>)>,
}

/// A `basic.deliver` frame with the delivery tag to be patched.
#[derive(Clone)]
pub struct Template {
    frame: Vec<u8>,
    tag_at: usize,
}

impl Template {
    fn new(consumer_tag: &[u8], key: &[u8]) -> Self {
        let exchange_bytes = usize::from(key[0]);
        let (exchange, routing_key) = (&key[1..=exchange_bytes], &key[exchange_bytes + 2..]);
        let deliver = Method::new(1, BASIC_DELIVER)
            .short(consumer_tag)
            .u64(0)
            .u8(0);
        let frame = deliver.short(exchange).short(routing_key).finish();
        Self {
            frame,
            tag_at: HEAD + 4 + 1 + consumer_tag.len(),
        }
    }

    /// Appends one delivery; `content` is header and body frames as published.
    pub fn append(&self, delivery_tag: u64, content: &[u8], out: &mut Vec<u8>) {
        let tag_at = out.len() + self.tag_at;
        out.extend_from_slice(&self.frame);
        out[tag_at..tag_at + 8].copy_from_slice(&delivery_tag.to_be_bytes());
        out.extend_from_slice(content);
    }
}

impl Reader {
    async fn run(&mut self, stream: &TcpStream) {
        let mut buffer = vec![0; READ_BYTES];
        let mut held = 0;
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer[held..]) {
                Ok(0) => return,
                Ok(count) => held += count,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            let Ok(used) = self.turn(&buffer[..held]) else {
                return;
            };
            buffer.copy_within(used..held, 0);
            held -= used;
            self.deliver().await;
            tokio::task::yield_now().await;
        }
    }

    /// Handles every whole frame; returns the bytes used.
    fn turn(&mut self, input: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        let before = self.published;
        if input.starts_with(&PROTOCOL_HEADER) {
            at = PROTOCOL_HEADER.len();
            self.consumer
                .outbound
                .lock()
                .next
                .extend(handshake::start());
        }
        loop {
            let left = &input[at..];
            if let Some(publish) = Publish::read(left) {
                let used = self.publishes(publish.key, left);
                if let Some(journal) = &self.journal {
                    journal.append(&left[..used]);
                }
                at += used;
            } else if Publish::begins(left) {
                break;
            } else if let Some(frame) = Frame::read(left)? {
                at += frame.size();
                self.method(frame);
            } else {
                break;
            }
        }
        if self.confirming && self.published > before {
            self.confirm();
        }
        self.consumer.outbound.flush();
        Ok(at)
    }

    fn confirm(&self) {
        let outbound = &self.consumer.outbound;
        if let Some(journal) = &self.journal {
            return journal.confirm(outbound, self.published);
        }
        let ack = Method::new(1, BASIC_ACK).u64(self.published).u8(1).finish();
        outbound.lock().next.extend(ack);
    }

    /// Relays the run of publishes with this key that begins `input`; returns the bytes used.
    fn publishes(&mut self, key: &[u8], input: &[u8]) -> usize {
        if self.route.as_ref().is_none_or(|route| route.key != key) {
            self.route = Some(resolve(&self.directory, key));
        }
        let Some(route) = &self.route else { return 0 };
        let (used, count) = match (self.mode, route.targets.as_slice()) {
            (Mode::Direct, [(consumer, templates)]) if templates.len() == 1 => {
                direct(&consumer.outbound, &templates[0], key, input)
            }
            (_, targets) => {
                let (batch, used) = crate::floor::fanout::batch(key, input);
                for (consumer, templates) in targets {
                    consumer.fanout.push(&batch, templates);
                }
                (used, batch.messages())
            }
        };
        self.published += count;
        used
    }

    /// Sends what this turn published, then waits until the consumers can take more.
    async fn deliver(&self) {
        let Some(route) = &self.route else { return };
        for (consumer, _) in &route.targets {
            match self.mode {
                Mode::Direct => {
                    consumer.outbound.flush();
                    consumer.outbound.wait_for_space().await;
                }
                Mode::Fanout => consumer.fanout.wait_for_space().await,
            }
        }
    }

    fn method(&mut self, frame: Frame<'_>) {
        let Some((id, fields)) = frame.method() else {
            return;
        };
        self.learn(id, fields);
        if let Some(reply) = handshake::reply(frame.channel, id, fields) {
            self.consumer.outbound.lock().next.extend(reply);
        }
    }

    fn learn(&mut self, id: MethodId, fields: Fields<'_>) {
        self.directory.learn(id, fields, &self.consumer);
        match id {
            CONFIRM_SELECT => self.confirming = true,
            CONNECTION_CLOSE => self.route = None,
            _ => {}
        }
    }
}

fn resolve(directory: &Directory<Consumer>, key: &[u8]) -> Route {
    let mut targets: Vec<(Consumer, Vec<Template>)> = Vec::new();
    for (tag, consumer) in directory.route(key) {
        let template = Template::new(&tag, key);
        let same = |known: &&mut (Consumer, Vec<Template>)| {
            Arc::ptr_eq(&known.0.outbound, &consumer.outbound)
        };
        match targets.iter_mut().find(same) {
            Some((_, templates)) => templates.push(template),
            None => targets.push((consumer, vec![template])),
        }
    }
    let targets = targets
        .into_iter()
        .map(|(consumer, all)| (consumer, all.into()))
        .collect();
    Route {
        key: key.to_vec(),
        targets,
    }
}

fn direct(outbound: &Outbound, template: &Template, key: &[u8], input: &[u8]) -> (usize, u64) {
    let (mut at, mut count) = (0, 0);
    let mut pending = outbound.lock();
    pending.next.reserve(input.len() * 2);
    while let Some(publish) = Publish::read(&input[at..]).filter(|publish| publish.key == key) {
        pending.delivery_tag += 1;
        let tag = pending.delivery_tag;
        template.append(tag, publish.content, &mut pending.next);
        (at, count) = (at + publish.bytes, count + 1);
    }
    (at, count)
}

/// The frames of one published message.
pub struct Publish<'a> {
    /// Exchange and routing key, each with its length byte, as they stand in the frame.
    pub key: &'a [u8],
    /// Content header and body frames.
    pub content: &'a [u8],
    /// Bytes of all frames.
    pub bytes: usize,
}

impl<'a> Publish<'a> {
    /// Whether a `basic.publish` frame begins here, perhaps incomplete.
    pub fn begins(input: &[u8]) -> bool {
        input.len() >= HEAD + 4 && input[0] == 1 && input[HEAD..HEAD + 4] == [0, 60, 0, 40]
    }

    /// The message whose frames begin `input`, if all of them are there.
    pub fn read(input: &'a [u8]) -> Option<Self> {
        if !Self::begins(input) {
            return None;
        }
        let header_at = next_frame(input, 0)?;
        let body_at = next_frame(input, header_at)?;
        let body_bytes = input.get(header_at + HEAD + 4..header_at + HEAD + 12)?;
        let end = match body_bytes {
            [0, 0, 0, 0, 0, 0, 0, 0] => body_at,
            _ => next_frame(input, body_at)?,
        };
        let key = input.get(PUBLISH_FIXED..header_at - 2)?;
        Some(Self {
            key,
            content: &input[header_at..end],
            bytes: end,
        })
    }
}

/// Where the frame after the one at `at` begins, if that one is complete.
fn next_frame(input: &[u8], at: usize) -> Option<usize> {
    let size = input.get(at + 3..at + HEAD)?.first_chunk::<4>()?;
    let end = at + HEAD + u32::from_be_bytes(*size) as usize + 1;
    (end <= input.len()).then_some(end)
}
