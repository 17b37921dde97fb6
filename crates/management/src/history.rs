//! Rates and past values, from a ring of samples.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::problem::Problem;
use crate::sampler::MESSAGES;

/// Most points a request may ask for.
const POINTS_MAX: u64 = 500;

/// Values of one moment.
#[derive(Clone, Copy, Debug)]
struct Sample<const N: usize> {
    at_ms: u64,
    values: [u64; N],
}

/// The last samples of one object, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct SampleRing<const N: usize> {
    samples: VecDeque<Sample<N>>,
    max: usize,
}

impl<const N: usize> SampleRing<N> {
    /// A ring that keeps so many samples.
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            samples: VecDeque::new(),
            max,
        }
    }

    /// Adds a sample, the oldest makes room.
    pub(crate) fn push(&mut self, at_ms: u64, values: [u64; N]) {
        if self.samples.len() >= self.max {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at_ms, values });
    }

    /// Nothing has changed up to this time.
    pub(crate) fn hold_until(&mut self, at_ms: u64) {
        let last = self.samples.back().copied();
        if let Some(last) = last.filter(|last| last.at_ms < at_ms) {
            self.push(at_ms, last.values);
        }
    }

    /// The newest values.
    pub(crate) fn last(&self) -> Option<&[u64; N]> {
        self.samples.back().map(|sample| &sample.values)
    }

    /// Change a second between the last two samples.
    pub(crate) fn rate(&self, field: usize) -> f64 {
        let mut newest = self.samples.iter().rev();
        let (Some(now), Some(before)) = (newest.next(), newest.next()) else {
            return 0.0;
        };
        slope(now, before, field)
    }

    /// `{"rate": …}`, with samples where the request asks for them.
    pub(crate) fn details(&self, field: usize, span: Option<Span>, now_ms: u64) -> Value {
        let mut details = Map::new();
        details.insert("rate".to_owned(), self.rate(field).into());
        let Some(span) = span else {
            return Value::Object(details);
        };
        let points: Vec<(u64, u64)> = span
            .times(now_ms)
            .map(|at| (at, self.value_at(at, field)))
            .collect();
        let sum: u128 = points.iter().map(|(_, value)| u128::from(*value)).sum();
        let count = points.len().max(1);
        let change = match (points.first(), points.last()) {
            (Some((newest, now)), Some((oldest, then))) if newest > oldest => {
                (*now as f64 - *then as f64) * 1000.0 / (newest - oldest) as f64
            }
            _ => 0.0,
        };
        let samples: Vec<Value> = points
            .iter()
            .map(|(at, value)| json!({"sample": value, "timestamp": at}))
            .collect();
        details.insert("samples".to_owned(), samples.into());
        details.insert("avg".to_owned(), (sum as f64 / count as f64).into());
        details.insert("avg_rate".to_owned(), change.into());
        Value::Object(details)
    }

    /// What the value was at a time: that of the last sample before it, or else of the first.
    fn value_at(&self, at_ms: u64, field: usize) -> u64 {
        let after = self.samples.partition_point(|sample| sample.at_ms <= at_ms);
        let sample = self.samples.get(after.saturating_sub(1));
        sample.map_or(0, |sample| sample.values[field])
    }
}

/// Counters never go back, but an object may be replaced by another of its name, and lengths fall:
/// a length's rate may be negative.
fn slope<const N: usize>(now: &Sample<N>, before: &Sample<N>, field: usize) -> f64 {
    let elapsed_ms = now.at_ms.saturating_sub(before.at_ms);
    if elapsed_ms == 0 {
        return 0.0;
    }
    (now.values[field] as f64 - before.values[field] as f64) * 1000.0 / elapsed_ms as f64
}

/// A stretch of the past, and the distance of its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    age_ms: u64,
    step_ms: u64,
}

