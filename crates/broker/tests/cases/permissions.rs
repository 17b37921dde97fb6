//! What a user may do over AMQP: permissions, topic permissions, limits, and what a change does to
//! connections that are open.

use std::sync::Arc;

use leveret_broker::{
    Broker, IMPERSONATOR, Permission, TopicPermission, User, UserLimits, VhostMetadata,
};
use leveret_codec::{
    BasicConsume, BasicGet, BasicPublish, ChannelClose, ChannelOpen, ConnectionClose, ExchangeBind,
    ExchangeDeclare, ExchangeDelete, ExchangeUnbind, Method, Properties, QueueBind, QueueDeclare,
    QueueDelete, QueuePurge, QueueUnbind, RawTable, Table, content,
};
use leveret_store::InstantStore;
use serde_json::json;

use crate::support::{Client, broker, declaration};

const FRAME_MAX: u32 = 131_072;

/// A broker with a user `app` that may use what begins with its patterns, and an open client of it.
fn start(configure: &str, write: &str, read: &str) -> (Arc<Broker>, Client) {
    let broker = broker(Arc::new(InstantStore));
    add_user(&broker, "app", &[]);
    permit(&broker, configure, write, read);
    let client = Client::open(&broker, "app", "/");
    (broker, client)
}

fn add_user(broker: &Broker, name: &str, tags: &[&str]) {
    let user = User {
        name: name.into(),
        password: Some(broker.hash_password(name)),
        tags: tags.iter().map(|tag| (*tag).into()).collect(),
        limits: UserLimits::default(),
    };
    broker.administer().put_user(user).unwrap();
}

fn permit(broker: &Broker, configure: &str, write: &str, read: &str) {
    let permission = Permission {
        user: "app".into(),
        vhost: "/".into(),
        configure: configure.into(),
        write: write.into(),
        read: read.into(),
    };
    broker.administer().put_permission(permission).unwrap();
}

/// Says a method on a fresh channel and gives the answer.
fn ask<'a>(client: &mut Client, method: impl Into<Method<'a>>) -> String {
    client.say(1, ChannelOpen {});
    client.hear();
    client.say(1, method);
    let answer = client.hear().pop().unwrap_or_default();
    let close = ChannelClose::default();
    let closed_by_broker = answer.contains(" close ");
    if closed_by_broker {
        client.say(1, leveret_codec::ChannelCloseOk {});
    } else {
        client.say(1, close);
    }
    client.hear();
    answer
}

fn denied(right: &str, resource: &str) -> String {
    let what = format!("{right} access to {resource} in vhost '/' refused for user 'app'");
    format!("1 close 403 ACCESS_REFUSED - {what}")
}

fn exchange<'a>(name: &'a str, kind: &'a str, arguments: RawTable<'a>) -> ExchangeDeclare<'a> {
    ExchangeDeclare {
        exchange: name.as_bytes(),
        kind: kind.as_bytes(),
        arguments,
        ..Default::default()
    }
}

fn bind<'a>(queue: &'a str, source: &'a str, key: &'a str) -> QueueBind<'a> {
    QueueBind {
        queue: queue.as_bytes(),
        exchange: source.as_bytes(),
        routing_key: key.as_bytes(),
        ..Default::default()
    }
}

fn publish(
    client: &mut Client,
    exchange: &str,
    key: &str,
    properties: &Properties<'_>,
) -> Vec<String> {
    client.say(1, ChannelOpen {});
    client.hear();
    publish_on(client, exchange, key, properties);
    let heard = client.hear();
    if heard.iter().any(|told| told.contains(" close ")) {
        client.say(1, leveret_codec::ChannelCloseOk {});
    } else {
        client.say(1, ChannelClose::default());
        client.hear();
    }
    heard
}

fn publish_on(client: &mut Client, exchange: &str, key: &str, properties: &Properties<'_>) {
    let method = BasicPublish {
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    Method::from(method).encode(1, &mut bytes);
    let mut header = Vec::new();
    properties.encode(2, &mut header);
    content(&mut bytes, 1, &header, b"hi", FRAME_MAX);
    client.send(&bytes);
}

fn get(queue: &str) -> BasicGet<'_> {
    BasicGet {
        queue: queue.as_bytes(),
        no_ack: true,
    }
}

fn consume(queue: &str) -> BasicConsume<'_> {
    BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: b"tag",
        no_ack: true,
        ..Default::default()
    }
}

