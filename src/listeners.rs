//! The AMQP listeners: where clients come in, and how they are kept out for a while.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use leveret_broker::Effects;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::connection::{Gate, serve};
use crate::server::bind;
use crate::throttle::Throttle;

/// After a failed accept: descriptors have run out, and one may come free.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const DRAIN_CHECK: Duration = Duration::from_millis(10);
/// Connections that are told to close have so long for it.
const DRAIN: Duration = Duration::from_secs(5);

/// The AMQP listeners.
pub(crate) struct Listeners {
    gate: Arc<Gate>,
    addresses: Vec<SocketAddr>,
    accepting: Mutex<Vec<JoinHandle<()>>>,
}

impl Listeners {
    /// Lets clients in at these listeners.
    pub(crate) fn new(gate: Arc<Gate>, listeners: Vec<TcpListener>) -> Self {
        let addresses = listeners
            .iter()
            .filter_map(|l| l.local_addr().ok())
            .collect();
        let accept = |listener| tokio::spawn(accept(Arc::clone(&gate), listener));
        let accepting = Mutex::new(listeners.into_iter().map(accept).collect());
        Self {
            addresses,
            accepting,
            gate,
        }
    }

    /// Where refused logins are counted.
    pub(crate) fn throttle(&self) -> &Throttle {
        &self.gate.throttle
    }

    /// Closes the listeners and asks every connection to close.
    pub(crate) async fn shut(&self) {
        for task in self.accepting.lock().await.drain(..) {
            task.abort();
            // Its listener is closed once it has ended.
            let _ = task.await;
        }
        self.gate.broker.stop();
    }

    /// Sends all clients away and forgets what does not survive a restart, as if the broker had
    /// been restarted; the process goes on.
    pub(crate) async fn close(&self) {
        self.shut().await;
        let drained = async {
            while self.gate.broker.peer_count() > 0 {
                sleep(DRAIN_CHECK).await;
            }
        };
        if timeout(DRAIN, drained).await.is_err() {
            warn!(
                connections = self.gate.broker.peer_count(),
                "connections did not close in time"
            );
        }
        let mut effects = Effects::default();
        if let Err(refusal) = self.gate.broker.forget_transient(&mut effects) {
            warn!(?refusal, "cannot delete what is transient");
        }
        self.gate.broker.submit(&mut effects);
        effects.wake();
        info!("closed for clients");
    }

    /// Lets clients in again.
    ///
    /// # Errors
    /// When a listener cannot be opened.
    pub(crate) async fn open(&self) -> io::Result<()> {
        let mut accepting = self.accepting.lock().await;
        if !accepting.is_empty() {
            return Ok(());
        }
        let listeners: Vec<_> = self
            .addresses
            .iter()
            .map(|address| bind(*address))
            .collect::<io::Result<_>>()?;
        self.gate.broker.start_again();
        let accept = |listener| tokio::spawn(accept(Arc::clone(&self.gate), listener));
        accepting.extend(listeners.into_iter().map(accept));
        info!("open for clients");
        Ok(())
    }
}

async fn accept(gate: Arc<Gate>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(Arc::clone(&gate), stream));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}
