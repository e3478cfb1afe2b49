//! The terminal in raw mode while the guest's console has it, and as it was afterwards.
//!
//! Raw but for output processing, as in QEMU: what is typed, Ctrl-C included, reaches the guest
//! at once and unechoed.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::process::getpgrp;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcgetpgrp, tcsetattr,
};

/// The terminal and its settings before raw mode, until they are restored.
static SAVED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Raw mode, for as long as this lives. A panic ends it too.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Switches `terminal`, if it is one and it is ours, to raw mode. There is one raw terminal in
    /// a process.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        // A background job that changes the terminal is stopped, and has no say in it anyway.
        if !isatty(terminal) || tcgetpgrp(terminal).is_ok_and(|group| group != getpgrp()) {
            return Ok(Self(()));
        }
        let saved = tcgetattr(terminal)?;
        let mut raw = saved.clone();
        raw.input_modes -= InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON;
        raw.local_modes -= LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::IEXTEN
            | LocalModes::ISIG;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        restore_on_panic();
        if let Ok(mut slot) = SAVED.lock() {
            *slot = Some((terminal.try_clone_to_owned()?, saved));
        }
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Ok(mut slot) = SAVED.lock()
        && let Some((terminal, saved)) = slot.take()
    {
        let _ = tcsetattr(terminal, OptionalActions::Now, &saved);
    }
}

/// As [`Drop`] does, in the handler of a signal: without waiting for anybody.
pub fn restore_at_once() {
    if let Ok(slot) = SAVED.try_lock()
        && let Some((terminal, saved)) = slot.as_ref()
    {
        let _ = tcsetattr(terminal, OptionalActions::Now, saved);
    }
}

/// The message of a panic, too, shall appear on a terminal in its right mind.
fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::panic::catch_unwind;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    #[test]
    fn panic_restores_the_terminal() {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap().into_string().unwrap();
        let terminal = File::options().read(true).write(true).open(name).unwrap();
        let modes = || tcgetattr(&terminal).unwrap().local_modes;
        let before = modes();
        let raw_mode = RawMode::enter(terminal.as_fd()).unwrap();
        assert!(!modes().contains(LocalModes::ECHO));

        let outcome = catch_unwind(|| panic!("as it may happen on any thread"));

        assert!(outcome.is_err());
        assert_eq!(modes(), before);
        drop(raw_mode);
    }
}
