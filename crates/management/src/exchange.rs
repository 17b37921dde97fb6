//! Exchanges as the API shows them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_broker::Vhost;
use leveret_codec::Table;
use leveret_router::{Exchange, ExchangeCounts, ExchangeSpec};
use serde_json::{Map, Value, json};

use crate::amqp::table_to_json;
use crate::app::App;
use crate::call::Call;
use crate::history::AskedSpans;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::Answer;
use crate::walk;

/// An exchange in a list.
pub(crate) struct ExchangeRow {
    vhost: Arc<Vhost>,
    pub(crate) name: Box<str>,
    pub(crate) spec: ExchangeSpec,
    counts: Arc<ExchangeCounts>,
}

impl ExchangeRow {
    fn new(vhost: &Arc<Vhost>, exchange: &Exchange) -> Self {
        Self {
            vhost: Arc::clone(vhost),
            name: exchange.name().into(),
            spec: exchange.spec().clone(),
            counts: Arc::clone(exchange.counts()),
        }
    }
}

impl Row for ExchangeRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn json(&self, app: &App, window: &AskedSpans) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("name".to_owned(), Value::from(&*self.name));
        row.insert("vhost".to_owned(), Value::from(&*self.vhost.name));
        row.insert("type".to_owned(), self.spec.kind.name().into());
        row.insert("durable".to_owned(), self.spec.durable.into());
        row.insert("auto_delete".to_owned(), self.spec.auto_delete.into());
        row.insert("internal".to_owned(), self.spec.internal.into());
        row.insert(
            "arguments".to_owned(),
            table_to_json(self.spec.arguments.as_raw()),
        );
        // Ours, as of a queue.
        let refused = self.counts.refused.load(Ordering::Relaxed);
        row.insert("x_messages_refused".to_owned(), refused.into());
        let (span, now_ms) = (window.message_rates, app.now_ms());
        if let Some(stats) = app.sampler.exchange_stats(&self.counts, span, now_ms) {
            row.insert("message_stats".to_owned(), stats.into());
        }
        row
    }

    fn shed(&mut self) {
        self.spec.arguments = Table::new();
    }

    fn regain(&mut self) -> bool {
        let directory = self.vhost.directory.read();
        let Some(exchange) = directory.router.exchange(&self.name) else {
            return false;
        };
        let again = Self::new(&self.vhost, exchange);
        drop(directory);
        *self = again;
        true
    }
}

/// The exchanges of a virtual host, by name.
pub(crate) fn of_vhost(vhost: &Arc<Vhost>) -> impl Iterator<Item = ExchangeRow> + Send + use<> {
    let of_vhost = Arc::clone(vhost);
    walk::exchanges(vhost, move |exchange| ExchangeRow::new(&of_vhost, exchange))
}

/// `GET /api/exchanges` and `/api/exchanges/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let vhosts = call.vhosts()?.into_iter();
    list(call, vhosts.flat_map(|vhost| of_vhost(&vhost)))
}

/// `GET /api/exchanges/{vhost}/{exchange}`.
pub(crate) fn show(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let name = call.exchange_segment("exchange");
    let directory = vhost.directory.read();
    let exchange = directory.router.exchange(name).ok_or(Problem::NotFound)?;
    let row = ExchangeRow::new(&vhost, exchange);
    drop(directory);
    let window = AskedSpans::of(call)?;
    let mut row = row.json(&call.app, &window);
    // With basic rates RabbitMQ does not tell from which channels and to which queues.
    row.insert("incoming".to_owned(), json!([]));
    row.insert("outgoing".to_owned(), json!([]));
    Ok(Columns::reply(call, row))
}
