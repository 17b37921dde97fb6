//! The real binary over real sockets: what it does at its edges, and an orderly stop.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use leveret_codec::{
    BasicAck, BasicConsume, BasicGet, ChannelCloseOk, ChannelOpen, ConfirmSelect,
    ConnectionCloseOk, ConnectionStartOk, ConnectionUpdateSecret, Method, PROTOCOL_HEADER,
    QueueDeclare, QueueDelete, Table, TxCommit, TxSelect, Value,
};
use serde_json::json;
use support::machine::on_time;
use support::{
    Client, Server, close, declare, encode, eventually, leveret, message, run_to_end, start_ok,
};

#[test]
fn contents_of_two_channels_may_be_interleaved() {
    let server = Server::start();
    let mut peer = server.login();
    peer.declare(1, "one");
    peer.declare(2, "two");
    let one = message(1, "one", 6, &[b"un", b"de", b"ux"]);
    let two = message(2, "two", 9, &[b"ein", b"zwe", b"idr"]);
    for (first, second) in one.iter().zip(&two) {
        peer.send(&[first.as_slice(), second].concat());
    }
    assert_eq!(peer.get(1, "one"), b"undeux");
    assert_eq!(peer.get(2, "two"), b"einzweidr");
}

#[test]
fn another_channel_is_answered_while_a_publish_is_half_sent() {
    let server = Server::start();
    let mut peer = server.login();
    peer.declare(1, "half");
    let frames = message(1, "half", 4, &[b"ab", b"cd"]);
    for sent in 1..frames.len() {
        peer.send(&frames[..sent].concat());
        peer.declare(2, "other");
        peer.send(&frames[sent..].concat());
        assert_eq!(peer.get(1, "half"), b"abcd", "after {sent} frames");
    }
}

#[test]
fn bytes_may_arrive_one_at_a_time() {
    let server = Server::start();
    let mut peer = server.login();
    peer.declare(1, "drip");
    for byte in message(1, "drip", 4, &[b"ab", b"cd"]).concat() {
        peer.send(&[byte]);
    }
    assert_eq!(peer.get(1, "drip"), b"abcd");
}

/// Workers of the broker that the kernel lets interrupt nobody.
fn deferring(server: &Server) -> usize {
    const SCHED_BATCH: &str = "3";
    let tasks = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let stats = std::fs::read_dir(tasks)
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    // The second field is a name in brackets; the policy is the 41st.
    let policies = stats.map(|stat| {
        let (name, fields) = stat.rsplit_once(')').unwrap();
        name.contains("(tokio-") && fields.split_whitespace().nth(38) == Some(SCHED_BATCH)
    });
    policies.filter(|defers| *defers).count()
}

#[test]
fn a_worker_defers_to_a_client_that_sends_a_stream_and_not_to_one_that_waits() {
    let server = Server::start_with(&["runtime.worker_threads=1"]);
    let mut peer = server.login();
    peer.declare(1, "other");
    let one = message(1, "nowhere", 4, &[b"data"]).concat();
    let mut send = |bytes: &[u8]| {
        for _ in 0..100 {
            peer.send(bytes);
            peer.count(1, "other");
        }
    };
    send(&one);
    assert_eq!(deferring(&server), 0);
    let deferred = eventually(|| {
        send(&one.repeat(200));
        deferring(&server) == 1
    });
    assert!(deferred, "many messages in each read");
    let ended = eventually(|| {
        send(&one);
        deferring(&server) == 0
    });
    assert!(ended, "one message in each read");
}

