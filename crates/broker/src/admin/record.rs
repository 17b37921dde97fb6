//! The form in which administration is kept in the store: a key for each thing, its value JSON.

use crate::settings::policy::PolicyKind;
use crate::topology::{self, DurableKind};

/// The key of a thing by its names.
pub(super) fn key(kind: DurableKind, names: &[&str]) -> Vec<u8> {
    let parts: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
    topology::key(kind, &parts)
}

pub(super) const fn kind_of(kind: PolicyKind) -> DurableKind {
    match kind {
        PolicyKind::User => DurableKind::Policy,
        PolicyKind::Operator => DurableKind::OperatorPolicy,
    }
}
