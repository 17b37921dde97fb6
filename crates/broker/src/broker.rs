//! The broker: its vhosts, users, connections and settings.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::sync::{Arc, OnceLock, Weak};

use leveret_access::{Access, Hashing, Uses};
use leveret_codec::{Table, Value};
use leveret_record::Memory;
use leveret_session::{Fault, SessionConfig};
use leveret_store::{LaneId, Store, StoreRefusal, Ticket};
use parking_lot::{Mutex, RwLock};

use crate::connection::alarms::Alarms;
use crate::connection::unfinished::{Unfinished, UnfinishedOf};
use crate::context::limits::Limits;
use crate::context::names::Names;
use crate::context::stats::{
    ChannelList, ChannelStats, Count, Ended, Event, Events, MessageCounts, SizeCounts, Sizes,
    Totals, Traffic,
};
use crate::dead_letter::DeathCounts;
use crate::queue::cell::{Home, QueueCell, SharedOutlet};
use crate::queue::lease::Leases;
use crate::queue::pump::Work;
use crate::queue::timer::Timer;
use crate::settings::notices::Notices;
use crate::vhost::Vhost;
use crate::vhost::refused::RefusedMessages;

/// The RabbitMQ version whose behaviour Leveret follows; clients gate features on it.
const RABBITMQ_VERSION: &str = "4.2.0";
/// Bytes on their way to the disk, above which publishers of persistent messages wait.
const STAGED_BYTES_MAX: usize = 8 << 20;
const MECHANISMS: [&str; 2] = ["PLAIN", "AMQPLAIN"];

/// Numbers connections from 1; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The product told to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// Leveret.
    #[default]
    Leveret,
    /// RabbitMQ, for clients that insist.
    RabbitMq,
}

/// Bounds of a queue for which nothing else sets them; ready and unacknowledged messages count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDefaults {
    /// Most messages.
    pub length_max: u64,
    /// Most body bytes.
    pub bytes_max: u64,
    /// How long a delivery may wait for its settlement, milliseconds; 0 is for ever.
    pub consumer_timeout_ms: u64,
}

/// Settings of the broker; see `config/leveret.toml` for what they mean.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the configuration file documents them")]
pub struct BrokerConfig {
    /// What tools know the node as.
    pub node: String,
    pub identity: Identity,
    pub frame_max: u32,
    pub channel_max: u16,
    pub heartbeat_s: u16,
    pub max_message_bytes: u64,
    pub assembly_bytes_max: usize,
    pub unfinished_bytes_max: u64,
    pub body_timeout_ms: u64,
    pub transaction_bytes_max: usize,
    pub outbound_bytes_max: usize,
    pub reply_bytes_max: usize,
    pub resident_bytes_max: u64,
    pub channel_unacked_max: usize,
    pub consumers_per_channel_max: usize,
    pub connections_max: usize,
    pub connections_per_user_max: Option<i64>,
    pub connections_per_vhost_max: Option<i64>,
    pub memory_limit_bytes: u64,
    pub memory_high_watermark: f64,
    pub disk_free_min: u64,
    pub queues_max: usize,
    pub exchanges_max: usize,
    pub bindings_max: usize,
    pub arguments_bytes_max: usize,
    pub queue: QueueDefaults,
    /// Of the hash tables whose keys clients choose: nobody outside may learn it.
    pub seed: u64,
    /// What the names the server makes up and the salts of passwords come from.
    pub secret: [u8; 32],
    /// For new passwords.
    pub password_hashing: Hashing,
    /// Runs what takes long, such as a slow password hash, so that nobody else waits for it.
    pub aside: fn(&mut dyn FnMut()),
    pub cluster_name: String,
    /// Who logs in without a name and a password; nobody without one.
    pub anonymous_user: Option<String>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node: "rabbit@localhost".to_owned(),
            identity: Identity::Leveret,
            frame_max: 131_072,
            channel_max: 2047,
            heartbeat_s: 60,
            max_message_bytes: 128 << 20,
            assembly_bytes_max: 256 << 20,
            unfinished_bytes_max: u64::MAX,
            body_timeout_ms: 60_000,
            transaction_bytes_max: 256 << 20,
            outbound_bytes_max: 128 << 10,
            reply_bytes_max: 1 << 20,
            resident_bytes_max: u64::MAX,
            channel_unacked_max: 1_000_000,
            consumers_per_channel_max: 10_000,
            connections_max: 100_000,
            connections_per_user_max: None,
            connections_per_vhost_max: None,
            memory_limit_bytes: u64::MAX,
            memory_high_watermark: 0.6,
            disk_free_min: 1 << 30,
            queues_max: 1_000_000,
            exchanges_max: 100_000,
            bindings_max: 2_000_000,
            arguments_bytes_max: 16 << 10,
            queue: QueueDefaults {
                length_max: 10_000_000,
                bytes_max: 8 << 30,
                consumer_timeout_ms: 0,
            },
            seed: 0,
            secret: [0; 32],
            password_hashing: Hashing::Sha256,
            aside: |work| work(),
            cluster_name: "leveret@localhost".into(),
            anonymous_user: None,
        }
    }
}

