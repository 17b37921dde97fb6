//! Metrics of messages that died.

use leveret_broker::Death;

use super::Page;
use crate::app::App;

impl Page {
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
}