/// What may bring deliveries waits for the answers before it, and all that was sent after it does.
#[test]
fn commands_that_were_sent_at_once_are_taken_in_order() {
    let server = Server::start();
    let mut peer = server.login();
    for round in 0..50 {
        let queue = format!("q{round}");
        let declare = QueueDeclare {
            durable: true,
            ..declare(&queue, &[])
        };
        let consume = BasicConsume {
            queue: queue.as_bytes(),
            no_ack: true,
            ..Default::default()
        };
        let mut bytes = encode(1, declare);
        bytes.extend(encode(1, consume));
        bytes.extend(message(1, &queue, 3, &[b"one"]).concat());
        let delete = QueueDelete {
            queue: queue.as_bytes(),
            ..Default::default()
        };
        bytes.extend(encode(1, delete));
        peer.send(&bytes);
        for name in ["queue.declare-ok", "basic.consume-ok", "basic.deliver"] {
            peer.expect(1, name);
        }
        peer.skip_until(1, "queue.delete-ok");
    }
}

#[test]
fn a_peer_that_vanishes_leaves_its_exclusive_queue_to_nobody() {
    let server = Server::start();
    let mut peer = server.login();
    let exclusive = QueueDeclare {
        exclusive: true,
        ..declare("mine", &[])
    };
    peer.method(1, exclusive);
    peer.expect(1, "queue.declare-ok");
    let mut other = server.login();
    other.method(1, declare("mine", &[]));
    other.expect(1, "channel.close");
    drop(peer);
    let free = eventually(|| {
        let mut other = server.login();
        other.method(1, declare("mine", &[]));
        other.next().method().name() == "queue.declare-ok"
    });
    assert!(free);
}

#[test]
fn sigterm_closes_connections_and_exits_with_0() {
    let mut server = Server::start();
    let mut peer = server.login();
    server.terminate();
    let close = peer.expect(0, "connection.close");
    let Method::ConnectionClose(close) = close.method() else {
        unreachable!("the name says so");
    };
    assert_eq!(close.reply_code, 320);
    assert!(close.reply_text.starts_with(b"CONNECTION_FORCED - "));
    peer.method(0, ConnectionCloseOk {});
    assert_eq!(peer.rest(), b"");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sigterm_does_not_wait_for_ever_for_those_who_do_not_answer() {
    on_time(|| {
        let mut server = Server::start();
        let _silent = server.login();
        let start = Instant::now();
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    });
}

#[test]
fn an_unknown_setting_exits_with_2() {
    let output = run_to_end(leveret().args(["--set", "amqp.heartbeats=1"]));
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("amqp.heartbeats"), "{error}");
    assert!(error.contains("did you mean"), "{error}");
}

const MEMORY_OF_1_MIB: &str = "limits.resident_bytes=1048576";
const ALL_IN_MEMORY: &str = "limits.queue_resident_bytes=0";
/// Publishes messages to `full` on channel 1 until one is refused; tells how many were taken.
fn fill_memory(peer: &mut Client, body: &[u8]) -> u32 {
    peer.declare(1, "full");
    peer.method(1, ConfirmSelect { nowait: false });
    peer.expect(1, "confirm.select-ok");
    let size = body.len() as u64;
    let parts: Vec<&[u8]> = body.chunks(100_000).collect();
    let frames = message(1, "full", size, &parts).concat();
    let mut stored = 0;
    while u64::from(stored) * size < 5 << 20 {
        peer.send(&frames);
        if peer.next().method().name() == "basic.nack" {
            let bytes = u64::from(stored) * size;
            assert!((550_000..=1_600_000).contains(&bytes), "{bytes} were taken");
            return stored;
        }
        stored += 1;
    }
    panic!("5 MiB do not fit into 1 MiB");
}

#[test]
fn publishes_are_refused_while_messages_fill_memory_and_taken_again_after() {
    let server = Server::start_with(&[MEMORY_OF_1_MIB, ALL_IN_MEMORY]);
    let mut peer = server.login();
    let body = vec![7; 256 * 1024];
    for _ in 0..fill_memory(&mut peer, &body) {
        assert_eq!(peer.get(1, "full"), body);
    }
    peer.send(&message(1, "full", 5, &[b"again"]).concat());
    peer.expect(1, "basic.ack");
}

