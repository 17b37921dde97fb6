//! Which verbs there are, with their arguments, and which code runs.

use super::{MANY, Verb, access, broker, limits, node, parameters, verb};
use crate::shim::{Outcome, Shim, eval, health, lists};

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
pub(super) const CTL: &[Verb] = &[
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

/// Verbs of `rabbitmqctl` for limits, parameters, tracing, feature flags and the process.
pub(super) const PARAMETERS: &[Verb] = &[
    verb(
        "set_vhost_limits",
        "[--vhost <vhost>] <definition>",
        "Sets virtual host limits",
        (1, 1),
        limits::set_vhost,
    ),
    verb(
        "clear_vhost_limits",
        "[--vhost <vhost>]",
        "Clears virtual host limits",
        (0, 0),
        limits::clear_vhost,
    ),
    verb(
        "list_vhost_limits",
        "[--vhost <vhost>] [--global] [--no-table-headers]",
        "Displays configured virtual host limits",
        (0, 0),
        limits::list_vhost,
    ),
    verb(
        "set_user_limits",
        "<username> <definition>",
        "Sets user limits",
        (2, 2),
        limits::set_user,
    ),
    verb(
        "clear_user_limits",
        "<username> <limit_type> | all",
        "Clears user connection/channel limits",
        (2, 2),
        limits::clear_user,
    ),
    verb(
        "list_user_limits",
        "[--user <username>] [--global]",
        "Displays configured user limits",
        (0, 0),
        limits::list_user,
    ),
    verb(
        "set_parameter",
        "[--vhost <vhost>] <component_name> <name> <value>",
        "Sets a runtime parameter.",
        (3, 3),
        parameters::set,
    ),
    verb(
        "clear_parameter",
        "[--vhost <vhost>] <component_name> <name>",
        "Clears a runtime parameter.",
        (2, 2),
        parameters::clear,
    ),
    verb(
        "list_parameters",
        "[--vhost <vhost>] [--no-table-headers]",
        "Lists runtime parameters for a virtual host",
        (0, 0),
        parameters::list,
    ),
    verb(
        "set_global_parameter",
        "<name> <value>",
        "Sets a runtime parameter.",
        (2, 2),
        parameters::set_global,
    ),
    verb(
        "clear_global_parameter",
        "<name>",
        "Clears a global runtime parameter",
        (1, 1),
        parameters::clear_global,
    ),
    verb(
        "list_global_parameters",
        "[--no-table-headers]",
        "Lists global runtime parameters",
        (0, 0),
        parameters::list_global,
    ),
    verb(
        "trace_on",
        "[--vhost <vhost>]",
        "Copies all messages of a virtual host to amq.rabbitmq.trace",
        (0, 0),
        parameters::trace_on,
    ),
    verb(
        "trace_off",
        "[--vhost <vhost>]",
        "Ends tracing of a virtual host",
        (0, 0),
        parameters::trace_off,
    ),
    verb(
        "list_feature_flags",
        "[<column>, ...]",
        "Lists feature flags",
        (0, MANY),
        node::list_feature_flags,
    ),
    verb(
        "enable_feature_flag",
        "[--experimental|--opt-in] <feature_flag> | all",
        "Enables a feature flag or all supported feature flags on the target node",
        (1, 1),
        node::enable_feature_flag,
    ),
    verb(
        "environment",
        "",
        "Displays every setting with its value in force",
        (0, 0),
        node::environment,
    ),
    verb(
        "report",
        "",
        "Displays status, environment, objects and parameters, for a report of a problem",
        (0, 0),
        node::report,
    ),
    verb(
        "wait",
        "[<pidfile>] [--pid|-P <pid>]",
        "Waits for RabbitMQ node startup by monitoring a local PID file. See also \
         'rabbitmqctl await_startup'.",
        (0, 1),
        node::wait,
    ),
    verb(
        "stop",
        "[--idempotent] [<pidfile>]",
        "Stops the broker and its process",
        (0, 1),
        node::stop,
    ),
    verb(
        "shutdown",
        "[--wait]",
        "Stops the broker and its process, and waits for its end",
        (0, 0),
        node::shutdown,
    ),
];

/// Verbs of both tools.
pub(super) const BOTH: &[Verb] = &[
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
        "cluster_status",
        "",
        "Displays the nodes of the cluster: this one",
        (0, 0),
        node::cluster_status,
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
pub(super) const DIAGNOSTICS: &[Verb] = &[
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
