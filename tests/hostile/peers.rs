//! Peers that break the rules, or keep them and ask for everything, one after another.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicCancel, BasicConsume, BasicPublish, ChannelClose, ChannelCloseOk, ChannelOpen,
    ConfirmSelect, ConnectionStartOk, ExchangeDeclare, FrameKind, Method, PROTOCOL_HEADER,
    QueueDelete, QueuePurge, RawTable, TABLE_DEPTH_MAX, Table, Value,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::case::{Case, SMALL_MIB};
use crate::support::machine::{Watch, on_time};
use crate::support::{
    Client, FRAME_MAX, LONG_PATIENCE, PATIENCE, Server, declare, encode, eventually, message,
    nested_table, raw_frame, start_ok,
};

/// The type of a method frame.
const METHOD: u8 = 1;
const TOO_DEEP: &str = "field table nested too deeply";
/// After this a peer is cut off whatever it has sent.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

fn consume(tag: &'static [u8], no_ack: bool) -> BasicConsume<'static> {
    BasicConsume {
        queue: b"q",
        consumer_tag: tag,
        no_ack,
        ..Default::default()
    }
}

/// Publishes bodies of so many bytes to `q` and waits until all are confirmed.
fn fill(client: &mut Client, messages: u32, bytes: usize) {
    client.declare(1, "q");
    client.method(2, ConfirmSelect { nowait: false });
    client.expect(2, "confirm.select-ok");
    let body = vec![7; bytes];
    let parts: Vec<&[u8]> = body.chunks(100_000).collect();
    let one = message(2, "q", bytes as u64, &parts).concat();
    let batch = (messages / 100).clamp(1, 1000);
    let many = one.repeat(batch as usize);
    let (mut sent, mut confirmed) = (0, 0);
    while confirmed < u64::from(messages) {
        if sent < messages {
            let now = batch.min(messages - sent);
            client.send(&many[..one.len() * now as usize]);
            sent += now;
        }
        while confirmed < u64::from(sent) {
            match client.next().method() {
                Method::BasicAck(ack) => confirmed = ack.delivery_tag,
                other => panic!("{} instead of an ack", other.name()),
            }
        }
    }
}

#[test]
fn garbage_is_answered_with_the_protocol_header() {
    let case = Case::start();
    let mut peer = case.server.connect();
    peer.send(b"SSH-2.0-");
    assert_eq!(peer.rest(), PROTOCOL_HEADER);
    // 64 MB, if anybody reads them.
    let mut flood = case.server.connect();
    let start = Instant::now();
    for _ in 0..1000 {
        flood.send_unwelcome(&[0xA5; 64_000]);
    }
    flood.expect_end();
    let ended = start.elapsed();
    assert!(ended < HANDSHAKE_TIMEOUT, "{ended:?}: not for its garbage");
    case.end(SMALL_MIB);
}

#[test]
fn another_version_of_amqp_is_answered_with_ours() {
    let case = Case::start();
    let mut peer = case.server.connect();
    peer.send(b"AMQP\x00\x01\x00\x00");
    assert_eq!(peer.rest(), PROTOCOL_HEADER);
    case.end(SMALL_MIB);
}

#[test]
fn http_gets_no_answer() {
    let case = Case::start();
    let mut peer = case.server.connect();
    peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(peer.rest(), b"");
    case.end(SMALL_MIB);
}

#[test]
fn a_frame_with_a_wrong_end_closes_its_connection_only() {
    let case = Case::start();
    let mut peer = case.server.login();
    let mut frame = encode(1, declare("q", &[]));
    *frame.last_mut().unwrap() = 0xCD;
    peer.send(&frame);
    peer.expect_close(501, "FRAME_ERROR - frame does not end with 0xCE");
    case.assert_serves();
    case.end(SMALL_MIB);
}

#[test]
fn a_frame_above_the_agreed_size_is_refused_by_its_head() {
    let case = Case::start();
    let mut peer = case.server.login();
    let mut head = vec![METHOD, 0, 1];
    head.extend_from_slice(&(FRAME_MAX + 1).to_be_bytes());
    peer.send(&head);
    peer.expect_close(501, "larger than the agreed 131064");
    case.end(SMALL_MIB);
}

#[test]
fn a_method_on_a_channel_that_is_not_open_is_a_channel_error() {
    let case = Case::start();
    let mut peer = case.server.login();
    peer.method(3, declare("q", &[]));
    peer.expect_close(504, "CHANNEL_ERROR - expected 'channel.open'");
    case.end(SMALL_MIB);
}

#[test]
fn a_body_longer_than_announced_is_a_frame_error() {
    for parts in [&[b"12345".as_slice()][..], &[b"12", b"345"]] {
        let case = Case::start();
        let mut peer = case.server.login();
        peer.declare(1, "q");
        peer.send(&message(1, "q", 4, parts).concat());
        peer.expect_close(501, "content body frame exceeds remaining content size");
        let mut after = case.server.login();
        after.method(1, declare("q", &[]));
        let answer = after.expect(1, "queue.declare-ok");
        let Method::QueueDeclareOk(ok) = answer.method() else {
            unreachable!("the name says so");
        };
        assert_eq!(ok.message_count, 0, "nothing of it is queued");
        case.end(SMALL_MIB);
    }
}

/// A `connection.start-ok` whose client properties nest so deep.
fn nested_start_ok(depth: usize) -> Vec<u8> {
    let mut payload = vec![0, 10, 0, 11];
    payload.extend(nested_table(depth));
    payload.extend(b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
    raw_frame(METHOD, 0, &payload)
}

#[test]
fn a_deep_table_before_login_ends_its_connection_only() {
    let case = Case::start();
    // The first is refused for its size, as nothing larger than 8 KiB is read before login; the
    // second is as deep as fits, the third one level too deep. Who has not logged in is told
    // nothing.
    let refused = [20_000, 1_300, TABLE_DEPTH_MAX + 1].map(|depth| {
        let mut peer = case.server.connect();
        peer.send(&PROTOCOL_HEADER);
        peer.expect(0, "connection.start");
        peer.send_unwelcome(&nested_start_ok(depth));
        (depth, peer)
    });
    for (depth, peer) in refused {
        assert!(peer.expect_end().is_empty(), "{depth} levels");
        case.assert_serves();
    }
    let mut peer = case.server.connect();
    peer.send(&PROTOCOL_HEADER);
    peer.expect(0, "connection.start");
    peer.send(&nested_start_ok(TABLE_DEPTH_MAX));
    peer.expect(0, "connection.tune");
    case.end(SMALL_MIB);
}

#[test]
fn a_deep_table_after_login_ends_its_connection_only() {
    let case = Case::start();
    let mut peer = case.server.login();
    let plain = encode(1, declare("q", &[]));
    let without_arguments = &plain[7..plain.len() - 5];
    let payload = [without_arguments, &nested_table(20_000)].concat();
    assert!(payload.len() < FRAME_MAX as usize);
    peer.send(&raw_frame(METHOD, 1, &payload));
    peer.expect_close(501, TOO_DEEP);
    case.assert_serves();
    case.end(SMALL_MIB);
}

#[test]
fn frames_on_a_channel_that_was_closed_are_discarded_until_close_ok() {
    let case = Case::start();
    let mut peer = case.server.login();
    peer.declare(1, "q");
    peer.send(&message(1, "q", 2, &[b"ok"]).concat());
    let missing = BasicPublish {
        exchange: b"missing",
        ..Default::default()
    };
    let mut frames = message(1, "q", 2, &[b"no"]);
    frames[0] = encode(1, missing);
    peer.send(&frames.concat());
    peer.expect(1, "channel.close");
    peer.send(&message(1, "q", 3, &[b"too", b"late"]).concat());
    peer.send(&message(1, "q", 100, &[b"half"]).concat());
    peer.method(1, declare("never", &[]));
    peer.method(1, ChannelCloseOk {});
    peer.method(1, ChannelOpen {});
    peer.expect(1, "channel.open-ok");
    assert_eq!(peer.count(1, "q"), 1);
    assert_eq!(peer.get(1, "q"), b"ok");
    case.end(SMALL_MIB);
}

#[test]
fn a_method_in_the_middle_of_a_content_is_an_unexpected_frame() {
    let case = Case::start();
    for sent in 1..=3 {
        let mut peer = case.server.login();
        peer.declare(1, "q");
        let frames = message(1, "q", 100, &[b"half"]);
        peer.send(&frames[..sent].concat());
        peer.method(1, declare("q", &[]));
        peer.expect_close(505, "UNEXPECTED_FRAME - expected content");
    }
    case.end(SMALL_MIB);
}

#[test]
fn names_that_are_no_utf8_are_refused_and_routing_keys_are_bytes() {
    let case = Case::start();
    let mut peer = case.server.login();
    peer.declare(1, "q");
    let odd = BasicPublish {
        routing_key: b"\xff\xfe",
        mandatory: true,
        ..Default::default()
    };
    let mut frames = message(1, "q", 1, &[b"x"]);
    frames[0] = encode(1, odd);
    peer.send(&frames.concat());
    peer.expect(1, "basic.return");
    let named = leveret_codec::QueueDeclare {
        queue: b"\xff\xfe",
        ..declare("", &[])
    };
    let mut other = case.server.login();
    other.method(1, named);
    other.expect_close(502, "SYNTAX_ERROR - queue name is not valid UTF-8");
    case.end(SMALL_MIB);
}

#[test]
fn a_consumer_that_stops_reading_leaves_the_queue_where_it_is() {
    const MESSAGES: u32 = 2000;
    let case = Case::start();
    fill(&mut case.server.login(), MESSAGES, 16_000);
    let mut deaf = case.server.login();
    deaf.method(1, consume(b"deaf", false));
    deaf.expect(1, "basic.consume-ok");
    sleep(Duration::from_secs(1));
    let mut reader = case.server.login();
    let left = reader.count(1, "q");
    // It was sent what the kernel and limits.outbound_bytes_max hold.
    assert!(left > MESSAGES / 2, "{left} of {MESSAGES} are left");
    drop(deaf);
    let all_back = eventually(|| reader.count(1, "q") == MESSAGES);
    assert!(all_back, "{} are back", reader.count(1, "q"));
    // 32 MB of messages, and what they pass through.
    case.end(80);
}

#[test]
fn a_consumer_that_stops_reading_and_hangs_up_holds_no_socket() {
    let case = Case::start();
    let mut other = case.server.login();
    fill(&mut other, 2000, 16_000);
    let before = case.server.descriptors();
    let mut deaf = case.server.login();
    deaf.method(1, consume(b"deaf", false));
    deaf.expect(1, "basic.consume-ok");
    // Its socket is full when its queue does not shrink any more.
    let mut left = 0;
    while std::mem::replace(&mut left, other.count(1, "q")) != left {
        sleep(Duration::from_millis(200));
    }
    deaf.end_sending();
    let closed = eventually(|| case.server.descriptors() == before);
    assert!(closed, "its socket is closed though it reads nothing");
    case.end(80);
}

#[test]
fn a_client_that_reads_no_answers_is_not_asked_for_more() {
    const BATCH: usize = 1000;
    let case = Case::start();
    let mut deaf = case.server.login();
    deaf.declare(1, "q");
    let asked = BATCH * deaf.send_until_stuck(&encode(1, declare("q", &[])).repeat(BATCH));
    case.assert_serves();
    // Not one of the answers is lost.
    for _ in 0..asked {
        deaf.expect(1, "queue.declare-ok");
    }
    case.end(SMALL_MIB);
}

/// Whoever sends a byte now and then has no more time than others: it is cut off by when one that
/// had begun anew with each byte would have half of its time left.
#[test]
fn a_handshake_of_a_byte_a_second_is_cut_off() {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let case = Case::start_with(&["amqp.handshake_timeout_ms=4000"]);
    on_time(|| {
        let mut slow: Vec<Client> = (0..100).map(|_| case.server.connect()).collect();
        for byte in &PROTOCOL_HEADER[..6] {
            slow.iter_mut()
                .for_each(|peer| peer.send_unwelcome(&[*byte]));
            sleep(Duration::from_secs(1));
        }
        let dripped = Instant::now();
        for peer in slow {
            assert_eq!(peer.expect_end(), b"");
        }
        let late = dripped.elapsed();
        assert!(late < TIMEOUT / 2, "{late:?}");
    });
    case.end(SMALL_MIB);
}

#[test]
fn frames_of_a_byte_a_second_harm_nobody_and_heartbeats_decide_their_end() {
    const HEARTBEAT_S: u16 = 2;
    let case = Case::start();
    let mut slow: Vec<Client> = (0..50)
        .map(|_| case.server.login_with_heartbeat(HEARTBEAT_S))
        .collect();
    // Longer than two intervals without a whole frame: bytes are a sign of life.
    let frame = encode(1, declare("slow", &[]));
    let (drops, rest) = frame.split_at(6);
    for byte in drops {
        slow.iter_mut().for_each(|peer| peer.send(&[*byte]));
        sleep(Duration::from_secs(1));
    }
    for peer in &mut slow {
        peer.send(rest);
        peer.expect(1, "queue.declare-ok");
    }
    // The same within a body. Then they fall silent, and are hung up on.
    let frames = message(1, "slow", 100, &[&[7; 100]]);
    for peer in &mut slow {
        peer.send(&frames[..2].concat());
        peer.send(&frames[2][..1]);
    }
    let (silent, watch) = (Instant::now(), Watch::start());
    sleep(Duration::from_millis(u64::from(HEARTBEAT_S) * 1500));
    let before = case.server.descriptors();
    // Unless the machine was late, so that they have been silent for longer already.
    if silent.elapsed() < Duration::from_secs(2 * u64::from(HEARTBEAT_S)) {
        assert!(before > slow.len(), "{before} descriptors: they live still");
    }
    for peer in slow {
        peer.expect_end();
    }
    let silent = silent.elapsed();
    let in_time = silent < Duration::from_secs(8);
    assert!(in_time || watch.disturbance().is_some(), "{silent:?}");
    let mut other = case.server.login();
    assert_eq!(other.count(1, "slow"), 0, "nothing half is queued");
    case.end(SMALL_MIB);
}

/// Lets this process, and the brokers it starts, have so many descriptors.
fn raise_descriptor_limit(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if enough(limit.current) {
        return;
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum.map(|maximum| maximum.max(needed)),
    };
    let hard = limit.maximum;
    setrlimit(Resource::Nofile, raised).unwrap_or_else(|error| {
        panic!("{needed} descriptors are needed, the hard limit is {hard:?} (ulimit -Hn): {error}")
    });
}

/// Whether the broker has not hung up.
fn is_waited_for(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.peek(&mut [0]) {
        Ok(said) => said > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Connections of which some wait for `connection.start-ok`, some for the last byte of the header,
/// some for the first.
fn connect_idly(server: &Server, count: usize) -> Vec<TcpStream> {
    let connect = |number| {
        let mut stream = TcpStream::connect(server.address).expect("the broker accepts");
        let sent = [&PROTOCOL_HEADER[..], &PROTOCOL_HEADER[..7], &[]][number % 3];
        std::io::Write::write_all(&mut stream, sent).unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

#[test]
fn ten_thousand_connections_that_never_finish_their_handshake() {
    const CONNECTIONS: usize = 10_000;
    raise_descriptor_limit(CONNECTIONS as u64 + 500);
    // None of them is cut off before all are there.
    let begin = Instant::now();
    drop(connect_idly(&Server::start(), CONNECTIONS / 20));
    let timeout = HANDSHAKE_TIMEOUT.max(begin.elapsed() * 20) * 2;
    let setting = format!("amqp.handshake_timeout_ms={}", timeout.as_millis());
    let case = Case::start_with(&[&setting]);
    let before = case.server.descriptors();
    let start = Instant::now();
    let idle = connect_idly(&case.server, CONNECTIONS);
    case.assert_serves();
    let (open, took) = (case.server.descriptors() - before, start.elapsed());
    println!("{open} are open at once, after {took:.1?}");
    assert!(open >= CONNECTIONS / 100 * 95, "{open} after {took:?}");
    let waited_for = idle.iter().filter(|stream| is_waited_for(stream)).count();
    let enough = waited_for >= CONNECTIONS / 100 * 95;
    assert!(enough, "{waited_for} after {:?}", start.elapsed());
    let deadline = Instant::now() + timeout + PATIENCE;
    while case.server.descriptors() > before + 50 {
        assert!(
            Instant::now() < deadline,
            "{} stay",
            case.server.descriptors()
        );
        sleep(Duration::from_millis(200));
    }
    drop(idle);
    // 12 KiB each.
    case.end(128);
}

/// A table with one array that takes a byte a value on the wire, and much more if it were decoded.
fn voids(values: usize) -> Vec<u8> {
    let mut table = Table::new();
    table.insert("a", vec![Value::Void; values]);
    table.encoded()
}

#[test]
fn argument_tables_cost_what_they_take_to_send() {
    let case = Case::start_with(&["limits.arguments_bytes_max=131072"]);
    let mut peer = case.server.login();
    peer.declare(1, "q");
    let arguments = voids(130_000);
    let arguments = RawTable::parse(&arguments).unwrap();
    for number in 0..40 {
        let name = format!("x{number}");
        let declare = ExchangeDeclare {
            exchange: name.as_bytes(),
            kind: b"direct",
            arguments,
            ..Default::default()
        };
        peer.method(1, declare);
        peer.expect(1, "exchange.declare-ok");
        peer.method(
            1,
            BasicConsume {
                queue: b"q",
                arguments,
                ..Default::default()
            },
        );
        peer.expect(1, "basic.consume-ok");
    }
    // 40 times 254 KiB.
    case.end(10 + SMALL_MIB);
}

#[test]
fn client_properties_are_not_kept_before_login() {
    const CONNECTIONS: usize = 500;
    // They count as wrong guesses, which would have all of this address take turns.
    let case = Case::start_with(&["limits.login_failures_per_minute=0"]);
    let properties = voids(8_000);
    let start_ok = ConnectionStartOk {
        mechanism: b"NOPE",
        ..start_ok(&properties)
    };
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut peer = case.server.connect();
        peer.send(&PROTOCOL_HEADER);
        peer.expect(0, "connection.start");
        peer.method(0, start_ok);
        peers.push(peer);
    }
    case.assert_serves();
    for peer in peers {
        assert!(peer.expect_end().is_empty(), "it is told nothing");
    }
    // 12 KiB each.
    case.end(8 + SMALL_MIB);
}

#[test]
fn announced_bodies_cost_nothing_until_they_arrive() {
    const CHANNELS: u16 = 2047;
    let case = Case::start();
    let mut peer = case.server.login();
    peer.declare(1, "q");
    for channel in 3..=CHANNELS {
        peer.method(channel, ChannelOpen {});
        peer.expect(channel, "channel.open-ok");
    }
    let address_space_before = case.server.memory("VmSize");
    for channel in 1..CHANNELS {
        let frames = message(channel, "q", 128 << 20, &[&[7; 1000]]);
        peer.send(&frames.concat());
    }
    // Once the last channel, which announces nothing, is answered, all of them have been read.
    assert_eq!(peer.count(CHANNELS, "q"), 0);
    let resident = case.server.memory("VmRSS");
    let grown = resident.saturating_sub(case.resident_before);
    // A kilobyte of each has arrived.
    assert!(grown < 32 * MIB, "{} MiB for announcements", grown / MIB);
    // What is set aside and never touched is only here: it would be 256 GiB.
    let address_space = case.server.memory("VmSize");
    let set_aside = address_space.saturating_sub(address_space_before);
    println!(
        "{} KiB resident, {} KiB set aside",
        grown >> 10,
        set_aside >> 10
    );
    assert!(set_aside < 1024 * MIB, "{} MiB set aside", set_aside / MIB);
    // What does arrive is bounded for all channels together.
    let part = raw_frame(3, 1, &[7; 130_000]);
    for channel in (1..CHANNELS).chain(1..CHANNELS) {
        let mut part = part.clone();
        part[1..3].copy_from_slice(&channel.to_be_bytes());
        peer.send_unwelcome(&part);
    }
    peer.expect_close(506, "partial messages exceed limits.assembly_bytes_max");
    case.end(256 + 64);
}

#[test]
fn headers_of_messages_that_are_never_completed_are_bounded() {
    const CHANNELS: u16 = 400;
    let case = Case::start_with(&[
        "amqp.max_message_size=1048576",
        "limits.assembly_bytes_max=16777216",
    ]);
    let mut peer = case.server.login();
    let mut headers = Table::new();
    headers.insert("long", &*vec![b'x'; 120_000]);
    // Class, weight, one byte of body to come, the flag of the headers.
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 0];
    headers.encode(&mut header);
    for channel in 3..=CHANNELS {
        peer.method(channel, ChannelOpen {});
        peer.expect(channel, "channel.open-ok");
    }
    for channel in 1..=CHANNELS {
        peer.send_unwelcome(&encode(channel, BasicPublish::default()));
        peer.send_unwelcome(&raw_frame(2, channel, &header));
    }
    peer.expect_close(506, "partial messages exceed limits.assembly_bytes_max");
    case.end(16 + SMALL_MIB);
}

#[test]
fn a_million_deliveries_without_prefetch_and_without_an_ack() {
    const MESSAGES: u32 = 1_000_100;
    let case = Case::start();
    fill(&mut case.server.login(), MESSAGES, 16);
    let mut hoarder = case.server.login();
    hoarder.method(1, consume(b"hoarder", false));
    hoarder.expect(1, "basic.consume-ok");
    let mut other = case.server.login();
    let received = hoarder.skip_deliveries(|_| other.count(1, "q") == MESSAGES - 1_000_000);
    assert!(received > 0);
    // All of it goes back at once, while others use the queue.
    hoarder.method(1, ChannelClose::default());
    let deadline = Instant::now() + LONG_PATIENCE;
    let watch = Watch::start();
    let (mut ready, mut longest) = (0, Duration::ZERO);
    while ready < MESSAGES {
        assert!(Instant::now() < deadline, "{ready} are back");
        let asked = Instant::now();
        ready = other.count(1, "q");
        longest = longest.max(asked.elapsed());
    }
    println!("another user of the queue waited {longest:?} at most");
    // It waits for what goes back at once, unlike the witness at another queue.
    let longest_max = match watch.disturbance() {
        None => Duration::from_secs(3),
        Some(_) => Duration::from_secs(20),
    };
    assert!(longest < longest_max, "{longest:?}");
    hoarder.expect(1, "channel.close-ok");
    // About 60 bytes each in the queue, 40 while it is out, 40 while it goes back.
    case.end(250);
}

/// Bytes that messages of all queues take, as the metrics tell.
fn queue_memory(server: &Server) -> u64 {
    let text = server.metrics().call("GET", "/metrics", "").text;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("rabbitmq_queue_memory_bytes "));
    line.and_then(|bytes| bytes.parse().ok())
        .expect("a number of bytes")
}

/// What the queues of those who are served meanwhile may hold, bytes.
const OTHERS_BYTES: u64 = 4096;

/// Empties `q`: no more is left than there was at first.
fn purge_to_nothing(server: &Server, client: &mut Client, at_first: u64) {
    let purge = QueuePurge {
        queue: b"q",
        nowait: false,
    };
    client.method(1, purge);
    client.expect(1, "queue.purge-ok");
    let is_back = eventually(|| queue_memory(server) <= at_first + OTHERS_BYTES);
    assert!(is_back, "{} bytes", queue_memory(server));
}

/// Starts a consumer of `q` and cancels it, at once or when deliveries are coming; tells how many
/// came. None comes after the answer.
fn consume_and_cancel(server: &Server, at_once: bool) -> u64 {
    let mut fickle = server.login();
    fickle.method(1, consume(b"fickle", false));
    let mut deliveries = 0;
    if !at_once {
        fickle.expect(1, "basic.consume-ok");
        fickle.expect(1, "basic.deliver");
        deliveries += 1;
    }
    let cancel = BasicCancel {
        consumer_tag: b"fickle",
        nowait: false,
    };
    fickle.method(1, cancel);
    loop {
        let next = fickle.next();
        if next.kind != FrameKind::Method {
            continue;
        }
        match next.method() {
            Method::BasicConsumeOk(_) => assert!(at_once && deliveries == 0),
            Method::BasicDeliver(_) => deliveries += 1,
            Method::BasicCancelOk(_) => break,
            other => panic!("{} instead of an answer", other.name()),
        }
    }
    // What was on its way still would be in front of this answer.
    fickle.count(1, "q");
    fickle.count(2, "q");
    deliveries
}

#[test]
fn consumers_that_cancel_while_deliveries_are_on_their_way_lose_nothing() {
    const MESSAGES: u32 = 20_000;
    let case = Case::start_http(&[]);
    let at_first = queue_memory(&case.server);
    let mut other = case.server.login();
    // 19 MiB each time.
    for _ in 0..6 {
        fill(&mut case.server.login(), MESSAGES, 1000);
        let deliveries: u64 = (0..10)
            .map(|number| consume_and_cancel(&case.server, number % 2 == 0))
            .sum();
        assert!(deliveries > 100, "{deliveries} were on their way");
        let all_back = eventually(|| other.count(1, "q") == MESSAGES);
        assert!(all_back, "{} back", other.count(1, "q"));
        purge_to_nothing(&case.server, &mut other, at_first);
    }
    // All that was ever published would be 114 MiB.
    case.end(48);
}

/// Purges, deletes and declares `q` until told to stop; tells how often.
fn purge_and_delete(racer: &mut Client, stop: &AtomicBool) -> u32 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let purge = QueuePurge {
            queue: b"q",
            nowait: false,
        };
        racer.method(1, purge);
        racer.expect(1, "queue.purge-ok");
        let delete = QueueDelete {
            queue: b"q",
            ..Default::default()
        };
        racer.method(1, delete);
        racer.expect(1, "queue.delete-ok");
        racer.declare(1, "q");
        rounds += 1;
    }
    rounds
}

#[test]
fn deletes_and_purges_race_publishes() {
    let case = Case::start_http(&[]);
    let at_first = queue_memory(&case.server);
    let mut racer = case.server.login();
    racer.declare(1, "q");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let racing = thread::spawn(move || (purge_and_delete(&mut racer, &stopped), racer));
    // Every publish is confirmed, whether its queue was there or not.
    for _ in 0..3 {
        fill(&mut case.server.login(), 20_000, 2500);
    }
    stop.store(true, Ordering::Relaxed);
    let (rounds, mut racer) = racing.join().expect("the racer is answered");
    assert!(rounds > 10, "{rounds} rounds");
    purge_to_nothing(&case.server, &mut racer, at_first);
    // All that was ever published would be 143 MiB.
    case.end(32);
}
