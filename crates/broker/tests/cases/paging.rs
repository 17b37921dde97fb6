//! Messages on the disk only: whatever happens to them there, clients see what they would see of
//! those in memory.

use std::sync::Arc;

use leveret_broker::{
    Broker, BrokerConfig, Effects, Fetch, PageOut, QueueCell, Rank, RunError, Runs, RunsConfig,
};
use leveret_codec::{
    BasicAck, BasicCancel, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos,
    ConfirmSelect, Method, Properties, QueueDelete, QueuePurge, RawTable, Table, Value, content,
};
use leveret_runs::sim::SimFiles;
use leveret_store::InstantStore;

use crate::support::{Client, broker_with, consume, declaration, ready};

const START_MS: u64 = 1_000_000;
const MESSAGES: usize = 100;

/// A broker that keeps nearly nothing in memory, and its disk.
struct World {
    broker: Arc<Broker>,
    files: Arc<SimFiles>,
    client: Client,
    effects: Effects,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        Self::with_memory(u64::MAX)
    }

    fn with_memory(resident_bytes_max: u64) -> Self {
        let config = BrokerConfig {
            chunk_bytes: 500,
            queue_resident_bytes: 1,
            resident_bytes_max,
            ..BrokerConfig::default()
        };
        let broker = broker_with(config, Arc::new(InstantStore));
        let files = Arc::new(SimFiles::default());
        let sizes = RunsConfig {
            run_bytes: 4_000,
            free_min: 0,
        };
        broker.page_to(Runs::new(Arc::clone(&files) as Arc<_>, sizes));
        broker.set_now(START_MS);
        Self {
            client: Client::new(&broker),
            broker,
            files,
            effects: Effects::default(),
            now_ms: START_MS,
        }
    }

    /// Declares a queue `q` with these arguments.
    fn declare(&mut self, arguments: &[(&str, Value)]) {
        let mut table = Table::new();
        for (key, value) in arguments {
            table.insert(key, value.clone());
        }
        let arguments = table.encoded();
        let mut declare = declaration("q", true);
        declare.arguments = RawTable::parse(&arguments).unwrap();
        assert_eq!(self.client.ask(1, declare), "1 queue.declare-ok");
    }

    fn publish(&mut self, number: usize, properties: &Properties<'_>) {
        let publish = BasicPublish {
            routing_key: b"q",
            ..Default::default()
        };
        let mut bytes = Vec::new();
        Method::from(publish).encode(1, &mut bytes);
        let body = format!("{number:0>60}");
        let mut header = Vec::new();
        properties.encode(body.len() as u64, &mut header);
        content(&mut bytes, 1, &header, body.as_bytes(), 131_072);
        self.client.send_unread(&bytes);
    }

    /// Publishes numbered messages, and has them written.
    fn fill(&mut self, messages: usize) {
        for number in 0..messages {
            self.publish(number, &Properties::default());
        }
        self.write().unwrap();
    }

    /// All that should leave memory does.
    fn write(&mut self) -> Result<(), RunError> {
        let mut out = PageOut::default();
        while self.broker.begin_page_out(&mut out) {
            self.broker.finish_page_out(&mut out)?;
        }
        Ok(())
    }

    /// All that should come back does.
    fn read(&mut self) {
        while let Some(page) = self.broker.begin_page_in() {
            self.broker.finish_page_in(page, &mut self.effects);
        }
    }

    /// Time passes, and the disk does what it is asked for.
    fn wait(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            self.now_ms += 500;
            self.broker.set_now(self.now_ms);
            for _ in 0..100 {
                self.broker.run_due(self.now_ms, &mut self.effects);
                self.read();
                self.write().unwrap();
            }
        }
    }

    fn cell(&self) -> Arc<QueueCell> {
        let vhost = self.broker.vhost("/").unwrap();
        vhost.queue("q").unwrap()
    }

    fn away(&self) -> u64 {
        self.cell().lock().queue.paged_out().messages
    }

    /// Numbers of the messages that were heard since.
    fn heard(&mut self) -> Vec<usize> {
        numbers(&self.client.hear())
    }

    /// Fetches all messages one by one until the queue is empty.
    fn get_all(&mut self) -> Vec<usize> {
        let mut got = Vec::new();
        loop {
            let get = BasicGet {
                queue: b"q",
                no_ack: true,
            };
            self.client.say(1, get);
            let heard = self.client.hear();
            if heard.iter().any(|line| line == "1 basic.get-empty") {
                return got;
            }
            got.extend(numbers(&heard));
            // What was read may leave again.
            self.write().unwrap();
        }
    }

    /// Hears all that consumers get while the disk is read.
    fn take_all(&mut self) -> Vec<usize> {
        let mut taken = Vec::new();
        loop {
            self.read();
            let heard = self.heard();
            if heard.is_empty() {
                return taken;
            }
            taken.extend(heard);
        }
    }
}

