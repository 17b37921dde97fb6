//! Declares and deletes queues, exchanges and bindings.

use leveret_broker::{Binding, Churn, Condition, Effects, QueueSpec};
use leveret_codec::Table;
use leveret_router::{BindingSpec, BindingView, Declared, ExchangeKind, ExchangeSpec};

use crate::amqp::json_to_table;
use crate::binding::{Ends, created, named};
use crate::call::Call;
use crate::durable::finish;
use crate::field::BodyFields;
use crate::problem::Problem;
use crate::queue;
use crate::reply::{Answer, Reply};
use crate::rights::{Resource, Right, require, require_read};

/// A binding's body is small: its arguments are.
const BINDING_BYTES_MAX: usize = 5_000;

fn arguments(fields: &BodyFields<'_>) -> Result<Table, Problem> {
    let object = fields.object("arguments")?;
    object.map_or_else(|| Ok(Table::new()), json_to_table)
}

/// A name that a path makes for a new thing.
fn new_name<'a>(name: &'a str, what: &str) -> Result<&'a str, Problem> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Problem::bad(format!(
            "{what} name is longer than {NAME_BYTES_MAX} bytes"
        )));
    }
    Ok(name)
}

/// Refuses what is to be made on a node that is not this one.
fn here(call: &Call, fields: &BodyFields<'_>) -> Result<(), Problem> {
    match fields.text("node")? {
        Some(node) if node != call.app.node() => {
            Err(Problem::bad(format!("Node {node} is not a cluster member")))
        }
        _ => Ok(()),
    }
}

/// `PUT /api/queues/{vhost}/{queue}`.
pub(crate) fn declare_queue(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let name = new_name(call.segment("queue"), "queue")?;
    let body = call.object()?;
    let fields = BodyFields(&body);
    here(call, &fields)?;
    // A type is an argument: RabbitMQ takes no notice of one beside them, and lists show one there.
    let spec = QueueSpec {
        durable: fields.flag("durable", false)?,
        auto_delete: fields.flag("auto_delete", false)?,
        owner: None,
        arguments: arguments(&fields)?,
        declared_by: Some(call.app.broker.declarer(&call.caller.name)),
    };
    require(call, &vhost, |acting| {
        acting.declare_queue(name, &spec.arguments)
    })?;
    let mut effects = Effects::default();
    call.app.broker.events.count(Churn::QueueDeclared);
    let declared = call
        .app
        .broker
        .declare_queue(&vhost, name, spec, &mut effects);
    let (_, created) = declared.map_err(|refusal| Problem::refused(refusal, &vhost.name))?;
    finish(&call.app.broker, &mut effects)?;
    Ok(Reply::put(created))
}

/// `DELETE /api/queues/{vhost}/{queue}`. Administrators delete another connection's exclusive queue
/// too, as `rabbitmqctl delete_queue` does, which comes this way.
pub(crate) fn delete_queue(call: &Call) -> Answer {
    let (vhost, cell) = queue::find(call)?;
    require(call, &vhost, |acting| {
        acting.check(Right::Configure, Resource::Queue(&cell.name))
    })?;
    if !call.caller.is_administrator() {
        queue::not_exclusive(&vhost, &cell)?;
    }
    let condition = Condition {
        unused: call.flag("if-unused"),
        empty: call.flag("if-empty"),
        ..Condition::default()
    };
    let mut effects = Effects::default();
    let deleted = call
        .app
        .broker
        .delete_queue(&vhost, &cell, condition, &mut effects);
    deleted.map_err(|refusal| Problem::refused(refusal, &vhost.name))?;
    finish(&call.app.broker, &mut effects)?;
    Ok(Reply::NoContent)
}

/// `DELETE /api/queues/{vhost}/{queue}/contents`.
pub(crate) fn purge(call: &Call) -> Answer {
    let (vhost, cell) = queue::find(call)?;
    require_read(call, &vhost, &cell.name)?;
    queue::not_exclusive(&vhost, &cell)?;
    let mut effects = Effects::default();
    call.app.broker.purge_queue(&cell, &mut effects);
    finish(&call.app.broker, &mut effects)?;
    Ok(Reply::NoContent)
}

/// `POST /api/queues/{vhost}/{queue}/actions`: there are no mirrors to synchronise.
pub(crate) fn queue_action(call: &Call) -> Answer {
    call.needed_vhost()?;
    queue::find(call)?;
    let body = call.object()?;
    let action = BodyFields(&body).required_text("action")?.to_owned();
    match action.as_str() {
        "sync" | "cancel_sync" => Ok(Reply::NoContent),
        _ => Err(Problem::bad(format!("Unknown action: {action}"))),
    }
}

/// An exchange's type by its name.
pub(crate) fn exchange_kind(name: &str) -> Result<ExchangeKind, Problem> {
    let wrong = if name.is_empty() {
        "invalid"
    } else {
        "unknown"
    };
    ExchangeKind::from_name(name)
        .ok_or_else(|| Problem::bad(format!("{wrong} exchange type '{name}'")))
}

