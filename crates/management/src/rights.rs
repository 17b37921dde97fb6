//! Permissions of users on exchanges and queues: those of AMQP hold over HTTP too.

use leveret_broker::Vhost;
use leveret_router::ExchangeKind;

pub(crate) use leveret_broker::Right;

use crate::call::Call;
use crate::problem::Problem;

/// Requires access to an exchange or a queue; `object` is which of the two, and its name.
pub(crate) fn require(
    call: &Call,
    vhost: &str,
    right: Right,
    (kind, name): (&str, &str),
) -> Result<(), Problem> {
    let user = &call.caller.name;
    let may = call
        .app
        .broker
        .with_access(|access| access.may(vhost, user, right, name));
    if may {
        return Ok(());
    }
    let shown = if name.is_empty() {
        crate::call::DEFAULT_EXCHANGE
    } else {
        name
    };
    Err(Problem::NotAuthorised(format!(
        "ACCESS_REFUSED - {} access to {kind} '{shown}' in vhost '{vhost}' refused for user \
         '{user}'",
        right.name()
    )))
}

/// Requires that a routing key may be used with an exchange, if it is a topic exchange.
pub(crate) fn require_key(
    call: &Call,
    vhost: &Vhost,
    right: Right,
    (exchange, key): (&str, &[u8]),
) -> Result<(), Problem> {
    let kind = vhost
        .directory
        .read()
        .router
        .exchange(exchange)
        .map(|found| found.spec().kind);
    if kind != Some(ExchangeKind::Topic) {
        return Ok(());
    }
    let user = &call.caller.name;
    let at = (&*vhost.name, user.as_str(), exchange);
    if call
        .app
        .broker
        .with_access(|access| access.may_use_key(at, right, key))
    {
        return Ok(());
    }
    let key = String::from_utf8_lossy(key);
    Err(Problem::NotAuthorised(format!(
        "ACCESS_REFUSED - {} access to topic '{key}' in exchange '{exchange}' in vhost '{}' \
         refused for user '{user}'",
        right.name(),
        vhost.name
    )))
}
