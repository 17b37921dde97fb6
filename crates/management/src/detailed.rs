//! Metrics of single objects: `/metrics/per-object` and `/metrics/detailed`, with RabbitMQ's names.
//!
//! A page is made while it is sent. What belongs to one name stands together in the text format, so
//! that each metric is a walk over its objects; values of one object may be of different moments.

use std::fmt::Write as _;
use std::iter::once;
use std::sync::Arc;

use leveret_broker::{Peer, Vhost};
use leveret_router::Exchange;
use regex::{Regex, RegexBuilder};

use crate::app::App;
use crate::figures::{
    CHANNEL, CHANNEL_EXCHANGE, CHANNEL_QUEUE, CONNECTION, CONNECTION_COARSE, Channel, EXCHANGE,
    Metric, OfExchange, OfQueue, PUBLISHED, QUEUE, QUEUE_COARSE, QUEUE_DELIVERY, QUEUE_INFO,
};
use crate::metrics::{Page, labels};
use crate::walk;

/// Pieces of a page.
type Fragments = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// The longest pattern of queues' names, in bytes, and the most it may take when it is compiled.
const PATTERN_LEN_MAX: usize = 1024;
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What is asked for.
#[derive(Default)]
pub(crate) struct Asked {
    families: Vec<String>,
    vhosts: Vec<String>,
    queues: Option<Regex>,
}

impl Asked {
    /// Reads `family` and `vhost`, each any number of times, and `queue`, a pattern, once.
    ///
    /// # Errors
    ///
    /// What is wrong with the pattern, in RabbitMQ's words where it has some.
    pub(crate) fn of(query: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "family" => asked.families.push(value.into_owned()),
                "vhost" => asked.vhosts.push(value.into_owned()),
                "queue" if asked.queues.is_some() => {
                    return Err("Only one 'queue' query parameter is allowed".to_owned());
                }
                "queue" => asked.queues = Some(pattern(&value)?),
                _ => {}
            }
        }
        Ok(asked)
    }

    fn wants_family(&self, name: &str) -> bool {
        self.families.iter().any(|family| family == name)
    }

    fn wants_vhost(&self, vhost: &Vhost) -> bool {
        let wanted = &self.vhosts;
        wanted.is_empty() || wanted.iter().any(|name| **name == *vhost.name)
    }

    fn wants_queue(&self, name: &str) -> bool {
        let pattern = self.queues.as_ref();
        pattern.is_none_or(|pattern| pattern.is_match(name))
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN_LEN_MAX {
        let why = format!("longer than {PATTERN_LEN_MAX} bytes");
        return Err(format!("Invalid 'queue' regex: {why}"));
    }
    let mut builder = RegexBuilder::new(text);
    let built = builder.size_limit(PATTERN_BYTES_MAX).build();
    built.map_err(|error| format!("Invalid 'queue' regex: {error}"))
}

/// What a page is about.
struct Scope {
    app: Arc<App>,
    asked: Asked,
    /// Between `rabbitmq_` and a metric's name.
    prefix: &'static str,
}

/// A family, and how it is made.
struct Family {
    name: &'static str,
    /// Part of `/metrics/per-object` too.
    is_per_object: bool,
    make: fn(&Arc<Scope>) -> Fragments,
}

const fn family(name: &'static str, make: fn(&Arc<Scope>) -> Fragments) -> Family {
    Family {
        name,
        is_per_object: true,
        make,
    }
}

/// One that `/metrics/per-object` has by another way, or not.
const fn detailed_only(name: &'static str, make: fn(&Arc<Scope>) -> Fragments) -> Family {
    Family {
        name,
        is_per_object: false,
        make,
    }
}

