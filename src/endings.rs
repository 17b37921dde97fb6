//! The one line that the log has of each connection, and how many of them one peer gets.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leveret_broker::{Connection, Peer, Side, Turn};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::throttle::network;

/// Peers remembered; when there are more, the one with the fewest lines is forgotten.
const PEERS_MAX: usize = 4096;
/// Of what a client says, which may be as long as a frame, so much is logged.
const TEXT_BYTES_MAX: usize = 255;
/// `REPLY_SUCCESS`, and what is sent by clients that give no code.
const ORDERLY: [u16; 2] = [200, 0];
/// `CONNECTION_FORCED`: somebody wanted it so.
const FORCED: u16 = 320;

/// How a connection ends that is not lost.
pub(crate) enum End {
    /// The client closed it and hangs up itself.
    Closed,
    /// It is not ready for work in time.
    HandshakeTimeout,
    /// The broker hangs up, for this reason.
    Cut(&'static str),
}

impl End {
    pub(crate) const fn of(turn: &Turn) -> Self {
        if turn.client_hangs_up {
            Self::Closed
        } else {
            Self::Cut("closed")
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed by the client",
            Self::HandshakeTimeout => "handshake timeout",
            Self::Cut(reason) => reason,
        }
    }
}

/// Writes lines about connections that have ended, so many of one peer in a minute.
pub(crate) struct Endings {
    per_minute: AtomicU32,
    peers: Mutex<HashMap<IpAddr, LogWindow>>,
}

/// Lines of one peer.
#[derive(Clone, Copy)]
struct LogWindow {
    since: Instant,
    written: u32,
    left_out: u64,
    /// Of those left out, so many would have been warnings.
    warnings: u64,
}

impl LogWindow {
    fn is_over(&self, now: Instant) -> bool {
        self.since + Endings::WINDOW <= now
    }

    fn sum_up(&self, peer: IpAddr) {
        let (connections, warnings) = (self.left_out, self.warnings);
        if warnings > 0 {
            warn!(%peer, connections, warnings, "more connections of this peer have ended");
        } else if connections > 0 {
            info!(%peer, connections, warnings, "more connections of this peer have ended");
        }
    }
}

impl Endings {
    /// Over this time lines are counted.
    pub(crate) const WINDOW: Duration = Duration::from_secs(60);

    /// Allows so many lines a minute about one peer; 0 allows any number.
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute: AtomicU32::new(per_minute),
            peers: Mutex::default(),
        }
    }

    pub(crate) fn set_per_minute(&self, per_minute: u32) {
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// Says how a connection has ended, unless the refusal of its login was said.
    pub(crate) fn ended(&self, from: IpAddr, connection: &Connection, ended: &io::Result<End>) {
        if connection.login_refusal().is_some() {
            return;
        }
        let (is_warning, how) = judge(connection, ended);
        if !self.admit(from, is_warning, Instant::now()) {
            return;
        }
        let peer = connection.peer();
        let (name, said) = (&peer.client.name, ClientSaid::of(peer));
        let (client, user, vhost) = (said.client(), said.user(), said.vhost());
        let parting = connection.parting();
        let code = parting.map(|parting| parting.code);
        let text = parting.map(|parting| shortened(&parting.text));
        if is_warning {
            warn!(connection = name, client, user, vhost, code, text, "{how}");
        } else {
            info!(connection = name, client, user, vhost, code, text, "{how}");
        }
    }

    /// Says why a login was refused: the client is told only that it is, and late.
    pub(crate) fn refused(&self, from: IpAddr, connection: &Connection) {
        let Some(refusal) = connection.login_refusal() else {
            return;
        };
        if self.admit(from, true, Instant::now()) {
            let name = &connection.peer().client.name;
            let client = some(shortened(&refusal.client));
            let (user, reason) = (shortened(&refusal.user), refusal.reason.to_string());
            let code = connection.parting().map(|parting| parting.code);
            warn!(
                connection = name,
                client, user, code, reason, "login refused"
            );
        }
    }

    /// Whether a line about this peer may be written; counts it either way.
    fn admit(&self, from: IpAddr, is_warning: bool, now: Instant) -> bool {
        let per_minute = self.per_minute.load(Ordering::Relaxed);
        if per_minute == 0 {
            return true;
        }
        let (from, mut peers) = (network(from), self.peers.lock());
        if peers.len() >= PEERS_MAX && !peers.contains_key(&from) {
            forget_one(&mut peers);
        }
        let fresh = LogWindow {
            since: now,
            written: 0,
            left_out: 0,
            warnings: 0,
        };
        let window = peers.entry(from).or_insert(fresh);
        if window.is_over(now) {
            std::mem::replace(window, fresh).sum_up(from);
        }
        let admitted = window.written < per_minute;
        if admitted {
            window.written += 1;
        } else {
            window.left_out += 1;
            window.warnings += u64::from(is_warning);
        }
        admitted
    }

    /// Forgets peers whose minute is over, and says how many lines of each were left out.
    pub(crate) fn sweep(&self, now: Instant) {
        self.peers.lock().retain(|peer, window| {
            let over = window.is_over(now);
            if over {
                window.sum_up(*peer);
            }
            !over
        });
    }
}

