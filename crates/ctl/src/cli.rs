//! The command line: its tree, its global options, and which command runs.

use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::arguments::duration;
use crate::client::Client;
use crate::commands::access::{PermissionCommand, TopicPermissionCommand, UserCommand};
use crate::commands::backup::BackupCommand;
use crate::commands::binding::BindingCommand;
use crate::commands::connection::{ChannelCommand, ConnectionCommand, ConsumerCommand};
use crate::commands::consume::Consume;
use crate::commands::definitions::DefinitionsCommand;
use crate::commands::exchange::ExchangeCommand;
use crate::commands::message::Publish;
use crate::commands::node::{self, AlarmCommand, HealthCommand, NodeCommand};
use crate::commands::parameter::{GlobalParameterCommand, LimitCommand, ParameterCommand};
use crate::commands::policy::PolicyCommand;
use crate::commands::queue::QueueCommand;
use crate::commands::vhost::VhostCommand;
use crate::contexts::{Context, ContextCommand};
use crate::failure::{Failure, Result};
use crate::output::{Format, Output};
use crate::session::Session;
use crate::settings::{Overrides, Settings};
use crate::top::Top;

const AFTER_HELP: &str = "\
Environment: LEVERETCTL_URL, LEVERETCTL_CONTEXT, LEVERETCTL_VHOST, LEVERETCTL_USERNAME,
LEVERETCTL_PASSWORD, LEVERETCTL_PASSWORD_FILE, LEVERETCTL_AMQP_URL, LEVERETCTL_CA,
LEVERETCTL_CONFIG. Options win over it, and it wins over the context.

Exit codes: 0 done, 1 failed, 2 usage, 3 done in part, 4 not found, 5 not authorised, 6 refused,
7 no answer in time, 8 unreachable, 11 unhealthy.";

/// Declare, look at and operate Leveret or RabbitMQ over the management API
#[derive(Debug, Parser)]
#[command(name = "leveretctl", version, disable_version_flag = true,
          after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Debug)]
struct Global {
    /// Print the version
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
    /// The management API: http://user:password@host:15672
    #[arg(long, short = 'U', global = true, help_heading = "Broker")]
    url: Option<String>,
    /// A broker from the configuration file
    #[arg(long, short = 'C', global = true, help_heading = "Broker")]
    context: Option<String>,
    /// The virtual host; lists show all if none is given, other commands use /
    #[arg(long, short = 'V', global = true, help_heading = "Broker")]
    vhost: Option<String>,
    /// Who asks; the password is in LEVERETCTL_PASSWORD, in the URL or in a context
    #[arg(long, short = 'u', global = true, help_heading = "Broker")]
    username: Option<String>,
    /// Give up on an answer after this long
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = duration,
          help_heading = "Broker")]
    timeout: Duration,
    /// Do not check the certificate of the broker
    #[arg(long, global = true, help_heading = "Broker")]
    insecure: bool,
    /// How to print
    #[arg(
        long,
        short = 'o',
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    output: Format,
    /// Fields to print, such as name,message_stats.publish_details.rate
    #[arg(long, global = true, value_delimiter = ',', help_heading = "Output")]
    columns: Vec<String>,
    /// Field to sort a list by; -FIELD for the largest first
    #[arg(
        long,
        global = true,
        value_name = "FIELD",
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    sort: Option<String>,
    /// Leave the line of names out
    #[arg(long, global = true, help_heading = "Output")]
    no_headers: bool,
    /// Do not say what was done
    #[arg(long, short = 'q', global = true, help_heading = "Output")]
    quiet: bool,
    /// Do not ask before something is lost
    #[arg(long, short = 'y', global = true, help_heading = "Safety")]
    yes: bool,
    /// Print requests that would change something instead of sending them
    #[arg(long, global = true, help_heading = "Safety")]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Queues: list, show, declare, delete, purge, peek, get
    #[command(subcommand, visible_alias = "queues")]
    Queue(QueueCommand),
    /// Exchanges: list, show, declare, delete, route
    #[command(subcommand, visible_alias = "exchanges")]
    Exchange(ExchangeCommand),
    /// Bindings: list, add, remove
    #[command(subcommand, visible_alias = "bindings")]
    Binding(BindingCommand),
    /// Publish messages
    Publish(Publish),
    /// Consume a queue over AMQP
    Consume(Consume),
    /// Queues, connections and rates, live
    Top(Top),
    /// Virtual hosts
    #[command(subcommand, visible_alias = "vhosts")]
    Vhost(VhostCommand),
    /// Users
    #[command(subcommand, visible_alias = "users")]
    User(UserCommand),
    /// Permissions of users in virtual hosts
    #[command(subcommand, visible_alias = "permissions")]
    Permission(PermissionCommand),
    /// Permissions of users on routing keys
    #[command(subcommand, visible_alias = "topic-permissions")]
    TopicPermission(TopicPermissionCommand),
    /// Policies
    #[command(subcommand, visible_alias = "policies")]
    Policy(PolicyCommand),
    /// Policies that users cannot override
    #[command(subcommand, visible_alias = "operator-policies")]
    OperatorPolicy(PolicyCommand),
    /// Parameters of components in virtual hosts
    #[command(subcommand, visible_alias = "parameters")]
    Parameter(ParameterCommand),
    /// Parameters of the whole broker
    #[command(subcommand, visible_alias = "global-parameters")]
    GlobalParameter(GlobalParameterCommand),
    /// Limits of virtual hosts and users
    #[command(subcommand, visible_alias = "limits")]
    Limit(LimitCommand),
    /// Connections: list, show, close
    #[command(subcommand, visible_alias = "connections")]
    Connection(ConnectionCommand),
    /// Channels
    #[command(subcommand, visible_alias = "channels")]
    Channel(ChannelCommand),
    /// Consumers
    #[command(subcommand, visible_alias = "consumers")]
    Consumer(ConsumerCommand),
    /// Everything declared as one file: export, import
    #[command(subcommand)]
    Definitions(DefinitionsCommand),
    /// Copies of the data, made while the broker serves: create, list
    #[command(subcommand, visible_alias = "backups")]
    Backup(BackupCommand),
    /// The state of the broker in a dozen lines
    Status,
    /// Totals, rates and listeners as the API gives them
    Overview,
    /// Who asks
    Whoami,
    /// Nodes
    #[command(subcommand, visible_alias = "nodes")]
    Node(NodeCommand),
    /// Health checks
    #[command(subcommand)]
    Health(HealthCommand),
    /// Memory and disk alarms
    #[command(subcommand, visible_alias = "alarms")]
    Alarm(AlarmCommand),
    /// Show or change the cluster's name
    ClusterName { name: Option<String> },
    /// Feature flags
    FeatureFlags,
    /// Brokers of the configuration file
    #[command(subcommand, visible_alias = "contexts")]
    Context(ContextCommand),
    /// Completions for a shell, on standard output
    Completion { shell: Shell },
}

