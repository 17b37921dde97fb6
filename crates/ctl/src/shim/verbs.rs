//! The verbs of `rabbitmqctl` and `rabbitmq-diagnostics`: their arguments, and which code runs.

mod access;
mod broker;

use super::invocation::Invocation;
use super::{Outcome, Shim, Stop, Tool, eval, exit, health, lists};

/// One verb.
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    usage: &'static str,
    about: &'static str,
    least: usize,
    most: usize,
    pub(crate) run: fn(&Shim) -> Outcome,
}

/// As many arguments as one likes.
const MANY: usize = usize::MAX;

const fn verb(
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    (least, most): (usize, usize),
    run: fn(&Shim) -> Outcome,
) -> Verb {
    Verb {
        name,
        usage,
        about,
        least,
        most,
        run,
    }
}

/// The verbs of a tool.
pub(crate) fn of(tool: Tool) -> impl Iterator<Item = &'static Verb> {
    let own = if tool == Tool::Diagnostics {
        DIAGNOSTICS
    } else {
        CTL
    };
    own.iter().chain(BOTH)
}

/// What a tool prints that was not told what to do.
pub(crate) fn overview(tool: Tool) -> String {
    let tool_name = tool.name();
    let mut text = format!(
        "\nUsage\n\n{tool_name} [--node <node>] [--timeout <timeout>] [--longnames] [--quiet] \
         <command> [<command options>]\n\nAvailable commands:\n\n"
    );
    let mut verbs: Vec<&Verb> = of(tool).collect();
    verbs.sort_by_key(|verb| verb.name);
    for verb in verbs {
        text.push_str(&format!("   {:<30}{}\n", verb.name, verb.about));
    }
    text.push_str(&format!(
        "\nUse '{tool_name} help <command>' to learn more about a specific command"
    ));
    text
}

impl Verb {
    fn usage(&self, tool: Tool) -> String {
        let line = format!(
            "{} [--node <node>] [--longnames] [--quiet] {} {}",
            tool.name(),
            self.name,
            self.usage
        );
        format!("Usage\n\n{}", line.trim_end())
    }

    pub(crate) fn help(&self, tool: Tool) -> String {
        format!("\n{}\n\n{}\n", self.usage(tool), self.about)
    }

    /// Refuses a wrong number of arguments.
    pub(crate) fn check(&self, tool: Tool, invocation: &Invocation) -> Outcome {
        let count = invocation.arguments.len();
        if (self.least..=self.most).contains(&count) {
            return Ok(());
        }
        let amount = if count < self.least {
            "not enough"
        } else {
            "too many"
        };
        let text = format!(
            "Error (argument validation): {amount} arguments.\nArguments given:\n\t{}\n\n{}",
            invocation.given.join(" "),
            self.usage(tool),
        );
        Err(Stop::new(exit::USAGE, text))
    }
}

fn list_queues(shim: &Shim) -> Outcome {
    let seconds = shim.invocation.timeout.unwrap_or(60.0);
    let vhost = shim.vhost();
    let text = format!("Timeout: {seconds:?} seconds ...\nListing queues for vhost {vhost} ...");
    lists::QUEUES.run(shim, &text)
}

fn list_exchanges(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    lists::EXCHANGES.run(shim, &format!("Listing exchanges for vhost {vhost} ..."))
}

fn list_bindings(shim: &Shim) -> Outcome {
    // RabbitMQ leaves the space out here.
    lists::BINDINGS.run(
        shim,
        &format!("Listing bindings for vhost {}...", shim.vhost()),
    )
}

fn list_consumers(shim: &Shim) -> Outcome {
    let vhost = shim.vhost();
    lists::CONSUMERS.run(shim, &format!("Listing consumers in vhost {vhost} ..."))
}

const COLUMNS: &str = "[--no-table-headers] [<column>, ...]";
const VHOST_COLUMNS: &str = "[--vhost <vhost>] [--no-table-headers] [<column>, ...]";