#[test]
fn declaring_and_deleting_need_configure() {
    let (_broker, mut client) = start("^(mine|amq\\.gen)", ".*", ".*");
    let client = &mut client;
    assert_eq!(
        ask(client, declaration("mine", false)),
        "1 queue.declare-ok"
    );
    assert_eq!(ask(client, declaration("", false)), "1 queue.declare-ok");
    assert_eq!(
        ask(client, declaration("theirs", false)),
        denied("configure", "queue 'theirs'")
    );
    assert_eq!(
        ask(client, exchange("mine", "topic", RawTable::EMPTY)),
        "1 exchange.declare-ok"
    );
    assert_eq!(
        ask(client, exchange("theirs", "topic", RawTable::EMPTY)),
        denied("configure", "exchange 'theirs'")
    );
    let delete = |exchange| ExchangeDelete {
        exchange,
        ..Default::default()
    };
    assert_eq!(
        ask(client, delete(b"theirs")),
        denied("configure", "exchange 'theirs'")
    );
    assert_eq!(ask(client, delete(b"mine")), "1 exchange.delete-ok");
    assert_eq!(
        ask(client, delete(b"amq.direct")),
        "1 close 403 ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not \
         allowed"
    );
    let delete = |queue| QueueDelete {
        queue,
        ..Default::default()
    };
    // Whether it exists is not told.
    assert_eq!(
        ask(client, delete(b"theirs")),
        denied("configure", "queue 'theirs'")
    );
    assert_eq!(ask(client, delete(b"mine")), "1 queue.delete-ok");
}

#[test]
fn looking_for_something_needs_any_permission() {
    let (_broker, mut client) = start("", "^written", "^read");
    let passive = |queue: &'static str| QueueDeclare {
        passive: true,
        ..declaration(queue, false)
    };
    let missing = |name| format!("1 close 404 NOT_FOUND - no queue '{name}' in vhost '/'");
    assert_eq!(ask(&mut client, passive("written")), missing("written"));
    assert_eq!(ask(&mut client, passive("read")), missing("read"));
    assert_eq!(
        ask(&mut client, passive("other")),
        denied("configure", "queue 'other'")
    );
}

#[test]
fn dead_letter_and_alternate_exchanges_are_written_in_the_users_name() {
    let (_broker, mut client) = start(".*", "^w", "^r");
    let client = &mut client;
    let mut dead = Table::new();
    dead.insert("x-dead-letter-exchange", "x");
    let dead = dead.encoded();
    let mut dead_ok = Table::new();
    dead_ok.insert("x-dead-letter-exchange", "w");
    let dead_ok = dead_ok.encoded();
    let queue = |name: &'static str, table: &'static [u8]| QueueDeclare {
        arguments: RawTable::parse(table).unwrap(),
        ..declaration(name, false)
    };
    let (dead, dead_ok): (&'static [u8], &'static [u8]) = (dead.leak(), dead_ok.leak());
    assert_eq!(ask(client, queue("q", dead)), denied("read", "queue 'q'"));
    assert_eq!(
        ask(client, queue("r", dead)),
        denied("write", "exchange 'x'")
    );
    assert_eq!(ask(client, queue("r", dead_ok)), "1 queue.declare-ok");
    let mut alternate = Table::new();
    alternate.insert("alternate-exchange", "x");
    let alternate = alternate.encoded();
    let arguments = RawTable::parse(&alternate).unwrap();
    assert_eq!(
        ask(client, exchange("e", "fanout", arguments)),
        denied("read", "exchange 'e'")
    );
    assert_eq!(
        ask(client, exchange("r", "fanout", arguments)),
        denied("write", "exchange 'x'")
    );
}

#[test]
fn binding_writes_the_destination_and_reads_the_source() {
    let (_broker, mut client) = start(".*", "^w", "^(r|amq)");
    let client = &mut client;
    for name in ["w", "q"] {
        ask(client, declaration(name, false));
    }
    for name in ["r", "w", "s"] {
        ask(client, exchange(name, "fanout", RawTable::EMPTY));
    }
    assert_eq!(ask(client, bind("w", "r", "k")), "1 queue.bind-ok");
    assert_eq!(
        ask(client, bind("q", "r", "k")),
        denied("write", "queue 'q'")
    );
    assert_eq!(
        ask(client, bind("w", "s", "k")),
        denied("read", "exchange 's'")
    );
    let unbind = |queue, exchange| QueueUnbind {
        queue,
        exchange,
        routing_key: b"k",
        arguments: RawTable::EMPTY,
    };
    assert_eq!(
        ask(client, unbind(b"q", b"r")),
        denied("write", "queue 'q'")
    );
    assert_eq!(ask(client, unbind(b"w", b"r")), "1 queue.unbind-ok");
    let between = |destination, source| ExchangeBind {
        destination,
        source,
        ..Default::default()
    };
    assert_eq!(ask(client, between(b"w", b"r")), "1 exchange.bind-ok");
    assert_eq!(
        ask(client, between(b"s", b"r")),
        denied("write", "exchange 's'")
    );
    let apart = ExchangeUnbind {
        destination: b"w",
        source: b"s",
        ..Default::default()
    };
    assert_eq!(ask(client, apart), denied("read", "exchange 's'"));
}

