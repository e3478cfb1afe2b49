//! Where the history of typed lines is kept (XDG Base Directory Specification, `XDG_STATE_HOME`).

use std::env;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The file, whose directory is made if it is missing; `None` where there is no place for it.
pub fn file() -> Option<PathBuf> {
    let file = path(env::var_os("XDG_STATE_HOME"), env::var_os("HOME"))?;
    let mut builder = DirBuilder::new();
    // What was typed is nobody else's business.
    builder.recursive(true).mode(0o700);
    builder.create(file.parent()?).ok()?;
    Some(file)
}

/// Relative paths do not count, the specification says.
fn path(state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let state = state.and_then(absolute);
    let default = || Some(home.and_then(absolute)?.join(".local/state"));
    let state = state.or_else(default)?;
    Some(state.join(Path::new("aerostat/ctl_history")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_directory_is_that_of_the_environment_or_below_home() {
        let path = |state: Option<&str>, home: Option<&str>| {
            path(state.map(OsString::from), home.map(OsString::from))
        };
        let named = Some(PathBuf::from("/s/aerostat/ctl_history"));
        assert_eq!(path(Some("/s"), Some("/h")), named);
        let below_home = Some(PathBuf::from("/h/.local/state/aerostat/ctl_history"));
        assert_eq!(path(None, Some("/h")), below_home);
        assert_eq!(path(Some("relative"), Some("/h")), below_home);
        assert_eq!(path(None, None), None);
    }
}
