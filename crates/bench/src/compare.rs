//! Interleaves rounds of all brokers and floors, so that a noisy minute hits all of them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::brokers::{Broker, Floor, Recipe};
use crate::report::Row;
use crate::scenario::{Sample, Scenario};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each broker in each scenario.
    pub rounds: usize,
    /// Length of a round's measured window.
    pub window: Duration,
}

/// Runs `scenario` on all `brokers` and the floors it has; returns a row for each.
pub fn run(
    scenario: &Scenario,
    brokers: &mut [Broker],
    floors: &mut [(Floor, Broker)],
    effort: Effort,
) -> Vec<Row> {
    let wanted = scenario.floors();
    let mut all: Vec<&mut Broker> = Vec::new();
    all.extend(
        floors
            .iter_mut()
            .filter(|(floor, _)| wanted.contains(floor))
            .map(|(_, b)| b),
    );
    all.extend(brokers);
    let mut results: HashMap<String, Vec<Result<Sample, String>>> = HashMap::new();
    let rounds = effort.rounds.min(scenario.rounds_max);
    let mut random = seed();
    for round in 0..rounds {
        shuffle(&mut all, &mut random);
        for broker in &mut all {
            eprintln!(
                "{}: round {}/{rounds}: {}",
                scenario.name,
                round + 1,
                broker.name
            );
            let result = scenario.round(broker, effort.window);
            if let Err(failure) = &result {
                eprintln!("{}: {} failed: {failure}", scenario.name, broker.name);
            }
            results.entry(broker.name.clone()).or_default().push(result);
        }
    }
    all.sort_by_key(|broker| {
        wanted
            .iter()
            .position(|floor| floor.name() == broker.name)
            .is_none()
    });
    let floor = scenario.floor.and_then(|floor| results.get(floor.name()));
    let row = |broker: &&mut Broker| {
        let rounds = results.get(&broker.name)?;
        let floor = floor.map(Vec::as_slice);
        let mut row = Row::new(scenario.name, &broker.name, rounds, floor);
        let judged = matches!(broker.recipe, Recipe::Leveret(_));
        if let Some(goal) = scenario.goal.filter(|_| judged) {
            row.judge(goal);
        }
        Some(row)
    };
    all.iter().filter_map(row).collect()
}

fn seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_nanos() as u64 | 1
}

/// Fisher-Yates with a xorshift generator.
fn shuffle<T>(items: &mut [T], random: &mut u64) {
    for last in (1..items.len()).rev() {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        items.swap(last, (*random % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_keeps_all_and_reaches_every_order() {
        let mut random = 1;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let mut items = [1, 2, 3];
            shuffle(&mut items, &mut random);
            seen.insert(items);
        }
        assert_eq!(seen.len(), 6);
    }
}
