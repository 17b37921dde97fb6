//! Log lines on standard error: for people, or JSON. What is logged never holds a secret.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process and logs panics too.
///
/// # Errors
///
/// A filter that cannot be read, or logging that was already started.
pub fn start(log: &Log) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let directives = if log.filter.is_empty() {
        log.level.as_str()
    } else {
        &log.filter
    };
    let filter = EnvFilter::builder().parse(directives)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Human => subscriber.with_ansi(wants_colours()).try_init()?,
        LogFormat::Json => subscriber
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .try_init()?,
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Colours are for a person's terminal, unless that person declines them (no-color.org).
fn wants_colours() -> bool {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !declined && std::io::stderr().is_terminal()
}

/// Logs a panic in the log's own form, so that JSON readers see it.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        panic = message.unwrap_or("no message"),
        place = place.as_deref().unwrap_or("unknown"),
        thread = thread.name().unwrap_or("unnamed"),
        "internal error"
    );
}
