//! Metrics of single objects: `/metrics/per-object` and `/metrics/detailed`, with RabbitMQ's names.
//!
//! A page is made while it is sent. What belongs to one name stands together in the text format, so
//! that each metric is a walk over its objects; values of one object may be of different moments.

use std::fmt::Write as _;
use std::iter::{from_fn, once};
use std::sync::{Arc, OnceLock};

use leveret_broker::{Peer, Vhost};
use leveret_router::Exchange;
use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind, Look};

use crate::app::App;
use crate::exposition::{Labels, head};
use crate::figures::{
    CHANNEL, CHANNEL_EXCHANGE, CHANNEL_QUEUE, CONNECTION, CONNECTION_COARSE, ChannelFigures,
    EXCHANGE, EXCHANGE_BINDINGS, EXCHANGE_NAME, Metric, OfExchange, OfQueue, OfType, PUBLISHED,
    QUEUE_ALONE, QUEUE_COARSE, QUEUE_DELIVERY, QUEUE_HELD, QUEUE_INFO, VHOST_STATUS,
};
use crate::metrics::MetricsPage;
use crate::stream::{Items, items};
use crate::walk;

/// Pieces of a page.
pub(crate) type Fragments = Items<Vec<u8>>;

/// The longest pattern of queues' names, in bytes, and the most it may take when it is compiled.
const PATTERN_LEN_MAX: usize = 1024;
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Queues that fit a pattern are remembered if there are no more, so that the next metric need not
/// look at all queues again.
const FOUND_MAX: usize = 1024;
/// So many objects are looked at for one fragment of a page.
const OBJECTS_OF_FRAGMENT: usize = 32;

/// What is asked for.
#[derive(Default)]
pub(crate) struct DetailedQuery {
    families: Vec<String>,
    vhosts: Vec<String>,
    queues: Option<QueuePattern>,
}

/// Which queues are asked for.
struct QueuePattern {
    fits: Regex,
    /// All names that fit begin so.
    prefix: Arc<str>,
}

impl DetailedQuery {
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
        pattern.is_none_or(|pattern| pattern.fits.is_match(name))
    }

    fn prefix(&self) -> Arc<str> {
        let pattern = self.queues.as_ref();
        pattern.map_or_else(|| "".into(), |pattern| Arc::clone(&pattern.prefix))
    }
}

fn pattern(text: &str) -> Result<QueuePattern, String> {
    if text.len() > PATTERN_LEN_MAX {
        let why = format!("longer than {PATTERN_LEN_MAX} bytes");
        return Err(format!("Invalid 'queue' regex: {why}"));
    }
    let mut builder = RegexBuilder::new(text);
    let built = builder.size_limit(PATTERN_BYTES_MAX).build();
    let fits = built.map_err(|error| format!("Invalid 'queue' regex: {error}"))?;
    let prefix = prefix(text).unwrap_or_default().into();
    Ok(QueuePattern { fits, prefix })
}

/// What all names begin with that a pattern fits, as far as it says so at its own beginning:
/// names are in order, and the others need not be looked at.
fn prefix(pattern: &str) -> Option<String> {
    let parsed = regex_syntax::parse(pattern).ok()?;
    let HirKind::Concat(parts) = parsed.kind() else {
        return None;
    };
    let mut kinds = parts.iter().map(Hir::kind);
    match (kinds.next()?, kinds.next()?) {
        (HirKind::Look(Look::Start), HirKind::Literal(literal)) => {
            String::from_utf8(literal.0.to_vec()).ok()
        }
        _ => None,
    }
}

