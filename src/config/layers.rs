//! The sources of settings and how they are laid over each other.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::error::{ConfigError, ConfigProblem, SettingOrigin};
use super::keys::{self, VARIABLE_PREFIX};
use super::rabbitmq;
use super::{Arguments, Config};

/// Everything settings are read from, already in memory.
#[derive(Default)]
pub struct Sources {
    /// The configuration file's path and text.
    pub file: Option<(PathBuf, String)>,
    /// Environment variables, ours and RabbitMQ's; others are ignored. One that names a file has
    /// the file's text here.
    pub environment: Vec<(String, String)>,
    /// Command-line settings: the option as the user knows it, and `section.key=value`.
    pub command_line: Vec<(String, String)>,
}

/// One value, the key it is for, and where it was given.
pub(super) struct GivenSetting {
    pub(super) origin: SettingOrigin,
    pub(super) key: String,
    pub(super) value: Given,
}

/// A value as it was given.
pub(super) enum Given {
    /// Bare text, whose reading depends on what the key accepts.
    Text(String),
    /// A value from a TOML file.
    Toml(Value),
}

impl Sources {
    /// Reads the configuration file and the environment.
    ///
    /// # Errors
    ///
    /// A file that was named and cannot be read, one that is there and cannot be read, or a
    /// variable of ours that is not UTF-8.
    pub fn gather(arguments: &Arguments) -> Result<Self, ConfigError> {
        let file = match &arguments.config {
            Some(path) => Some(read_file(path)?),
            None => first_present(STANDARD_FILES)?,
        };
        let set = arguments
            .set
            .iter()
            .map(|pair| ("--set".to_owned(), pair.clone()));
        let short = [
            ("--data-dir", "data_dir", &arguments.data_dir),
            ("--log-format", "log.format", &arguments.log_format),
        ];
        let short = short.into_iter().filter_map(|(option, key, value)| {
            let value = value.as_ref()?;
            Some((option.to_owned(), format!("{key}={value}")))
        });
        Ok(Self {
            file,
            environment: our_variables()?,
            command_line: set.chain(short).collect(),
        })
    }
}

/// Lays the sources over the defaults.
pub(super) fn merge(sources: &Sources) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut settings = Vec::new();
    if let Some((path, text)) = &sources.file {
        settings.extend(file_settings(path, text, &mut problems)?);
    }
    // RabbitMQ's variables first, so that ours win over them.
    match rabbitmq::settings(&sources.environment) {
        Ok(theirs) => settings.extend(theirs),
        Err(problem) => problems.push(problem),
    }
    settings.extend(environment_settings(&sources.environment));
    for (option, pair) in &sources.command_line {
        match command_line_setting(option, pair) {
            Ok(setting) => settings.push(setting),
            Err(problem) => problems.push(problem),
        }
    }
    let mut merged = Table::new();
    let mut origins = BTreeMap::new();
    for setting in settings {
        if let Err(problem) = apply(setting, &mut merged, &mut origins) {
            problems.push(problem);
        }
    }
    let config = build(merged, &origins, &mut problems);
    problems.sort_by_key(|problem| problem.origin.line());
    match config {
        Some(mut config) if problems.is_empty() => {
            config.file = sources.file.as_ref().map(|(path, _)| path.clone());
            config.without_effect = without_effect(&sources.environment);
            Ok(config)
        }
        _ => Err(ConfigError { problems }),
    }
}

