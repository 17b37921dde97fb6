//! Why the router refuses. Data only: the broker makes RabbitMQ's texts of it.

use crate::targets::QueueId;

/// Why a declaration, a deletion or a binding was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// 404: no exchange of that name.
    NoExchange(String),
    /// 404: no queue with that id.
    NoQueue(QueueId),
    /// 406: an exchange of that name exists and differs.
    Inequivalent {
        /// The property or argument that differs.
        argument: &'static str,
        /// As RabbitMQ prints it behind `received`: `'true'`, or `the value 'x' of type 'longstr'`.
        received: String,
        /// As RabbitMQ prints it behind `but current is`; `none` for an absent argument.
        current: String,
    },
    /// 403: the default exchange can be neither declared, deleted nor bound.
    DefaultExchange,
    /// 403: a new exchange may not be called `amq.…`.
    Reserved(String),
    /// 403: an exchange called `amq.…` cannot be deleted.
    SystemExchange(String),
    /// 406: the exchange has bindings and `if_unused` was set.
    InUse(String),
    /// 406: an argument of a new exchange has the wrong type.
    ArgumentType {
        /// The argument's name.
        argument: &'static str,
        /// RabbitMQ's name of the type received.
        kind: &'static str,
    },
    /// 406: `x-match` is none of the four; the value as Erlang prints it, `<<"bogus">>`.
    InvalidXMatch(String),
    /// 406: `x-match` is no string but of this type.
    InvalidXMatchType {
        /// RabbitMQ's name of the type received.
        kind: &'static str,
        /// The value as Erlang prints it.
        value: String,
    },
    /// 406: what an exchange of a plugin's type cannot take, in that plugin's words.
    Precondition(String),
    /// 406: binding arguments nested deeper than the codec reads.
    ArgumentsTooDeep,
}

/// A message was published to an exchange that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoExchange;