/// So small that what was refused does not leave room for anything.
const SMALL: [u8; 1000] = [7; 1000];

/// Takes a message from `full` on channel 2 and acknowledges it.
fn take(peer: &mut Client, delivery_tag: u64) {
    let get = BasicGet {
        queue: b"full",
        no_ack: false,
    };
    peer.method(2, get);
    peer.expect(2, "basic.get-ok");
    peer.read_content(2);
    let ack = BasicAck {
        delivery_tag,
        multiple: false,
    };
    peer.method(2, ack);
}

#[test]
fn commits_of_publishes_are_refused_while_messages_fill_memory() {
    let server = Server::start_with(&[MEMORY_OF_1_MIB, ALL_IN_MEMORY]);
    let mut peer = server.login();
    let stored = fill_memory(&mut peer, &SMALL);
    peer.method(2, TxSelect {});
    peer.expect(2, "tx.select-ok");
    take(&mut peer, 1);
    peer.send(&message(2, "full", 2, &[b"no"]).concat());
    peer.method(2, TxCommit {});
    let close = peer.expect(2, "channel.close");
    let Method::ChannelClose(close) = close.method() else {
        unreachable!("the name says so");
    };
    let text = String::from_utf8_lossy(close.reply_text);
    assert_eq!(close.reply_code, 406, "{text}");
    let words = "nothing was published, the memory for messages is full";
    assert!(text.contains(words), "{text}");
    peer.method(2, ChannelCloseOk {});
    assert_eq!(peer.count(1, "full"), stored, "nor was anything settled");

    // What only settles makes room.
    peer.method(2, ChannelOpen {});
    peer.expect(2, "channel.open-ok");
    peer.method(2, TxSelect {});
    peer.expect(2, "tx.select-ok");
    for delivery_tag in 1..=u64::from(stored) {
        take(&mut peer, delivery_tag);
    }
    peer.method(2, TxCommit {});
    peer.expect(2, "tx.commit-ok");
    peer.send(&message(2, "full", 5, &[b"again"]).concat());
    peer.method(2, TxCommit {});
    peer.expect(2, "tx.commit-ok");
    assert_eq!(peer.get(1, "full"), b"again");
    assert_eq!(peer.count(1, "full"), 0);
}

#[test]
fn http_publishes_are_told_to_wait_while_messages_fill_memory() {
    let server = Server::start_http(&[MEMORY_OF_1_MIB, ALL_IN_MEMORY]);
    let guest = server.http_as("guest", "guest");
    let mut peer = server.login();
    let stored = fill_memory(&mut peer, &SMALL);
    let path = "/api/x/publish/%2F/amq.default";
    let to_full = format!("{path}?routing_key=full");
    let one = || guest.call_as("POST", &to_full, "x", "text/plain");
    let batch = json!([{"routing_key": "full", "payload": "x"}]).to_string();
    let many = guest.call_as("POST", path, &batch, "application/json");
    assert_eq!(many.json()["results"][0]["status"], 503, "{}", many.text);
    let publish = json!({
        "routing_key": "full", "payload": "x", "payload_encoding": "string", "properties": {}
    });
    let as_rabbitmq = "/api/exchanges/%2F/amq.default/publish";
    let as_rabbitmq = || guest.call("POST", as_rabbitmq, &publish.to_string());
    for answer in [one(), many] {
        let told = (answer.status, answer.header("retry-after"));
        assert_eq!(told, (503, Some("1")), "{}", answer.text);
    }
    let rejected = as_rabbitmq();
    assert_eq!(rejected.status, 400, "{}", rejected.text);
    assert_eq!(rejected.json()["reason"], "rejected");
    assert_eq!(peer.count(1, "full"), stored);
    for _ in 0..stored {
        peer.get(1, "full");
    }
    assert_eq!(one().status, 202);
    assert_eq!(as_rabbitmq().json()["routed"], true);
    assert_eq!(peer.count(1, "full"), 2);
}

