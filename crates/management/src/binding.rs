//! Bindings as the API shows them.

use std::cmp::Ordering;
use std::iter::from_fn;
use std::sync::Arc;

use leveret_broker::{Binding, Directory, QueueCell, Vhost};
use leveret_codec::RawTable;
use leveret_router::{BindingView, DestinationView, Walk};
use serde_json::{Map, Value};

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::call::Call;
use crate::history::AskedSpans;
use crate::list::{Columns, Key, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};
use crate::stream::{Items, items};
use crate::walk;

/// Bindings copied at a time: whoever declares something does not wait for more.
const SLICE: usize = 512;
/// A binding longer than this is not kept while others of its slice are written.
const LONG_BYTES: usize = 1024;

/// A binding in a list: a long one has many.
pub(crate) struct BindingRow {
    vhost: Arc<Vhost>,
    /// Source, destination, key and arguments, one after the other.
    parts: Box<[u8]>,
    /// Where the first three of them end.
    ends: [u32; 3],
    /// Its number in the router; what the default exchange has by a queue's name has none.
    number: Option<u32>,
    pub(crate) is_queue: bool,
}

impl BindingRow {
    pub(crate) fn new(vhost: &Arc<Vhost>, view: &BindingView<'_>) -> Self {
        let (destination, is_queue) = match view.destination {
            DestinationView::Queue(_, name) => (name, true),
            DestinationView::Exchange(name) => (name, false),
        };
        let (source, arguments) = (view.source.as_bytes(), view.arguments.as_bytes());
        let source_end = source.len();
        let destination_end = source_end + destination.len();
        let ends = [
            source_end,
            destination_end,
            destination_end + view.key.len(),
        ];
        Self {
            vhost: Arc::clone(vhost),
            parts: [source, destination.as_bytes(), view.key, arguments]
                .concat()
                .into(),
            // Names and keys are short strings.
            ends: ends.map(|end| end as u32),
            number: view.number,
            is_queue,
        }
    }

    /// What binds a queue to the default exchange.
    fn implicit(vhost: &Arc<Vhost>, cell: &QueueCell) -> Self {
        let view = BindingView {
            source: "",
            destination: DestinationView::Queue(cell.id, &cell.name),
            key: cell.name.as_bytes(),
            arguments: RawTable::EMPTY,
            number: None,
        };
        Self::new(vhost, &view)
    }

    /// The binding as it is in the router, but for the number of its queue.
    pub(crate) fn view(&self) -> BindingView<'_> {
        let [_, _, key, arguments] = self.parts();
        BindingView {
            source: self.source(),
            destination: DestinationView::Exchange(self.destination()),
            key,
            arguments: RawTable::parse(arguments).unwrap_or_default(),
            number: self.number,
        }
    }

    /// The same to be changed; `None` when its queue is gone.
    pub(crate) fn to_binding(&self, directory: &Directory) -> Option<Binding> {
        let BindingView {
            source,
            key,
            arguments,
            ..
        } = self.view();
        let arguments = arguments.to_table();
        if !self.is_queue {
            let destination = self.destination();
            return Some(Binding::of_exchange(source, destination, key, arguments));
        }
        let cell = directory.queue(self.destination())?;
        Some(Binding::of_queue(source, cell, key, arguments))
    }

    fn parts(&self) -> [&[u8]; 4] {
        let [source, destination, key] = self.ends.map(|end| end as usize);
        [
            0..source,
            source..destination,
            destination..key,
            key..self.parts.len(),
        ]
        .map(|place| self.parts.get(place).unwrap_or_default())
    }

    fn source(&self) -> &str {
        let [source, ..] = self.parts();
        std::str::from_utf8(source).unwrap_or_default()
    }

    /// The queue or exchange it leads to.
    pub(crate) fn destination(&self) -> &str {
        let [_, destination, ..] = self.parts();
        std::str::from_utf8(destination).unwrap_or_default()
    }

    pub(crate) const fn kind(&self) -> &'static str {
        if self.is_queue { "queue" } else { "exchange" }
    }

    /// RabbitMQ's order of the bindings of a virtual host.
    fn order(&self, other: &Self) -> Ordering {
        let [source, destination, key, arguments] = self.parts();
        let [other_source, other_destination, other_key, other_arguments] = other.parts();
        (source, destination)
            .cmp(&(other_source, other_destination))
            .then_with(|| self.is_queue.cmp(&other.is_queue).reverse())
            .then_with(|| (key, arguments).cmp(&(other_key, other_arguments)))
    }

    fn shown(&self) -> Map<String, Value> {
        let view = self.view();
        let mut row = Map::new();
        row.insert("source".to_owned(), view.source.into());
        row.insert("vhost".to_owned(), Value::from(&*self.vhost.name));
        row.insert("destination".to_owned(), self.destination().into());
        row.insert("destination_type".to_owned(), self.kind().into());
        row.insert("routing_key".to_owned(), text(view.key));
        row.insert("arguments".to_owned(), table_to_json(view.arguments));
        row.insert("properties_key".to_owned(), view.properties_key().into());
        row
    }
}

