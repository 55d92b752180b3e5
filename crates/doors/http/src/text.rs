//! The Prometheus text format, written by hand: everything shown is a snapshot, nothing is registered.
//!
//! Sources: Prometheus, "Exposition formats", text version 0.0.4.

use std::fmt::Write as _;

/// A page of metrics in the making.
#[derive(Default)]
pub(crate) struct Page {
    out: String,
}

impl Page {
    /// Begins a metric; its samples follow.
    pub(crate) fn metric(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Adds a metric with one sample and no label.
    pub(crate) fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, kind, help);
        self.put(format_args!("{name} {value}\n"));
    }

    /// Adds a sample with one label.
    pub(crate) fn sample(
        &mut self,
        name: &str,
        label: &str,
        label_value: &str,
        value: impl std::fmt::Display,
    ) {
        self.put(format_args!("{name}{{{label}=\""));
        for c in label_value.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '"' => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                c => self.out.push(c),
            }
        }
        self.put(format_args!("\"}} {value}\n"));
    }

    /// Adds a histogram from the upper bounds (seconds) and counts of its buckets; the last has no bound.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        buckets: impl Iterator<Item = (f64, u64)>,
        sum: f64,
    ) {
        self.metric(name, "histogram", help);
        let mut total = 0;
        let mut buckets = buckets.peekable();
        while let Some((bound, count)) = buckets.next() {
            total += count;
            if buckets.peek().is_some() {
                self.put(format_args!("{name}_bucket{{le=\"{bound}\"}} {total}\n"));
            }
        }
        self.put(format_args!(
            "{name}_bucket{{le=\"+Inf\"}} {total}\n{name}_sum {sum}\n{name}_count {total}\n"
        ));
    }

    /// Returns the page.
    pub(crate) fn finish(self) -> String {
        self.out
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.single("z4_tasks_pushed_total", "counter", "Tasks created.", 3);
        page.metric("z4_queue_waiting", "gauge", "Tasks.");
        page.sample("z4_queue_waiting", "queue", "a\"b\\c", 7);
        page.histogram("z4_x_seconds", "X.", [(0.5, 2), (1.0, 0), (2.0, 1)].into_iter(), 1.25);
        let expected = "# HELP z4_tasks_pushed_total Tasks created.\n# TYPE z4_tasks_pushed_total counter\n\
             z4_tasks_pushed_total 3\n\
             # HELP z4_queue_waiting Tasks.\n# TYPE z4_queue_waiting gauge\n\
             z4_queue_waiting{queue=\"a\\\"b\\\\c\"} 7\n\
             # HELP z4_x_seconds X.\n# TYPE z4_x_seconds histogram\n\
             z4_x_seconds_bucket{le=\"0.5\"} 2\nz4_x_seconds_bucket{le=\"1\"} 2\n\
             z4_x_seconds_bucket{le=\"+Inf\"} 3\nz4_x_seconds_sum 1.25\nz4_x_seconds_count 3\n";
        assert_eq!(page.finish(), expected);
    }
}
