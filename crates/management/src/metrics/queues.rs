//! What all queues hold together.

use leveret_broker::Reason;

use super::{MetricsPage, held};
use crate::app::App;
use crate::figures::{PUBLISHED, QUEUE_COARSE, QUEUE_HELD};

impl MetricsPage {
    /// What queues hold; what is not kept as a sum is of the last sample.
    pub(super) fn sums_of_queues(&mut self, app: &App) {
        let held = held(app);
        let sampled = app.sampler.sums_of_queues();
        let (ready, unacked) = (held.ready as f64, held.unacked as f64);
        self.each(&QUEUE_COARSE, [ready, unacked, ready + unacked]);
        let [
            ready_bytes,
            unacked_bytes,
            memory,
            published,
            dropped,
            away,
            away_bytes,
        ] = sampled.map(|sum| sum as f64);
        let bytes = ready_bytes + unacked_bytes;
        // What is away was counted with the sample, a moment before what is ready.
        let ready_ram = (ready - away).max(0.0);
        let sums: [f64; QUEUE_HELD.len()] = [
            held.consumers as f64,
            memory,
            ready_ram + unacked,
            bytes - away_bytes,
            ready_ram,
            unacked,
            away,
            away_bytes,
            bytes,
            ready_bytes,
            unacked_bytes,
            dropped,
        ];
        self.each(&QUEUE_HELD, sums);
        self.each(&PUBLISHED, [published]);
        let refused = Reason::ALL.map(|reason| {
            let label = format!("reason=\"{}\"", reason.name());
            (label, app.broker.refused.total(reason) as f64)
        });
        let refused = refused.each_ref().map(|(label, count)| (&**label, *count));
        let help = "Total number of messages refused by a queue";
        self.family("queue_messages_refused_total", "counter", help, &refused);
    }
}