impl Row for BindingRow {
    fn name(&self) -> &str {
        self.source()
    }

    fn key(&self, _: &App, field: &str) -> Option<Key> {
        Some(match field {
            "source" => Key::text(self.source()),
            "vhost" => Key::text(&self.vhost.name),
            "destination" => Key::text(self.destination()),
            "destination_type" => Key::text(self.kind()),
            "routing_key" => Key::text(&String::from_utf8_lossy(self.parts()[2])),
            "properties_key" => Key::text(&self.view().properties_key()),
            _ => return None,
        })
    }

    fn json(&self, _: &App, _: &AskedSpans) -> Map<String, Value> {
        self.shown()
    }

    fn shed(&mut self) {
        // Those of the default exchange are a queue's name twice, and are not found by a number.
        if self.number.is_some() {
            self.parts = Box::default();
        }
    }

    fn regain(&mut self) -> bool {
        let Some(number) = self.number else {
            return true;
        };
        let directory = self.vhost.directory.read();
        let Some(view) = directory.router.numbered_binding(number) else {
            return false;
        };
        let again = Self::new(&self.vhost, &view);
        drop(directory);
        *self = again;
        true
    }
}

/// The explicit bindings of a walk, slice by slice; those of a short one in RabbitMQ's order,
/// others as they came.
fn walked(
    vhost: &Arc<Vhost>,
    mut walk: Option<Walk>,
) -> impl Iterator<Item = BindingRow> + Send + use<> {
    let vhost = Arc::clone(vhost);
    let next = move || {
        let directory = vhost.directory.read();
        let views = directory.router.next_bindings(walk.as_mut()?, SLICE)?;
        let listed = views.iter().filter(|view| is_listed(&directory, view));
        let mut rows: Vec<_> = listed.map(|view| BindingRow::new(&vhost, view)).collect();
        drop(directory);
        rows.sort_by(BindingRow::order);
        for row in rows.iter_mut().filter(|row| row.parts.len() > LONG_BYTES) {
            row.shed();
        }
        Some(rows)
    };
    from_fn(next).flatten().filter_map(|mut row| {
        let is_shed = row.parts.is_empty();
        (!is_shed || row.regain()).then_some(row)
    })
}

/// Whether a binding is for all to see: a queue of direct reply-to has a name for those alone who
/// are asked something.
fn is_listed(directory: &Directory, view: &BindingView<'_>) -> bool {
    match view.destination {
        DestinationView::Queue(_, name) => directory.queue(name).is_some(),
        DestinationView::Exchange(_) => true,
    }
}

/// The bindings from an exchange that is not the default one.
fn from_exchange(
    vhost: &Arc<Vhost>,
    name: &str,
) -> impl Iterator<Item = BindingRow> + Send + use<> {
    let walk = vhost.directory.read().router.walk(Some(name), None);
    walked(vhost, walk)
}

/// Those from the default exchange, by the names of their queues.
fn from_default(vhost: &Arc<Vhost>) -> impl Iterator<Item = BindingRow> + Send + use<> {
    let vhost = Arc::clone(vhost);
    walk::queues(&vhost).map(move |cell| BindingRow::implicit(&vhost, &cell))
}

