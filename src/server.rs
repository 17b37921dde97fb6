//! The running broker: listeners, the timer, and an orderly stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leveret_broker::{
    Access, AlarmState, Broker, BrokerConfig, Measured, Noted, Outcome, RefusedAt, Ticker,
};
use leveret_management::App;
use leveret_store::Journal;
use parking_lot::{Mutex, RwLock};
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

use crate::backup::Backups;
use crate::clock::now_ms;
use crate::config::{Arguments, Config};
use crate::connection::{Gate, labour};
use crate::endings::Endings;
use crate::host::Process;
use crate::journal::{self, StartRefusal};
use crate::listeners::Listeners;
use crate::logging::Logging;
use crate::process::{
    CoreWatch, OtherSignals, SignalRequest, StopSignals, disk_free_bytes, memory_limit,
    raise_descriptor_limit, resident_bytes,
};
use crate::queue_pager::QueuePager;
use crate::reload::Reloader;
use crate::run_files::RunFolder;
use crate::throttle::Throttle;
use crate::{
    default_password, deference, definitions, queue_timer, run_files, scrubber, settings, state,
};

const BACKLOG: u32 = 4096;
/// Memory and disk are measured every so many ticks: once a second.
const MEASURE_TICKS: u32 = 4;
/// Refused messages are told of no more often than this,
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// in so many lines at most.
const REFUSED_LINES: usize = 16;
/// So many arguments without effect are told one by one each time.
const IGNORED_TOLD: usize = 100;
const TICK: Duration = Duration::from_millis(Ticker::INTERVAL_MS);
const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// Runs the broker until it is told to stop. SIGHUP has `arguments` read again.
///
/// # Errors
/// When the data folder cannot be used, no listener can be opened, or anybody could log in.
pub fn run(arguments: Arguments, config: Config, logging: Logging) -> io::Result<()> {
    // Before the journal is opened, which has a descriptor for each of its segments.
    match raise_descriptor_limit() {
        Ok(limit) => info!(limit = limit.in_force, "file descriptors"),
        Err(error) => warn!(%error, "cannot raise the limit of file descriptors"),
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    deference::prepare();
    builder.on_thread_start(deference::begin_thread);
    if config.runtime.worker_threads > 0 {
        builder.worker_threads(config.runtime.worker_threads as usize);
    }
    let runtime = builder.enable_all().build()?;
    // From here on they do not end the process, however long the journal takes to read.
    let signals = {
        let _inside = runtime.enter();
        OtherSignals::new()?
    };
    default_password::check_new(&config)?;
    let folder = config.data_dir.display();
    let unusable = |error: StartRefusal| io::Error::other(format!("data folder {folder}: {error}"));
    let opened = journal::open(&config).map_err(unusable)?;
    let broker = Arc::new(broker(&config, Arc::clone(&opened.journal))?);
    let runs = RunFolder::open(&config.data_dir, &opened.moved.runs());
    let runs = runs.map_err(|error| unusable(error.into()))?;
    broker.page_to(run_files::runs_at_start(runs, config.limits.disk_free_min));
    // Queues and messages have deadlines: those that come back are judged by the time it is.
    broker.set_now(now_ms());
    let journal = opened.restore(&broker, &config.default).map_err(unusable)?;
    broker.leave_free(run_files::left_free(config.limits.disk_free_min));
    let rereading = Rereading { arguments, logging };
    let backups = Backups::new(&config, journal.journal());
    let served = serve_until_stopped(&config, &broker, (signals, rereading), backups);
    let served = runtime.block_on(served);
    drop(runtime);
    journal.stop();
    if served.is_ok() {
        info!("stopped");
    }
    served
}

/// What a new reading of the configuration needs.
struct Rereading {
    arguments: Arguments,
    logging: Logging,
}

async fn serve_until_stopped(
    config: &Config,
    broker: &Arc<Broker>,
    (others, rereading): (OtherSignals, Rereading),
    backups: Backups,
) -> io::Result<()> {
    let mut signals = StopSignals::new()?;
    if let Some(limit) = memory_limit() {
        info!(bytes = limit.bytes, set_by = ?limit.set_by, "memory limit");
    }
    let process = Arc::new(Process::new(config));
    process.backs_up(backups);
    definitions::load(config, broker)?;
    default_password::check(config, broker)?;
    warn_of_anonymous(config, broker);
    let gate = Arc::new(Gate {
        broker: Arc::clone(broker),
        patience: RwLock::new(settings::patience(config)),
        throttle: Throttle::new(config.limits.login_failures_per_minute),
        endings: Endings::new(config.log.connections_per_minute),
        labour: labour(),
    });
    let listeners = listen_on("amqp.listen", &config.amqp.listen).await?;
    let addresses = addresses_of(&listeners);
    process.listens("amqp", &addresses);
    let listeners = Arc::new(Listeners::new(Arc::clone(&gate), listeners));
    process.opens(&listeners);
    let http = serve_http(config, broker, &process).await?;
    let ticking = tokio::spawn(tick(Arc::clone(&gate), config.data_dir.clone()));
    let (timer, timing) = queue_timer::start(broker)?;
    let (pager, [writing, reading, moving]) = QueuePager::start(broker)?;
    let (scrubber, scrubbing) = scrubber::start(broker, config.storage.scrub_rate)?;
    let reloader = Reloader {
        arguments: rereading.arguments,
        config: config.clone(),
        broker: Arc::clone(broker),
        gate: Arc::clone(&gate),
        process: Arc::clone(&process),
        logging: rereading.logging,
    };
    let obeying = tokio::spawn(obey(others, Arc::new(Mutex::new(reloader))));
    let addresses = texts_of(&addresses);
    info!(?addresses, "Server startup complete");

    let signal = tokio::select! {
        signal = signals.next() => signal,
        // Without it there are no heartbeats and no alarms, and nobody would hear of it.
        _ = ticking => return Err(io::Error::other("the ticker has panicked")),
        _ = timing => return Err(io::Error::other("the timer of queues has panicked")),
        _ = writing => return Err(io::Error::other("the writer of queues has panicked")),
        _ = reading => return Err(io::Error::other("the reader of queues has panicked")),
        _ = moving => return Err(io::Error::other("the mover of queues has panicked")),
        _ = scrubbing => return Err(io::Error::other("the scrubber has panicked")),
    };
    info!(signal, connections = broker.peer_count(), "stopping");
    http.iter().for_each(JoinHandle::abort);
    listeners.shut().await;
    drain(config, broker, &mut signals).await;
    timer.stop();
    scrubber.stop();
    pager.stop();
    obeying.abort();
    gate.endings.sweep(Instant::now() + Endings::WINDOW);
    Ok(())
}

/// Waits until all connections have closed, or for as long as they have for it.
async fn drain(config: &Config, broker: &Broker, signals: &mut StopSignals) {
    let drained = async {
        while broker.peer_count() > 0 {
            sleep(DRAIN_CHECK).await;
        }
    };
    tokio::select! {
        drained = timeout(Duration::from_millis(config.runtime.drain_timeout_ms), drained) => {
            if drained.is_err() {
                warn!(connections = broker.peer_count(), "connections did not close in time");
            }
        }
        signal = signals.next() => warn!(signal, "second signal: not waiting for connections"),
    }
}

/// Does what signals ask for that do not stop the broker, one after the other.
async fn obey(mut signals: OtherSignals, reloader: Arc<Mutex<Reloader>>) {
    loop {
        let asked = signals.next().await;
        let reloader = Arc::clone(&reloader);
        // Files are read, and queues without number looked at: nobody else waits for that.
        let done = tokio::task::spawn_blocking(move || match asked {
            SignalRequest::Reload => reloader.lock().reload(),
            SignalRequest::State => {
                let reloader = reloader.lock();
                state::log(&reloader.broker, &*reloader.process);
            }
            SignalRequest::Nothing(signal) => info!(signal, "a signal that means nothing here"),
        });
        if done.await.is_err() {
            error!("what a signal has asked for was not done");
        }
    }
}

fn warn_of_anonymous(config: &Config, broker: &Broker) {
    let user = &*config.auth.anonymous_user;
    if user.is_empty() {
        return;
    }
    if broker.user(user).is_none() {
        warn!(
            user,
            "auth.anonymous_user does not exist: ANONYMOUS logins are refused"
        );
    } else {
        warn!(
            user,
            "whoever asks for it is let in as auth.anonymous_user, without a password"
        );
    }
}

fn broker(config: &Config, journal: Arc<Journal>) -> io::Result<Broker> {
    let settings = BrokerConfig {
        seed: u64::from_ne_bytes(random()?),
        secret: random()?,
        ..settings::of_broker(config)
    };
    let access = Access::new(config.amqp.loopback_users.clone());
    Ok(Broker::new(settings, access, journal))
}

/// Runs slow work on this thread, and what waits for the thread on another one.
pub(crate) fn aside(work: &mut dyn FnMut()) {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => tokio::task::block_in_place(work),
        Err(_) => work(),
    }
}

