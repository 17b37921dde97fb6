//! Whether anybody from elsewhere could log in with the password that everybody knows.

use std::io;
use std::net::ToSocketAddrs;

use leveret_broker::Broker;
use tracing::warn;

use crate::config::{Config, DEFAULT_PASSWORD};

/// The name of RabbitMQ's first user and ours, which is tried first by whoever should not be here.
const DEFAULT_USER: &str = "guest";

/// Refuses to make a first user that anybody could log in as: asked before there is a data folder,
/// as with one its password could not be set any more.
///
/// # Errors
/// What is wrong and what to do.
pub(crate) fn check_new(config: &Config) -> io::Result<()> {
    let is_new = !config.data_dir.join("FORMAT").exists();
    let user = &config.default.user;
    let is_bound = config.amqp.loopback_users.contains(user);
    let is_default = config.default.password.expose() == DEFAULT_PASSWORD;
    if !is_new || is_bound || !is_default || !is_reachable(config) {
        return Ok(());
    }
    let remedy = "set `default.password` (LEVERET_DEFAULT_PASSWORD or RABBITMQ_DEFAULT_PASS)";
    judge(config, &problem(user, remedy))
}

/// Refuses to serve when anybody could log in.
///
/// # Errors
/// What is wrong and what to do.
pub(crate) fn check(config: &Config, broker: &Broker) -> io::Result<()> {
    exposed(config, broker).map_or(Ok(()), |problem| judge(config, &problem))
}

/// Says which user could log in from other machines with the password that everybody knows, if one
/// could.
pub(crate) fn exposed(config: &Config, broker: &Broker) -> Option<String> {
    if !is_reachable(config) {
        return None;
    }
    let users = [&*config.default.user, DEFAULT_USER];
    let could = |user: &&str| {
        let is_bound = config.amqp.loopback_users.iter().any(|bound| bound == user);
        let password = DEFAULT_PASSWORD.as_bytes();
        !is_bound && broker.authenticate(user, password, true).is_ok()
    };
    let user = users.into_iter().find(could)?;
    let remedy = "start with `amqp.listen` and `management.listen` on 127.0.0.1 and give it \
                  another, or name it in `amqp.loopback_users`";
    Some(problem(user, remedy))
}

fn problem(user: &str, remedy: &str) -> String {
    format!(
        "user `{user}` has the default password, which works from other machines: {remedy}, or \
         set `auth.allow_default_password = true`"
    )
}

fn judge(config: &Config, problem: &str) -> io::Result<()> {
    if config.auth.allow_default_password {
        warn!(problem, "the default password is allowed");
        return Ok(());
    }
    Err(io::Error::other(problem.to_owned()))
}

/// Whether other machines reach a listener that takes passwords. A name that cannot be looked up
/// is no listener, but that is said elsewhere.
fn is_reachable(config: &Config) -> bool {
    let places = config.amqp.listen.iter().chain(&config.management.listen);
    places.into_iter().any(|place| {
        let addresses = place.to_socket_addrs();
        addresses.is_ok_and(|mut found| found.any(|found| !found.ip().to_canonical().is_loopback()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_machines_count() {
        let mut config = Config::default();
        assert!(is_reachable(&config));
        config.amqp.listen = vec!["127.0.0.1:1".to_owned(), "[::1]:1".to_owned()];
        assert!(is_reachable(&config), "over HTTP");
        config.management.listen.clear();
        assert!(!is_reachable(&config));
    }
}
