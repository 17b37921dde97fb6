//! Limits of virtual hosts and of users.

use serde_json::{Map, Value, json};

use crate::client::Request;
use crate::failure::Kind;
use crate::shim::lists::fixed;
use crate::shim::{Outcome, Shim, Stop, exit};

/// Whose limits: where the API has them, and what RabbitMQ calls them in its errors.
#[derive(Clone, Copy)]
struct Owner {
    path: &'static str,
    /// The parent's own path and field of a row.
    parents: &'static str,
    field: &'static str,
    noun: &'static str,
    known: &'static [&'static str],
}

const VHOST: Owner = Owner {
    path: "vhost-limits",
    parents: "vhosts",
    field: "vhost",
    noun: "limits",
    known: &[
        "max-connections",
        "max-queues",
        "max-bytes",
        "max-publish-rate",
        "max-publish-byte-rate",
    ],
};
const USER: Owner = Owner {
    path: "user-limits",
    parents: "users",
    field: "user",
    noun: "user-limits",
    known: &["max-connections", "max-channels"],
};

impl Owner {
    /// RabbitMQ's error for an owner that is not there, which is another for each kind.
    fn must_exist(self, shim: &Shim, name: &str) -> Outcome {
        let found = shim.get(&[self.parents, name]);
        found.map(drop).map_err(|failure| match failure.kind {
            Kind::NotFound if self.parents == "users" => no_user(name),
            Kind::NotFound => {
                Stop::new(exit::DATA, format!("Virtual host '{name}' does not exist"))
            }
            _ => failure.into(),
        })
    }

    /// The limits that are set.
    fn current(self, shim: &Shim, name: &str) -> Result<Map<String, Value>, Stop> {
        let rows = shim.get(&[self.path, name])?;
        let row = rows.get(0).map(|row| &row["value"]);
        Ok(row.and_then(Value::as_object).cloned().unwrap_or_default())
    }

    /// Reads limits, all of which must be known and numbers.
    fn parse(self, text: &str) -> Result<Map<String, Value>, String> {
        let parsed = serde_json::from_str(text);
        let limits: Map<String, Value> = parsed.map_err(|_| {
            format!(
                "Could not parse JSON document: {{error,{{failed_to_decode_json,<<\"{text}\">>}}}}"
            )
        })?;
        for (name, value) in &limits {
            if !self.known.contains(&name.as_str()) {
                let noun = self.noun;
                return Err(format!(
                    "Unrecognised terms [{{<<\"{name}\">>,{value}}}] in {noun}"
                ));
            }
            if !value.is_i64() && !value.is_u64() {
                let actual = value.as_str().map(|text| format!("<<{text:?}>>"));
                let actual = actual.unwrap_or_else(|| value.to_string());
                return Err(format!("{name} should be a number, actually was {actual}"));
            }
        }
        Ok(limits)
    }

    /// Sets these limits and no others.
    fn replace(self, shim: &Shim, name: &str, limits: &Map<String, Value>) -> Outcome {
        for (limit, value) in limits {
            let body = json!({"value": value});
            shim.change(&Request::put(&[self.path, name, limit], body))?;
        }
        let gone = self.current(shim, name)?;
        for limit in gone.keys().filter(|limit| !limits.contains_key(*limit)) {
            shim.change(&Request::delete(&[self.path, name, limit]))?;
        }
        Ok(())
    }

    /// Limits of all owners, for a table.
    fn list_all(self, shim: &Shim) -> Outcome {
        let columns: &[&str] = if self.field == "user" {
            &["user", "limits"]
        } else {
            &["vhost", "limits"]
        };
        let rows = shim.get(&[self.path])?;
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        let named = |row: &Value| json!({self.field: row[self.field], "limits": row["value"]});
        let rows: Vec<Value> = rows.iter().map(named).collect();
        if rows.is_empty() && !shim.invocation.is_for_machines() {
            println!();
            return Ok(());
        }
        fixed(shim, &rows.into(), columns)
    }
}

fn no_user(name: &str) -> Stop {
    let text = format!("{{:no_such_user, \"{name}\"}}");
    Stop::error(exit::UNAVAILABLE, &text)
}

