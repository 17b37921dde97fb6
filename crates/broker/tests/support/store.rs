//! A store of the tests' own, made of the seam alone: it keeps what it is given, and delays,
//! refuses and fails as it is told.

use std::sync::Arc;

use leveret_broker::topology::{DurableKind, FieldReader};
use leveret_store::{Batch, BatchRecord, Store, StoreRefusal, Ticket, Waiter};
use parking_lot::Mutex;

/// Each submission has its own ticket and becomes durable when the test says so.
#[derive(Default)]
pub(crate) struct DelayedStore {
    state: Mutex<Delayed>,
}

#[derive(Default)]
struct Delayed {
    tickets: u64,
    durable: u64,
    staged: usize,
    refusal: Option<StoreRefusal>,
    fails_next: bool,
    /// The batches that the test has not asked for yet, record by record.
    heard: Vec<Vec<String>>,
    waiters: Vec<(Ticket, Arc<dyn Waiter>)>,
}

impl DelayedStore {
    /// Makes everything submitted so far durable and calls the waiters. After a failure nothing is.
    pub(crate) fn release(&self) {
        let due = {
            let mut state = self.state.lock();
            if state.refusal == Some(StoreRefusal::Stopped) {
                return;
            }
            state.durable = state.tickets;
            state.staged = 0;
            std::mem::take(&mut state.waiters)
        };
        for (_, waiter) in due {
            waiter.durable(false);
        }
    }

    /// Refuses messages (`DiskFull`), or everything (`Stopped`), or admits all again (`None`).
    pub(crate) fn refuse(&self, refusal: Option<StoreRefusal>) {
        self.state.lock().refusal = refusal;
    }

    /// Admits everything until the next batch, and stops for ever when that comes.
    pub(crate) fn fail_next(&self) {
        self.state.lock().fails_next = true;
    }

    /// The batches submitted since this was asked last, each as what [`told`] makes of its records.
    pub(crate) fn hear(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.state.lock().heard)
    }
}

impl Store for DelayedStore {
    fn submit(&self, batch: &mut Batch) -> Result<Ticket, StoreRefusal> {
        let mut state = self.state.lock();
        let (bytes, oversize, empty) = (batch.bytes_len(), batch.is_oversize(), batch.is_empty());
        let heard = batch.records().map(|record| told(&record)).collect();
        batch.clear();
        if std::mem::take(&mut state.fails_next) {
            state.refusal = Some(StoreRefusal::Stopped);
        }
        if state.refusal == Some(StoreRefusal::Stopped) {
            return Err(StoreRefusal::Stopped);
        }
        if oversize {
            return Err(StoreRefusal::Oversize);
        }
        if empty {
            return Ok(Ticket(0));
        }
        state.heard.push(heard);
        state.tickets += 1;
        state.staged += bytes;
        Ok(Ticket(state.tickets))
    }

    fn admission(&self) -> Result<(), StoreRefusal> {
        self.state.lock().refusal.map_or(Ok(()), Err)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.state.lock().durable)
    }

    fn wake_at(&self, ticket: Ticket, waiter: Arc<dyn Waiter>) {
        let mut state = self.state.lock();
        if state.durable < ticket.0 {
            state.waiters.push((ticket, waiter));
            return;
        }
        drop(state);
        waiter.durable(false);
    }

    fn staged_bytes(&self) -> usize {
        self.state.lock().staged
    }
}

/// A record as a line, places as `lane@sequence number`: `message 1@0 2@0 body`,
/// `settled 1@0..2`, `tried 1@0..1 1/0` (acquired, failed), `put queue / name`,
/// `drop queue / name`, `reset 1 below 7`. What is part of an atomic group begins with
/// `grouped`.
fn told(record: &BatchRecord<'_>) -> String {
    let grouped = |is: bool| if is { "grouped " } else { "" };
    match record {
        BatchRecord::Message(message) => {
            let places = message.targets.iter();
            let places: String = places
                .map(|(lane, seq)| format!("{}@{seq} ", lane.0))
                .collect();
            let body = message.body.escape_ascii();
            format!("{}message {places}{body}", grouped(message.grouped))
        }
        BatchRecord::Topology { key, value } => {
            let verb = if value.is_some() { "put" } else { "drop" };
            format!("{verb} {}", name(key))
        }
        BatchRecord::Moved { chunk, ranges } => format!("moved {} {ranges:?}", chunk.lane.0),
        BatchRecord::Reset { lane, up_to_seq } if *up_to_seq == u64::MAX => {
            format!("reset {}", lane.0)
        }
        BatchRecord::Reset { lane, up_to_seq } => format!("reset {} below {up_to_seq}", lane.0),
        BatchRecord::Returned(range) => {
            let (acquired, failed) = (range.attempts.acquired, range.attempts.failed);
            let (from, to) = (range.from, range.to);
            format!("tried {}@{from}..{to} {acquired}/{failed}", range.lane.0)
        }
        BatchRecord::Settled(range) => {
            let (lane, from, to) = (range.lane.0, range.from, range.to);
            format!("{}settled {lane}@{from}..{to}", grouped(range.grouped))
        }
    }
}

/// Kind and parts of a key.
fn name(key: &[u8]) -> String {
    let kinds = [
        (DurableKind::Exchange, "exchange"),
        (DurableKind::Queue, "queue"),
        (DurableKind::Binding, "binding"),
    ];
    let Some((first, parts)) = key.split_first() else {
        return String::new();
    };
    let kind = kinds.iter().find(|(kind, _)| *kind as u8 == *first);
    let mut name = kind.map_or("other", |(_, name)| name).to_owned();
    let mut parts = FieldReader::new(parts);
    while let Some(part) = parts.text() {
        name.push(' ');
        name.push_str(part);
    }
    name
}
