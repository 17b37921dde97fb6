//! A broker behind sockets: our binary, or a RabbitMQ that runs already.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use leveret_codec::{
    ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method, PROTOCOL_HEADER, RawTable,
};
use serde_json::{Value as Json, json};

use crate::player::{Wire, World};
use crate::script::{PolicyChange, Target};
use crate::support::http::Http;
use crate::value::{Value, table};

/// How long one look for bytes takes.
const LOOK: Duration = Duration::from_millis(5);

/// A virtual host, removed when dropped, as is the user of the same name.
pub(crate) struct Socket {
    target: Target,
    amqp: SocketAddr,
    http: Http,
    vhost: String,
    begin: Instant,
}

impl Socket {
    pub(crate) fn new(target: Target, amqp: SocketAddr, http: SocketAddr, vhost: &str) -> Self {
        let http = Http::new(http, "guest", "guest");
        http.done("PUT", &format!("/api/vhosts/{vhost}"), &json!({}));
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        http.done("PUT", &format!("/api/permissions/{vhost}/guest"), &all);
        Self {
            target,
            amqp,
            http,
            vhost: vhost.to_owned(),
            begin: Instant::now(),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Transcripts with users of their own give them the name of the virtual host.
        for kind in ["vhosts", "users"] {
            let path = format!("/api/{kind}/{}", self.vhost);
            self.http.call("DELETE", &path, "");
        }
    }
}

impl World for Socket {
    fn target(&self) -> Target {
        self.target
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).expect("not that long")
    }

    fn wait(&self, ms: u64) {
        thread::sleep(Duration::from_millis(ms));
    }

    fn patience_ms(&self) -> u64 {
        match self.target {
            Target::Leveret => 3_000,
            Target::RabbitMq => 8_000,
        }
    }

    fn connect(&self, user: &str, password: &str) -> Box<dyn Wire> {
        let stream = TcpStream::connect(self.amqp).expect("the broker accepts");
        stream.set_nodelay(true).expect("a socket");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket");
        let mut wire = Stream(stream);
        wire.send(&PROTOCOL_HEADER);
        wire.next_frame();
        let response = format!("\0{user}\0{password}");
        let properties = client_properties();
        let start_ok = ConnectionStartOk {
            client_properties: RawTable::parse(&properties[4..]).expect("a table"),
            mechanism: b"PLAIN",
            response: response.as_bytes(),
            locale: b"en_US",
        };
        wire.say(start_ok);
        wire.next_frame();
        let tune_ok = ConnectionTuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
        };
        wire.say(tune_ok);
        wire.say(ConnectionOpen {
            virtual_host: self.vhost.as_bytes(),
        });
        let answer = wire.next_frame();
        assert_eq!(answer[7..11], [0, 10, 0, 41], "{}", answer.escape_ascii());
        wire.0.set_read_timeout(Some(LOOK)).expect("a socket");
        Box::new(wire)
    }

    fn set_policy(&self, change: &PolicyChange) {
        let operator = if change.operator { "operator-" } else { "" };
        let path = format!("/api/{operator}policies/{}/{}", self.vhost, change.name);
        match &change.definition {
            None => self.http.done("DELETE", &path, &json!({})),
            Some(definition) => {
                let policy = json!({
                    "pattern": change.pattern,
                    "apply-to": change.apply_to,
                    "priority": change.priority,
                    "definition": definition,
                });
                let kind = "application/json";
                let answer = self.http.call_as("PUT", &path, &policy.to_string(), kind);
                assert!(
                    answer.status < 300,
                    "{path}: {} {}",
                    answer.status,
                    answer.text
                );
            }
        }
        if self.target == Target::RabbitMq {
            // Its queues learn of it after the answer.
            self.wait(200);
        }
    }

    fn http(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        let path = format!("/api/{path}");
        let answer = self.http.call_as(method, &path, body, "application/json");
        (answer.status, answer.json())
    }

    fn vhost(&self) -> String {
        self.vhost.clone()
    }
}

/// An encoded table, its length in front.
fn client_properties() -> Vec<u8> {
    let can = [
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
        "publisher_confirms",
    ];
    let can = can.map(|name| (name.to_owned(), Value::Bool(true)));
    let mut properties = Vec::new();
    let capabilities = ("capabilities".to_owned(), Value::Table(can.to_vec()));
    table(&[capabilities], &mut properties);
    properties
}

struct Stream(TcpStream);

impl Stream {
    fn say<'a>(&mut self, method: impl Into<Method<'a>>) {
        let mut bytes = Vec::new();
        method.into().encode(0, &mut bytes);
        self.send(&bytes);
    }

    fn next_frame(&mut self) -> Vec<u8> {
        let mut frame = vec![0; 7];
        self.0.read_exact(&mut frame).expect("a frame in time");
        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
        frame.resize(8 + size as usize, 0);
        self.0.read_exact(&mut frame[7..]).expect("a whole frame");
        frame
    }
}

impl Wire for Stream {
    fn send(&mut self, bytes: &[u8]) {
        // Whoever has closed the connection is heard, and need not read.
        let _ = self.0.write_all(bytes);
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 64 << 10];
        match self.0.read(&mut buffer) {
            Ok(0) => None,
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
            Err(_) => None,
        }
    }

    fn cut(self: Box<Self>) {}
}
