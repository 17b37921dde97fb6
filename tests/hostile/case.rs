//! What every case measures: how a tenant of another virtual host is served meanwhile, beside one
//! of another broker, how long a login takes, and how much memory the broker takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::support::{Client, Folder, Server, message};

/// What a peer with a few small frames may cost at most, MiB.
pub(crate) const SMALL_MIB: u64 = 16;
/// 99 of 100 rounds of a bystander take no longer than this while others misbehave,
const P99_MAX: Duration = Duration::from_millis(50);
/// or so many times what they take at the same time with a broker where nobody does: the machine
/// may be slow by itself, and from one second to the next.
const TIMES_SLOWER_MAX: u32 = 2;
/// A new login is served in this time, or in so many times what it takes with that broker.
const LOGIN_MAX: Duration = Duration::from_secs(1);
/// What must remain of a bystander's rounds a second is one part in so many.
const THROUGHPUT_PART: f64 = 5.0;
/// Between two rounds of the bystander.
const ROUND_PAUSE: Duration = Duration::from_millis(2);
/// Between two logins of newcomers.
const LOGIN_PAUSE: Duration = Duration::from_millis(100);
/// After a case the bystander is served undisturbed again within this time.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;
/// The bystander's virtual host, beside the default one.
const DEFINITIONS: &str = r#"{
    "vhosts": [{"name": "/"}, {"name": "bystander"}],
    "permissions": [{"user": "guest", "vhost": "bystander",
                     "configure": ".*", "write": ".*", "read": ".*"}]
}"#;

/// Whether cases that are scaled down for each run of the tests have the sizes that once stopped a
/// broker: `LEVERET_HOSTILE_FULL=1`.
pub(crate) fn is_full() -> bool {
    std::env::var_os("LEVERET_HOSTILE_FULL").is_some()
}

/// A broker with tenants who misbehave and others who do not, another one where nobody does, and
/// what memory the broker had at first.
pub(crate) struct Case {
    pub(crate) server: Server,
    tenants: Tenants,
    undisturbed: Tenants,
    pub(crate) resident_before: u64,
    _calm: Server,
    _folder: Folder,
    _alone: MutexGuard<'static, ()>,
}

impl Case {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(settings: &[&str]) -> Self {
        Self::start_by(|folder| Server::start_in(folder, &with_bystander(folder, settings)))
    }

    /// With the HTTP API and the metrics.
    pub(crate) fn start_http(settings: &[&str]) -> Self {
        Self::start_by(|folder| Server::start_http_in(folder, &with_bystander(folder, settings)))
    }

    /// By something that starts a broker in this folder with the settings of [`with_bystander`].
    pub(crate) fn start_by(start: impl FnOnce(&Folder) -> Server) -> Self {
        // One after the other: each measures latency.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let folder = Folder::new();
        let server = start(&folder);
        let calm = Server::start();
        let undisturbed = Tenants::of(&calm, "/");
        let tenants = Tenants::of(&server, "bystander");
        Self {
            resident_before: server.memory("VmRSS"),
            tenants,
            undisturbed,
            server,
            _calm: calm,
            _folder: folder,
            _alone: alone,
        }
    }

    /// The broker accepts and serves new clients.
    pub(crate) fn assert_serves(&self) {
        self.server.login().declare(1, "newcomer");
    }

    /// The broker never held more than `ceiling` MiB beyond what it began with, others were served
    /// all the time, and are served as before once it is over. Gives what the bystander kept of its
    /// undisturbed rounds a second.
    pub(crate) fn end(self, ceiling: u64) -> f64 {
        self.assert_serves();
        let (mut client, service) = self.tenants.end();
        let (_, undisturbed) = self.undisturbed.end();
        let bound = undisturbed.rounds.bound();
        let recovered = recover(&mut client, bound);
        let peak = self.server.memory("VmHWM");
        let peak = peak.saturating_sub(self.resident_before);
        let kept = service.rounds.per_second() / undisturbed.rounds.per_second();
        let name = thread::current().name().unwrap_or("case").to_owned();
        println!(
            "| {name} | {:.1?} | {:.1?} | {:.0?} | {} of {ceiling} | {recovered:.0?} | {:.0} % |",
            undisturbed.rounds.p99(),
            service.rounds.p99(),
            service.logins.p99(),
            peak / MIB,
            kept * 100.0,
        );
        service.assert_hardly_worse_than(&undisturbed);
        assert!(recovered < RECOVERY_MAX, "{recovered:?} until it recovered");
        let held = peak / MIB;
        assert!(peak <= ceiling * MIB, "{held} MiB, at most {ceiling}");
        kept
    }
}

