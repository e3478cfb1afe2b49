//! The value of `--qmp`: a socket, in this program's spelling or in QEMU's.
//!
//! `PATH,KEY=VALUE,…`, or `unix:PATH,server=on,…` as QEMU has it in its `-qmp`. The same options go
//! with both; what is left out is as the spelling's own: QEMU's waits for a client unless told not
//! to. A comma in a value is written twice, as in all options of QEMU.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::values::switch;

/// What stands before the path in QEMU's spelling.
const UNIX: &str = "unix:";
/// What QEMU serves its monitor on besides sockets: no names of files, where they stand alone.
const QEMU_DEVICES: [&str; 5] = ["none", "null", "pty", "stdio", "vc"];
/// Permission bits of the file, unless others are asked for.
const DEFAULT_MODE: u32 = 0o600;

/// A socket on which QMP is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketArgument {
    /// Where it is.
    pub path: PathBuf,
    /// The permission bits of its file.
    pub mode: u32,
    /// The group of its file, by name or number.
    pub group: Option<String>,
    /// The guest waits until a client has negotiated on it.
    pub wait: bool,
}

impl SocketArgument {
    /// Reads a value of the command line.
    ///
    /// # Errors
    /// What is wrong with it, to follow the value.
    #[expect(clippy::needless_pass_by_value, reason = "clap gives the value away")]
    pub fn parse(value: OsString) -> Result<Self, String> {
        let bytes = value.as_bytes();
        let is_qemu = bytes.starts_with(UNIX.as_bytes());
        let (path, options) = split(bytes.strip_prefix(UNIX.as_bytes()).unwrap_or(bytes));
        if path.is_empty() {
            return Err("a socket needs a path".to_owned());
        }
        if !is_qemu && let Some(name) = other_device(&path) {
            return Err(format!(
                "only Unix sockets are served: write PATH or unix:PATH,server=on (./{name} would \
                 be a file)"
            ));
        }
        let mut socket = Self {
            path: OsString::from_vec(path).into(),
            mode: DEFAULT_MODE,
            group: None,
            wait: is_qemu,
        };
        let mut serves = !is_qemu;
        let mut rest = options;
        while let Some(text) = rest {
            let (option, more) = split(text);
            let option = String::from_utf8_lossy(&option);
            socket
                .set(&option, &mut serves)
                .map_err(|error| format!("{option:?}: {error}"))?;
            rest = more;
        }
        if !serves {
            return Err(
                "unix:PATH without server=on would connect to the socket, as in QEMU; \
                        this program serves it: add server=on"
                    .to_owned(),
            );
        }
        Ok(socket)
    }

    fn set(&mut self, option: &str, serves: &mut bool) -> Result<(), String> {
        let (key, value) = match (option.split_once('='), option.strip_prefix("no")) {
            (Some(setting), _) => setting,
            // QEMU's short forms, which its scripts still have: `server,nowait`.
            (None, Some(key)) => (key, "off"),
            (None, None) => (option, "on"),
        };
        match key {
            "mode" => self.mode = mode(value)?,
            "group" if !value.is_empty() && option.contains('=') => {
                self.group = Some(value.to_owned());
            }
            "group" => return Err("write the name or the number of a group".to_owned()),
            "wait" => self.wait = switch(value)?,
            "server" if switch(value)? => *serves = true,
            "server" => {
                return Err(
                    "this program serves sockets and connects to none: write server=on".to_owned(),
                );
            }
            _ => {
                return Err(
                    "no such option: write mode=0660, group=NAME, wait=on|off or, behind unix:PATH, \
                     server=on; a comma in a path is written twice"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// The permission bits that an octal number stands for.
fn mode(text: &str) -> Result<u32, String> {
    let is_octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = is_octal.then(|| u32::from_str_radix(text, 8));
    match mode {
        // Else this user could not even tell whether a server is still there.
        Some(Ok(mode)) if mode <= 0o777 && mode & 0o200 == 0 => {
            Err("the owner must be able to write, as with 0660".to_owned())
        }
        Some(Ok(mode)) if mode <= 0o777 => Ok(mode),
        _ => Err("write 3 octal digits, with or without a 0 before them, such as 0660".to_owned()),
    }
}

/// The text before the first comma that stands alone, with double commas made one, and the text
/// behind it.
fn split(text: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut first = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match (byte, after.split_first()) {
            (b',', Some((b',', after))) => after,
            (b',', _) => return (first, Some(after)),
            _ => after,
        };
        first.push(byte);
    }
    (first, None)
}

/// The path as it stands, if it is rather one of the other things that QEMU serves its monitor on:
/// a word before a colon, or one of a few words alone.
fn other_device(path: &[u8]) -> Option<Cow<'_, str>> {
    let is_word = |word: &[u8]| {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !word.is_empty() && word.iter().all(is_part)
    };
    let name = String::from_utf8_lossy(path);
    let colon = path.iter().position(|byte| *byte == b':');
    let is_other =
        colon.is_some_and(|colon| is_word(&path[..colon])) || QEMU_DEVICES.contains(&name.as_ref());
    is_other.then_some(name)
}

/// A value taken apart, so that another path can stand in it.
#[derive(Debug, PartialEq, Eq)]
pub struct SocketText<'a> {
    before: &'static str,
    /// The path.
    pub path: PathBuf,
    /// From the comma behind the path on.
    after: &'a str,
}

impl<'a> SocketText<'a> {
    /// Takes a value apart that has a path.
    pub fn of(value: &'a str) -> Option<Self> {
        let (before, text) = match value.strip_prefix(UNIX) {
            Some(text) => (UNIX, text),
            None => ("", value),
        };
        let (path, options) = split(text.as_bytes());
        if path.is_empty() || (before.is_empty() && other_device(&path).is_some()) {
            return None;
        }
        let after = options.map_or("", |options| &text[text.len() - options.len() - 1..]);
        let path = OsString::from_vec(path).into();
        Some(Self {
            before,
            path,
            after,
        })
    }

    /// The value with `path` in place of its own.
    pub fn with(&self, path: &Path) -> OsString {
        let mut value = OsString::from(self.before);
        for (index, part) in path
            .as_os_str()
            .as_bytes()
            .split(|b| *b == b',')
            .enumerate()
        {
            if index > 0 {
                value.push(",,");
            }
            value.push(OsStr::from_bytes(part));
        }
        value.push(self.after);
        value
    }
}

#[cfg(test)]
mod tests;
