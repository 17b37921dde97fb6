//! RabbitMQ's environment variables: which of them mean something here, and how they are read.

use std::path::Path;

use toml::Value;

use super::error::{ConfigProblem, SettingOrigin};
use super::layers::{Given, GivenSetting};

/// What every environment variable of RabbitMQ's starts with.
pub(super) const PREFIX: &str = "RABBITMQ_";
/// A variable that names a file with the value in it, as Docker's secrets have it, ends with this.
const FILE_SUFFIX: &str = "_FILE";
const WATERMARK: &str = "RABBITMQ_VM_MEMORY_HIGH_WATERMARK";

/// The key that a variable sets as it is; with `_FILE` at its end, from the file it names.
fn key_of(name: &str) -> Option<&'static str> {
    match name {
        "RABBITMQ_DEFAULT_USER" | "RABBITMQ_DEFAULT_USER_FILE" => Some("default.user"),
        "RABBITMQ_DEFAULT_PASS" | "RABBITMQ_DEFAULT_PASS_FILE" => Some("default.password"),
        "RABBITMQ_DEFAULT_VHOST" | "RABBITMQ_DEFAULT_VHOST_FILE" => Some("default.vhost"),
        "RABBITMQ_NODENAME" => Some("management.node_name"),
        _ => None,
    }
}

/// Whether a variable means something here.
pub(super) fn is_known(name: &str) -> bool {
    name == WATERMARK || key_of(name).is_some()
}

/// The value of a variable: of one that names a file, the file's, without the ends of lines after
/// it.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn value_of(name: &str, value: String) -> Result<String, ConfigProblem> {
    if !name.ends_with(FILE_SUFFIX) || key_of(name).is_none() {
        return Ok(value);
    }
    let text = std::fs::read_to_string(Path::new(&value)).map_err(|error| ConfigProblem {
        origin: origin(name),
        message: format!("cannot read {value}: {error}"),
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// The settings that these variables make.
///
/// # Errors
/// Variables that contradict each other.
pub(super) fn settings(variables: &[(String, String)]) -> Result<Vec<GivenSetting>, ConfigProblem> {
    let mut settings = Vec::new();
    for (name, value) in variables {
        if let Some(plain) = name.strip_suffix(FILE_SUFFIX)
            && key_of(name).is_some()
            && variables.iter().any(|(other, _)| other == plain)
        {
            return Err(ConfigProblem {
                origin: origin(name),
                message: format!("{plain} is set too: only one of both can be"),
            });
        }
        let setting = |key: &str, value| GivenSetting {
            origin: origin(name),
            key: key.to_owned(),
            value,
        };
        if name == WATERMARK {
            let set = watermark(value).into_iter();
            settings.extend(set.map(|(key, value)| setting(key, value)));
        } else if let Some(key) = key_of(name) {
            // RabbitMQ takes the text as it is: quotes belong to the password.
            settings.push(setting(key, Given::Toml(Value::String(value.clone()))));
        }
    }
    Ok(settings)
}

/// `0.4` and `40%` are parts of the memory limit; `1073741824`, `512MB` and `1G` are bytes.
fn watermark(value: &str) -> Vec<(&'static str, Given)> {
    const BYTES: &str = "limits.memory_high_watermark_bytes";
    let value = value.trim();
    if let Some(part) = part_of(value) {
        let part = ("limits.memory_high_watermark", Given::Toml(part));
        // Whatever bytes a file sets, this wins over them.
        return vec![part, (BYTES, Given::Toml(Value::Integer(0)))];
    }
    // RabbitMQ means powers of two by a single letter.
    let of_two = value.ends_with(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']);
    let unit = if of_two { "iB" } else { "" };
    vec![(BYTES, Given::Text(format!("{value}{unit}")))]
}

fn part_of(value: &str) -> Option<Value> {
    if let Some(percent) = value.strip_suffix('%') {
        let part = percent.trim().parse::<f64>().map(|part| part / 100.0);
        return Some(part.map_or_else(|_| Value::String(value.to_owned()), Value::Float));
    }
    let part = value.parse::<f64>().ok()?;
    // Nothing at all would block every publisher, which nobody means to.
    (value.contains('.') || part == 0.0).then_some(Value::Float(part))
}

fn origin(name: &str) -> SettingOrigin {
    SettingOrigin::Environment {
        name: name.to_owned(),
    }
}
