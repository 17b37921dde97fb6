//! `leveretctl user`, `permission` and `topic-permission`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::binding::array;
use crate::client::Request;
use crate::failure::Result;
use crate::secrets;
use crate::session::Session;

const USER_COLUMNS: &[&str] = &["name", "tags", "limits"];
const PERMISSION_COLUMNS: &[&str] = &["vhost", "user", "configure", "write", "read"];
const TOPIC_COLUMNS: &[&str] = &["vhost", "user", "exchange", "write", "read"];

/// Commands on users.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Users
    List {
        /// Only those without a permission anywhere
        #[arg(long)]
        without_permissions: bool,
    },
    /// One user
    Show { name: String },
    /// Create a user; the password is asked for, or read from standard input
    Add(AddUser),
    /// Delete users
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Change a password; it is asked for, or read from standard input
    Passwd { name: String },
    /// Set a user's tags; none takes all away
    Tags { name: String, tags: Vec<String> },
    /// What a user may do, in every virtual host
    Permissions { name: String },
}

/// A new user.
#[derive(Args, Debug)]
pub(crate) struct AddUser {
    name: String,
    /// administrator, monitoring, policymaker, management or words of your own
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
    /// A hash of the password instead of the password
    #[arg(long, value_name = "HASH")]
    password_hash: Option<String>,
    /// Let the user not log in by password
    #[arg(long, conflicts_with = "password_hash")]
    no_password: bool,
}

impl UserCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List {
                without_permissions,
            } => {
                let all = ["users", "without-permissions"];
                let path = if without_permissions {
                    &all[..]
                } else {
                    &all[..1]
                };
                session.list(path, false, USER_COLUMNS)
            }
            Self::Show { name } => {
                let user = session.get(&["users", &name], &format!("user `{name}`"))?;
                session.output.object(&user)
            }
            Self::Add(add) => add.run(session),
            Self::Delete { names } => {
                session.confirm(|| format!("Delete {}?", users(&names)))?;
                session.each(&names, |name| {
                    let request = Request::delete(&["users", name]);
                    session.apply(&request, &format!("user `{name}`"), "deleted")
                })
            }
            Self::Passwd { name } => {
                let what = format!("user `{name}`");
                // A user is replaced as a whole, so its tags are kept by sending them again.
                let user = session.get(&["users", &name], &what)?;
                let password = secrets::read_new("New password: ")?;
                let body = json!({"password": password, "tags": tags(&user)});
                put_user(session, &name, body, "password changed")
            }
            Self::Tags { name, tags } => {
                let what = format!("user `{name}`");
                let user = session.get(&["users", &name], &what)?;
                let body = with_hash(&user, json!({"tags": tags.join(",")}));
                put_user(session, &name, body, "tagged")
            }
            Self::Permissions { name } => {
                let what = format!("user `{name}`");
                let rows = array(session.get(&["users", &name, "permissions"], &what)?);
                session.output.rows(rows, PERMISSION_COLUMNS)
            }
        }
    }
}

impl AddUser {
    fn run(self, session: &Session) -> Result<()> {
        let tags = self.tags.join(",");
        let body = match self.password_hash {
            Some(hash) => json!({"password_hash": hash, "tags": tags}),
            None if self.no_password => json!({"password_hash": "", "tags": tags}),
            None => json!({"password": secrets::read_new("Password: ")?, "tags": tags}),
        };
        put_user(session, &self.name, body, "added")
    }
}

/// Sends a user; a dry run does not show the password.
fn put_user(session: &Session, name: &str, mut body: Value, done: &str) -> Result<()> {
    if session.dry_run
        && let Some(password) = body.get_mut("password")
    {
        *password = "…".into();
    }
    let request = Request::put(&["users", name], body);
    session.apply(&request, &format!("user `{name}`"), done)
}

/// A user's tags as RabbitMQ takes them, from how it shows them: a list, or one text before 3.9.
pub(crate) fn tags(user: &Value) -> Value {
    match &user["tags"] {
        Value::Array(tags) => {
            let tags: Vec<&str> = tags.iter().filter_map(Value::as_str).collect();
            tags.join(",").into()
        }
        other => other.clone(),
    }
}

/// Keeps a user's password in a change of something else.
pub(crate) fn with_hash(user: &Value, mut body: Value) -> Value {
    for field in ["password_hash", "hashing_algorithm"] {
        if let Some(value) = user.get(field) {
            body[field] = value.clone();
        }
    }
    body
}

fn users(names: &[String]) -> String {
    match names {
        [name] => format!("user `{name}`"),
        names => format!("{} users", names.len()),
    }
}

/// Commands on permissions.
#[derive(Debug, Subcommand)]
pub(crate) enum PermissionCommand {
    /// Permissions of all users
    List,
    /// One user's permissions in the virtual host
    Show { user: String },
    /// Let a user configure, write and read what the patterns match. All three are needed: they
    /// replace what was granted before
    #[command(
        override_usage = "leveretctl permission grant [OPTIONS] <USER> <CONFIGURE> <WRITE> \
        <READ>\n       \
        leveretctl permission grant [OPTIONS] <USER> --configure <PATTERN> --write <PATTERN> \
        --read <PATTERN>"
    )]
    Grant {
        user: String,
        #[command(flatten)]
        patterns: Patterns,
    },
    /// Take a user's permissions in the virtual host away
    Revoke { user: String },
}