/// Builds the settings and checks those that depend on each other.
fn build(
    merged: Table,
    origins: &BTreeMap<String, SettingOrigin>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<Config> {
    let config = match Config::deserialize(merged) {
        Ok(config) => config,
        Err(error) => {
            let message = error.message().to_owned();
            problems.push(ConfigProblem {
                origin: SettingOrigin::Together,
                message,
            });
            return None;
        }
    };
    if config.limits.assembly_bytes_max < config.amqp.max_message_size {
        let blamed = ["limits.assembly_bytes_max", "amqp.max_message_size"];
        let origin = blamed.iter().find_map(|key| origins.get(*key)).cloned();
        problems.push(ConfigProblem {
            origin: origin.unwrap_or(SettingOrigin::Together),
            message: format!(
                "`limits.assembly_bytes_max` ({}) must be at least `amqp.max_message_size` ({}), \
                 or the largest message could never arrive",
                config.limits.assembly_bytes_max, config.amqp.max_message_size
            ),
        });
    }
    Some(config)
}

fn apply(
    setting: GivenSetting,
    merged: &mut Table,
    origins: &mut BTreeMap<String, SettingOrigin>,
) -> Result<(), ConfigProblem> {
    let GivenSetting { origin, key, value } = setting;
    let Some(kind) = keys::kind_of(&key) else {
        let message = unknown(&key, &origin);
        return Err(ConfigProblem { origin, message });
    };
    let value = match value {
        Given::Text(raw) => kind.read(&raw),
        Given::Toml(value) => value,
    };
    let value = kind.accept(value).map_err(|reason| ConfigProblem {
        origin: origin.clone(),
        message: format!("`{key}` {reason}"),
    })?;
    match key.split_once('.') {
        None => merged.insert(key.clone(), value),
        Some((section, name)) => {
            let section = merged
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            section
                .as_table_mut()
                .and_then(|table| table.insert(name.to_owned(), value))
        }
    };
    origins.insert(key, origin);
    Ok(())
}

/// What became of a key that there was.
const NO_BODY_MAX: &str = "is no setting any more: the largest body of a request follows from \
                           `limits.arguments_bytes_max`, `amqp.max_message_size` and \
                           `management.definitions_bytes_max`; `management.bodies_bytes_max` is \
                           for all together";

/// Says that a key is unknown, in the spelling of the place it stands in.
fn unknown(key: &str, origin: &SettingOrigin) -> String {
    let variable = |key: &str| match origin {
        SettingOrigin::Environment { .. } => keys::variable_of(key),
        _ => key.to_owned(),
    };
    if key == "tls" || key.starts_with("tls.") {
        return format!("`{key}`: {NO_TLS}");
    }
    if key == "management.body_bytes_max" {
        return format!("`{}`: {NO_BODY_MAX}", variable(key));
    }
    if keys::is_section(key) {
        return format!("`{key}` is a section, not a key");
    }
    let nearest = keys::nearest_key(key);
    let suggestion = nearest.map(|near| format!(", did you mean `{}`?", variable(near)));
    format!(
        "unknown key `{}`{}",
        variable(key),
        suggestion.unwrap_or_default()
    )
}

// --- the file

fn read_file(path: &Path) -> Result<(PathBuf, String), ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((path.to_owned(), text)),
        Err(error) => Err(ConfigProblem {
            origin: SettingOrigin::File {
                path: path.to_owned(),
                line: 0,
            },
            message: format!("cannot read the configuration file: {error}"),
        }
        .into()),
    }
}

fn first_present(paths: &[&str]) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let is_present = |path: &&&str| {
        let found = std::fs::metadata(path);
        !found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    paths
        .iter()
        .find(is_present)
        .map(|path| read_file(Path::new(path)))
        .transpose()
}

/// Flattens a file into settings, each with its line.
fn file_settings(
    path: &Path,
    text: &str,
    problems: &mut Vec<ConfigProblem>,
) -> Result<Vec<GivenSetting>, ConfigProblem> {
    let origin_at = |span: Range<usize>| {
        let before = text.get(..span.start).unwrap_or(text);
        SettingOrigin::File {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
        }
    };
    let syntax = |error: toml::de::Error| ConfigProblem {
        origin: origin_at(error.span().unwrap_or_default()),
        // Its `Display` would quote the line, which may hold a password.
        message: error.message().to_owned(),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let mut values: Table = toml::from_str(text).map_err(syntax)?;
    let mut settings = Vec::new();
    for (key, spanned) in spans.get_ref() {
        let name = key.get_ref().as_ref();
        let origin = origin_at(key.span());
        let Some(value) = values.remove(name) else {
            continue;
        };
        match (spanned.get_ref(), value) {
            (DeValue::Table(lines), Value::Table(section)) if keys::is_section(name) => {
                settings.extend(section_settings(name, lines, section, &origin_at));
            }
            (DeValue::Table(_), Value::Table(_)) if keys::kind_of(name).is_none() => {
                problems.push(unknown_section(name, origin));
            }
            (_, value) => {
                let key = name.to_owned();
                settings.push(GivenSetting {
                    origin,
                    key,
                    value: Given::Toml(value),
                });
            }
        }
    }
    Ok(settings)
}

fn section_settings(
    section: &str,
    lines: &DeTable<'_>,
    mut values: Table,
    origin_at: &impl Fn(Range<usize>) -> SettingOrigin,
) -> Vec<GivenSetting> {
    let setting = |(key, _): (&Spanned<std::borrow::Cow<'_, str>>, _)| {
        let name = key.get_ref().as_ref();
        let value = Given::Toml(values.remove(name)?);
        Some(GivenSetting {
            origin: origin_at(key.span()),
            key: format!("{section}.{name}"),
            value,
        })
    };
    lines.iter().filter_map(setting).collect()
}

fn unknown_section(name: &str, origin: SettingOrigin) -> ConfigProblem {
    if name == "tls" {
        let message = format!("`[tls]`: {NO_TLS}");
        return ConfigProblem { origin, message };
    }
    let nearest = keys::nearest_section(name);
    let suggestion = nearest.map(|near| format!(", did you mean `[{near}]`?"));
    let message = format!(
        "unknown section `[{name}]`{}",
        suggestion.unwrap_or_default()
    );
    ConfigProblem { origin, message }
}

// --- the environment

fn our_variables() -> Result<Vec<(String, String)>, ConfigError> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        let theirs = name.starts_with(rabbitmq::PREFIX);
        if !theirs && !name.starts_with(VARIABLE_PREFIX) {
            continue;
        }
        if theirs && !rabbitmq::is_known(&name) {
            variables.push((name, value.to_string_lossy().into_owned()));
            continue;
        }
        let value = value.into_string().map_err(|_| ConfigProblem {
            origin: SettingOrigin::Environment { name: name.clone() },
            message: "is not UTF-8".to_owned(),
        })?;
        let value = rabbitmq::value_of(&name, value)?;
        variables.push((name, value));
    }
    variables.sort();
    Ok(variables)
}

