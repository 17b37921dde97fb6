//! Where the broker is and who asks: options, environment, context, defaults, in that order.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use crate::client::decode;
use crate::contexts::{Context, Contexts};
use crate::failure::{Failure, Result};

const URL_DEFAULT: &str = "http://localhost:15672";
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What the command line says about the connection; each wins over environment and context.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) url: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) vhost: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) insecure: bool,
}

/// All that is needed to talk to the broker.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Without a slash at the end.
    pub(crate) url: String,
    pub(crate) username: String,
    pub(crate) password: String,
    /// None: not said. Lists then show every virtual host, other commands use `/`.
    pub(crate) vhost: Option<String>,
    pub(crate) amqp_url: Option<String>,
    /// A certificate authority's PEM file.
    pub(crate) ca: Option<String>,
    pub(crate) insecure: bool,
    pub(crate) timeout: Duration,
}

impl Settings {
    pub(crate) fn resolve(overrides: &Overrides) -> Result<Self> {
        let context = context(overrides)?;
        let url = overrides.url.clone().or_else(|| variable("URL"));
        // Credentials of a context belong to its URL and are not sent to another.
        let named_elsewhere = url.is_some();
        let url = url.or_else(|| context.url.clone());
        let (url, userinfo) = split_url(&url.unwrap_or_else(|| URL_DEFAULT.to_owned()))?;
        let own = (!named_elsewhere).then_some(&context);
        let (url_user, url_password) = userinfo.unzip();
        let username = overrides.username.clone().or_else(|| variable("USERNAME"));
        let username = username.or(url_user);
        let username = username.or_else(|| own.and_then(|context| context.username.clone()));
        let password = match overrides.password.clone() {
            Some(password) => Some(password),
            None => password_of_environment()?,
        };
        let password = match (password.or_else(|| url_password.flatten()), own) {
            (Some(password), _) => Some(password),
            (None, Some(context)) => context.password()?,
            (None, None) => None,
        };
        let vhost = overrides.vhost.clone().or_else(|| variable("VHOST"));
        let amqp_url = variable("AMQP_URL");
        Ok(Self {
            url,
            username: username.unwrap_or_else(|| "guest".to_owned()),
            password: password.unwrap_or_else(|| "guest".to_owned()),
            vhost: vhost.or_else(|| context.vhost.clone()),
            amqp_url: amqp_url.or_else(|| own.and_then(|context| context.amqp_url.clone())),
            ca: variable("CA").or_else(|| context.ca.clone()),
            insecure: overrides.insecure,
            timeout: overrides.timeout.unwrap_or(TIMEOUT_DEFAULT),
        })
    }
}

/// The context that the options or the environment name, or else the current one.
fn context(overrides: &Overrides) -> Result<Context> {
    let contexts = Contexts::load()?;
    let named = overrides.context.clone().or_else(|| variable("CONTEXT"));
    let Some(name) = named.or_else(|| contexts.current.clone()) else {
        return Ok(Context::default());
    };
    let found = contexts.contexts.get(&name).cloned();
    found
        .ok_or_else(|| Failure::usage(format!("no context `{name}`; see: leveretctl context list")))
}

/// `LEVERETCTL_<name>`, if set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(format!("LEVERETCTL_{name}"))
        .ok()
        .filter(|value| !value.is_empty())
}

fn password_of_environment() -> Result<Option<String>> {
    if let Ok(password) = env::var("LEVERETCTL_PASSWORD") {
        return Ok(Some(password));
    }
    let Some(path) = variable("PASSWORD_FILE") else {
        return Ok(None);
    };
    let text = fs::read_to_string(&path);
    let text = text.map_err(|error| Failure::usage(format!("{path}: {error}")))?;
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

impl Context {
    /// The password, from the command that knows it if there is one.
    fn password(&self) -> Result<Option<String>> {
        let Some(command) = &self.password_command else {
            return Ok(self.password.clone());
        };
        let output = Command::new("sh").args(["-c", command]).output()?;
        if !output.status.success() {
            let text = format!("`{command}` failed: {}", output.status);
            return Err(Failure::usage(text));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().map(str::to_owned))
    }
}

/// A user, and a password if there is one.
type Userinfo = (String, Option<String>);

/// Splits `user:password@` off a URL and takes a slash or `/api` off its end.
pub(crate) fn split_url(url: &str) -> Result<(String, Option<Userinfo>)> {
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if scheme != "http" && scheme != "https" {
        let text = format!("`{scheme}`: the management API is reached by http or https");
        return Err(Failure::usage(text));
    }
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    if host.is_empty() {
        return Err(Failure::usage(format!("`{url}` names no host")));
    }
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/api").unwrap_or(path);
    let userinfo = userinfo.map(|userinfo| match userinfo.split_once(':') {
        Some((user, password)) => (decode(user), Some(decode(password))),
        None => (decode(userinfo), None),
    });
    Ok((format!("{scheme}://{host}{path}"), userinfo))
}

/// `$XDG_CONFIG_HOME/leveretctl/config.toml`, or what `LEVERETCTL_CONFIG` says.
pub(crate) fn config_path() -> Option<PathBuf> {
    if let Some(path) = variable("CONFIG") {
        return Some(path.into());
    }
    let folder = match env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env::var_os("HOME")?).join(".config"),
    };
    Some(folder.join("leveretctl/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_off_the_url() {
        let (url, userinfo) = split_url("https://me%40x:p%3Aw@host:1/prefix/api/").unwrap();
        assert_eq!(url, "https://host:1/prefix");
        assert_eq!(userinfo, Some(("me@x".to_owned(), Some("p:w".to_owned()))));
        let (url, userinfo) = split_url("host:15672").unwrap();
        assert_eq!((url.as_str(), userinfo), ("http://host:15672", None));
        assert!(split_url("amqp://host").is_err());
        assert!(split_url("http://").is_err());
    }
}
