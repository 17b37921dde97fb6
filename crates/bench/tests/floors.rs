//! The generator against the floors, in one process: the whole way of a message, checked.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leveret_bench::floor::journal::Journal;
use leveret_bench::floor::{pipe, relay, sync};
use leveret_bench::one_in_flight;
use leveret_bench::traffic::{self, Dialect, Load, LoadPace, Measured, Target};

/// On a machine that has other things to do too little may happen in it: then in a longer one.
const WINDOW: Duration = Duration::from_millis(200);
const LONGER: [u32; 4] = [1, 3, 10, 30];

fn target(address: SocketAddr, dialect: Dialect) -> Target {
    let pid = std::process::id();
    Target {
        address,
        pid,
        dialect,
    }
}

/// Measures for as long as it takes until more than so many messages have passed.
fn measure(target: Target, load: &Load, messages: u64) -> Measured {
    for times in LONGER {
        let measured = traffic::run(target, load, WINDOW * times).unwrap();
        if measured.messages > messages {
            return measured;
        }
    }
    panic!("{load:?}: not even {messages} messages");
}

fn relay(mode: relay::Mode) -> Target {
    relay_with(mode, None)
}

fn relay_with(mode: relay::Mode, journal: Option<Arc<Journal>>) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            relay::serve(listener, mode, journal).await.unwrap();
        });
    });
    target(address, Dialect::Amqp)
}

#[test]
fn every_pace_passes_the_relay() {
    let target = relay(relay::Mode::Direct);
    let paces = [
        LoadPace::Stream,
        LoadPace::Confirms(100),
        LoadPace::Deliveries(3),
        LoadPace::Rate(2000),
    ];
    for pace in paces {
        let load = Load {
            pace,
            groups: 2,
            ..Load::ONE_TO_ONE
        };
        let load = match pace {
            LoadPace::Rate(_) => Load { groups: 1, ..load },
            _ => load,
        };
        let measured = measure(target, &load, 100);
        let open_loop = matches!(pace, LoadPace::Rate(_));
        assert_eq!(measured.latencies.is_empty(), !open_loop, "{pace:?}");
    }
}

#[test]
fn several_publishers_and_large_bodies_pass_the_relay() {
    let load = Load {
        publishers: 4,
        ..Load::ONE_TO_ONE.body(5000)
    };
    measure(relay(relay::Mode::Direct), &load, 100);
}

#[test]
fn every_queue_gets_its_copy_of_a_fanout() {
    let load = Load {
        queues: 40,
        connections: 4,
        prefetch: 0,
        ..Load::ONE_TO_ONE
    };
    measure(relay(relay::Mode::Fanout), &load, 1000);
}

#[test]
fn the_pipe_carries_a_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || pipe::serve(&listener));
    let target = target(address, Dialect::Pipe);
    measure(target, &Load::ONE_TO_ONE, 1000);
}

/// A file that goes with the target folder's temporary ones.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn confirms_of_the_journal_floor_come_after_the_disk() {
    let journal = Journal::start(&file("journal-floor")).unwrap();
    let target = relay_with(relay::Mode::Direct, Some(journal));
    let load = Load {
        persistent: true,
        publishers: 2,
        ..Load::ONE_TO_ONE.confirmed(100)
    };
    measure(target, &load, 10);
    let written = std::fs::read(file("journal-floor")).unwrap();
    assert!(written.contains(&0xCE), "frames are in it");
}

#[test]
fn one_message_at_a_time_passes_the_sync_floor() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || sync::serve(&listener, &file("sync-floor")));
    let sample = one_in_flight::run(target(address, Dialect::Pipe), WINDOW).unwrap();
    let [p50, p99, _] = sample.latency_ms.unwrap();
    assert!(0.0 < p50 && p50 <= p99, "{p50} {p99}");
}