fn numbers(heard: &[String]) -> Vec<usize> {
    let bodies = heard.iter().filter_map(|line| line.strip_prefix("body "));
    bodies.map(|body| body.parse().unwrap()).collect()
}

fn text(text: &str) -> Value {
    Value::LongString(text.as_bytes().to_vec())
}

fn all(messages: usize) -> Vec<usize> {
    (0..messages).collect()
}

#[test]
fn a_get_of_what_is_on_the_disk_waits_for_it() {
    let mut world = World::new();
    world.declare(&[]);
    world.fill(MESSAGES);
    assert!(world.away() > 80, "{}", world.away());
    assert_eq!(world.get_all(), all(MESSAGES));
    assert_eq!(world.away(), 0);
}

#[test]
fn a_get_is_refused_while_the_disk_cannot_be_read_and_nothing_is_lost() {
    let mut world = World::new();
    world.declare(&[]);
    world.fill(MESSAGES);
    let get = || BasicGet {
        queue: b"q",
        no_ack: true,
    };
    let in_memory = MESSAGES - world.away() as usize;
    world.files.set_busy(true);
    let mut got = Vec::new();
    let refusal = loop {
        world.client.say(1, get());
        let heard = world.client.hear();
        got.extend(numbers(&heard));
        if heard[0] != "1 basic.get-ok" {
            break heard[0].clone();
        }
    };
    assert!(got.len() <= in_memory, "{got:?}");
    assert!(refusal.starts_with("1 close 406"), "{refusal}");
    assert!(refusal.contains("cannot be read back"), "{refusal}");
    let cell = world.cell();
    let fetched = world
        .broker
        .fetch(&cell, (5, 1 << 20), Fetch::Settle, &mut world.effects);
    assert!(fetched.is_err());
    world.files.set_busy(false);
    world.client = Client::new(&world.broker);
    got.extend(world.get_all());
    assert_eq!(got, all(MESSAGES));
}

#[test]
fn a_full_disk_leaves_messages_in_memory_and_refuses_only_what_that_has_no_room_for() {
    let mut world = World::with_memory(40_000);
    world.declare(&[]);
    world.client.say(1, ConfirmSelect { nowait: true });
    world.files.set_free_bytes(0);
    let mut published = 0;
    while !world.client.connection.is_blocked() {
        world.publish(published, &Properties::default());
        published += 1;
        assert!(published < 1_000, "40 KB hold no more");
        let written = world.write();
        assert!(matches!(written, Ok(()) | Err(RunError::NoSpace)));
    }
    assert_eq!(world.away(), 0);
    assert!(world.broker.runs_stats().write_errors > 0);
    // In confirm mode the wait ends with a refusal, and nothing else is one.
    world.client.connection.look_for_room(60_000);
    world.client.turn();
    let heard = world.client.hear();
    let refused = heard.iter().filter(|line| line.contains(" nack ")).count();
    assert_eq!(refused, 1, "{heard:?}");
    assert_eq!(ready(&world.broker, "q"), published as u64 - 1);
    // There is room again: it goes on, and all that was taken is there.
    world.files.set_free_bytes(u64::MAX);
    world.write().unwrap();
    assert!(world.away() > 100);
    for number in published..published + 500 {
        world.publish(number, &Properties::default());
        world.write().unwrap();
    }
    let heard = world.client.hear();
    assert!(
        !heard.iter().any(|line| line.contains(" nack ")),
        "{heard:?}"
    );
    let expected: Vec<_> = (0..published + 500)
        .filter(|one| *one != published - 1)
        .collect();
    assert_eq!(world.get_all(), expected);
}