/// `PUT /api/exchanges/{vhost}/{exchange}`.
pub(crate) fn declare_exchange(call: &Call) -> Answer {
    let vhost = call.needed_vhost()?;
    let name = new_name(call.exchange_segment("exchange"), "exchange")?;
    let body = call.object()?;
    let fields = BodyFields(&body);
    let spec = ExchangeSpec {
        kind: exchange_kind(fields.text("type")?.unwrap_or("direct"))?,
        durable: fields.flag("durable", false)?,
        auto_delete: fields.flag("auto_delete", false)?,
        internal: fields.flag("internal", false)?,
        arguments: arguments(&fields)?,
    };
    require(call, &vhost, |acting| {
        acting.declare_exchange(name, &spec.arguments)
    })?;
    let mut effects = Effects::default();
    let declared = call
        .app
        .broker
        .declare_exchange(&vhost, name, spec, &mut effects);
    let declared = declared.map_err(|refusal| Problem::refused(refusal, &vhost.name))?;
    finish(&call.app.broker, &mut effects)?;
    Ok(Reply::put(declared == Declared::Created))
}

/// `DELETE /api/exchanges/{vhost}/{exchange}`.
pub(crate) fn delete_exchange(call: &Call) -> Answer {
    let vhost = call.vhost()?;
    let name = call.exchange_segment("exchange");
    if vhost.directory.read().router.exchange(name).is_none() {
        return Err(Problem::NotFound);
    }
    require(call, &vhost, |acting| acting.delete_exchange(name))?;
    let mut effects = Effects::default();
    let if_unused = call.flag("if-unused");
    let deleted = call
        .app
        .broker
        .delete_exchange(&vhost, name, if_unused, &mut effects);
    deleted.map_err(|refusal| Problem::refused(refusal, &vhost.name))?;
    finish(&call.app.broker, &mut effects)?;
    Ok(Reply::NoContent)
}

/// `POST /api/bindings/{vhost}/e/{source}/{kind}/{destination}`.
pub(crate) fn bind(call: &Call) -> Answer {
    if call.body.len() > BINDING_BYTES_MAX {
        return Err(Problem::TooLarge(BINDING_BYTES_MAX));
    }
    let ends = Ends::of_new(call)?;
    let body = call.object()?;
    let fields = BodyFields(&body);
    let key = fields.text("routing_key")?.unwrap_or_default();
    new_name(key, "routing key")?;
    let binding = binding(&ends, key, arguments(&fields)?)?;
    may_bind(call, &ends, key.as_bytes())?;
    not_exclusive(&ends)?;
    let mut effects = Effects::default();
    let bound = call.app.broker.bind(&ends.vhost, &binding, &mut effects);
    bound.map_err(|refusal| Problem::refused(refusal, &ends.vhost.name))?;
    finish(&call.app.broker, &mut effects)?;
    Ok(created(&ends, &properties_key(binding.spec())))
}

/// The name that a binding will have in lists.
fn properties_key(spec: &BindingSpec) -> String {
    let arguments = spec.canonical_arguments();
    let view = BindingView {
        source: &spec.source,
        destination: leveret_router::DestinationView::Exchange(""),
        key: &spec.key,
        arguments: leveret_codec::RawTable::parse(&arguments).unwrap_or_default(),
        number: None,
    };
    view.properties_key()
}

fn binding(ends: &Ends, key: &str, arguments: Table) -> Result<Binding, Problem> {
    let (source, key) = (&ends.source, key.as_bytes());
    if !ends.is_queue {
        let destination = &ends.destination;
        return Ok(Binding::of_exchange(source, destination, key, arguments));
    }
    let cell = ends.vhost.queue(&ends.destination);
    let cell = cell.ok_or(Problem::NotFound)?;
    Ok(Binding::of_queue(source, &cell, key, arguments))
}

/// Whoever binds writes to the destination and reads from the source.
fn may_bind(call: &Call, ends: &Ends, key: &[u8]) -> Result<(), Problem> {
    let destination = if ends.is_queue {
        Resource::Queue(&ends.destination)
    } else {
        Resource::Exchange(&ends.destination)
    };
    require(call, &ends.vhost, |acting| {
        acting.bind(&ends.source, destination, key)
    })
}

/// An exclusive queue is bound and unbound by its own connection only.
fn not_exclusive(ends: &Ends) -> Result<(), Problem> {
    if !ends.is_queue {
        return Ok(());
    }
    let cell = ends.vhost.queue(&ends.destination);
    let cell = cell.ok_or(Problem::NotFound)?;
    queue::not_exclusive(&ends.vhost, &cell)
}

/// `DELETE /api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}`.
pub(crate) fn unbind(call: &Call) -> Answer {
    let ends = Ends::of(call)?;
    let row = named(ends.rows(), call.segment("properties"))?;
    let binding = row.to_binding(&ends.vhost.directory.read());
    let binding = binding.ok_or(Problem::NotFound)?;
    may_bind(call, &ends, &binding.spec().key)?;
    not_exclusive(&ends)?;
    let mut effects = Effects::default();
    let unbound = call.app.broker.unbind(&ends.vhost, &binding, &mut effects);
    let found = unbound.map_err(|refusal| Problem::refused(refusal, &ends.vhost.name))?;
    finish(&call.app.broker, &mut effects)?;
    if found {
        Ok(Reply::NoContent)
    } else {
        Err(Problem::NotFound)
    }
}

/// AMQP's short string, which carries names, holds this many bytes.
const NAME_BYTES_MAX: usize = 255;
