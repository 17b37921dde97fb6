//! Log lines on standard error: for people, or JSON. What is logged never holds a secret.

mod json;

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// The log of this process, whose filter may change.
#[derive(Clone)]
pub struct Logging(reload::Handle<EnvFilter, Registry>);

impl Logging {
    /// Has the filter follow other settings; the form of a line stays.
    ///
    /// # Errors
    ///
    /// A filter that cannot be read.
    pub fn follow(&self, log: &Log) -> Result<(), String> {
        let filter = filter(log)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts logging for the whole process and logs panics too.
///
/// # Errors
///
/// A filter that cannot be read, or logging that was already started.
pub fn start(log: &Log) -> Result<Logging, String> {
    let (filter, handle) = reload::Layer::new(filter(log)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Human => lines.with_ansi(wants_colours()).boxed(),
        LogFormat::Json => lines.with_ansi(false).event_format(json::Json).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber.try_init().map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Logging(handle))
}

fn filter(log: &Log) -> Result<EnvFilter, String> {
    let directives = if log.filter.is_empty() {
        log.level.as_str()
    } else {
        &log.filter
    };
    let filter = EnvFilter::builder().parse(directives);
    filter.map_err(|error| error.to_string())
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