/// A connection as the rest of the broker sees it.
pub struct Peer {
    /// Its number.
    pub id: ConnectionId,
    /// `client:port -> server:port`.
    pub name: String,
    /// From the broker's own machine.
    pub loopback: bool,
    /// Its outlet.
    pub outlet: SharedOutlet,
    /// Set at login.
    pub user: Mutex<String>,
    /// Set when a virtual host is opened.
    pub vhost: Mutex<String>,
    /// What the client says of itself.
    pub client_properties: Mutex<Table>,
    /// Unix milliseconds, by the system's clock.
    pub connected_at_ms: u64,
    pub(crate) cancel_notify: AtomicBool,
    pub(crate) received_ms: AtomicU64,
    /// Seconds, as agreed when a virtual host is opened; 0 means none.
    pub heartbeat_s: AtomicU16,
    /// The highest channel number, as agreed then.
    pub channel_max: AtomicU16,
    /// How the client logged in.
    pub mechanism: OnceLock<&'static str>,
    pub(crate) wrote: AtomicU64,
    pub(crate) wrote_ms: AtomicU64,
    /// Somebody asks the reader to close the connection.
    pub(crate) close: Mutex<Option<Fault>>,
    pub(crate) dead: AtomicBool,
    pub(crate) leases: Leases,
    /// Its reader does not read for now.
    pub(crate) paused: AtomicBool,
    /// What keeps its reader from reading, a bit for each obstacle; changed with the outlet locked.
    pub(crate) blocked: AtomicU8,
    /// It wants to be told.
    pub(crate) blocked_notify: AtomicBool,
    pub(crate) channels: Mutex<ChannelList>,
    /// Bytes of the arguments of all its consumers.
    pub(crate) arguments_bytes: AtomicUsize,
    pub(crate) sizes: Sizes,
    pub(crate) unfinished: UnfinishedOf,
    pub(crate) received_bytes: Count,
    pub(crate) reads: Count,
}

impl Peer {
    /// Whether the client is given up: nothing was heard of it for two heartbeat intervals, or it
    /// takes nothing of its replies.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// What the client calls the connection; empty if it gives it no name.
    #[must_use]
    pub fn client_name(&self) -> String {
        let properties = self.client_properties.lock();
        let name = properties.get(b"connection_name");
        let name = name.and_then(|name| name.as_str_bytes());
        String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
    }

    /// Its open channels, in the order they were opened.
    #[must_use]
    pub fn channels(&self) -> Vec<Arc<ChannelStats>> {
        self.channels.lock().open.clone()
    }