#[test]
fn a_write_that_fails_loses_nothing_and_is_tried_again() {
    let mut world = World::new();
    world.declare(&[]);
    world.files.fail_writes(true);
    for number in 0..MESSAGES {
        world.publish(number, &Properties::default());
    }
    assert!(matches!(world.write(), Err(RunError::Failed(_))));
    assert_eq!((world.away(), ready(&world.broker, "q")), (0, 100));
    world.files.fail_writes(false);
    world.write().unwrap();
    assert!(world.away() > 80);
    assert_eq!(world.get_all(), all(MESSAGES));
}

#[test]
fn what_cannot_be_read_is_counted_and_named_and_the_rest_is_served() {
    for flips in [false, true] {
        let mut world = World::new();
        world.declare(&[]);
        world.fill(MESSAGES);
        let away = world.away();
        match flips {
            // The first bytes of the run are those of the first chunk that left.
            true => world.files.flip(1, 80 * 8),
            false => world.files.fail_reads(true),
        }
        let mut got = Vec::new();
        if flips {
            got = world.get_all();
        } else {
            // All that is on the disk is lost, and the queue goes on with what is not.
            let mut consume = consume("q");
            consume.no_ack = true;
            world.client.say(1, consume);
            got.extend(world.take_all());
        }
        let lost = world.broker.take_lost();
        let messages: u64 = lost.iter().map(|one| one.page.messages).sum();
        assert!(
            lost.iter()
                .all(|one| &*one.queue == "q" && &*one.vhost == "/")
        );
        assert!(messages > 0 && (flips || messages == away), "{messages}");
        assert_eq!(got.len() as u64 + messages, MESSAGES as u64);
        let missing = all(MESSAGES).into_iter().filter(|one| !got.contains(one));
        for number in missing {
            let is_named = |one: &leveret_broker::LostMessages| {
                (one.page.first..=one.page.last).contains(&(number as u64))
            };
            assert!(lost.iter().any(is_named), "{number} of {lost:?}");
        }
        assert!(got.is_sorted());
        assert_eq!(world.cell().lock().queue.counters().lost, messages);
        assert_eq!(world.broker.runs_stats().read_errors, lost.len() as u64);
        // Messages go in and out as before.
        world.files.fail_reads(false);
        world.fill(MESSAGES);
        let again = if flips {
            world.get_all()
        } else {
            world.take_all()
        };
        assert_eq!(again.len(), MESSAGES);
    }
}

#[test]
fn what_expires_behind_others_on_the_disk_is_gone_within_a_minute() {
    let mut world = World::new();
    world.declare(&[]);
    for number in 0..MESSAGES {
        let properties = Properties {
            expiration: (number % 10 != 0).then_some(b"1000"),
            ..Properties::default()
        };
        world.publish(number, &properties);
    }
    world.write().unwrap();
    assert!(world.away() > 80);
    world.wait(60_000);
    assert_eq!(ready(&world.broker, "q"), 10);
    assert_eq!(world.cell().lock().queue.counters().expired, 90);
    let tenth: Vec<_> = all(MESSAGES).into_iter().step_by(10).collect();
    assert_eq!(world.get_all(), tenth);
}

#[test]
fn what_has_expired_on_the_disk_is_never_handed_out() {
    let mut world = World::new();
    world.declare(&[]);
    for number in 0..MESSAGES {
        let properties = Properties {
            expiration: (number % 2 == 1).then_some(b"1000"),
            ..Properties::default()
        };
        world.publish(number, &properties);
    }
    world.write().unwrap();
    world.now_ms += 2_000;
    world.broker.set_now(world.now_ms);
    let even: Vec<_> = all(MESSAGES).into_iter().step_by(2).collect();
    assert_eq!(world.get_all(), even);
}