/// In RabbitMQ's order; what several of them have comes once.
const FAMILIES: [Family; 18] = [
    family("queue_coarse_metrics", |scope| {
        of_queues(scope, &QUEUE_COARSE)
    }),
    family("queue_metrics", |scope| of_queues(scope, &QUEUE)),
    detailed_only("queue_consumer_count", |scope| {
        let has_it = scope.asked.wants_family("queue_metrics");
        of_queues(scope, if has_it { &[] } else { &QUEUE[..1] })
    }),
    family("queue_delivery_metrics", |scope| {
        of_queues(scope, &QUEUE_DELIVERY)
    }),
    family("channel_queue_exchange_metrics", published_to_queues),
    family("channel_metrics", |scope| of_channels(scope, &CHANNEL)),
    family("channel_exchange_metrics", |scope| {
        of_channels_in_vhosts(scope, &CHANNEL_EXCHANGE)
    }),
    family("channel_queue_metrics", |scope| {
        of_channels_in_vhosts(scope, &CHANNEL_QUEUE)
    }),
    family("connection_coarse_metrics", |scope| {
        of_connections(scope, &CONNECTION_COARSE)
    }),
    family("connection_metrics", |scope| {
        of_connections(scope, &CONNECTION)
    }),
    family("exchange_metrics", |scope| of_exchanges(scope, &EXCHANGE)),
    detailed_only("exchange_names", exchange_names),
    detailed_only("exchange_bindings", exchange_bindings),
    detailed_only("vhost_status", vhost_status),
    detailed_only("auth_attempt_metrics", |scope| page(scope, Page::logins)),
    detailed_only("connection_churn_metrics", |scope| page(scope, Page::churn)),
    detailed_only("node_coarse_metrics", |scope| page(scope, Page::node)),
    detailed_only("node_metrics", |scope| page(scope, Page::node_limits)),
];

/// Families whose queues are described beside them.
const WITH_QUEUE_INFO: [&str; 3] = [
    "queue_coarse_metrics",
    "queue_metrics",
    "queue_consumer_count",
];

/// A page of the families that are asked for.
pub(crate) fn detailed(
    app: &Arc<App>,
    asked: Asked,
) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    let scope = Arc::new(Scope {
        app: Arc::clone(app),
        asked,
        prefix: "detailed_",
    });
    let wanted = |name: &str| scope.asked.wants_family(name);
    let families = FAMILIES.iter().filter(|family| wanted(family.name));
    let mut made: Vec<_> = families.map(|family| (family.make)(&scope)).collect();
    if WITH_QUEUE_INFO.into_iter().any(wanted) {
        made.push(of_queue_infos(&scope));
    }
    let identity = identity(app, "detailed");
    made.into_iter().flatten().chain(once(identity))
}

/// What `/metrics` has, with the sums of objects replaced by the objects.
pub(crate) fn per_object(app: &Arc<App>) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    let mut page = Page::new("");
    page.whole(app);
    let scope = Arc::new(Scope {
        app: Arc::clone(app),
        asked: Asked::default(),
        prefix: "",
    });
    let families = FAMILIES.iter().filter(|family| family.is_per_object);
    let mut made: Vec<_> = families.map(|family| (family.make)(&scope)).collect();
    made.push(of_queue_infos(&scope));
    let identity = identity(app, "per-object");
    once(page.into_bytes())
        .chain(made.into_iter().flatten())
        .chain(once(identity))
}

fn identity(app: &App, endpoint: &str) -> Vec<u8> {
    let mut page = Page::new("");
    page.identity(app, endpoint);
    page.into_bytes()
}

fn page(scope: &Arc<Scope>, write: fn(&mut Page, &App)) -> Fragments {
    let mut page = Page::new(scope.prefix);
    write(&mut page, &scope.app);
    Box::new(once(page.into_bytes()))
}

/// Objects of a kind; nothing in place of one that is not asked for, as looking at it is work too.
type Objects<T> = Box<dyn Iterator<Item = Option<T>> + Send>;

impl Scope {
    /// All virtual hosts.
    fn vhosts(&self) -> Vec<Arc<Vhost>> {
        let mut vhosts = self.app.broker.vhosts();
        vhosts.sort_by(|a, b| a.name.cmp(&b.name));
        vhosts
    }

