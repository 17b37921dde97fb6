//! A connection as the rest of the broker sees it.

pub(crate) mod alarms;
pub(crate) mod unfinished;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use leveret_session::Fault;
use parking_lot::Mutex;

use crate::context::client::Client;
use crate::context::stats::{
    ChannelList, ChannelStats, Count, MessageCounts, SizeCounts, Sizes, Totals, Traffic,
};
use crate::peer::unfinished::UnfinishedOf;
use crate::queue::consumer::SharedOutlet;
use crate::queue::lease::DeliveryWatch;

/// So long after it was slowed down a connection is still said to be, as with RabbitMQ.
const FLOW_MS: u64 = 1000;

/// A connection as the rest of the broker sees it.
pub struct Peer {
    /// Who it is.
    pub client: Arc<Client>,
    /// Where its bytes go out.
    pub outlet: SharedOutlet,
    pub(crate) received_ms: AtomicU64,
    /// Seconds, as agreed when a virtual host is opened; 0 means none.
    pub heartbeat_s: AtomicU16,
    /// The highest channel number, as agreed then.
    pub channel_max: AtomicU16,
    pub(crate) wrote: AtomicU64,
    pub(crate) wrote_ms: AtomicU64,
    /// Somebody asks the reader to close the connection.
    pub(crate) close: Mutex<Option<Fault>>,
    pub(crate) dead: AtomicBool,
    pub(crate) leases: Arc<DeliveryWatch>,
    /// Its reader does not read for now.
    pub(crate) paused: AtomicBool,
    /// What keeps its reader from reading, a bit for each obstacle; changed with the outlet locked.
    pub(crate) blocked: AtomicU8,
    pub(crate) channels: Mutex<ChannelList>,
    pub(crate) sizes: Sizes,
    pub(crate) unfinished: UnfinishedOf,
    pub(crate) received_bytes: Count,
    pub(crate) reads: Count,
    /// How long its publishing was slowed down, milliseconds, and when that was last.
    pub(crate) flow_ms: Count,
    pub(crate) flow_at_ms: AtomicU64,
}

impl Peer {
    /// A connection at its start. `now_ms` is of the clock that its turns are told of.
    pub(crate) fn new(client: Client, outlet: SharedOutlet, now_ms: u64) -> Self {
        Self {
            client: Arc::new(client),
            leases: Arc::new(DeliveryWatch::new(Arc::clone(&outlet))),
            outlet,
            received_ms: AtomicU64::new(now_ms),
            heartbeat_s: AtomicU16::new(0),
            channel_max: AtomicU16::new(0),
            wrote: AtomicU64::new(0),
            wrote_ms: AtomicU64::new(now_ms),
            close: Mutex::default(),
            dead: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            blocked: AtomicU8::new(0),
            channels: Mutex::default(),
            sizes: Sizes::default(),
            unfinished: UnfinishedOf::default(),
            received_bytes: Count::default(),
            reads: Count::default(),
            flow_ms: Count::default(),
            flow_at_ms: AtomicU64::new(0),
        }
    }

    /// Whether the client is given up: nothing was heard of it for two heartbeat intervals, or it
    /// takes nothing of its replies.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Its publishing was slowed down for so long.
    pub(crate) fn was_slowed(&self, ms: u64, now_ms: u64) {
        self.flow_ms.add(ms);
        self.flow_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How long its publishing was slowed down in all, milliseconds.
    #[must_use]
    pub fn flow_ms(&self) -> u64 {
        self.flow_ms.get()
    }

    /// Whether its publishing is slowed down, or was a moment ago.
    #[must_use]
    pub fn is_in_flow(&self, now_ms: u64) -> bool {
        let slowed_ms = self.flow_at_ms.load(Ordering::Relaxed);
        slowed_ms > 0 && now_ms.saturating_sub(slowed_ms) < FLOW_MS
    }

    /// Its open channels, in the order they were opened.
    #[must_use]
    pub fn channels(&self) -> Vec<Arc<ChannelStats>> {
        self.channels.lock().open.clone()
    }

    /// How many channels are open.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.lock().open.len()
    }

    /// What went over its socket.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let outlet = self.outlet.lock();
        Traffic {
            received_bytes: self.received_bytes.get(),
            reads: self.reads.get(),
            sent_bytes: outlet.written(),
            writes: outlet.writes(),
        }
    }

    /// Messages of all its channels, closed ones included.
    #[must_use]
    pub fn message_counts(&self) -> MessageCounts {
        let deliveries = self.outlet.lock().delivery_totals();
        MessageCounts {
            deliveries,
            ..self.channels.lock().counts()
        }
    }

    /// Sizes of the messages it published.
    #[must_use]
    pub fn size_counts(&self) -> SizeCounts {
        self.sizes.get()
    }

    /// Everything counted for it.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            messages: self.message_counts(),
            sizes: self.size_counts(),
            traffic: self.traffic(),
            flow_ms: self.flow_ms(),
        }
    }

    /// Asks the connection's reader to close it with a fault.
    pub fn close(&self, fault: Fault) {
        *self.close.lock() = Some(fault);
        let flusher = self.outlet.lock().flusher().cloned();
        if let Some(flusher) = flusher {
            flusher.interrupt();
        }
    }
}
