//! Bodies of requests: how large one may be, what is said when there is no room for it, and how
//! long one may be under way.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PATIENCE, Server, eventually};
use crate::user;

const PUBLISH: &str = "/api/exchanges/%2F/amq.default/publish";
const MESSAGE: &str =
    r#"{"properties":{},"routing_key":"q","payload":"x","payload_encoding":"string"}"#;

/// So many bytes of JSON: blanks at its end mean nothing.
fn padded(json: &str, bytes: usize) -> String {
    json.to_owned() + &" ".repeat(bytes - json.len())
}

#[test]
fn the_largest_body_of_each_kind_is_read_and_a_byte_more_is_not() {
    let server = Server::start_http(&[
        "limits.arguments_bytes_max=8192",
        "amqp.max_message_size=30000",
        "management.definitions_bytes_max=100000",
    ]);
    let guest = server.http_as("guest", "guest");
    for (method, path, json, most) in [
        ("PUT", "/api/queues/%2F/q", "{}", 64 * 1024 + 8192),
        // In base64, with what is around it.
        ("POST", PUBLISH, MESSAGE, 40_000 + 64 * 1024),
        ("POST", "/api/definitions", "{}", 100_000),
    ] {
        let largest = guest.call(method, path, &padded(json, most));
        assert!(largest.status < 300, "{path}: {}", largest.text);
        let larger = guest.call(method, path, &padded(json, most + 1));
        assert_eq!(larger.status, 413, "{path}: {}", larger.text);
    }
}

/// A publish of half a megabyte, of which so many bytes have come.
fn begin(server: &Server, credentials: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(server.api()).expect("it listens");
    let head = format!(
        "POST {PUBLISH} HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\
         authorization: Basic {credentials}\r\n\r\n",
    );
    stream.write_all(head.as_bytes()).expect("a head");
    // It may be refused before all of that has come.
    let _ = stream.write_all(&vec![b' '; bytes]);
    stream
}

#[test]
fn a_body_that_finds_no_room_is_told_when_to_come_again() {
    let server = Server::start_http(&["management.bodies_bytes_max=1048576"]);
    let guest = server.http_as("guest", "guest");
    for name in ["one", "two"] {
        user(&guest, name, "administrator");
    }
    let begin = |credentials| begin(&server, credentials, 490_000);
    let mut held =
        ["b25lOm9uZQ==", "dHdvOnR3bw=="].map(|credentials| (credentials, begin(credentials)));
    let publish = || guest.call("POST", PUBLISH, &padded(MESSAGE, 100_000));
    let mut refused = publish();
    assert!(eventually(|| {
        for (credentials, stream) in &mut held {
            // A body that says nothing for seconds is given up, and passwords may take as long.
            // One that came while a publish was under way has found no room itself.
            if stream.write_all(b" ").is_err() {
                *stream = begin(credentials);
            }
        }
        refused = publish();
        // Had one of them been refused with it, there would be room for the next.
        refused.status == 503 && publish().status == 503
    }));
    assert_eq!(refused.header("retry-after"), Some("1"), "{}", refused.text);
    assert_eq!(guest.call("GET", "/api/whoami", "").status, 200);
    drop(held);
    assert!(eventually(|| publish().status == 200));
}

#[test]
fn the_head_of_a_request_has_seconds_to_come() {
    let server = Server::start_http(&[]);
    let begun = Instant::now();
    let begin = |address| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let half = b"GET /livez HTTP/1.1\r\nhost:";
        stream.write_all(half).expect("half a head");
        stream
    };
    for mut stream in [server.api(), server.metrics_address()].map(begin) {
        let _ = stream.read_to_end(&mut Vec::new());
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(5), "{took:?}");
        assert!(took < Duration::from_secs(25), "{took:?}");
    }
}

/// Definitions of so many queues, named by a letter and a number.
fn queues(count: usize, letter: char) -> String {
    let one = |number| json!({"vhost": "/", "name": format!("{letter}-{number}")});
    let queues: Vec<_> = (0..count).map(one).collect();
    json!({ "queues": queues }).to_string()
}

#[test]
fn definitions_wait_for_those_that_are_imported_and_not_for_a_body() {
    const MANY: usize = 10_000;
    let server = Server::start_http(&[]);
    let guest = server.http_as("guest", "guest");
    // One whose body does not come holds up nobody.
    let mut unfinished = TcpStream::connect(server.api()).expect("it listens");
    let head = "POST /api/definitions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\
                authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\r\n{";
    unfinished.write_all(head.as_bytes()).expect("a head");
    let import = |file: &str| guest.call("POST", "/api/definitions", file).status;
    assert_eq!(import(&queues(1, 'a')), 204);
    unfinished.set_nonblocking(true).expect("a socket");
    let answer = unfinished.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(answer, Err(ErrorKind::WouldBlock), "it still waits");

    let exists = |queue: &str| {
        let path = format!("/api/queues/%2F/{queue}");
        guest.call("GET", &path, "").status == 200
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| import(&queues(MANY, 'b')));
        assert!(eventually(|| exists("b-0")));
        assert_eq!(import(&queues(1, 'c')), 204);
        assert!(exists(&format!("b-{}", MANY - 1)), "two at a time");
        assert_eq!(first.join().expect("it is answered"), 204);
    });
}
