//! What the broker gives to a store, read by stores that are not the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leveret_broker::{Access, Broker, BrokerConfig};
use leveret_codec::{
    BasicAck, BasicGet, BasicReject, ConfirmSelect, ExchangeDeclare, QueueBind, QueueDelete,
    QueuePurge, RawTable, Table, TxCommit, TxSelect, Value,
};
use leveret_record::Attempts;
use leveret_store::sim::SimDisk;
use leveret_store::{
    Batch, BatchRecord, Journal, JournalConfig, LaneId, Progress, Store, StoreRefusal, Ticket,
    Waiter,
};
use parking_lot::Mutex;

use crate::support::store::DelayedStore;
use crate::support::{Client, broker, declaration, message};

/// A client whose queues `a` (lane 0), `b` (lane 1) and `c` (lane 2) are bound to `all`.
fn start(store: Arc<dyn Store>) -> Client {
    let mut client = Client::new(&broker(store));
    set_up(&mut client);
    client
}

fn set_up(client: &mut Client) {
    let exchange = ExchangeDeclare {
        exchange: b"all",
        kind: b"fanout",
        durable: true,
        ..Default::default()
    };
    client.say(1, exchange);
    for queue in ["a", "b"] {
        client.declare(1, queue, true);
    }
    let mut arguments = Table::new();
    arguments.insert("x-dead-letter-exchange", Value::LongString(Vec::new()));
    arguments.insert(
        "x-dead-letter-routing-key",
        Value::LongString(b"a".to_vec()),
    );
    let arguments = arguments.encoded();
    let mut dying = declaration("c", true);
    dying.arguments = RawTable::parse(&arguments).expect("a table");
    client.say(1, dying);
    for queue in ["a", "b", "c"] {
        let bind = QueueBind {
            queue: queue.as_bytes(),
            exchange: b"all",
            ..Default::default()
        };
        client.say(1, bind);
    }
}

fn publish(client: &mut Client, (exchange, key): (&str, &str), body: &str) {
    client.send(&message(1, (exchange, key), body, (false, true)));
}

fn get(client: &mut Client, queue: &str) {
    let get = BasicGet {
        queue: queue.as_bytes(),
        no_ack: false,
    };
    client.say(1, get);
}

fn ack(delivery_tag: u64) -> BasicAck {
    BasicAck {
        delivery_tag,
        multiple: false,
    }
}

fn reject(delivery_tag: u64, requeue: bool) -> BasicReject {
    BasicReject {
        delivery_tag,
        requeue,
    }
}

#[test]
fn each_piece_of_work_submits_what_it_did_at_once() {
    let store = Arc::new(DelayedStore::default());
    let mut client = start(store.clone());
    store.release();
    client.turn();
    let declared = store.hear();
    assert_eq!(
        declared.get(1),
        Some(&vec!["put exchange / all".to_owned()])
    );
    assert_eq!(
        declared.last(),
        Some(&vec!["put binding / all q c  ".to_owned()])
    );

    publish(&mut client, ("all", ""), "for three");
    assert_eq!(store.hear(), [["message 0@0 1@0 2@0 for three"]]);
    get(&mut client, "b");
    assert_eq!(store.hear(), [["tried 1@0..1 1/0"]]);
    client.say(1, ack(1));
    assert_eq!(store.hear(), [["settled 1@0..1"]]);
    publish(&mut client, ("", "b"), "for one");
    let purge = QueuePurge {
        queue: b"b",
        nowait: false,
    };
    client.say(1, purge);
    assert_eq!(
        store.hear(),
        [vec!["message 1@1 for one"], vec!["settled 1@1..2"]]
    );
    let delete = QueueDelete {
        queue: b"b",
        ..Default::default()
    };
    client.say(1, delete);
    let gone = store.hear().concat();
    assert!(gone.contains(&"drop queue / b".to_owned()), "{gone:?}");
    assert!(gone.contains(&"reset 1".to_owned()), "{gone:?}");
}