#[test]
fn what_dies_on_the_disk_is_dead_lettered_in_order() {
    let letters = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    for (argument, left) in [("x-message-ttl", 0), ("x-max-length", 10)] {
        let mut world = World::new();
        let limit = if left == 0 { 1_000 } else { left };
        world.declare(&[&letters[..], &[(argument, Value::I32(limit))]].concat());
        world.client.declare(1, "dead", true);
        world.client.hear();
        world.fill(MESSAGES);
        world.wait(5_000);
        assert_eq!(ready(&world.broker, "q"), left as u64, "{argument}");
        assert_eq!(ready(&world.broker, "dead"), (100 - left) as u64);
        let mut consume = consume("dead");
        consume.no_ack = true;
        world.client.say(1, consume);
        assert_eq!(world.take_all(), all(100 - left as usize));
    }
}

#[test]
fn higher_priorities_are_served_first_wherever_they_are() {
    let mut world = World::new();
    world.declare(&[("x-max-priority", Value::I32(3))]);
    for number in 0..90 {
        let properties = Properties {
            priority: Some([0, 3, 1][number / 30]),
            ..Properties::default()
        };
        world.publish(number, &properties);
    }
    world.write().unwrap();
    assert!(world.away() > 60, "{}", world.away());
    let mut consume = consume("q");
    consume.no_ack = true;
    world.client.say(1, consume);
    let order: Vec<_> = (30..60).chain(60..90).chain(0..30).collect();
    assert_eq!(world.take_all(), order);
}

#[test]
fn a_single_active_consumer_gets_all_of_it_and_the_next_one_what_comes_back() {
    let mut world = World::new();
    world.declare(&[("x-single-active-consumer", Value::Bool(true))]);
    world.fill(MESSAGES);
    world.client.say(1, consume("q"));
    let mut second = Client::new(&world.broker);
    second.say(1, consume("q"));
    assert_eq!(world.take_all(), all(MESSAGES));
    world.write().unwrap();
    let settled = BasicAck {
        delivery_tag: 40,
        multiple: true,
    };
    world.client.say(1, settled);
    assert!(numbers(&second.hear()).is_empty());
    let first = std::mem::replace(&mut world.client, second);
    first.disconnect();
    let rest: Vec<_> = (40..MESSAGES).collect();
    assert_eq!(world.take_all(), rest);
}

#[test]
fn the_oldest_go_over_a_length_limit_wherever_they_are() {
    let mut world = World::new();
    world.declare(&[("x-max-length", Value::I32(40))]);
    for number in 0..200 {
        world.publish(number, &Properties::default());
        world.write().unwrap();
        world.read();
        assert!(ready(&world.broker, "q") <= 40);
    }
    assert!(world.away() > 20, "{}", world.away());
    let last: Vec<_> = (160..200).collect();
    assert_eq!(world.get_all(), last);
}

#[test]
fn a_queue_on_the_disk_rejects_what_is_over_its_limit() {
    let mut world = World::new();
    let limit = Value::I32(MESSAGES as i32);
    world.declare(&[
        ("x-max-length", limit),
        ("x-overflow", text("reject-publish")),
    ]);
    world.client.say(1, ConfirmSelect { nowait: true });
    world.fill(MESSAGES);
    assert!(world.away() > 80);
    assert!(
        world
            .client
            .hear()
            .iter()
            .all(|line| line.contains(" ack "))
    );
    world.publish(MESSAGES, &Properties::default());
    assert_eq!(world.client.hear(), [format!("1 nack {}", MESSAGES + 1)]);
    assert_eq!(world.get_all(), all(MESSAGES));
}

