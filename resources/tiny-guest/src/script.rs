//! What the guest is told to do: a list of operations, built here, interpreted by `guest.S`.

use std::fmt::Write as _;

/// The port of the first serial port's data register.
const SERIAL_PORT: u16 = 0x3f8;
const OPERATION_SIZE: usize = 40;

/// What the CPUs that [`Script::start_others`] wakes count in: 32 bits.
pub const OTHERS_COUNTER: u64 = 0x5000;
/// The page, under 1 MiB, where they start.
const OTHERS_PAGE: u32 = 4;
const OTHERS_CODE: u64 = 0x1000 * OTHERS_PAGE as u64;

/// A program for the guest. Addresses are guest-physical; the first 4 GiB are identity mapped.
///
/// ```
/// let initrd = aerostat_tiny_guest::Script::new().puts("hello\n").power_off().into_initrd();
/// assert!(!initrd.is_empty());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Script {
    operations: Vec<[u64; 5]>,
}

impl Script {
    /// An empty script: the guest halts at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes to pass as initrd. The guest halts for ever at the end of the script.
    #[must_use]
    pub fn into_initrd(mut self) -> Vec<u8> {
        self.operations.push([0; 5]);
        let mut bytes = Vec::with_capacity(self.operations.len() * OPERATION_SIZE);
        for word in self.operations.iter().flatten() {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    /// The index of the next operation, as a target for [`Self::jump`] and [`Self::repeat`].
    #[must_use]
    pub fn here(&self) -> u64 {
        self.operations.len() as u64
    }

    fn push(mut self, operation: [u64; 5]) -> Self {
        self.operations.push(operation);
        self
    }

    /// Writes one byte to an I/O port.
    #[must_use]
    pub fn out8(self, port: u16, value: u8) -> Self {
        self.push([1, port.into(), value.into(), 0, 0])
    }

    /// Writes text to the serial port.
    #[must_use]
    pub fn puts(self, text: &str) -> Self {
        text.bytes()
            .fold(self, |script, byte| script.out8(SERIAL_PORT, byte))
    }

    /// Writes the `count` bytes from `address` to an I/O port, with one string instruction.
    #[must_use]
    pub fn outs(self, port: u16, address: u64, count: u64) -> Self {
        self.push([18, port.into(), count, address, 0])
    }

    /// Reads `count` bytes from an I/O port to where `address` begins, with one string instruction.
    #[must_use]
    pub fn ins(self, port: u16, address: u64, count: u64) -> Self {
        self.push([19, port.into(), count, address, 0])
    }

    /// Writes the low `width` bytes (1, 2, 4 or 8) of `value`.
    #[must_use]
    pub fn store(self, address: u64, value: u64, width: u8) -> Self {
        self.push([2, address, value, width.into(), 0])
    }

    /// Writes 32 bits, as virtio-mmio registers want it.
    #[must_use]
    pub fn store32(self, address: u64, value: u32) -> Self {
        self.store(address, value.into(), 4)
    }

    /// Prints what stands at `address` (`width` 1, 2, 4 or 8 bytes) as 16 hexadecimal digits and
    /// a line feed, after `label` and a blank.
    #[must_use]
    pub fn print(self, label: &str, address: u64, width: u8) -> Self {
        let mut prefix = String::new();
        write!(prefix, "{label} ").expect("writing to a String cannot fail");
        self.puts(&prefix).push([3, address, 0, width.into(), 0])
    }

    /// Polls the 32 bits at `address` until, masked, they equal `value`.
    #[must_use]
    pub fn wait32(self, address: u64, mask: u32, value: u32) -> Self {
        self.push([4, address, mask.into(), value.into(), 0])
    }

    /// Writes the 64-bit `value` to `count` places, `step` bytes apart.
    #[must_use]
    pub fn fill(self, address: u64, count: u64, step: u64, value: u64) -> Self {
        self.push([5, address, count, step, value])
    }

    /// Writes `count` 32-bit numbers: `first`, `first + step`, … (wrapping).
    #[must_use]
    pub fn numbers(self, address: u64, count: u64, first: u32, step: i32) -> Self {
        self.push([
            6,
            address,
            count,
            first.into(),
            u64::from(step.cast_unsigned()),
        ])
    }

    /// Prints, after `label` and a blank, the bitwise or of `count` 64-bit values that stand
    /// `step` bytes apart: 0 when all are zero.
    #[must_use]
    pub fn collect(self, label: &str, address: u64, count: u64, step: u64) -> Self {
        self.puts(label)
            .puts(" ")
            .push([7, address, count, step, 0])
    }

    /// Adds to the 16 bits at `address` (wrapping), as ring indices want it, and at once for all
    /// CPUs.
    #[must_use]
    pub fn add16(self, address: u64, value: u16) -> Self {
        self.push([8, address, value.into(), 0, 0])
    }

    /// Goes on with the operation of this index.
    #[must_use]
    pub fn jump(self, operation: u64) -> Self {
        self.push([9, operation, 0, 0, 0])
    }

    /// Decrements the 32 bits at `address`; goes to `operation` unless they are 0 now.
    #[must_use]
    pub fn repeat(self, address: u64, operation: u64) -> Self {
        self.push([10, address, operation, 0, 0])
    }

    /// Copies 32 bits.
    #[must_use]
    pub fn copy32(self, to: u64, from: u64) -> Self {
        self.push([11, to, from, 0, 0])
    }

    /// Waits for a byte on the serial port and writes it back there.
    #[must_use]
    pub fn echo_serial(self) -> Self {
        self.push([12, 0, 0, 0, 0])
    }

    /// Writes the `count` bytes from `address` to the serial port, as Linux prints: it looks at the line
    /// status before each.
    #[must_use]
    pub fn print_polled(self, address: u64, count: u64) -> Self {
        self.push([20, address, count, 0, 0])
    }

    /// Halts this CPU for ever.
    #[must_use]
    pub fn halt(self) -> Self {
        self.push([0; 5])
    }

    /// Triple-faults.
    #[must_use]
    pub fn triple_fault(self) -> Self {
        self.push([13, 0, 0, 0, 0])
    }

    /// Wakes all other CPUs; each of them adds 1 to the 32 bits at [`OTHERS_COUNTER`] for ever.
    #[must_use]
    pub fn start_others(self) -> Self {
        // lock inc dword ptr [0x5000]; jmp to the start.
        let code = [0xf0, 0x66, 0xff, 0x06, 0x00, 0x50, 0xeb, 0xf8];
        self.store32(OTHERS_COUNTER, 0).start_others_with(code)
    }

    /// Reads `width` bytes (1, 2, 4 or 8) at each of the `count` addresses from `address`.
    #[must_use]
    pub fn load_each(self, address: u64, count: u64, width: u8) -> Self {
        self.push([15, address, count, width.into(), 0])
    }

    /// Writes the low `width` bytes (1, 2, 4 or 8) of `value` at each of the `count` addresses from
    /// `address`.
    #[must_use]
    pub fn store_each(self, address: u64, count: u64, width: u8, value: u64) -> Self {
        self.push([16, address, count, width.into(), value])
    }

    /// Wakes all other CPUs, which run `code` in real mode.
    #[must_use]
    pub fn start_others_with(self, code: [u8; 8]) -> Self {
        self.store(OTHERS_CODE, u64::from_le_bytes(code), 8)
            .wake_others()
    }

    /// Wakes all other CPUs, each of which goes on with the operation of this index. Nothing keeps
    /// one CPU from what another works with.
    #[must_use]
    pub fn start_others_at(self, operation: u64) -> Self {
        self.push([17, operation, 0, 0, 0]).wake_others()
    }

    /// INIT, then start-up IPI, to all but oneself (Intel SDM volume 3A §10.6.1, §8.4.4.1), through
    /// the local APIC at its usual address.
    fn wake_others(self) -> Self {
        const SPURIOUS_VECTOR: u64 = 0xfee0_00f0;
        const INTERRUPT_COMMAND: u64 = 0xfee0_0300;
        const ENABLE: u32 = 0x1ff;
        const INIT_OTHERS: u32 = 0x000c_4500;
        const START_OTHERS: u32 = 0x000c_4600;
        self.store32(SPURIOUS_VECTOR, ENABLE)
            .store32(INTERRUPT_COMMAND, INIT_OTHERS)
            .store32(INTERRUPT_COMMAND, START_OTHERS | OTHERS_PAGE)
    }

    /// Powers the machine off: ACPI S5 through the sleep control register at port 0x600
    /// (SLP_TYP 5, SLP_EN; ACPI 6.5 §4.8.3.7).
    #[must_use]
    pub fn power_off(self) -> Self {
        self.out8(0x600, 0x34)
    }

    /// Goes on at an address, with no way back: where there is no memory, KVM cannot follow.
    #[must_use]
    pub fn execute(self, address: u64) -> Self {
        self.push([14, address, 0, 0, 0])
    }

    /// Says that the guest has panicked, through the panic port.
    #[must_use]
    pub fn panic(self) -> Self {
        self.out8(0x505, 1)
    }

    /// Resets the machine through the keyboard controller.
    #[must_use]
    pub fn reset(self) -> Self {
        self.out8(0x64, 0xfe)
    }
}
