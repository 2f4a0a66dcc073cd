//! How far a long command has come, on standard error: a bar with rate and time left on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines.
const PAUSE: Duration = Duration::from_secs(5);

/// A command on its way through the log.
#[derive(Debug)]
pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    is_terminal: bool,
    started: Instant,
    from: u64,
    total: u64,
    said: Instant,
}

impl Progress {
    /// From one position to another.
    pub(super) fn new(what: &'static str, from: i64, to: i64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let (from, total) = (unsigned(from), unsigned(to));
        let bar = if is_terminal {
            ProgressBar::new(total)
        } else {
            ProgressBar::hidden()
        };
        let template = "{msg} {wide_bar} {human_pos}/{human_len} events, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.set_position(from);
        bar.reset_eta();
        Self {
            what,
            bar,
            is_terminal,
            started: Instant::now(),
            from,
            total,
            said: Instant::now(),
        }
    }

    /// Has come to a position, of as many as there are by now.
    pub(super) fn at(&mut self, position: i64, of: i64) {
        let position = unsigned(position);
        self.total = unsigned(of).max(position);
        self.bar.set_length(self.total);
        self.bar.set_position(position);
        if !self.is_terminal && self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            let rate = self.rate(position);
            let left = self.total.saturating_sub(position).checked_div(rate).unwrap_or(0);
            let (what, total) = (self.what, self.total);
            self.say(&format!(
                "{what}: {position} of {total} events, {rate} a second, {left} s left"
            ));
        }
    }

    /// Is through.
    pub(super) fn finish(mut self, position: i64) {
        self.bar.finish_and_clear();
        let position = unsigned(position);
        let (what, rate) = (self.what, self.rate(position));
        let taken = position.saturating_sub(self.from);
        self.say(&format!("{what}: {taken} events, {rate} a second"));
    }

    /// Events a second, so far.
    fn rate(&self, position: u64) -> u64 {
        let taken = u128::from(position.saturating_sub(self.from)).saturating_mul(1000);
        let rate = taken
            .checked_div(self.started.elapsed().as_millis())
            .unwrap_or(taken);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// A line for whoever reads along.
    pub(super) fn say(&mut self, line: &str) {
        self.bar.suspend(|| say(line));
    }
}

/// A line on standard error. Where nobody can read it, the work goes on.
pub(super) fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

fn unsigned(position: i64) -> u64 {
    u64::try_from(position).unwrap_or(0)
}
