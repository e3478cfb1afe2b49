//! How an option's values are written in a file: told from the type that clap makes of them, so
//! that nothing has to be said twice.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction};
use toml::de::DeValue;

use super::balloon::BalloonArgument;
use super::socket::{SocketArgument, SocketText};
use super::values::SerialValue;

/// A kind of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On or off.
    Switch,
    /// On, off, or a list of these keys with values.
    KeyedList(Vec<&'static str>),
    /// A small number.
    Number,
    /// A path, and the text before it, which may be missing when the value is no path.
    Path(&'static str),
    /// A socket: a path that options may follow.
    Socket,
    /// Anything else.
    Text,
}

impl Kind {
    /// The kind of an option.
    pub fn of(option: &Arg) -> Self {
        let parsed = option.get_value_parser().type_id();
        if parsed == TypeId::of::<bool>() {
            Self::Switch
        } else if parsed == TypeId::of::<BalloonArgument>() {
            Self::KeyedList(BalloonArgument::keys().collect())
        } else if parsed == TypeId::of::<u8>() {
            Self::Number
        } else if parsed == TypeId::of::<PathBuf>() {
            Self::Path("")
        } else if parsed == TypeId::of::<SerialValue>() {
            Self::Path(SerialValue::FILE)
        } else if parsed == TypeId::of::<SocketArgument>() {
            Self::Socket
        } else {
            Self::Text
        }
    }

    /// Whether such a value can stand alone.
    pub fn takes(&self, value: &DeValue<'_>) -> bool {
        match value {
            DeValue::String(_) => true,
            DeValue::Boolean(_) => matches!(self, Self::Switch | Self::KeyedList(_)),
            DeValue::Integer(_) | DeValue::Float(_) => matches!(self, Self::Number | Self::Text),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => false,
        }
    }

    /// The value with another path in it, which `change` makes of its own. `None` for a value
    /// without a path.
    pub fn with_path<E>(
        &self,
        value: &str,
        change: impl FnOnce(&Path) -> Result<PathBuf, E>,
    ) -> Option<Result<OsString, E>> {
        match self {
            Self::Path(prefix) => {
                let path = value.strip_prefix(prefix).filter(|path| !path.is_empty())?;
                let changed = change(Path::new(path));
                Some(changed.map(|path| {
                    let mut value = OsString::from(prefix);
                    value.push(path);
                    value
                }))
            }
            Self::Socket => {
                let text = SocketText::of(value)?;
                let changed = change(&text.path);
                Some(changed.map(|path| text.with(&path)))
            }
            _ => None,
        }
    }
}

/// Whether an option can be given several times.
pub fn repeats(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}
