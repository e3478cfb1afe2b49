//! Commands that change the run state, and the one that tells it.

use serde_json::Value;

use super::types::Arguments;
use super::{Context, nothing};
use crate::backend::CommandError;
use crate::json::object;

type Return = Result<Value, CommandError>;

pub(super) fn query_status(context: &mut Context<'_>, _: &Arguments) -> Return {
    let status = context.machine.status();
    Ok(object([
        ("running", status.is_running().into()),
        ("status", status.name().into()),
    ]))
}

pub(super) fn stop(context: &mut Context<'_>, _: &Arguments) -> Return {
    context.machine.stop().map(|()| nothing())
}

pub(super) fn cont(context: &mut Context<'_>, _: &Arguments) -> Return {
    context.machine.cont().map(|()| nothing())
}

pub(super) fn system_reset(context: &mut Context<'_>, _: &Arguments) -> Return {
    context.machine.reset().map(|()| nothing())
}

pub(super) fn system_powerdown(context: &mut Context<'_>, _: &Arguments) -> Return {
    context.machine.power_down();
    Ok(nothing())
}

pub(super) fn quit(context: &mut Context<'_>, _: &Arguments) -> Return {
    context.machine.quit();
    context.effects.quit = true;
    Ok(nothing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunState;
    use crate::testing::{Machine, run};

    #[test]
    fn reset_leaves_a_stopped_machine_in_prelaunch() {
        let mut machine = Machine::default();
        for (before, after) in [
            (RunState::Running, RunState::Running),
            (RunState::Paused, RunState::Prelaunch),
            (RunState::Prelaunch, RunState::Prelaunch),
        ] {
            machine.status = before;
            assert_eq!(run(&mut machine, system_reset, []), Ok(nothing()));
            assert_eq!(machine.status, after);
        }
    }

    #[test]
    fn powerdown_is_asked_for_each_time_whatever_the_run_state() {
        let mut machine = Machine::default();
        for status in [RunState::Prelaunch, RunState::Running, RunState::Paused] {
            machine.status = status;
            run(&mut machine, system_powerdown, []).unwrap();
        }
        assert_eq!(machine.power_downs, 3);
    }
}
