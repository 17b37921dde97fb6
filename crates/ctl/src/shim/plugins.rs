//! `rabbitmq-plugins`: what RabbitMQ keeps in plugins is either in this broker, always, or not
//! there. Enabling what is there has nothing to do and says so; anything else fails.

use super::verbs::{MANY, Verb, verb};
use super::{Outcome, Shim, Stop, exit};

/// Plugins of RabbitMQ whose work the broker does by itself.
const BUILT_IN: &[&str] = &[
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_prometheus",
    "rabbitmq_random_exchange",
];

pub(super) const VERBS: &[Verb] = &[
    verb(
        "list",
        "[<pattern>] [--minimal|-m]",
        "Lists what RabbitMQ keeps in plugins and this broker has",
        (0, 1),
        list,
    ),
    verb(
        "enable",
        "<plugin> [<plugin>...]",
        "Succeeds for what this broker has; it is always on",
        (1, MANY),
        enable,
    ),
    verb(
        "disable",
        "<plugin> [<plugin>...]",
        "Fails for what this broker has: it cannot be turned off",
        (1, MANY),
        disable,
    ),
    verb(
        "is_enabled",
        "<plugin> [<plugin>...]",
        "Exits with an error unless this broker has all of them",
        (1, MANY),
        is_enabled,
    ),
];

fn is_built_in(plugin: &str) -> bool {
    BUILT_IN.contains(&plugin)
}

fn list(shim: &Shim) -> Outcome {
    let pattern = shim.argument(0);
    let overview = shim.get(&["overview"])?;
    let version = overview["rabbitmq_version"].as_str().unwrap_or_default();
    let node = overview["node"].as_str().unwrap_or_default();
    let found = BUILT_IN.iter().filter(|name| name.contains(pattern));
    if shim.invocation.has("minimal") {
        found.for_each(|name| println!("{name}"));
        return Ok(());
    }
    let shown = if pattern.is_empty() { ".*" } else { pattern };
    // Also what the letters mean is left out by `-q`.
    shim.banner(&format!(
        "Listing plugins with pattern \"{shown}\" ...\n \
         Configured: E = explicitly enabled; e = implicitly enabled\n \
         | Status: * = running on {node}\n |/"
    ));
    found.for_each(|name| println!("[E*] {name:<40} {version}"));
    Ok(())
}

fn enable(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!("Enabling plugins on node {node}:"));
    for plugin in &shim.invocation.arguments {
        if !is_built_in(plugin) {
            let text = format!("{plugin}: this broker has no plugins, and does not have this");
            return Err(Stop::error(exit::DATA, &text));
        }
        println!("{plugin}");
    }
    println!("Nothing to do: it is part of the broker and always on.");
    Ok(())
}

fn disable(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    shim.banner(&format!("Disabling plugins on node {node}:"));
    for plugin in &shim.invocation.arguments {
        if is_built_in(plugin) {
            let text = format!("{plugin} is part of the broker and cannot be turned off");
            return Err(Stop::error(exit::DATA, &text));
        }
        println!("{plugin}");
    }
    println!("Nothing to do: the broker has no plugins.");
    Ok(())
}

fn is_enabled(shim: &Shim) -> Outcome {
    let node = shim.node()?;
    let plugins = &shim.invocation.arguments;
    let named = plugins.join(", ");
    shim.banner(&format!(
        "Asking node {node} if plugin {named} is enabled..."
    ));
    if let Some(missing) = plugins.iter().find(|plugin| !is_built_in(plugin)) {
        let text = format!("Plugin {missing} is not enabled on node {node}");
        return Err(Stop::error(exit::UNAVAILABLE, &text));
    }
    println!("Plugin {named} is enabled on node {node}");
    Ok(())
}
