//! One queue where everybody can reach it, from its messages to the outlets of its consumers.

pub(crate) mod attempts;
pub(crate) mod cell;
pub(crate) mod consumer;
pub(crate) mod copied;
pub(crate) mod drain;
pub(crate) mod effects;
pub(crate) mod lease;
pub(crate) mod pace;
pub(crate) mod pager;
pub(crate) mod pump;
pub(crate) mod timer;
pub(crate) mod traced;
