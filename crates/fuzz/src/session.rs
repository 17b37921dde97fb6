//! Any bytes into a connection, and what must hold for the broker whatever they are.

use std::sync::{Arc, OnceLock};

use bytes::BufMut as _;
use leveret_broker::{
    Access, Broker, BrokerConfig, Connection, Effects, Handle, Origin, QueueCell, SharedOutlet,
    resume,
};
use leveret_codec::{
    BasicConsume, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, FRAME_MIN_SIZE,
    Method, PROTOCOL_HEADER, QueueBind, QueueDeclare, RawTable, Table, Value,
};
use leveret_router::QueueId;
use leveret_session::Flush;
use leveret_store::InstantStore;
use parking_lot::Mutex;

const BEGIN_MS: u64 = 1_700_000_000_000;
/// So much time passes with each read, so that messages expire between them.
const STEP_MS: u64 = 3;
/// How long a message may wait in the queue of the dying.
const TTL_MS: i32 = 5;
const CHANNEL_MAX: u16 = 15;
const QUEUES_MAX: usize = 30;
/// The bit of the first byte that leaves the handshake to the input.
const BARE: u8 = 0x80;

/// Reads input as what a client sends: after a valid handshake and one opened channel, or from
/// the protocol header on. The first byte says which, and how many bytes come in one read.
pub fn session(input: &[u8]) {
    let Some((&mode, bytes)) = input.split_first() else {
        return;
    };
    let broker = Arc::new(broker());
    let mut now_ms = BEGIN_MS;
    broker.set_now(now_ms);
    let mut neighbour = Client::new(&broker);
    neighbour.read(&[handshake(), neighbour_commands()].concat(), now_ms);
    let consumers = consumers(&broker);

    let mut client = Client::new(&broker);
    if mode & BARE == 0 {
        client.read(&handshake(), now_ms);
    }
    let piece = match usize::from(mode & !BARE) {
        0 => bytes.len().max(1),
        piece => piece,
    };
    for piece in bytes.chunks(piece) {
        client.read(piece, now_ms);
        now_ms += STEP_MS;
        pass_time(&broker, now_ms);
    }
    client.hang_up();
    pass_time(&broker, now_ms + 1_000);
    assert_eq!(ready_for_death(&broker), 0, "past its deadline and counted");
    assert_eq!(broker.peer_count(), 1, "a connection that is gone stays");
    assert_eq!(
        consumers_and_unacked(&broker),
        (consumers.min(self::consumers(&broker)), 0)
    );
    assert_eq!(unlisted(&broker), 0, "a queue of replies stays");
    neighbour.hang_up();
    assert_eq!(broker.peer_count(), 0);
    assert_eq!(consumers_and_unacked(&broker), (0, 0));
}

/// What is due is done.
fn pass_time(broker: &Broker, now_ms: u64) {
    const ROUNDS_MAX: usize = 1_000;
    let mut effects = Effects::default();
    let mut due = (0..ROUNDS_MAX).map(|_| broker.run_due(now_ms, &mut effects));
    let rests = due.any(|due_ms| due_ms.is_none_or(|due_ms| due_ms > now_ms));
    assert!(rests, "something is due for ever");
}

/// Messages of the neighbour's queue in which none lives for long, if it is still there.
fn ready_for_death(broker: &Broker) -> u64 {
    let vhost = broker.vhost("/").expect("nobody can delete it");
    let directory = vhost.directory.read();
    let mut queues = directory.queues();
    let dying = queues.find(|cell| &*cell.name == "d" && has_ttl(cell));
    dying.map_or(0, |cell| cell.lock().queue.ready())
}

fn has_ttl(cell: &QueueCell) -> bool {
    let ttl = cell.spec.arguments.get(b"x-message-ttl");
    ttl.and_then(|ttl| ttl.as_integer()) == Some(TTL_MS.into())
}

fn broker() -> Broker {
    let access = Access::default();
    let config = BrokerConfig {
        frame_max: FRAME_MIN_SIZE,
        channel_max: CHANNEL_MAX,
        max_message_bytes: 4096,
        assembly_bytes_max: 8192,
        queues_max: QUEUES_MAX,
        exchanges_max: 30,
        ..BrokerConfig::default()
    };
    let broker = Broker::new(config, access, Arc::new(InstantStore));
    broker.first_start("guest", "guest", "/").unwrap();
    broker
}

fn consumers(broker: &Broker) -> usize {
    consumers_and_unacked(broker).0
}

/// Of all queues together.
fn consumers_and_unacked(broker: &Broker) -> (usize, u64) {
    let (mut consumers, mut unacked) = (0, 0);
    for vhost in broker.vhosts() {
        for cell in vhost.directory.read().queues() {
            let state = cell.lock();
            consumers += state.queue.consumer_count();
            unacked += state.queue.unacked();
        }
    }
    (consumers, unacked)
}

/// Queues that are in no list: those of direct reply-to.
fn unlisted(broker: &Broker) -> usize {
    let vhost = broker.vhost("/").expect("nobody can delete it");
    let directory = vhost.directory.read();
    let ids = (0..)
        .take(QUEUES_MAX + usize::from(CHANNEL_MAX))
        .map(QueueId);
    ids.filter(|id| directory.cell(*id).is_some()).count() - directory.queues().len()
}

