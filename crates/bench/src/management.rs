//! The HTTP API and the metrics of a broker with very many queues, and what polling both costs its
//! messages.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::brokers::{Api, Broker};
use crate::connection::{Connection, text};
use crate::resources::{MANY_QUEUES, declare_many};
use crate::scenario::Sample;
use crate::traffic::{self, Load, Measured, Target};

/// Requests of each kind, one after the other.
const REQUESTS: usize = 30;
/// Windows with both polled, and as many without, in turns: a noisy minute hits both.
const TURNS: usize = 4;
/// Both are asked for so often while messages flow.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
const PAGE: &str = "/api/queues?page=1&page_size=100";
const SCRAPE: &str = "/metrics";
/// `guest:guest`.
const CREDENTIALS: &str = "Z3Vlc3Q6Z3Vlc3Q=";

/// Times of the first page and of a scrape, then messages with and without both polled.
pub fn run(broker: &mut Broker, load: &Load, window: Duration) -> Result<Sample, String> {
    let (target, api) = broker.fresh_with_api()?;
    let mut connection = Connection::open(target.address, 0)?;
    declare_many(&mut connection, MANY_QUEUES)?;
    let page = times(|| page(api))?;
    let scrape = times(|| scrape(api))?;
    let (mut without, mut with, mut slowest_ms) = (0.0, 0.0, 0.0_f64);
    for _ in 0..TURNS {
        without += rate(&traffic::run(target, load, window)?);
        let (measured, slowest) = polled(target, load, window, api)?;
        with += rate(&measured);
        slowest_ms = slowest_ms.max(slowest);
    }
    drop(connection);
    broker.stop();
    Ok(Sample {
        msgs_per_s: Some(with / TURNS as f64),
        also: vec![
            ("queues", MANY_QUEUES as f64),
            ("page_ms", page.median),
            ("page_ms_max", page.max),
            ("scrape_ms", scrape.median),
            ("scrape_ms_max", scrape.max),
            ("polled_ms_max", slowest_ms),
            ("msgs_per_s_without", without / TURNS as f64),
            ("without_to_with", without / with),
        ],
        ..Sample::default()
    })
}

struct Times {
    median: f64,
    max: f64,
}

fn times(request: impl Fn() -> Result<f64, String>) -> Result<Times, String> {
    // The first one makes connections, threads and caches.
    request()?;
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        times.push(request()?);
    }
    times.sort_by(f64::total_cmp);
    let at = |place: usize| times.get(place).copied().unwrap_or(f64::NAN);
    Ok(Times {
        median: at(REQUESTS / 2),
        max: at(REQUESTS - 1),
    })
}

/// Messages per second.
fn rate(measured: &Measured) -> f64 {
    measured.messages as f64 / measured.cost.seconds
}

/// The traffic while both are polled, and the slowest answer, ms.
fn polled(
    target: Target,
    load: &Load,
    window: Duration,
    api: Api,
) -> Result<(Measured, f64), String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let poll = scope.spawn(|| {
            let mut slowest = 0.0_f64;
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                slowest = slowest.max(page(api)?).max(scrape(api)?);
                next += POLL_INTERVAL;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok::<f64, String>(slowest)
        });
        let measured = traffic::run(target, load, window);
        stop.store(true, Ordering::Relaxed);
        let slowest = poll
            .join()
            .unwrap_or_else(|_| Err("the polling thread panicked".into()))?;
        Ok((measured?, slowest))
    })
}

/// Asks for the first page; how long it took, ms.
fn page(api: Api) -> Result<f64, String> {
    let (answer, ms) = get(api.management, PAGE)?;
    if answer.contains("\"item_count\":100,") {
        Ok(ms)
    } else {
        Err(format!("not a page of 100 queues: {answer:.200}"))
    }
}

fn scrape(api: Api) -> Result<f64, String> {
    let (answer, ms) = get(api.metrics, SCRAPE)?;
    if answer.contains("\nrabbitmq_queues ") {
        Ok(ms)
    } else {
        Err(format!("not a scrape: {answer:.200}"))
    }
}

/// One request on a connection of its own, read to its end.
fn get(address: SocketAddr, path: &str) -> Result<(String, f64), String> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).map_err(text)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic {CREDENTIALS}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(text)?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{path}: {answer:.200}"));
    }
    Ok((answer, ms))
}