impl Span {
    fn times(self, now_ms: u64) -> impl Iterator<Item = u64> {
        let newest = now_ms - now_ms % self.step_ms;
        (0..=self.age_ms / self.step_ms).map(move |step| newest.saturating_sub(step * self.step_ms))
    }
}

/// The stretches a request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AskedSpans {
    pub(crate) lengths: Option<Span>,
    pub(crate) message_rates: Option<Span>,
    pub(crate) data_rates: Option<Span>,
}

impl AskedSpans {
    /// Reads `lengths_age`, `lengths_incr` and their like, in seconds.
    pub(crate) fn of(call: &Call) -> Result<Self, Problem> {
        // Of a node nothing is sampled; what is asked for must be valid all the same.
        span(call, "node_stats")?;
        Ok(Self {
            lengths: span(call, "lengths")?,
            message_rates: span(call, "msg_rates")?,
            data_rates: span(call, "data_rates")?,
        })
    }

    /// What a row with all samples that are asked for takes, bytes.
    pub(crate) fn row_bytes(&self) -> usize {
        let spans = [self.lengths, self.message_rates, self.data_rates];
        let points = spans.map(|span| span.map_or(0, |span| span.age_ms / span.step_ms + 1));
        let [lengths, messages, data] = points.map(|points| points as usize);
        (lengths * 3 + messages * MESSAGES.len() + data * 4) * POINT_BYTES
    }
}

fn span(call: &Call, prefix: &str) -> Result<Option<Span>, Problem> {
    let (age, incr) = (format!("{prefix}_age"), format!("{prefix}_incr"));
    let (Some(age_text), Some(incr_text)) = (call.parameter(&age), call.parameter(&incr)) else {
        return Ok(None);
    };
    let number = |text: &str| {
        text.parse::<u64>()
            .ok()
            .filter(|n| (1..=SECONDS_MAX).contains(n))
    };
    let (Some(age_s), Some(step_s)) = (number(age_text), number(incr_text)) else {
        return Err(Problem::bad(format!(
            "{age} and {incr} must be positive integers"
        )));
    };
    if age_s / step_s > POINTS_MAX {
        return Err(Problem::bad(format!(
            "{age} / {incr} must not exceed {POINTS_MAX}"
        )));
    }
    Ok(Some(Span {
        age_ms: age_s * 1000,
        step_ms: step_s * 1000,
    }))
}

/// One sample, written out.
const POINT_BYTES: usize = 48;
const SECONDS_MAX: u64 = 10 * 365 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_the_last_two_samples() {
        let mut ring = SampleRing::<2>::new(3);
        assert_eq!(ring.rate(0), 0.0);
        for step in 0..10 {
            ring.push(step * 5000, [step * 50, 100 - step]);
        }
        assert_eq!((ring.rate(0), ring.rate(1)), (10.0, -0.2));
        assert_eq!(ring.samples.len(), 3);
    }

    #[test]
    fn samples_are_newest_first_and_averaged() {
        let mut ring = SampleRing::<1>::new(100);
        for step in 0..=4 {
            ring.push(100_000 + step * 5000, [step * 10]);
        }
        let span = Span {
            age_ms: 20_000,
            step_ms: 5000,
        };
        let details = ring.details(0, Some(span), 120_000);
        let samples = details["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 5);
        assert_eq!(samples[0], json!({"sample": 40, "timestamp": 120_000}));
        assert_eq!(samples[4], json!({"sample": 0, "timestamp": 100_000}));
        assert_eq!(details["avg"], 20.0);
        assert_eq!(details["avg_rate"], 2.0);
        assert_eq!(details["rate"], 2.0);
        // What was before the first sample is not known: the value has not come from 0.
        let mut ring = SampleRing::<1>::new(2);
        for step in 0..=4 {
            ring.push(100_000 + step * 5000, [1000 + step * 10]);
        }
        let details = ring.details(0, Some(span), 120_000);
        assert_eq!(details["samples"][4]["sample"], 1030);
        assert_eq!(details["avg_rate"], 0.5);
    }
}
