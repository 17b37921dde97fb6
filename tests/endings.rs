//! Every connection ends with exactly one line of the log that says who it was and why.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::thread;
use std::time::{Duration, Instant};

use leveret_codec::{
    ConnectionClose, ConnectionStartOk, ExchangeDelete, PROTOCOL_HEADER, Table, Value,
};
use serde_json::Value as Json;
use support::machine::on_time;
use support::{Client, PATIENCE, Server, close, raw_frame, start_ok};

/// Lines about connections, the last `count` of them, once there are so many.
fn lines(server: &Server, count: usize) -> Vec<Json> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = server.log().into_iter();
        let lines = log.filter_map(|line| serde_json::from_str::<Json>(&line).ok());
        let lines: Vec<_> = lines
            .filter(|line| line["target"] == "leveret::endings")
            .collect();
        if lines.len() >= count {
            assert_eq!(lines.len(), count, "{lines:#?}");
            return lines;
        }
        assert!(Instant::now() < deadline, "{:#?}", server.log());
        thread::sleep(Duration::from_millis(20));
    }
}

fn named(server: &Server) -> Client {
    let mut properties = Table::new();
    properties.insert(
        "connection_name",
        Value::LongString(b"shop \"7\"\n".to_vec()),
    );
    server.login_with(&properties.encoded(), 0)
}

fn assert_line(line: &Json, level: &str, message: &str, code: Json, text: Json) {
    assert_eq!(line["level"], level, "{line}");
    assert_eq!(line["message"], message, "{line}");
    assert_eq!((&line["code"], &line["text"]), (&code, &text), "{line}");
    let connection = line["connection"].as_str().unwrap();
    assert!(connection.starts_with("127.0.0.1:"), "{line}");
}

#[test]
fn a_close_of_either_side_is_told_with_code_and_text_and_by_whom() {
    let server = Server::start();
    let mut client = named(&server);
    client.method(0, close());
    client.expect(0, "connection.close-ok");
    drop(client);
    let all = lines(&server, 1);
    assert_line(
        &all[0],
        "INFO",
        "connection closed by the client",
        200.into(),
        "bye".into(),
    );
    assert_eq!(all[0]["client"], "shop \"7\"\n");
    assert_eq!(
        (&all[0]["user"], &all[0]["vhost"]),
        (&"guest".into(), &"/".into())
    );

    let mut client = named(&server);
    let failed = ConnectionClose {
        reply_code: 541,
        reply_text: b"out of paper",
        ..close()
    };
    client.method(0, failed);
    client.expect(0, "connection.close-ok");
    drop(client);
    let all = lines(&server, 2);
    let text = "out of paper".into();
    assert_line(
        &all[1],
        "WARN",
        "connection closed by the client",
        541.into(),
        text,
    );

    let mut client = named(&server);
    client.method(9, ExchangeDelete::default());
    client.expect_close(504, "CHANNEL_ERROR");
    let all = lines(&server, 3);
    let text = "CHANNEL_ERROR - expected 'channel.open'".into();
    assert_line(
        &all[2],
        "WARN",
        "connection closed by the broker",
        504.into(),
        text,
    );
}

#[test]
fn those_who_just_hang_up_are_told_apart() {
    let server = Server::start();
    drop(server.connect());
    let all = lines(&server, 1);
    let message = "client hung up before it sent anything";
    assert_line(&all[0], "INFO", message, Json::Null, Json::Null);
    drop(named(&server));
    let all = lines(&server, 2);
    let message = "client hung up without closing the connection";
    assert_line(&all[1], "WARN", message, Json::Null, Json::Null);
    assert_eq!(all[1]["user"], "guest");
}

#[test]
fn strangers_are_named() {
    let server = Server::start();
    let greetings: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP on the AMQP port"),
        (
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            "TLS on the AMQP port",
        ),
        (b"AMQP\0\x01\0\0", "AMQP 1.0 on the AMQP port"),
        (b"AMQP\x03\x01\0\0", "AMQP 1.0 on the AMQP port"),
        (
            b"AMQP\x01\x01\0\x0a",
            "another version of AMQP on the AMQP port",
        ),
        (b"SSH-2.0-OpenSSH", "an unknown protocol on the AMQP port"),
    ];
    for (number, (greeting, message)) in greetings.into_iter().enumerate() {
        let mut client = server.connect();
        client.send_unwelcome(greeting);
        client.expect_end();
        let all = lines(&server, number + 1);
        assert_line(&all[number], "WARN", message, Json::Null, Json::Null);
    }
}

#[test]
fn who_comes_too_late_gets_one_line_too() {
    on_time(|| {
        let server = Server::start_with(&["amqp.handshake_timeout_ms=300"]);
        let mut late = server.connect();
        late.send(&PROTOCOL_HEADER);
        late.expect(0, "connection.start");
        late.expect_end();
        let all = lines(&server, 1);
        let message = "connection ended: handshake timeout";
        assert_line(&all[0], "WARN", message, Json::Null, Json::Null);
    });
}

#[test]
fn who_is_wrong_or_is_sent_away_gets_one_line_too() {
    let mut server = Server::start();
    let mut wrong = server.connect();
    wrong.send(&PROTOCOL_HEADER);
    wrong.expect(0, "connection.start");
    let response = b"\0guest\0guess";
    wrong.method(
        0,
        ConnectionStartOk {
            response,
            ..start_ok(&[])
        },
    );
    let all = lines(&server, 1);
    assert_eq!(all[0]["message"], "login refused");
    assert_eq!(
        (&all[0]["user"], &all[0]["code"]),
        (&"guest".into(), &403.into())
    );
    assert_eq!(all[0]["reason"], "unknown user or wrong password");
    wrong.expect_end();

    let mut unknown = server.connect();
    unknown.send(&PROTOCOL_HEADER);
    unknown.expect(0, "connection.start");
    unknown.send(&raw_frame(1, 0, &[0, 77, 0, 7]));
    unknown.expect_end();
    let all = lines(&server, 2);
    assert_eq!(
        (&all[1]["level"], &all[1]["code"]),
        (&"WARN".into(), &503.into())
    );

    let stopped = named(&server);
    server.terminate();
    stopped.expect_close(320, "CONNECTION_FORCED");
    server.wait();
    let all = lines(&server, 3);
    assert_eq!(
        (&all[2]["level"], &all[2]["code"]),
        (&"INFO".into(), &320.into())
    );
    assert_eq!(all[2]["message"], "connection closed by the broker");
}

#[test]
fn silence_for_two_heartbeats_is_named() {
    on_time(|| {
        let server = Server::start();
        let mut client = server.login_with_heartbeat(1);
        let start = Instant::now();
        client.expect_silent_end();
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(8), "{waited:?}");
        let all = lines(&server, 1);
        let message = "missed heartbeats from the client";
        assert_line(&all[0], "WARN", message, Json::Null, Json::Null);
    });
}

#[test]
fn one_peer_gets_so_many_lines_and_the_rest_is_summed_up() {
    let mut server = Server::start_with(&["log.connections_per_minute=3"]);
    for _ in 0..10 {
        let mut client = server.connect();
        client.send_unwelcome(b"GET / HTTP/1.1\r\n\r\n");
        client.expect_end();
    }
    server.terminate();
    server.wait();
    let all = lines(&server, 4);
    assert_eq!(
        all[3]["message"],
        "more connections of this peer have ended"
    );
    assert_eq!(all[3]["peer"], "127.0.0.1");
    assert_eq!(
        (&all[3]["connections"], &all[3]["warnings"]),
        (&7.into(), &7.into())
    );
}
