//! The broker: its vhosts, users, connections and settings.

pub(crate) mod paging;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use leveret_access::{Access, Scratch, Uses};
use leveret_codec::{Table, Value};
use leveret_record::{Memory, MemoryLimits};
use leveret_session::{Fault, SessionConfig};
use leveret_store::{LaneId, Store, StoreRefusal};
use parking_lot::{Mutex, RwLock};

use crate::context::client::ConnectionId;
use crate::context::config::{BrokerConfig, BrokerLimits, Product};
use crate::context::names::NameGenerator;
use crate::context::stats::{Churn, DeathCounts, Ended, Events};
use crate::peer::Peer;
use crate::peer::alarms::Alarms;
use crate::peer::unfinished::Unfinished;
use crate::queue::cell::{Home, QueueCell};
use crate::queue::effects::Effects;
use crate::queue::pager::Pager;
use crate::queue::timer::Timer;
use crate::settings::notices::Notices;
use crate::vhost::Vhost;
use crate::vhost::refused::RefusedMessages;

/// The RabbitMQ version whose behaviour Leveret follows; clients gate features on it.
const RABBITMQ_VERSION: &str = "4.2.0";
/// Bytes on their way to the disk, above which publishers of persistent messages wait.
const STAGED_BYTES_MAX: usize = 8 << 20;
const MECHANISMS: [&str; 2] = ["PLAIN", "AMQPLAIN"];

/// What there is: virtual hosts, connections, users, and what all of them share.
pub struct Broker {
    /// What it was started with; of what may change, [`Self::limits`] are in force.
    pub config: BrokerConfig,
    pub(crate) limits: RwLock<BrokerLimits>,
    /// Where durable things go.
    pub store: Arc<dyn Store>,
    session: RwLock<Arc<SessionConfig>>,
    pub(crate) access: RwLock<Access>,
    /// Goes up with each change of what anybody may do.
    pub(crate) access_generation: AtomicU64,
    /// One slow password hash at a time: each takes 19 MiB and a core.
    pub(crate) slow: Mutex<Scratch>,
    /// What limits of users and virtual hosts are compared with.
    pub(crate) uses: Mutex<Uses>,
    /// Of this run, for digests of verified passwords.
    pub(crate) secret: [u8; 16],
    /// Global parameters.
    pub(crate) globals: RwLock<BTreeMap<String, serde_json::Value>>,
    /// Held while anything administrative changes, so that records are kept in order.
    pub(crate) administration: Mutex<Effects>,
    pub(crate) names: NameGenerator,
    pub(crate) alarms: Alarms,
    pub(crate) unfinished: Unfinished,
    /// Messages that queues refused.
    pub refused: RefusedMessages,
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
    pub(crate) pager: Arc<Pager>,
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
        let names = NameGenerator::new(config.secret);
        let memory = Memory::new(memory_limits(&config));
        Self {
            secret: names.chance(),
            names,
            alarms: Alarms::new(config.memory_high_watermark),
            limits: RwLock::new(BrokerLimits::from(&config)),
            unfinished: Unfinished::default(),
            refused: RefusedMessages::default(),
            config,
            store,
            session: RwLock::new(session),
            access: RwLock::new(access),
            memory,
            pager: Arc::default(),
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

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> BrokerLimits {
        *self.limits.read()
    }

    /// It is so late, unix milliseconds. Whoever has the broker do something says so before.
    #[inline]
    pub fn set_now(&self, now_ms: u64) {
        self.timer.set_now(now_ms);
    }

    /// Unix milliseconds, as of the last turn of anybody.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.timer.now_ms()
    }

    /// Whether somebody has asked since the last time whether the machine has processors to spare:
    /// then [`Self::set_cores_idle`] has to be called soon.
    pub fn wants_cores(&self) -> bool {
        self.timer.cores.are_asked_for()
    }

    /// The machine has processors to spare, or not any more. Publishers wait for consumers' sake
    /// only while it has none.
    pub fn set_cores_idle(&self, idle: bool) {
        self.timer.cores.set_idle(idle);
    }

    /// Calls `wake` whenever something is due before the time that [`Broker::run_due`] gave.
    pub fn wake_timer_with(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.timer.wake_with(Box::new(wake));
    }

    /// Adds a virtual host, if it does not exist yet.
    pub fn add_vhost(&self, name: &str) -> Arc<Vhost> {
        let mut vhosts = self.vhosts.write();
        Arc::clone(vhosts.entry(name.into()).or_insert_with(|| {
            let home = Home {
                vhost: name.into(),
                timer: Arc::clone(&self.timer),
                memory: self.memory.clone(),
                pager: Arc::clone(&self.pager),
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

    /// Sets a connection's heartbeat interval, seconds, and has the timer look after it.
    pub(crate) fn set_heartbeat(&self, peer: &Arc<Peer>, heartbeat_s: u16) {
        peer.heartbeat_s.store(heartbeat_s, Ordering::Relaxed);
        self.unwatched.lock().push(Arc::downgrade(peer));
    }

    pub(crate) fn register(&self, peer: &Arc<Peer>) {
        self.events.count(Churn::ConnectionOpened);
        self.peers.lock().insert(peer.client.id, Arc::clone(peer));
    }

    pub(crate) fn deregister(&self, id: ConnectionId) {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.remove(&id) {
            // Under the same lock that totals are summed under, so that none is counted twice.
            let totals = peer.totals();
            self.ended.add(totals);
            if let Some(vhost) = self.vhost(&peer.client.vhost.lock()) {
                vhost.ended.add(totals);
            }
            self.events.count(Churn::ConnectionClosed);
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

/// How much of their messages queues keep in memory: all where nothing else is said.
fn memory_limits(config: &BrokerConfig) -> MemoryLimits {
    let chunk_bytes = config.chunk_bytes;
    match config.queue_resident_bytes {
        0 => MemoryLimits {
            chunk_bytes,
            ..MemoryLimits::default()
        },
        lane_bytes => MemoryLimits {
            chunk_bytes,
            lane_bytes,
            all_bytes: config.resident_bytes_max,
        },
    }
}

fn mechanisms(config: &BrokerConfig) -> Vec<&'static str> {
    let anonymous = config.anonymous_user.as_ref().map(|_| "ANONYMOUS");
    MECHANISMS.into_iter().chain(anonymous).collect()
}

fn server_properties(config: &BrokerConfig) -> Table {
    const CAPABILITIES: [&str; 10] = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
        "publisher_nack_reason",
    ];
    let text = |value: &str| Value::LongString(value.as_bytes().to_vec());
    let mut capabilities = Table::new();
    for capability in CAPABILITIES {
        capabilities.insert(capability, Value::Bool(true));
    }
    let product = match config.identity {
        Product::Leveret => "Leveret",
        Product::RabbitMq => "RabbitMQ",
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