#[test]
fn a_new_secret_is_taken_whatever_it_is_as_passwords_do_not_expire() {
    let server = Server::start();
    let mut peer = server.login();
    peer.method(
        0,
        ConnectionUpdateSecret {
            new_secret: b"guest",
            reason: b"",
        },
    );
    peer.expect(0, "connection.update-secret-ok");
    peer.method(
        0,
        ConnectionUpdateSecret {
            new_secret: b"stolen",
            reason: b"",
        },
    );
    peer.expect(0, "connection.update-secret-ok");
}

/// A client with several threads that all close the connection sends more than one close.
#[test]
fn close_ok_is_read_although_the_client_has_sent_more() {
    on_time(|| {
        let server = Server::start();
        let mut peer = server.login();
        let close = encode(0, close());
        peer.send(&close);
        peer.expect(0, "connection.close-ok");
        for _ in 0..20 {
            peer.send(&close);
            sleep(Duration::from_millis(5));
        }
        assert_eq!(peer.rest(), b"", "no reset");
    });
}

#[test]
fn a_client_that_erred_has_its_own_time_to_answer_the_close() {
    on_time(|| {
        let server = Server::start_with(&["amqp.handshake_timeout_ms=500"]);
        let mut peer = server.login();
        sleep(Duration::from_millis(600));
        peer.method(1, ChannelOpen {});
        peer.expect(0, "connection.close");
        assert!(
            peer.is_left_alone(Duration::from_secs(1)),
            "the handshake was long ago"
        );
        peer.method(0, ConnectionCloseOk {});
        assert_eq!(peer.rest(), b"");
    });
}

#[test]
fn a_client_that_does_not_answer_the_close_is_cut_off_though_it_reads_nothing() {
    let server = Server::start_http(&["amqp.close_timeout_ms=500"]);
    let mut deaf = server.login();
    deaf.send_until_stuck(&encode(1, declare("q", &[])).repeat(1000));
    let mut chatty = server.login();
    let admin = server.http_as("guest", "guest");
    let connections = || admin.get("/api/connections");
    for connection in connections().as_array().unwrap() {
        let name = connection["name"].as_str().unwrap();
        let path = name.replace(' ', "%20").replace('>', "%3E");
        admin.done("DELETE", &format!("/api/connections/{path}"), &json!({}));
    }
    // Neither silence nor an endless stream of anything but the answer keeps it.
    let ended = eventually(|| {
        chatty.send_unwelcome(&leveret_codec::HEARTBEAT);
        connections().as_array().is_some_and(Vec::is_empty)
    });
    assert!(ended, "{} stay", connections());
}

/// One that does one thing after the other: it reads nothing while it sends.
#[test]
fn a_client_may_send_while_a_large_delivery_is_on_its_way_to_it() {
    const BYTES: usize = 12 << 20;
    let server = Server::start();
    let mut feeder = server.login();
    feeder.declare(1, "work");
    feeder.declare(1, "results");
    let body = vec![7; BYTES];
    let parts: Vec<&[u8]> = body.chunks(100_000).collect();
    for _ in 0..2 {
        feeder.send(&message(1, "work", BYTES as u64, &parts).concat());
    }
    let mut worker = server.login();
    let consume = BasicConsume {
        queue: b"work",
        ..Default::default()
    };
    worker.method(1, consume);
    worker.expect(1, "basic.consume-ok");
    worker.expect(1, "basic.deliver");
    worker.read_content(1);
    worker.send(&message(1, "results", BYTES as u64, &parts).concat());
    worker.expect(1, "basic.deliver");
    assert_eq!(worker.read_content(1), body);
    assert_eq!(worker.get(1, "results"), body);
}