#[test]
fn what_was_handed_out_comes_back_to_its_place_on_the_disk() {
    let mut world = World::new();
    world.declare(&[]);
    world.fill(MESSAGES);
    let qos = BasicQos {
        prefetch_count: 60,
        ..Default::default()
    };
    world.client.say(1, qos);
    world.client.say(1, consume("q"));
    assert_eq!(world.take_all(), all(60));
    // What was handed out leaves memory as well.
    world.broker.set_now(world.now_ms);
    world.write().unwrap();
    let cancel = BasicCancel {
        consumer_tag: b"tag",
        nowait: true,
    };
    world.client.say(1, cancel);
    let settled = BasicAck {
        delivery_tag: 10,
        multiple: false,
    };
    world.client.say(1, settled);
    let returned = BasicNack {
        delivery_tag: 0,
        multiple: true,
        requeue: true,
    };
    world.client.say(1, returned);
    world.write().unwrap();
    assert_eq!(ready(&world.broker, "q"), 99);
    let expected: Vec<_> = all(MESSAGES).into_iter().filter(|one| *one != 9).collect();
    assert_eq!(world.get_all(), expected);
}

#[test]
fn a_purge_and_a_deletion_need_nothing_of_the_disk_and_give_all_of_it_back() {
    for deletes in [false, true] {
        let mut world = World::new();
        world.declare(&[]);
        world.fill(MESSAGES);
        assert!(world.broker.runs_stats().live_bytes > 5_000);
        world.files.fail_reads(true);
        let queue = b"q";
        let answer = if deletes {
            let delete = QueueDelete {
                queue,
                ..Default::default()
            };
            world.client.ask(1, delete)
        } else {
            let nowait = false;
            world.client.ask(1, QueuePurge { queue, nowait })
        };
        assert!(answer.ends_with("-ok"), "{answer}");
        world.broker.give_runs_back();
        assert_eq!(world.broker.runs_stats().live_bytes, 0);
        assert!(world.files.count() <= 1);
        assert!(world.broker.take_lost().is_empty());
        if !deletes {
            world.files.fail_reads(false);
            world.fill(MESSAGES);
            assert_eq!(world.get_all(), all(MESSAGES));
        }
    }
}

#[test]
fn what_is_on_the_disk_is_looked_at_and_fetched_without_a_connection() {
    let mut world = World::new();
    world.declare(&[]);
    world.fill(MESSAGES);
    let (cell, away) = (world.cell(), world.away());
    let number = |body: &[u8]| String::from_utf8_lossy(body).parse::<usize>().unwrap();
    let at = |seq| Rank { level: 0, seq };
    let seen = world.broker.peek(&cell, at(70), (20, 1 << 20));
    let seen: Vec<_> = seen.iter().map(|one| number(one.body())).collect();
    assert_eq!(seen, (70..90).collect::<Vec<_>>());
    assert_eq!(world.away(), away, "it stays where it is");
    let fetched = |world: &mut World, fetch| {
        let fetched = world
            .broker
            .fetch(&cell, (30, 1 << 20), fetch, &mut world.effects);
        let fetched = fetched.unwrap();
        fetched
            .iter()
            .map(|(one, _)| number(one.body()))
            .collect::<Vec<_>>()
    };
    assert_eq!(fetched(&mut world, Fetch::Requeue), all(30));
    world.write().unwrap();
    assert_eq!(fetched(&mut world, Fetch::Settle), all(30));
    let rest: Vec<_> = (30..MESSAGES).collect();
    assert_eq!(world.get_all(), rest);
}

/// A consumer that is there all the time is served in order whatever leaves and comes back.
#[test]
fn a_slow_consumer_gets_all_in_order() {
    let mut world = World::new();
    world.declare(&[]);
    let qos = BasicQos {
        prefetch_count: 7,
        ..Default::default()
    };
    world.client.say(1, qos);
    let consume = BasicConsume {
        queue: b"q",
        consumer_tag: b"tag",
        ..Default::default()
    };
    world.client.say(1, consume);
    let (mut taken, mut published) = (Vec::new(), 0);
    while taken.len() < 400 {
        for _ in 0..9 {
            if published < 400 {
                world.publish(published, &Properties::default());
                published += 1;
            }
        }
        world.write().unwrap();
        world.read();
        taken.extend(world.heard());
        let settled = BasicAck {
            delivery_tag: 0,
            multiple: true,
        };
        world.client.say(1, settled);
    }
    assert_eq!(taken, all(400));
}
