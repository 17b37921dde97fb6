//! Durable topology through the journal: what is there after a restart, and what is not.

use std::sync::Arc;

use crate::support::on_disk;
use leveret_broker::{
    Binding, Broker, Condition, ConnectionId, Effects, Existing, QueueSpec, Refusal, Vhost,
};
use leveret_codec::{Table, Value};
use leveret_router::{ExchangeKind, ExchangeSpec};
use leveret_store::sim::SimDisk;
use leveret_store::{Journal, Store};

struct World {
    broker: Broker,
    journal: Arc<Journal>,
    vhost: Arc<Vhost>,
    effects: Effects,
}

fn start(disk: &SimDisk) -> World {
    let (broker, journal) = on_disk(disk);
    World {
        vhost: broker.add_vhost("/"),
        broker,
        journal,
        effects: Effects::default(),
    }
}

impl World {
    fn queue(&mut self, name: &str, spec: QueueSpec) {
        let declared = self
            .broker
            .declare_queue(&self.vhost, name, spec, &mut self.effects);
        declared.expect("is declared");
    }

    fn exchange(&mut self, name: &str, spec: ExchangeSpec) {
        let declared = self
            .broker
            .declare_exchange(&self.vhost, name, spec, &mut self.effects);
        declared.expect("is declared");
    }

    fn bind(&mut self, source: &str, queue: &str, key: &str) {
        let cell = self.vhost.queue(queue).expect("exists");
        let binding = Binding::of_queue(source, &cell, key.as_bytes(), Table::new());
        assert_eq!(
            self.broker.bind(&self.vhost, &binding, &mut self.effects),
            Ok(true)
        );
    }

    /// Everything but what every virtual host has.
    fn listed(&self) -> Vec<String> {
        let directory = self.vhost.directory.read();
        let exchanges = directory.router.exchanges();
        let exchanges = exchanges
            .filter(|exchange| !exchange.name().is_empty() && !exchange.name().starts_with("amq."));
        let mut all: Vec<_> = exchanges.map(|x| format!("x {}", x.name())).collect();
        let bindings = directory.router.bindings();
        let explicit = bindings.filter(|binding| !binding.source.is_empty());
        all.extend(explicit.map(|binding| {
            let key = String::from_utf8_lossy(binding.key);
            format!("b {} {:?} {key}", binding.source, binding.destination)
        }));
        all.extend(directory.queues().map(|cell| format!("q {}", cell.name)));
        all.sort();
        all
    }

    fn restart(mut self, disk: &SimDisk) -> Self {
        let ticket = self.broker.submit(&mut self.effects);
        self.journal.commit().expect("commits");
        assert!(self.journal.durable() >= ticket);
        start(disk)
    }
}

fn durable() -> QueueSpec {
    QueueSpec {
        durable: true,
        ..QueueSpec::default()
    }
}

fn exchange(kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec::durable(kind)
}

#[test]
fn durable_things_survive_a_restart_and_no_others() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    world.queue("lasting", durable());
    world.queue("transient", QueueSpec::default());
    let owner = Some(ConnectionId(1));
    world.queue("exclusive", QueueSpec { owner, ..durable() });
    world.exchange("x", exchange(ExchangeKind::Topic));
    let durable = false;
    world.exchange(
        "fleeting",
        ExchangeSpec {
            durable,
            ..exchange(ExchangeKind::Fanout)
        },
    );
    for queue in ["lasting", "transient", "exclusive"] {
        for source in ["x", "fleeting", "amq.direct"] {
            world.bind(source, queue, "key.#");
        }
    }
    let between = Binding::of_exchange("x", "amq.fanout", b"\xff", Table::new());
    let bound = world
        .broker
        .bind(&world.vhost, &between, &mut world.effects);
    assert_eq!(bound, Ok(true));

    let world = world.restart(&disk);
    let expected = [
        "b amq.direct Queue(QueueId(0), \"lasting\") key.#",
        "b x Exchange(\"amq.fanout\") \u{fffd}",
        "b x Queue(QueueId(0), \"lasting\") key.#",
        "q lasting",
        "x x",
    ];
    assert_eq!(world.listed(), expected);
    assert_eq!(world.restart(&disk).listed(), expected);
}

#[test]
fn properties_and_arguments_come_back() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    let mut arguments = Table::new();
    arguments.insert("x-max-length", Value::I32(7));
    let queue = QueueSpec {
        auto_delete: true,
        arguments,
        ..durable()
    };
    let mut arguments = Table::new();
    arguments.insert(
        "alternate-exchange",
        Value::LongString(b"amq.fanout".to_vec()),
    );
    let exchange = ExchangeSpec {
        auto_delete: true,
        internal: true,
        arguments,
        ..exchange(ExchangeKind::Headers)
    };
    world.queue("q", queue.clone());
    world.exchange("x", exchange.clone());

    let world = world.restart(&disk);
    let cell = world.vhost.queue("q").expect("exists");
    assert_eq!(cell.spec, queue);
    assert_eq!(cell.lock().queue.settings().limits.ready_max, 7);
    let directory = world.vhost.directory.read();
    let spec = directory.router.exchange("x").map(|found| found.spec());
    assert_eq!(spec, Some(&exchange));
}

