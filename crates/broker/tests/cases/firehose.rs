//! The firehose: what RabbitMQ 4.3 copied to `amq.rabbitmq.trace` for the same commands.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{self, Client, broker};
use leveret_broker::{Broker, Permission, Reason, VhostMetadata};
use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, ChannelOpen, FrameKind, Method, Properties,
    QueueBind, QueueDeclare, RawTable, Table, Value, content, frame,
};
use leveret_store::InstantStore;

const FRAME_MAX: u32 = 131_072;

/// One copy: its routing key, headers and body.
#[derive(Debug, PartialEq)]
struct Copy {
    key: String,
    headers: Table,
    body: Vec<u8>,
}

/// Gets copies, from a queue that all of them go to.
struct Watcher(Client);

impl Watcher {
    fn new(broker: &Arc<Broker>) -> Self {
        let mut client = Client::new(broker);
        client.declare(1, "trace", false);
        bind(&mut client, "trace", "amq.rabbitmq.trace", "#");
        client.hear();
        Self(client)
    }

    fn copies(&mut self) -> Vec<Copy> {
        std::iter::from_fn(|| self.copy()).collect()
    }

    fn copy(&mut self) -> Option<Copy> {
        let get = BasicGet {
            queue: b"trace",
            no_ack: true,
        };
        self.0.say(1, get);
        let bytes = self.0.take();
        let (first, len) = frame(&bytes, FRAME_MAX).unwrap().unwrap();
        let key = match Method::decode(first.payload).unwrap() {
            Method::BasicGetOk(ok) => {
                assert_eq!(ok.exchange, b"amq.rabbitmq.trace");
                String::from_utf8_lossy(ok.routing_key).into_owned()
            }
            _ => return None,
        };
        let (header, more) = frame(&bytes[len..], FRAME_MAX).unwrap().unwrap();
        let properties = Properties::decode(header.payload).unwrap();
        let headers = properties.headers.unwrap().to_table();
        let expected = Properties {
            headers: Some(headers.as_raw()),
            ..Properties::default()
        };
        assert_eq!(properties, expected, "nothing but headers");
        let (mut rest, mut body) = (&bytes[len + more..], Vec::new());
        while let Some((part, len)) = frame(rest, FRAME_MAX).unwrap() {
            assert_eq!(part.kind, FrameKind::Body);
            body.extend_from_slice(part.payload);
            rest = &rest[len..];
        }
        Some(Copy { key, headers, body })
    }

    fn keys(&mut self) -> Vec<String> {
        self.copies().into_iter().map(|copy| copy.key).collect()
    }
}

fn bind(client: &mut Client, queue: &str, exchange: &str, key: &str) {
    let bind = QueueBind {
        queue: queue.as_bytes(),
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..QueueBind::default()
    };
    client.say(1, bind);
    client.hear();
}

fn text(text: &str) -> Value {
    Value::LongString(text.as_bytes().to_vec())
}

fn texts(all: &[&str]) -> Value {
    Value::Array(all.iter().map(|one| text(one)).collect())
}

fn table(entries: &[(&str, Value)]) -> Table {
    let mut table = Table::new();
    for (key, value) in entries {
        table.insert(key, value.clone());
    }
    table
}

/// What a copy says, in RabbitMQ's order.
fn headers(
    exchange: &str,
    properties: &[(&str, Value)],
    (third, of_third): (&str, Value),
    keys: &[&str],
) -> Table {
    table(&[
        ("channel", Value::I32(1)),
        ("connection", text("memory")),
        ("exchange_name", text(exchange)),
        ("node", text("rabbit@localhost")),
        ("properties", Value::Table(table(properties))),
        (third, of_third),
        ("routing_keys", texts(keys)),
        ("user", text("guest")),
        ("vhost", text("/")),
    ])
}

fn publish(client: &mut Client, exchange: &str, key: &str, properties: &Properties<'_>) {
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..BasicPublish::default()
    };
    let (mut bytes, mut header) = (Vec::new(), Vec::new());
    Method::from(publish).encode(1, &mut bytes);
    properties.encode(2, &mut header);
    content(&mut bytes, 1, &header, b"hi", FRAME_MAX);
    client.send(&bytes);
}

fn get(client: &mut Client, queue: &str, no_ack: bool) {
    let queue = queue.as_bytes();
    client.say(1, BasicGet { queue, no_ack });
    client.hear();
}