fn forget_one(peers: &mut HashMap<IpAddr, LogWindow>) {
    let count = |window: &LogWindow| u64::from(window.written) + window.left_out;
    let least = peers.iter().min_by_key(|(_, window)| count(window));
    if let Some(peer) = least.map(|(peer, _)| *peer)
        && let Some(window) = peers.remove(&peer)
    {
        window.sum_up(peer);
    }
}

/// Whether an end is worth a warning, and how it came.
fn judge(connection: &Connection, ended: &io::Result<End>) -> (bool, String) {
    if let Some(stranger) = connection.stranger() {
        return (true, format!("{} on the AMQP port", stranger.name()));
    }
    if let Some(parting) = connection.parting() {
        let (orderly, side) = match parting.by {
            Side::Client => (ORDERLY.contains(&parting.code), "client"),
            Side::Broker => (parting.code == FORCED, "broker"),
        };
        return (!orderly, format!("connection closed by the {side}"));
    }
    let silent = connection.peer().traffic().reads == 0;
    match ended {
        Ok(_) if connection.is_stalled() => (true, "client takes nothing of its replies".into()),
        Ok(_) if connection.peer().is_dead() => (true, "missed heartbeats from the client".into()),
        Ok(end) => (true, format!("connection ended: {}", end.reason())),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            (true, format!("connection lost: {error}"))
        }
        Err(_) if silent => (false, "client hung up before it sent anything".into()),
        Err(_) => (true, "client hung up without closing the connection".into()),
    }
}

/// What a client said of itself, as far as it came.
struct ClientSaid {
    client: String,
    user: String,
    vhost: String,
}

impl ClientSaid {
    fn of(peer: &Peer) -> Self {
        Self {
            client: peer.client.connection_name(),
            user: peer.client.user.lock().clone(),
            vhost: peer.client.vhost.lock().clone(),
        }
    }

    fn client(&self) -> Option<&str> {
        some(shortened(&self.client))
    }

    fn user(&self) -> Option<&str> {
        some(&self.user)
    }

    fn vhost(&self) -> Option<&str> {
        some(&self.vhost)
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gets_so_many_lines_a_minute_and_others_theirs() {
        let endings = Endings::new(2);
        let now = Instant::now();
        let [one, neighbour, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .map(|address| address.parse::<IpAddr>().unwrap());
        assert!(endings.admit(one, true, now));
        assert!(endings.admit(neighbour, true, now));
        assert!(!endings.admit(one, true, now), "the same network");
        assert!(endings.admit(other, true, now));
        endings.sweep(now + Endings::WINDOW / 2);
        assert!(!endings.admit(one, false, now + Endings::WINDOW / 2));
        assert_eq!(endings.peers.lock()[&network(one)].left_out, 2);
        assert!(
            endings.admit(one, true, now + Endings::WINDOW),
            "a new minute"
        );
        endings.sweep(now + Endings::WINDOW * 2);
        assert!(endings.peers.lock().is_empty());
    }

    #[test]
    fn no_limit_and_a_bounded_table() {
        let endings = Endings::new(0);
        let now = Instant::now();
        assert!((0..1000).all(|_| endings.admit([127, 0, 0, 1].into(), true, now)));
        endings.set_per_minute(1);
        for number in 0..10_000_u32 {
            endings.admit(IpAddr::from(number.to_be_bytes()), true, now);
        }
        assert_eq!(endings.peers.lock().len(), PEERS_MAX);
    }

    #[test]
    fn what_clients_say_is_shortened_at_a_whole_character() {
        let long = format!("{}é", "x".repeat(TEXT_BYTES_MAX - 1));
        assert_eq!(shortened(&long).len(), TEXT_BYTES_MAX - 1);
        assert_eq!(shortened("short"), "short");
    }
}
