//! Peers of the HTTP ports that say nothing, or do not end what they began.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::case::Case;
use crate::support::Server;
use crate::support::machine::on_time;

/// A probe is answered within this time, whoever is connected,
const PROBE_MAX: Duration = Duration::from_millis(100);
/// or so many times what one takes beside it of a broker that has nobody connected.
const TIMES_SLOWER_MAX: u32 = 2;
/// Others' requests to the API are answered within this time.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How often it is tried whether all are answered in time: the machine may be late once, those who
/// hold up others do it as long as they are there.
const TRIES: u32 = 3;
/// `guest:guest`.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";
/// `tenant:tenant`.
const TENANT: &str = "dGVuYW50OnRlbmFudA==";
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks without a body; gives the status and how long it took from the connect on.
fn ask(address: SocketAddr, path: &str) -> (u16, Duration) {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Basic {GUEST}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    (status(&mut stream), begin.elapsed())
}

/// The status of the answer that comes.
fn status(stream: &mut TcpStream) -> u16 {
    let mut line = [0; 12];
    stream.read_exact(&mut line).expect("an answer");
    let text = std::str::from_utf8(&line[9..]).expect("a status");
    text.parse().expect("a number")
}

/// How long all but one of the probes of a round took at most, and the longest request to the API.
#[derive(Debug, Default)]
struct Round {
    probes: Vec<Duration>,
    answer: Duration,
}

impl Round {
    fn ask(&mut self, api: SocketAddr, metrics: SocketAddr) {
        for path in ["/livez", "/readyz"] {
            let (status, time) = ask(metrics, path);
            assert_eq!(status, 200, "{path}");
            self.probes.push(time);
        }
        let (status, time) = ask(api, "/api/overview");
        assert_eq!(status, 200);
        self.answer = self.answer.max(time);
    }

    /// One may meet a machine that does something else.
    fn probe(&mut self) -> Duration {
        self.probes.sort_unstable();
        self.probes[self.probes.len() - 2]
    }
}

/// Probes and the API are answered in time, again and again, or hardly later than those of a broker
/// beside it with which nothing is the matter.
fn assert_answers(server: &Server, beside: &Server) {
    for tries in 1.. {
        let (mut round, mut undisturbed) = (Round::default(), Round::default());
        for _ in 0..20 {
            round.ask(server.api(), server.metrics_address());
            undisturbed.ask(beside.api(), beside.metrics_address());
        }
        let probe_max = PROBE_MAX.max(undisturbed.probe() * TIMES_SLOWER_MAX);
        let answer_max = ANSWER_MAX.max(undisturbed.answer * TIMES_SLOWER_MAX);
        if round.probe() < probe_max && round.answer < answer_max {
            return;
        }
        assert!(tries < TRIES, "{round:?} where {undisturbed:?} would do");
    }
}

/// 1,100 connections to each HTTP port that send nothing, half a header, or were answered once.
#[test]
fn silent_http_clients_keep_nobody_out() {
    let beside = Server::start_http(&[]);
    let case = Case::start_http(&[]);
    let (api, metrics) = (case.server.api(), case.server.metrics_address());
    let mut silent = Vec::new();
    for number in 0..1100 {
        for (address, path) in [(api, "/api/whoami"), (metrics, "/livez")] {
            let mut stream = TcpStream::connect(address).expect("it accepts");
            let begun = format!("GET {path} HTTP/1.1\r\nHost: x\r\n");
            let said = match number % 3 {
                0 => Ok(()),
                1 => stream.write_all(begun.as_bytes()),
                _ => stream.write_all(format!("{begun}\r\n").as_bytes()),
            };
            said.expect("it is not sent away yet");
            silent.push(stream);
        }
        if number % 100 == 99 {
            assert_answers(&case.server, &beside);
        }
    }
    drop(silent);
    case.end(48);
}

/// A request of `tenant`, who manages a virtual host of its own, with so much of its body.
fn begin(address: SocketAddr, (method, path): (&str, &str), announced: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\
         Authorization: Basic {TENANT}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream
}

/// With the HTTP API and a tenant.
fn with_tenant() -> Case {
    let case = Case::start_http(&[]);
    let guest = case.server.http_as("guest", "guest");
    let user = json!({"password": "tenant", "tags": "administrator"});
    guest.done("PUT", "/api/users/tenant", &user);
    guest.done("PUT", "/api/vhosts/tenant", &json!({}));
    let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
    guest.done("PUT", "/api/permissions/tenant/tenant", &all);
    case
}

/// Sends one body so many times at once; gives the statuses.
fn at_once(times: usize, api: SocketAddr, request: (&str, &str), body: &str) -> Vec<u16> {
    std::thread::scope(|scope| {
        let send = || {
            let mut stream = begin(api, request, body.len());
            // It may be refused before its end.
            let _ = stream.write_all(body.as_bytes());
            status(&mut stream)
        };
        let all: Vec<_> = (0..times).map(|_| scope.spawn(send)).collect();
        all.into_iter()
            .map(|one| one.join().expect("an answer"))
            .collect()
    })
}

/// Twelve bodies of 19 MB at a time that are small values through and through.
#[test]
fn bodies_full_of_values_are_refused_before_they_are_read() {
    on_time(|| {
        let case = with_tenant();
        let api = case.server.api();
        let ones = "1,".repeat(19 << 19);
        let bomb = format!("{{\"arguments\":{{\"a\":[{ones}1]}}}}");
        let declare = at_once(12, api, ("PUT", "/api/queues/tenant/q"), &bomb);
        assert_eq!(declare, [413; 12]);
        let publish = ("POST", "/api/exchanges/tenant/amq.direct/publish");
        let publish = at_once(12, api, publish, &bomb);
        assert!(
            publish.iter().all(|status| [413, 503].contains(status)),
            "{publish:?}"
        );
        let ones = "1,".repeat(2 << 20);
        let definitions =
            format!("{{\"queues\":[{{\"name\":\"q\",\"arguments\":{{\"a\":[{ones}1]}}}}]}}");
        let import = at_once(3, api, ("POST", "/api/definitions"), &definitions);
        assert_eq!(import, [400; 3], "an object is no larger than a MiB");
        // The half of `management.bodies_bytes_max` that one user has, and definitions.
        case.end(320);
    });
}

/// 70 bodies of which nothing more comes.
#[test]
fn bodies_that_do_not_arrive_hold_up_nobody() {
    let beside = Server::start_http(&[]);
    let case = with_tenant();
    let api = case.server.api();
    let unfinished: Vec<_> = (0..70)
        .map(|number| {
            let path = format!("/api/queues/tenant/q{number}");
            let mut stream = begin(api, ("PUT", &path), 1000);
            stream.write_all(b"{").expect("it reads");
            stream
        })
        .collect();
    assert_answers(&case.server, &beside);
    drop(unfinished);
    case.end(48);
}
