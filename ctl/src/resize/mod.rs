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
use crate::connect::Session;
use crate::failure::Failure;
use crate::output::{print, tell};
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
    /// The guest keeps what it has.
    #[error("The guest is short of memory and took some back: it has {}, not {}", amount(*.actual), amount(*.goal))]
    Deflated {
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
        tell(format_args!(
            "The machine has only {}: the guest gets all of it",
            amount(memory)
        ));
    }
    let extension = session.ask("x-query-balloon")?;
    let min = extension.as_ref().and_then(|state| state["min"].as_u64());
    if let Some(min) = min.filter(|min| options.size < *min) {
        tell(format_args!(
            "The machine leaves its guest {} or more: it is asked for no less",
            amount(min)
        ));
    }
    let goal = Goal::new(options.size.max(min.unwrap_or(0)), memory);
    if !options.wait {
        session.execute("balloon", Some(value_argument(options.size)))?;
        return print(&format!("The guest shall have {}.", amount(goal.bytes())));
    }
    let start = Balloon::ask(session, false)?.actual;
    let is_extended = extension.is_some();
    let mut waiting = Waiting::begin(session, options, goal, is_extended)?;
    let mut watch = Watch::new(goal, start, waiting.stall, waiting.session.deadline);
    let mut display = Display::new(start, goal.bytes());
    let end = waiting.watch(&mut watch, &mut display);
    display.finish();
    let (actual, goal) = (watch.actual(), goal.bytes());
    match end? {
        End::Reached => print(&format!("The guest has {}.", amount(actual))),
        End::Stalled => {
            let why = cause_of_stall(waiting.session)?;
            Err(Missed::Stalled { actual, goal, why }.into())
        }
        End::Deflated => Err(Missed::Deflated { actual, goal }.into()),
        End::TimeUp => Err(Missed::TimeUp { actual, goal }.into()),
        End::Replaced => Err(Missed::Replaced { actual, goal }.into()),
    }
}

/// The argument of a command that sets the size. The protocol has no larger number.
fn value_argument(bytes: u64) -> Arguments {
    let value = bytes.min(i64::MAX.unsigned_abs());
    Arguments::from_iter([("value".to_owned(), value.into())])
}

/// What a client may know of the balloon. Sizes are in bytes.
struct Balloon {
    /// What the guest has.
    actual: u64,
    /// What it shall have, if the server says that.
    target: Option<u64>,
}

impl Balloon {
    /// Asks the server, for the target too if that is an extension which it has.
    fn ask(session: &mut Session, is_extended: bool) -> Result<Self, ClientError> {
        let command = match is_extended {
            true => "x-query-balloon",
            false => "query-balloon",
        };
        let answer = session.execute(command, None)?;
        let actual = answer["actual"].as_u64();
        let actual = actual
            .ok_or_else(|| ClientError::NotQmp(format!("a balloon without size: {answer}")))?;
        let target = answer["target"].as_u64();
        Ok(Self { actual, target })
    }
}

/// A wait for a target that was set.
struct Waiting<'a> {
    session: &'a mut Session,
    goal: Goal,
    /// Whether the server has extensions about its balloon.
    is_extended: bool,
    /// The guest has taken back what it had given, and the target has followed.
    has_deflated: bool,
    /// Id of the `x-balloon-wait` that has no reply yet; `None` where only the size tells.
    reply_to: Option<Value>,
    /// Time without any change after which the guest counts as stalled; `None` where that is the
    /// server's word.
    stall: Option<Duration>,
}

impl<'a> Waiting<'a> {
    /// Sets the target.
    fn begin(
        session: &'a mut Session,
        options: &ResizeOptions,
        goal: Goal,
        is_extended: bool,
    ) -> Result<Self, ClientError> {
        let value = value_argument(options.size);
        let mut waiting = Self {
            session,
            goal,
            is_extended,
            has_deflated: false,
            reply_to: None,
            stall: options.stall,
        };
        if is_extended {
            waiting.ask_to_wait(value)?;
        } else {
            waiting.session.execute("balloon", Some(value))?;
            waiting.stall.get_or_insert(STALL);
        }
        Ok(waiting)
    }

    /// Asks the server to reply when the target is reached; `arguments` may set one.
    fn ask_to_wait(&mut self, mut arguments: Arguments) -> Result<(), ClientError> {
        let deadline = self.session.deadline;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = left.unwrap_or(WAIT).min(WAIT).max(Duration::from_millis(1));
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        arguments.insert("timeout-ms".to_owned(), wait_ms.into());
        let client = &mut self.session.client;
        self.reply_to = Some(client.send("x-balloon-wait", Some(arguments), deadline)?);
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
                let balloon = match Balloon::ask(self.session, self.is_extended) {
                    Ok(balloon) => Some(balloon),
                    Err(ClientError::Timeout(_)) => None,
                    Err(error) => return Err(error),
                };
                watch.see(now, balloon.as_ref().map(|balloon| balloon.actual));
                display.show(watch.actual());
                // A server that is asked to wait says by itself what has become of the target.
                let target = balloon.and_then(|balloon| balloon.target);
                if self.reply_to.is_none() && self.is_replaced_by(target) {
                    return Ok(match self.has_deflated {
                        true => End::Deflated,
                        false => End::Replaced,
                    });
                }
                next_poll = Instant::now() + POLL;
                continue;
            }
            self.session
                .client
                .receive(Some(watch.next_look(next_poll)))?;
            while let Some(event) = self.session.client.take_event() {
                let is_change = matches!(&*event.name, "BALLOON_CHANGE" | "X_BALLOON_STATE");
                let actual = event.data()["actual"].as_u64().filter(|_| is_change);
                self.has_deflated |= event.name == "X_BALLOON_DEFLATED";
                watch.see(Instant::now(), actual);
                display.show(watch.actual());
            }
            if let Some(end) = self.outcome(watch)? {
                return Ok(end);
            }
        }
    }

    /// Whether the server's target, if it says it, is another than was set.
    fn is_replaced_by(&self, target: Option<u64>) -> bool {
        target.is_some_and(|target| !self.goal.is_reached(target))
    }

    /// How the server says that it ended, if it does.
    fn outcome(&mut self, watch: &mut Watch) -> Result<Option<End>, ClientError> {
        let reply = self.reply_to.as_ref();
        let Some(reply) = reply.and_then(|id| self.session.client.take_reply(id)) else {
            return Ok(None);
        };
        self.reply_to = None;
        let value = reply.result?;
        watch.see(Instant::now(), value["actual"].as_u64());
        match value["outcome"].as_str() {
            // A question without a size may have met another target than was set.
            Some("reached") if self.is_replaced_by(value["target"].as_u64()) => {
                Ok(Some(match self.has_deflated {
                    true => End::Deflated,
                    false => End::Replaced,
                }))
            }
            Some("reached") => Ok(Some(End::Reached)),
            Some("deflated") => Ok(Some(End::Deflated)),
            Some("stalled") if self.stall.is_none() => Ok(Some(End::Stalled)),
            Some("replaced") if self.is_replaced_by(value["target"].as_u64()) => {
                Ok(Some(End::Replaced))
            }
            // The time of this one question was up, or the same target was set again. Whether all
            // time is up, the watch knows.
            Some("timeout" | "replaced") => self.ask_to_wait(Arguments::new()).map(|()| None),
            _ => Ok(None),
        }
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