/// The explicit bindings of a virtual host, by the names of the exchanges they come from.
pub(crate) fn explicit_of_vhost(
    vhost: &Arc<Vhost>,
) -> impl Iterator<Item = BindingRow> + Send + use<> {
    let sources = walk::exchanges(vhost, |exchange| {
        let is_source = exchange.binding_count() > 0;
        is_source.then(|| exchange.name().to_owned())
    });
    let vhost = Arc::clone(vhost);
    let sources = sources.flatten();
    sources.flat_map(move |name| from_exchange(&vhost, &name))
}

/// `GET /api/bindings` and `/api/bindings/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let vhosts = call.vhosts()?.into_iter();
    let rows = vhosts.flat_map(|vhost| from_default(&vhost).chain(explicit_of_vhost(&vhost)));
    list(call, rows)
}

/// The bindings of what does not exist: there are none, which is no error in RabbitMQ.
fn none(call: &Call) -> Answer {
    list::<BindingRow>(call, std::iter::empty())
}

/// `GET /api/queues/{vhost}/{queue}/bindings`.
pub(crate) fn of_queue(call: &Call) -> Answer {
    let Ok((vhost, cell)) = crate::queue::find(call) else {
        return none(call);
    };
    list(call, to_queue(&vhost, &cell, None))
}

/// The bindings to a queue, from all exchanges or one.
fn to_queue(
    vhost: &Arc<Vhost>,
    cell: &QueueCell,
    source: Option<&str>,
) -> impl Iterator<Item = BindingRow> + Send + use<> {
    let implicit = BindingRow::implicit(vhost, cell);
    let implicit = source.is_none_or(str::is_empty).then_some(implicit);
    let to = DestinationView::Queue(cell.id, "");
    // The default exchange has no explicit bindings.
    let walk = vhost.directory.read().router.walk(source, Some(to));
    implicit.into_iter().chain(walked(vhost, walk))
}

/// `GET /api/exchanges/{vhost}/{exchange}/bindings/source`.
pub(crate) fn of_source(call: &Call) -> Answer {
    let Ok(vhost) = call.vhost() else {
        return none(call);
    };
    let name = call.exchange_segment("exchange");
    if name.is_empty() {
        list(call, from_default(&vhost))
    } else {
        list(call, from_exchange(&vhost, name))
    }
}

/// `GET /api/exchanges/{vhost}/{exchange}/bindings/destination`.
pub(crate) fn of_destination(call: &Call) -> Answer {
    let Ok(vhost) = call.vhost() else {
        return none(call);
    };
    let name = call.exchange_segment("exchange");
    list(call, to_exchange(&vhost, name, None))
}

fn to_exchange(
    vhost: &Arc<Vhost>,
    name: &str,
    source: Option<&str>,
) -> impl Iterator<Item = BindingRow> + Send + use<> {
    let to = DestinationView::Exchange(name);
    let walk = vhost.directory.read().router.walk(source, Some(to));
    walked(vhost, walk)
}

/// The two ends of a binding, as a path names them.
pub(crate) struct Ends {
    pub(crate) vhost: Arc<Vhost>,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) is_queue: bool,
}

impl Ends {
    /// Reads them; both must exist.
    pub(crate) fn of(call: &Call) -> Result<Self, Problem> {
        let ends = Self::named(call, call.vhost()?)?;
        match ends.missing() {
            None => Ok(ends),
            Some(_) => Err(Problem::NotFound),
        }
    }

    /// Reads those of a new binding; a refusal says which of them does not exist.
    pub(crate) fn of_new(call: &Call) -> Result<Self, Problem> {
        let ends = Self::named(call, call.needed_vhost()?)?;
        match ends.missing() {
            None => Ok(ends),
            Some(what) => Err(Problem::NoSuch(what)),
        }
    }

    fn named(call: &Call, vhost: Arc<Vhost>) -> Result<Self, Problem> {
        let is_queue = match call.segment("kind") {
            "q" => true,
            "e" => false,
            _ => return Err(Problem::NotFound),
        };
        Ok(Self {
            vhost,
            source: call.exchange_segment("source").to_owned(),
            destination: if is_queue {
                call.segment("destination").to_owned()
            } else {
                call.exchange_segment("destination").to_owned()
            },
            is_queue,
        })
    }

