//! The scenarios by name, and what one round of each measures.

use std::fmt;
use std::time::Duration;

use crate::brokers::{Broker, Floor};
use crate::connection::QueueKind;
use crate::deep::{self, Deep};
use crate::process::Cost;
use crate::traffic::{self, Load, LoadPace, Measured};
use crate::unpaced::{self, Unpaced};
use crate::wire::Value;
use crate::{deaths, durable, management, one_in_flight, perf_test, publish_only, resources};

/// One benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What the command line calls it.
    pub name: &'static str,
    /// What it does.
    pub work: Work,
    /// What its CPU is compared with.
    pub floor: Option<Floor>,
    /// What it has to come to.
    pub goal: Option<Goal>,
    /// Rounds at most: some measure memory, which does not vary, and take long.
    pub rounds_max: usize,
}

/// What a round does.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Publishers and consumers.
    Traffic(Load),
    /// The same beside queues that come and go.
    TemporaryQueues(Load),
    /// A publisher alone.
    PublishOnly,
    /// RabbitMQ's own load generator, with these arguments.
    PerfTest(&'static [&'static str]),
    /// A generator that publishes whatever happens, beside its consumers.
    Unpaced(Unpaced),
    /// Connections that open and close.
    ConnectionChurn,
    /// Connections that do nothing.
    IdleConnections,
    /// Queues that do nothing.
    IdleQueues,
    /// One message to very many queues.
    WideFanout,
    /// A fresh start.
    Start,
    /// One unconfirmed message at a time.
    OneInFlight,
    /// One message to many durable queues.
    Together,
    /// A crash, and a start with much to recover.
    Restart,
    /// Publishers and consumers, with the arguments of their queues and without.
    WithAndWithout(Load),
    /// Rejects that dead-letter, beside publishes.
    DeadLetter,
    /// A great many messages that expire at once, in queues of this kind: durable ones dead-letter.
    Expiry(QueueKind),
    /// A very long queue.
    Deep(Deep),
    /// Requests over HTTP to a broker with very many queues, alone and beside traffic.
    Management(Load),
}

/// What Leveret's median has to come to; a scenario without one has its goal elsewhere.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// CPU per message, at most so many times the floor's.
    CpuToFloor(f64),
    /// Median latency, at most so many times the floor's.
    LatencyToFloor(f64),
    /// Another figure by name, at most.
    Figure(&'static str, f64),
    /// Several of them.
    Figures(&'static [(&'static str, f64)]),
}