#[test]
fn consuming_getting_and_purging_need_read() {
    let (_broker, mut client) = start(".*", ".*", "^r");
    let client = &mut client;
    for name in ["r", "q"] {
        ask(client, declaration(name, false));
    }
    assert_eq!(ask(client, get("q")), denied("read", "queue 'q'"));
    assert_eq!(ask(client, get("r")), "1 basic.get-empty");
    assert_eq!(ask(client, consume("q")), denied("read", "queue 'q'"));
    assert_eq!(ask(client, consume("r")), "1 basic.consume-ok");
    let purge = |queue| QueuePurge {
        queue,
        nowait: false,
    };
    assert_eq!(ask(client, purge(b"q")), denied("read", "queue 'q'"));
    assert_eq!(ask(client, purge(b"r")), "1 queue.purge-ok");
}

#[test]
fn publishing_needs_write_and_a_change_holds_for_open_channels() {
    let (broker, mut client) = start(".*", "^amq\\.(default|fanout)", ".*");
    let plain = Properties::default();
    assert_eq!(publish(&mut client, "", "q", &plain), [""; 0]);
    let refused = [denied("write", "exchange 'amq.direct'")];
    assert_eq!(publish(&mut client, "amq.direct", "q", &plain), refused);
    // Before it is told whether the exchange exists.
    assert_eq!(
        publish(&mut client, "nope", "q", &plain),
        [denied("write", "exchange 'nope'")]
    );
    client.say(1, ChannelOpen {});
    client.hear();
    for _ in 0..3 {
        publish_on(&mut client, "amq.fanout", "q", &plain);
        publish_on(&mut client, "", "q", &plain);
    }
    assert_eq!(client.hear(), [""; 0]);
    permit(&broker, ".*", "^amq\\.default", ".*");
    publish_on(&mut client, "", "q", &plain);
    assert_eq!(client.hear(), [""; 0]);
    publish_on(&mut client, "amq.fanout", "q", &plain);
    assert_eq!(client.hear(), [denied("write", "exchange 'amq.fanout'")]);
}

#[test]
fn topic_permissions_hold_for_every_key_of_a_topic_exchange() {
    let (broker, mut client) = start(".*", ".*", ".*");
    for exchange in ["amq.topic", "amq.direct"] {
        let permission = TopicPermission {
            user: "app".into(),
            vhost: "/".into(),
            exchange: exchange.into(),
            write: "^{username}\\.".into(),
            read: "^{username}\\.".into(),
        };
        broker
            .administer()
            .put_topic_permission(permission)
            .unwrap();
    }
    let refused =
        |right: &str, key: &str| denied(right, &format!("topic '{key}' in exchange 'amq.topic'"));
    let plain = Properties::default();
    let client = &mut client;
    assert_eq!(publish(client, "amq.topic", "app.x", &plain), [""; 0]);
    assert_eq!(
        publish(client, "amq.topic", "x", &plain),
        [refused("write", "x")]
    );
    assert_eq!(publish(client, "amq.direct", "x", &plain), [""; 0]);
    let mut headers = Table::new();
    let carbon = leveret_codec::Value::Array(vec!["app.y".into(), "y".into()]);
    headers.insert("CC", carbon);
    let headers = headers.encoded();
    let copied = Properties {
        headers: Some(RawTable::parse(&headers).unwrap()),
        ..Properties::default()
    };
    assert_eq!(
        publish(client, "amq.topic", "app.x", &copied),
        [refused("write", "y")]
    );
    ask(client, declaration("q", false));
    assert_eq!(
        ask(client, bind("q", "amq.topic", "app.#")),
        "1 queue.bind-ok"
    );
    assert_eq!(
        ask(client, bind("q", "amq.topic", "#")),
        refused("read", "#")
    );
    assert_eq!(ask(client, bind("q", "amq.direct", "x")), "1 queue.bind-ok");
}

