//! The first serial port: a 16550A without modem, at its register level `vm-superio`'s.
//!
//! Output goes to a writer that must not block, since it runs on the vCPU thread. Input comes
//! from the control thread, as much as the FIFO takes; [`SerialPort::input_wanted`] tells when
//! it takes more.

mod printing;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use vm_superio::Serial;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;
use printing::{News, Printing};

/// Where the guest's output goes. `write` runs on a vCPU thread and must not block.
pub type SerialOutput = Box<dyn Write + Send>;

const DATA_OFFSET: u8 = 0;
const INTERRUPT_ENABLE_OFFSET: u8 = 1;
const LINE_CONTROL_OFFSET: u8 = 3;
const MODEM_CONTROL_OFFSET: u8 = 4;
const LINE_STATUS_OFFSET: u8 = 5;

/// Is told how the guest prints, on the vCPU thread that does.
pub trait PrintWatch: Send + Sync {
    /// The guest has printed some hundred bytes by polling: it has looked at the line status before each.
    /// What it writes to [`SerialPort::DATA_PORT`] may reach the port later from here on, as long as it comes
    /// before any other access. Runs while the port is locked.
    fn polls(&self);

    /// From here on, interrupts or input follow from what is printed. When this returns, the port has all
    /// that was written to it, and nothing reaches it late.
    fn polls_no_more(&self);
}

/// Tells whoever has input that was not taken when the guest may take it. It is told once: a guest
/// that reads an empty port over and over wakes nobody.
#[derive(Clone)]
struct InputWanted {
    event: Arc<EventFd>,
    /// Input has been refused since it was last told.
    was_refused: Arc<AtomicBool>,
}

impl InputWanted {
    fn tell(&self) {
        if self.was_refused.swap(false, Ordering::Relaxed) {
            let _ = self.event.write(1);
        }
    }
}

impl SerialEvents for InputWanted {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.tell();
    }
}

type Uart = Serial<InterruptLine, InputWanted, SerialOutput>;

struct State {
    uart: Uart,
    printing: Printing,
}

/// The serial port.
pub struct SerialPort {
    state: Mutex<State>,
    interrupt: InterruptLine,
    input_wanted: InputWanted,
    watch: OnceLock<Weak<dyn PrintWatch>>,
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SerialPort")
    }
}

impl SerialPort {
    /// Ports that the device needs.
    pub const LENGTH: u64 = 8;
    /// The one of them that takes what is printed.
    pub const DATA_PORT: u64 = DATA_OFFSET as u64;