    /// How many channels are open.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.lock().open.len()
    }

    /// What went over its socket.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let outlet = self.outlet.lock();
        Traffic {
            received_bytes: self.received_bytes.get(),
            reads: self.reads.get(),
            sent_bytes: outlet.written(),
            writes: outlet.writes(),
        }
    }

    /// Messages of all its channels, closed ones included.
    #[must_use]
    pub fn message_counts(&self) -> MessageCounts {
        let deliveries = self.outlet.lock().delivery_totals();
        MessageCounts {
            deliveries,
            ..self.channels.lock().counts()
        }
    }

    /// Sizes of the messages it published.
    #[must_use]
    pub fn size_counts(&self) -> SizeCounts {
        self.sizes.get()
    }

    /// Everything counted for it.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            messages: self.message_counts(),
            sizes: self.size_counts(),
            traffic: self.traffic(),
        }
    }

    /// Asks the connection's reader to close it with a fault.
    pub fn close(&self, fault: Fault) {
        *self.close.lock() = Some(fault);
        let flusher = self.outlet.lock().flusher().cloned();
        if let Some(flusher) = flusher {
            flusher.interrupt();
        }
    }
}

/// The broker.
pub struct Broker {
    /// What it was started with; of what may change, [`Self::limits`] are in force.
    pub config: BrokerConfig,
    pub(crate) limits: RwLock<Limits>,
    /// Where durable things go.
    pub store: Arc<dyn Store>,
    session: RwLock<Arc<SessionConfig>>,
    pub(crate) access: RwLock<Access>,
    /// Goes up with each change of what anybody may do.
    pub(crate) access_generation: AtomicU64,
    /// One slow password hash at a time: each takes 19 MiB and a core.
    pub(crate) slow: Mutex<()>,
    /// What limits of users and virtual hosts are compared with.
    pub(crate) uses: Mutex<Uses>,
    /// Of this run, for digests of verified passwords.
    pub(crate) secret: [u8; 16],
    /// Global parameters.
    pub(crate) globals: RwLock<BTreeMap<String, serde_json::Value>>,
    /// Held while anything administrative changes, so that records are kept in order.
    pub(crate) administration: Mutex<Work>,
    pub(crate) names: Names,
    pub(crate) alarms: Alarms,
    pub(crate) unfinished: Unfinished,
    pub(crate) refused: RefusedMessages,
    lanes: AtomicU32,
    /// Queues whose chunk memory the timer looks after.
    pub(crate) warm: Mutex<Vec<Arc<QueueCell>>>,
    /// Connections that the timer is to look after from now on.
    pub(crate) unwatched: Mutex<Vec<Weak<Peer>>>,
    /// What has happened since it was started.
    pub events: Arc<Events>,
    /// What became of messages that died.
    pub deaths: DeathCounts,
    pub(crate) timer: Arc<Timer>,
    /// What messages hold in memory, in all its queues.
    pub memory: Memory,
    /// What the log is to be told of new queues.
    pub notices: Notices,
    pub(crate) ended: Ended,
    vhosts: RwLock<HashMap<String, Arc<Vhost>>>,
    pub(crate) peers: Mutex<BTreeMap<ConnectionId, Arc<Peer>>>,
    connections: AtomicU64,
    /// Those that were given out.
    seeds: AtomicU64,
    /// Who declared a queue last: many in a row share one name.
    declarer: Mutex<Arc<str>>,
    stopping: AtomicBool,
}

