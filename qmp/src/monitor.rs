//! The monitors: what QEMU calls the sockets on which it serves QMP.

use std::path::PathBuf;

/// One socket that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The path of the socket, as the user wrote it.
    pub path: PathBuf,
    /// How many clients it has.
    pub clients: usize,
}

/// The label of the monitor with this index; as QEMU labels one that `-qmp` makes.
pub fn label(index: usize) -> String {
    format!("compat_monitor{index}")
}

impl Monitor {
    /// Where it listens, in QEMU's words.
    pub fn filename(&self) -> String {
        let state = if self.clients == 0 {
            "disconnected:"
        } else {
            ""
        };
        format!("{state}unix:{},server=on", self.path.display())
    }
}
