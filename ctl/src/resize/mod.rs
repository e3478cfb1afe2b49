//! Sets the memory that the guest shall have, and waits until it has it.
//!
//! QEMU tells of the guest's progress by `BALLOON_CHANGE`; it is asked as well, since an event may
//! be the last for long. Aerostat knows by itself when its guest has reached the target or stalls
//! (`x-balloon-wait`), and is asked for that where it can tell.

mod display;
mod goal;
mod watch;

use std::time::{Duration, Instant};

use aerostat_qmp::client::{Arguments, ClientError};
use serde_json::Value;

use crate::amount::amount;
use crate::cli::ResizeOptions;
use crate::connect::{Session, print};
use crate::failure::Failure;
use crate::status::total;

use display::Display;
use goal::Goal;
use watch::{End, Watch};

/// Time without any change after which the guest counts as stalled.
const STALL: Duration = Duration::from_secs(5);
/// Pause between two questions for the balloon's size.
const POLL: Duration = Duration::from_millis(200);
/// For how long Aerostat is asked to wait at once.
const WAIT: Duration = Duration::from_secs(60);

/// Why the guest does not have the size.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    /// Nothing moves any more.
    #[error("Stalled: the guest has {}, not {}{why}", amount(*.actual), amount(*.goal))]
    Stalled {
        /// What the guest has, in bytes.
        actual: u64,
        /// What it should have, in bytes.
        goal: u64,
        /// What is known of the cause, behind a comma.
        why: &'static str,
    },
    /// The time was up.
    #[error("The time is up: the guest has {}, not {}", amount(*.actual), amount(*.goal))]
    TimeUp {
        /// What the guest has, in bytes.
        actual: u64,
        /// What it should have, in bytes.
        goal: u64,
    },
    /// Another client has set another target.
    #[error("Another client set another size: the guest has {}, not {}", amount(*.actual), amount(*.goal))]
    Replaced {
        /// What the guest has, in bytes.
        actual: u64,
        /// What it should have, in bytes.
        goal: u64,
    },
}

impl Missed {
    /// Whether only the time was too short.
    #[must_use]
    pub fn is_time_up(&self) -> bool {
        matches!(self, Self::TimeUp { .. })
    }
}

/// Sets the size, and waits for it if that is asked for.
///
/// # Errors
///
/// When the machine refuses, or the guest does not reach the size.
pub fn run(session: &mut Session, options: &ResizeOptions) -> Result<(), Failure> {
    let memory = session.ask("query-memory-size-summary")?;
    let memory = memory.and_then(|summary| total(&summary).as_u64());
    if let Some(memory) = memory.filter(|memory| options.size > *memory) {
        eprintln!(
            "aerostat-ctl: The machine has only {}: the guest gets all of it",
            amount(memory)
        );
    }
    let goal = Goal::new(options.size, memory);
    if !options.wait {
        session.execute("balloon", Some(value_argument(options.size)))?;
        return print(&format!("The guest shall have {}.", amount(goal.bytes())));
    }
    let start = actual(session)?;
    let mut waiting = Waiting::begin(session, options, goal)?;
    let mut watch = Watch::new(
        waiting.goal,
        start,
        options.stall.unwrap_or(STALL),
        waiting.session.deadline,
    );
    let mut display = Display::new(start, waiting.goal.bytes());
    let end = waiting.watch(&mut watch, &mut display);
    display.finish();
    let (actual, goal) = (watch.actual(), waiting.goal.bytes());
    match end? {
        End::Reached => print(&format!("The guest has {}.", amount(actual))),
        End::Stalled => {
            let why = cause_of_stall(waiting.session)?;
            Err(Missed::Stalled { actual, goal, why }.into())
        }
        End::TimeUp => Err(Missed::TimeUp { actual, goal }.into()),
        End::Replaced => Err(Missed::Replaced { actual, goal }.into()),
    }
}

fn value_argument(bytes: u64) -> Arguments {
    Arguments::from_iter([("value".to_owned(), bytes.into())])
}

/// What the guest has, in bytes.
fn actual(session: &mut Session) -> Result<u64, ClientError> {
    let answer = session.execute("query-balloon", None)?;
    let actual = answer["actual"].as_u64();
    actual.ok_or_else(|| ClientError::NotQmp(format!("a balloon without size: {answer}")))
}