    /// The end that does not exist, in RabbitMQ's words.
    fn missing(&self) -> Option<String> {
        let directory = self.vhost.directory.read();
        let no_exchange = |name: &str| directory.router.exchange(name).is_none();
        let said = |kind: &str, name: &str| {
            Some(format!("no {kind} '{name}' in vhost '{}'", self.vhost.name))
        };
        let (source, destination) = (&self.source, &self.destination);
        if no_exchange(source) {
            said("exchange", source)
        } else if self.is_queue && directory.queue(destination).is_none() {
            said("queue", destination)
        } else if !self.is_queue && no_exchange(destination) {
            said("exchange", destination)
        } else {
            None
        }
    }

    /// The bindings between the two ends.
    pub(crate) fn rows(&self) -> Items<BindingRow> {
        let (vhost, source) = (&self.vhost, Some(&*self.source));
        if !self.is_queue {
            return items(to_exchange(vhost, &self.destination, source));
        }
        match vhost.queue(&self.destination) {
            Some(cell) => items(to_queue(vhost, &cell, source)),
            None => items(std::iter::empty()),
        }
    }
}

/// `GET /api/bindings/{vhost}/e/{source}/{kind}/{destination}`.
pub(crate) fn between(call: &Call) -> Answer {
    let Ok(ends) = Ends::of(call) else {
        return none(call);
    };
    list(call, ends.rows())
}

/// `GET /api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}`.
pub(crate) fn show(call: &Call) -> Answer {
    let row = named(Ends::of(call)?.rows(), call.segment("properties"))?;
    Ok(Columns::reply(call, row.shown()))
}

/// The binding that has this properties key. The path may spell it decoded once more, if it is no
/// other's key and stands for one binding alone.
pub(crate) fn named(
    rows: impl Iterator<Item = BindingRow>,
    properties: &str,
) -> Result<BindingRow, Problem> {
    let mut decoded = None;
    let mut count = 0;
    for row in rows {
        let key = row.view().properties_key();
        if key == properties {
            return Ok(row);
        }
        let key = key.replace('+', " ");
        if percent_encoding::percent_decode_str(&key).eq(properties.bytes()) {
            decoded = Some(row);
            count += 1;
        }
    }
    decoded.filter(|_| count == 1).ok_or(Problem::NotFound)
}

/// A reply that says where a new binding is.
pub(crate) fn created(ends: &Ends, properties_key: &str) -> Reply {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    // Relative to the request's path, whose last segment it replaces; a client decodes it once.
    Reply::CreatedAt(format!(
        "{}/{}",
        encode(&ends.destination),
        encode(properties_key)
    ))
}

#[cfg(test)]
mod tests {
    use leveret_broker::{Access, Broker, BrokerConfig};
    use leveret_codec::Table;
    use leveret_store::InstantStore;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_shows_the_binding_it_was_copied_from() {
        let arguments: Table = [("x", leveret_codec::Value::I64(1))].into_iter().collect();
        let broker = Broker::new(
            BrokerConfig::default(),
            Access::default(),
            Arc::new(InstantStore),
        );
        broker.first_start("guest", "guest", "v").unwrap();
        let vhost = broker.vhost("v").unwrap();
        let row = |key: &str, is_queue: bool| {
            let destination = if is_queue {
                DestinationView::Queue(leveret_router::QueueId(7), "d")
            } else {
                DestinationView::Exchange("d")
            };
            let view = BindingView {
                source: "source",
                destination,
                key: key.as_bytes(),
                arguments: arguments.as_raw(),
                number: None,
            };
            (BindingRow::new(&vhost, &view), view.properties_key())
        };
        let (of_queue, properties_key) = row("key", true);
        let shown = json!({"source": "source", "vhost": "v", "destination": "d",
            "destination_type": "queue", "routing_key": "key", "arguments": {"x": 1},
            "properties_key": properties_key});
        assert_eq!(Value::Object(of_queue.shown()), shown);
        let (of_exchange, _) = row("key", false);
        assert_eq!(of_queue.order(&of_exchange), Ordering::Less);
        assert_eq!(of_queue.order(&row("later", true).0), Ordering::Less);
        assert_eq!(of_queue.order(&of_queue), Ordering::Equal);
    }
}
