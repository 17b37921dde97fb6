//! Logins as RabbitMQ has them: who is told what, and when.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::thread;
use std::time::{Duration, Instant};

use leveret_codec::{ConnectionStartOk, Method, PROTOCOL_HEADER, Table, Value};
use support::machine::on_time;
use support::{Client, Server, raw_frame, start_ok};

/// How long RabbitMQ lets those wait whom it tells nothing.
const SILENCE: Duration = Duration::from_secs(3);

/// Client properties with the capability to be told, and a name.
fn properties(told: bool) -> Vec<u8> {
    let mut capabilities = Table::new();
    capabilities.insert("authentication_failure_close", Value::Bool(told));
    let mut properties = Table::new();
    properties.insert("capabilities", Value::Table(capabilities));
    properties.insert("connection_name", Value::LongString(b"shop-7".to_vec()));
    properties.encoded()
}

/// Sends `start-ok` with these.
fn ask(server: &Server, told: bool, mechanism: &[u8], response: &[u8]) -> Client {
    let properties = properties(told);
    let mut client = server.connect();
    client.send(&PROTOCOL_HEADER);
    client.expect(0, "connection.start");
    client.method(
        0,
        ConnectionStartOk {
            mechanism,
            response,
            ..start_ok(&properties)
        },
    );
    client
}

/// How long it takes until the broker, which says nothing, hangs up; from before it was asked on.
fn silence(ask: impl FnOnce() -> Client) -> Duration {
    let start = Instant::now();
    let said = ask().expect_end();
    assert!(said.is_empty(), "{said:?}");
    start.elapsed()
}

fn mechanisms(server: &Server) -> String {
    let mut client = server.connect();
    client.send(&PROTOCOL_HEADER);
    let start = client.expect(0, "connection.start");
    match start.method() {
        Method::ConnectionStart(start) => String::from_utf8_lossy(start.mechanisms).into_owned(),
        _ => unreachable!("the name says so"),
    }
}

#[test]
fn whoever_can_be_told_is_told_at_once_that_the_password_is_wrong() {
    on_time(|| {
        let server = Server::start();
        for (mechanism, response) in [
            ("PLAIN", &b"\0guest\0guess"[..]),
            ("PLAIN", b"\0nobody\0guest"),
            ("PLAIN", b"\0guest\0"),
            (
                "AMQPLAIN",
                b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x01x",
            ),
        ] {
            let start = Instant::now();
            let mut client = ask(&server, true, mechanism.as_bytes(), response);
            let close = client.expect(0, "connection.close");
            assert!(
                start.elapsed() < Duration::from_millis(500),
                "{:?}",
                start.elapsed()
            );
            let Method::ConnectionClose(close) = close.method() else {
                unreachable!("the name says so");
            };
            assert_eq!(
                (close.reply_code, close.class_id, close.method_id),
                (403, 0, 0)
            );
            assert_eq!(
                String::from_utf8_lossy(close.reply_text),
                format!(
                    "ACCESS_REFUSED - Login was refused using authentication mechanism \
                     {mechanism}. For details see the broker logfile."
                )
            );
        }
    });
}

/// Every case was put to RabbitMQ 4.3.6.
#[test]
fn everybody_else_gets_silence_and_then_the_end() {
    on_time(|| {
        let server = Server::start();
        let cases: [(bool, &[u8], &[u8]); 8] = [
            (false, b"PLAIN", b"\0guest\0guess"),
            (false, b"PLAIN", b""),
            (true, b"PLAIN", b""),
            (true, b"PLAIN", b"guest"),
            (true, b"PLAIN", b"guest\0guest\0guest"),
            (true, b"PLAIN", b"\0guest\0guest\0"),
            (true, b"AMQPLAIN", b"\x01XS\0\0\0\x01y"),
            (true, b"SCRAM-SHA-256", b"n,,n=guest"),
        ];
        thread::scope(|scope| {
            for (told, mechanism, response) in cases {
                let server = &server;
                scope.spawn(move || {
                    let waited = silence(|| ask(server, told, mechanism, response));
                    let name = String::from_utf8_lossy(response);
                    let bounds = SILENCE..SILENCE * 2;
                    assert!(bounds.contains(&waited), "{told} {name:?}: {waited:?}");
                });
            }
            scope.spawn(|| {
                let wrong = || {
                    let mut client = server.connect();
                    client.send(&PROTOCOL_HEADER);
                    client.expect(0, "connection.start");
                    client.send(&raw_frame(1, 0, &[0, 77, 0, 7]));
                    client
                };
                assert!(silence(wrong) >= SILENCE, "a wrong method");
            });
        });
    });
}

