//! `rabbitmqctl eval`: no Erlang, but the expressions that client test suites use.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::erlang::{Term, parse};
use super::{Outcome, Shim, Stop, exit};
use crate::client::Request;

/// Settings that Leveret lets be read and changed while it runs.
const SETTINGS: &[&str] = &["channel_max", "loopback_users", "vm_memory_high_watermark"];

/// Evaluates the argument and prints the last value.
pub(crate) fn run(shim: &Shim) -> Outcome {
    let expressions = parse(shim.argument(0)).map_err(|error| {
        let given = shim.invocation.given.join(" ");
        let text = format!("Error (argument validation): \"{error}\"\nArguments given:\n\t{given}");
        Stop::new(exit::USAGE, text)
    })?;
    let mut variables = HashMap::new();
    let mut last = Term::atom("ok");
    for expression in &expressions {
        last = evaluate(shim, expression, &mut variables)?;
    }
    println!("{last}");
    Ok(())
}

type Variables = HashMap<String, Term>;

fn evaluate(shim: &Shim, expression: &Term, variables: &mut Variables) -> Result<Term, Stop> {
    let mut all = |items: &[Term]| -> Result<Vec<Term>, Stop> {
        items
            .iter()
            .map(|item| evaluate(shim, item, variables))
            .collect()
    };
    match expression {
        Term::Tuple(items) => Ok(Term::Tuple(all(items)?)),
        Term::List(items) => Ok(Term::List(all(items)?)),
        Term::Call(module, function, arguments) => {
            let arguments = all(arguments)?;
            call(shim, module, function, &arguments)
        }
        Term::Match(pattern, value) => {
            let value = evaluate(shim, value, variables)?;
            if bind(pattern, &value, variables) {
                return Ok(value);
            }
            Err(Stop::error(
                exit::UNAVAILABLE,
                &format!("{{:badmatch, {value}}}"),
            ))
        }
        Term::Variable(name) => variables
            .get(name)
            .cloned()
            .ok_or_else(|| Stop::error(exit::UNAVAILABLE, &format!("{{:unbound_var, :{name}}}"))),
        plain => Ok(plain.clone()),
    }
}

/// Matches `value` against `pattern`, and gives names to its parts.
fn bind(pattern: &Term, value: &Term, variables: &mut Variables) -> bool {
    match (pattern, value) {
        (Term::Variable(name), _) if name == "_" => true,
        (Term::Variable(name), _) => match variables.get(name) {
            Some(bound) => bound == value,
            None => variables.insert(name.clone(), value.clone()).is_none(),
        },
        (Term::Tuple(a), Term::Tuple(b)) | (Term::List(a), Term::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bind(a, b, variables))
        }
        (a, b) => a == b,
    }
}

fn call(shim: &Shim, module: &str, function: &str, arguments: &[Term]) -> Result<Term, Stop> {
    let ok = Term::atom("ok");
    let atom = |index: usize| match arguments.get(index) {
        Some(Term::Atom(name)) => name.as_str(),
        _ => "",
    };
    match (module, function, arguments) {
        ("" | "erlang", "node", []) => Ok(Term::Atom(shim.node()?)),
        ("" | "erlang", "nodes", []) => Ok(Term::List(Vec::new())),
        ("rabbit", "is_running", []) => Ok(Term::atom(if super::health::is_running(shim)? {
            "true"
        } else {
            "false"
        })),
        ("rabbit_alarm", "set_alarm", [Term::Tuple(alarm)]) if alarm.len() == 2 => {
            let resource = resource(&alarm[0])?;
            shim.change(&Request::put(&["x", "alarms", resource], json!({})))?;
            Ok(ok)
        }
        ("rabbit_alarm", "clear_alarm", [alarm]) => {
            let resource = resource(alarm)?;
            shim.change(&Request::delete(&["x", "alarms", resource]))?;
            Ok(ok)
        }
        ("rabbit_alarm", "get_alarms", []) => alarms(shim),
        ("application", "get_env", [_, _]) => match setting(shim, atom(1))? {
            Some(value) => Ok(Term::Tuple(vec![ok, value])),
            None => Ok(Term::atom("undefined")),
        },
        ("application", "get_env", [_, _, default]) => {
            Ok(setting(shim, atom(1))?.unwrap_or_else(|| default.clone()))
        }
        ("application", "set_env", [_, _, value]) => set(shim, atom(1), value),
        ("vm_memory_monitor", "get_vm_memory_high_watermark", []) => {
            let value = setting(shim, "vm_memory_high_watermark")?;
            Ok(value.unwrap_or_else(|| Term::atom("undefined")))
        }
        ("vm_memory_monitor", "set_vm_memory_high_watermark", [value]) => {
            set(shim, "vm_memory_high_watermark", value)
        }
        _ => {
            let module = if module.is_empty() {
                "erl_eval"
            } else {
                module
            };
            let call = format!(
                "{{:undef, [{{:{module}, :{function}, {}, []}}]}}",
                arguments.len()
            );
            Err(Stop::error(exit::UNAVAILABLE, &call))
        }
    }
}

