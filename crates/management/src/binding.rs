//! Bindings as the API shows them.

use std::cmp::Ordering;
use std::sync::Arc;

use leveret_broker::{Directory, Vhost};
use leveret_codec::RawTable;
use leveret_router::{BindingView, DestinationView, Walk};
use serde_json::{Map, Value};

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::call::Call;
use crate::history::Window;
use crate::list::{Columns, Key, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// Bindings, or exchanges, copied at a time: whoever declares something does not wait for more.
pub(crate) const STEP: usize = 1024;

/// A binding in a list: a long one has many.
pub(crate) struct BindingRow {
    vhost: Arc<str>,
    /// Source, destination, key and arguments, one after the other.
    parts: Box<[u8]>,
    /// Where the first three of them end.
    ends: [usize; 3],
    pub(crate) is_queue: bool,
}

impl BindingRow {
    pub(crate) fn new(vhost: &Arc<str>, view: &BindingView<'_>) -> Self {
        let (destination, is_queue) = match view.destination {
            DestinationView::Queue(_, name) => (name, true),
            DestinationView::Exchange(name) => (name, false),
        };
        let (source, arguments) = (view.source.as_bytes(), view.arguments.as_bytes());
        let source_end = source.len();
        let destination_end = source_end + destination.len();
        Self {
            vhost: Arc::clone(vhost),
            parts: [source, destination.as_bytes(), view.key, arguments]
                .concat()
                .into(),
            ends: [
                source_end,
                destination_end,
                destination_end + view.key.len(),
            ],
            is_queue,
        }
    }

    /// The binding as it is in the router, but for the number of its queue.
    pub(crate) fn view(&self) -> BindingView<'_> {
        let [_, _, key, arguments] = self.parts();
        BindingView {
            source: self.source(),
            destination: DestinationView::Exchange(self.destination()),
            key,
            arguments: RawTable::parse(arguments).unwrap_or_default(),
        }
    }

    fn parts(&self) -> [&[u8]; 4] {
        let [source, destination, key] = self.ends;
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

    fn shown(&self) -> Map<String, Value> {
        let view = self.view();
        let mut row = Map::new();
        row.insert("source".to_owned(), view.source.into());
        row.insert("vhost".to_owned(), Value::from(&*self.vhost));
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

    fn order(&self, other: &Self) -> Ordering {
        let [source, destination, key, arguments] = self.parts();
        let [other_source, other_destination, other_key, other_arguments] = other.parts();
        (&self.vhost, source, destination)
            .cmp(&(&other.vhost, other_source, other_destination))
            .then_with(|| self.is_queue.cmp(&other.is_queue).reverse())
            .then_with(|| (key, arguments).cmp(&(other_key, other_arguments)))
    }

    fn key(&self, _: &App, field: &str) -> Option<Key> {
        let text = match field {
            "source" => self.source().to_owned(),
            "vhost" => self.vhost.to_string(),
            "destination" => self.destination().to_owned(),
            "destination_type" => self.kind().to_owned(),
            "routing_key" => String::from_utf8_lossy(self.parts()[2]).into_owned(),
            "properties_key" => self.view().properties_key(),
            _ => return None,
        };
        Some(Key::Text(text))
    }

    fn json(&self, _: &App, _: &Window) -> Map<String, Value> {
        self.shown()
    }
}

/// Copies the bindings of a virtual host step by step.
pub(crate) fn copied(vhost: &Vhost) -> Vec<BindingRow> {
    let mut rows = Vec::new();
    let mut walk = Walk::default();
    loop {
        let directory = vhost.directory.read();
        let views = directory.router.next_bindings(&mut walk, STEP);
        if views.is_empty() {
            return rows;
        }
        let listed = views.iter().filter(|view| is_listed(&directory, view));
        rows.extend(listed.map(|view| BindingRow::new(&vhost.name, view)));
    }
}

/// Whether a binding is for all to see: a queue of direct reply-to has a name for those alone who
/// are asked something.
fn is_listed(directory: &Directory, view: &BindingView<'_>) -> bool {
    match view.destination {
        DestinationView::Queue(_, name) => directory.queue(name).is_some(),
        DestinationView::Exchange(_) => true,
    }
}

/// `GET /api/bindings` and `/api/bindings/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let vhosts = call.vhosts()?;
    list(
        call,
        vhosts.iter().flat_map(|vhost| copied(vhost)).collect(),
    )
}

/// The bindings of what does not exist: there are none, which is no error in RabbitMQ.
fn none(call: &Call) -> Answer {
    list::<BindingRow>(call, Vec::new())
}

/// `GET /api/queues/{vhost}/{queue}/bindings`.
pub(crate) fn of_queue(call: &Call) -> Answer {
    let Ok((vhost, cell)) = crate::queue::find(call) else {
        return none(call);
    };
    let directory = vhost.directory.read();
    let bindings = directory.router.bindings_of_queue(cell.id);
    let rows = bindings
        .map(|view| BindingRow::new(&vhost.name, &view))
        .collect();
    drop(directory);
    list(call, rows)
}

/// `GET /api/exchanges/{vhost}/{exchange}/bindings/source`.
pub(crate) fn of_source(call: &Call) -> Answer {
    let Ok(vhost) = call.vhost() else {
        return none(call);
    };
    let name = call.exchange_segment("exchange");
    let directory = vhost.directory.read();
    let bindings = directory.router.bindings_of_source(name);
    let rows = bindings
        .filter(|view| is_listed(&directory, view))
        .map(|view| BindingRow::new(&vhost.name, &view))
        .collect();
    drop(directory);
    list(call, rows)
}

/// `GET /api/exchanges/{vhost}/{exchange}/bindings/destination`.
pub(crate) fn of_destination(call: &Call) -> Answer {
    let Ok(vhost) = call.vhost() else {
        return none(call);
    };
    let name = call.exchange_segment("exchange");
    let directory = vhost.directory.read();
    let bindings = directory.router.bindings_of_exchange_destination(name);
    let rows = bindings
        .map(|view| BindingRow::new(&vhost.name, &view))
        .collect();
    drop(directory);
    list(call, rows)
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
    pub(crate) fn views<'a>(&'a self, directory: &'a Directory) -> Vec<BindingView<'a>> {
        let of_source = |view: &BindingView<'_>| view.source == self.source;
        if self.is_queue {
            let Some(cell) = directory.queue(&self.destination) else {
                return Vec::new();
            };
            directory
                .router
                .bindings_of_queue(cell.id)
                .filter(of_source)
                .collect()
        } else {
            let bindings = directory
                .router
                .bindings_of_exchange_destination(&self.destination);
            bindings.filter(of_source).collect()
        }
    }
}

/// `GET /api/bindings/{vhost}/e/{source}/{kind}/{destination}`.
pub(crate) fn between(call: &Call) -> Answer {
    let Ok(ends) = Ends::of(call) else {
        return none(call);
    };
    let directory = ends.vhost.directory.read();
    let views = ends.views(&directory);
    let rows = views
        .iter()
        .map(|view| BindingRow::new(&ends.vhost.name, view))
        .collect();
    drop(directory);
    list(call, rows)
}

/// `GET /api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}`.
pub(crate) fn show(call: &Call) -> Answer {
    let ends = Ends::of(call)?;
    let directory = ends.vhost.directory.read();
    let views = ends.views(&directory);
    let view = named(&views, call.segment("properties"))?;
    let row = BindingRow::new(&ends.vhost.name, view).shown();
    Ok(Columns::reply(call, row))
}

/// The binding that has this properties key. The path may spell it decoded once more, if it is no
/// other's key and stands for one binding alone.
pub(crate) fn named<'a, 'v>(
    views: &'a [BindingView<'v>],
    properties: &str,
) -> Result<&'a BindingView<'v>, Problem> {
    let exact = views
        .iter()
        .find(|view| view.properties_key() == properties);
    let is_decoded = |view: &&BindingView<'_>| {
        let key = view.properties_key().replace('+', " ");
        percent_encoding::percent_decode_str(&key).eq(properties.bytes())
    };
    let decoded = || {
        let mut found = views.iter().filter(is_decoded);
        found.next().filter(|_| found.next().is_none())
    };
    exact.or_else(decoded).ok_or(Problem::NotFound)
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
    use leveret_codec::Table;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_shows_the_binding_it_was_copied_from() {
        let arguments: Table = [("x", leveret_codec::Value::I64(1))].into_iter().collect();
        let vhost = "v".into();
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
