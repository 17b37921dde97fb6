//! SIGHUP: the configuration is read again, and what may change while the broker runs does.

use std::sync::Arc;

use leveret_broker::{Broker, BrokerLimits};
use toml::{Table, Value};
use tracing::{error, info, warn};

use crate::config::{Arguments, Config, is_reloadable};
use crate::connection::Gate;
use crate::host::Process;
use crate::logging::Logging;
use crate::{default_password, definitions, settings};

/// Keeps what is in force beside what it is read from.
pub(crate) struct Reloader {
    pub(crate) arguments: Arguments,
    pub(crate) config: Config,
    pub(crate) broker: Arc<Broker>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) process: Arc<Process>,
    pub(crate) logging: Logging,
}

/// A key whose value has changed.
#[derive(Debug, PartialEq, Eq)]
struct ChangedKey {
    key: String,
    /// `key: before -> after`.
    shown: String,
}

impl Reloader {
    /// Reads the configuration again, and says what has changed or why nothing did.
    pub(crate) fn reload(&mut self) {
        let wanted = match Config::load(&self.arguments) {
            Ok(wanted) => wanted,
            Err(refused) => {
                let problems: Vec<_> = refused.to_string().lines().map(str::to_owned).collect();
                error!(
                    ?problems,
                    "SIGHUP: the configuration is refused, nothing has changed"
                );
                return;
            }
        };
        let file = wanted.file.as_ref().map(|path| path.display().to_string());
        let file = file.as_deref().unwrap_or("none");
        let (live, later): (Vec<_>, Vec<_>) = changes(&self.config, &wanted)
            .into_iter()
            .partition(|change| is_reloadable(&change.key));
        let unsafe_now = default_password::exposed(&wanted, &self.broker);
        if let (Some(problem), false) = (unsafe_now, wanted.auth.allow_default_password) {
            error!(
                file,
                problem, "SIGHUP: the configuration is refused, nothing has changed"
            );
            return;
        }
        if !live.is_empty()
            && let Err(problem) = self.apply(&wanted)
        {
            error!(
                file,
                problem, "SIGHUP: the configuration is refused, nothing has changed"
            );
            return;
        }
        let changed: Vec<_> = live.iter().map(|change| &change.shown).collect();
        if changed.is_empty() {
            info!(
                file,
                "SIGHUP: no setting has changed that a running broker takes over"
            );
        } else {
            info!(file, ?changed, "SIGHUP: settings have changed");
        }
        if !later.is_empty() {
            let settings: Vec<_> = later.iter().map(|change| &change.shown).collect();
            warn!(
                file,
                ?settings,
                "SIGHUP: these settings change with the next start only"
            );
        }
        if let Err(problem) = definitions::load(&self.config, &self.broker) {
            error!(%problem, "SIGHUP: definitions are not imported");
        }
    }

    fn apply(&mut self, wanted: &Config) -> Result<(), String> {
        self.logging.follow(&wanted.log)?;
        let before = &self.config;
        let settings = settings::of_broker(wanted);
        self.broker.set_limits(BrokerLimits::from(&settings));
        // An operator may have set these two over HTTP; only what changes here replaces that.
        if before.amqp.loopback_users != wanted.amqp.loopback_users {
            let users = wanted.amqp.loopback_users.clone();
            self.broker.set_loopback_only(users);
        }
        let watermark = settings::memory_high_watermark(wanted);
        if settings::memory_high_watermark(before) != watermark {
            self.broker.set_memory_high_watermark(watermark);
        }
        *self.gate.patience.write() = settings::patience(wanted);
        let failures = wanted.limits.login_failures_per_minute;
        self.gate.throttle.set_per_minute(failures);
        self.gate
            .endings
            .set_per_minute(wanted.log.connections_per_minute);
        adopt(&mut self.config, wanted);
        self.process.configured(&self.config);
        Ok(())
    }
}

