//! Our own switches: alarms by hand, settings that change while the broker runs, and opening and
//! closing for clients.

use leveret_broker::{Alarm, Broker};
use serde_json::{Value, json};

use crate::call::Call;
use crate::field::{BodyFields, integer_of};
use crate::problem::Problem;
use crate::reply::{Answer, Reply};

/// `GET /api/x/config/effective`: every setting with its value, passwords hidden.
pub(crate) fn configuration(call: &Call) -> Answer {
    let mut configuration = call.app.host.configuration();
    for (name, section, key) in SETTINGS {
        configuration[section][key] = in_force(&call.app.broker, name);
    }
    Ok(Reply::Json(configuration))
}

/// Settings that change while the broker runs, and where the configuration has them.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("channel_max", "amqp", "channel_max"),
    ("loopback_users", "amqp", "loopback_users"),
    (
        "vm_memory_high_watermark",
        "limits",
        "memory_high_watermark",
    ),
];

fn in_force(broker: &Broker, setting: &str) -> Value {
    match setting {
        "channel_max" => broker.channel_max().into(),
        "loopback_users" => broker.with_access(|access| access.loopback_only().to_vec().into()),
        _ => broker.memory_high_watermark().into(),
    }
}

/// `GET /api/x/alarms`.
pub(crate) fn alarms(call: &Call) -> Answer {
    let states = call.app.broker.alarms().map(
        |state| json!({"name": state.alarm.name(), "active": state.active, "forced": state.forced}),
    );
    Ok(Reply::Json(json!(states)))
}

/// `GET /api/x/scrub`.
pub(crate) fn scrub(call: &Call) -> Answer {
    let broker = &call.app.broker;
    let scrub = broker.scrub_stats();
    Ok(Reply::Json(json!({
        "passes": scrub.passes,
        "last_pass_ended": scrub.ended_ms,
        "last_pass_took_ms": scrub.ended_ms.map(|_| scrub.took_ms),
        "chunks": scrub.chunks,
        "bytes": scrub.bytes,
        "bad_chunks": broker.runs_stats().read_errors,
    })))
}

fn force(call: &Call, forced: bool) -> Answer {
    let name = call.segment("alarm");
    let alarm = Alarm::ALL.into_iter().find(|alarm| alarm.name() == name);
    call.app
        .broker
        .force_alarm(alarm.ok_or(Problem::NotFound)?, forced);
    Ok(Reply::NoContent)
}

/// `PUT /api/x/alarms/{alarm}`: on, whatever is measured.
pub(crate) fn force_alarm(call: &Call) -> Answer {
    force(call, true)
}

/// `DELETE /api/x/alarms/{alarm}`: as it is measured.
pub(crate) fn release_alarm(call: &Call) -> Answer {
    force(call, false)
}

/// `GET /api/x/settings/{setting}`.
pub(crate) fn setting(call: &Call) -> Answer {
    let wanted = call.segment("setting");
    let known = SETTINGS.into_iter().find(|(name, ..)| *name == wanted);
    let (name, ..) = known.ok_or(Problem::NotFound)?;
    let value = in_force(&call.app.broker, name);
    Ok(Reply::Json(json!({"value": value})))
}

/// `PUT /api/x/settings/{setting}`: until the next start.
pub(crate) fn set(call: &Call) -> Answer {
    let body = call.object()?;
    let fields = BodyFields(&body);
    let value = fields.require("value")?;
    let broker = &call.app.broker;
    match call.segment("setting") {
        "channel_max" => {
            let number = integer_of(value).and_then(|number| u16::try_from(number).ok());
            let wrong = || Problem::bad("value must be from 0 to 65535; 0 is no limit");
            let number = number.ok_or_else(wrong)?;
            broker.set_channel_max(if number == 0 { u16::MAX } else { number });
        }
        "loopback_users" => {
            broker.set_loopback_only(fields.words("value")?.unwrap_or_default());
        }
        "vm_memory_high_watermark" => {
            let part = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            let part = part.filter(|part| (0.0..=1.0).contains(part));
            let wrong = || Problem::bad("value must be from 0 to 1");
            broker.set_memory_high_watermark(part.ok_or_else(wrong)?);
        }
        _ => return Err(Problem::NotFound),
    }
    Ok(Reply::NoContent)
}

/// `PUT /api/x/app`: closes for clients, or opens again.
pub(crate) fn app(call: &Call) -> Answer {
    let body = call.object()?;
    let fields = BodyFields(&body);
    fields.require("running")?;
    let running = fields.flag("running", true)?;
    let done = call.app.host.set_running(running);
    done.map_err(|error| Problem::Internal(error.to_string()))?;
    Ok(Reply::NoContent)
}

/// `DELETE /api/x/app`: the process ends as it does on its signal TERM.
pub(crate) fn end(call: &Call) -> Answer {
    call.app.host.end();
    Ok(Reply::NoContent)
}