/// What a page is about.
struct Scope {
    app: Arc<App>,
    asked: DetailedQuery,
    /// Between `rabbitmq_` and a metric's name.
    prefix: &'static str,
    /// The queues that fit the pattern, once they are known and not too many.
    found: OnceLock<Vec<OfQueue>>,
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
    family("queue_metrics", |scope| {
        let held = of_queues(scope, &QUEUE_HELD);
        items(held.chain(of_queues(scope, &QUEUE_ALONE)))
    }),
    detailed_only("queue_consumer_count", |scope| {
        let has_it = scope.asked.wants_family("queue_metrics");
        of_queues(scope, if has_it { &[] } else { &QUEUE_HELD[..1] })
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
    detailed_only("exchange_names", |scope| of_types(scope, &EXCHANGE_NAME)),
    detailed_only("exchange_bindings", |scope| {
        of_types(scope, &EXCHANGE_BINDINGS)
    }),
    detailed_only("vhost_status", vhost_status),
    detailed_only("auth_attempt_metrics", |scope| {
        page(scope, MetricsPage::logins)
    }),
    detailed_only("connection_churn_metrics", |scope| {
        page(scope, MetricsPage::churn)
    }),
    detailed_only("node_coarse_metrics", |scope| {
        page(scope, MetricsPage::node)
    }),
    detailed_only("node_metrics", |scope| {
        page(scope, MetricsPage::node_limits)
    }),
];

/// Families whose queues are described beside them.
const WITH_QUEUE_INFO: [&str; 3] = [
    "queue_coarse_metrics",
    "queue_metrics",
    "queue_consumer_count",
];

/// A page of the families that are asked for.
pub(crate) fn detailed(app: &Arc<App>, asked: DetailedQuery) -> Fragments {
    let scope = Arc::new(Scope {
        app: Arc::clone(app),
        asked,
        prefix: "detailed_",
        found: OnceLock::new(),
    });
    let wanted = |name: &str| scope.asked.wants_family(name);
    let families = FAMILIES.iter().filter(|family| wanted(family.name));
    let mut made: Vec<_> = families.map(|family| (family.make)(&scope)).collect();
    if WITH_QUEUE_INFO.into_iter().any(wanted) {
        made.push(of_queue_infos(&scope));
    }
    let identity = identity(app, "detailed");
    items(made.into_iter().flatten().chain(once(identity)))
}

/// What `/metrics` has, with the sums of objects replaced by the objects.
pub(crate) fn per_object(app: &Arc<App>) -> Fragments {
    let mut page = MetricsPage::new("");
    page.whole(app);
    let scope = Arc::new(Scope {
        app: Arc::clone(app),
        asked: DetailedQuery::default(),
        prefix: "",
        found: OnceLock::new(),
    });
    let families = FAMILIES.iter().filter(|family| family.is_per_object);
    let mut made: Vec<_> = families.map(|family| (family.make)(&scope)).collect();
    made.push(of_queue_infos(&scope));
    let identity = identity(app, "per-object");
    let page = once(page.into_bytes());
    items(page.chain(made.into_iter().flatten()).chain(once(identity)))
}

fn identity(app: &App, endpoint: &str) -> Vec<u8> {
    let mut page = MetricsPage::new("");
    page.identity(app, endpoint);
    page.into_bytes()
}

fn page(scope: &Arc<Scope>, write: fn(&mut MetricsPage, &App)) -> Fragments {
    let mut page = MetricsPage::new(scope.prefix);
    write(&mut page, &scope.app);
    items(once(page.into_bytes()))
}

/// Objects of a kind; nothing in place of one that is not asked for, as looking at it is work too.
type AskedObjects<T> = Items<Option<T>>;

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

    fn queues(self: &Arc<Self>) -> AskedObjects<OfQueue> {
        if self.asked.queues.is_none() {
            return items(self.all_queues().map(Some));
        }
        let scope = Arc::clone(self);
        if self.found.get().is_some() {
            let nth = move |index: usize| Some(scope.found.get()?.get(index)?.clone());
            let found = (0..).map_while(nth);
            let remain = |(vhost, cell): OfQueue| (!cell.is_deleted()).then_some((vhost, cell));
            return items(found.map(remain));
        }
        let (mut all, mut found) = (self.fitting_queues(), Vec::new());
        let next = move || {
            let Some(queue) = all.next() else {
                if found.len() <= FOUND_MAX {
                    // Nobody else sets it: metrics are made one after the other.
                    let _ = scope.found.set(std::mem::take(&mut found));
                }
                return None;
            };
            if found.len() <= FOUND_MAX {
                found.extend(queue.clone());
            }
            Some(queue)
        };
        items(from_fn(next))
    }

    /// Those that fit the pattern, and a `None` now and then.
    fn fitting_queues(self: &Arc<Self>) -> impl Iterator<Item = Option<OfQueue>> + Send + use<> {
        let scope = Arc::clone(self);
        let of = move |vhost: Arc<Vhost>| {
            let scope = Arc::clone(&scope);
            let prefix = scope.asked.prefix();
            let fitting = walk::fitting(&vhost, prefix, move |name| scope.asked.wants_queue(name));
            fitting.map(move |cell| Some((Arc::clone(&vhost), cell?)))
        };
        self.wanted_vhosts().into_iter().flat_map(of)
    }

    /// Those of the virtual hosts that are asked for.
    fn all_queues(&self) -> impl Iterator<Item = OfQueue> + Send + use<> {
        let of =
            |vhost: Arc<Vhost>| walk::queues(&vhost).map(move |cell| (Arc::clone(&vhost), cell));
        self.wanted_vhosts().into_iter().flat_map(of)
    }

    fn peers(self: &Arc<Self>) -> AskedObjects<Arc<Peer>> {
        items(walk::peers(&self.app.broker).map(Some))
    }

    fn channels(self: &Arc<Self>) -> AskedObjects<ChannelFigures> {
        let of = |peer: Arc<Peer>| {
            let channels = peer.channels().into_iter();
            channels.map(move |stats| {
                let peer = Arc::clone(&peer);
                Some(ChannelFigures { peer, stats })
            })
        };
        items(walk::peers(&self.app.broker).flat_map(of))
    }

    fn exchanges(self: &Arc<Self>) -> AskedObjects<OfExchange> {
        let of = |vhost: Arc<Vhost>| {
            let known =
                |exchange: &Exchange| (Box::from(exchange.name()), Arc::clone(exchange.counts()));
            let exchanges = walk::exchanges(&vhost, known);
            exchanges.map(move |exchange| Some((Arc::clone(&vhost), exchange)))
        };
        items(self.wanted_vhosts().into_iter().flat_map(of))
    }
}

/// A metric with a line for each object that is asked for.
fn lines<T: 'static>(
    name: String,
    metric: &'static Metric<T>,
    mut objects: AskedObjects<T>,
    label: fn(&T, &mut Labels<'_>),
) -> impl Iterator<Item = Vec<u8>> + Send {
    let mut first = String::new();
    head(&mut first, &name, metric.kind, metric.help);
    let next = move || {
        let mut text = String::new();
        let mut looked_at = 0;
        for object in objects.by_ref().take(OBJECTS_OF_FRAGMENT) {
            looked_at += 1;
            let Some(object) = object else { continue };
            text.push_str(&name);
            text.push('{');
            label(&object, &mut Labels::new(&mut text));
            let _ = writeln!(text, "}} {}", (metric.value)(&object));
        }
        (looked_at > 0).then(|| text.into_bytes())
    };
    once(first.into_bytes()).chain(from_fn(next))
}

/// Each metric of objects that `objects` walks over anew.
fn of_each<T: 'static>(
    scope: &Arc<Scope>,
    metrics: &'static [Metric<T>],
    objects: fn(&Arc<Scope>) -> AskedObjects<T>,
    label: fn(&T, &mut Labels<'_>),
) -> Fragments {
    let scope = Arc::clone(scope);
    items(metrics.iter().flat_map(move |metric| {
        let name = format!("rabbitmq_{}{}", scope.prefix, metric.name);
        lines(name, metric, objects(&scope), label)
    }))
}

fn of_queues(scope: &Arc<Scope>, metrics: &'static [Metric<OfQueue>]) -> Fragments {
    of_each(scope, metrics, Scope::queues, |(vhost, cell), labels| {
        labels.add("vhost", &vhost.name).add("queue", &cell.name);
    })
}

fn of_queue_infos(scope: &Arc<Scope>) -> Fragments {
    of_each(
        scope,
        &QUEUE_INFO,
        Scope::queues,
        |(vhost, cell), labels| {
            labels.add("vhost", &vhost.name).add("queue", &cell.name);
            labels.add("queue_type", "rabbit_classic_queue");
            labels.add("membership", "leader");
        },
    )
}

/// RabbitMQ tells channel and exchange apart too.
fn published_to_queues(scope: &Arc<Scope>) -> Fragments {
    of_each(scope, &PUBLISHED, Scope::queues, |(vhost, cell), labels| {
        labels.add("queue_vhost", &vhost.name);
        labels.add("queue", &cell.name);
    })
}

fn of_channels(scope: &Arc<Scope>, metrics: &'static [Metric<ChannelFigures>]) -> Fragments {
    of_each(scope, metrics, Scope::channels, |channel, labels| {
        labels.add("channel", &channel.name());
    })
}

fn of_channels_in_vhosts(
    scope: &Arc<Scope>,
    metrics: &'static [Metric<ChannelFigures>],
) -> Fragments {
    of_each(scope, metrics, Scope::channels, |channel, labels| {
        labels.add("channel", &channel.name());
        labels.add("vhost", &channel.peer.client.vhost.lock());
    })
}

/// RabbitMQ labels a connection as a channel.
fn of_connections(scope: &Arc<Scope>, metrics: &'static [Metric<Arc<Peer>>]) -> Fragments {
    of_each(scope, metrics, Scope::peers, |peer, labels| {
        labels.add("channel", &peer.client.name);
    })
}

fn of_exchanges(scope: &Arc<Scope>, metrics: &'static [Metric<OfExchange>]) -> Fragments {
    of_each(scope, metrics, Scope::exchanges, |exchange, labels| {
        let (vhost, (name, _)) = exchange;
        labels.add("vhost", &vhost.name).add("exchange", name);
    })
}

/// One of those whose names know no prefix, and which are about all virtual hosts.
fn of_cluster<T: 'static>(
    metric: &'static Metric<T>,
    objects: AskedObjects<T>,
    label: fn(&T, &mut Labels<'_>),
) -> Fragments {
    let name = format!("rabbitmq_{}", metric.name);
    items(lines(name, metric, objects, label))
}

fn of_types(scope: &Scope, metric: &'static Metric<OfType>) -> Fragments {
    let exchanges = |vhost: Arc<Vhost>| {
        let of_vhost = Arc::clone(&vhost);
        let of = move |exchange: &Exchange| OfType {
            vhost: Arc::clone(&of_vhost),
            name: exchange.name().into(),
            kind: exchange.spec().kind,
            bindings: exchange.binding_count() as u64,
        };
        walk::exchanges(&vhost, of).map(Some)
    };
    let objects = items(scope.vhosts().into_iter().flat_map(exchanges));
    of_cluster(metric, objects, |exchange, labels| {
        labels.add("vhost", &exchange.vhost.name);
        labels.add("exchange", &exchange.name);
        labels.add("type", exchange.kind.name());
    })
}

fn vhost_status(scope: &Arc<Scope>) -> Fragments {
    let objects = items(scope.vhosts().into_iter().map(Some));
    of_cluster(&VHOST_STATUS, objects, |vhost, labels| {
        labels.add("vhost", &vhost.name);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_says_what_names_begin_with_only_where_all_do() {
        for (pattern, expected) in [
            ("^orders$", "orders"),
            (r"^orders\.eu\.", "orders.eu."),
            ("^ab*c", "a"),
            ("^ab?", "a"),
            ("^(?:ab)c", "abc"),
            (r"\Aab", "ab"),
            ("^é.", "é"),
            ("", ""),
            ("ab", ""),
            ("^", ""),
            ("^a|b", ""),
            ("^(?i)ab", ""),
            ("(?m)^ab", ""),
            ("^[ab]c", ""),
        ] {
            assert_eq!(
                &*super::pattern(pattern).unwrap().prefix,
                expected,
                "{pattern}"
            );
        }
    }

    #[test]
    fn what_is_asked_for_is_read_from_the_query() {
        let asked = DetailedQuery::of("family=a&vhost=%2F&family=b+c&queue=%5Eq&page=1").unwrap();
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
            let refused = DetailedQuery::of(query).err().unwrap();
            assert!(refused.contains(why), "{query}: {refused}");
        }
    }
}