fn traced() -> (Arc<Broker>, Client, Watcher) {
    let broker = broker(Arc::new(InstantStore));
    broker.set_tracing("/", true).unwrap();
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.hear();
    let watcher = Watcher::new(&broker);
    (broker, client, watcher)
}

#[test]
fn a_publish_and_its_delivery_are_copied_as_rabbitmq_does() {
    let (_, mut client, mut watcher) = traced();
    client.declare(1, "blind", false);
    let own = [
        ("n", Value::I32(5)),
        ("CC", texts(&["cc"])),
        ("BCC", texts(&["blind"])),
    ];
    let seen = table(&own[..2]);
    let own = table(&own);
    let properties = Properties {
        content_type: Some(b"ct"),
        content_encoding: Some(b"ce"),
        headers: Some(own.as_raw()),
        delivery_mode: Some(2),
        priority: Some(3),
        correlation_id: Some(b"cid"),
        reply_to: Some(b"rt"),
        expiration: Some(b"60000"),
        message_id: Some(b"mid"),
        timestamp: Some(5_000_000_000),
        kind: Some(b"ty"),
        user_id: Some(b"guest"),
        app_id: Some(b"app"),
        cluster_id: Some(b"cl"),
    };
    publish(&mut client, "", "q", &properties);
    get(&mut client, "q", false);
    let described = [
        ("cluster_id", text("cl")),
        ("app_id", text("app")),
        ("user_id", text("guest")),
        ("type", text("ty")),
        ("timestamp", Value::I32(0x2A05_F200)),
        ("message_id", text("mid")),
        ("expiration", text("60000")),
        ("reply_to", text("rt")),
        ("correlation_id", text("cid")),
        ("priority", Value::I32(3)),
        ("delivery_mode", Value::I32(2)),
        ("headers", Value::Table(seen)),
        ("content_encoding", text("ce")),
        ("content_type", text("ct")),
    ];
    let queues = ("routed_queues", texts(&["q", "blind"]));
    let published = Copy {
        key: "publish.".into(),
        headers: headers("", &described, queues, &["q", "cc", "blind"]),
        body: b"hi".to_vec(),
    };
    let again = ("redelivered", Value::I32(0));
    let delivered = Copy {
        key: "deliver.q".into(),
        headers: headers("", &described, again, &["q", "cc"]),
        body: b"hi".to_vec(),
    };
    assert_eq!(watcher.copies(), [published, delivered]);
}

#[test]
fn what_goes_nowhere_is_copied_and_what_comes_again_is_named_so() {
    let (_, mut client, mut watcher) = traced();
    publish(&mut client, "amq.topic", "a.b", &Properties::default());
    let nowhere = ("routed_queues", texts(&[]));
    let [copy] = &watcher.copies()[..] else {
        panic!("one copy");
    };
    assert_eq!(copy.key, "publish.amq.topic");
    assert_eq!(copy.headers, headers("amq.topic", &[], nowhere, &["a.b"]));
    publish(&mut client, "", "q", &Properties::default());
    get(&mut client, "q", false);
    client.say(1, leveret_codec::BasicRecover { requeue: true });
    get(&mut client, "q", true);
    let copies = watcher.copies();
    let again = copies.iter().map(|copy| {
        let again = copy.headers.get(b"redelivered");
        again.and_then(|again| again.as_integer())
    });
    assert_eq!(again.collect::<Vec<_>>(), [None, Some(0), Some(1)]);
}

#[test]
fn consumers_of_every_kind_are_traced() {
    let (_, mut client, mut watcher) = traced();
    for no_ack in [true, false] {
        let consumer_tag = &b"c"[..];
        let consume = BasicConsume {
            queue: b"q",
            consumer_tag,
            no_ack,
            ..BasicConsume::default()
        };
        client.say(1, consume);
        // One that is passed on at once, and one after another in a batch.
        let one = support::optional(1, "q");
        client.send(&one);
        client.send(&one.repeat(3));
        assert_eq!(client.hear().len(), 9);
        let keys = watcher.keys();
        let count = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).count();
        assert_eq!(
            (count("publish."), count("deliver.q")),
            (4, 4),
            "{no_ack} {keys:?}"
        );
        let cancel = leveret_codec::BasicCancel {
            consumer_tag,
            nowait: true,
        };
        client.say(1, cancel);
    }
    client.say(
        1,
        BasicAck {
            delivery_tag: 0,
            multiple: true,
        },
    );
    assert!(watcher.keys().is_empty());
}