impl Cli {
    pub(crate) fn run(self) -> Result<()> {
        let global = self.global;
        let output = Output {
            format: global.output,
            columns: global.columns,
            sort: global.sort,
            headers: !global.no_headers,
            quiet: global.quiet,
        };
        let overrides = Overrides {
            url: global.url,
            context: global.context,
            vhost: global.vhost,
            username: global.username,
            password: None,
            timeout: Some(global.timeout),
            insecure: global.insecure,
        };
        match self.command {
            Command::Completion { shell } => {
                let mut command = Self::command();
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut command, "leveretctl", &mut script);
                crate::output::print(&String::from_utf8_lossy(&script))
            }
            Command::Context(command) => {
                let Overrides {
                    url,
                    username,
                    vhost,
                    ..
                } = overrides;
                let new = Context {
                    url,
                    username,
                    vhost,
                    ..Context::default()
                };
                command.run(new, &output)
            }
            command => {
                let settings = Settings::resolve(&overrides)?;
                let session = Session {
                    client: Client::new(&settings)?,
                    settings,
                    output,
                    yes: global.yes,
                    dry_run: global.dry_run,
                };
                command.run(&session)
            }
        }
    }
}

impl Command {
    fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Queue(command) => command.run(session),
            Self::Exchange(command) => command.run(session),
            Self::Binding(command) => command.run(session),
            Self::Publish(publish) => publish.run(session),
            Self::Consume(consume) => consume.run(session),
            Self::Top(top) => top.run(session),
            Self::Vhost(command) => command.run(session),
            Self::User(command) => command.run(session),
            Self::Permission(command) => command.run(session),
            Self::TopicPermission(command) => command.run(session),
            Self::Policy(command) => command.run("policies", session),
            Self::OperatorPolicy(command) => command.run("operator-policies", session),
            Self::Parameter(command) => command.run(session),
            Self::GlobalParameter(command) => command.run(session),
            Self::Limit(command) => command.run(session),
            Self::Connection(command) => command.run(session),
            Self::Channel(command) => command.run(session),
            Self::Consumer(command) => command.run(session),
            Self::Definitions(command) => command.run(session),
            Self::Backup(command) => command.run(session),
            Self::Status => node::status(session),
            Self::Overview => node::show(session, "overview"),
            Self::Whoami => node::show(session, "whoami"),
            Self::Node(command) => command.run(session),
            Self::Health(command) => command.run(session),
            Self::Alarm(command) => command.run(session),
            Self::ClusterName { name } => node::cluster_name(session, name),
            Self::FeatureFlags => session.list(
                &["feature-flags"],
                false,
                &["name", "state", "stability", "desc"],
            ),
            Self::Context(_) | Self::Completion { .. } => {
                Err(Failure::usage("this command asks no broker"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }
}
