//! Where a machine is in its life, and every way from one place to another.
//!
//! The states and their changes are QEMU's (`query-status`, and its table of run state
//! transitions) as far as a machine here can meet them:
//!
//! ```text
//!                 cont                  stop
//!   prelaunch ──────────> running ──────────────> paused
//!       ^                 ^  │  ^──────────────────┘ cont
//!       │ reset           │  ├── the guest powers off ──> shutdown
//!       │ (of any state   │  ├── it panics ─────────────> guest-panicked
//!       │  but running)   └──│───────────── cont ─────────────┘
//!       └──                  └── KVM fails ─────────────> internal-error
//! ```
//!
//! A running machine that is reset goes on running.

/// Where a machine is in its life; the names are QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built or reset, and not run since.
    Prelaunch,
    /// The guest runs.
    Running,
    /// The guest was stopped and can go on.
    Paused,
    /// The guest has powered its machine off.
    Shutdown,
    /// The guest has panicked, and was stopped.
    GuestPanicked,
    /// A vCPU cannot go on.
    InternalError,
}

/// What moves a machine from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Somebody lets it run.
    Cont,
    /// Somebody stops it.
    Stop,
    /// It is reset, by whomever.
    Reset,
    /// Its guest powers it off.
    PowerOff,
    /// Its guest panics, and is to be stopped for that.
    Panic,
    /// A vCPU fails, or a reset does.
    Failure,
}

/// The machine cannot run before it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Resetting the Virtual Machine is required")]
pub struct NeedsReset;

impl RunState {
    /// The state after `change`; the same one where the change has nothing to change.
    ///
    /// # Errors
    /// [`NeedsReset`] when a machine shall run whose guest has ended.
    pub fn after(self, change: Change) -> Result<Self, NeedsReset> {
        use Change as C;
        use RunState as S;
        Ok(match (self, change) {
            (S::Shutdown | S::InternalError, C::Cont) => return Err(NeedsReset),
            (_, C::Cont) => S::Running,
            (S::Running, C::Stop) => S::Paused,
            (_, C::Stop) => self,
            (S::Running, C::Reset) => S::Running,
            (_, C::Reset) => S::Prelaunch,
            // What a guest did just before it was stopped is heard just after.
            (S::Running | S::Paused, C::PowerOff) => S::Shutdown,
            (S::Running | S::Paused, C::Panic) => S::GuestPanicked,
            // Nothing of the guest runs in the other states.
            (_, C::PowerOff | C::Panic) => self,
            (_, C::Failure) => S::InternalError,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Change::*;
    use RunState::*;

    /// A change, and where it leads: `None` is a refusal.
    type Row = (Change, Option<RunState>);

    /// Every state with all changes.
    const TABLE: [(RunState, [Row; 6]); 6] = [
        (
            Prelaunch,
            [
                (Cont, Some(Running)),
                (Stop, Some(Prelaunch)),
                (Reset, Some(Prelaunch)),
                (PowerOff, Some(Prelaunch)),
                (Panic, Some(Prelaunch)),
                (Failure, Some(InternalError)),
            ],
        ),
        (
            Running,
            [
                (Cont, Some(Running)),
                (Stop, Some(Paused)),
                (Reset, Some(Running)),
                (PowerOff, Some(Shutdown)),
                (Panic, Some(GuestPanicked)),
                (Failure, Some(InternalError)),
            ],
        ),
        (
            Paused,
            [
                (Cont, Some(Running)),
                (Stop, Some(Paused)),
                (Reset, Some(Prelaunch)),
                (PowerOff, Some(Shutdown)),
                (Panic, Some(GuestPanicked)),
                (Failure, Some(InternalError)),
            ],
        ),
        (
            Shutdown,
            [
                (Cont, None),
                (Stop, Some(Shutdown)),
                (Reset, Some(Prelaunch)),
                (PowerOff, Some(Shutdown)),
                (Panic, Some(Shutdown)),
                (Failure, Some(InternalError)),
            ],
        ),
        (
            GuestPanicked,
            [
                (Cont, Some(Running)),
                (Stop, Some(GuestPanicked)),
                (Reset, Some(Prelaunch)),
                (PowerOff, Some(GuestPanicked)),
                (Panic, Some(GuestPanicked)),
                (Failure, Some(InternalError)),
            ],
        ),
        (
            InternalError,
            [
                (Cont, None),
                (Stop, Some(InternalError)),
                (Reset, Some(Prelaunch)),
                (PowerOff, Some(InternalError)),
                (Panic, Some(InternalError)),
                (Failure, Some(InternalError)),
            ],
        ),
    ];

    #[test]
    fn every_change_of_every_state_leads_where_qemu_goes() {
        for (state, changes) in TABLE {
            for (change, expected) in changes {
                let after = state.after(change).ok();
                assert_eq!(after, expected, "{state:?} {change:?}");
            }
        }
    }

    #[test]
    fn refusal_has_the_words_of_qemu() {
        let refusal = Shutdown.after(Cont).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "Resetting the Virtual Machine is required"
        );
    }
}
