//! The stages of a run: all are run, even when one has failed.

use std::time::{Duration, Instant};

use crate::chain;
use crate::error::{Error, Result};

/// The stages that ran, with how they ended.
#[derive(Debug, Default)]
pub(super) struct Stages(Vec<(&'static str, Duration, bool)>);

impl Stages {
    /// Runs one, and says how it ended.
    pub(super) fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) {
        println!("\n=== {name} ===");
        let begun = Instant::now();
        let outcome = stage();
        if let Err(error) = &outcome {
            println!("FAILED: {}", chain(error));
        }
        let time = begun.elapsed();
        println!("=== {name}: {:.1} s ===", time.as_secs_f64());
        self.0.push((name, time, outcome.is_ok()));
    }

    /// Sums up.
    ///
    /// # Errors
    ///
    /// When a stage has failed.
    pub(super) fn summarize(&self) -> Result<()> {
        println!("\n=== Summary ===");
        for (name, time, passed) in &self.0 {
            let verdict = if *passed { "ok" } else { "FAILED" };
            println!("  {verdict:7} {:7.1} s  {name}", time.as_secs_f64());
        }
        match self.0.iter().filter(|stage| !stage.2).count() {
            0 => Ok(()),
            failed => Err(Error::Check(format!(
                "{failed} of {} stages failed",
                self.0.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_stage_fails_the_run_after_the_others() {
        let mut stages = Stages::default();
        let mut reached = false;
        stages.run("one", || Err(Error::Check("no".to_owned())));
        stages.run("two", || {
            reached = true;
            Ok(())
        });
        assert!(reached);
        assert!(stages.summarize().is_err());
    }
}