pub(super) fn set_vhost(shim: &Shim) -> Outcome {
    let (vhost, text) = (shim.vhost(), shim.argument(0));
    shim.banner(&format!(
        "Setting vhost limits to \"{text}\" for vhost \"{vhost}\" ..."
    ));
    VHOST.must_exist(shim, vhost)?;
    let limits = VHOST.parse(text).map_err(|error| {
        let text = match error.starts_with("Could not parse") {
            true => error,
            false => format!("Validation failed\n\n{error}\n"),
        };
        Stop::error(exit::UNAVAILABLE, &text)
    })?;
    VHOST.replace(shim, vhost, &limits)
}

pub(super) fn clear_vhost(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!("Clearing vhost \"{vhost}\" limits ..."));
    let missing = || Stop::error(exit::UNAVAILABLE, "Parameter does not exist");
    VHOST
        .must_exist(shim, vhost)
        .map_err(|stop| match stop.code {
            exit::DATA => missing(),
            _ => stop,
        })?;
    if VHOST.current(shim, vhost)?.is_empty() {
        return Err(missing());
    }
    VHOST.replace(shim, vhost, &Map::new())
}

pub(super) fn list_vhost(shim: &Shim) -> Outcome {
    if shim.invocation.has("global") {
        shim.banner("Listing limits for all vhosts ...");
        return VHOST.list_all(shim);
    }
    let vhost = shim.vhost();
    shim.banner(&format!("Listing limits for vhost \"{vhost}\" ..."));
    VHOST.must_exist(shim, vhost)?;
    let limits = VHOST.current(shim, vhost)?;
    if limits.is_empty() {
        println!();
    } else {
        println!("{}", Value::Object(limits));
    }
    Ok(())
}

pub(super) fn set_user(shim: &Shim) -> Outcome {
    let (user, text) = (shim.argument(0), shim.argument(1));
    shim.banner(&format!(
        "Setting user limits to \"{text}\" for user \"{user}\" ..."
    ));
    let limits = USER.parse(text);
    let limits = limits.map_err(|error| Stop::error(exit::UNAVAILABLE, &error))?;
    USER.must_exist(shim, user)?;
    for (limit, value) in &limits {
        // Unlike those of a virtual host, limits that are not named stay.
        let body = json!({"value": value});
        shim.change(&Request::put(&[USER.path, user, limit], body))?;
    }
    Ok(())
}

pub(super) fn clear_user(shim: &Shim) -> Outcome {
    let (user, limit) = (shim.argument(0), shim.argument(1));
    let shown = match limit {
        "all" => "all limits".to_owned(),
        one => format!("\"{one}\" limit"),
    };
    shim.banner(&format!("Clearing {shown} for user \"{user}\" ..."));
    USER.must_exist(shim, user)?;
    if limit == "all" {
        return USER.replace(shim, user, &Map::new());
    }
    // Clearing what is not set is done already.
    if USER.current(shim, user)?.contains_key(limit) {
        shim.change(&Request::delete(&[USER.path, user, limit]))?;
    }
    Ok(())
}

pub(super) fn list_user(shim: &Shim) -> Outcome {
    if shim.invocation.has("global") {
        shim.banner("Listing limits for all users ...");
        return USER.list_all(shim);
    }
    let user = shim.invocation.option("user").unwrap_or("guest");
    shim.banner(&format!("Listing limits for user \"{user}\" ..."));
    USER.must_exist(shim, user)?;
    println!("{}", Value::Object(USER.current(shim, user)?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_refused_in_rabbitmqs_words() {
        let error = |text| VHOST.parse(text).unwrap_err();
        assert_eq!(
            error(r#"{"bogus": 1}"#),
            "Unrecognised terms [{<<\"bogus\">>,1}] in limits"
        );
        assert_eq!(
            error(r#"{"max-queues": "x"}"#),
            "max-queues should be a number, actually was <<\"x\">>"
        );
        assert!(error("x").starts_with("Could not parse JSON document"));
        assert_eq!(VHOST.parse(r#"{"max-queues": -1}"#).unwrap().len(), 1);
    }
}
