//! Direct reply-to: `amq.rabbitmq.reply-to`.

use std::sync::Arc;

use leveret_broker::{
    BrokerConfig, Direct, Effects, Existing, Permission, QueueDefaults, Refusal, User, UserLimits,
};
use leveret_codec::{
    BasicCancel, BasicConsume, BasicGet, BasicPublish, BasicQos, ChannelClose, ChannelOpen,
    ConfirmSelect, Method, Properties, QueueBind, QueueDeclare, QueueDelete, QueuePurge, RawTable,
    Table, TxCommit, TxSelect, Value, content,
};
use leveret_store::InstantStore;

use crate::support::{self, Client, broker, broker_with, consume};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";
const FRAME_MAX: u32 = 131_072;

fn replies() -> BasicConsume<'static> {
    BasicConsume {
        no_ack: true,
        ..consume(REPLY_TO)
    }
}

fn message(
    (exchange, key): (&str, &str),
    properties: Properties<'_>,
    body: &[u8],
    mandatory: bool,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        mandatory,
        immediate: false,
    };
    Method::from(publish).encode(1, &mut bytes);
    let mut header = Vec::new();
    properties.encode(body.len() as u64, &mut header);
    content(&mut bytes, 1, &header, body, FRAME_MAX);
    bytes
}

/// Asks `rpc` for an answer.
fn request(reply_to: &str) -> Vec<u8> {
    let properties = Properties {
        reply_to: Some(reply_to.as_bytes()),
        correlation_id: Some(b"7"),
        ..Properties::default()
    };
    message(("", "rpc"), properties, b"question", true)
}

fn reply(key: &str, body: &str) -> Vec<u8> {
    message(("", key), Properties::default(), body.as_bytes(), true)
}

/// A client that consumes replies, a server that consumes requests, and the name for its answers.
fn start() -> (Client, Client, String) {
    let broker = broker(Arc::new(InstantStore));
    let (mut client, mut server) = (Client::new(&broker), Client::new(&broker));
    server.declare(1, "rpc", false);
    let requests = BasicConsume {
        no_ack: true,
        ..consume("rpc")
    };
    server.say(1, requests);
    server.hear();
    client.say(1, replies());
    assert_eq!(client.hear(), ["1 basic.consume-ok"]);
    client.send(&request(REPLY_TO));
    let name = name_in(&server.hear());
    (client, server, name)
}

fn name_in(heard: &[String]) -> String {
    let mut names = heard.iter().filter_map(|it| it.strip_prefix("reply-to "));
    names.next().expect("a request with reply-to").to_owned()
}

fn ask<'a>(client: &mut Client, method: impl Into<Method<'a>>) -> String {
    client.ask(2, method)
}

#[test]
fn a_reply_reaches_the_channel_that_asked() {
    let (mut client, mut server, name) = start();
    let secret = name.strip_prefix("amq.rabbitmq.reply-to.");
    assert!(secret.is_some_and(|secret| secret.len() == 22), "{name}");
    server.send(&reply(&name, "answer"));
    assert_eq!(client.hear(), ["1 deliver 1", "body answer"]);
    assert!(server.hear().is_empty());
    // The same name for the next request, as responders may keep it.
    client.send(&request(REPLY_TO));
    assert_eq!(name_in(&server.hear()), name);
    server.send(&reply(&name, "more"));
    server.send(&reply(&name, "yet more"));
    let both = ["1 deliver 2", "body more", "1 deliver 3", "body yet more"];
    assert_eq!(client.hear(), both);
}