impl PermissionCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let vhost = session.vhost();
        let what = |user: &str| format!("permissions of `{user}` in virtual host `{vhost}`");
        match self {
            Self::List => {
                let rows = scoped(session, "permissions", PERMISSION_COLUMNS)?;
                session.output.rows(rows, PERMISSION_COLUMNS)
            }
            Self::Show { user } => {
                let row = session.get(&["permissions", vhost, &user], &what(&user))?;
                session.output.object(&row)
            }
            Self::Grant { user, patterns } => {
                let request = Request::put(&["permissions", vhost, &user], patterns.body());
                session.apply(&request, &what(&user), "granted")
            }
            Self::Revoke { user } => {
                session.confirm(|| format!("Revoke {}?", what(&user)))?;
                let request = Request::delete(&["permissions", vhost, &user]);
                session.apply(&request, &what(&user), "revoked")
            }
        }
    }
}

/// What a user is granted: three patterns by their places, or each by its name.
#[derive(Args, Debug)]
pub(crate) struct Patterns {
    /// Regular expressions for names of exchanges and queues; an empty one matches nothing
    #[arg(
        num_args = 3,
        value_names = ["CONFIGURE", "WRITE", "READ"],
        required_unless_present_any = ["configure", "write", "read"],
        conflicts_with_all = ["configure", "write", "read"],
    )]
    patterns: Vec<String>,
    /// The same by name, in any order
    #[arg(long, value_name = "PATTERN", required_unless_present = "patterns")]
    configure: Option<String>,
    #[arg(long, value_name = "PATTERN", required_unless_present = "patterns")]
    write: Option<String>,
    #[arg(long, value_name = "PATTERN", required_unless_present = "patterns")]
    read: Option<String>,
}

impl Patterns {
    fn body(self) -> Value {
        match self.patterns.as_slice() {
            [configure, write, read] => {
                json!({"configure": configure, "write": write, "read": read})
            }
            _ => json!({"configure": self.configure, "write": self.write, "read": self.read}),
        }
    }
}

/// What a user is granted on a topic exchange: two patterns by their places, or each by its name.
#[derive(Args, Debug)]
pub(crate) struct TopicPatterns {
    /// Regular expressions for routing keys; an empty one matches nothing
    #[arg(
        num_args = 2,
        value_names = ["WRITE", "READ"],
        required_unless_present_any = ["write", "read"],
        conflicts_with_all = ["write", "read"],
    )]
    patterns: Vec<String>,
    /// The same by name, in any order
    #[arg(long, value_name = "PATTERN", required_unless_present = "patterns")]
    write: Option<String>,
    #[arg(long, value_name = "PATTERN", required_unless_present = "patterns")]
    read: Option<String>,
}

impl TopicPatterns {
    fn body(self, exchange: &str) -> Value {
        match self.patterns.as_slice() {
            [write, read] => json!({"exchange": exchange, "write": write, "read": read}),
            _ => json!({"exchange": exchange, "write": self.write, "read": self.read}),
        }
    }
}

/// Commands on topic permissions.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicPermissionCommand {
    /// Topic permissions of all users
    List,
    /// One user's topic permissions in the virtual host
    Show { user: String },
    /// Let a user write and read by routing keys that the patterns match. Both are needed: they
    /// replace what was granted before
    #[command(
        override_usage = "leveretctl topic-permission grant [OPTIONS] <USER> <EXCHANGE> <WRITE> \
        <READ>\n       \
        leveretctl topic-permission grant [OPTIONS] <USER> <EXCHANGE> --write <PATTERN> \
        --read <PATTERN>"
    )]
    Grant {
        user: String,
        exchange: String,
        #[command(flatten)]
        patterns: TopicPatterns,
    },
    /// Take a user's topic permissions away, on one exchange or on all
    Revoke {
        user: String,
        exchange: Option<String>,
    },
}

impl TopicPermissionCommand {
    pub(crate) fn run(self, session: &Session) -> Result<()> {
        let vhost = session.vhost();
        let what = |user: &str| format!("topic permissions of `{user}` in `{vhost}`");
        match self {
            Self::List => {
                let rows = scoped(session, "topic-permissions", TOPIC_COLUMNS)?;
                session.output.rows(rows, TOPIC_COLUMNS)
            }
            Self::Show { user } => {
                let rows = session.get(&["topic-permissions", vhost, &user], &what(&user))?;
                session.output.rows(array(rows), TOPIC_COLUMNS)
            }
            Self::Grant {
                user,
                exchange,
                patterns,
            } => {
                let body = patterns.body(&exchange);
                let request = Request::put(&["topic-permissions", vhost, &user], body);
                session.apply(&request, &what(&user), "granted")
            }
            Self::Revoke { user, exchange } => {
                session.confirm(|| format!("Revoke {}?", what(&user)))?;
                let mut path = vec!["topic-permissions", vhost, &user];
                path.extend(exchange.as_deref());
                session.apply(&Request::delete(&path), &what(&user), "revoked")
            }
        }
    }
}

/// A list that is asked for at the virtual host where one was named.
fn scoped(session: &Session, list: &str, columns: &[&str]) -> Result<Vec<Value>> {
    match &session.settings.vhost {
        Some(vhost) => session.rows(&["vhosts", vhost, list], false, columns, None),
        None => session.rows(&[list], false, columns, None),
    }
}
