//! Exchanges as the API shows them.

use std::cmp::Ordering;
use std::sync::Arc;

use leveret_broker::Vhost;
use leveret_router::{Exchange, ExchangeCounts, ExchangeSpec, Walk};
use serde_json::{Map, Value};

use crate::amqp::table_to_json;
use crate::app::App;
use crate::binding::STEP;
use crate::call::Call;
use crate::history::Window;
use crate::list::{Columns, Row, list};
use crate::problem::Problem;
use crate::reply::Answer;

/// An exchange in a list.
pub(crate) struct ExchangeRow {
    vhost: Arc<str>,
    pub(crate) name: Box<str>,
    pub(crate) spec: ExchangeSpec,
    counts: Arc<ExchangeCounts>,
}

impl ExchangeRow {
    pub(crate) fn new(vhost: &Arc<str>, exchange: &Exchange) -> Self {
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

    fn order(&self, other: &Self) -> Ordering {
        (&self.vhost, &self.name).cmp(&(&other.vhost, &other.name))
    }

    fn json(&self, app: &App, window: &Window) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("name".to_owned(), Value::from(&*self.name));
        row.insert("vhost".to_owned(), Value::from(&*self.vhost));
        row.insert("type".to_owned(), self.spec.kind.name().into());
        row.insert("durable".to_owned(), self.spec.durable.into());
        row.insert("auto_delete".to_owned(), self.spec.auto_delete.into());
        row.insert("internal".to_owned(), self.spec.internal.into());
        row.insert(
            "arguments".to_owned(),
            table_to_json(self.spec.arguments.as_raw()),
        );
        let (span, now_ms) = (window.message_rates, app.now_ms());
        if let Some(stats) = app.sampler.exchange_stats(&self.counts, span, now_ms) {
            row.insert("message_stats".to_owned(), stats.into());
        }
        row
    }
}

/// Copies the exchanges of a virtual host step by step.
pub(crate) fn copied(vhost: &Vhost) -> Vec<ExchangeRow> {
    let mut rows = Vec::new();
    let mut walk = Walk::default();
    loop {
        let directory = vhost.directory.read();
        let exchanges = directory.router.next_exchanges(&mut walk, STEP);
        if exchanges.is_empty() {
            return rows;
        }
        let exchanges = exchanges.into_iter();
        rows.extend(exchanges.map(|exchange| ExchangeRow::new(&vhost.name, exchange)));
    }
}

/// `GET /api/exchanges` and `/api/exchanges/{vhost}`.
pub(crate) fn index(call: &Call) -> Answer {
    let vhosts = call.vhosts()?;
    list(
        call,
        vhosts.iter().flat_map(|vhost| copied(vhost)).collect(),
    )
}

/// `GET /api/exchanges/{vhost}/{exchange}`.
pub(crate) fn show(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let name = call.exchange_segment("exchange");
    let directory = vhost.directory.read();
    let exchange = directory.router.exchange(name).ok_or(Problem::NotFound)?;
    let row = ExchangeRow::new(&vhost.name, exchange);
    drop(directory);
    let window = Window::of(call)?;
    Ok(Columns::reply(call, row.json(&call.app, &window)))
}