#[test]
fn a_client_that_does_not_answer_its_refusal_is_cut_off_soon() {
    on_time(|| {
        let server = Server::start();
        let mut client = ask(&server, true, b"PLAIN", b"\0guest\0guess");
        client.expect(0, "connection.close");
        let waited = silence(|| client);
        assert!(
            waited < SILENCE * 2,
            "{waited:?}: not amqp.close_timeout_ms"
        );
    });
}

#[test]
fn a_stop_does_not_wait_for_those_who_are_told_nothing() {
    on_time(|| {
        let mut server = Server::start();
        let clients: Vec<_> = (0..5).map(|_| ask(&server, false, b"PLAIN", b"")).collect();
        thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
        assert!(start.elapsed() < SILENCE, "{:?}", start.elapsed());
        drop(clients);
    });
}

#[test]
fn a_delay_can_still_be_set() {
    let server = Server::start_with(&["amqp.login_failure_delay_ms=700"]);
    let start = Instant::now();
    ask(&server, true, b"PLAIN", b"\0guest\0guess").expect(0, "connection.close");
    assert!(start.elapsed() >= Duration::from_millis(700));
}

#[test]
fn nobody_is_let_in_without_a_name_unless_it_is_set_as_whom() {
    let server = Server::start();
    assert_eq!(mechanisms(&server), "PLAIN AMQPLAIN");
    let waited = silence(|| ask(&server, true, b"ANONYMOUS", b""));
    assert!(waited >= SILENCE, "{waited:?}");

    let server = Server::start_http(&["auth.anonymous_user=guest"]);
    assert_eq!(mechanisms(&server), "PLAIN AMQPLAIN ANONYMOUS");
    for response in [&b""[..], b"anything"] {
        ask(&server, true, b"ANONYMOUS", response).expect(0, "connection.tune");
    }
    let guest = server.http_as("guest", "guest");
    let offered = guest.get("/api/nodes")[0]["auth_mechanisms"].to_string();
    assert!(offered.contains("ANONYMOUS"), "{offered}");
    let log = server.log().join("\n");
    assert!(log.contains("without a password"), "{log}");
    guest.done(
        "PUT",
        "/api/users/admin",
        &serde_json::json!({
            "password": "admin", "tags": "administrator",
        }),
    );
    assert_eq!(
        server
            .http_as("admin", "admin")
            .call("DELETE", "/api/users/guest", "")
            .status,
        204
    );
    ask(&server, true, b"ANONYMOUS", b"").expect_close(403, "mechanism ANONYMOUS");
}

/// How long wrong logins take over AMQP and over HTTP, in the middle.
fn refused_in(server: &Server, user: &str) -> [Duration; 2] {
    let response = format!("\0{user}\0wrong");
    let amqp = || {
        ask(server, true, b"PLAIN", response.as_bytes()).expect(0, "connection.close");
    };
    let http = || {
        let answer = server.http_as(user, "wrong").call("GET", "/api/whoami", "");
        assert_eq!(answer.status, 401);
    };
    [time(amqp), time(http)]
}

fn time(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Nobody finds out which users there are.
#[test]
fn a_wrong_login_takes_as_long_whether_there_is_such_a_user_or_not() {
    const LOGINS: usize = 41;
    let server = Server::start_http(&["limits.login_failures_per_minute=0"]);
    on_time(|| {
        // In turns, so that what else the machine does strikes both alike.
        let mut took = [const { Vec::new() }; 4];
        for _ in 0..LOGINS {
            let both = ["guest", "nobody"].map(|user| refused_in(&server, user));
            for (all, one) in took.iter_mut().zip(both.concat()) {
                all.push(one);
            }
        }
        let [amqp, http, amqp_unknown, http_unknown] = took.map(|mut all| {
            all.sort_unstable();
            all[LOGINS / 2]
        });
        for (known, unknown) in [(amqp, amqp_unknown), (http, http_unknown)] {
            let ratio = known.as_secs_f64() / unknown.as_secs_f64();
            assert!((0.67..1.5).contains(&ratio), "{known:?}, {unknown:?}");
        }
    });
}
