//! Runtime parameters: JSON values of components that a virtual host keeps by name.

mod schema;
mod uri;

use std::collections::BTreeMap;
use std::ops::Bound;

use leveret_access::{AdminError, Put, check_name, term};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of one virtual host at most.
pub const PARAMETERS_MAX: usize = 10_000;
/// Largest value, bytes of JSON.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// A parameter. Its component is a plugin of RabbitMQ's that Leveret does not have: it is kept so
/// that definitions pass through unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its virtual host.
    pub vhost: String,
    /// Whose it is.
    pub component: String,
    /// Unique in its component.
    pub name: String,
    /// JSON, as its component wants it.
    pub value: Value,
}

/// The parameters of one virtual host, by component and name.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<String, BTreeMap<String, Parameter>>);

impl Parameter {
    /// Checks the value as its component's plugin would.
    ///
    /// # Errors
    /// When there is no such component, or its value is wrong, in RabbitMQ's words.
    pub fn validate(&self) -> Result<(), AdminError> {
        check_name("parameter", &self.name)?;
        check_value(&self.value)?;
        let (name, value) = (&*self.name, &self.value);
        let wrong = match self.component.as_str() {
            "shovel" => schema::shovel(name, value),
            "federation-upstream" => schema::upstream(name, value),
            "federation-upstream-set" => schema::upstream_set(name, value),
            "policy" => {
                let text = "policies may not be set using this method";
                return Err(AdminError::Invalid(text.into()));
            }
            "federation" => vec![format!("name not recognised: {}", term(&name.into()))],
            component => vec![format!("component {component} not found")],
        };
        if wrong.is_empty() {
            return Ok(());
        }
        let text = format!("Validation failed\n\n{}\n", wrong.join("\n"));
        Err(AdminError::Invalid(text))
    }
}

impl Parameters {
    /// Adds a parameter, or replaces it.
    ///
    /// # Errors
    /// When there are too many. What an earlier version kept is not checked again.
    pub fn put(&mut self, parameter: Parameter) -> Result<Put, AdminError> {
        let known = self.get(&parameter.component, &parameter.name).is_some();
        if !known && self.list().count() >= PARAMETERS_MAX {
            return Err(AdminError::Limit("parameters", PARAMETERS_MAX));
        }
        let of_component = self.0.entry(parameter.component.clone()).or_default();
        Ok(Put::of(
            &of_component.insert(parameter.name.clone(), parameter),
        ))
    }

    /// Removes a parameter. Tells whether it existed.
    pub fn delete(&mut self, component: &str, name: &str) -> bool {
        let of_component = self.0.get_mut(component);
        of_component.is_some_and(|parameters| parameters.remove(name).is_some())
    }

    /// A parameter.
    #[must_use]
    pub fn get(&self, component: &str, name: &str) -> Option<&Parameter> {
        self.0.get(component)?.get(name)
    }

    /// All parameters, by component and name.
    pub fn list(&self) -> impl Iterator<Item = &Parameter> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// Those behind this one, in the same order.
    pub fn list_after(&self, component: &str, name: &str) -> impl Iterator<Item = &Parameter> {
        let behind = |name| (Bound::Excluded(name), Bound::Unbounded);
        let same = self.0.get(component);
        let same = same.map(|named| named.range::<str, _>(behind(name)));
        let later = self.0.range::<str, _>(behind(component));
        let later = later.flat_map(|(_, named)| named);
        same.into_iter()
            .flatten()
            .chain(later)
            .map(|(_, parameter)| parameter)
    }
}

/// A parameter's value is not for storing files in.
pub(crate) fn check_value(value: &Value) -> Result<(), AdminError> {
    let bytes = value.to_string().len();
    if bytes > VALUE_BYTES_MAX {
        let text = format!("value of {bytes} bytes is larger than {VALUE_BYTES_MAX}");
        return Err(AdminError::Invalid(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_kept_by_component_and_name() {
        let mut parameters = Parameters::default();
        let parameter = |component: &str| Parameter {
            vhost: "/".into(),
            component: component.into(),
            name: "a".into(),
            value: json!({"uri": "amqp://"}),
        };
        assert_eq!(parameters.put(parameter("shovel")), Ok(Put::Created));
        assert_eq!(parameters.put(parameter("shovel")), Ok(Put::Updated));
        assert_eq!(parameters.list().count(), 1);
        assert_eq!(parameters.get("shovel", "a"), Some(&parameter("shovel")));
        assert!(parameters.delete("shovel", "a"));
        assert!(!parameters.delete("shovel", "a"));
    }

    #[test]
    fn parameters_are_checked_as_their_plugins_do() {
        let parameter = |component: &str, value: Value| Parameter {
            vhost: "/".into(),
            component: component.into(),
            name: "a".into(),
            value,
        };
        let refused = |component: &str, value: Value| match parameter(component, value).validate() {
            Err(AdminError::Invalid(text)) => text,
            other => panic!("{other:?}"),
        };
        let bogus = "Validation failed\n\ncomponent bogus not found\n";
        assert_eq!(refused("bogus", json!({})), bogus);
        let upstream = "Validation failed\n\nKey \"uri\" not found in a\n";
        assert_eq!(refused("federation-upstream", json!({})), upstream);
        assert!(refused("federation", json!(1)).contains("name not recognised: <<\"a\">>"));
        assert!(refused("policy", json!({})).contains("may not be set"));
        refused("shovel", "x".repeat(VALUE_BYTES_MAX).into());
        let upstream = json!({"uri": "amqp://u:p@h/v"});
        assert_eq!(
            parameter("federation-upstream", upstream).validate(),
            Ok(())
        );
    }
}