/// A wait for a target that was set.
struct Waiting<'a> {
    session: &'a mut Session,
    goal: Goal,
    /// Id of the `x-balloon-wait` that has no reply yet; `None` where only the size tells.
    reply_to: Option<Value>,
    /// Whether the server's word counts when it calls the guest stalled.
    server_knows_stalls: bool,
}

impl<'a> Waiting<'a> {
    /// Sets the target.
    fn begin(
        session: &'a mut Session,
        options: &ResizeOptions,
        goal: Goal,
    ) -> Result<Self, ClientError> {
        let is_extended = session.ask("x-query-balloon")?.is_some();
        session.execute("balloon", Some(value_argument(options.size)))?;
        let mut waiting = Self {
            session,
            goal,
            reply_to: None,
            server_knows_stalls: options.stall.is_none(),
        };
        if is_extended {
            waiting.ask_to_wait()?;
            let balloon = waiting.session.ask("x-query-balloon")?.unwrap_or_default();
            if let Some(target) = balloon["target"].as_u64() {
                waiting.goal = Goal::exactly(target);
            }
        }
        Ok(waiting)
    }

    /// Asks the server to reply when the target is reached.
    fn ask_to_wait(&mut self) -> Result<(), ClientError> {
        let deadline = self.session.deadline;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = left.unwrap_or(WAIT).min(WAIT).max(Duration::from_millis(1));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let arguments = Arguments::from_iter([("timeout-ms".to_owned(), wait_ms.into())]);
        let command = "x-balloon-wait";
        let id = self
            .session
            .client
            .send(command, Some(arguments), deadline)?;
        self.reply_to = Some(id);
        Ok(())
    }

    /// Watches the guest until it is there, or will not be.
    fn watch(&mut self, watch: &mut Watch, display: &mut Display) -> Result<End, ClientError> {
        let mut next_poll = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(end) = watch.end(now) {
                return Ok(end);
            }
            if now >= next_poll {
                watch.see(now, actual_or_time_up(self.session)?);
                display.show(watch.actual());
                next_poll = Instant::now() + POLL;
                continue;
            }
            self.session
                .client
                .receive(Some(watch.next_look(next_poll)))?;
            while let Some(event) = self.session.client.take_event() {
                let is_change = matches!(&*event.name, "BALLOON_CHANGE" | "X_BALLOON_STATE");
                let actual = event.data()["actual"].as_u64().filter(|_| is_change);
                watch.see(Instant::now(), actual);
                display.show(watch.actual());
            }
            if let Some(end) = self.outcome(watch)? {
                return Ok(end);
            }
        }
    }

    /// How the server says that it ended, if it does.
    fn outcome(&mut self, watch: &mut Watch) -> Result<Option<End>, ClientError> {
        let reply = self.reply_to.as_ref();
        let Some(reply) = reply.and_then(|id| self.session.client.take_reply(id)) else {
            return Ok(None);
        };
        self.reply_to = None;
        let value = match reply.result {
            Ok(value) => value,
            Err(refusal) if refusal.is_unknown_command() => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        watch.see(Instant::now(), value["actual"].as_u64());
        match value["outcome"].as_str() {
            Some("reached") => Ok(Some(End::Reached)),
            Some("stalled") if self.server_knows_stalls => Ok(Some(End::Stalled)),
            Some("replaced") => Ok(Some(End::Replaced)),
            // The time of this one question was up; whether all time is, the watch knows.
            Some("timeout") => self.ask_to_wait().map(|()| None),
            _ => Ok(None),
        }
    }
}

/// What the guest has; `None` if the time is up before the machine says it.
fn actual_or_time_up(session: &mut Session) -> Result<Option<u64>, ClientError> {
    match actual(session) {
        Ok(actual) => Ok(Some(actual)),
        Err(ClientError::Timeout(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the machine says that can be the cause.
fn cause_of_stall(session: &mut Session) -> Result<&'static str, ClientError> {
    let is = |value: Option<Value>, name: &str, wanted: bool| {
        value.is_some_and(|value| value[name] == wanted)
    };
    if is(session.ask("query-status")?, "running", false) {
        return Ok(", and the machine does not run");
    }
    if is(session.ask("x-query-balloon")?, "driver-present", false) {
        return Ok(", and has no driver for its balloon");
    }
    Ok("")
}
