//! Permissions of users on exchanges and queues: those of AMQP hold over HTTP too.

use leveret_broker::{Acting, Refusal, Vhost};

pub(crate) use leveret_broker::{Resource, Right};

use crate::call::Call;
use crate::problem::Problem;

/// Requires what `check` asks of the caller in a virtual host.
pub(crate) fn require(
    call: &Call,
    vhost: &Vhost,
    check: impl FnOnce(Acting<'_>) -> Result<(), Refusal>,
) -> Result<(), Problem> {
    let acting = Acting {
        broker: &call.app.broker,
        vhost,
        user: &call.caller.name,
    };
    check(acting).map_err(|refusal| Problem::refused(refusal, &vhost.name))
}

/// Requires that the caller may read from a queue.
pub(crate) fn require_read(call: &Call, vhost: &Vhost, queue: &str) -> Result<(), Problem> {
    require(call, vhost, |acting| {
        acting.check(Right::Read, Resource::Queue(queue))
    })
}
