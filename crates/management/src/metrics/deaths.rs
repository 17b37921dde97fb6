//! Metrics of messages that died, and of deliveries that came back.

use leveret_broker::Death;

use super::MetricsPage;
use crate::app::App;

impl MetricsPage {
    /// What died and went on to a dead-letter exchange.
    pub(super) fn deaths(&mut self, app: &App) {
        for (death, why) in [
            (Death::DeliveryLimit, "delivery-limit exceeded"),
            (Death::Expired, "message TTL exceeded"),
            (Death::MaxLength, "overflow drop-head or reject-publish-dlx"),
            (Death::Rejected, "basic.reject or basic.nack"),
        ] {
            let mut values = Vec::new();
            for (quorum, kind) in [(false, "classic"), (true, "quorum")] {
                for (sure, strategy) in [(false, "at_most_once"), (true, "at_least_once")] {
                    let label = format!(
                        "queue_type=\"rabbit_{kind}_queue\",dead_letter_strategy=\"{strategy}\""
                    );
                    let count = app.broker.deaths.moved_on(death, quorum, sure);
                    values.push((label, count as f64));
                }
            }
            let values: Vec<_> = values
                .iter()
                .map(|(label, n)| (label.as_str(), *n))
                .collect();
            let name = format!("global_messages_dead_lettered_{}_total", death.name());
            let help = format!("Total number of messages dead-lettered due to {why}");
            self.family(&name, "counter", &help, &values);
        }
    }

    /// Deliveries that were not acknowledged in time, and what came for them later.
    pub(super) fn timeouts(&mut self, app: &App) {
        let deliveries = app.broker.totals().messages.deliveries;
        self.counter(
            "global_messages_timed_out_total",
            "Total number of messages taken back from consumers that had not acknowledged them in \
             time",
            deliveries.timed_out,
        );
        self.counter(
            "global_messages_acknowledged_late_total",
            "Total number of messages acknowledged or rejected after they were taken back",
            deliveries.late,
        );
    }
}