#[test]
fn copies_are_not_traced_and_nothing_is_once_it_is_off() {
    let (broker, mut client, mut watcher) = traced();
    // A consumer of copies, and a queue with both copies and messages of its own.
    let mut other = Client::new(&broker);
    other.say(
        1,
        BasicConsume {
            queue: b"trace",
            no_ack: true,
            ..BasicConsume::default()
        },
    );
    bind(&mut client, "q", "amq.rabbitmq.trace", "publish.amq.fanout");
    client.publish_to_exchange(1, "amq.fanout", "x");
    let heard = other.hear();
    assert_eq!(
        heard.iter().filter(|line| line.starts_with("body")).count(),
        1
    );
    get(&mut client, "q", true);
    assert_eq!(other.hear(), [""; 0], "a copy that is fetched is no news");
    broker.set_tracing("/", false).unwrap();
    client.publish_optional(1, "q", "x");
    get(&mut client, "q", true);
    assert_eq!(other.hear(), [""; 0]);
    assert!(watcher.copies().is_empty());
    assert!(broker.set_tracing("nowhere", true).is_err());
}

#[test]
fn other_virtual_hosts_are_not_traced() {
    let (broker, _, mut watcher) = traced();
    let mut admin = broker.administer();
    admin.put_vhost("other", VhostMetadata::default()).unwrap();
    let full = Permission::full("guest", "other");
    admin.put_permission(full).unwrap();
    drop(admin);
    let mut client = Client::open(&broker, "guest", "other");
    client.say(1, ChannelOpen {});
    client.declare(1, "q", false);
    bind(&mut client, "q", "amq.rabbitmq.trace", "#");
    let vhost = broker.vhost("other").unwrap();
    let passes = |client: &mut Client| {
        client.publish(1, "q", "x", false);
        client.hear();
        get(client, "q", true);
        // The copy of it, if it is traced.
        vhost.queue("q").unwrap().lock().queue.ready()
    };
    assert_eq!(passes(&mut client), 0);
    assert!(watcher.copies().is_empty());
    // It is when it says so itself, and still nobody else sees it.
    broker.set_tracing("other", true).unwrap();
    assert_eq!(passes(&mut client), 2);
    assert!(watcher.copies().is_empty());
}

/// Nobody is told of them: what is left is the account of refused messages.
#[test]
fn copies_that_a_queue_refuses_are_counted_and_noted() {
    let (broker, mut client, mut watcher) = traced();
    let full = table(&[
        ("x-max-length", Value::I32(1)),
        ("x-overflow", text("reject-publish")),
    ]);
    let full = full.encoded();
    let declare = QueueDeclare {
        arguments: RawTable::parse(&full).unwrap(),
        ..support::declaration("full", false)
    };
    assert_eq!(client.ask(1, declare), "1 queue.declare-ok");
    bind(&mut client, "full", "amq.rabbitmq.trace", "publish.#");
    for _ in 0..3 {
        publish(&mut client, "", "q", &Properties::default());
    }
    assert_eq!(watcher.copies().len(), 3, "others get theirs");
    assert_eq!(support::ready(&broker, "q"), 3, "and the messages go on");
    assert_eq!(broker.refused.total(Reason::Length), 2);
    let vhost = broker.vhost("/").unwrap();
    let directory = vhost.directory.read();
    let exchange = directory.router.exchange("amq.rabbitmq.trace").unwrap();
    assert_eq!(exchange.counts().refused.load(Ordering::Relaxed), 2);
    let noted = broker.refused.take_noted().places;
    let (place, copies) = noted.first_key_value().unwrap();
    let told = (&*place.queue, &*place.exchange, *copies);
    assert_eq!(told, ("full", "amq.rabbitmq.trace", 2));
}

#[test]
fn headers_that_are_too_large_are_left_out() {
    let (_, mut client, mut watcher) = traced();
    let large = table(&[("large", Value::LongString(vec![b'x'; 100_000]))]);
    let properties = Properties {
        headers: Some(large.as_raw()),
        app_id: Some(b"app"),
        ..Properties::default()
    };
    publish(&mut client, "", "q", &properties);
    let [copy] = &watcher.copies()[..] else {
        panic!("one copy");
    };
    let queues = ("routed_queues", texts(&["q"]));
    assert_eq!(
        copy.headers,
        headers("", &[("app_id", text("app"))], queues, &["q"])
    );
}
