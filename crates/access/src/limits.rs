//! Limits that an administrator sets on a user or a virtual host.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::AdminError;
use crate::validate::{integer, unrecognised};

/// Limits of one user. A negative number, or none, is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserLimits {
    /// Connections at once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_connections: Option<i64>,
    /// Channels at once, in all its connections.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_channels: Option<i64>,
}

/// Limits of one virtual host. A negative number, or none, is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VhostLimits {
    /// Connections at once.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_connections: Option<i64>,
    /// Queues that exist at once, of any type.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_queues: Option<i64>,
    /// Bytes of bodies that its queues hold before publishers have to wait.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_bytes: Option<i64>,
    /// Messages that are published in a second, by all its clients together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_publish_rate: Option<i64>,
    /// Bytes of their bodies.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_publish_byte_rate: Option<i64>,
}

macro_rules! limits {
    ($limits:ty, $whose:literal, $($name:literal => $field:ident),+) => {
        impl $limits {
            /// All of their names.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Reads limits from JSON.
            ///
            /// # Errors
            /// When a name is unknown or a value is no integer, in RabbitMQ's words.
            pub fn parse(given: &Map<String, Value>) -> Result<Self, AdminError> {
                let mut limits = Self::default();
                for (name, value) in given {
                    limits.set(name, value)?;
                }
                Ok(limits)
            }

            /// Sets one limit by its name.
            ///
            /// # Errors
            /// When the name is unknown or the value is no integer, in RabbitMQ's words.
            pub fn set(&mut self, name: &str, value: &Value) -> Result<(), AdminError> {
                let field = self.field(name).ok_or_else(|| unrecognised(name, value, $whose))?;
                *field = Some(integer(name, value)?);
                Ok(())
            }

            /// One limit by its name.
            #[must_use]
            pub fn get(mut self, name: &str) -> Option<i64> {
                *self.field(name)?
            }

            /// Takes one limit away; tells whether the name is a limit's.
            pub fn clear(&mut self, name: &str) -> bool {
                self.field(name).map(|field| *field = None).is_some()
            }

            /// These limits, and those of `others` where there is none.
            #[must_use]
            pub fn or(self, others: Self) -> Self {
                Self { $($field: self.$field.or(others.$field)),+ }
            }

            /// Whether nothing is limited.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                *self == Self::default()
            }

            fn field(&mut self, name: &str) -> Option<&mut Option<i64>> {
                match name {
                    $($name => Some(&mut self.$field),)+
                    _ => None,
                }
            }
        }
    };
}

limits!(UserLimits, "user-limits",
    "max-connections" => max_connections, "max-channels" => max_channels);
limits!(VhostLimits, "limits",
    "max-connections" => max_connections, "max-queues" => max_queues, "max-bytes" => max_bytes,
    "max-publish-rate" => max_publish_rate,
    "max-publish-byte-rate" => max_publish_byte_rate);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_read_written_and_refused_in_rabbitmqs_words() {
        let json = json!({"max-connections": 5, "max-channels": -1});
        let limits = UserLimits::parse(json.as_object().unwrap()).unwrap();
        assert_eq!(serde_json::to_value(limits).unwrap(), json);
        let refused = |json: Value| match VhostLimits::parse(json.as_object().unwrap()) {
            Err(AdminError::Invalid(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(json!({"max-queues": "many"})),
            "max-queues should be a number, actually was <<\"many\">>"
        );
        assert_eq!(
            refused(json!({"max-channels": 1})),
            "Unrecognised terms [{<<\"max-channels\">>,1}] in limits"
        );
    }
}
