//! Why the broker refuses a command, and the one table that makes faults of it.

use leveret_codec::{HardCode, SoftCode};
use leveret_router::Refused;
use leveret_session::Fault;

/// A refused command. Names are as clients gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such exchange.
    NoExchange(String),
    /// No such queue.
    NoQueue(String),
    /// An empty queue name, and no queue was declared on the channel.
    NoPreviousQueue,
    /// A name with the reserved prefix: what it is, and the name.
    ReservedName(&'static str, String),
    /// The default exchange cannot be changed.
    DefaultExchange,
    /// A predeclared exchange cannot be deleted.
    SystemExchange(String),
    /// Clients cannot publish to an internal exchange.
    InternalExchange(String),
    /// A declaration with a type that there is not.
    UnknownExchangeType(String),
    /// Declared before with other properties: the argument, what it belongs to, and the difference.
    Inequivalent {
        /// Its name.
        argument: String,
        /// `queue` or `exchange`.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// `received … but current is …`.
        difference: String,
    },
    /// An argument that cannot be accepted: the argument, what it belongs to, and why.
    InvalidArgument {
        /// Its name.
        argument: String,
        /// `queue` or `exchange`.
        kind: &'static str,
        /// The object's name.
        name: String,
        /// Explanation in RabbitMQ's words.
        reason: String,
    },
    /// An exchange's argument of the wrong type: that, the argument, and the exchange.
    ArgumentType(&'static str, &'static str, String),
    /// A queue's argument of the wrong type: that, the argument, and the queue.
    QueueArgumentType(&'static str, &'static str, String),
    /// An argument that the queue's type does not know: the argument, the queue, its type.
    ForeignArgument(&'static str, String, &'static str),
    /// A property that the queue type does not allow.
    InvalidProperty(&'static str, String),
    /// An exchange or queue is in use.
    InUse(&'static str, String),
    /// A queue holds messages.
    NotEmpty(String),
    /// An exclusive queue of another connection.
    Locked(String),
    /// A consumer wants the queue for itself.
    ExclusiveUse(String),
    /// The user lacks a permission: which access to what.
    Denied(String),
    /// The tag names no delivery in waiting.
    UnknownDeliveryTag(u64),
    /// A consumer tag is in use on the channel.
    ConsumerTagInUse(String),
    /// The virtual host is gone.
    NoVhost(String),
    /// A channel has as many consumers as it may have.
    TooManyConsumers(usize),
    /// A limit of the broker is reached.
    Limit(String),
    /// Any other failed precondition, in RabbitMQ's words.
    Precondition(String),
    /// Not implemented, in RabbitMQ's words.
    NotImplemented(String),
    /// A method that only a server sends.
    Unexpected(&'static str),
    /// A name that is no UTF-8.
    NotText(&'static str),
}

impl Refusal {
    /// The fault it becomes on `channel`, for the method `id`.
    #[must_use]
    pub fn fault(self, channel: u16, vhost: &str, id: (u16, u16)) -> Fault {
        use SoftCode::{AccessRefused, NotFound, ResourceLocked};
        let (code, text) = match self {
            Self::NoExchange(name) => {
                (NotFound, format!("no exchange '{name}' in vhost '{vhost}'"))
            }
            Self::NoQueue(name) => (NotFound, format!("no queue '{name}' in vhost '{vhost}'")),
            Self::NoPreviousQueue => (NotFound, "no previously declared queue".into()),
            Self::ReservedName(kind, name) => (
                AccessRefused,
                format!("{kind} name '{name}' contains reserved prefix 'amq.*'"),
            ),
            Self::DefaultExchange => (
                AccessRefused,
                "operation not permitted on the default exchange".into(),
            ),
            Self::SystemExchange(name) => (
                AccessRefused,
                format!("deletion of system exchange '{name}' in vhost '{vhost}' not allowed"),
            ),
            Self::InternalExchange(name) => (
                AccessRefused,
                format!("cannot publish to internal exchange '{name}' in vhost '{vhost}'"),
            ),
            Self::ExclusiveUse(name) => (
                AccessRefused,
                format!("queue '{name}' in vhost '{vhost}' in exclusive use"),
            ),
            Self::Denied(text) => (AccessRefused, text),
            Self::Locked(name) => (ResourceLocked, locked(&name, vhost)),
            other => return other.precondition(channel, vhost, id),
        };
        Fault::Channel {
            channel,
            code,
            text,
            method: id,
        }
    }

    /// Refusals that are failed preconditions; the rest is worse.
    fn precondition(self, channel: u16, vhost: &str, id: (u16, u16)) -> Fault {
        let text = match self {
            Self::UnknownDeliveryTag(tag) => format!("unknown delivery tag {tag}"),
            Self::UnknownExchangeType(kind) => format!("unknown exchange type '{kind}'"),
            Self::Inequivalent {
                argument,
                kind,
                name,
                difference,
            } => format!(
                "inequivalent arg '{argument}' for {kind} '{name}' in vhost '{vhost}': \
                     {difference}"
            ),
            Self::InvalidArgument {
                argument,
                kind,
                name,
                reason,
            } => {
                format!("invalid arg '{argument}' for {kind} '{name}' in vhost '{vhost}': {reason}")
            }
            Self::ArgumentType(kind, argument, name) => format!(
                "invalid type '{kind}' for arg '{argument}' in exchange '{name}' in vhost '{vhost}'"
            ),
            Self::QueueArgumentType(kind, argument, name) => format!(
                "invalid type '{kind}' for arg '{argument}' in queue '{name}' in vhost '{vhost}'"
            ),
            Self::ForeignArgument(argument, name, kind) => format!(
                "invalid arg '{argument}' for queue '{name}' in vhost '{vhost}' of queue type \
                 {kind}"
            ),
            Self::InvalidProperty(property, name) => {
                format!("invalid property '{property}' for queue '{name}' in vhost '{vhost}'")
            }
            Self::InUse(kind, name) => format!("{kind} '{name}' in vhost '{vhost}' in use"),
            Self::NotEmpty(name) => format!("queue '{name}' in vhost '{vhost}' not empty"),
            Self::Limit(text) | Self::Precondition(text) => text,
            hard => return hard.hard_fault(id),
        };
        Fault::channel(channel, SoftCode::PreconditionFailed, text, id)
    }

    /// Refusals that close the connection.
    fn hard_fault(self, id: (u16, u16)) -> Fault {
        let (code, text) = match self {
            Self::ConsumerTagInUse(tag) => (
                HardCode::NotAllowed,
                format!("attempt to reuse consumer tag '{tag}'"),
            ),
            Self::NoVhost(name) => (HardCode::NotAllowed, format!("vhost {name} not found")),
            Self::TooManyConsumers(max) => (
                HardCode::NotAllowed,
                format!("reached maximum ({max}) of consumers per channel"),
            ),
            Self::NotImplemented(text) => (HardCode::NotImplemented, text),
            Self::Unexpected(method) => (
                HardCode::CommandInvalid,
                format!("unexpected method {method} from a client"),
            ),
            Self::NotText(what) => (HardCode::SyntaxError, format!("{what} is not valid UTF-8")),
            soft => (HardCode::InternalError, format!("{soft:?}")),
        };
        Fault::connection(code, text, id)
    }
}

fn locked(name: &str, vhost: &str) -> String {
    format!(
        "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be \
         originally declared on another connection or the exclusive property value does not match \
         that of the original declaration."
    )
}

/// Makes a refusal of the router's, about the exchange `name`.
pub(crate) fn from_router(refused: Refused, name: &str) -> Refusal {
    match refused {
        Refused::NoExchange(name) => Refusal::NoExchange(name),
        Refused::NoQueue(id) => Refusal::NoQueue(id.0.to_string()),
        Refused::Inequivalent {
            argument,
            received,
            current,
        } => Refusal::Inequivalent {
            argument: argument.into(),
            kind: "exchange",
            name: name.into(),
            difference: format!("received {received} but current is {current}"),
        },
        Refused::DefaultExchange => Refusal::DefaultExchange,
        Refused::Reserved(name) => Refusal::ReservedName("exchange", name),
        Refused::SystemExchange(name) => Refusal::SystemExchange(name),
        Refused::InUse(name) => Refusal::InUse("exchange", name),
        Refused::ArgumentType { argument, kind } => {
            Refusal::ArgumentType(kind, argument, name.into())
        }
        Refused::InvalidXMatch(value) => Refusal::Precondition(format!(
            "Invalid x-match field value {value}; expected all, any, all-with-x, or any-with-x"
        )),
        Refused::InvalidXMatchType { kind, value } => Refusal::Precondition(format!(
            "Invalid x-match field type {kind} (value {value}); expected longstr"
        )),
        Refused::Precondition(text) => Refusal::Precondition(text),
        Refused::ArgumentsTooDeep => {
            Refusal::Precondition("binding arguments are nested too deep".into())
        }
    }
}