/// Bytes that nobody outside can know.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // So few bytes are never given in part.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

/// Opens the HTTP API and the metrics endpoint, and takes samples for them.
async fn serve_http(
    config: &Config,
    broker: &Arc<Broker>,
    process: &Arc<Process>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let management = &config.management;
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let settings = leveret_management::HttpSettings {
        bodies_bytes_max: size(management.bodies_bytes_max),
        definitions_bytes_max: size(management.definitions_bytes_max),
        connections_max: size(management.connections_max),
        requests_max: size(management.requests_max),
        sample_interval_ms: management.sample_interval_ms,
        history_objects_max: size(management.history_objects_max),
        lists_bytes_max: size(management.lists_bytes_max),
        cors_origins: management.cors_origins.clone(),
    };
    let host = Arc::clone(process) as Arc<dyn leveret_management::Host>;
    let app = App::new(Arc::clone(broker), host, settings);
    let mut tasks = Vec::new();
    let apis = [
        (
            "http",
            "management.listen",
            &management.listen,
            leveret_management::router(&app),
        ),
        (
            "http/prometheus",
            "management.metrics_listen",
            &management.metrics_listen,
            leveret_management::metrics_router(&app),
        ),
    ];
    for (protocol, key, places, router) in apis {
        let listeners = listen_on(key, places).await?;
        let addresses = addresses_of(&listeners);
        process.listens(protocol, &addresses);
        if !addresses.is_empty() {
            let http = texts_of(&addresses);
            info!(protocol, ?http, "serving HTTP");
        }
        let max = size(management.connections_max);
        let serve =
            |listener| tokio::spawn(leveret_management::listen(listener, router.clone(), max));
        tasks.extend(listeners.into_iter().map(serve));
    }
    if !tasks.is_empty() {
        tasks.push(tokio::spawn(leveret_management::sample(app)));
    }
    Ok(tasks)
}

