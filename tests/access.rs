//! Users, permissions and policies of the real binary, changed over HTTP while clients are at work.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::time::{Duration, Instant};

use leveret_codec::{ConnectionOpen, ConnectionTuneOk, Method, PROTOCOL_HEADER};
use support::machine::on_time;
use support::{Client, Folder, Server, message, start_ok};

const HTTP: &str = r#"management.listen=["127.0.0.1:0"]"#;
const APP: &str = r#"{"password": "app", "tags": ""}"#;
/// What an administrator changes holds within this for whoever is connected.
const SOON: Duration = Duration::from_secs(1);

fn permit(server: &Server, write: &str) {
    let body = format!(r#"{{"configure": ".*", "write": "{write}", "read": ".*"}}"#);
    let status = server.http("PUT", "permissions/%2F/app", &body);
    assert!(status == 201 || status == 204, "{status}");
}

fn close_text(client: &mut Client, channel: u16) -> String {
    let told = client.next();
    assert_eq!(told.channel, channel);
    match told.method() {
        Method::ChannelClose(close) => String::from_utf8_lossy(close.reply_text).into_owned(),
        Method::ConnectionClose(close) => String::from_utf8_lossy(close.reply_text).into_owned(),
        other => panic!("{}", other.name()),
    }
}

#[test]
fn a_change_of_permissions_holds_for_open_connections_within_a_second() {
    on_time(|| {
        let server = Server::start_with(&[HTTP]);
        assert_eq!(server.http("PUT", "users/app", APP), 201);
        permit(&server, ".*");
        let mut client = server.login_as("app");
        client.declare(1, "q");
        client.send(&message(1, "q", 2, &[b"hi"]).concat());
        while client.count(2, "q") < 1 {}
        permit(&server, "^$");
        let changed = Instant::now();
        client.send(&message(1, "q", 2, &[b"hi"]).concat());
        assert_eq!(
            close_text(&mut client, 1),
            "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user \
         'app'"
        );
        assert!(changed.elapsed() < SOON);
        assert_eq!(client.count(2, "q"), 1);
        assert_eq!(server.http("DELETE", "users/app", ""), 204);
        assert_eq!(
            close_text(&mut client, 0),
            "CONNECTION_FORCED - user 'app' is deleted"
        );
        assert!(changed.elapsed() < SOON);
    });
}

#[test]
fn users_and_permissions_survive_a_crash_and_the_first_user_is_made_once() {
    let folder = Folder::new();
    let server = Server::start_in(&folder, &[HTTP]);
    assert_eq!(server.http("PUT", "users/app", APP), 201);
    permit(&server, ".*");
    server.kill();
    let settings = ["default.user=late", "default.password=late"];
    let server = Server::start_in(&folder, &settings);
    let mut client = server.login_as("app");
    client.declare(1, "q");
    let mut late = server.connect();
    late.send(&PROTOCOL_HEADER);
    late.expect(0, "connection.start");
    let response = b"\0late\0late";
    late.method(
        0,
        leveret_codec::ConnectionStartOk {
            response,
            ..start_ok(&[])
        },
    );
    // No capability was claimed, so the refusal is silence and the end.
    late.expect_end();
}

#[test]
fn a_user_with_a_slow_hash_logs_in_and_enters_only_where_it_may() {
    let server = Server::start_with(&[HTTP, "default.password_hashing=argon2id"]);
    assert_eq!(server.http("PUT", "users/app", APP), 201);
    let mut client = server.connect();
    client.send(&PROTOCOL_HEADER);
    client.expect(0, "connection.start");
    let response = b"\0app\0app";
    client.method(
        0,
        leveret_codec::ConnectionStartOk {
            response,
            ..start_ok(&[])
        },
    );
    client.expect(0, "connection.tune");
    let tune_ok = ConnectionTuneOk {
        channel_max: 100,
        frame_max: support::FRAME_MAX,
        heartbeat: 0,
    };
    client.method(0, tune_ok);
    client.method(0, ConnectionOpen { virtual_host: b"/" });
    client.expect_close(530, "access to vhost '/' refused for user 'app'");
    permit(&server, ".*");
    server.login_as("app").declare(1, "q");
}

#[test]
fn a_policy_set_over_http_trims_a_queue_that_is_there() {
    let server = Server::start_with(&[HTTP]);
    let mut client = server.login();
    client.declare(1, "q");
    for _ in 0..10 {
        client.send(&message(1, "q", 2, &[b"hi"]).concat());
    }
    while client.count(2, "q") < 10 {}
    let policy = r#"{"pattern": "^q$", "apply-to": "queues", "definition": {"max-length": 3}}"#;
    assert_eq!(server.http("PUT", "policies/%2F/short", policy), 201);
    assert_eq!(client.count(2, "q"), 3);
    let wrong = r#"{"pattern": "^q$", "definition": {"max-lengthh": 3}}"#;
    assert_eq!(server.http("PUT", "policies/%2F/wrong", wrong), 400);
}