#[test]
fn heartbeats_are_heard_while_a_large_delivery_is_not_read() {
    on_time(|| {
        const BYTES: usize = 24 << 20;
        let server = Server::start();
        let mut peer = server.login_with_heartbeat(1);
        peer.declare(1, "q");
        let body = vec![7; BYTES];
        let parts: Vec<&[u8]> = body.chunks(100_000).collect();
        peer.send(&message(1, "q", BYTES as u64, &parts).concat());
        let consume = BasicConsume {
            queue: b"q",
            ..Default::default()
        };
        peer.method(1, consume);
        for _ in 0..15 {
            sleep(Duration::from_millis(300));
            peer.send(&leveret_codec::HEARTBEAT);
        }
        peer.expect(1, "basic.consume-ok");
        peer.expect(1, "basic.deliver");
        assert_eq!(peer.read_content(1), body);
    });
}

/// Go's client hangs up after one and a half intervals of silence.
#[test]
fn the_shortest_heartbeats_are_sent_in_time() {
    on_time(|| {
        let server = Server::start();
        let mut peer = server.login_with_heartbeat(1);
        let silence = peer.longest_silence(Duration::from_secs(3));
        assert!(silence < Duration::from_millis(1500), "{silence:?}");
    });
}

/// Client properties that ask for `connection.blocked`.
fn blocked_notify() -> Vec<u8> {
    let mut capabilities = Table::new();
    capabilities.insert("connection.blocked", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    properties.encoded()
}

#[test]
fn publishers_are_not_read_during_an_alarm_and_consumers_are() {
    for (setting, reason) in [
        ("limits.memory_high_watermark=0.00001", "low on memory"),
        ("limits.disk_free_min=\"1000000 GiB\"", "low on disk"),
    ] {
        let data_dir = concat!(env!("CARGO_TARGET_TMPDIR"), "/alarms");
        std::fs::create_dir_all(data_dir).unwrap();
        let server = Server::start_with(&[setting, &format!("data_dir=\"{data_dir}\"")]);
        let mut consumer = server.login();
        consumer.declare(1, "q");
        let mut publisher = server.login_with(&blocked_notify(), 0);
        // The alarm is measured when the broker starts, and once a second from then on.
        let blocked = publisher.publish_until_told("q");
        let Method::ConnectionBlocked(blocked) = blocked.method() else {
            panic!("{} instead", blocked.method().name());
        };
        assert_eq!(blocked.reason, reason.as_bytes());
        let taken = consumer.count(1, "q");
        publisher.send(&message(1, "q", 1, &[b"x"]).concat());
        sleep(Duration::from_millis(1500));
        assert_eq!(consumer.count(1, "q"), taken, "nothing more was read");
    }
}

/// A login with a wrong password.
fn wrong() -> ConnectionStartOk<'static> {
    ConnectionStartOk {
        response: b"\0guest\0guess",
        ..start_ok(&[])
    }
}

/// Guesses as a client that is told at once.
fn guess(server: &Server) {
    guess_and_be_told(server).expect_close(403, "ACCESS_REFUSED");
}

#[test]
fn who_knows_the_password_is_let_in_although_others_at_its_address_do_not() {
    on_time(|| {
        let server = Server::start_http(&["limits.login_failures_per_minute=15"]);
        for _ in 0..15 {
            guess(&server);
        }
        let (right, wrong) = (
            server.http_as("guest", "guest"),
            server.http_as("guest", "guess"),
        );
        assert_eq!(right.call("GET", "/api/whoami", "").status, 503);
        let start = Instant::now();
        for _ in 0..20 {
            server.login();
        }
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(30), "{waited:?}: not 4 s each");
        assert_eq!(right.call("GET", "/api/whoami", "").status, 200);
        assert_eq!(wrong.call("GET", "/api/whoami", "").status, 401);
        assert_eq!(wrong.call("GET", "/api/whoami", "").status, 503);
    });
}

#[test]
fn an_address_with_too_many_refused_logins_has_to_wait() {
    on_time(|| {
        let server = Server::start_with(&[
            "limits.login_failures_per_minute=2",
            "amqp.handshake_timeout_ms=1000",
        ]);
        for _ in 0..2 {
            guess(&server);
        }
        let mut peer = server.connect();
        peer.send(&PROTOCOL_HEADER);
        assert_eq!(peer.expect_end(), b"", "it is not even asked");
    });
}