#[test]
fn every_request_of_a_batch_is_rewritten_and_nothing_else() {
    let (mut client, mut server, name) = start();
    let mut batch = request(REPLY_TO);
    batch.extend(request("a queue of my own"));
    batch.extend(request(REPLY_TO));
    client.send(&batch);
    let heard = server.hear();
    let names = heard.iter().filter_map(|it| it.strip_prefix("reply-to "));
    let names: Vec<_> = names.collect();
    assert_eq!(names, [&name, "a queue of my own", &name]);
    // BCC is taken out and the name put in.
    let mut headers = Table::new();
    let key = Value::LongString(b"elsewhere".to_vec());
    headers.insert("BCC", Value::Array(vec![key]));
    let encoded = headers.encoded();
    let properties = Properties {
        reply_to: Some(REPLY_TO.as_bytes()),
        headers: Some(RawTable::parse(&encoded).unwrap()),
        ..Properties::default()
    };
    client.send(&message(("", "rpc"), properties, b"hush", false));
    assert_eq!(name_in(&server.hear()), name);
}

#[test]
fn large_requests_are_rewritten_too() {
    let (mut client, mut server, name) = start();
    let properties = Properties {
        reply_to: Some(REPLY_TO.as_bytes()),
        ..Properties::default()
    };
    let body = vec![b'x'; FRAME_MAX as usize + 1];
    client.send(&message(("", "rpc"), properties, &body, false));
    assert_eq!(name_in(&server.hear()), name);
}

#[test]
fn what_is_refused() {
    let (mut client, _server, _) = start();
    let acknowledging = BasicConsume {
        no_ack: false,
        ..replies()
    };
    assert_eq!(
        ask(&mut client, acknowledging),
        "2 close 406 PRECONDITION_FAILED - reply consumer cannot acknowledge"
    );
    assert_eq!(ask(&mut client, replies()), "2 basic.consume-ok");
    let another = BasicConsume {
        consumer_tag: b"another",
        ..replies()
    };
    assert_eq!(
        ask(&mut client, another),
        "2 close 406 PRECONDITION_FAILED - reply consumer already set"
    );
    // On another connection, as it has no reply consumer.
    let mut other = Client::new(&client.broker);
    other.send(&request(REPLY_TO));
    assert_eq!(
        other.hear(),
        ["1 close 406 PRECONDITION_FAILED - fast reply consumer does not exist"]
    );
    let properties = Properties {
        reply_to: Some(REPLY_TO.as_bytes()),
        ..Properties::default()
    };
    let mut header = Vec::new();
    properties.encode(0, &mut header);
    let direct = Direct {
        exchange: "",
        key: b"rpc",
        header: &header,
        body: b"",
    };
    let vhost = client.broker.vhost("/").unwrap();
    let published = client
        .broker
        .publish(&vhost, "guest", &direct, &mut Effects::default());
    let text = "fast reply consumer does not exist";
    assert_eq!(published, Err(Refusal::Precondition(text.into())));
}

#[test]
fn a_reused_tag_and_too_many_consumers_close_the_connection() {
    let (mut client, ..) = start();
    let again = "1 close 406 PRECONDITION_FAILED - reply consumer already set";
    client.say(1, replies());
    assert_eq!(client.hear(), [again]);
    client.declare(2, "q", false);
    client.say(2, consume("q"));
    client.say(2, replies());
    let reused = "0 close 530 NOT_ALLOWED - attempt to reuse consumer tag 'tag'";
    assert_eq!(client.hear().last().unwrap(), reused);
    let config = BrokerConfig {
        consumers_per_channel_max: 1,
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "q", false);
    client.say(1, consume("q"));
    client.say(
        1,
        BasicConsume {
            consumer_tag: b"other",
            ..replies()
        },
    );
    let many = "0 close 530 NOT_ALLOWED - reached maximum (1) of consumers per channel";
    assert_eq!(client.hear().last().unwrap(), many);
    assert_eq!(leftover(&broker), 0);
}

/// Queues that the default exchange knows beyond those in the list.
fn leftover(broker: &leveret_broker::Broker) -> usize {
    let vhost = broker.vhost("/").unwrap();
    let directory = vhost.directory.read();
    let cells = (0..100).filter(|id| directory.cell(leveret_router::QueueId(*id)).is_some());
    cells.count() - directory.queues().len()
}

