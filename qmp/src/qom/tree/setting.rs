//! `qom-set`: what it changes, and what it says when it does not.

use serde_json::Value;

use super::{Id, Object, Tree};
use crate::backend::{Backend, CommandError};
use crate::qom::types::{Access, Property};

/// What setting a property changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// How often the guest is asked for its statistics, in seconds.
    PollingInterval(u32),
    /// Whether memory that the guest reports as free is given back.
    Reporting(bool),
    /// How fast at most, in bytes per second; 0 for as fast as it comes.
    ReportingRate(u64),
}

impl Change {
    /// Makes the change.
    ///
    /// # Errors
    ///
    /// When the machine refuses it.
    pub fn apply(self, machine: &mut dyn Backend) -> Result<(), CommandError> {
        match self {
            Self::PollingInterval(seconds) => {
                machine.set_polling_interval(seconds);
                Ok(())
            }
            Self::Reporting(is_on) => machine.switch_reporting(is_on),
            Self::ReportingRate(rate) => machine.set_reporting_rate(rate),
        }
    }
}

impl Tree {
    /// `qom-set`: what is to be done, if anything.
    ///
    /// # Errors
    ///
    /// When there is no such object or property, or it cannot be set to this.
    pub fn set(
        &self,
        path: &str,
        property: &str,
        value: &Value,
    ) -> Result<Option<Change>, CommandError> {
        let id = self.find(path)?;
        let object = &self.0[id];
        let Some(known) = object.ty.property(property) else {
            let what = match self.component(id, property) {
                Some(_) => "is not writable",
                None => "not found",
            };
            return Err(object.fault(property, what));
        };
        match known.access {
            Access::ReadOnly => Err(object.fault(property, "is not writable")),
            Access::Frozen => Err(match self.wrong_link(known, value) {
                Some(fault) => fault,
                None => self.frozen(id, known),
            }),
            Access::Realized => match value {
                Value::Bool(true) => Ok(None),
                Value::Bool(false) => Err(CommandError::Generic(format!(
                    "Device '{}' cannot be taken out of the machine",
                    object.name
                ))),
                _ => Err(wrong_type(property, "boolean")),
            },
            Access::PollingInterval => {
                let seconds = value.as_i64();
                let seconds = seconds.ok_or_else(|| wrong_type(property, "integer"))?;
                polling_interval(seconds).map(|seconds| Some(Change::PollingInterval(seconds)))
            }
            Access::Reporting => {
                let is_on = value.as_bool();
                let is_on = is_on.ok_or_else(|| wrong_type(property, "boolean"))?;
                Ok(Some(Change::Reporting(is_on)))
            }
            Access::ReportingRate => {
                let rate = value.as_u64();
                let rate = rate.ok_or_else(|| wrong_type(property, "uint64"))?;
                Ok(Some(Change::ReportingRate(rate)))
            }
        }
    }

    /// What is wrong with a link's new value, which is looked at before anything else. No object
    /// here is of a type that a device's link could lead to.
    fn wrong_link(&self, property: &Property, value: &Value) -> Option<CommandError> {
        let target = property.ty.strip_prefix("link<")?.strip_suffix('>')?;
        let Some(path) = value.as_str() else {
            return Some(wrong_type(property.name, "string"));
        };
        if path.is_empty() {
            return None;
        }
        Some(match self.find(path) {
            Err(fault) => fault,
            Ok(_) => wrong_type(property.name, target),
        })
    }

    /// Why a property of a device cannot be set any more.
    fn frozen(&self, id: Id, property: &Property) -> CommandError {
        let Object {
            name, ty, parent, ..
        } = &self.0[id];
        let link = match property.ty.starts_with("link") {
            true => "link ",
            false => "",
        };
        let has_id = parent.is_some_and(|parent| self.0[parent].name == "peripheral");
        let device = match has_id {
            true => format!("device '{name}'"),
            false => "anonymous device".to_owned(),
        };
        CommandError::Generic(format!(
            "Attempt to set {link}property '{}' on {device} (type '{}') after it was realized",
            property.name, ty.name
        ))
    }
}

/// Seconds that can be an interval; 0 switches the polling off.
fn polling_interval(seconds: i64) -> Result<u32, CommandError> {
    if seconds < 0 {
        return Err(CommandError::generic(
            "timer value must be greater than zero",
        ));
    }
    u32::try_from(seconds).map_err(|_| CommandError::generic("timer value is too big"))
}

fn wrong_type(property: &str, expected: &str) -> CommandError {
    CommandError::Generic(format!(
        "Invalid parameter type for '{property}', expected: {expected}"
    ))
}