/// Takes over what a running broker can.
fn adopt(config: &mut Config, wanted: &Config) {
    let (amqp, limits) = (&mut config.amqp, &mut config.limits);
    amqp.handshake_timeout_ms = wanted.amqp.handshake_timeout_ms;
    amqp.close_timeout_ms = wanted.amqp.close_timeout_ms;
    amqp.login_failure_delay_ms = wanted.amqp.login_failure_delay_ms;
    amqp.loopback_users.clone_from(&wanted.amqp.loopback_users);
    config.default.password_hashing = wanted.default.password_hashing;
    limits.queue_length_max = wanted.limits.queue_length_max;
    limits.queue_bytes_max = wanted.limits.queue_bytes_max;
    limits.consumer_timeout_ms = wanted.limits.consumer_timeout_ms;
    limits.connections_max = wanted.limits.connections_max;
    limits.connections_per_user_max = wanted.limits.connections_per_user_max;
    limits.connections_per_vhost_max = wanted.limits.connections_per_vhost_max;
    limits.consumers_per_channel_max = wanted.limits.consumers_per_channel_max;
    limits.queues_max = wanted.limits.queues_max;
    limits.exchanges_max = wanted.limits.exchanges_max;
    limits.bindings_max = wanted.limits.bindings_max;
    limits.arguments_bytes_max = wanted.limits.arguments_bytes_max;
    limits.transaction_bytes_max = wanted.limits.transaction_bytes_max;
    limits.memory_high_watermark = wanted.limits.memory_high_watermark;
    limits.memory_high_watermark_bytes = wanted.limits.memory_high_watermark_bytes;
    limits.login_failures_per_minute = wanted.limits.login_failures_per_minute;
    config.log.level = wanted.log.level;
    config.log.filter.clone_from(&wanted.log.filter);
    config.log.connections_per_minute = wanted.log.connections_per_minute;
    let definitions = &wanted.management.load_definitions;
    config.management.load_definitions.clone_from(definitions);
    config.file.clone_from(&wanted.file);
}

/// The keys whose values differ, in the order of their names.
fn changes(before: &Config, after: &Config) -> Vec<ChangedKey> {
    let (before_values, after_values) = (values(before), values(after));
    let differs = |(key, value): (&String, &Value)| {
        let was = before_values.get(key)?;
        let change = || ChangedKey {
            key: key.clone(),
            shown: format!("{key}: {was} -> {value}"),
        };
        (was != value).then(change)
    };
    let mut changes: Vec<_> = after_values.iter().filter_map(differs).collect();
    // A password has no form that could be compared or shown.
    if before.default.password != after.default.password {
        changes.push(ChangedKey {
            key: "default.password".to_owned(),
            shown: "default.password".to_owned(),
        });
    }
    changes
}

/// Every key with its value.
fn values(config: &Config) -> Table {
    let sections = Table::try_from(config).unwrap_or_default();
    let keys = sections.into_iter().flat_map(|(name, value)| match value {
        Value::Table(keys) => {
            let full = |(key, value)| (format!("{name}.{key}"), value);
            keys.into_iter().map(full).collect::<Vec<_>>()
        }
        value => vec![(name, value)],
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, Sources, key_names};

    /// A configuration in which no key has its default.
    fn unlike_the_default() -> Config {
        let others = [
            "false",
            "true",
            "[]",
            "2",
            "0.5",
            "7777",
            "5000",
            "warn",
            "json",
            "refuse",
            "os",
            "rabbitmq",
            "sha512",
            "127.0.0.1:1",
            "other",
            "300 MiB",
            "1024",
        ];
        let accepted = |pairs: Vec<String>| {
            let named = |pair| ("--set".to_owned(), pair);
            let command_line = pairs.into_iter().map(named).collect();
            Config::from_sources(&Sources {
                command_line,
                ..Sources::default()
            })
        };
        let mut chosen = Vec::new();
        for key in key_names() {
            let unlike = others.iter().map(|value| format!("{key}={value}"));
            let mut unlike = unlike.filter(|pair| {
                accepted(vec![pair.clone()]).is_ok_and(|config| config != Config::default())
            });
            chosen.push(
                unlike
                    .next()
                    .unwrap_or_else(|| panic!("no other value of {key}")),
            );
        }
        accepted(chosen).unwrap()
    }

    #[test]
    fn what_is_reloadable_is_taken_over_and_nothing_else() {
        let (mut config, wanted) = (Config::default(), unlike_the_default());
        let all = changes(&config, &wanted);
        assert_eq!(all.len(), key_names().count());
        adopt(&mut config, &wanted);
        let left = changes(&config, &wanted);
        for key in key_names() {
            let is_left = left.iter().any(|change| change.key == key);
            assert_eq!(is_left, !is_reloadable(key), "{key}");
        }
    }

    #[test]
    fn a_change_shows_both_values_and_no_password() {
        let mut after = Config::default();
        after.limits.queues_max = 5;
        after.default.password = Secret::new("s3cret".to_owned());
        let changes = changes(&Config::default(), &after);
        let shown: Vec<_> = changes.iter().map(|change| &*change.shown).collect();
        assert_eq!(
            shown,
            ["limits.queues_max: 1000000 -> 5", "default.password"]
        );
    }
}
