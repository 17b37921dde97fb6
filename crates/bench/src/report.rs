//! Rounds to medians, medians to a table or JSON lines.

use serde_json::{Map, Value, json};

use crate::scenario::{Goal, Sample};

/// The median figures of one broker in one scenario.
#[derive(Clone, Debug)]
pub struct Row {
    /// Scenario name.
    pub scenario: String,
    /// Broker name.
    pub broker: String,
    /// Rounds that succeeded.
    pub rounds: usize,
    /// Medians of each figure.
    pub median: Sample,
    /// Least server CPU per message of any round, µs.
    pub cpu_us_min: Option<f64>,
    /// Median over rounds of CPU per message against the floor's in the same round.
    pub ratio_to_floor: Option<f64>,
    /// The same of median latencies.
    pub latency_to_floor: Option<f64>,
    /// The scenario's goal, and whether this broker reaches it.
    pub goal: Option<(Goal, bool)>,
    /// The first failure of a round, if any.
    pub failure: Option<String>,
}

impl Row {
    /// Summarizes `rounds` of a broker; `floor` holds the floor's sample of each same round.
    pub fn new(
        scenario: &str,
        broker: &str,
        rounds: &[Result<Sample, String>],
        floor: Option<&[Result<Sample, String>]>,
    ) -> Self {
        let good: Vec<&Sample> = rounds.iter().flatten().collect();
        let to_floor = |figure: &dyn Fn(&Sample) -> Option<f64>| {
            let pairs = floor.into_iter().flat_map(|floor| rounds.iter().zip(floor));
            let ratio = |(own, floor): (&Result<Sample, String>, &Result<Sample, String>)| {
                Some(figure(own.as_ref().ok()?)? / figure(floor.as_ref().ok()?)?)
            };
            median(pairs.filter_map(ratio).collect())
        };
        let cpus = good.iter().filter_map(|sample| sample.cpu_us);
        Self {
            scenario: scenario.into(),
            broker: broker.into(),
            rounds: good.len(),
            cpu_us_min: cpus.min_by(f64::total_cmp),
            ratio_to_floor: to_floor(&|sample| sample.cpu_us),
            latency_to_floor: to_floor(&|sample| sample.latency_ms.map(|all| all[0])),
            goal: None,
            failure: rounds
                .iter()
                .find_map(|round| round.as_ref().err().cloned()),
            median: median_sample(&good),
        }
    }

    /// Holds it against the scenario's goal; a figure that is missing misses it.
    pub fn judge(&mut self, goal: Goal) {
        let within = |figure: Option<f64>, most| figure.is_some_and(|figure| figure <= most);
        let named = |name: &str| {
            let found = self.median.also.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| *value)
        };
        let reached = match goal {
            Goal::CpuToFloor(most) => within(self.ratio_to_floor, most),
            Goal::LatencyToFloor(most) => within(self.latency_to_floor, most),
            Goal::Figure(name, most) => within(named(name), most),
            Goal::Figures(figures) => figures
                .iter()
                .all(|(name, most)| within(named(name), *most)),
        };
        self.goal = Some((goal, reached));
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        let sample = &self.median;
        let latency = |index: usize| sample.latency_ms.map(|all| rounded(all[index]));
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| drop(line.insert(name.into(), value));
        put("scenario", json!(self.scenario));
        put("broker", json!(self.broker));
        put("msgs_per_s", json!(sample.msgs_per_s.map(rounded)));
        put("cpu_us_per_msg", json!(sample.cpu_us.map(rounded)));
        put("ratio_to_floor", json!(self.ratio_to_floor.map(rounded)));
        put("p50_to_floor", json!(self.latency_to_floor.map(rounded)));
        put("p99_ms", json!(latency(1)));
        put("rss_mb", json!(sample.rss_mb.map(rounded)));
        put("p50_ms", json!(latency(0)));
        put("p999_ms", json!(latency(2)));
        put("cpu_us_per_msg_min", json!(self.cpu_us_min.map(rounded)));
        put(
            "generator_cpu_us_per_msg",
            json!(sample.generator_us.map(rounded)),
        );
        put("rounds", json!(self.rounds));
        for (name, value) in &sample.also {
            put(name, json!(rounded(*value)));
        }
        if let Some((_, reached)) = self.goal {
            put("goal_reached", json!(reached));
        }
        if let Some(failure) = &self.failure {
            put("failure", json!(failure));
        }
        Value::Object(line).to_string()
    }
}

/// Five significant digits: more would be noise.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((values[middle - 1] + upper) / 2.0)
    }
}