fn guess_and_be_told(server: &Server) -> Client {
    let mut capabilities = Table::new();
    capabilities.insert("authentication_failure_close", Value::Bool(true));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    let properties = properties.encoded();
    let mut peer = server.connect();
    peer.send(&PROTOCOL_HEADER);
    peer.expect(0, "connection.start");
    let told = ConnectionStartOk {
        response: b"\0guest\0guess",
        ..start_ok(&properties)
    };
    peer.method(0, told);
    peer
}

/// The same, and hangs up without an answer to that.
fn guess_and_hang_up(server: &Server) {
    guess_and_be_told(server).expect(0, "connection.close");
}

#[test]
fn who_hangs_up_after_a_wrong_guess_has_spent_its_turn() {
    on_time(|| {
        let server = Server::start_with(&["limits.login_failures_per_minute=30"]);
        for _ in 0..30 {
            guess(&server);
        }
        let start = Instant::now();
        for _ in 0..3 {
            guess_and_hang_up(&server);
            sleep(Duration::from_millis(100));
        }
        let waited = start.elapsed();
        assert!(waited > Duration::from_secs(5), "{waited:?}: not 2 s each");
    });
}

#[test]
fn a_stop_does_not_wait_for_those_who_wait_for_their_turn() {
    on_time(|| {
        let mut server = Server::start_with(&[
            "limits.login_failures_per_minute=1",
            "amqp.handshake_timeout_ms=60000",
            "runtime.drain_timeout_ms=30000",
        ]);
        guess(&server);
        let mut waiting = server.connect();
        waiting.send(&PROTOCOL_HEADER);
        let start = Instant::now();
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    });
}

/// Who has given up leaves its turn to others: they are none too many for their turns.
#[test]
fn clients_that_are_gone_take_no_turns() {
    on_time(|| {
        let server = Server::start_with(&[
            "limits.login_failures_per_minute=6",
            "amqp.handshake_timeout_ms=60000",
        ]);
        for _ in 0..6 {
            guess(&server);
        }
        for _ in 0..30 {
            server.connect().send(&PROTOCOL_HEADER);
        }
        let start = Instant::now();
        server.login();
        let waited = start.elapsed();
        assert!(
            waited < Duration::from_secs(25),
            "{waited:?}: not 10 s for each"
        );
    });
}

/// Stops the broker; gives how many lines of its log have these words.
fn logged(mut server: Server, words: &str) -> usize {
    server.terminate();
    assert!(server.wait().success());
    let log = server.log();
    log.iter().filter(|line| line.contains(words)).count()
}

#[test]
fn connections_that_were_there_before_guess_no_more_than_others() {
    on_time(|| {
        for hashing in ["sha256", "argon2id"] {
            let server = Server::start_with(&[
                "limits.login_failures_per_minute=2",
                "amqp.handshake_timeout_ms=6000",
                &format!("default.password_hashing=\"{hashing}\""),
            ]);
            let mut asked: Vec<_> = (0..25).map(|_| server.connect()).collect();
            let mut silent: Vec<_> = (0..25).map(|_| server.connect()).collect();
            for peer in &mut asked {
                peer.send(&PROTOCOL_HEADER);
            }
            for peer in &mut asked {
                peer.expect(0, "connection.start");
            }
            for peer in &mut asked {
                peer.method(0, wrong());
            }
            for peer in &mut silent {
                peer.send(&PROTOCOL_HEADER);
                peer.method(0, wrong());
            }
            for peer in asked.into_iter().chain(silent) {
                peer.expect_end();
            }
            assert_eq!(logged(server, "login refused"), 2, "{hashing}");
        }
    });
}

