//! What queues and exchanges are set to: arguments, policies, and the rules of a virtual host.

pub(crate) mod arguments;
pub(crate) mod notices;
pub(crate) mod parameters;
pub(crate) mod policy;
pub(crate) mod rules;
pub(crate) mod spec;
