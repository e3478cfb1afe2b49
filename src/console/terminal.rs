//! The terminal in raw mode while the guest's console has it, and as it was afterwards.
//!
//! Raw but for output processing, as in QEMU: what is typed, Ctrl-C included, reaches the guest
//! at once and unechoed.

use std::io;
use std::sync::Mutex;

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcgetpgrp, tcsetattr,
};

/// The terminal's settings before raw mode, until they are restored.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode, for as long as this lives. A panic ends it too.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Switches the terminal on standard input, if there is one and it is ours, to raw mode.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> io::Result<Self> {
        let terminal = stdin();
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
            *slot = Some(saved);
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
        && let Some(saved) = slot.take()
    {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &saved);
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
