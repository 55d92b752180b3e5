//! Figures: samples of runs in, medians and percentiles out, as a table or as one JSON document.
//!
//! A run yields [`Sample`]s; samples of one name over all runs become a [`Figure`]: the median of the values, and of
//! each percentile by itself. A median of three runs shrugs off one that was disturbed; the values of all runs are
//! kept beside it, so that a reader sees the spread.
//!
//! # Not here
//! - Verdicts: a figure is no promise. Broken promises (a task too early, lost, or not counted) are `failures`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::hardware::Hardware;

/// Durations in microseconds, three significant digits.
pub(crate) type Micros = Histogram<u64>;

/// Returns an empty histogram that grows as needed.
pub(crate) fn micros() -> Micros {
    Histogram::new(3).expect("three digits are allowed")
}

/// Enters a duration; a growing histogram takes every value.
pub(crate) fn record(histogram: &mut Micros, time: Duration) {
    let _ = histogram.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// Percentiles, milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// From what to what.
    pub(crate) of: String,
    /// How many durations.
    pub(crate) count: u64,
    /// Half were at most this.
    pub(crate) p50_ms: f64,
    /// 99 % were at most this.
    pub(crate) p99_ms: f64,
    /// 99.9 % were at most this.
    pub(crate) p999_ms: f64,
    /// All were at most this.
    pub(crate) max_ms: f64,
}

impl Latency {
    /// Returns the percentiles of a histogram.
    pub(crate) fn new(of: &str, histogram: &Micros) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            of: of.to_owned(),
            count: histogram.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1_000.0,
        }
    }

    /// Returns the median of each percentile by itself.
    fn median(runs: &[Self]) -> Option<Self> {
        let of = |pick: fn(&Self) -> f64| round(median(runs.iter().map(pick).collect()));
        Some(Self {
            of: runs.first()?.of.clone(),
            count: runs.iter().map(|run| run.count).sum::<u64>() / runs.len() as u64,
            p50_ms: of(|run| run.p50_ms),
            p99_ms: of(|run| run.p99_ms),
            p999_ms: of(|run| run.p999_ms),
            max_ms: of(|run| run.max_ms),
        })
    }
}

/// What one run measured.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// What was measured; samples of one name belong together.
    pub(crate) name: String,
    /// The main value.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// How long single things took.
    pub(crate) latency: Option<Latency>,
    /// The ceiling it is compared with.
    pub(crate) ceiling: Option<&'static str>,
    /// Further values; the name ends in the unit.
    pub(crate) details: BTreeMap<&'static str, f64>,
}

impl Sample {
    /// Returns a sample of a main value.
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, latency: None, ceiling: None, details: BTreeMap::new() }
    }

    /// Adds percentiles; an empty histogram adds none.
    pub(crate) fn latency(mut self, of: &str, histogram: &Micros) -> Self {
        self.latency = (!histogram.is_empty()).then(|| Latency::new(of, histogram));
        self
    }

    /// Names the ceiling it is compared with.
    pub(crate) fn ceiling(mut self, name: &'static str) -> Self {
        self.ceiling = Some(name);
        self
    }

    /// Adds a further value; one that is not known (NaN) is left out.
    pub(crate) fn detail(mut self, name: &'static str, value: f64) -> Self {
        if value.is_finite() {
            self.details.insert(name, value);
        }
        self
    }
}

/// What all runs measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// Median of the main value.
    pub(crate) median: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// The main value of each run.
    pub(crate) runs: Vec<f64>,
    /// Medians of the percentiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Latency>,
    /// The part of a ceiling that was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<Ratio>,
    /// Medians of further values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) details: BTreeMap<&'static str, f64>,
}

/// A figure against a ceiling of the same run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// Name of the ceiling.
    pub(crate) to: &'static str,
    /// Figure by ceiling.
    pub(crate) value: f64,
}

