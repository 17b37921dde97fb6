//! Bindings as the API shows them.

use std::cmp::Ordering;
use std::sync::Arc;

use leveret_broker::{Directory, Vhost};
use leveret_router::{BindingView, DestinationView};
use serde_json::{Map, Value};

use crate::amqp::{table_to_json, text};
use crate::app::App;
use crate::call::Call;
use crate::history::Window;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// A binding in a list.
pub(crate) struct BindingRow {
    vhost: Arc<str>,
    source: String,
    destination: String,
    is_queue: bool,
    row: Map<String, Value>,
}

impl BindingRow {
    pub(crate) fn new(vhost: &Arc<str>, view: &BindingView<'_>) -> Self {
        let (destination, is_queue) = match view.destination {
            DestinationView::Queue(_, name) => (name, true),
            DestinationView::Exchange(name) => (name, false),
        };
        let kind = if is_queue { "queue" } else { "exchange" };
        let mut row = Map::new();
        row.insert("source".to_owned(), view.source.into());
        row.insert("vhost".to_owned(), Value::from(&**vhost));
        row.insert("destination".to_owned(), destination.into());
        row.insert("destination_type".to_owned(), kind.into());
        row.insert("routing_key".to_owned(), text(view.key));
        row.insert("arguments".to_owned(), table_to_json(view.arguments));
        row.insert("properties_key".to_owned(), view.properties_key().into());
        Self {
            vhost: Arc::clone(vhost),
            source: view.source.to_owned(),
            destination: destination.to_owned(),
            is_queue,
            row,
        }
    }
}

impl Row for BindingRow {
    fn name(&self) -> &str {
        &self.source
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |row: &Self| {
            (
                row.vhost.clone(),
                row.source.clone(),
                row.destination.clone(),
            )
        };
        key(self)
            .cmp(&key(other))
            .then_with(|| self.is_queue.cmp(&other.is_queue).reverse())
            .then_with(|| order_of(&self.row).cmp(order_of(&other.row)))
    }

    fn json(&self, _: &App, _: &Window) -> Map<String, Value> {
        self.row.clone()
    }
}

fn order_of(row: &Map<String, Value>) -> &str {
    row.get("properties_key")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// `GET /api/bindings` and `/api/bindings/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let mut rows = Vec::new();
    for vhost in call.vhosts()? {
        let directory = vhost.directory.read();
        let bindings = directory.router.bindings();
        rows.extend(bindings.map(|view| BindingRow::new(&vhost.name, &view)));
    }
    list(call, rows)
}

/// `GET /api/queues/{vhost}/{queue}/bindings`.
pub(crate) fn of_queue(call: &Call) -> Answer {
    let (vhost, cell) = crate::queue::find(call)?;
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
    let vhost = call.vhost()?;
    let name = call.exchange_segment("exchange");
    let directory = vhost.directory.read();
    directory.router.exchange(name).ok_or(Problem::NotFound)?;
    let bindings = directory.router.bindings_of_source(name);
    let rows = bindings
        .map(|view| BindingRow::new(&vhost.name, &view))
        .collect();
    drop(directory);
    list(call, rows)
}

/// `GET /api/exchanges/{vhost}/{exchange}/bindings/destination`.
pub(crate) fn of_destination(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let name = call.exchange_segment("exchange");
    let directory = vhost.directory.read();
    directory.router.exchange(name).ok_or(Problem::NotFound)?;
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
        let is_queue = match call.segment("kind") {
            "q" => true,
            "e" => false,
            _ => return Err(Problem::NotFound),
        };
        let ends = Self {
            vhost: call.vhost()?,
            source: call.exchange_segment("source").to_owned(),
            destination: if is_queue {
                call.segment("destination").to_owned()
            } else {
                call.exchange_segment("destination").to_owned()
            },
            is_queue,
        };
        let directory = ends.vhost.directory.read();
        directory
            .router
            .exchange(&ends.source)
            .ok_or(Problem::NotFound)?;
        let exists = if is_queue {
            directory.queue(&ends.destination).is_some()
        } else {
            directory.router.exchange(&ends.destination).is_some()
        };
        drop(directory);
        if exists {
            Ok(ends)
        } else {
            Err(Problem::NotFound)
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
    let ends = Ends::of(call)?;
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
    let row = BindingRow::new(&ends.vhost.name, view).row;
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
        let key = view.properties_key();
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
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    // Relative to the request's path, whose last segment it replaces; a client decodes it once.
    Reply::CreatedAt(format!(
        "{}/{}",
        encode(&ends.destination),
        encode(properties_key)
    ))
}
