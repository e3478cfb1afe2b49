//! What is QEMU's own in the recordings, and not the protocol's: the one place where a case is
//! changed before it is played. `tests/qmp/translation.json` has it as data.

use serde::Deserialize;
use serde_json::Value;

/// All that is changed.
#[derive(Debug, Deserialize)]
pub struct Translation {
    /// Values that name a thing of QEMU's.
    values: Vec<Rewrite>,
    /// Cases whose conversation is another one here.
    pub differences: Vec<Difference>,
}

/// Text in what a case expects, and what stands there in its place.
#[derive(Debug, Deserialize)]
struct Rewrite {
    case: String,
    from: String,
    to: String,
}

/// A case that differs in more than a value.
#[derive(Debug, Deserialize)]
pub struct Difference {
    /// Its name.
    pub case: String,
    /// The steps that are other ones, by their index.
    steps: Vec<(usize, Value)>,
}

impl Translation {
    /// Changes a case; an error names what does not fit the case.
    pub fn apply(&self, case: &mut Value) -> Result<(), String> {
        let name = case["name"].as_str().unwrap_or_default().to_owned();
        let steps = case["steps"].as_array_mut().ok_or("no steps")?;
        for rewrite in self.values.iter().filter(|rewrite| rewrite.case == name) {
            let rewritten = steps.iter_mut().map(|step| rewrite.apply(step));
            if rewritten.filter(|rewritten| *rewritten).count() == 0 {
                return Err(format!("nothing is {:?}", rewrite.from));
            }
        }
        let differences = self.differences.iter();
        for difference in differences.filter(|difference| difference.case == name) {
            for (index, step) in &difference.steps {
                let place = steps.get_mut(*index);
                *place.ok_or_else(|| format!("no step {index}"))? = step.clone();
            }
        }
        Ok(())
    }
}

impl Rewrite {
    /// Rewrites what a step expects; whether there was something to rewrite.
    fn apply(&self, step: &mut Value) -> bool {
        let Some(Value::String(raw)) = step.get_mut("recv_raw") else {
            return self.apply_to_values(step);
        };
        let found = raw.contains(&self.from);
        *raw = raw.replace(&self.from, &self.to);
        found
    }

    /// The same where the step has no bytes, but only values to expect.
    fn apply_to_values(&self, step: &mut Value) -> bool {
        let Some(wanted) = step.get_mut("recv") else {
            return false;
        };
        let mut text = Vec::new();
        aerostat_qmp::json::write(wanted, &mut text);
        let text = String::from_utf8_lossy(&text);
        if !text.contains(&self.from) {
            return false;
        }
        let rewritten = text.replace(&self.from, &self.to);
        serde_json::from_str(&rewritten).is_ok_and(|value| {
            *wanted = value;
            true
        })
    }
}