/// Returns the figures of samples, in the order in which their names first appear.
pub(crate) fn figures(samples: &[Sample], ceilings: &[Figure]) -> Vec<Figure> {
    let mut names: Vec<&str> = Vec::new();
    for sample in samples {
        if !names.contains(&sample.name.as_str()) {
            names.push(&sample.name);
        }
    }
    names
        .into_iter()
        .map(|name| figure(samples.iter().filter(|s| s.name == name).collect(), ceilings))
        .collect()
}

fn figure(of: Vec<&Sample>, ceilings: &[Figure]) -> Figure {
    let runs: Vec<f64> = of.iter().map(|sample| round(sample.value)).collect();
    let value = median(runs.clone());
    let latencies: Vec<Latency> = of.iter().filter_map(|sample| sample.latency.clone()).collect();
    let ratio = of[0].ceiling.and_then(|to| {
        let ceiling = ceilings.iter().find(|ceiling| ceiling.name == to)?;
        Some(Ratio { to, value: (value / ceiling.median * 1_000.0).round() / 1_000.0 })
    });
    let mut details: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (name, value) in of.iter().flat_map(|sample| &sample.details) {
        details.entry(name).or_default().push(*value);
    }
    Figure {
        name: of[0].name.clone(),
        median: value,
        unit: of[0].unit,
        runs,
        latency: Latency::median(&latencies),
        ratio,
        details: details.into_iter().map(|(name, values)| (name, round(median(values)))).collect(),
    }
}

/// Returns the middle value, or the mean of the two middle ones; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Digits past the third decimal are noise.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// Everything a bench has to say.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    /// Version of this shape: fields are only added.
    pub(crate) format: u32,
    /// Program and version.
    pub(crate) program: &'static str,
    /// The machine.
    pub(crate) hardware: Hardware,
    /// What was asked for.
    pub(crate) settings: BTreeMap<&'static str, serde_json::Value>,
    /// What the machine can do at most.
    pub(crate) ceilings: Vec<Figure>,
    /// What z4 did.
    pub(crate) results: Vec<Figure>,
    /// Circumstances that make the figures doubtful.
    pub(crate) warnings: Vec<String>,
    /// Broken promises.
    pub(crate) failures: Vec<String>,
}

impl Document {
    /// Returns the document as a table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| out.push_str(&(text.trim_end().to_owned() + "\n"));
        line(self.program.to_owned());
        line(format!("  machine   {}", self.hardware));
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| {
                format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), Into::into))
            })
            .collect();
        line(format!("  settings  {}", settings.join(" · ")));
        for (title, figures) in [("ceilings", &self.ceilings), ("z4", &self.results)] {
            if figures.is_empty() {
                continue;
            }
            line(String::new());
            line(format!(
                "  {title:<28} {:>12} {:<10} {:>9} {:>9} {:>9}  {}",
                "median", "", "p50 ms", "p99 ms", "p99.9 ms", "of ceiling"
            ));
            figures.iter().for_each(|figure| figure_lines(&mut line, figure));
        }
        line(String::new());
        self.warnings.iter().for_each(|warning| line(format!("  warning: {warning}")));
        self.failures.iter().for_each(|failure| line(format!("  FAILED: {failure}")));
        out
    }
}

fn figure_lines(line: &mut impl FnMut(String), figure: &Figure) {
    let mut text = format!("  {:<28} {:>12} {:<10}", figure.name, number(figure.median), figure.unit);
    match &figure.latency {
        Some(l) => {
            let _ = write!(text, " {:>9.3} {:>9.3} {:>9.3}", l.p50_ms, l.p99_ms, l.p999_ms);
        }
        None => text.push_str(&" ".repeat(30)),
    }
    if let Some(ratio) = &figure.ratio {
        let _ = write!(text, "  {:.0} % of {}", ratio.value * 100.0, ratio.to);
    }
    line(text);
    if let Some(latency) = &figure.latency {
        line(format!("      times: {}, max {:.1} ms", latency.of, latency.max_ms));
    }
    let mut notes: Vec<String> =
        figure.details.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    if figure.runs.len() > 1 {
        notes.push(format!(
            "runs {}",
            figure.runs.iter().map(|run| number(*run)).collect::<Vec<_>>().join(" ")
        ));
    }
    for chunk in notes.chunks(4) {
        line(format!("      {}", chunk.join(" · ")));
    }
}