#[test]
fn a_commit_is_one_group() {
    let store = Arc::new(DelayedStore::default());
    let mut client = start(store.clone());
    publish(&mut client, ("", "a"), "before");
    store.release();
    client.turn();
    get(&mut client, "a");
    client.say(1, TxSelect {});
    store.hear();
    publish(&mut client, ("", "b"), "one");
    publish(&mut client, ("all", ""), "two");
    client.say(1, ack(1));
    assert_eq!(store.hear(), [[""; 0]; 0]);
    client.say(1, TxCommit {});
    let group = [
        "grouped message 1@0 one",
        "grouped message 0@1 1@1 2@0 two",
        "grouped settled 0@0..1",
    ];
    assert_eq!(store.hear(), [group]);
}

#[test]
fn a_dead_letter_is_settled_in_one_group_with_its_copy() {
    let store = Arc::new(DelayedStore::default());
    let mut client = start(store.clone());
    publish(&mut client, ("", "c"), "dies");
    store.release();
    client.turn();
    get(&mut client, "c");
    store.hear();
    client.say(1, reject(1, false));
    let moved = store.hear();
    assert_eq!(
        moved,
        [["grouped message 0@0 dies", "grouped settled 2@0..1"]]
    );
}

/// The space was claimed, the message is in its queue; then the disk fails.
#[test]
fn what_a_failed_store_did_not_take_is_never_confirmed() {
    let store = Arc::new(DelayedStore::default());
    let mut client = start(store.clone());
    client.say(2, ConfirmSelect { nowait: false });
    store.release();
    client.turn();
    client.hear();
    store.fail_next();
    client.publish(2, "a", "lost", true);
    assert_eq!(store.admission(), Err(StoreRefusal::Stopped));
    client.publish(2, "a", "transient", false);
    store.release();
    client.turn();
    assert_eq!(
        client.hear(),
        [""; 0],
        "nor may what comes after it overtake"
    );
    // From now on it is known.
    client.publish(2, "a", "refused", true);
    let delete = QueueDelete {
        queue: b"b",
        ..Default::default()
    };
    client.say(1, delete);
    client.turn();
    assert_eq!(client.hear(), [""; 0]);
}

/// Hands on to the journal what it has read itself.
struct Reading {
    journal: Arc<Journal>,
    read: Mutex<Read>,
}

/// What batches tell, in whichever order they come.
#[derive(Default)]
struct Read {
    topology: BTreeMap<Vec<u8>, Vec<u8>>,
    messages: Live,
    tried: BTreeMap<(LaneId, u64), Attempts>,
    settled: BTreeSet<(LaneId, u64)>,
    floors: BTreeMap<LaneId, u64>,
}

/// What lives, by lane and sequence number.
type Live = BTreeMap<(LaneId, u64), Kept>;

/// A message and how often it was tried.
#[derive(Clone, PartialEq, Debug)]
struct Kept {
    times_ms: (Option<u64>, Option<u64>),
    deaths: bool,
    parts: [Vec<u8>; 3],
    attempts: Attempts,
}

impl Read {
    fn take(&mut self, record: &BatchRecord<'_>) {
        match *record {
            BatchRecord::Message(message) => {
                let kept = Kept {
                    times_ms: (message.entered_ms, message.expiration_ms),
                    deaths: message.deaths,
                    parts: [message.route, message.header, message.body].map(<[u8]>::to_vec),
                    attempts: Attempts::NONE,
                };
                let targets = message.targets.iter();
                self.messages
                    .extend(targets.map(|target| (target, kept.clone())));
            }
            BatchRecord::Topology { key, value } => {
                match value {
                    Some(value) => self.topology.insert(key.to_vec(), value.to_vec()),
                    None => self.topology.remove(key),
                };
            }
            // It changes nothing of what there is.
            BatchRecord::Moved { .. } => {}
            BatchRecord::Reset { lane, up_to_seq } => {
                let floor = self.floors.entry(lane).or_default();
                *floor = up_to_seq.max(*floor);
            }
            BatchRecord::Returned(range) => {
                for seq in range.from..range.to {
                    let tried = self
                        .tried
                        .entry((range.lane, seq))
                        .or_insert(Attempts::NONE);
                    *tried = range.attempts.max(*tried);
                }
            }
            BatchRecord::Settled(range) => {
                let seqs = range.from..range.to;
                self.settled.extend(seqs.map(|seq| (range.lane, seq)));
            }
        }
    }