impl fmt::Display for Goal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuToFloor(most) => write!(out, "CPU at most {most} x floor"),
            Self::LatencyToFloor(most) => write!(out, "p50 at most {most} x floor"),
            Self::Figure(name, most) => write!(out, "{name} at most {most}"),
            Self::Figures(figures) => {
                let each = figures
                    .iter()
                    .map(|(name, most)| format!("{name} at most {most}"));
                out.write_str(&each.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// What one round measured; what does not apply is `None`.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Messages (copies, or what the scenario counts) per second.
    pub msgs_per_s: Option<f64>,
    /// Server CPU per message, µs.
    pub cpu_us: Option<f64>,
    /// Generator CPU per message, µs.
    pub generator_us: Option<f64>,
    /// Delivery latencies, ms: p50, p99, p99.9.
    pub latency_ms: Option<[f64; 3]>,
    /// Peak resident memory of the server, MB.
    pub rss_mb: Option<f64>,
    /// Further figures by name.
    pub also: Vec<(&'static str, f64)>,
}

impl Sample {
    /// Rate and CPU of `messages` that had this `cost`.
    pub fn of(messages: u64, cost: Cost) -> Self {
        let messages = messages as f64;
        Self {
            msgs_per_s: Some(messages / cost.seconds),
            cpu_us: Some(cost.cpu_ns as f64 / 1e3 / messages),
            generator_us: Some(cost.own_cpu_ns as f64 / 1e3 / messages),
            ..Self::default()
        }
    }
}

impl From<&Measured> for Sample {
    fn from(measured: &Measured) -> Self {
        Self {
            latency_ms: percentiles(&measured.latencies),
            rss_mb: Some(megabytes(measured.peak_bytes)),
            ..Self::of(measured.messages, measured.cost)
        }
    }
}

/// p50, p99 and p99.9 in ms of sorted latencies in µs; `None` without any.
pub fn percentiles(latencies: &[u32]) -> Option<[f64; 3]> {
    let last = latencies.len().checked_sub(1)?;
    let percentile = |share: f64| {
        let at = (last as f64 * share).round() as usize;
        f64::from(latencies.get(at).copied().unwrap_or_default()) / 1e3
    };
    Some([0.5, 0.99, 0.999].map(percentile))
}

/// Bytes as megabytes.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Scenario {
    const fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// The same with so many messages, where their number is what it is about.
    #[must_use]
    pub const fn of(mut self, messages: u64) -> Self {
        if let Work::Deep(deep) = &mut self.work {
            deep.messages = messages;
        }
        self
    }

    /// Runs one round against `broker`.
    pub fn round(&self, broker: &mut Broker, window: Duration) -> Result<Sample, String> {
        match self.work {
            Work::Traffic(load) => {
                traffic::run(broker.target()?, &load, window).map(|measured| (&measured).into())
            }
            Work::TemporaryQueues(load) => {
                resources::temporary_queues(broker.target()?, &load, window)
            }
            Work::PublishOnly => publish_only::run(broker.fresh()?, window),
            Work::PerfTest(arguments) => perf_test::run(broker.fresh()?, arguments, window),
            Work::Unpaced(load) => unpaced::run(broker.fresh()?, &load, window),
            Work::ConnectionChurn => resources::connection_churn(broker.target()?, window),
            Work::IdleConnections => resources::idle_connections(broker.fresh()?),
            Work::IdleQueues => resources::idle_queues(broker),
            Work::WideFanout => resources::wide_fanout(broker),
            Work::Start => resources::start(broker),
            Work::OneInFlight => one_in_flight::run(broker.target()?, window),
            Work::Together => durable::together(broker),
            Work::Restart => durable::restart(broker),
            Work::WithAndWithout(load) => deaths::with_and_without(broker.target()?, &load, window),
            Work::DeadLetter => deaths::dead_letter(broker),
            Work::Expiry(kind) => deaths::expiry(broker, kind),
            Work::Deep(deep) => deep::run(broker, deep),
            Work::Management(load) => management::run(broker, &load, window),
        }
    }

    /// The floors that can serve this scenario.
    pub fn floors(&self) -> Vec<Floor> {
        let pipe = match self.work {
            Work::Traffic(load) => load.suits_pipe(),
            _ => false,
        };
        let pipe = pipe.then_some(Floor::Pipe);
        pipe.into_iter().chain(self.floor).collect()
    }
}

/// Rounds are limited only by the command line.
const MANY: usize = usize::MAX;
const BASE: Load = Load::ONE_TO_ONE;
/// One publisher, 50 connections with 20 queues each, without acknowledgement. Small writes,
/// because each message becomes 1,000.
const FANOUT: Load = Load {
    queues: 1000,
    connections: 50,
    prefetch: 0,
    write_bytes: 16 * 1024,
    ..BASE
};
/// Every message waits for the disk.
const DURABLE: Load = Load {
    persistent: true,
    ..BASE
};
/// 50 publishers, 50 consumers, each publishing again when its message has arrived.
const PAIRS_50: Load = Load {
    groups: 50,
    pace: LoadPace::Deliveries(1),
    ..BASE
};

/// A queue whose messages live for an hour.
const MORTAL: Load = Load {
    arguments: &[("x-message-ttl", Value::Number(3_600_000))],
    ..BASE
};
/// Ten priorities in turns.
const LEVELS_10: Load = Load {
    levels: 10,
    arguments: &[("x-max-priority", Value::Number(10))],
    ..BASE
};
/// One of each, and bodies of 1 KB.
const ONE_K: Unpaced = Unpaced {
    publishers: 1,
    consumers: 1,
    body_bytes: 1024,
    ack_every: 100,
};
/// Four of each on one queue.
const FOUR_TO_FOUR: Unpaced = Unpaced {
    publishers: 4,
    consumers: 4,
    body_bytes: 16,
    ack_every: 100,
};
/// Ten million messages of 100 bytes, or as many as `--messages` says.
const DEEP: Deep = Deep {
    messages: 10_000_000,
    persistent: true,
};
const DEEP_TRANSIENT: Deep = Deep {
    persistent: false,
    ..DEEP
};
/// What others may notice of it.
const OTHERS: (&str, f64) = ("others_p99_ratio", 2.0);

/// All scenarios in the order they run.
pub const ALL: &[Scenario] = &[
    relayed("transient-16", BASE),
    relayed(
        "transient-1k",
        Load {
            body_bytes: 1024,
            ..BASE
        },
    ),
    relayed(
        "confirm-16",
        Load {
            pace: LoadPace::Confirms(1000),
            ..BASE
        },
    ),
    relayed(
        "prefetch-100",
        Load {
            prefetch: 100,
            ack_every: 50,
            ..BASE
        },
    ),
    relayed(
        "publishers-8",
        Load {
            publishers: 8,
            ..BASE
        },
    ),
    relayed("pairs-4", Load { groups: 4, ..BASE }),
    relayed("pairs-50-w1", PAIRS_50),
    relayed(
        "pairs-50-w10",
        Load {
            pace: LoadPace::Deliveries(10),
            ..PAIRS_50
        },
    ),
    relayed(
        "open-loop-5k",
        Load {
            pace: LoadPace::Rate(5000),
            ..BASE
        },
    ),
    fanned("fanout-1000", FANOUT),
    fanned(
        "fanout-1000-1k",
        Load {
            body_bytes: 1024,
            ..FANOUT
        },
    ),
    journaled("persistent-16-w1000", DURABLE.confirmed(1000)).goal(Goal::CpuToFloor(2.5)),
    journaled("persistent-1k-w100", DURABLE.body(1024).confirmed(100)),
    journaled("persistent-1k-w1", DURABLE.body(1024).confirmed(1)),
    Scenario {
        floor: Some(Floor::Sync),
        ..plain("one-in-flight-1k", Work::OneInFlight, MANY)
    }
    .goal(Goal::LatencyToFloor(1.3)),
    plain("together-512", Work::Together, MANY).goal(Goal::Figure("syncs", 1.0)),
    plain("restart", Work::Restart, MANY).goal(Goal::Figure("serving_ms", 1500.0)),
    plain("ttl-16", Work::WithAndWithout(MORTAL), MANY)
        .goal(Goal::Figure("ratio_to_without", 1.05)),
    plain("priorities-16", Work::WithAndWithout(LEVELS_10), MANY)
        .goal(Goal::Figure("ratio_to_without", 1.3)),
    plain("dead-letter", Work::DeadLetter, MANY).goal(Goal::Figures(&[
        ("to_publish", 3.0),
        ("durable_to_publish", 3.0),
    ])),
    plain("expiry-1m", Work::Expiry(QueueKind::Temporary), MANY)
        .goal(Goal::Figures(&[("gone_ms", 2000.0), OTHERS])),
    plain("expiry-1m-durable", Work::Expiry(QueueKind::Durable), MANY)
        .goal(Goal::Figures(&[("gone_ms", 5000.0), OTHERS])),
    plain("deep", Work::Deep(DEEP), 1).goal(Goal::Figures(&[
        ("serving_ms", 1000.0),
        ("grown_starting_mb", 64.0),
        ("grown_filling_mb", 64.0),
        ("grown_draining_mb", 64.0),
        ("publish_slower", 1.3),
        ("publish_dearer", 1.3),
        ("drain_slower", 1.5),
        ("drain_dearer", 1.5),
    ])),
    plain("deep-transient", Work::Deep(DEEP_TRANSIENT), 1).goal(Goal::Figures(&[
        ("grown_filling_mb", 64.0),
        ("grown_draining_mb", 64.0),
        ("publish_slower", 1.3),
        ("publish_dearer", 1.3),
        ("drain_slower", 1.5),
        ("drain_dearer", 1.5),
    ])),
    plain("temporary-queues", Work::TemporaryQueues(BASE), MANY),
    plain("publish-only", Work::PublishOnly, MANY),
    plain("perftest-16", Work::PerfTest(&["-s", "16"]), MANY),
    plain("perftest-1k", Work::PerfTest(&["-s", "1024"]), MANY),
    plain(
        "perftest-persistent-16-w1000",
        Work::PerfTest(&["-s", "16", "-f", "persistent", "-c", "1000"]),
        MANY,
    ),
    plain(
        "perftest-10k",
        Work::PerfTest(&["-s", "16", "-r", "10000"]),
        MANY,
    ),
    unpaced("unpaced-1k", ONE_K),
    unpaced(
        "unpaced-1k-ack-1",
        Unpaced {
            ack_every: 1,
            ..ONE_K
        },
    ),
    unpaced("unpaced-4-4", FOUR_TO_FOUR),
    unpaced(
        "unpaced-4-4-ack-1",
        Unpaced {
            ack_every: 1,
            ..FOUR_TO_FOUR
        },
    ),
    unpaced(
        "unpaced-1-4",
        Unpaced {
            publishers: 1,
            ..FOUR_TO_FOUR
        },
    ),
    plain("connection-churn", Work::ConnectionChurn, MANY),
    plain("start", Work::Start, MANY).goal(Goal::Figure("start_ms", 30.0)),
    plain("fanout-100k", Work::WideFanout, 3),
    plain("idle-connections", Work::IdleConnections, 1),
    plain("idle-queues", Work::IdleQueues, 1),
    plain("management-100k", Work::Management(BASE), 3).goal(Goal::Figures(&[
        ("page_ms_max", 50.0),
        ("scrape_ms_max", 50.0),
        ("without_to_with", 1.0 / 0.9),
    ])),
];

const fn relayed(name: &'static str, load: Load) -> Scenario {
    Scenario {
        floor: Some(Floor::Relay),
        ..plain(name, Work::Traffic(load), MANY)
    }
}

const fn journaled(name: &'static str, load: Load) -> Scenario {
    Scenario {
        floor: Some(Floor::Journal),
        ..plain(name, Work::Traffic(load), MANY)
    }
}

const fn fanned(name: &'static str, load: Load) -> Scenario {
    Scenario {
        floor: Some(Floor::Fanout),
        ..plain(name, Work::Traffic(load), MANY)
    }
}

/// Its consumers get nine tenths of what they get from a generator that waits for them.
const fn unpaced(name: &'static str, load: Unpaced) -> Scenario {
    plain(name, Work::Unpaced(load), MANY).goal(Goal::Figure("paced_to_unpaced", 1.0 / 0.9))
}

const fn plain(name: &'static str, work: Work, rounds_max: usize) -> Scenario {
    Scenario {
        name,
        work,
        floor: None,
        goal: None,
        rounds_max,
    }
}

/// What brokers reach with the clients that people use.
pub fn of_users() -> Vec<Scenario> {
    let is_of_users = |scenario: &&Scenario| {
        matches!(scenario.work, Work::PerfTest(_)) || matches!(scenario.work, Work::Unpaced(_))
    };
    ALL.iter().filter(is_of_users).copied().collect()
}

/// The scenarios named, or all for none.
pub fn select(names: &[String]) -> Result<Vec<Scenario>, String> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |name: &String| {
        let found = ALL.iter().find(|scenario| scenario.name == name).copied();
        let known = || {
            ALL.iter()
                .map(|scenario| scenario.name)
                .collect::<Vec<_>>()
                .join(" ")
        };
        found.ok_or_else(|| format!("no scenario {name}; there are: {}", known()))
    };
    names.iter().map(find).collect()
}