/// Whole numbers with commas when large, three digits when small.
fn number(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: impl IntoIterator<Item = u64>) -> Micros {
        let mut histogram = micros();
        values.into_iter().for_each(|ms| record(&mut histogram, Duration::from_millis(ms)));
        histogram
    }

    #[test]
    fn percentiles_are_those_of_the_durations_within_three_digits() {
        let latency = Latency::new("x", &millis(1..=1_000));
        let near = |value: f64, wanted: f64| (value / wanted - 1.0).abs() < 0.002;
        assert!(near(latency.p50_ms, 500.0) && near(latency.p99_ms, 990.0), "{latency:?}");
        assert!(near(latency.p999_ms, 999.0) && near(latency.max_ms, 1_000.0), "{latency:?}");
        assert_eq!(latency.count, 1_000);
    }

    #[test]
    fn the_median_shrugs_off_one_disturbed_run() {
        assert_eq!(median(vec![3.0, 900.0, 2.0]), 3.0);
        assert_eq!(median(vec![4.0, 2.0]), 3.0);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn samples_of_one_name_become_one_figure_with_its_ratio() {
        let ceilings = figures(&[Sample::new("stream echo", 1_000.0, "tasks/s")], &[]);
        let sample = |value, p: u64| {
            Sample::new("push", value, "tasks/s")
                .latency("frame", &millis([p]))
                .ceiling("stream echo")
                .detail("cpu_s", value / 100.0)
        };
        let other = Sample::new("consume", 1.0, "tasks/s");
        let found = figures(&[sample(100.0, 1), other, sample(300.0, 9), sample(200.0, 5)], &ceilings);
        assert_eq!(found.iter().map(|figure| figure.name.as_str()).collect::<Vec<_>>(), ["push", "consume"]);
        let push = &found[0];
        assert_eq!((push.median, push.runs.as_slice()), (200.0, [100.0, 300.0, 200.0].as_slice()));
        assert_eq!(push.ratio, Some(Ratio { to: "stream echo", value: 0.2 }));
        assert_eq!(push.details["cpu_s"], 2.0);
        let p50 = push.latency.as_ref().expect("they have one").p50_ms;
        assert!((p50 - 5.0).abs() < 0.01, "{p50}");
    }

    #[test]
    fn the_json_document_has_the_promised_shape() {
        let sample = Sample::new("push", 10.0, "tasks/s").latency("frame", &millis([1]));
        let document = Document {
            format: 1,
            program: "z4 0",
            hardware: Hardware::default(),
            settings: BTreeMap::from([("payload_bytes", 200.into())]),
            ceilings: Vec::new(),
            results: figures(&[sample], &[]),
            warnings: Vec::new(),
            failures: vec!["x".to_owned()],
        };
        let json = serde_json::to_value(&document).expect("plain data");
        assert_eq!(json["format"], 1);
        assert_eq!(json["settings"]["payload_bytes"], 200);
        let push = &json["results"][0];
        assert_eq!(
            (push["name"].as_str(), push["median"].as_f64(), push["unit"].as_str()),
            (Some("push"), Some(10.0), Some("tasks/s"))
        );
        assert_eq!(push["runs"].as_array().map(Vec::len), Some(1));
        for field in ["p50_ms", "p99_ms", "p999_ms", "max_ms", "count", "of"] {
            assert!(!push["latency"][field].is_null(), "{field}");
        }
        assert!(push.get("ratio").is_none(), "what is not known is not there");
        for field in ["cpu", "cores", "memory_bytes", "kernel", "filesystem", "load_1min"] {
            assert!(!json["hardware"][field].is_null(), "{field}");
        }
        assert!(document.table().contains("FAILED: x"));
    }

    #[test]
    fn numbers_are_readable() {
        for (value, text) in
            [(1_234_567.4, "1,234,567"), (12.345, "12.35"), (7.0, "7"), (0.0, "0"), (-1_200.0, "-1,200")]
        {
            assert_eq!(number(value), text);
        }
    }
}