fn environment_settings(variables: &[(String, String)]) -> Vec<GivenSetting> {
    let setting = |name: &String, key: &str, value: Given| GivenSetting {
        origin: SettingOrigin::Environment { name: name.clone() },
        key: key.to_owned(),
        value,
    };
    let ours = variables.iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix(VARIABLE_PREFIX)?;
        let key = keys::key_names().find(|key| keys::variable_of(key) == *name);
        if key.is_none() && is_service_link(rest) {
            return None;
        }
        let unknown = rest.to_ascii_lowercase().replacen('_', ".", 1);
        Some(setting(
            name,
            key.unwrap_or(&unknown),
            Given::Text(value.clone()),
        ))
    });
    ours.collect()
}

/// The variables of RabbitMQ's that somebody set for it and that mean nothing here.
fn without_effect(variables: &[(String, String)]) -> Vec<String> {
    let means_nothing = |(name, value): &&(String, String)| {
        let Some(rest) = name.strip_prefix(rabbitmq::PREFIX) else {
            return false;
        };
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        // `RABBITMQ_NODE_PORT` is meant for the broker, `RABBITMQ_SERVICE_PORT` is not.
        let is_meant = rest.ends_with("_PORT") && !rest.ends_with("SERVICE_PORT") && is_number;
        !rabbitmq::is_known(name) && (is_meant || !is_service_link(rest))
    };
    let found = variables.iter().filter(means_nothing);
    found.map(|(name, _)| name.clone()).collect()
}

/// Tells a variable that Kubernetes and Docker links set for a service named `leveret…`, which
/// nobody meant as a setting: `LEVERET_SERVICE_HOST`, `LEVERET_PORT_5672_TCP_ADDR` and so on.
fn is_service_link(rest: &str) -> bool {
    let words: Vec<&str> = rest.split('_').collect();
    let is_port = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.ends_with(&["PORT"])
        || words.ends_with(&["SERVICE", "HOST"])
        || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"])
        || words
            .windows(3)
            .any(|w| matches!(w, ["PORT", port, "TCP" | "UDP" | "SCTP"] if is_port(port)))
}

// --- the command line

fn command_line_setting(option: &str, pair: &str) -> Result<GivenSetting, ConfigProblem> {
    let Some((key, value)) = pair.split_once('=') else {
        let origin = SettingOrigin::CommandLine {
            option: option.to_owned(),
        };
        let message = format!("`{pair}` is not of the form section.key=value");
        return Err(ConfigProblem { origin, message });
    };
    let key = key.trim().to_owned();
    // The value stays out of the origin: it may be a password.
    let option = if option == "--set" {
        format!("--set {key}")
    } else {
        option.to_owned()
    };
    let origin = SettingOrigin::CommandLine { option };
    Ok(GivenSetting {
        origin,
        key,
        value: Given::Text(value.to_owned()),
    })
}

/// Why there is nothing to be said about TLS.
const NO_TLS: &str = "TLS is not in this version: put a proxy with TLS in front of the broker";

/// Where a configuration file is looked for when none is named; the first one is used.
const STANDARD_FILES: &[&str] = &["./leveret.toml", "/etc/leveret/leveret.toml"];
