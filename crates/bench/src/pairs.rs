//! Two builds against each other in pairs of fresh processes: what a process happens to be like
//! for its whole life must not be taken for a difference between them.

use crate::brokers::Broker;
use crate::compare::Effort;
use crate::scenario::Scenario;

/// Student's t for 95 % on both sides, for 1 to 30 degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// The same for any number of them.
const T_95_MANY: f64 = 1.96;

/// Where the ratio of two costs lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Pairs it is made of.
    pub pairs: usize,
    /// The geometric mean of their ratios.
    pub ratio: f64,
    /// The 95 % confidence interval of that.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl std::fmt::Display for Interval {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            pairs,
            ratio,
            low,
            high,
        } = self;
        write!(
            out,
            "{ratio:.3} (95 %: {low:.3} to {high:.3}; {pairs} pairs)"
        )
    }
}

impl Interval {
    /// Of the ratios of at least two pairs; they are taken for lognormal.
    pub fn of(ratios: &[f64]) -> Option<Self> {
        let pairs = ratios.len();
        let freedom = pairs.checked_sub(1).filter(|&freedom| freedom > 0)?;
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let mean = logs.iter().sum::<f64>() / pairs as f64;
        let squares: f64 = logs.iter().map(|log| (log - mean).powi(2)).sum();
        let error = (squares / freedom as f64 / pairs as f64).sqrt();
        let reach = T_95.get(freedom - 1).unwrap_or(&T_95_MANY) * error;
        Some(Self {
            pairs,
            ratio: mean.exp(),
            low: (mean - reach).exp(),
            high: (mean + reach).exp(),
        })
    }
}

/// CPU a message of `own` to that of `base` in so many pairs, each of two fresh processes; who
/// comes first alternates.
///
/// # Errors
/// A round failed, or the scenario measures no CPU.
pub fn run(
    scenario: &Scenario,
    own: &mut Broker,
    base: &mut Broker,
    effort: Effort,
) -> Result<Interval, String> {
    let mut ratios = Vec::new();
    let pairs = effort.rounds;
    for pair in 0..pairs {
        let cost = |broker: &mut Broker| {
            broker.fresh()?;
            let sample = scenario.round(broker, effort.window);
            broker.stop();
            let cost = sample?.cpu_us;
            cost.ok_or_else(|| format!("{} measures no CPU", scenario.name))
        };
        let (ours, theirs) = if pair % 2 == 0 {
            let ours = cost(own)?;
            (ours, cost(base)?)
        } else {
            let theirs = cost(base)?;
            (cost(own)?, theirs)
        };
        let (name, pair) = (scenario.name, pair + 1);
        eprintln!("{name}: pair {pair}/{pairs}: {ours:.4} us to {theirs:.4} us");
        ratios.push(ours / theirs);
    }
    Interval::of(&ratios).ok_or_else(|| "an interval needs two pairs at least".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_around_the_geometric_mean() {
        let found = Interval::of(&[1.1, 1.0 / 1.1]).unwrap();
        assert!((found.ratio - 1.0).abs() < 1e-9);
        // Half the distance of two is their standard error; t is 12.706.
        assert!((found.high.ln() - 12.706 * 1.1_f64.ln()).abs() < 1e-9);
        assert!((found.low * found.high - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_does_not_vary_is_certain_and_one_pair_tells_nothing() {
        let found = Interval::of(&[1.03; 10]).unwrap();
        assert!(found.low > 1.029 && found.high < 1.031);
        assert_eq!(Interval::of(&[1.0]), None);
    }
}
