//! What the demo says while it runs: with a progress display on a terminal, in plain lines
//! elsewhere.
//!
//! The demo itself only sends [`Event`]s, since in the nested set-up it runs in another machine
//! than the display.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

/// Time between two frames of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Something begins that takes its time.
    Step(String),
    /// The same thing, as far as it has come.
    Progress(String),
    /// What the last step found.
    Done(String),
    /// A figure for the table at the end.
    Figure {
        /// What was measured.
        name: String,
        /// The value with its unit.
        value: String,
    },
}

/// Shows events to the user.
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    step: String,
    begun: Instant,
    figures: Vec<(String, String)>,
}

impl Display {
    /// A display on standard output.
    pub fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            bar,
            step: String::new(),
            begun: Instant::now(),
            figures: Vec::new(),
        }
    }

    /// Shows `event`.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::Step(text) => {
                self.begun = Instant::now();
                if let Some(bar) = &self.bar {
                    bar.reset_elapsed();
                    bar.set_message(text.clone());
                } else {
                    println!("... {text}");
                }
                self.step = text;
            }
            Event::Progress(text) => match &self.bar {
                Some(bar) => bar.set_message(format!("{}: {text}", self.step)),
                None => println!("    {text}"),
            },
            Event::Done(text) => {
                let seconds = self.begun.elapsed().as_secs_f64();
                self.line(&format!("[ok] {text} ({seconds:.1} s)"));
            }
            Event::Figure { name, value } => self.figures.push((name, value)),
        }
    }

    /// Shows a line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// Ends the display and returns the figures as a table.
    pub fn finish(self) -> String {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        table(&self.figures)
    }
}

/// Two columns, the second to the right.
fn table(rows: &[(String, String)]) -> String {
    let width = |column: fn(&(String, String)) -> &String| {
        rows.iter()
            .map(|row| column(row).chars().count())
            .max()
            .unwrap_or(0)
    };
    let (names, values) = (width(|row| &row.0), width(|row| &row.1));
    rows.iter()
        .map(|(name, value)| format!("  {name:names$}  {value:>values$}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_aligned_columns() {
        let rows = [
            ("a".to_owned(), "10 MiB".to_owned()),
            ("long".to_owned(), "5 s".to_owned()),
        ];
        assert_eq!(table(&rows), "  a     10 MiB\n  long     5 s\n");
    }

    #[test]
    fn events_survive_the_line_between_machines() {
        let event = Event::Figure {
            name: "n".to_owned(),
            value: "v".to_owned(),
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