impl Broker {
    /// A broker without vhosts.
    #[must_use]
    pub fn new(config: BrokerConfig, access: Access, store: Arc<dyn Store>) -> Self {
        let session = Arc::new(SessionConfig {
            frame_max: config.frame_max,
            channel_max: config.channel_max,
            heartbeat_s: config.heartbeat_s,
            max_message_bytes: config.max_message_bytes,
            assembly_bytes_max: config.assembly_bytes_max,
            server_properties: server_properties(&config).encoded(),
            mechanisms: mechanisms(&config).join(" "),
        });
        let names = Names::new(config.secret);
        Self {
            secret: names.chance(),
            names,
            alarms: Alarms::new(config.memory_high_watermark),
            limits: RwLock::new(Limits::from(&config)),
            unfinished: Unfinished::default(),
            refused: RefusedMessages::default(),
            config,
            store,
            session: RwLock::new(session),
            access: RwLock::new(access),
            memory: Memory::default(),
            lanes: AtomicU32::new(0),
            access_generation: AtomicU64::new(0),
            slow: Mutex::default(),
            uses: Mutex::default(),
            globals: RwLock::default(),
            administration: Mutex::default(),
            warm: Mutex::default(),
            unwatched: Mutex::default(),
            events: Arc::default(),
            deaths: DeathCounts::default(),
            timer: Arc::default(),
            notices: Notices::default(),
            ended: Ended::default(),
            vhosts: RwLock::default(),
            peers: Mutex::default(),
            connections: AtomicU64::new(0),
            seeds: AtomicU64::new(0),
            declarer: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Adds a virtual host, if it does not exist yet.
    pub fn add_vhost(&self, name: &str) -> Arc<Vhost> {
        let mut vhosts = self.vhosts.write();
        Arc::clone(vhosts.entry(name.into()).or_insert_with(|| {
            let home = Home {
                vhost: name.into(),
                timer: Arc::clone(&self.timer),
                memory: self.memory.clone(),
            };
            let events = Arc::clone(&self.events);
            Arc::new(Vhost::new(home, self.config.seed, events))
        }))
    }

    /// A virtual host.
    #[must_use]
    pub fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.read().get(name).cloned()
    }

    /// All virtual hosts.
    #[must_use]
    pub fn vhosts(&self) -> Vec<Arc<Vhost>> {
        self.vhosts.read().values().cloned().collect()
    }

    pub(crate) fn remove_vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.write().remove(name)
    }

