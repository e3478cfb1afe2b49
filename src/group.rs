//! Groups of the host, by name or number.
//!
//! `/etc/group` is read here (group(5)). What other sources the host has for groups, such as a
//! directory of its network, only its own C library knows, which a static program does not have:
//! `getent` asks it.

use std::io;
use std::process::{Command, Stdio};

const FILE: &str = "/etc/group";
/// getent(1): the key was not found.
const NOT_FOUND: i32 = 2;

/// A group that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// There is none.
    #[error("There is no group {0:?}, which --qmp names: create it, or name another")]
    Unknown(String),
    /// The system does not say.
    #[error("Cannot look up group {name:?}, which --qmp names")]
    LookUp {
        /// Its name.
        name: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// The number of the group `name`. A number stands for itself; no group needs to have it.
///
/// # Errors
/// When there is no such group.
pub fn id_of(name: &str) -> Result<u32, GroupError> {
    let unknown = || GroupError::Unknown(name.to_owned());
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        // The largest means "none" to the kernel.
        let id = name.parse().ok().filter(|id| *id != u32::MAX);
        return id.ok_or_else(unknown);
    }
    // A host without the file may know groups all the same.
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    if let Some(id) = id_in(&text, name) {
        return Ok(id);
    }
    let text = ask_host(name).map_err(|source| GroupError::LookUp {
        name: name.to_owned(),
        source,
    })?;
    id_in(&text, name).ok_or_else(unknown)
}

/// The number of the group in lines such as `kvm:x:105:alice,bob`.
fn id_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, _password) = (fields.next()?, fields.next()?);
        let id = fields.next()?.parse().ok();
        id.filter(|_| found == name)
    })
}

/// What the host's C library says of a group: a line as in the file, or nothing.
fn ask_host(name: &str) -> io::Result<String> {
    let output = Command::new("getent")
        .args(["group", "--", name])
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        // No name has a NUL character, and a host without the program has but the file.
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => return Ok(String::new()),
            _ => return Err(error),
        },
    };
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(NOT_FOUND) => Ok(String::new()),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let (status, said) = (output.status, said.trim());
            Err(io::Error::other(format!("getent: {status}: {said}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_stands_for_its_number() {
        assert_eq!(id_of("root").unwrap(), 0);
    }

    #[test]
    fn number_stands_for_itself() {
        assert_eq!(id_of("0").unwrap(), 0);
        assert_eq!(id_of("4000000000").unwrap(), 4_000_000_000);
    }

    #[test]
    fn group_that_is_not_there_is_named() {
        for name in ["no such group", "a\0b", "4294967295", "99999999999"] {
            let error = id_of(name).unwrap_err();
            assert!(matches!(error, GroupError::Unknown(_)), "{error:?}");
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn line_of_the_name_alone_counts() {
        let text = "kvm2:x:7:kvm\nkvm:x:105:alice,bob\nkvm:x:9:\n";
        assert_eq!(id_in(text, "kvm"), Some(105));
        assert_eq!(id_in(text, "alice"), None);
        assert_eq!(id_in("kvm:x\nkvm:x:y:\n\n", "kvm"), None);
    }

    #[test]
    fn host_is_asked_for_what_the_file_does_not_have() {
        assert_eq!(id_in(&ask_host("root").unwrap(), "root"), Some(0));
        assert_eq!(ask_host("no such group").unwrap(), "");
    }
}
