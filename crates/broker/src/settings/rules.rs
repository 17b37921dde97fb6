//! What administrators set for a virtual host: its description, limits, policies and parameters.

use std::sync::Arc;

use leveret_access::{AdminError, VhostLimits};
use serde::{Deserialize, Serialize};

use crate::settings::arguments::QUEUE_TYPES;
use crate::settings::parameters::Parameters;
use crate::settings::policy::{Effective, Object, Policies};

/// What an administrator says of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VhostMetadata {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// For people and tools.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Type of queues that are declared without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_queue_type: Option<String>,
    /// Refuses to be deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected_from_deletion: bool,
}

impl VhostMetadata {
    /// Checks the queue type.
    ///
    /// # Errors
    /// When there is no such type.
    pub fn validate(&self) -> Result<(), AdminError> {
        match self.default_queue_type.as_deref() {
            Some(kind) if !QUEUE_TYPES.contains(&kind) => {
                let text = format!("{kind} is not a valid queue type");
                Err(AdminError::Invalid(text))
            }
            _ => Ok(()),
        }
    }
}

/// A virtual host as it is kept in the store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VhostRecord {
    #[serde(default)]
    metadata: VhostMetadata,
    #[serde(default)]
    limits: VhostLimits,
}

/// What administrators set for a virtual host.
#[derive(Debug, Default)]
pub struct Rules {
    /// Description, tags, default queue type, protection.
    pub metadata: VhostMetadata,
    /// Limits of connections and queues.
    pub limits: VhostLimits,
    /// Policies and operator policies.
    pub policies: Policies,
    /// Runtime parameters.
    pub parameters: Parameters,
}

impl Rules {
    pub(crate) fn record(&self) -> VhostRecord {
        VhostRecord {
            metadata: self.metadata.clone(),
            limits: self.limits,
        }
    }

    /// The policies that apply to a queue or exchange, if any do.
    pub(crate) fn effective(&self, object: Object<'_>) -> Option<Arc<Effective>> {
        if self.policies.is_empty() {
            return None;
        }
        let effective = self.policies.effective(object);
        let any = effective.policy.is_some() || effective.operator_policy.is_some();
        any.then(|| Arc::new(effective))
    }

    /// The policies that apply, and up to which change.
    pub(crate) fn effective_now(&self, object: Object<'_>) -> (u64, Option<Arc<Effective>>) {
        (self.policies.generation(), self.effective(object))
    }

    /// What applied then, or if policies have changed since, what applies now.
    pub(crate) fn still(
        &self,
        generation: u64,
        then: Option<Arc<Effective>>,
        object: Object<'_>,
    ) -> Option<Arc<Effective>> {
        if self.policies.generation() == generation {
            return then;
        }
        self.effective(object)
    }

    pub(crate) fn apply(&mut self, record: VhostRecord) {
        self.metadata = record.metadata;
        self.limits = record.limits;
    }
}
