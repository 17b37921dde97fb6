//! The commands, one module for each noun.

pub(crate) mod access;
pub(crate) mod backup;
pub(crate) mod binding;
pub(crate) mod connection;
pub(crate) mod consume;
pub(crate) mod definitions;
pub(crate) mod exchange;
pub(crate) mod message;
pub(crate) mod node;
pub(crate) mod parameter;
pub(crate) mod policy;
pub(crate) mod queue;
pub(crate) mod vhost;
