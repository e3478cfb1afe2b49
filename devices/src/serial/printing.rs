//! Whether anything but output follows from what the guest prints.

use super::{
    DATA_OFFSET, INTERRUPT_ENABLE_OFFSET, LINE_CONTROL_OFFSET, LINE_STATUS_OFFSET,
    MODEM_CONTROL_OFFSET,
};

/// Bytes in a row after which a guest counts as one that polls, for the first time.
pub(super) const RUN: u32 = 256;

/// IER.ETBEI: an interrupt when the port takes the next byte.
const TRANSMITTER_INTERRUPT: u8 = 0x02;
/// LCR.DLAB: the first two registers are those of the divisor.
const DIVISOR_LATCH: u8 = 0x80;
/// MCR.LOOP: what is written comes back as input.
const LOOPBACK: u8 = 0x10;

/// What is new with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Another run of bytes was printed by polling.
    Polled,
    /// From this access on, more than output follows from a byte, and so far it did not.
    Answered,
}

/// How the guest prints: by polling if it looks at the line status before each byte, and has asked for
/// nothing that follows from one.
///
/// To hear that it does and then that it does not costs milliseconds. So each time that a guest goes from one
/// to the other it has to poll twice as long to be believed.
#[derive(Debug)]
pub(super) struct Printing {
    divisor_latch: bool,
    interrupts: bool,
    loopback: bool,
    has_looked: bool,
    /// Bytes in a row, up to a whole run.
    run: u32,
    /// Bytes of a whole run.
    needed: u32,
    /// Nothing was asked for since the last whole run.
    was_polled: bool,
}

impl Default for Printing {
    fn default() -> Self {
        Self {
            divisor_latch: false,
            interrupts: false,
            loopback: false,
            has_looked: false,
            run: 0,
            needed: RUN,
            was_polled: false,
        }
    }
}

impl Printing {
    /// The guest reads a register.
    pub(super) fn read(&mut self, offset: u8) {
        self.has_looked |= offset == LINE_STATUS_OFFSET;
    }

    /// The guest writes a register.
    pub(super) fn write(&mut self, offset: u8, value: u8) -> Option<News> {
        let was_answered = self.is_answered();
        match offset {
            DATA_OFFSET if !self.divisor_latch => return self.print(),
            INTERRUPT_ENABLE_OFFSET if !self.divisor_latch => {
                self.interrupts = value & TRANSMITTER_INTERRUPT != 0;
            }
            LINE_CONTROL_OFFSET => self.divisor_latch = value & DIVISOR_LATCH != 0,
            MODEM_CONTROL_OFFSET => self.loopback = value & LOOPBACK != 0,
            _ => {}
        }
        (self.is_answered() && !was_answered).then(|| {
            if std::mem::take(&mut self.was_polled) {
                self.needed = self.needed.saturating_mul(2);
            }
            self.run = 0;
            News::Answered
        })
    }

    fn print(&mut self) -> Option<News> {
        let is_polled = std::mem::take(&mut self.has_looked) && !self.is_answered();
        self.run = if is_polled { self.run + 1 } else { 0 };
        (self.run >= self.needed).then(|| {
            self.run = 0;
            self.was_polled = true;
            News::Polled
        })
    }

    fn is_answered(&self) -> bool {
        self.interrupts || self.loopback
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints so many bytes, and looks before each; what is new with the last.
    fn poll(printing: &mut Printing, bytes: u32) -> Option<News> {
        (0..bytes).fold(None, |_, _| {
            printing.read(LINE_STATUS_OFFSET);
            printing.write(DATA_OFFSET, b'x')
        })
    }

    #[test]
    fn each_run_of_polled_bytes_is_told_once() {
        let mut printing = Printing::default();
        assert_eq!(poll(&mut printing, RUN - 1), None);
        assert_eq!(poll(&mut printing, 1), Some(News::Polled));
        assert_eq!(poll(&mut printing, RUN - 1), None);
        assert_eq!(poll(&mut printing, 1), Some(News::Polled));
    }

    #[test]
    fn byte_without_a_look_begins_anew() {
        let mut printing = Printing::default();
        poll(&mut printing, RUN - 1);
        printing.write(DATA_OFFSET, b'x');
        assert_eq!(poll(&mut printing, RUN - 1), None);
        assert_eq!(poll(&mut printing, 1), Some(News::Polled));
    }

    #[test]
    fn guest_that_waits_for_interrupts_does_not_poll() {
        let mut printing = Printing::default();
        let asked = printing.write(INTERRUPT_ENABLE_OFFSET, TRANSMITTER_INTERRUPT);
        assert_eq!(asked, Some(News::Answered));
        assert_eq!(poll(&mut printing, 2 * RUN), None);
        assert_eq!(printing.write(INTERRUPT_ENABLE_OFFSET, 0), None);
        assert_eq!(poll(&mut printing, RUN), Some(News::Polled));
    }

    #[test]
    fn guest_that_does_both_is_believed_less_and_less() {
        let mut printing = Printing::default();
        let ask = |printing: &mut Printing| {
            printing.write(INTERRUPT_ENABLE_OFFSET, TRANSMITTER_INTERRUPT);
            printing.write(INTERRUPT_ENABLE_OFFSET, 0);
        };
        for run in [RUN, 2 * RUN, 4 * RUN] {
            poll(&mut printing, run - 1);
            // Nothing came of it so far.
            ask(&mut printing);
            assert_eq!(poll(&mut printing, run - 1), None);
            assert_eq!(poll(&mut printing, 1), Some(News::Polled));
            ask(&mut printing);
        }
    }

    #[test]
    fn loopback_is_no_output() {
        let mut printing = Printing::default();
        assert_eq!(
            printing.write(MODEM_CONTROL_OFFSET, LOOPBACK),
            Some(News::Answered)
        );
        assert_eq!(poll(&mut printing, 2 * RUN), None);
    }

    #[test]
    fn divisor_is_neither_output_nor_a_wish_for_interrupts() {
        let mut printing = Printing::default();
        poll(&mut printing, RUN - 1);
        assert_eq!(printing.write(LINE_CONTROL_OFFSET, DIVISOR_LATCH), None);
        assert_eq!(poll(&mut printing, RUN), None);
        assert_eq!(
            printing.write(INTERRUPT_ENABLE_OFFSET, TRANSMITTER_INTERRUPT),
            None
        );
        assert_eq!(printing.write(LINE_CONTROL_OFFSET, 3), None);
        assert_eq!(poll(&mut printing, 1), Some(News::Polled));
    }

    #[test]
    fn divisor_hides_no_wish_for_interrupts() {
        let mut printing = Printing::default();
        printing.write(INTERRUPT_ENABLE_OFFSET, TRANSMITTER_INTERRUPT);
        printing.write(LINE_CONTROL_OFFSET, DIVISOR_LATCH);
        printing.write(INTERRUPT_ENABLE_OFFSET, 0);
        printing.write(LINE_CONTROL_OFFSET, 0);
        assert_eq!(poll(&mut printing, 2 * RUN), None);
    }
}