    fn live(&self) -> Live {
        let lives = |at: &(LaneId, u64)| {
            !self.settled.contains(at) && self.floors.get(&at.0).is_none_or(|floor| at.1 >= *floor)
        };
        let live = self.messages.iter().filter(|(at, _)| lives(at));
        live.map(|(at, kept)| {
            let attempts = self.tried.get(at).copied().unwrap_or(Attempts::NONE);
            (
                *at,
                Kept {
                    attempts,
                    ..kept.clone()
                },
            )
        })
        .collect()
    }
}

impl Store for Reading {
    fn submit(&self, batch: &mut Batch) -> Result<Ticket, StoreRefusal> {
        let mut read = self.read.lock();
        batch.records().for_each(|record| read.take(&record));
        self.journal.submit(batch)
    }

    fn admission(&self) -> Result<(), StoreRefusal> {
        self.journal.admission()
    }

    fn durable(&self) -> Ticket {
        self.journal.durable()
    }

    fn wake_at(&self, ticket: Ticket, waiter: Arc<dyn Waiter>) {
        self.journal.wake_at(ticket, waiter);
    }

    fn staged_bytes(&self) -> usize {
        self.journal.staged_bytes()
    }
}

/// The journal's answer to the same: what a start finds.
fn recovered(disk: &SimDisk) -> (BTreeMap<Vec<u8>, Vec<u8>>, Live) {
    let copy = SimDisk::from_image(&disk.image());
    let opened = Journal::open(Arc::new(copy), JournalConfig::default()).expect("opens");
    assert!(opened.damage.is_empty(), "{:?}", opened.damage);
    let mut live = BTreeMap::new();
    let replayed = opened.messages.replay(|message| {
        let kept = Kept {
            times_ms: (message.entered_ms, message.expiration_ms),
            deaths: message.deaths,
            parts: [message.route, message.header, message.body].map(<[u8]>::to_vec),
            attempts: message.attempts,
        };
        live.insert((message.lane, message.seq), kept);
    });
    replayed.expect("is read");
    (opened.topology, live)
}

#[test]
fn who_reads_the_batches_remembers_what_the_journal_does() {
    let disk = SimDisk::new();
    let opened = Journal::open(Arc::new(disk.clone()), JournalConfig::default()).expect("opens");
    let journal = Arc::new(opened.journal);
    let store = Arc::new(Reading {
        journal: Arc::clone(&journal),
        read: Mutex::default(),
    });
    let access = Access::default();
    let broker = Arc::new(Broker::new(BrokerConfig::default(), access, store.clone()));
    broker.first_start("guest", "guest", "/").expect("begins");
    let mut client = Client::new(&broker);
    let commit = |client: &mut Client| {
        assert_eq!(journal.commit(), Ok(Progress::Committed));
        client.turn();
    };
    set_up(&mut client);
    commit(&mut client);
    for body in ["one", "two", "three", "four"] {
        publish(&mut client, ("all", ""), body);
    }
    // One is acknowledged, one is out, one is back, one dies into another queue.
    get(&mut client, "a");
    client.say(1, ack(1));
    get(&mut client, "a");
    get(&mut client, "b");
    client.say(1, reject(3, true));
    get(&mut client, "c");
    client.say(1, reject(4, false));
    commit(&mut client);
    for found in [recovered(&disk).1, store.read.lock().live()] {
        assert_eq!(found.len(), 12 - 2 + 1);
        let tried = |lane, seq| found[&(LaneId(lane), seq)].attempts.acquired;
        assert_eq!((tried(0, 1), tried(1, 0), tried(0, 2)), (1, 1, 0));
        assert!(found[&(LaneId(0), 4)].deaths);
    }

    let purge = QueuePurge {
        queue: b"b",
        nowait: false,
    };
    client.say(1, purge);
    publish(&mut client, ("", "b"), "after the purge");
    client.say(1, TxSelect {});
    commit(&mut client);
    publish(&mut client, ("all", ""), "committed");
    client.say(1, ack(2));
    client.say(1, TxCommit {});
    let delete = QueueDelete {
        queue: b"c",
        ..Default::default()
    };
    client.say(1, delete);
    commit(&mut client);
    let (topology, live) = recovered(&disk);
    let read = store.read.lock();
    assert_eq!(topology, read.topology);
    assert_eq!(live, read.live());
    assert_eq!(live.len(), 4 + 2);
}
