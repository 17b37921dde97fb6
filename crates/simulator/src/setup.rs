//! What a world is made of: the broker's bounds, its queues, what messages die of.

use leveret_broker::{BrokerConfig, QueueDefaults};
use leveret_store::sim::Rng;

use crate::command::{Mortality, Spec};
use crate::leases::Timeout;

/// Bounds so small that every seed meets them.
pub(crate) fn config(rng: &mut Rng, seed: u64) -> BrokerConfig {
    BrokerConfig {
        channel_max: 15,
        heartbeat_s: 10,
        outbound_bytes_max: [1_000, 8_000, 128 << 10][rng.below(3) as usize],
        reply_bytes_max: [4_000, 1 << 20][rng.below(2) as usize],
        channel_unacked_max: [6, 50, 1_000_000][rng.below(3) as usize],
        queue: QueueDefaults {
            consumer_timeout_ms: 0,
            length_max: 1_000_000,
            bytes_max: 1 << 30,
        },
        seed,
        ..BrokerConfig::default()
    }
}

/// Has little stay in memory. Its chance is its own: worlds without that are what they were before.
pub(crate) fn page(config: &mut BrokerConfig, rng: &mut Rng) {
    config.chunk_bytes = [200, 1_000, 256 << 10][rng.below(3) as usize];
    config.queue_resident_bytes = [1, 600, 3_000][rng.below(3) as usize];
}

/// What a queue is usually declared with.
pub(crate) fn spec(rng: &mut Rng, limited: bool) -> Spec {
    Spec {
        durable: rng.one_in(2),
        exclusive: rng.one_in(8),
        auto_delete: rng.one_in(6),
        length_max: (limited && rng.one_in(2)).then(|| rng.below(9) as u8),
        refuses: rng.one_in(2),
        single_active: rng.one_in(6),
        mortality: Mortality::default(),
    }
}

/// What messages of a queue die of: mostly of one or two things.
pub(crate) fn mortality(rng: &mut Rng, queues: u64) -> Mortality {
    let some = |rng: &mut Rng, times: u64, most: u64| {
        let some = rng.one_in(times);
        some.then(|| rng.below(most) as u16)
    };
    let letters = rng.below(5) != 0;
    let exchange = match rng.below(3) {
        0 => rng.below(5) as u8,
        _ => 0,
    };
    let key = (exchange == 0 || rng.one_in(2)).then(|| rng.below(queues) as u8);
    Mortality {
        ttl_ms: some(rng, 2, 2_000).map(|ttl| if ttl < 200 { ttl / 100 } else { ttl }),
        expires_ms: some(rng, 8, 4_000).map(|expires| 1 + expires),
        letters: letters.then_some((exchange, key)),
        at_least_once: rng.one_in(3),
        refused_die: rng.one_in(2),
        failures_max: some(rng, 2, 3).map(|max| max as u8),
        priority_max: if rng.one_in(2) {
            1 + rng.below(4) as u8
        } else {
            0
        },
        drops_lowest: rng.one_in(2),
        timeout: Timeout::default(),
    }
}

/// In half of the worlds deliveries of some queues have to be settled in time. Drawn from numbers
/// of its own, so that the other worlds of a seed stay what they are.
pub(crate) fn lease(specs: &mut [Spec], seed: u64) -> bool {
    let mut rng = Rng::new(!seed);
    let leased = rng.one_in(2);
    for spec in specs.iter_mut().filter(|_| leased) {
        spec.mortality.timeout = timeout(&mut rng);
    }
    leased
}

/// How long deliveries of a queue may wait.
fn timeout(rng: &mut Rng) -> Timeout {
    let (some, most) = (!rng.one_in(3), [60, 2_000, 8_000][rng.below(3) as usize]);
    Timeout {
        ms: some.then(|| 1 + rng.below(most) as u16),
        counts: rng.one_in(2),
        closes: rng.one_in(4),
    }
}