/// A client who is served all the time, and newcomers.
struct Tenants {
    bystander: Served<Client>,
    newcomers: Served<()>,
}

/// How long those rounds and logins took.
struct Service {
    rounds: Latencies,
    logins: Latencies,
}

impl Tenants {
    fn of(server: &Server, vhost: &'static str) -> Self {
        let address = server.address;
        let mut client = server.login_to(vhost);
        client.declare(1, "bystander");
        Self {
            bystander: Served::again_and_again(client, ROUND_PAUSE, round),
            newcomers: Served::again_and_again((), LOGIN_PAUSE, move |()| {
                Client::login(address, vhost).declare(1, "newcomer");
            }),
        }
    }

    fn end(self) -> (Client, Service) {
        let (client, rounds) = self.bystander.end();
        let ((), logins) = self.newcomers.end();
        (client, Service { rounds, logins })
    }
}

impl Service {
    fn assert_hardly_worse_than(&self, undisturbed: &Self) {
        let (rounds, summary) = (&self.rounds, self.rounds.summary());
        let bound = undisturbed.rounds.bound();
        assert!(rounds.p99() <= bound, "{summary}, {bound:.1?} at most");
        let least = undisturbed.rounds.per_second() / THROUGHPUT_PART;
        assert!(
            rounds.per_second() >= least,
            "{summary}, {least:.0} at least"
        );
        let most = LOGIN_MAX.max(undisturbed.logins.p99() * TIMES_SLOWER_MAX);
        assert!(
            self.logins.p99() < most,
            "logins: {}",
            self.logins.summary()
        );
    }
}

/// The settings, and those that make the bystander's virtual host in a new folder.
pub(crate) fn with_bystander<'a>(folder: &Folder, settings: &[&'a str]) -> Vec<&'a str> {
    let path = folder.path().with_extension("json");
    std::fs::write(&path, DEFINITIONS).expect("a file beside the folder");
    let load = format!(
        "management.load_definitions={:?}",
        path.display().to_string()
    );
    let mut all = settings.to_vec();
    // A few bytes a case, for the life of the test program.
    all.push(Box::leak(load.into_boxed_str()));
    all
}

/// Publishes and fetches a message.
fn round(client: &mut Client) {
    client.send(&message(1, "bystander", 2, &[b"hi"]).concat());
    assert_eq!(client.get(1, "bystander"), b"hi");
}

/// How long it takes until ten rounds in a row take this long at most.
fn recover(client: &mut Client, bound: Duration) -> Duration {
    let start = Instant::now();
    let mut in_a_row = 0;
    let mut recovered = Duration::ZERO;
    while in_a_row < 10 && start.elapsed() < RECOVERY_MAX {
        let begin = Instant::now();
        round(client);
        if begin.elapsed() <= bound {
            in_a_row += 1;
        } else {
            in_a_row = 0;
            recovered = start.elapsed();
        }
    }
    if in_a_row < 10 {
        RECOVERY_MAX
    } else {
        recovered
    }
}

/// How long each of many rounds took.
#[derive(Default)]
pub(crate) struct Latencies {
    all: Vec<Duration>,
    elapsed: Duration,
}

impl Latencies {
    fn measure(&mut self, pause: Duration, round: impl FnOnce()) {
        let begin = Instant::now();
        round();
        self.all.push(begin.elapsed());
        sleep(pause);
        self.elapsed += begin.elapsed();
    }

    /// What 99 of 100 rounds took at most.
    fn p99(&self) -> Duration {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * 99 / 100).copied().unwrap_or_default()
    }

    fn per_second(&self) -> f64 {
        self.all.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// What 99 of 100 rounds may take while others misbehave.
    fn bound(&self) -> Duration {
        P99_MAX.max(self.p99() * TIMES_SLOWER_MAX)
    }

    fn summary(&self) -> String {
        let longest = self.all.iter().max().copied().unwrap_or_default();
        format!(
            "{} rounds, {:.0} a second, p99 {:.1?}, {longest:.0?} at most",
            self.all.len(),
            self.per_second(),
            self.p99(),
        )
    }
}

/// Somebody who is served again and again on a thread, until told to stop.
struct Served<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(T, Latencies)>,
}

impl<T: Send + 'static> Served<T> {
    fn again_and_again(
        mut who: T,
        pause: Duration,
        round: impl Fn(&mut T) + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut latencies = Latencies::default();
            // At least a few rounds, so that a short case has a figure.
            while latencies.all.len() < 5 || !stopped.load(Ordering::Relaxed) {
                latencies.measure(pause, || round(&mut who));
            }
            (who, latencies)
        });
        Self { stop, thread }
    }

    fn end(self) -> (T, Latencies) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("they were served")
    }
}
