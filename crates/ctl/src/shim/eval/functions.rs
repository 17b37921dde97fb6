//! The functions that `eval` knows: those that client test suites, configuration management and
//! health checks call.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::client::Request;
use crate::shim::erlang::Term;
use crate::shim::{Shim, Stop, exit, health, verbs};

/// Settings that Leveret lets be read and changed while it runs.
const SETTINGS: &[&str] = &["channel_max", "loopback_users", "vm_memory_high_watermark"];

/// RabbitMQ's settings that are read from ours.
const READ_ONLY: &[(&str, &str)] = &[
    ("consumer_timeout", "/limits/consumer_timeout_ms"),
    ("frame_max", "/amqp/frame_max"),
    ("heartbeat", "/amqp/heartbeat_s"),
    ("max_message_size", "/amqp/max_message_size"),
];

/// A value, or why there is none.
type Evaluated = Result<Term, Stop>;

/// One function, by its name and how many arguments it takes.
pub(super) struct Function {
    /// Empty for Erlang's own.
    module: &'static str,
    name: &'static str,
    arity: usize,
    pub(super) run: fn(&Shim, &[Term]) -> Evaluated,
}

pub(super) const ALL: &[Function] = &[
    function("", "node", 0, |shim, _| Ok(Term::Atom(shim.node()?))),
    function("", "nodes", 0, |_, _| Ok(Term::List(Vec::new()))),
    function("", "list_to_binary", 1, to_binary),
    function("rabbit", "is_running", 0, is_running),
    function("rabbit", "is_running", 1, is_running),
    function("rabbit", "is_booted", 0, is_running),
    function("rabbit", "is_booted", 1, is_running),
    function("rabbit", "alarms", 0, |shim, _| {
        Ok(Term::List(alarms(shim)?))
    }),
    function("rabbit_alarm", "get_alarms", 0, |shim, _| {
        let alarm = |alarm| Term::Tuple(vec![alarm, Term::List(Vec::new())]);
        Ok(Term::List(alarms(shim)?.into_iter().map(alarm).collect()))
    }),
    function("rabbit_alarm", "set_alarm", 1, set_alarm),
    function("rabbit_alarm", "clear_alarm", 1, clear_alarm),
    function("rabbit_networking", "active_listeners", 0, listeners),
    function("rabbit_access_control", "check_user_pass_login", 2, login),
    function("application", "get_env", 2, |shim, arguments| {
        Ok(match setting(shim, arguments)? {
            Some(value) => Term::Tuple(vec![Term::atom("ok"), value]),
            None => Term::atom("undefined"),
        })
    }),
    function("application", "get_env", 3, |shim, arguments| {
        let default = arguments.get(2).cloned();
        let value = setting(shim, arguments)?.or(default);
        Ok(value.unwrap_or_else(|| Term::atom("undefined")))
    }),
    function(
        "application",
        "set_env",
        3,
        |shim, arguments| match arguments {
            [_, name, value] => set(shim, name.text(), value),
            _ => Err(badarg(&Term::List(arguments.to_vec()))),
        },
    ),
    function("vm_memory_monitor", "get_memory_limit", 0, |shim, _| {
        let node = shim.get(&["nodes", &shim.node()?])?;
        Ok(Term::table(&node["mem_limit"]))
    }),
    function(
        "vm_memory_monitor",
        "get_vm_memory_high_watermark",
        0,
        |shim, _| changeable(shim, "vm_memory_high_watermark"),
    ),
    function(
        "vm_memory_monitor",
        "set_vm_memory_high_watermark",
        1,
        |shim, arguments| match arguments {
            [value] => set(shim, "vm_memory_high_watermark", value),
            _ => Err(badarg(&Term::List(arguments.to_vec()))),
        },
    ),
];

const fn function(
    module: &'static str,
    name: &'static str,
    arity: usize,
    run: fn(&Shim, &[Term]) -> Evaluated,
) -> Function {
    Function {
        module,
        name,
        arity,
        run,
    }
}

impl Function {
    pub(super) fn find(module: &str, name: &str, arity: usize) -> Option<&'static Self> {
        let module = if module == "erlang" { "" } else { module };
        ALL.iter().find(|function| {
            (function.module, function.name, function.arity) == (module, name, arity)
        })
    }
}

/// As Erlang writes it: `application:get_env/2`.
impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.module.is_empty() {
            write!(f, "{}:", self.module)?;
        }
        write!(f, "{}/{}", self.name, self.arity)
    }
}

fn badarg(term: &Term) -> Stop {
    Stop::error(exit::UNAVAILABLE, &format!("{{:badarg, {term}}}"))
}

fn to_binary(_: &Shim, arguments: &[Term]) -> Evaluated {
    match arguments {
        [Term::Text(text)] => Ok(Term::Binary(text.clone())),
        _ => Err(badarg(&Term::List(arguments.to_vec()))),
    }
}

/// Whether clients are served; there are no other nodes to ask about.
fn is_running(shim: &Shim, _: &[Term]) -> Evaluated {
    Ok(Term::flag(health::is_running(shim)?))
}