#[test]
fn the_name_lives_as_long_as_its_consumer() {
    type End = fn(&mut Client);
    let ends: [End; 3] = [
        |client| {
            client.say(
                1,
                BasicCancel {
                    consumer_tag: b"tag",
                    nowait: false,
                },
            );
        },
        |client| client.say(1, ChannelClose::default()),
        |client| client.connection.disconnect(),
    ];
    for end in ends {
        let (mut client, mut server, name) = start();
        let there = QueueDeclare {
            passive: true,
            ..support::declaration(&name, false)
        };
        assert_eq!(ask(&mut server, there), "2 queue.declare-ok");
        server.send(&reply(&name, "in time"));
        assert_eq!(client.hear(), ["1 deliver 1", "body in time"]);
        assert_eq!(leftover(&client.broker), 1);
        end(&mut client);
        assert_eq!(
            ask(&mut server, there),
            format!("2 close 404 NOT_FOUND - no queue '{name}' in vhost '/'")
        );
        server.send(&reply(&name, "too late"));
        assert_eq!(server.hear(), ["1 basic.return", "body too late"]);
        assert_eq!(leftover(&client.broker), 0);
    }
}

#[test]
fn a_channel_that_cancelled_may_begin_again_under_another_name() {
    let (mut client, mut server, name) = start();
    client.say(
        1,
        BasicCancel {
            consumer_tag: b"tag",
            nowait: true,
        },
    );
    client.say(1, replies());
    assert_eq!(client.hear(), ["1 basic.consume-ok"]);
    client.send(&request(REPLY_TO));
    let second = name_in(&server.hear());
    assert_ne!(second, name);
    server.send(&reply(&second, "answer"));
    assert_eq!(client.hear(), ["1 deliver 1", "body answer"]);
}

#[test]
fn nothing_but_a_publish_finds_the_queue_behind_the_name() {
    let (mut client, mut server, name) = start();
    let queue = name.as_bytes();
    let missing = format!("2 close 404 NOT_FOUND - no queue '{name}' in vhost '/'");
    let get = BasicGet {
        queue,
        no_ack: true,
    };
    let bind = QueueBind {
        queue,
        exchange: b"amq.fanout",
        ..QueueBind::default()
    };
    let purge = QueuePurge {
        queue,
        nowait: false,
    };
    for client in [&mut server, &mut client] {
        assert_eq!(ask(client, consume(&name)), missing);
        assert_eq!(ask(client, get), missing);
        assert_eq!(ask(client, bind), missing);
        assert_eq!(ask(client, purge), missing);
        let delete = QueueDelete {
            queue,
            ..QueueDelete::default()
        };
        assert_eq!(ask(client, delete), "2 queue.delete-ok");
    }
    let events = &server.broker.events;
    assert_eq!(events.existing(Existing::Queues), 1);
    assert_eq!(server.broker.vhost("/").unwrap().holdings.get().ready, 0);
    server.send(&reply(&name, "still there"));
    assert_eq!(client.hear(), ["1 deliver 1", "body still there"]);
}

#[test]
fn declaring_the_names_makes_nothing() {
    let (mut client, ..) = start();
    let declare = |queue: &'static str, passive| QueueDeclare {
        passive,
        durable: true,
        ..support::declaration(queue, false)
    };
    for passive in [true, false] {
        assert_eq!(
            ask(&mut client, declare(REPLY_TO, passive)),
            "2 queue.declare-ok"
        );
        for unknown in ["amq.rabbitmq.reply-to.x", "amq.rabbitmq.reply-to-x"] {
            assert_eq!(
                ask(&mut client, declare(unknown, passive)),
                format!("2 close 404 NOT_FOUND - no queue '{unknown}' in vhost '/'")
            );
        }
    }
    assert_eq!(client.broker.events.existing(Existing::Queues), 1);
    // The last one declared is what an empty name stands for.
    assert_eq!(
        ask(&mut client, declare(REPLY_TO, true)),
        "2 queue.declare-ok"
    );
    let replies = BasicConsume {
        queue: b"",
        ..replies()
    };
    assert_eq!(ask(&mut client, replies), "2 basic.consume-ok");
}

