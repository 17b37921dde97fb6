//! Named brokers: a file that only its owner may read, and the commands that edit it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::{Failure, Kind, Result};
use crate::output::Output;
use crate::secrets;
use crate::settings::{config_path, split_url};

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// Used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A broker, and who asks it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) amqp_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    /// A shell command that prints the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vhost: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
}

impl Contexts {
    /// What the file says; nothing if there is none.
    pub(crate) fn load() -> Result<Self> {
        let Some(path) = config_path() else {
            return Ok(Self::default());
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display()))),
        };
        let mode = fs::metadata(&path)?.permissions().mode();
        if mode & 0o077 != 0 {
            let path = path.display();
            eprintln!("warning: others may read {path}; run: chmod 600 {path}");
        }
        toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    /// Replaces the file, so that it is whole at any time and never readable by others.
    fn save(&self) -> Result<PathBuf> {
        let path = config_path()
            .ok_or_else(|| Failure::usage("neither HOME nor LEVERETCTL_CONFIG is set"))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = toml::to_string(self).map_err(|error| Failure::failed(error.to_string()))?;
        let fresh = path.with_extension(format!("toml.{}", std::process::id()));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        Ok(path)
    }
}

/// Commands on contexts; they need no broker.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// All contexts; `*` marks the one that is used when none is named
    List,
    /// One context, without its password
    Show { name: String },
    /// Add or replace a context; the first one becomes the current one
    Add(AddContext),
    /// Use this context when none is named
    Use { name: String },
    /// Forget a context
    Delete { name: String },
}

/// What a context holds.
#[derive(Args, Debug)]
pub(crate) struct AddContext {
    name: String,
    /// Where `consume` finds AMQP, such as amqp://broker:5672; the management API is --url
    #[arg(long)]
    amqp_url: Option<String>,
    /// Read the password from standard input, or ask for it on a terminal
    #[arg(long)]
    password: bool,
    /// A shell command that prints the password, so that it is not kept in the file
    #[arg(long, conflicts_with = "password")]
    password_command: Option<String>,
    /// PEM file of the certificate authority
    #[arg(long)]
    ca: Option<String>,
}

impl ContextCommand {
    /// `new` holds the global options that a new context takes over.
    pub(crate) fn run(self, new: Context, output: &Output) -> Result<()> {
        let mut contexts = Contexts::load()?;
        match self {
            Self::List => {
                let rows = contexts.contexts.iter().map(|(name, context)| {
                    let current = contexts.current.as_ref() == Some(name);
                    let mut row = json!({"current": if current { "*" } else { "" }, "name": name});
                    merge(&mut row, context);
                    row
                });
                output.rows(
                    rows.collect(),
                    &["current", "name", "url", "username", "vhost"],
                )
            }
            Self::Show { name } => {
                let context = contexts.contexts.get(&name).ok_or_else(|| unknown(&name))?;
                let mut row = json!({"name": name});
                merge(&mut row, context);
                output.object(&row)
            }
            Self::Add(add) => add.run(contexts, new, output),
            Self::Use { name } => {
                if !contexts.contexts.contains_key(&name) {
                    return Err(unknown(&name));
                }
                output.say(&format!("context `{name}` is now the current one"));
                contexts.current = Some(name);
                contexts.save().map(drop)
            }
            Self::Delete { name } => {
                contexts
                    .contexts
                    .remove(&name)
                    .ok_or_else(|| unknown(&name))?;
                contexts.current = contexts.current.filter(|current| *current != name);
                contexts.save()?;
                output.say(&format!("context `{name}` deleted"));
                Ok(())
            }
        }
    }
}

impl AddContext {
    fn run(self, mut contexts: Contexts, new: Context, output: &Output) -> Result<()> {
        let url = new.url.as_deref();
        let url = url.ok_or_else(|| Failure::usage("--url says where the context's broker is"))?;
        let (url, userinfo) = split_url(url)?;
        let (url_user, url_password) = userinfo.unzip();
        let password = if self.password {
            Some(secrets::read("Password: ")?)
        } else {
            url_password.flatten()
        };
        let context = Context {
            url: Some(url),
            username: new.username.or(url_user),
            amqp_url: self.amqp_url,
            password,
            password_command: self.password_command,
            vhost: new.vhost,
            ca: self.ca,
        };
        contexts.contexts.insert(self.name.clone(), context);
        contexts.current.get_or_insert_with(|| self.name.clone());
        let path = contexts.save()?;
        output.say(&format!(
            "context `{}` saved in {}",
            self.name,
            path.display()
        ));
        Ok(())
    }
}

/// Adds what may be shown of `context` to `row`.
fn merge(row: &mut serde_json::Value, context: &Context) {
    let mut context = context.clone();
    if context.password.is_some() {
        context.password = Some("(kept in the file)".to_owned());
    }
    context.amqp_url = context.amqp_url.map(|url| match url.rsplit_once('@') {
        Some((start, host)) if start.contains("://") => {
            let scheme = start.split("://").next().unwrap_or_default();
            format!("{scheme}://…@{host}")
        }
        _ => url,
    });
    if let (Some(row), Ok(serde_json::Value::Object(fields))) =
        (row.as_object_mut(), serde_json::to_value(context))
    {
        row.extend(fields);
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new(Kind::NotFound, format!("no context `{name}`"))
}
