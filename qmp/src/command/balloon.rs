//! The balloon's commands: QEMU's two, and those by which a resize can be watched.
//!
//! Sizes are in bytes, and are what the guest has left, not what is in the balloon.

use std::num::NonZero;
use std::time::Instant;

use serde_json::Value;

use super::types::Arguments;
use super::{Context, Wait, nothing, time_out};
use crate::backend::CommandError;
use crate::events::{timestamp, wall_clock};
use crate::governor::Limits;
use crate::json::object;
use crate::resize::{Outcome, Resize, Sizes};

type Return = Result<Value, CommandError>;

pub(super) fn balloon(context: &mut Context<'_>, arguments: &Arguments) -> Return {
    // A machine without a balloon says so whatever the value.
    context.machine.balloon_actual()?;
    context.set_balloon(arguments.get("value"))?;
    Ok(nothing())
}

pub(super) fn query_balloon(context: &mut Context<'_>, _: &Arguments) -> Return {
    let actual = context.machine.balloon_actual()?;
    Ok(object([("actual", actual.into())]))
}

pub(super) fn x_query_balloon(context: &mut Context<'_>, _: &Arguments) -> Return {
    context.machine.balloon_actual()?;
    let balloon = context.machine.balloon();
    let view = context.machine.balloon_view();
    let (balloon, view) = balloon.zip(view).ok_or_else(CommandError::no_balloon)?;
    let Sizes { target, .. } = context.steering.sizes(&view);
    let Limits { min, max_rate } = context.steering.limits();
    let resize = context.steering.resize();
    let now = Instant::now();
    let since = wall_clock(now.saturating_duration_since(resize.since()));
    let features = balloon.driver.as_deref().unwrap_or_default();
    Ok(object([
        ("target", target.into()),
        ("actual", view.actual.into()),
        ("min", min.into()),
        ("max-rate", max_rate.map_or(0, NonZero::get).into()),
        ("asked-pages", balloon.asked_pages.into()),
        ("released", balloon.released_bytes.into()),
        ("reported", balloon.reported_bytes.into()),
        ("state", resize.state().name().into()),
        ("since", timestamp(since)),
        ("rate", resize.rate(now).into()),
        ("driver-present", balloon.driver.is_some().into()),
        ("features", features.iter().copied().collect()),
    ]))
}

pub(super) fn x_balloon_wait(
    context: &mut Context<'_>,
    arguments: &Arguments,
) -> Result<Wait, CommandError> {
    context.machine.balloon_actual()?;
    if let Some(value) = arguments.get("value") {
        context.set_balloon(Some(value))?;
    }
    let until = time_out(arguments)?;
    Ok(Wait::Balloon(context.steering.resize().wish(until)))
}

/// The return of `x-balloon-wait`.
pub(super) fn wait_return(outcome: Outcome, resize: &Resize) -> Value {
    let Sizes { target, actual } = resize.sizes();
    object([
        ("outcome", outcome.name().into()),
        ("target", target.into()),
        ("actual", actual.into()),
    ])
}

impl Context<'_> {
    /// Asks for a size.
    pub(crate) fn set_balloon(&mut self, value: Option<&Value>) -> Result<(), CommandError> {
        let guest_bytes = value.and_then(Value::as_u64).filter(|&bytes| bytes > 0);
        let guest_bytes =
            guest_bytes.ok_or_else(|| CommandError::generic("Parameter 'value' expects a size"))?;
        self.steering.ask(self.machine, guest_bytes, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Machine, run};

    #[test]
    fn balloon_without_device_is_reported_before_the_value() {
        let mut machine = Machine {
            balloon: false,
            ..Machine::default()
        };
        assert_eq!(
            run(&mut machine, balloon, [("value", 0.into())]),
            Err(CommandError::no_balloon())
        );
    }

    #[test]
    fn balloon_of_no_size_changes_nothing() {
        let mut machine = Machine::default();
        for value in [0, -1, i64::MIN] {
            let error = run(&mut machine, balloon, [("value", value.into())]).unwrap_err();
            assert_eq!(error.to_string(), "Parameter 'value' expects a size");
        }
        assert_eq!(machine.target_bytes, None);
    }
}