fn median_sample(samples: &[&Sample]) -> Sample {
    let of = |figure: &dyn Fn(&Sample) -> Option<f64>| {
        median(samples.iter().filter_map(|sample| figure(sample)).collect())
    };
    let latency = |index: usize| of(&|sample| sample.latency_ms.map(|all| all[index]));
    let latency_ms = match [latency(0), latency(1), latency(2)] {
        [Some(p50), Some(p99), Some(p999)] => Some([p50, p99, p999]),
        _ => None,
    };
    let names = samples
        .first()
        .map(|sample| sample.also.iter().map(|(name, _)| *name));
    let also = names.into_iter().flatten().filter_map(|name| {
        let find = |sample: &Sample| {
            sample
                .also
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| *v)
        };
        Some((name, of(&find)?))
    });
    Sample {
        msgs_per_s: of(&|sample| sample.msgs_per_s),
        cpu_us: of(&|sample| sample.cpu_us),
        generator_us: of(&|sample| sample.generator_us),
        latency_ms,
        rss_mb: of(&|sample| sample.rss_mb),
        also: also.collect(),
    }
}

/// All rows as aligned columns.
pub fn table(rows: &[Row]) -> String {
    let head = [
        "scenario",
        "broker",
        "msg/s",
        "cpu us/msg",
        "min",
        "x floor",
        "p50 x floor",
        "gen us/msg",
    ];
    let head = head
        .into_iter()
        .chain(["p50/p99/p99.9 ms", "rss MB", "also"]);
    let mut cells = vec![head.map(String::from).collect::<Vec<_>>()];
    cells.extend(rows.iter().map(row_cells));
    let columns = cells[0].len();
    let width = |column: usize| cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row_cells(row: &Row) -> Vec<String> {
    let sample = &row.median;
    let latency = sample.latency_ms.map(|all| all.map(short).join("/"));
    let also = sample
        .also
        .iter()
        .map(|(name, value)| format!("{name}={}", short(*value)));
    let failure = row
        .failure
        .iter()
        .map(|failure| format!("FAILED: {failure}"));
    let goal = row.goal.map(|(goal, reached)| {
        let reached = if reached { "reached" } else { "MISSED" };
        format!("goal {reached}: {goal}")
    });
    let number = |value: Option<f64>| value.map(short).unwrap_or_default();
    vec![
        row.scenario.clone(),
        row.broker.clone(),
        sample
            .msgs_per_s
            .map(|rate| format!("{rate:.0}"))
            .unwrap_or_default(),
        number(sample.cpu_us),
        number(row.cpu_us_min),
        number(row.ratio_to_floor),
        number(row.latency_to_floor),
        number(sample.generator_us),
        latency.unwrap_or_default(),
        number(sample.rss_mb),
        also.chain(goal)
            .chain(failure)
            .collect::<Vec<_>>()
            .join(" "),
    ]
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        middle if middle >= 1.0 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_us: f64) -> Result<Sample, String> {
        let also = vec![("kb", cpu_us * 2.0)];
        Ok(Sample {
            cpu_us: Some(cpu_us),
            also,
            ..Sample::default()
        })
    }

    #[test]
    fn ratios_are_taken_within_each_round() {
        let floor = [sample(1.0), sample(10.0), sample(2.0)];
        let own = [sample(2.0), sample(20.0), sample(4.0)];
        let row = Row::new("s", "b", &own, Some(&floor));
        assert_eq!(
            (row.ratio_to_floor, row.median.cpu_us),
            (Some(2.0), Some(4.0))
        );
        assert_eq!(
            (row.cpu_us_min, row.median.also[0]),
            (Some(2.0), ("kb", 8.0))
        );
    }

    #[test]
    fn a_goal_is_missed_by_a_larger_figure_and_by_a_missing_one() {
        let mut row = Row::new("s", "b", &[sample(4.0)], Some(&[sample(2.0)]));
        let mut reaches = |goal| {
            row.judge(goal);
            row.goal.is_some_and(|(_, reached)| reached)
        };
        assert!(reaches(Goal::CpuToFloor(2.0)) && !reaches(Goal::CpuToFloor(1.9)));
        assert!(reaches(Goal::Figure("kb", 8.0)) && !reaches(Goal::Figure("kb", 7.0)));
        assert!(!reaches(Goal::LatencyToFloor(100.0)));
    }

    #[test]
    fn a_failed_round_is_told_and_not_counted() {
        let rounds = [sample(1.0), Err("lost".into()), sample(3.0)];
        let row = Row::new("s", "b", &rounds, None);
        assert_eq!((row.rounds, row.median.cpu_us), (2, Some(2.0)));
        let line: Value = serde_json::from_str(&row.json()).unwrap();
        assert_eq!(
            (&line["failure"], &line["p99_ms"]),
            (&json!("lost"), &Value::Null)
        );
        assert!(table(&[row]).contains("FAILED: lost"));
    }
}