fn set_alarm(shim: &Shim, arguments: &[Term]) -> Evaluated {
    let Some(Term::Tuple(alarm)) = arguments.first() else {
        return Err(badarg(&Term::List(arguments.to_vec())));
    };
    let resource = resource(alarm.first().unwrap_or(&Term::List(Vec::new())))?;
    shim.change(&Request::put(&["x", "alarms", resource], json!({})))?;
    Ok(Term::atom("ok"))
}

fn clear_alarm(shim: &Shim, arguments: &[Term]) -> Evaluated {
    let resource = resource(arguments.first().unwrap_or(&Term::List(Vec::new())))?;
    shim.change(&Request::delete(&["x", "alarms", resource]))?;
    Ok(Term::atom("ok"))
}

/// The resource of `{resource_limit, memory, node()}`.
fn resource(alarm: &Term) -> Result<&'static str, Stop> {
    let wrong = || badarg(alarm);
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

/// Alarms in effect, each as `{resource_limit, memory, node()}`.
fn alarms(shim: &Shim) -> Result<Vec<Term>, Stop> {
    let node = Term::Atom(shim.node()?);
    let answer = shim.get(&["x", "alarms"])?;
    let alarms = answer.as_array().cloned().unwrap_or_default();
    let active = alarms.iter().filter(|alarm| alarm["active"] == true);
    let term = |alarm: &Value| {
        let resource = Term::atom(alarm["name"].as_str().unwrap_or_default());
        Term::Tuple(vec![Term::atom("resource_limit"), resource, node.clone()])
    };
    Ok(active.map(term).collect())
}

/// Each listener as RabbitMQ's record: node, protocol, host, address, port, options.
fn listeners(shim: &Shim, _: &[Term]) -> Evaluated {
    let node = Term::Atom(shim.node()?);
    let record = |listener: &health::Listener| {
        Term::Tuple(vec![
            Term::atom("listener"),
            node.clone(),
            Term::atom(&listener.protocol),
            Term::Text("localhost".to_owned()),
            address(&listener.address),
            Term::Int(i64::try_from(listener.port).unwrap_or_default()),
            Term::List(Vec::new()),
        ])
    };
    let listeners = health::all_listeners(shim)?;
    Ok(Term::List(listeners.iter().map(record).collect()))
}

/// `{127,0,0,1}`, and of IPv6 eight numbers.
fn address(text: &str) -> Term {
    let numbers = match text.parse() {
        Ok(IpAddr::V4(address)) => address.octets().map(i64::from).to_vec(),
        Ok(IpAddr::V6(address)) => address.segments().map(i64::from).to_vec(),
        Err(_) => return Term::Text(text.to_owned()),
    };
    Term::Tuple(numbers.into_iter().map(Term::Int).collect())
}

/// Whether a name and a password belong together, as `authenticate_user` finds out.
fn login(shim: &Shim, arguments: &[Term]) -> Evaluated {
    let [user @ Term::Binary(name), Term::Binary(password)] = arguments else {
        return Err(badarg(&Term::List(arguments.to_vec())));
    };
    if !verbs::is_login(shim, name, password)? {
        let reason = Term::Text("user '~ts' - invalid credentials".to_owned());
        let refused = Term::atom("refused");
        let names = Term::List(vec![user.clone()]);
        return Ok(Term::Tuple(vec![refused, user.clone(), reason, names]));
    }
    let row = shim.get(&["users", name])?;
    let tags = row["tags"].as_array().into_iter().flatten();
    let tags = tags.filter_map(Value::as_str).map(Term::atom).collect();
    let backend = vec![
        Term::atom("rabbit_auth_backend_internal"),
        Term::atom("none"),
    ];
    let record = vec![
        Term::atom("user"),
        user.clone(),
        Term::List(tags),
        Term::List(vec![Term::Tuple(backend)]),
    ];
    Ok(Term::Tuple(vec![Term::atom("ok"), Term::Tuple(record)]))
}

/// The setting that the second argument names, if it is one of the application `rabbit`.
fn setting(shim: &Shim, arguments: &[Term]) -> Result<Option<Term>, Stop> {
    let [application, name, ..] = arguments else {
        return Ok(None);
    };
    let name = name.text();
    if application.text() != "rabbit" {
        return Ok(None);
    }
    if SETTINGS.contains(&name) {
        return changeable(shim, name).map(Some);
    }
    let Some((_, pointer)) = READ_ONLY.iter().find(|(known, _)| *known == name) else {
        return Ok(None);
    };
    let settings = shim.get(&["x", "config", "effective"])?;
    let value = settings.pointer(pointer).map(term);
    // Without a timeout RabbitMQ has an atom there.
    let none = name == "consumer_timeout" && value == Some(Term::Int(0));
    Ok(if none {
        Some(Term::atom("undefined"))
    } else {
        value
    })
}

fn changeable(shim: &Shim, name: &str) -> Evaluated {
    let answer = shim.get(&["x", "settings", name])?;
    Ok(term(&answer["value"]))
}

/// A setting's value; texts are binaries, as names are in RabbitMQ.
fn term(value: &Value) -> Term {
    match value {
        Value::String(text) => Term::Binary(text.clone()),
        Value::Array(items) => Term::List(items.iter().map(term).collect()),
        other => Term::table(other),
    }
}

fn set(shim: &Shim, name: &str, value: &Term) -> Evaluated {
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