/// The resource of `{resource_limit, memory, node()}`.
fn resource(alarm: &Term) -> Result<&'static str, Stop> {
    let wrong = || Stop::error(exit::UNAVAILABLE, &format!("{{:badarg, {alarm}}}"));
    let Term::Tuple(parts) = alarm else {
        return Err(wrong());
    };
    match parts.as_slice() {
        [Term::Atom(kind), Term::Atom(resource), _] if kind == "resource_limit" => {
            match resource.as_str() {
                "memory" => Ok("memory"),
                "disk" => Ok("disk"),
                _ => Err(wrong()),
            }
        }
        _ => Err(wrong()),
    }
}

fn alarms(shim: &Shim) -> Result<Term, Stop> {
    let node = Term::Atom(shim.node()?);
    let answer = shim.get(&["x", "alarms"])?;
    let alarms = answer.as_array().cloned().unwrap_or_default();
    let active = alarms.iter().filter(|alarm| alarm["active"] == true);
    let term = |alarm: &Value| {
        let resource = Term::atom(alarm["name"].as_str().unwrap_or_default());
        let limit = Term::Tuple(vec![Term::atom("resource_limit"), resource, node.clone()]);
        Term::Tuple(vec![limit, Term::List(Vec::new())])
    };
    Ok(Term::List(active.map(term).collect()))
}

fn setting(shim: &Shim, name: &str) -> Result<Option<Term>, Stop> {
    if !SETTINGS.contains(&name) {
        return Ok(None);
    }
    let answer = shim.get(&["x", "settings", name])?;
    Ok(Some(term(&answer["value"])))
}

/// A setting's value; texts are binaries, as names are in RabbitMQ.
fn term(value: &Value) -> Term {
    match value {
        Value::String(text) => Term::Binary(text.clone()),
        Value::Array(items) => Term::List(items.iter().map(term).collect()),
        other => Term::table(other),
    }
}

fn set(shim: &Shim, name: &str, value: &Term) -> Result<Term, Stop> {
    if !SETTINGS.contains(&name) {
        let text = format!("`{name}` cannot be set while the broker runs");
        return Err(Stop::error(exit::UNAVAILABLE, &text));
    }
    let request = Request::put(&["x", "settings", name], json!({"value": plain(value)}));
    shim.change(&request)?;
    Ok(Term::atom("ok"))
}

/// A term as JSON.
fn plain(term: &Term) -> Value {
    match term {
        Term::Int(number) => (*number).into(),
        Term::Float(number) => (*number).into(),
        Term::List(items) => items.iter().map(plain).collect(),
        // {absolute, "2GB"}
        Term::Tuple(items) if items.len() == 2 => plain(&items[1]),
        Term::Binary(text) | Term::Text(text) | Term::Atom(text) => text.clone().into(),
        other => other.to_string().into(),
    }
}
