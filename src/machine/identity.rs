//! How a machine is told from others.

/// What the user calls a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its UUID: 8-4-4-4-12 hexadecimal digits, in lower case.
    pub uuid: String,
}

impl Identity {
    /// The UUID of a machine that was given none, as QEMU has it.
    pub const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";
}

impl Default for Identity {
    /// Neither name nor UUID.
    fn default() -> Self {
        Self {
            name: None,
            uuid: Self::NO_UUID.to_owned(),
        }
    }
}