/// Verbs of `rabbitmqctl` alone.
const CTL: &[Verb] = &[
    verb(
        "add_user",
        "<username> <password>",
        "Creates a new user",
        (1, 2),
        access::add_user,
    ),
    verb(
        "delete_user",
        "<username>",
        "Removes a user",
        (1, 1),
        access::delete_user,
    ),
    verb(
        "change_password",
        "<username> <password>",
        "Changes the user password",
        (1, 2),
        access::change_password,
    ),
    verb(
        "clear_password",
        "<username>",
        "Disables password login for a user",
        (1, 1),
        access::clear_password,
    ),
    verb(
        "authenticate_user",
        "<username> <password>",
        "Attempts to authenticate a user",
        (1, 2),
        access::authenticate_user,
    ),
    verb(
        "set_user_tags",
        "<username> <tag> [...]",
        "Sets user tags",
        (1, MANY),
        access::set_user_tags,
    ),
    verb(
        "set_permissions",
        "[--vhost <vhost>] <username> <conf> <write> <read>",
        "Sets user permissions for a vhost",
        (4, 4),
        access::set_permissions,
    ),
    verb(
        "clear_permissions",
        "[--vhost <vhost>] <username>",
        "Revokes user permissions for a vhost",
        (1, 1),
        access::clear_permissions,
    ),
    verb(
        "set_topic_permissions",
        "[--vhost <vhost>] <username> <exchange> <write> <read>",
        "Sets user topic permissions for an exchange",
        (4, 4),
        access::set_topic_permissions,
    ),
    verb(
        "clear_topic_permissions",
        "[--vhost <vhost>] <username> [<exchange>]",
        "Clears user topic permissions for a vhost or exchange",
        (1, 2),
        access::clear_topic_permissions,
    ),
    verb(
        "add_vhost",
        "<vhost>",
        "Creates a virtual host",
        (1, 1),
        access::add_vhost,
    ),
    verb(
        "delete_vhost",
        "<vhost>",
        "Deletes a virtual host",
        (1, 1),
        access::delete_vhost,
    ),
    verb(
        "set_policy",
        "[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> \
         <definition>",
        "Sets or updates a policy",
        (3, 3),
        broker::set_policy,
    ),
    verb(
        "clear_policy",
        "[--vhost <vhost>] <name>",
        "Clears (removes) a policy",
        (1, 1),
        broker::clear_policy,
    ),
    verb(
        "set_operator_policy",
        "[--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> \
         <definition>",
        "Sets an operator policy",
        (3, 3),
        broker::set_operator_policy,
    ),
    verb(
        "clear_operator_policy",
        "[--vhost <vhost>] <name>",
        "Clears an operator policy",
        (1, 1),
        broker::clear_operator_policy,
    ),
    verb(
        "delete_queue",
        "[--vhost <vhost>] <queue_name> [--if-empty|-e] [--if-unused|-u]",
        "Deletes a queue",
        (1, 1),
        broker::delete_queue,
    ),
    verb(
        "purge_queue",
        "[--vhost <vhost>] <queue>",
        "Purges a queue (removes all messages in it)",
        (1, 1),
        broker::purge_queue,
    ),
    verb(
        "close_connection",
        "<connectionpid> <explanation>",
        "Closes the connection of this process id, as list_connections shows it",
        (2, 2),
        broker::close_connection,
    ),
    verb(
        "close_all_connections",
        "[--vhost <vhost> --limit <limit>] [--per-connection-delay <delay>] [--global] \
         <explanation>",
        "Closes all connections of a vhost or of the broker",
        (1, 1),
        broker::close_all_connections,
    ),
    verb(
        "close_all_user_connections",
        "<username> <explanation>",
        "Closes all connections of a user",
        (2, 2),
        broker::close_all_user_connections,
    ),
    verb(
        "stop_app",
        "",
        "Closes AMQP connections and listeners; the process stays",
        (0, 0),
        broker::stop_app,
    ),
    verb(
        "start_app",
        "",
        "Accepts AMQP connections again",
        (0, 0),
        broker::start_app,
    ),
    verb(
        "set_vm_memory_high_watermark",
        "<fraction> | absolute <value>",
        "Sets the memory threshold",
        (1, 2),
        broker::set_vm_memory_high_watermark,
    ),
    verb(
        "export_definitions",
        "<file_path | \"-\">",
        "Exports definitions in JSON",
        (1, 1),
        broker::export_definitions,
    ),
    verb(
        "import_definitions",
        "<file_path | \"-\">",
        "Imports definitions in JSON",
        (0, 1),
        broker::import_definitions,
    ),
    verb(
        "set_cluster_name",
        "<name>",
        "Sets the cluster name",
        (1, 1),
        broker::set_cluster_name,
    ),
    verb(
        "eval",
        "<expression>",
        "Evaluates the expressions that client test suites use",
        (1, 1),
        eval::run,
    ),
    verb(
        "list_users",
        "",
        "Lists user names and tags",
        (0, 0),
        |shim| lists::USERS.run(shim, "Listing users ..."),
    ),
    verb(
        "list_vhosts",
        COLUMNS,
        "Lists virtual hosts",
        (0, MANY),
        |shim| lists::VHOSTS.run(shim, "Listing vhosts ..."),
    ),
    verb(
        "list_queues",
        VHOST_COLUMNS,
        "Lists queues",
        (0, MANY),
        list_queues,
    ),
    verb(
        "list_exchanges",
        VHOST_COLUMNS,
        "Lists exchanges",
        (0, MANY),
        list_exchanges,
    ),
    verb(
        "list_bindings",
        VHOST_COLUMNS,
        "Lists bindings",
        (0, MANY),
        list_bindings,
    ),
    verb(
        "list_consumers",
        VHOST_COLUMNS,
        "Lists consumers",
        (0, MANY),
        list_consumers,
    ),
    verb(
        "list_connections",
        COLUMNS,
        "Lists AMQP connections",
        (0, MANY),
        |shim| lists::CONNECTIONS.run(shim, "Listing connections ..."),
    ),
    verb(
        "list_channels",
        COLUMNS,
        "Lists channels",
        (0, MANY),
        |shim| lists::CHANNELS.run(shim, "Listing channels ..."),
    ),
    verb(
        "list_permissions",
        "[--vhost <vhost>]",
        "Lists user permissions in a virtual host",
        (0, 0),
        access::list_permissions,
    ),
    verb(
        "list_user_permissions",
        "<username>",
        "Lists permissions of a user across all virtual hosts",
        (1, 1),
        access::list_user_permissions,
    ),
    verb(
        "list_topic_permissions",
        "[--vhost <vhost>]",
        "Lists topic permissions in a virtual host",
        (0, 0),
        access::list_topic_permissions,
    ),
    verb(
        "list_policies",
        "[--vhost <vhost>]",
        "Lists policies in a virtual host",
        (0, 0),
        broker::list_policies,
    ),
    verb(
        "list_operator_policies",
        "[--vhost <vhost>]",
        "Lists operator policies in a virtual host",
        (0, 0),
        broker::list_operator_policies,
    ),
];

