//! Progress for people: a bar on a terminal, lines elsewhere. Both on standard error.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::amount::amount;
use crate::output::tell;

/// Least time between two lines.
const LINE_PAUSE: Duration = Duration::from_secs(1);
/// The bar, with what the guest has and shall have behind it.
const TEMPLATE: &str = "{bar:32} {msg} [{elapsed}]";

/// Shows how far the guest is. Sizes are in bytes.
#[derive(Debug)]
pub struct Display {
    start: u64,
    goal: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines {
        /// What the last line showed, and when.
        last: Option<(u64, Instant)>,
    },
}

impl Display {
    /// A display of the way from `start` to `goal`.
    pub fn new(start: u64, goal: u64) -> Self {
        let form = if io::stderr().is_terminal() {
            let length = start.abs_diff(goal);
            let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            Form::Bar(bar)
        } else {
            Form::Lines { last: None }
        };
        Self { start, goal, form }
    }

    /// Shows what the guest has.
    pub fn show(&mut self, actual: u64) {
        let text = format!("{}, target {}", amount(actual), amount(self.goal));
        match &mut self.form {
            Form::Bar(bar) => {
                bar.set_position(travelled(self.start, self.goal, actual));
                bar.set_message(text);
            }
            Form::Lines { last } => {
                let is_new =
                    last.is_none_or(|(shown, at)| shown != actual && at.elapsed() >= LINE_PAUSE);
                if is_new {
                    tell(format_args!("The guest has {text}"));
                    *last = Some((actual, Instant::now()));
                }
            }
        }
    }

    /// Leaves the bar as it is, and the terminal on a new line.
    pub fn finish(&mut self) {
        if let Form::Bar(bar) = &self.form {
            bar.abandon();
        }
    }
}

/// How much of the way is done; a guest on the other side of `start` has done nothing.
fn travelled(start: u64, goal: u64, actual: u64) -> u64 {
    let (low, high) = (start.min(goal), start.max(goal));
    start.abs_diff(actual.clamp(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn way_counts_from_the_start_in_both_directions() {
        assert_eq!(travelled(500, 100, 400), 100);
        assert_eq!(travelled(100, 500, 400), 300);
        assert_eq!(travelled(500, 100, 600), 0);
        assert_eq!(travelled(500, 100, 50), 400);
    }
}