/// Asks with a wrong password on a connection that is kept; gives the status.
fn ask_again(kept: &mut BufReader<TcpStream>) -> u16 {
    let request = "GET /api/whoami HTTP/1.1\r\nHost: leveret\r\n\
                   Authorization: Basic Z3Vlc3Q6Z3Vlc3M=\r\n\r\n";
    kept.get_mut().write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(&[String::new()]) {
        let mut line = String::new();
        assert!(kept.read_line(&mut line).unwrap() > 0, "hung up: {head:?}");
        head.push(line.trim_end().to_ascii_lowercase());
    }
    let length = head.iter().find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    kept.read_exact(&mut body).unwrap();
    head[0].split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_kept_http_connection_guesses_no_more_than_others() {
    let server = Server::start_http(&["limits.login_failures_per_minute=2"]);
    let mut kept = BufReader::new(TcpStream::connect(server.api()).unwrap());
    assert_eq!(
        [(); 3].map(|()| ask_again(&mut kept)),
        [401, 401, 503],
        "the next turn comes half a minute later"
    );
}

#[test]
fn http_requests_at_once_guess_no_more_than_others() {
    let server = Server::start_http(&[
        "limits.login_failures_per_minute=2",
        "default.password_hashing=\"argon2id\"",
    ]);
    let guess = || {
        let wrong = server.http_as("guest", "guess");
        wrong.call("GET", "/api/whoami", "").status
    };
    let mut statuses = scope(|scope| {
        let guesses = [(); 10].map(|()| scope.spawn(guess));
        guesses.map(|guess| guess.join().unwrap())
    });
    statuses.sort_unstable();
    assert_eq!(statuses[..2], [401; 2]);
    assert_eq!(statuses[2..], [503; 8]);
}

/// A line for the whole of it, and then none for a while, however many there are.
#[test]
fn refused_messages_are_told_of_now_and_then() {
    let server = Server::start();
    let mut client = server.login();
    let mut arguments = Table::new();
    arguments.insert("x-max-length", Value::I32(1));
    arguments.insert("x-overflow", "reject-publish");
    client.method(1, declare("full", &arguments.encoded()));
    client.expect(1, "queue.declare-ok");
    let refuse = |client: &mut Client| {
        client.send(&message(1, "full", 1, &[b"x"]).concat().repeat(100));
        client.declare(1, "behind");
    };
    let lines = || {
        let log = server.log();
        let told = |line: &&String| line.contains("messages refused") && line.contains("full");
        log.iter().filter(told).cloned().collect::<Vec<_>>()
    };
    refuse(&mut client);
    assert!(eventually(|| !lines().is_empty()));
    let line = &lines()[0];
    assert!(line.contains("WARN") && line.contains("length"), "{line}");
    for _ in 0..20 {
        refuse(&mut client);
        sleep(Duration::from_millis(100));
    }
    assert_eq!(lines().len(), 1, "{:?}", lines());
}

/// Once for each argument of a queue, however often that is declared.
#[test]
fn arguments_without_effect_are_told_of() {
    let server = Server::start();
    let mut client = server.login();
    let mut arguments = Table::new();
    arguments.insert("x-consumer-disconnected-timeout", Value::I32(1000));
    for _ in 0..3 {
        client.method(1, declare("lazy", &arguments.encoded()));
        client.expect(1, "queue.declare-ok");
    }
    let lines = || {
        let log = server.log();
        let told = |line: &&String| line.contains("an argument without effect");
        log.iter().filter(told).cloned().collect::<Vec<_>>()
    };
    assert!(eventually(|| !lines().is_empty()));
    client.method(1, declare("other", &arguments.encoded()));
    client.expect(1, "queue.declare-ok");
    assert!(eventually(|| lines().len() == 2));
    for (line, queue) in lines().iter().zip(["lazy", "other"]) {
        let told = line.contains("WARN") && line.contains("x-consumer-disconnected-timeout");
        assert!(told && line.contains(queue), "{line}");
    }
}
