//! The definitions that the configuration names.

use std::io;

use leveret_broker::Broker;
use tracing::info;

use crate::config::Config;

/// Imports them, if any are named.
///
/// # Errors
/// When the file cannot be read or something in it is refused.
pub(crate) fn load(config: &Config, broker: &Broker) -> io::Result<()> {
    let path = &config.management.load_definitions;
    if path.is_empty() {
        return Ok(());
    }
    let about =
        |reason: String| io::Error::other(format!("management.load_definitions: {path}: {reason}"));
    let file = std::fs::read(path).map_err(|error| about(error.to_string()))?;
    leveret_management::import_definitions(broker, &file).map_err(about)?;
    info!(path, "definitions imported");
    Ok(())
}
