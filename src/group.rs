//! Groups of the host, by name or number.

use std::ffi::{CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Room for the members of a group, to begin with.
const FIRST_BUFFER_BYTES: usize = 1 << 10;
/// No group has more than this; without a bound a broken name service could ask for ever more.
const MAX_BUFFER_BYTES: usize = 64 << 20;

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
    let c_name = CString::new(name).map_err(|_| unknown())?;
    let mut buffer = vec![0 as c_char; FIRST_BUFFER_BYTES];
    loop {
        let mut group = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `buffer` for as many bytes as is said.
        let error = unsafe {
            libc::getgrnam_r(
                c_name.as_ptr(),
                group.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match error {
            0 if found.is_null() => return Err(unknown()),
            // SAFETY: not being null, `found` points to `group`, which the call has filled.
            0 => return Ok(unsafe { (*found).gr_gid }),
            libc::EINTR => {}
            libc::ERANGE if buffer.len() < MAX_BUFFER_BYTES => {
                buffer.resize(2 * buffer.len(), 0);
            }
            // Some systems say so of a name that is not there (getgrnam_r(3)).
            libc::ENOENT | libc::ESRCH => return Err(unknown()),
            error => {
                return Err(GroupError::LookUp {
                    name: name.to_owned(),
                    source: io::Error::from_raw_os_error(error),
                });
            }
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
}
