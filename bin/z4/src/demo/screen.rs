//! What the demo shows while it runs: one line that is redrawn on a terminal, a line a second elsewhere.
//!
//! Colours are left out when `NO_COLOR` is set (no-color.org) or the output is no terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::ledger::Counts;
use crate::say::say;

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(1);
const BAR_CELLS: u64 = 24;

/// What the server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Running,
    /// It was killed and is starting again.
    Down,
    /// The leader was killed, another is elected.
    Failover,
    /// Everything is acked; does something come back?
    Listening,
}

/// See the essay.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    color: bool,
    begin: Instant,
    /// When the last plain line was printed.
    printed: Option<Instant>,
}

impl Screen {
    /// Returns a screen on stdout.
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { terminal, color: terminal && !no_color, begin: Instant::now(), printed: None }
    }

    /// Returns whether colours are wanted.
    pub(crate) fn color(&self) -> bool {
        self.color
    }

    /// Prints a line that stays.
    pub(crate) fn say(&mut self, text: &str) {
        self.clear();
        say!("{:>5.1} s  {text}", self.begin.elapsed().as_secs_f64());
    }

    /// Shows how far the run is.
    pub(crate) fn draw(&mut self, phase: Phase, counts: &Counts) {
        let line = line(phase, counts, self.begin.elapsed(), self.color);
        if self.terminal {
            // Without wrapping: a line that is too long for the window is cut, and can still be redrawn.
            // A progress line that does not show is no reason to end.
            let mut out = std::io::stdout().lock();
            let _ = write!(out, "\r\x1b[K\x1b[?7l{line}\x1b[?7h").and_then(|()| out.flush());
        } else if self.printed.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) {
            self.printed = Some(Instant::now());
            say!("{line}");
        }
    }

    /// Takes the progress line away.
    pub(crate) fn end(&mut self) {
        self.clear();
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stdout(), "\r\x1b[K");
        }
    }
}

impl Drop for Screen {
    // An error or Ctrl-C must not be printed behind the progress line.
    fn drop(&mut self) {
        self.clear();
        drop(std::io::stdout().flush());
    }
}

fn line(phase: Phase, counts: &Counts, elapsed: Duration, color: bool) -> String {
    let (state, code) = match phase {
        Phase::Running => ("running", "32"),
        Phase::Down => ("server killed, restarting", "31"),
        Phase::Failover => ("leader killed, the others elect", "31"),
        Phase::Listening => ("all acked; does anything come back?", "36"),
    };
    let state = if color { format!("\x1b[{code}m{state}\x1b[0m") } else { state.to_owned() };
    let filled = (counts.acked * BAR_CELLS).checked_div(counts.total).unwrap_or_default();
    let bar: String = (0..BAR_CELLS).map(|cell| if cell < filled { '█' } else { '░' }).collect();
    format!(
        "{:>5.1} s  {bar} pushed {} · delivered {} · acked {} of {} · {state}",
        elapsed.as_secs_f64(),
        thousands(counts.pushed),
        thousands(counts.delivered),
        thousands(counts.acked),
        thousands(counts.total),
    )
}

/// Returns a number with a comma between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")];
        for (number, text) in cases {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn the_line_has_no_escape_codes_without_colour() {
        let counts = Counts { total: 100, pushed: 60, delivered: 55, acked: 50, redelivered: 0 };
        let plain = line(Phase::Down, &counts, Duration::from_secs(2), false);
        assert!(!plain.contains('\x1b'), "{plain}");
        assert!(plain.contains("pushed 60 · delivered 55 · acked 50 of 100 · server killed"), "{plain}");
        assert_eq!(plain.chars().filter(|cell| *cell == '█').count(), 12);
        assert!(line(Phase::Down, &counts, Duration::ZERO, true).contains("\x1b[31m"));
    }
}
