//! What the user has said of a machine that matters to nobody but clients.

/// How a machine is called, and where its console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its UUID: 8-4-4-4-12 hexadecimal digits, in lower case.
    pub uuid: String,
    /// The id of its balloon.
    pub balloon_id: String,
    /// Where its serial port's output goes, in QEMU's words.
    pub consoles: Vec<String>,
}

impl Description {
    /// The UUID of a machine that was given none, as QEMU has it.
    pub const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";
}

impl Default for Description {
    /// Neither name nor UUID nor console.
    fn default() -> Self {
        Self {
            name: None,
            uuid: Self::NO_UUID.to_owned(),
            balloon_id: String::new(),
            consoles: Vec::new(),
        }
    }
}