/// Who waits for a reply before it acknowledges would wait for ever.
#[test]
fn a_reply_waits_for_no_acknowledgement() {
    let (mut client, mut server, _) = start();
    client.say(
        1,
        BasicQos {
            prefetch_size: 0,
            prefetch_count: 1,
            global: true,
        },
    );
    client.declare(1, "jobs", false);
    let jobs = BasicConsume {
        consumer_tag: b"jobs",
        ..consume("jobs")
    };
    client.say(1, jobs);
    client.publish(1, "jobs", "one", false);
    client.publish(1, "jobs", "two", false);
    let heard = client.hear();
    assert_eq!(heard[heard.len() - 2..], ["1 deliver 1", "body one"]);
    client.send(&request(REPLY_TO));
    let name = name_in(&server.hear());
    server.send(&reply(&name, "answer"));
    assert_eq!(client.hear(), ["1 deliver 2", "body answer"]);
    // It is in no list, and so in no count.
    let channels = client.connection.peer().channels();
    assert_eq!(channels[0].consumers.get(), 1);
}

#[test]
fn confirms_and_transactions_take_part() {
    let (mut client, mut server, name) = start();
    server.say(1, ConfirmSelect { nowait: true });
    server.send(&reply(&name, "confirmed"));
    server.connection.receive(&[], 1);
    assert_eq!(server.hear(), ["1 ack 1"]);
    assert_eq!(client.hear(), ["1 deliver 1", "body confirmed"]);
    client.say(2, TxSelect {});
    client.hear();
    client.say(1, ChannelClose::default());
    client.say(1, ChannelOpen {});
    client.say(1, TxSelect {});
    client.say(1, replies());
    client.send(&request(REPLY_TO));
    assert!(server.hear().is_empty());
    client.say(1, TxCommit {});
    assert_ne!(name_in(&server.hear()), name);
}

/// Only the right to publish to the default exchange is asked for.
#[test]
fn permissions() {
    let (_client, mut server, _) = start();
    let broker = Arc::clone(&server.broker);
    let user = User {
        name: "app".into(),
        password: Some(broker.hash_password("app")),
        tags: Vec::new(),
        limits: UserLimits::default(),
    };
    broker.administer().put_user(user).unwrap();
    let permission = Permission {
        user: "app".into(),
        vhost: "/".into(),
        configure: String::new(),
        write: "^amq.default$".into(),
        read: String::new(),
    };
    broker.administer().put_permission(permission).unwrap();
    let mut app = Client::open(&broker, "app", "/");
    app.say(1, ChannelOpen {});
    app.say(1, replies());
    app.send(&request(REPLY_TO));
    assert_eq!(app.hear().last().unwrap(), "1 basic.consume-ok");
    let name = name_in(&server.hear());
    server.send(&reply(&name, "answer"));
    assert_eq!(app.hear(), ["1 deliver 1", "body answer"]);
}

/// Replies that a client does not read are bounded as those in any queue.
#[test]
fn a_full_one_refuses() {
    let config = BrokerConfig {
        outbound_bytes_max: 1,
        queue: QueueDefaults {
            consumer_timeout_ms: 0,
            length_max: 2,
            bytes_max: 1 << 30,
        },
        ..BrokerConfig::default()
    };
    let broker = broker_with(config, Arc::new(InstantStore));
    let mut client = Client::new(&broker);
    client.declare(1, "rpc", false);
    client.say(1, replies());
    client.send(&request(REPLY_TO));
    client.say(
        1,
        BasicGet {
            queue: b"rpc",
            no_ack: true,
        },
    );
    let name = name_in(&client.hear());
    let mut server = Client::new(&broker);
    server.say(1, ConfirmSelect { nowait: true });
    for _ in 0..20 {
        server.send(&reply(&name, "answer"));
    }
    server.connection.receive(&[], 1);
    assert!(server.hear().contains(&"1 nack 20".to_owned()));
    let heard = client.hear();
    let got = heard.iter().filter(|it| it.starts_with("body")).count();
    assert!((2..20).contains(&got), "{got}");
}
