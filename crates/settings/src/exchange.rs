//! What policies mean for an exchange.

use serde_json::{Map, Value};

use crate::table::ALTERNATE_EXCHANGE;

/// What policies set for an exchange; its own arguments are the router's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExchangeSettings {
    /// Where messages go that lead to no queue, if its argument says nothing else.
    pub alternate: Option<String>,
}

impl ExchangeSettings {
    /// Reads a checked definition.
    #[must_use]
    pub fn of(definition: &Map<String, Value>) -> Self {
        let key = ALTERNATE_EXCHANGE.policy.map(|policy| policy.key);
        let name = key.and_then(|key| definition.get(key)?.as_str());
        Self {
            alternate: name.map(str::to_owned),
        }
    }
}
