//! One message for many queues, whose consumers take it in different ways.

use std::sync::Arc;

use crate::support::{Client, broker_with};
use leveret_broker::BrokerConfig;
use leveret_codec::{
    BasicAck, BasicConsume, BasicPublish, Method, QueueBind, QueueDeclare, RawTable, content,
};
use leveret_store::InstantStore;

const MESSAGES: usize = 300;

/// Has the client consume from a queue of its own.
fn consume(client: &mut Client, (channel, queue): (u16, &str), no_ack: bool, durable: bool) {
    let arguments = RawTable::EMPTY;
    let declare = QueueDeclare {
        queue: queue.as_bytes(),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        nowait: true,
        arguments,
    };
    let bind = QueueBind {
        queue: queue.as_bytes(),
        exchange: b"amq.fanout",
        routing_key: b"",
        nowait: true,
        arguments,
    };
    let consume = BasicConsume {
        queue: queue.as_bytes(),
        consumer_tag: queue.as_bytes(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait: true,
        arguments,
    };
    client.say(channel, declare);
    client.say(channel, bind);
    client.say(channel, consume);
}

/// Messages with their numbers, each fifth of them long, each third persistent.
fn messages() -> Vec<u8> {
    let publish = BasicPublish {
        exchange: b"amq.fanout",
        routing_key: b"key",
        mandatory: false,
        immediate: false,
    };
    let mut bytes = Vec::new();
    for number in 0..MESSAGES {
        let body = body(number);
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        let delivery_mode = if number.is_multiple_of(3) { 2 } else { 1 };
        header.extend_from_slice(&[0x10, 0, delivery_mode]);
        Method::from(publish).encode(1, &mut bytes);
        content(&mut bytes, 1, &header, body.as_bytes(), 131_072);
    }
    bytes
}

fn body(number: usize) -> String {
    let more = if number.is_multiple_of(5) { 300 } else { 0 };
    format!("{number}{}", "-".repeat(more))
}

/// The bodies among what was heard, by channel.
fn bodies(heard: &[String]) -> [Vec<&str>; 3] {
    let mut bodies = [const { Vec::new() }; 3];
    for pair in heard.chunks(2) {
        let (channel, _) = pair[0].split_once(" deliver ").expect("a delivery");
        let channel: usize = channel.parse().expect("its channel");
        bodies[channel].push(pair[1].strip_prefix("body ").expect("its body"));
    }
    bodies
}

#[test]
fn every_queue_gets_every_message_in_order_however_little_room_there_is() {
    let numbers: Vec<_> = (0..MESSAGES).map(body).collect();
    for outbound_bytes_max in [1, 2000, 128 << 10] {
        let config = BrokerConfig {
            outbound_bytes_max,
            ..BrokerConfig::default()
        };
        let broker = broker_with(config, Arc::new(InstantStore));
        let mut publisher = Client::new(&broker);
        let (mut first, mut second) = (Client::new(&broker), Client::new(&broker));
        consume(&mut first, (1, "a"), true, false);
        consume(&mut first, (2, "b"), true, true);
        consume(&mut second, (2, "c"), true, false);
        consume(&mut second, (1, "d"), false, false);
        publisher.send(&messages());

        let (heard, also_heard) = (first.hear(), second.hear());
        let [_, a, b] = bodies(&heard);
        let [_, d, c] = bodies(&also_heard);
        for (queue, got) in [("a", a), ("b", b), ("c", c), ("d", d)] {
            assert_eq!(got, numbers, "{queue} with {outbound_bytes_max} bytes");
        }
        let ack = BasicAck {
            delivery_tag: 0,
            multiple: true,
        };
        second.say(1, ack);
        let vhost = broker.vhost("/").expect("it was added");
        for queue in ["a", "b", "c", "d"] {
            let state = vhost.queue(queue).expect("it was declared");
            let queue = &state.lock().queue;
            assert_eq!((queue.ready(), queue.unacked()), (0, 0));
            assert_eq!(queue.counters().published, MESSAGES as u64);
        }
    }
}
