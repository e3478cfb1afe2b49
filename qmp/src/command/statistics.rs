//! The guest's statistics on demand.

use std::time::Instant;

use serde_json::Value;

use super::types::Arguments;
use super::{Context, Wait, time_out};
use crate::backend::{Backend, CommandError, RunState};
use crate::qom::statistics_value;

/// A question to the guest that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// How many times the guest had answered before.
    pub answers: u64,
    /// When the waiting ends.
    pub until: Instant,
}

/// `x-query-guest-stats`: asks, and waits for the answer.
pub(super) fn x_query_guest_stats(
    context: &mut Context<'_>,
    arguments: &Arguments,
) -> Result<Wait, CommandError> {
    context.machine.balloon_actual()?;
    if context.machine.statistics().is_none() {
        return Err(no_driver());
    }
    if context.machine.status() != RunState::Running {
        return Err(CommandError::generic(
            "The guest does not run: it cannot tell of its memory",
        ));
    }
    let until = time_out(arguments)?;
    let answers = context.machine.ask_for_statistics()?;
    Ok(Wait::Statistics(Question { answers, until }))
}

impl Question {
    /// What the guest has answered, or why it will not.
    pub(super) fn result(
        &self,
        machine: &dyn Backend,
        now: Instant,
    ) -> Option<Result<Value, CommandError>> {
        let Some(statistics) = machine.statistics() else {
            return Some(Err(no_driver()));
        };
        // A driver that came after the question counts anew, and was not asked.
        if statistics.answers < self.answers {
            return Some(Err(no_driver()));
        }
        if statistics.answers > self.answers {
            return Some(Ok(statistics_value(&statistics)));
        }
        let late = || CommandError::generic("The guest has not told of its memory in time");
        (now >= self.until).then(|| Err(late()))
    }
}

fn no_driver() -> CommandError {
    CommandError::DeviceNotActive(
        "The guest has no balloon driver that tells of its memory".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::GuestStatistics;
    use crate::testing::{Machine, in_context};

    fn machine(statistics: Option<GuestStatistics>) -> Machine {
        Machine {
            status: RunState::Running,
            statistics,
            ..Machine::default()
        }
    }

    fn ask(machine: &mut Machine) -> Result<Question, String> {
        let arguments = Arguments::from_iter([("timeout-ms".to_owned(), 1000.into())]);
        let wait = in_context(machine, |context| x_query_guest_stats(context, &arguments));
        match wait {
            Ok(Wait::Statistics(question)) => Ok(question),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn question_is_answered_by_what_comes_after_it() {
        let old = GuestStatistics {
            answers: 4,
            last_update: 7,
            ..Default::default()
        };
        let mut machine = machine(Some(old));
        let question = ask(&mut machine).unwrap();
        let now = Instant::now();
        assert_eq!(question.result(&machine, now), None);
        machine.statistics = Some(GuestStatistics {
            answers: 5,
            last_update: 9,
            ..old
        });
        let answer = question.result(&machine, now).unwrap().unwrap();
        assert_eq!(answer["last-update"], 9);
        assert_eq!(answer["stats"]["stat-free-memory"], u64::MAX);
    }

    #[test]
    fn guest_that_cannot_answer_is_not_waited_for() {
        let fault = ask(&mut machine(None)).unwrap_err();
        assert!(fault.contains("no balloon driver"), "{fault}");
        let mut stopped = machine(Some(GuestStatistics::default()));
        stopped.status = RunState::Paused;
        assert!(ask(&mut stopped).unwrap_err().contains("does not run"));
        let mut without = machine(None);
        without.balloon = false;
        assert!(ask(&mut without).unwrap_err().contains("No balloon device"));
    }

    #[test]
    fn waiting_ends_with_the_time_or_the_driver() {
        let mut machine = machine(Some(GuestStatistics {
            answers: 1,
            ..Default::default()
        }));
        let question = ask(&mut machine).unwrap();
        let fault = |machine: &Machine, after: u64| {
            let now = Instant::now() + Duration::from_secs(after);
            let result = question.result(machine, now);
            result.map(|result| result.unwrap_err().to_string())
        };
        assert_eq!(fault(&machine, 0), None);
        assert!(fault(&machine, 2).unwrap().contains("in time"));
        machine.statistics = Some(GuestStatistics::default());
        assert!(fault(&machine, 0).unwrap().contains("no balloon driver"));
        machine.statistics = None;
        assert!(fault(&machine, 0).unwrap().contains("no balloon driver"));
    }
}
