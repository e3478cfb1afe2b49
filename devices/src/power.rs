//! The registers by which a guest ends or restarts its machine, and the button by which it is
//! asked to.
//!
//! ACPI 6.5 §4.8.3.6 (reset register), §4.8.3.7 (sleep control and status of hardware-reduced
//! ACPI) and §4.8.2.2.1.2 (control method power button), and the reset line of the PC keyboard
//! controller.

use std::fmt;
use std::sync::Arc;

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// ACPI S5: soft off.
    Off,
    /// A reset of the whole machine.
    Reset,
}

/// Takes requests on a vCPU thread; must not block.
pub type PowerSink = Arc<dyn Fn(PowerRequest) + Send + Sync>;

/// SLP_TYP of `\_S5_` in the DSDT.
pub const S5_SLEEP_TYPE: u8 = 5;
/// The value for the reset register that resets.
pub const ACPI_RESET_VALUE: u8 = 1;

const SLEEP_CONTROL_OFFSET: u64 = 0;
const SLEEP_STATUS_OFFSET: u64 = 1;
const RESET_OFFSET: u64 = 2;
/// SLP_TYPx stands in bits 2 to 4 of the sleep control register.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
/// SLP_EN: enter the state that SLP_TYPx names.
const SLEEP_ENABLE_BIT: u8 = 1 << 5;

/// ACPI's sleep control, sleep status and reset registers, one byte each.
pub struct AcpiPower(PowerSink);

impl AcpiPower {
    /// Ports that the device needs.
    pub const LENGTH: u64 = 3;

    /// Registers that report to `sink`.
    #[must_use]
    pub fn new(sink: PowerSink) -> Self {
        Self(sink)
    }
}

impl fmt::Debug for AcpiPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcpiPower")
    }
}

impl BusDevice for AcpiPower {
    /// All registers read 0; WAK_STS of the status register is never set since nothing wakes.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        match offset {
            SLEEP_CONTROL_OFFSET if value & SLEEP_ENABLE_BIT != 0 => {
                let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
                if sleep_type == S5_SLEEP_TYPE {
                    (self.0)(PowerRequest::Off);
                }
            }
            RESET_OFFSET if value == ACPI_RESET_VALUE => (self.0)(PowerRequest::Reset),
            SLEEP_CONTROL_OFFSET | SLEEP_STATUS_OFFSET => {}
            _ => {}
        }
    }
}

/// The command that pulses the reset line of the keyboard controller (port 0x64).
const PULSE_RESET_LINE: u8 = 0xfe;
const COMMAND_OFFSET: u64 = 4;

/// As much of the keyboard controller (ports 0x60 to 0x64) as resets a machine. It has no
/// keyboard, and the FADT says that it is not there to be probed.
pub struct KeyboardReset(PowerSink);

impl KeyboardReset {
    /// Ports that the device needs.
    pub const LENGTH: u64 = 5;

    /// A controller that reports to `sink`.
    #[must_use]
    pub fn new(sink: PowerSink) -> Self {
        Self(sink)
    }
}

impl fmt::Debug for KeyboardReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyboardReset")
    }
}

impl BusDevice for KeyboardReset {
    /// Status 0: both buffers empty, so that a driver sends its command without waiting.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == COMMAND_OFFSET && data == [PULSE_RESET_LINE] {
            (self.0)(PowerRequest::Reset);
        }
    }
}

/// The power button: an interrupt of the Generic Event Device (ACPI 6.5 §5.6.9), which the DSDT
/// turns into a notification of the button.
#[derive(Debug)]
pub struct PowerButton(InterruptLine);

impl PowerButton {
    /// A button at the end of this line.
    #[must_use]
    pub fn new(line: InterruptLine) -> Self {
        Self(line)
    }

    /// Presses it. What follows is up to the guest; one that does not listen yet never knows.
    pub fn press(&self) {
        self.0.raise();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn recorder() -> (PowerSink, Arc<Mutex<Vec<PowerRequest>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        (
            Arc::new(move |request| seen.lock().unwrap().push(request)),
            requests,
        )
    }

    #[test]
    fn s5_with_sleep_enable_powers_off() {
        let (sink, requests) = recorder();
        AcpiPower::new(sink).write(SLEEP_CONTROL_OFFSET, &[0x34]);
        assert_eq!(*requests.lock().unwrap(), [PowerRequest::Off]);
    }

    #[test]
    fn sleep_type_without_sleep_enable_does_nothing() {
        let (sink, requests) = recorder();
        AcpiPower::new(sink).write(SLEEP_CONTROL_OFFSET, &[0x14]);
        assert_eq!(*requests.lock().unwrap(), []);
    }

    #[test]
    fn other_sleep_types_and_wider_writes_do_nothing() {
        let (sink, requests) = recorder();
        let power = AcpiPower::new(sink);
        power.write(SLEEP_CONTROL_OFFSET, &[0x24]);
        power.write(SLEEP_CONTROL_OFFSET, &[0x34, 0]);
        assert_eq!(*requests.lock().unwrap(), []);
    }

    #[test]
    fn reset_register_resets_on_its_value_only() {
        let (sink, requests) = recorder();
        let power = AcpiPower::new(sink);
        power.write(RESET_OFFSET, &[2]);
        power.write(RESET_OFFSET, &[ACPI_RESET_VALUE]);
        assert_eq!(*requests.lock().unwrap(), [PowerRequest::Reset]);
    }

    #[test]
    fn keyboard_controller_resets_on_the_pulse_command_only() {
        let (sink, requests) = recorder();
        let keyboard = KeyboardReset::new(sink);
        keyboard.write(0, &[PULSE_RESET_LINE]);
        keyboard.write(COMMAND_OFFSET, &[0xaa]);
        keyboard.write(COMMAND_OFFSET, &[PULSE_RESET_LINE]);
        assert_eq!(*requests.lock().unwrap(), [PowerRequest::Reset]);
    }
}