    /// Those that are asked for.
    fn wanted_vhosts(&self) -> Vec<Arc<Vhost>> {
        let mut vhosts = self.vhosts();
        vhosts.retain(|vhost| self.asked.wants_vhost(vhost));
        vhosts
    }

    fn queues(self: &Arc<Self>) -> Objects<OfQueue> {
        let scope = Arc::clone(self);
        let of = move |vhost: Arc<Vhost>| {
            let scope = Arc::clone(&scope);
            walk::queues(&vhost).map(move |cell| {
                let is_wanted = scope.asked.wants_queue(&cell.name);
                is_wanted.then(|| (Arc::clone(&vhost), cell))
            })
        };
        Box::new(self.wanted_vhosts().into_iter().flat_map(of))
    }

    fn peers(self: &Arc<Self>) -> Objects<Arc<Peer>> {
        Box::new(walk::peers(&self.app.broker).map(Some))
    }

    fn channels(self: &Arc<Self>) -> Objects<Channel> {
        let of = |peer: Arc<Peer>| {
            let channels = peer.channels().into_iter();
            channels.map(move |stats| {
                let peer = Arc::clone(&peer);
                Some(Channel { peer, stats })
            })
        };
        Box::new(walk::peers(&self.app.broker).flat_map(of))
    }

    fn exchanges(self: &Arc<Self>) -> Objects<OfExchange> {
        let of = |vhost: Arc<Vhost>| {
            let known =
                |exchange: &Exchange| (Box::from(exchange.name()), Arc::clone(exchange.counts()));
            let exchanges = walk::exchanges(&vhost, known);
            exchanges.map(move |exchange| Some((Arc::clone(&vhost), exchange)))
        };
        Box::new(self.wanted_vhosts().into_iter().flat_map(of))
    }
}

fn head(prefix: &str, name: &str, kind: &str, help: &str) -> Vec<u8> {
    format!("# TYPE rabbitmq_{prefix}{name} {kind}\n# HELP rabbitmq_{prefix}{name} {help}\n")
        .into_bytes()
}

fn line(prefix: &str, name: &str, labels: &str, value: f64) -> Vec<u8> {
    let mut text = String::with_capacity(40 + name.len() + labels.len());
    let _ = writeln!(text, "rabbitmq_{prefix}{name}{{{labels}}} {value}");
    text.into_bytes()
}

/// Each metric with a line for each object, which `objects` walks over anew.
fn lines<T: 'static>(
    scope: &Arc<Scope>,
    metrics: &'static [Metric<T>],
    objects: fn(&Arc<Scope>) -> Objects<T>,
    labels_of: fn(&T) -> String,
) -> Fragments {
    let scope = Arc::clone(scope);
    Box::new(metrics.iter().flat_map(move |metric| {
        let prefix = scope.prefix;
        let head = head(prefix, metric.name, metric.kind, metric.help);
        let of = move |object| {
            let value = (metric.value)(&object);
            line(prefix, metric.name, &labels_of(&object), value)
        };
        let lines = objects(&scope).map(move |object| object.map(of).unwrap_or_default());
        once(head).chain(lines)
    }))
}

fn of_queues(scope: &Arc<Scope>, metrics: &'static [Metric<OfQueue>]) -> Fragments {
    lines(scope, metrics, Scope::queues, |(vhost, cell)| {
        labels(&[("vhost", &vhost.name), ("queue", &cell.name)])
    })
}

fn of_queue_infos(scope: &Arc<Scope>) -> Fragments {
    lines(scope, &QUEUE_INFO, Scope::queues, |(vhost, cell)| {
        labels(&[
            ("vhost", &vhost.name),
            ("queue", &cell.name),
            ("queue_type", "rabbit_classic_queue"),
            ("membership", "leader"),
        ])
    })
}

/// RabbitMQ tells channel and exchange apart too.
fn published_to_queues(scope: &Arc<Scope>) -> Fragments {
    lines(scope, &PUBLISHED, Scope::queues, |(vhost, cell)| {
        labels(&[("queue_vhost", &vhost.name), ("queue", &cell.name)])
    })
}

