//! RabbitMQ's load generator, PerfTest: what brokers reach with RabbitMQ's own Java client.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::connection::text;
use crate::process::{self, Cost, Meter};
use crate::scenario::{Sample, megabytes};
use crate::traffic::Target;

/// Where its jars are; `cargo xtask bench` fetches them and sets this.
const JARS: &str = "PERF_TEST_JARS";
/// It measures whole seconds, and its machine needs some to become fast.
const SECONDS_MIN: u64 = 8;

/// Runs it for `window`, but at least eight seconds, with these arguments besides a producer's, a
/// consumer's and a prefetch's. A "message" is one that the consumer received.
pub fn run(target: Target, arguments: &[&str], window: Duration) -> Result<Sample, String> {
    let jars = std::env::var(JARS)
        .map_err(|_| format!("{JARS} names no folder with PerfTest: run `cargo xtask bench`"))?;
    let seconds = window.as_secs().max(SECONDS_MIN);
    let mut java = Command::new("java");
    java.args(["-cp", &format!("{jars}/*"), "com.rabbitmq.perf.PerfTest"])
        .args(["--uri", &format!("amqp://guest:guest@{}", target.address)])
        .args(["-x1", "-y1", "-q", "1000", "-A", "100"])
        .args(["-z", &seconds.to_string()])
        .args(arguments)
        .stderr(Stdio::inherit());
    process::reset_peak(target.pid);
    let meter = Meter::start(target.pid)?;
    let output = java.output().map_err(|e| format!("java: {e}"))?;
    let cost = meter.cost()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("PerfTest failed: {}", said.trim_end()));
    }
    let told = Told::read(&said).ok_or_else(|| format!("PerfTest told no averages: {said}"))?;
    let cost = Cost {
        // Its start and end are none of the broker's time.
        seconds: seconds as f64,
        ..cost
    };
    let messages = (told.received_per_s * seconds as f64).round() as u64;
    let mut sample = Sample::of(messages.max(1), cost);
    // Its own processor time is the Java machine's, which this process does not have.
    sample.generator_us = None;
    sample.rss_mb = Some(megabytes(process::peak_resident(target.pid)?));
    sample.also = vec![
        ("sent_per_s", told.sent_per_s),
        ("latency_us_p50", told.latency_us[0]),
        ("latency_us_p99", told.latency_us[1]),
    ];
    Ok(sample)
}

/// What it prints at its end.
#[derive(Debug, PartialEq)]
struct Told {
    sent_per_s: f64,
    received_per_s: f64,
    /// p50 and p99 of the consumer.
    latency_us: [f64; 2],
}

impl Told {
    fn read(said: &str) -> Option<Self> {
        let after = |words: &str| said.lines().rev().find_map(|line| line.split_once(words));
        let number = |words: &str| {
            let (_, rest) = after(words)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let (_, latencies) = after("consumer latency min/median/75th/95th/99th ")?;
        let latencies = latencies.split_whitespace().next()?;
        let latencies: Result<Vec<f64>, _> = latencies.split('/').map(str::parse).collect();
        let &[_, p50, _, _, p99] = latencies.map_err(text).ok()?.as_slice() else {
            return None;
        };
        Some(Self {
            sent_per_s: number("sending rate avg: ")?,
            received_per_s: number("receiving rate avg: ")?,
            latency_us: [p50, p99],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 2.22.1 prints it.
    const SAID: &str = "\
id: test-002340-353, time 6.002 s, sent: 12613 msg/s, received: 13090 msg/s, \
min/median/75th/95th/99th consumer latency: 136/10428/16225/43773/187907 µs
test stopped (Reached time limit)
id: test-002340-353, sending rate avg: 10277 msg/s
id: test-002340-353, receiving rate avg: 10276 msg/s
id: test-002340-353, consumer latency min/median/75th/95th/99th 106/14263/33711/246215/310009 µs
";

    #[test]
    fn its_averages_are_read() {
        let told = Told {
            sent_per_s: 10_277.0,
            received_per_s: 10_276.0,
            latency_us: [14_263.0, 310_009.0],
        };
        assert_eq!(Told::read(SAID), Some(told));
        assert_eq!(Told::read("test stopped (Producer error)"), None);
    }
}
