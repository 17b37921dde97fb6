//! Runtime parameters, and tracing.

use serde_json::{Value, json};

use crate::client::Request;
use crate::failure::{Failure, Kind};
use crate::shim::lists::fixed;
use crate::shim::{Outcome, Shim, Stop, exit};

/// What the command line gives as JSON.
fn value(text: &str) -> Result<Value, Stop> {
    serde_json::from_str(text).map_err(|_| {
        let text = format!(
            "Could not parse JSON document: {{error,{{failed_to_decode_json,<<\"{text}\">>}}}}"
        );
        Stop::error(exit::UNAVAILABLE, &text)
    })
}

/// RabbitMQ's form of a refused parameter.
fn refused(failure: Failure) -> Stop {
    match failure.kind {
        Kind::Refused => {
            let reason = failure.text.trim_start_matches("Validation failed: ");
            Stop::error(
                exit::UNAVAILABLE,
                &format!("Validation failed\n\n{reason}\n"),
            )
        }
        Kind::NotFound => Stop::error(exit::UNAVAILABLE, "Parameter does not exist"),
        _ => failure.into(),
    }
}

pub(super) fn set(shim: &Shim) -> Outcome {
    let (component, name, text) = (shim.argument(0), shim.argument(1), shim.argument(2));
    let vhost = shim.vhost();
    shim.banner(&format!(
        "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{text}\" in \
         vhost \"{vhost}\" ..."
    ));
    let body = json!({"value": value(text)?});
    let request = Request::put(&["parameters", component, vhost, name], body);
    shim.change(&request).map(drop).map_err(refused)
}

pub(super) fn clear(shim: &Shim) -> Outcome {
    let (component, name) = (shim.argument(0), shim.argument(1));
    let vhost = shim.vhost();
    shim.banner(&format!(
        "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \
         \"{vhost}\" ..."
    ));
    let request = Request::delete(&["parameters", component, vhost, name]);
    shim.change(&request).map(drop).map_err(refused)
}

pub(super) fn list(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!(
        "Listing runtime parameters for vhost \"{vhost}\" ..."
    ));
    let rows = shim.get(&["parameters"])?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    let of_vhost: Vec<Value> = rows
        .into_iter()
        .filter(|row| row["vhost"] == vhost)
        .collect();
    print(shim, of_vhost, &["component", "name", "value"])
}

/// An empty table is an empty line, as RabbitMQ prints it.
fn print(shim: &Shim, rows: Vec<Value>, columns: &[&str]) -> Outcome {
    if rows.is_empty() && !shim.invocation.is_for_machines() {
        println!();
        return Ok(());
    }
    fixed(shim, &rows.into(), columns)
}

pub(super) fn set_global(shim: &Shim) -> Outcome {
    let (name, text) = (shim.argument(0), shim.argument(1));
    shim.banner(&format!(
        "Setting global runtime parameter \"{name}\" to \"{text}\" ..."
    ));
    let body = json!({"value": value(text)?});
    let request = Request::put(&["global-parameters", name], body);
    shim.change(&request).map(drop).map_err(refused)
}

pub(super) fn clear_global(shim: &Shim) -> Outcome {
    let name = shim.argument(0);
    shim.banner(&format!("Clearing global runtime parameter \"{name}\" ..."));
    let request = Request::delete(&["global-parameters", name]);
    shim.change(&request).map(drop).map_err(refused)
}

pub(super) fn list_global(shim: &Shim) -> Outcome {
    shim.banner("Listing global runtime parameters ...");
    let rows = shim.get(&["global-parameters"])?;
    print(
        shim,
        rows.as_array().cloned().unwrap_or_default(),
        &["name", "value"],
    )
}

pub(super) fn trace_on(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!("Starting tracing for vhost \"{vhost}\" ..."));
    trace(shim, true)?;
    println!("Trace enabled for vhost {vhost}");
    Ok(())
}

pub(super) fn trace_off(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    shim.banner(&format!("Stopping tracing for vhost \"{vhost}\" ..."));
    trace(shim, false)?;
    println!("Trace disabled for vhost {vhost}");
    Ok(())
}

/// Sets one field of a virtual host and gives the others as they are: what a PUT does not name is
/// reset. RabbitMQ's tool takes any name for a virtual host; ours must be there.
fn trace(shim: &Shim, on: bool) -> Outcome {
    let vhost = shim.vhost();
    let present = shim.get(&["vhosts", vhost]);
    let mut body = present.map_err(|failure| match failure.kind {
        Kind::NotFound => Stop::new(exit::DATA, format!("Virtual host '{vhost}' does not exist")),
        _ => failure.into(),
    })?;
    let kept = [
        "description",
        "tags",
        "default_queue_type",
        "protected_from_deletion",
    ];
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|name, value| kept.contains(&name.as_str()) && !value.is_null());
        fields.insert("tracing".to_owned(), on.into());
    }
    shim.change(&Request::put(&["vhosts", vhost], body))?;
    Ok(())
}