    /// A port that interrupts through `interrupt` and writes to `output`.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new(interrupt: InterruptLine, output: SerialOutput) -> io::Result<Self> {
        let input_wanted = InputWanted {
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
            was_refused: Arc::default(),
        };
        let uart = Serial::with_events(interrupt.clone(), input_wanted.clone(), output);
        let printing = Printing::default();
        Ok(Self {
            state: Mutex::new(State { uart, printing }),
            interrupt,
            input_wanted,
            watch: OnceLock::new(),
        })
    }

    /// Tells `watch` how the guest prints from now on. The first counts.
    pub fn watch_printing(&self, watch: Weak<dyn PrintWatch>) {
        let _ = self.watch.set(watch);
    }

    /// Back to the state at power-on. Input that the guest has not read is lost.
    pub fn reset(&self) {
        let mut state = self.lock();
        let events = self.input_wanted.clone();
        let fresh = Serial::with_events(self.interrupt.clone(), events, Box::new(io::sink()) as _);
        let output = std::mem::replace(&mut state.uart, fresh).into_writer();
        *state.uart.writer_mut() = output;
        state.printing = Printing::default();
        self.input_wanted.tell();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print_watch(&self) -> Option<Arc<dyn PrintWatch>> {
        self.watch.get().and_then(Weak::upgrade)
    }

    fn write_register(&self, register: u8, value: u8) {
        let mut state = self.lock();
        if let Some(news) = state.printing.write(register, value)
            && let Some(watch) = self.print_watch()
        {
            match news {
                News::Polled => watch.polls(),
                News::Answered => {
                    // What it has yet to bring here needs the lock.
                    drop(state);
                    watch.polls_no_more();
                    state = self.lock();
                }
            }
        }
        if let Err(error) = state.uart.write(register, value) {
            log::debug!("Serial port: {error}");
        }
    }

    /// Becomes readable when the guest may take input that it did not take before.
    #[must_use]
    pub fn input_wanted(&self) -> &EventFd {
        &self.input_wanted.event
    }

    /// Gives input to the guest; returns how many bytes it took (0 while its FIFO is full).
    pub fn receive(&self, input: &[u8]) -> usize {
        // Under the lock, so that the guest cannot have read in between.
        let mut state = self.lock();
        let taken = state.uart.enqueue_raw_bytes(input).unwrap_or(0);
        if taken < input.len() {
            self.input_wanted.was_refused.store(true, Ordering::Relaxed);
        }
        taken
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            let mut state = self.lock();
            state.printing.read(offset);
            *value = state.uart.read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (&[value], Ok(register)) = (data, u8::try_from(offset)) {
            self.write_register(register, value);
            // In loopback mode no input is taken: leaving it is a reason to try again.
            if register == MODEM_CONTROL_OFFSET {
                self.input_wanted.tell();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Channel(mpsc::Sender<u8>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            bytes.iter().for_each(|&byte| self.0.send(byte).unwrap());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn port() -> (SerialPort, mpsc::Receiver<u8>) {
        let (sender, output) = mpsc::channel();
        let interrupt = InterruptLine::new(|| {});
        (
            SerialPort::new(interrupt, Box::new(Channel(sender))).unwrap(),
            output,
        )
    }

    #[test]
    fn guest_output_reaches_the_writer() {
        let (port, output) = port();
        port.write(0, b"x");
        assert_eq!(output.try_recv(), Ok(b'x'));
    }

    #[test]
    fn input_past_the_fifo_is_refused_until_the_guest_has_read() {
        let (port, _output) = port();
        assert_eq!(port.receive(&[7; 100]), 64);
        assert_eq!(port.receive(&[7; 36]), 0);
        let mut byte = [0];
        (0..64).for_each(|_| port.read(0, &mut byte));
        assert_eq!(port.input_wanted().read().unwrap(), 1);
        assert_eq!(port.receive(&[7; 36]), 36);
    }

    #[test]
    fn guest_that_reads_without_input_wakes_nobody() {
        let (port, _output) = port();
        assert_eq!(port.receive(b"x"), 1);
        let mut byte = [0];
        (0..100).for_each(|_| port.read(0, &mut byte));
        port.write(MODEM_CONTROL_OFFSET.into(), &[0]);
        port.reset();
        assert!(port.input_wanted().read().is_err());
    }

    #[test]
    fn input_that_loopback_refused_is_wanted_when_it_ends() {
        const LOOPBACK: u8 = 0x10;
        let (port, _output) = port();
        port.write(MODEM_CONTROL_OFFSET.into(), &[LOOPBACK]);
        assert_eq!(port.receive(b"x"), 0);
        port.write(MODEM_CONTROL_OFFSET.into(), &[0]);
        assert_eq!(port.input_wanted().read().unwrap(), 1);
        assert_eq!(port.receive(b"x"), 1);
    }

    #[test]
    fn reset_drops_input_and_settings_and_keeps_the_writer() {
        let (port, output) = port();
        port.write(7, b"s");
        port.receive(b"old");
        port.reset();
        let mut scratch = [1];
        port.read(7, &mut scratch);
        assert_eq!(scratch, [0]);
        assert_eq!(port.receive(&[7; 100]), 64);
        port.write(0, b"x");
        assert_eq!(output.try_recv(), Ok(b'x'));
    }

    /// Has bytes on their way to the port until it is told that these may be none.
    struct Late {
        port: Arc<SerialPort>,
        polls: AtomicBool,
    }

    impl PrintWatch for Late {
        fn polls(&self) {
            self.polls.store(true, Ordering::Relaxed);
        }
        fn polls_no_more(&self) {
            if self.polls.swap(false, Ordering::Relaxed) {
                self.port.write(SerialPort::DATA_PORT, b"l");
            }
        }
    }

    #[test]
    fn what_is_late_comes_before_it_could_be_missed() {
        let (port, output) = port();
        let port = Arc::new(port);
        let late = Arc::new(Late {
            port: port.clone(),
            polls: AtomicBool::new(false),
        });
        let watch: Weak<dyn PrintWatch> = Arc::downgrade(&(late.clone() as Arc<dyn PrintWatch>));
        port.watch_printing(watch);
        for _ in 0..printing::RUN {
            port.read(LINE_STATUS_OFFSET.into(), &mut [0]);
            port.write(SerialPort::DATA_PORT, b"x");
        }
        assert!(late.polls.load(Ordering::Relaxed));
        assert_eq!(output.try_iter().filter(|&byte| byte == b'x').count(), 256);
        port.write(INTERRUPT_ENABLE_OFFSET.into(), &[2]);
        assert_eq!(output.try_iter().collect::<Vec<_>>(), b"l");
    }

    #[test]
    fn wide_accesses_read_all_bits_set_and_write_nothing() {
        let (port, output) = port();
        let mut data = [0; 2];
        port.read(0, &mut data);
        port.write(0, b"xy");
        assert_eq!((data, output.try_recv().is_err()), ([0xff; 2], true));
    }
}
