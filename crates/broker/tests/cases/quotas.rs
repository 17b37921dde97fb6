//! Limits of what may be published into a virtual host: its publishers wait, and nobody else does.

use std::sync::Arc;

use crate::support::store::DelayedStore;
use crate::support::{Client, broker, message, ready};
use leveret_broker::{Broker, Direct, Effects, Outcome, Published};
use leveret_codec::{
    BasicAck, BasicGet, ConfirmSelect, Properties, QueuePurge, RawTable, Table, TxCommit, TxSelect,
    Value,
};
use leveret_store::InstantStore;

fn capable(broker: &Arc<Broker>) -> Client {
    let mut capabilities = Table::new();
    capabilities.insert("connection.blocked", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    Client::with_properties(broker, RawTable::parse(&properties.encoded()).unwrap(), 0)
}

fn limit(broker: &Broker, name: &str, value: i64) {
    let mut admin = broker.administer();
    admin.set_vhost_limit("/", name, &value.into()).unwrap();
}

fn limited(limit: &str, value: i64) -> Arc<Broker> {
    let broker = broker(Arc::new(InstantStore));
    self::limit(&broker, limit, value);
    broker
}

/// So many messages of a hundred bytes.
fn some(count: usize) -> Vec<u8> {
    message(1, ("", "q"), &"x".repeat(100), (false, false)).repeat(count)
}

/// Lets a time pass, and has the client read on if it may.
fn pass(client: &mut Client, now_ms: u64) {
    client.connection.look_for_room(now_ms);
    if !client.connection.is_blocked() {
        client.send_at(&[], now_ms);
    }
}

fn text(heard: &[String]) -> String {
    heard.join("; ")
}

#[test]
fn a_rate_is_kept_by_all_publishers_together_and_nothing_is_lost() {
    let broker = limited("max-publish-rate", 200);
    let mut clients = [capable(&broker), capable(&broker)];
    clients[0].declare(1, "q", false);
    clients[0].hear();
    for client in &mut clients {
        client.send_unread(&some(500));
        assert!(client.connection.is_blocked());
        assert_eq!(text(&client.hear()), "0 connection.blocked");
    }
    // A batch is taken whole.
    let mut before = ready(&broker, "q");
    assert!((200..200 + 128).contains(&before), "{before}");
    for second in 1..=3 {
        for now_ms in (0..1000).step_by(100) {
            clients
                .iter_mut()
                .for_each(|client| pass(client, second * 1000 + now_ms));
        }
        let now = ready(&broker, "q");
        assert!(
            (1..=200 + 2 * 128).contains(&(now - before)),
            "{now} after {before}"
        );
        before = now;
    }
    assert!(
        (600..=800 + 128).contains(&before),
        "{before} in four seconds"
    );
    for second in 4..12 {
        clients
            .iter_mut()
            .for_each(|client| pass(client, second * 1000));
    }
    assert_eq!(ready(&broker, "q"), 1000);
    let told = text(&clients[0].hear());
    assert!(told.starts_with("0 connection.unblocked"), "{told}");
    assert!(told.ends_with("0 connection.unblocked"), "{told}");
    let noted = broker.refused.take_noted().places;
    let outcome = Outcome::Limited("max-publish-rate");
    assert!(
        noted.keys().all(|place| place.outcome == outcome),
        "{noted:?}"
    );
    assert!(!noted.is_empty());
}

#[test]
fn bodies_are_limited_too_whatever_their_number() {
    let broker = limited("max-publish-byte-rate", 5000);
    let mut client = capable(&broker);
    client.declare(1, "q", false);
    // In several frames: it is put together first.
    client.send_unread(&message(1, ("", "q"), &"x".repeat(300_000), (false, false)));
    assert_eq!(ready(&broker, "q"), 1, "it is more than a second may have");
    client.send_unread(&some(1));
    assert!(client.connection.is_blocked());
    pass(&mut client, 59_000);
    assert!(client.connection.is_blocked());
    pass(&mut client, 60_000);
    assert_eq!(ready(&broker, "q"), 2);
}

#[test]
fn a_full_virtual_host_lets_its_consumers_go_on() {
    let broker = limited("max-bytes", 10_000);
    let (mut publisher, mut consumer) = (capable(&broker), Client::new(&broker));
    consumer.declare(1, "q", false);
    consumer.hear();
    publisher.send_unread(&some(90));
    publisher.send_unread(&some(90));
    publisher.send_unread(&some(90));
    assert!(publisher.connection.is_blocked());
    assert_eq!(ready(&broker, "q"), 180, "a batch is taken whole");
    let get = BasicGet {
        queue: b"q",
        no_ack: false,
    };
    for _ in 0..100 {
        consumer.say(1, get);
        consumer.hear();
    }
    pass(&mut publisher, 1000);
    assert!(
        publisher.connection.is_blocked(),
        "unacknowledged ones count"
    );
    let ack = BasicAck {
        delivery_tag: 80,
        multiple: true,
    };
    consumer.say(1, ack);
    pass(&mut publisher, 1001);
    assert!(publisher.connection.is_blocked(), "all but full is full");
    consumer.say(
        1,
        BasicAck {
            delivery_tag: 100,
            multiple: true,
        },
    );
    pass(&mut publisher, 1002);
    assert!(!publisher.connection.is_blocked());
    assert_eq!(ready(&broker, "q"), 170);
    assert_eq!(broker.vhost("/").unwrap().times_limited(), 1);
}

#[test]
fn other_virtual_hosts_and_those_who_do_not_publish_are_not_limited() {
    let broker = limited("max-publish-rate", 0);
    let mut admin = broker.administer();
    admin.put_vhost("other", Default::default()).unwrap();
    let grant = leveret_broker::Permission {
        user: "guest".into(),
        vhost: "other".into(),
        configure: ".*".into(),
        write: ".*".into(),
        read: ".*".into(),
    };
    admin.put_permission(grant).unwrap();
    drop(admin);
    let (mut forbidden, mut silent) = (capable(&broker), Client::new(&broker));
    silent.declare(1, "q", false);
    forbidden.send_unread(&some(1));
    assert!(forbidden.connection.is_blocked());
    silent.say(
        1,
        QueuePurge {
            queue: b"q",
            nowait: false,
        },
    );
    assert_eq!(text(&silent.hear()), "1 queue.declare-ok; 1 queue.purge-ok");
    let mut other = Client::open(&broker, "guest", "other");
    other.say(1, leveret_codec::ChannelOpen {});
    other.hear();
    other.declare(1, "q", false);
    other.send(&some(500));
    assert!(!other.connection.is_blocked());
    // Who waits goes on once the limit is lifted.
    limit(&broker, "max-publish-rate", -1);
    pass(&mut forbidden, 2);
    assert_eq!(ready(&broker, "q"), 1);
}

#[test]
fn what_is_published_in_transactions_and_over_http_counts() {
    let broker = limited("max-publish-rate", 10);
    let mut client = capable(&broker);
    client.declare(1, "q", false);
    client.say(1, TxSelect {});
    client.send_unread(&some(10));
    client.say(1, TxCommit {});
    client.hear();
    assert_eq!(ready(&broker, "q"), 10);
    let vhost = broker.vhost("/").unwrap();
    let mut header = Vec::new();
    Properties::default().encode(1, &mut header);
    let direct = Direct {
        exchange: "",
        key: b"q",
        header: &header,
        body: b"x",
    };
    let publish = || {
        let mut effects = Effects::default();
        let published = broker
            .publish(&vhost, "guest", &direct, &mut effects)
            .unwrap();
        broker.submit(&mut effects);
        published
    };
    let Published::Limited(reason) = publish() else {
        panic!("a second's worth is used up");
    };
    assert_eq!(
        reason.text,
        "vhost '/' has reached its limit max-publish-rate (10)"
    );
    assert_eq!(reason.retry_after_ms, 500);
    broker.set_now(broker.now_ms() + reason.retry_after_ms);
    assert_eq!(publish(), Published::Routed(1));
    client.send_unread(&some(1));
    assert!(!client.connection.is_blocked(), "there is room for four");
}

#[test]
fn confirms_come_for_what_waited() {
    let store = Arc::new(DelayedStore::default());
    let broker = broker(store);
    limit(&broker, "max-publish-rate", 2);
    let mut client = capable(&broker);
    client.declare(1, "q", false);
    client.say(1, ConfirmSelect { nowait: true });
    client.hear();
    for _ in 0..3 {
        client.send_unread(&some(1));
    }
    assert_eq!(
        text(&client.hear()),
        "1 ack 1; 1 ack 2; 0 connection.blocked"
    );
    // A client that hangs up has what it sent taken.
    client.connection.hang_up();
    client.send_at(&[], 2);
    assert_eq!(ready(&broker, "q"), 3);
}