/// Opens the listeners that a key names.
async fn listen_on(key: &str, places: &[String]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for place in places {
        let about = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("{key}: cannot listen on {place}: {error}"),
            )
        };
        listeners.append(&mut listen(place).await.map_err(about)?);
    }
    Ok(listeners)
}

/// Addresses as a list of texts, for logs.
fn texts_of(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn addresses_of(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}

/// Opens the listeners of one `host:port`. A machine without IPv6 goes without that listener.
async fn listen(address: &str) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in lookup_host(address).await? {
        match bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_no_ipv6(address, &error) => {
                warn!(%address, "this machine has no IPv6");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

/// Whether there is no IPv6 here at all; an address that just is not this machine's is a mistake.
fn is_no_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    use rustix::io::Errno;
    let everywhere = address.ip().is_unspecified() || address.ip().is_loopback();
    let code = error.raw_os_error();
    address.is_ipv6()
        && (code == Some(Errno::AFNOSUPPORT.raw_os_error())
            || everywhere && code == Some(Errno::ADDRNOTAVAIL.raw_os_error()))
}

pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // Beside it, 0.0.0.0 has a listener of its own.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Tells of alarms that went on or off.
fn log_alarms(broker: &Broker, before: [AlarmState; 2]) {
    for (before, now) in before.into_iter().zip(broker.alarms()) {
        let (alarm, forced) = (now.alarm.name(), now.forced);
        let (memory_used, memory_mark) = (broker.memory_used(), broker.memory_alarm_bytes());
        let disk_free = broker.disk_free();
        if now.active && !before.active {
            warn!(
                alarm,
                forced, memory_used, memory_mark, disk_free, "alarm: publishers are blocked"
            );
        } else if before.active && !now.active {
            info!(alarm, memory_used, memory_mark, disk_free, "alarm is over");
        }
    }
}

/// Tells of messages that queues refused and of publishers that wait for them, now and then.
fn log_refused(broker: &Broker, last: &mut Option<Instant>) {
    if last.is_some_and(|last| last.elapsed() < REFUSED_PAUSE) {
        return;
    }
    let Noted { places, elsewhere } = broker.refused.take_noted();
    if places.is_empty() {
        return;
    }
    *last = Some(Instant::now());
    let more = places.values().skip(REFUSED_LINES).sum::<u64>() + elsewhere;
    for (place, count) in places.iter().take(REFUSED_LINES) {
        let RefusedAt {
            vhost,
            queue,
            exchange,
            outcome,
        } = place;
        match outcome {
            Outcome::Refused(reason) => {
                let reason = reason.name();
                warn!(
                    vhost,
                    queue,
                    exchange,
                    reason,
                    messages = count,
                    "messages refused"
                );
            }
            Outcome::Waits => warn!(
                vhost,
                queue,
                exchange,
                connections = count,
                "publishers are blocked: the queue has its share of limits.resident_bytes"
            ),
            Outcome::Limited(limit) => warn!(
                vhost,
                exchange,
                limit,
                times = count,
                "publishers are blocked: the virtual host has reached a limit"
            ),
        }
    }
    if more > 0 {
        warn!(more, "messages refused, or publishers blocked, elsewhere");
    }
}

/// Tells which arguments of new queues have no effect, once for each.
fn log_ignored(broker: &Broker) {
    let (notices, mut more) = broker.notices.take();
    let told = notices.len().min(IGNORED_TOLD);
    more += (notices.len() - told) as u64;
    for notice in notices.iter().take(told) {
        let (vhost, queue, argument) = (&notice.vhost, &notice.queue, &notice.argument);
        warn!(%vhost, %queue, %argument, "a queue is declared with an argument without effect");
    }
    if more > 0 {
        warn!(
            more,
            "further arguments of new queues have no effect: see GET /api/x/ignored"
        );
    }
}

/// Tells the broker whether there are processors to spare, while it wants to know.
fn look_at_cores(broker: &Broker, cores: &mut CoreWatch) {
    if broker.wants_cores() {
        broker.set_cores_idle(cores.look());
    } else {
        broker.set_cores_idle(false);
        cores.forget();
    }
}

async fn tick(gate: Arc<Gate>, data_dir: PathBuf) {
    let broker = &gate.broker;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticker = Ticker::default();
    let mut alarms = broker.alarms();
    let mut refused = None;
    let mut cores = CoreWatch::default();
    for count in 0u32.. {
        ticks.tick().await;
        ticker.tick(broker, now_ms());
        look_at_cores(broker, &mut cores);
        if count.is_multiple_of(MEASURE_TICKS) {
            broker.measure(Measured {
                memory_bytes: resident_bytes(),
                disk_free_bytes: disk_free_bytes(&data_dir).ok(),
            });
            let before = std::mem::replace(&mut alarms, broker.alarms());
            log_alarms(broker, before);
            log_refused(broker, &mut refused);
            log_ignored(broker);
            gate.endings.sweep(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_a_machine_without_ipv6_goes_without_a_listener() {
        let goes_without = |address: &str, errno: Errno| {
            let address = address.parse().unwrap();
            is_no_ipv6(address, &io::Error::from(errno))
        };
        assert!(goes_without("[::]:5672", Errno::AFNOSUPPORT));
        assert!(goes_without("[2001:db8::5]:5672", Errno::AFNOSUPPORT));
        assert!(goes_without("[::1]:5672", Errno::ADDRNOTAVAIL));
        assert!(!goes_without("[2001:db8::5]:5672", Errno::ADDRNOTAVAIL));
        assert!(!goes_without("192.0.2.5:5672", Errno::ADDRNOTAVAIL));
        assert!(!goes_without("[::]:5672", Errno::ADDRINUSE));
    }
}
