//! Peers of the HTTP ports that say nothing, or do not end what they began.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::case::Case;

/// A probe is answered within this time, whoever is connected.
const PROBE_MAX: Duration = Duration::from_millis(100);
/// Others' requests to the API are answered within this time.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// `guest:guest`.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";
const PATIENCE: Duration = Duration::from_secs(20);

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

/// Probes and the API are answered in time, again and again.
fn assert_answers(api: SocketAddr, metrics: SocketAddr) {
    let mut probes = Vec::new();
    for _ in 0..20 {
        for path in ["/livez", "/readyz"] {
            let (status, time) = ask(metrics, path);
            assert_eq!(status, 200, "{path}");
            probes.push(time);
        }
        let (status, time) = ask(api, "/api/overview");
        assert_eq!(status, 200);
        assert!(time < ANSWER_MAX, "/api/overview took {time:?}");
    }
    probes.sort_unstable();
    // One may meet a machine that does something else.
    let longest = probes[probes.len() - 2];
    assert!(longest < PROBE_MAX, "a probe took {longest:?}");
}

/// 1,100 connections to each HTTP port that send nothing, half a header, or were answered once.
#[test]
fn silent_http_clients_keep_nobody_out() {
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
            assert_answers(api, metrics);
        }
    }
    drop(silent);
    case.end(48);
}
