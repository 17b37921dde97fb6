//! How a world begins, and begins again.

use std::sync::Arc;

use leveret_broker::{Access, Broker, BrokerConfig, Effects, Runs, RunsConfig, Ticker, Vhost};
use leveret_runs::sim::SimFiles;
use leveret_store::sim::{DiskImage, Rng};

use super::{START_MS, World};
use crate::Summary;
use crate::client::Plan;
use crate::command::Spec;
use crate::lives::Lives;
use crate::model::Model;
use crate::node::Pace;
use crate::setup::{config, lease, mortality, page, spec};
use crate::storage::Storage;

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut config = config(&mut rng, seed);
        let channel_unacked_max = config.channel_unacked_max;
        let mortal = rng.one_in(2);
        // Where messages die, it is the disk that has to tell.
        let crashes = rng.below(if mortal { 5 } else { 2 }) > 0;
        let queues = 1 + rng.below(5);
        let limited = rng.one_in(2);
        let mut page_rng = Rng::new(!seed);
        // Elsewhere the model knows when exactly a message goes; one on the disk goes later.
        let paged = !mortal && !limited && page_rng.below(4) > 0;
        if paged {
            page(&mut config, &mut page_rng);
        }
        let spec = |rng: &mut Rng| match mortal {
            true => mortal_spec(rng, limited, queues),
            false => spec(rng, limited),
        };
        let begun = begin(&config, &DiskImage::default(), START_MS);
        let (storage, broker, vhost) = begun.expect("a new store opens");
        let mut specs: Vec<_> = (0..queues).map(|_| spec(&mut rng)).collect();
        let leased = mortal && lease(&mut specs, seed);
        let plan = Plan {
            specs,
            messages: 0,
            consumers: 0,
            publishing: [2, 10, 30][rng.below(3) as usize],
            mortal,
            leased,
        };
        let refuses = plan.specs.iter().any(|spec| spec.refuses);
        let pace = match (limited, mortal) {
            (_, true) if refuses => Pace::One,
            // What waits for the disk comes later than the model looks for it.
            _ if paged => Pace::One,
            (false, false) => Pace::Free,
            _ => Pace::Batches,
        };
        Self {
            rng,
            broker,
            vhost,
            storage,
            config,
            ticker: Ticker::default(),
            due: Effects::default(),
            page_rng: paged.then_some(page_rng),
            pages: Vec::new(),
            page_out: None,
            now_ms: START_MS,
            next_tick_ms: START_MS,
            nodes: Vec::new(),
            plan,
            model: Model {
                channel_unacked_max,
                lives: mortal.then(Box::<Lives>::default),
                ..Model::default()
            },
            steps: Vec::new(),
            trace: traced.then(Vec::new),
            pace,
            mortal,
            crashes,
            durable_changes: 0,
            summary: Summary::default(),
        }
    }
}

/// What a queue is declared with in which messages die.
fn mortal_spec(rng: &mut Rng, limited: bool, queues: u64) -> Spec {
    let spec = spec(rng, limited);
    Spec {
        durable: spec.durable || rng.one_in(2),
        exclusive: spec.exclusive && rng.one_in(3),
        auto_delete: spec.auto_delete && rng.one_in(2),
        mortality: mortality(rng, queues),
        ..spec
    }
}

/// A broker with what a disk has.
pub(super) fn begin(
    config: &BrokerConfig,
    disk: &DiskImage,
    now_ms: u64,
) -> Result<(Storage, Arc<Broker>, Arc<Vhost>), String> {
    let (storage, remembered) = Storage::open(disk)?;
    let broker = Broker::new(config.clone(), Access::default(), storage.store());
    let files = Arc::new(SimFiles::default());
    let sizes = RunsConfig {
        run_bytes: 5_000,
        free_min: 0,
    };
    broker.page_to(Runs::new(files, sizes));
    broker.set_now(now_ms);
    remembered.restore(&broker)?;
    storage.catch_up()?;
    let vhost = broker.vhost("/").ok_or("the virtual host is gone")?;
    Ok((storage, Arc::new(broker), vhost))
}