#[test]
fn what_was_deleted_stays_away_with_all_that_went_with_it() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    world.queue("q", durable());
    world.queue("other", durable());
    let auto_delete = true;
    for name in ["x", "auto", "plain"] {
        let mut spec = exchange(ExchangeKind::Direct);
        spec.auto_delete = name == "auto" && auto_delete;
        world.exchange(name, spec);
        world.bind(name, "q", "k");
    }
    world.bind("x", "other", "k");
    world.bind("plain", "other", "k");
    let mut world = world.restart(&disk);

    let (vhost, effects) = (Arc::clone(&world.vhost), &mut world.effects);
    let cell = vhost.queue("q").expect("exists");
    let condition = Condition::default();
    let deleted = world.broker.delete_queue(&vhost, &cell, condition, effects);
    assert_eq!(deleted, Ok(0));
    assert_eq!(
        world.broker.delete_exchange(&vhost, "x", false, effects),
        Ok(())
    );
    let other = vhost.queue("other").expect("exists");
    let binding = Binding::of_queue("plain", &other, b"k", Table::new());
    assert_eq!(world.broker.unbind(&vhost, &binding, effects), Ok(true));

    let world = world.restart(&disk);
    assert_eq!(world.listed(), ["q other", "x plain"]);
}

/// Its bindings were not removed, they ended with the broker: RabbitMQ keeps it, too.
#[test]
fn a_lasting_auto_delete_exchange_outlives_bindings_that_do_not() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    let spec = ExchangeSpec {
        auto_delete: true,
        ..exchange(ExchangeKind::Fanout)
    };
    world.exchange("x", spec);
    world.queue("transient", QueueSpec::default());
    world.bind("x", "transient", "");

    let mut world = world.restart(&disk);
    assert_eq!(world.listed(), ["x x"]);
    world.queue("transient", QueueSpec::default());
    world.bind("x", "transient", "");
    let (vhost, effects) = (Arc::clone(&world.vhost), &mut world.effects);
    let cell = vhost.queue("transient").expect("exists");
    let deleted = world
        .broker
        .delete_queue(&vhost, &cell, Condition::default(), effects);
    assert_eq!(deleted, Ok(0));
    assert_eq!(world.listed(), [""; 0]);
    assert_eq!(world.restart(&disk).listed(), [""; 0]);
}

#[test]
fn a_queue_made_again_has_a_lane_of_its_own() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    world.queue("q", durable());
    let first = world.vhost.queue("q").expect("exists");
    let vhost = Arc::clone(&world.vhost);
    let condition = Condition::default();
    let deleted = world
        .broker
        .delete_queue(&vhost, &first, condition, &mut world.effects);
    assert_eq!(deleted, Ok(0));
    world.queue("q", durable());
    let second = vhost.queue("q").expect("exists");
    assert!(second.lane.is_some() && first.lane != second.lane);
    let world = world.restart(&disk);
    assert_eq!(world.vhost.queue("q").expect("exists").lane, second.lane);
}

#[test]
fn a_lane_is_never_given_to_a_second_queue() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    for queue in ["a", "b"] {
        world.queue(queue, durable());
    }
    // Nothing was published: the store has not seen these lanes in a message.
    let mut world = world.restart(&disk);
    world.queue("c", durable());
    let lane = |name: &str| world.vhost.queue(name).and_then(|cell| cell.lane);
    assert!(lane("c").is_some());
    assert!(lane("c") != lane("a") && lane("c") != lane("b"));
}

#[test]
fn what_a_later_version_wrote_is_not_passed_over() {
    let disk = SimDisk::new();
    let world = start(&disk);
    let mut topology = std::collections::BTreeMap::new();
    topology.insert(b"\xf0future".to_vec(), Vec::new());
    let refused = world
        .broker
        .restore(&topology, 0)
        .map_err(|error| error.key);
    assert_eq!(refused, Err(b"\xf0future".to_vec()));
}

#[test]
fn a_binding_of_a_queue_that_is_gone_is_not_made_for_the_next_one() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    world.exchange("x", exchange(ExchangeKind::Direct));
    world.queue("first", durable());
    let (vhost, effects) = (Arc::clone(&world.vhost), &mut world.effects);
    let first = vhost.queue("first").expect("exists");
    let binding = Binding::of_queue("x", &first, b"k", Table::new());
    let deleted = world
        .broker
        .delete_queue(&vhost, &first, Condition::default(), effects);
    assert_eq!(deleted, Ok(0));
    world.queue("second", durable());
    let second = vhost.queue("second").expect("exists");
    assert_eq!(second.id, first.id);
    let effects = &mut world.effects;
    assert_eq!(
        world.broker.bind(&vhost, &binding, effects),
        Err(Refusal::NoQueue("first".into()))
    );
    let others = Binding::of_queue("x", &second, b"k", Table::new());
    assert_eq!(world.broker.bind(&vhost, &others, effects), Ok(true));
    assert_eq!(world.broker.unbind(&vhost, &binding, effects), Ok(false));
    assert_eq!(world.broker.unbind(&vhost, &others, effects), Ok(true));
}

#[test]
fn what_came_back_counts_against_the_limits() {
    let disk = SimDisk::new();
    let mut world = start(&disk);
    world.broker.add_vhost("other");
    world.queue("q", durable());
    let spec = ExchangeSpec {
        durable: true,
        ..exchange(ExchangeKind::Topic)
    };
    world.exchange("x", spec);
    world.bind("x", "q", "key");
    let counts = |world: &World| {
        let existing = &world.broker.events;
        let kinds = [Existing::Queues, Existing::Exchanges, Existing::Bindings];
        kinds.map(|kind| existing.existing(kind))
    };
    let before = counts(&world);
    assert_eq!(before[1], 2 * 7 + 1);
    let world = world.restart(&disk);
    world.broker.add_vhost("other");
    assert_eq!(counts(&world), before);
}