#[test]
fn only_an_impersonator_publishes_in_anothers_name() {
    let (broker, mut client) = start(".*", ".*", ".*");
    let of = |user| Properties {
        user_id: Some(user),
        ..Properties::default()
    };
    assert_eq!(publish(&mut client, "", "q", &of(b"app")), [""; 0]);
    let refused = "1 close 406 PRECONDITION_FAILED - user_id property set to 'other' but \
                   authenticated user was 'app'";
    assert_eq!(publish(&mut client, "", "q", &of(b"other")), [refused]);
    add_user(&broker, "app", &[IMPERSONATOR]);
    assert_eq!(publish(&mut client, "", "q", &of(b"other")), [""; 0]);
}

#[test]
fn a_vhost_is_entered_with_a_permission_and_within_limits() {
    let broker = broker(Arc::new(InstantStore));
    let refusal = |user: &str, vhost: &str| {
        let mut client = Client::open(&broker, user, vhost);
        (client.hear().pop().unwrap_or_default(), client)
    };
    add_user(&broker, "app", &[]);
    assert_eq!(
        refusal("app", "nope").0,
        "0 close 530 NOT_ALLOWED - vhost nope not found"
    );
    let refused = "0 close 530 NOT_ALLOWED - access to vhost '/' refused for user 'app'";
    assert_eq!(refusal("app", "/").0, refused);
    permit(&broker, "", "", "");
    let (opened, mut first) = refusal("app", "/");
    assert_eq!(opened, "0 connection.open-ok");
    let mut admin = broker.administer();
    admin
        .set_user_limit("app", "max-connections", &json!(1))
        .unwrap();
    drop(admin);
    assert_eq!(
        refusal("app", "/").0,
        "0 close 530 NOT_ALLOWED - connection refused for user 'app': user connection limit (1) \
         is reached"
    );
    let mut admin = broker.administer();
    admin
        .set_vhost_limit("/", "max-connections", &json!(1))
        .unwrap();
    drop(admin);
    assert_eq!(
        refusal("guest", "/").0,
        "0 close 530 NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit \
         (1) is reached"
    );
    first.say(0, ConnectionClose::default());
    assert_eq!(refusal("app", "/").0, "0 connection.open-ok");
}

#[test]
fn channels_and_queues_are_limited() {
    let (broker, mut client) = start(".*", ".*", ".*");
    let mut admin = broker.administer();
    admin
        .set_user_limit("app", "max-channels", &json!(1))
        .unwrap();
    admin.set_vhost_limit("/", "max-queues", &json!(1)).unwrap();
    drop(admin);
    assert_eq!(
        ask(&mut client, declaration("one", false)),
        "1 queue.declare-ok"
    );
    assert_eq!(
        ask(&mut client, declaration("one", false)),
        "1 queue.declare-ok"
    );
    assert_eq!(
        ask(&mut client, declaration("two", false)),
        "1 close 406 PRECONDITION_FAILED - cannot declare queue 'two': queue limit in vhost '/' \
         (1) is reached"
    );
    client.say(1, ChannelOpen {});
    client.hear();
    client.say(2, ChannelOpen {});
    let heard: Vec<_> = client.hear();
    assert_eq!(
        heard,
        [
            "0 close 530 NOT_ALLOWED - number of channels opened for user 'app' has reached the \
          maximum allowed user limit of (1)"
        ]
    );
}

#[test]
fn a_deleted_user_or_vhost_closes_its_connections() {
    let (broker, mut client) = start(".*", ".*", ".*");
    let mut guest = Client::new(&broker);
    broker.administer().delete_user("app").unwrap();
    client.turn();
    guest.turn();
    let told = |client: &mut Client| client.hear().pop().unwrap_or_default();
    assert_eq!(
        told(&mut client),
        "0 close 320 CONNECTION_FORCED - user 'app' is deleted"
    );
    let vhost = broker.vhost("/").unwrap();
    guest.declare(1, "q", false);
    guest.hear();
    broker.administer().delete_vhost("/").unwrap();
    guest.turn();
    assert_eq!(
        told(&mut guest),
        "0 close 320 CONNECTION_FORCED - vhost '/' is deleted"
    );
    assert_eq!(vhost.directory.read().queues().len(), 0);
    // Somebody who had the virtual host in hand makes nothing in it any more.
    let mut effects = leveret_broker::Effects::default();
    let late = broker.declare_queue(
        &vhost,
        "late",
        leveret_broker::QueueSpec::default(),
        &mut effects,
    );
    assert_eq!(
        late.err(),
        Some(leveret_broker::Refusal::NoVhost("/".into()))
    );
    let metadata = VhostMetadata::default();
    assert!(broker.administer().put_vhost("/", metadata).is_ok());
    assert!(broker.vhost("/").unwrap().queue("q").is_none());
}
