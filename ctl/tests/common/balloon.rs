//! Servers with a balloon that moves a step each time it is asked. Sizes are in MiB.

use serde_json::{Value, json};

use super::fake::{Fake, event, reply, unknown};

const MIB: u64 = 1 << 20;

/// A guest with 512 MiB that gets no smaller than `least`, in steps of `step`, on a server without
/// extensions.
pub fn plain(least: u64, step: u64) -> Fake {
    let mut balloon = Balloon::new(least, step);
    Fake::new(move |request| match request["execute"].as_str() {
        Some("balloon") => vec![balloon.set(request)],
        Some("query-balloon") => balloon.query(request),
        Some("query-memory-size-summary") => {
            vec![reply(request, json!({"base-memory": 512 * MIB}))]
        }
        Some("query-status") => {
            vec![reply(
                request,
                json!({"status": "running", "running": true}),
            )]
        }
        _ => vec![unknown(request)],
    })
}

/// A guest as [`plain`]'s on a server with Aerostat's extensions, which says `outcome` when it is
/// asked for the guest the `after`th time.
pub fn extended(least: u64, step: u64, outcome: &'static str, after: u32) -> Fake {
    overruled(least, step, outcome, after, u32::MAX)
}

/// As [`extended`], with a target of 300 MiB from the question after the `overruled`th on.
pub fn overruled(least: u64, step: u64, outcome: &'static str, after: u32, overruled: u32) -> Fake {
    let mut balloon = Balloon::new(least, step);
    let mut waiting = Vec::new();
    let mut questions = 0;
    Fake::new(move |request| match request["execute"].as_str() {
        Some("query-balloon") => balloon.query(request),
        Some("x-query-balloon") => {
            questions += 1;
            // The first finds out whether there are extensions.
            let events = (questions > 1).then(|| balloon.step());
            let mut messages: Vec<_> = events.into_iter().flatten().collect();
            if questions > overruled {
                balloon.target = 300;
            }
            messages.push(reply(request, balloon.state()));
            if questions > after {
                let end = |waiting: Value| reply(&waiting, balloon.outcome(outcome));
                messages.extend(waiting.drain(..).map(end));
            }
            messages
        }
        Some("x-balloon-wait") => {
            if request["arguments"]["value"].is_u64() {
                balloon.set(request);
            }
            waiting.push(request.clone());
            Vec::new()
        }
        _ => vec![unknown(request)],
    })
}

struct Balloon {
    target: u64,
    actual: u64,
    least: u64,
    step: u64,
}

impl Balloon {
    fn new(least: u64, step: u64) -> Self {
        Self {
            target: 512,
            actual: 512,
            least,
            step,
        }
    }

    fn set(&mut self, request: &Value) -> Value {
        let value = request["arguments"]["value"].as_u64().expect("value");
        self.target = (value / MIB).min(512);
        reply(request, json!({}))
    }

    /// A step, the event that tells of it, and the answer.
    fn query(&mut self, request: &Value) -> Vec<Value> {
        let event = self.step();
        let answer = reply(request, json!({"actual": self.actual * MIB}));
        event.into_iter().chain([answer]).collect()
    }

    /// A step, and the event that tells of it, if there was a way to go.
    fn step(&mut self) -> Option<Value> {
        let before = self.actual;
        let goal = self.target.max(self.least);
        self.actual = if goal < self.actual {
            goal.max(self.actual - self.step)
        } else {
            goal.min(self.actual + self.step)
        };
        let actual = json!({"actual": self.actual * MIB});
        (before != self.actual).then(|| event("BALLOON_CHANGE", &actual))
    }

    fn state(&self) -> Value {
        json!({
            "target": self.target * MIB, "actual": self.actual * MIB, "asked-pages": 0,
            "released": 0, "state": "inflating", "since": {"seconds": 1, "microseconds": 0},
            "rate": 0, "driver-present": false, "features": [],
        })
    }

    fn outcome(&self, outcome: &str) -> Value {
        json!({
            "outcome": outcome, "target": self.target * MIB, "actual": self.actual * MIB
        })
    }
}