fn of_channels(scope: &Arc<Scope>, metrics: &'static [Metric<Channel>]) -> Fragments {
    lines(scope, metrics, Scope::channels, |channel| {
        labels(&[("channel", &channel.name())])
    })
}

fn of_channels_in_vhosts(scope: &Arc<Scope>, metrics: &'static [Metric<Channel>]) -> Fragments {
    lines(scope, metrics, Scope::channels, |channel| {
        let vhost = channel.peer.vhost.lock().clone();
        labels(&[("channel", &channel.name()), ("vhost", &vhost)])
    })
}

/// RabbitMQ labels a connection as a channel.
fn of_connections(scope: &Arc<Scope>, metrics: &'static [Metric<Arc<Peer>>]) -> Fragments {
    lines(scope, metrics, Scope::peers, |peer| {
        labels(&[("channel", &peer.name)])
    })
}

fn of_exchanges(scope: &Arc<Scope>, metrics: &'static [Metric<OfExchange>]) -> Fragments {
    lines(scope, metrics, Scope::exchanges, |(vhost, (name, _))| {
        labels(&[("vhost", &vhost.name), ("exchange", name)])
    })
}

/// A line for each exchange with its type, under a name that knows no prefix.
fn of_types(
    scope: &Arc<Scope>,
    (name, help): (&'static str, &'static str),
    value: fn(&Exchange) -> f64,
) -> Fragments {
    let of = move |exchange: &Exchange| {
        let kind = exchange.spec().kind.name();
        (exchange.name().to_owned(), kind, value(exchange))
    };
    let exchanges = move |vhost: Arc<Vhost>| {
        walk::exchanges(&vhost, of).map(move |(exchange, kind, value)| {
            let labels = labels(&[
                ("vhost", &vhost.name),
                ("exchange", &exchange),
                ("type", kind),
            ]);
            line("", name, &labels, value)
        })
    };
    let lines = scope.vhosts().into_iter().flat_map(exchanges);
    Box::new(once(head("", name, "gauge", help)).chain(lines))
}

fn exchange_names(scope: &Arc<Scope>) -> Fragments {
    let help = "Enumerates exchanges without any additional info. This value is cluster-wide. A \
                cheaper alternative to `exchange_bindings`";
    of_types(scope, ("cluster_exchange_name", help), |_| 1.0)
}

fn exchange_bindings(scope: &Arc<Scope>) -> Fragments {
    let help = "Number of bindings for an exchange. This value is cluster-wide.";
    of_types(scope, ("cluster_exchange_bindings", help), |exchange| {
        exchange.binding_count() as f64
    })
}

fn vhost_status(scope: &Arc<Scope>) -> Fragments {
    let (name, help) = ("cluster_vhost_status", "Whether a given vhost is running");
    let lines = scope.vhosts().into_iter().map(move |vhost| {
        let labels = labels(&[("vhost", &vhost.name)]);
        line("", name, &labels, 1.0)
    });
    Box::new(once(head("", name, "gauge", help)).chain(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_from_the_query() {
        let asked = Asked::of("family=a&vhost=%2F&family=b+c&queue=%5Eq&page=1").unwrap();
        assert_eq!(asked.families, ["a", "b c"]);
        assert_eq!(asked.vhosts, ["/"]);
        assert!(asked.wants_queue("qu") && !asked.wants_queue("a queue"));
        let long = format!("queue={}", "q".repeat(PATTERN_LEN_MAX + 1));
        for (query, why) in [
            ("queue=a&queue=a", "Only one 'queue'"),
            ("queue=(", "Invalid 'queue' regex"),
            ("queue=%5Cw%7B1000%7D%7B1000%7D", "size limit"),
            (&long, "longer than 1024 bytes"),
        ] {
            let refused = Asked::of(query).err().unwrap();
            assert!(refused.contains(why), "{query}: {refused}");
        }
    }
}