fn handshake() -> Vec<u8> {
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
        channel_max: CHANNEL_MAX,
        frame_max: FRAME_MIN_SIZE,
        heartbeat: 0,
    };
    let mut bytes = PROTOCOL_HEADER.to_vec();
    Method::from(start_ok).encode(0, &mut bytes);
    Method::from(tune_ok).encode(0, &mut bytes);
    Method::from(ConnectionOpen { virtual_host: b"/" }).encode(0, &mut bytes);
    Method::from(ChannelOpen {}).encode(1, &mut bytes);
    bytes
}

/// Queues for the input to find: one with a consumer, one that is soon full, and two in which
/// messages die in every way and go on to each other and to the first ones.
fn neighbour_commands() -> Vec<u8> {
    let mut bytes = Vec::new();
    let text = |text: &[u8]| Value::LongString(text.to_vec());
    let mut limits = Table::new();
    limits.insert("x-max-length", Value::I32(1));
    limits.insert("x-overflow", text(b"reject-publish"));
    let mut dying = Table::new();
    dying.insert("x-message-ttl", Value::I32(TTL_MS));
    dying.insert("x-max-length", Value::I32(3));
    dying.insert("x-max-priority", Value::I32(3));
    dying.insert("x-delivery-limit", Value::I32(1));
    dying.insert("x-dead-letter-exchange", text(b"amq.fanout"));
    let mut refusing = limits.clone();
    refusing.insert("x-overflow", text(b"reject-publish-dlx"));
    refusing.insert("x-dead-letter-exchange", text(b""));
    refusing.insert("x-dead-letter-routing-key", text(b"d"));
    let tables = [Table::new(), limits, dying, refusing].map(|table| table.encoded());
    for (queue, arguments) in [b"q", b"f", b"d", b"g"].into_iter().zip(&tables) {
        let declare = QueueDeclare {
            queue,
            arguments: RawTable::parse(arguments).unwrap_or(RawTable::EMPTY),
            ..Default::default()
        };
        Method::from(declare).encode(1, &mut bytes);
        let bind = QueueBind {
            queue,
            exchange: b"amq.fanout",
            ..Default::default()
        };
        Method::from(bind).encode(1, &mut bytes);
    }
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"n",
        no_ack: true,
        ..Default::default()
    };
    Method::from(consume).encode(1, &mut bytes);
    bytes
}

/// A connection whose socket takes everything.
struct Client {
    connection: Connection,
    socket: Arc<Socket>,
    unread: Vec<u8>,
    ended: bool,
}

impl Client {
    fn new(broker: &Arc<Broker>) -> Self {
        let socket = Arc::new(Socket::default());
        let origin = Origin {
            name: "fuzz".into(),
            loopback: true,
            connected_at_ms: 0,
        };
        let flusher = Arc::clone(&socket) as Arc<dyn Flush>;
        let connection = Connection::new(Arc::clone(broker), origin, BEGIN_MS, flusher);
        let _ = socket.outlet.set(Arc::clone(&connection.peer().outlet));
        Self {
            connection,
            socket,
            unread: Vec::new(),
            ended: false,
        }
    }

    fn read(&mut self, bytes: &[u8], now_ms: u64) {
        if self.ended {
            return;
        }
        self.unread.extend_from_slice(bytes);
        let turn = self.connection.receive(&self.unread, now_ms);
        assert!(turn.consumed <= self.unread.len());
        self.unread.drain(..turn.consumed);
        self.ended = turn.ended;
    }

    /// Also checks that all that was written are whole frames.
    fn hang_up(&mut self) {
        self.connection.disconnect();
        self.socket.flush();
        let written = std::mem::take(&mut *self.socket.written.lock());
        let mut rest = written.as_slice();
        if rest == PROTOCOL_HEADER {
            return;
        }
        while !rest.is_empty() {
            let frame = leveret_codec::frame(rest, FRAME_MIN_SIZE).ok().flatten();
            let (frame, len) = frame.expect("the broker writes whole frames");
            if frame.kind == leveret_codec::FrameKind::Method {
                assert!(Method::decode(frame.payload).is_ok());
            }
            rest = &rest[len..];
        }
    }
}

#[derive(Default)]
struct Socket {
    outlet: OnceLock<SharedOutlet>,
    written: Mutex<Vec<u8>>,
}

impl Flush for Socket {
    fn flush(&self) {
        let Some(outlet) = self.outlet.get() else {
            return;
        };
        let mut effects = Effects::default();
        let mut starved: Vec<Arc<Handle>> = Vec::new();
        loop {
            let Some(mut pending) = outlet.lock().begin_flush() else {
                return;
            };
            self.written.lock().put(&mut pending);
            outlet.lock().end_flush(pending, &mut starved);
            resume(&mut starved, &mut effects);
            effects.wake();
        }
    }

    fn wake(&self) {
        self.flush();
    }

    fn interrupt(&self) {}
}
