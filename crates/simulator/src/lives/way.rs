//! Where dead messages go.

use leveret_broker::Death;

use super::{LifeId, Lives};
use crate::command::{EXCHANGES, queue_name};
use crate::deaths::Deaths;
use crate::model::{Model, QueueKey};

/// Where a dead message goes.
pub(super) struct Way {
    pub(super) letter: String,
    pub(super) deaths: Deaths,
    pub(super) targets: Vec<QueueKey>,
}

impl Lives {
    /// Where a dead message would go, and as what.
    pub(super) fn way(&self, model: &Model, key: QueueKey, (id, death): (LifeId, Death)) -> Way {
        let (queue, life) = (&model.queues[key], &self.lives[id]);
        let deaths = life.deaths.and(queue.number, death);
        let Some((exchange, own)) = queue.spec.mortality.letters else {
            return Way {
                letter: life.key.clone(),
                deaths,
                targets: Vec::new(),
            };
        };
        let letter = own.map_or_else(|| life.key.clone(), queue_name);
        let mut targets = match EXCHANGES.get(usize::from(exchange) + 1) {
            Some(_) => model.route(exchange, &letter),
            None => Vec::new(),
        };
        targets.retain(|target| !deaths.lead_back_to(model.queues[*target].number));
        Way {
            letter,
            deaths,
            targets,
        }
    }
}