/// Verbs of both tools.
const BOTH: &[Verb] = &[
    verb(
        "ping",
        "",
        "Checks that the broker answers",
        (0, 0),
        health::ping,
    ),
    verb(
        "status",
        "",
        "Displays status of the broker",
        (0, 0),
        health::status,
    ),
    verb(
        "await_startup",
        "",
        "Waits for the broker to start",
        (0, 0),
        health::await_startup,
    ),
    verb(
        "version",
        "",
        "Displays the version of this tool",
        (0, 0),
        health::version,
    ),
];

/// Verbs of `rabbitmq-diagnostics` alone.
const DIAGNOSTICS: &[Verb] = &[
    verb(
        "check_running",
        "",
        "Exits with an error if the broker does not run",
        (0, 0),
        health::check_running,
    ),
    verb(
        "is_running",
        "",
        "Tells whether the broker runs",
        (0, 0),
        health::running,
    ),
    verb(
        "check_local_alarms",
        "",
        "Exits with an error if an alarm is in effect",
        (0, 0),
        health::check_local_alarms,
    ),
    verb(
        "check_alarms",
        "",
        "Exits with an error if an alarm is in effect",
        (0, 0),
        health::check_alarms,
    ),
    verb(
        "alarms",
        "",
        "Lists resource alarms in effect",
        (0, 0),
        health::alarms,
    ),
    verb(
        "listeners",
        "",
        "Lists listeners",
        (0, 0),
        health::listeners,
    ),
    verb(
        "check_port_listener",
        "<port>",
        "Exits with an error if nothing listens on the port",
        (1, 1),
        health::check_port_listener,
    ),
    verb(
        "check_protocol_listener",
        "<protocol>",
        "Exits with an error if nothing listens for the protocol",
        (1, 1),
        health::check_protocol_listener,
    ),
    verb(
        "check_port_connectivity",
        "",
        "Connects to every listener",
        (0, 0),
        health::check_port_connectivity,
    ),
    verb(
        "check_virtual_hosts",
        "",
        "Exits with an error if a virtual host is down",
        (0, 0),
        health::check_virtual_hosts,
    ),
    verb(
        "server_version",
        "",
        "Displays the version of the broker",
        (0, 0),
        health::server_version,
    ),
];