    /// All connections, the oldest first.
    #[must_use]
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.lock().values().cloned().collect()
    }

    /// So many of the connections after this one, or of all, the oldest first.
    #[must_use]
    pub fn peers_after(&self, id: Option<ConnectionId>, max: usize) -> Vec<Arc<Peer>> {
        let after = id.map_or(Bound::Unbounded, Bound::Excluded);
        let peers = self.peers.lock();
        let later = peers.range((after, Bound::Unbounded));
        later.map(|(_, peer)| Arc::clone(peer)).take(max).collect()
    }

    /// An open connection by its number.
    #[must_use]
    pub fn peer(&self, id: ConnectionId) -> Option<Arc<Peer>> {
        self.peers.lock().get(&id).cloned()
    }

    /// How many connections there are.
    #[must_use]
    pub fn peer_count(&self) -> usize {
        self.peers.lock().len()
    }

    /// Lanes below this one are taken.
    pub(crate) fn begin_lanes_at(&self, next_lane: u32) {
        self.lanes.fetch_max(next_lane, Ordering::Relaxed);
    }

    /// Lanes of the store that no queue had before, one after the other; `None` once all have been
    /// given.
    pub(crate) fn next_lanes(&self, count: u16) -> Option<LaneId> {
        let order = Ordering::Relaxed;
        let next = |lane: u32| lane.checked_add(u32::from(count));
        self.lanes.fetch_update(order, order, next).ok().map(LaneId)
    }

    /// Hands what some work recorded to the store and gives when all of it is durable. Everything
    /// that fills a [`Work`] ends with this, and with [`Work::flush`] or [`Work::wake`].
    pub fn submit(&self, work: &mut Work) -> Ticket {
        if !work.traced.is_empty() {
            self.emit_traced(work);
        }
        if !work.dying.is_empty() {
            self.bury(work);
        }
        work.submit(&*self.store);
        if !work.warm.is_empty() {
            self.warm.lock().append(&mut work.warm);
        }
        std::mem::take(&mut work.ticket)
    }

    /// Whether the store is so far behind that publishers of persistent messages wait for it.
    #[must_use]
    pub fn is_store_behind(&self) -> bool {
        self.store.staged_bytes() > STAGED_BYTES_MAX
    }

    /// Whether persistent messages are refused for want of space on the disk.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.store.admission() == Err(StoreRefusal::DiskFull)
    }

    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Another seed each time, the same ones in the same order from the same start.
    pub(crate) fn next_seed(&self) -> u64 {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = self.seeds.fetch_add(1, Ordering::Relaxed);
        self.config.seed.wrapping_add(number.wrapping_mul(GOLDEN))
    }

    /// A user's name for what is to be declared.
    #[must_use]
    pub fn declarer(&self, name: &str) -> Arc<str> {
        let mut last = self.declarer.lock();
        if **last != *name {
            *last = name.into();
        }
        Arc::clone(&last)
    }

    pub(crate) fn register(&self, peer: &Arc<Peer>) {
        self.events.count(Event::ConnectionOpened);
        self.peers.lock().insert(peer.id, Arc::clone(peer));
    }

    pub(crate) fn deregister(&self, id: ConnectionId) {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.remove(&id) {
            // Under the same lock that totals are summed under, so that none is counted twice.
            let totals = peer.totals();
            self.ended.add(totals);
            if let Some(vhost) = self.vhost(&peer.vhost.lock()) {
                vhost.ended.add(totals);
            }
            self.events.count(Event::ConnectionClosed);
        }
    }

    /// Asks every connection to close with 320: the broker is stopping.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for peer in self.peers() {
            peer.close(stopping());
        }
    }

    /// Lets clients in again after [`Self::stop`].
    pub fn start_again(&self) {
        self.stopping.store(false, Ordering::Release);
    }

    /// What connections are offered from now on.
    pub(crate) fn session(&self) -> Arc<SessionConfig> {
        Arc::clone(&self.session.read())
    }

    /// Highest channel number that connections are offered from now on.
    #[must_use]
    pub fn channel_max(&self) -> u16 {
        self.session.read().channel_max
    }

    /// Changes that number; connections that are open keep theirs.
    pub fn set_channel_max(&self, channel_max: u16) {
        let mut session = self.session.write();
        let changed = SessionConfig {
            channel_max,
            ..SessionConfig::clone(&session)
        };
        *session = Arc::new(changed);
    }

    /// The mechanisms clients may log in with.
    #[must_use]
    pub fn mechanisms(&self) -> Vec<&'static str> {
        mechanisms(&self.config)
    }

    /// Whether the broker is stopping: nobody may come in any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

pub(crate) fn stopping() -> Fault {
    let text = "broker forced connection closure with reason 'shutdown'";
    Fault::connection(leveret_codec::HardCode::ConnectionForced, text, (0, 0))
}

fn mechanisms(config: &BrokerConfig) -> Vec<&'static str> {
    let anonymous = config.anonymous_user.as_ref().map(|_| "ANONYMOUS");
    MECHANISMS.into_iter().chain(anonymous).collect()
}

fn server_properties(config: &BrokerConfig) -> Table {
    const CAPABILITIES: [&str; 9] = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ];
    let text = |value: &str| Value::LongString(value.as_bytes().to_vec());
    let mut capabilities = Table::new();
    for capability in CAPABILITIES {
        capabilities.insert(capability, Value::Bool(true));
    }
    let product = match config.identity {
        Identity::Leveret => "Leveret",
        Identity::RabbitMq => "RabbitMQ",
    };
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    properties.insert("cluster_name", text(&config.cluster_name));
    properties.insert("copyright", text("Copyright (c) the Leveret authors"));
    properties.insert("information", text("Licensed under the Apache License 2.0"));
    properties.insert("platform", text("Rust"));
    properties.insert("product", text(product));
    properties.insert("version", text(RABBITMQ_VERSION));
    properties.insert("leveret_version", text(env!("CARGO_PKG_VERSION")));
    properties
}
