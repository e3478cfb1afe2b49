//! The I/O APIC: each edge of an interrupt line becomes a message to a local APIC, as the guest has
//! written it into the redirection table.
//!
//! Intel 82093AA I/O APIC (290566-001), §3: registers behind a selector and a window. Messages: Intel
//! SDM volume 3, §11.11.
//!
//! All lines of a machine are edges, and its tables announce them so. A guest that takes a pin for a
//! level all the same gets a message for each edge: there is no level that would outlast it, so no end
//! of interrupt is waited for, and Remote IRR is never set. An edge at a masked pin is lost, as the
//! specification says.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

/// Interrupt lines that the controller has.
pub const PINS: u8 = 24;

/// IOREGSEL: which register the window shows.
const SELECT_OFFSET: u64 = 0x00;
/// IOWIN: that register.
const WINDOW_OFFSET: u64 = 0x10;

/// IOAPICID (§3.2.1): four bits from bit 24.
const ID_REGISTER: u8 = 0;
const ID_SHIFT: u32 = 24;
const ID_MASK: u8 = 0xf;
/// IOAPICVER (§3.2.2): the last entry of the table, and the version.
const VERSION_REGISTER: u8 = 1;
const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x11;
/// IOAPICARB (§3.2.3): as the id.
const ARBITRATION_REGISTER: u8 = 2;
/// IOREDTBL (§3.2.4): two registers for each pin.
const TABLE_REGISTER: u8 = 0x10;

/// Bits of an entry that the guest may write: destination, mask, trigger mode, polarity, destination
/// mode, delivery mode, vector. The others are the controller's (delivery status, Remote IRR) or
/// reserved.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
/// The interrupt is masked.
const MASKED: u64 = 1 << 16;
/// The destination is a logical one.
const LOGICAL: u64 = 1 << 11;
/// Vector and delivery mode: they stand in a message's data where they stand in an entry.
const VECTOR_AND_MODE: u64 = 0x7ff;
/// The delivery mode, and its values that are reserved.
const MODE_SHIFT: u32 = 8;
const MODE_MASK: u64 = 0b111;
const RESERVED_MODES: [u64; 2] = [0b011, 0b110];
const DESTINATION_SHIFT: u32 = 56;

/// A message to a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it is written to: the local APICs' range, with destination (bits 12 to 19) and destination
    /// mode (bit 2).
    pub address: u32,
    /// What is written: vector (bits 0 to 7) and delivery mode (bits 8 to 10), edge-triggered.
    pub data: u32,
}

impl Message {
    /// The local APICs' range of addresses.
    const BASE: u32 = 0xfee0_0000;

    /// What becomes of an edge, if anything.
    fn of(entry: u64) -> Option<Self> {
        let mode = entry >> MODE_SHIFT & MODE_MASK;
        if entry & MASKED != 0 || RESERVED_MODES.contains(&mode) {
            return None;
        }
        // All of them have fewer bits than 32.
        let bits = |value: u64| u32::try_from(value).unwrap_or(0);
        let destination = bits(entry >> DESTINATION_SHIFT);
        let is_logical = entry & LOGICAL != 0;
        Some(Self {
            address: Self::BASE | destination << 12 | u32::from(is_logical) << 2,
            data: bits(entry & VECTOR_AND_MODE),
        })
    }
}

/// Takes messages, on any thread; must not block.
pub type MessageSink = Box<dyn Fn(Message) + Send + Sync>;

/// The I/O APIC.
pub struct IoApic {
    selected: AtomicU8,
    id: AtomicU8,
    /// The redirection table.
    entries: [AtomicU64; PINS as usize],
    sink: MessageSink,
}

impl fmt::Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoApic")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl IoApic {
    /// Bytes of guest-physical addresses that the device needs.
    pub const LENGTH: u64 = 0x100;

    /// A controller at power-on: all pins are masked.
    #[must_use]
    pub fn new(sink: MessageSink) -> Self {
        Self {
            selected: AtomicU8::new(0),
            id: AtomicU8::new(0),
            entries: std::array::from_fn(|_| AtomicU64::new(MASKED)),
            sink,
        }
    }

    /// Back to the state at power-on.
    pub fn reset(&self) {
        self.selected.store(0, Ordering::Relaxed);
        self.id.store(0, Ordering::Relaxed);
        for entry in &self.entries {
            entry.store(MASKED, Ordering::Release);
        }
    }

    /// The line to a pin. One past the last leads nowhere.
    #[must_use]
    pub fn line(self: &Arc<Self>, pin: u8) -> InterruptLine {
        let controller = self.clone();
        InterruptLine::new(move || controller.raise(pin))
    }

    fn raise(&self, pin: u8) {
        let entry = self.entries.get(usize::from(pin));
        let message = entry.and_then(|entry| Message::of(entry.load(Ordering::Acquire)));
        if let Some(message) = message {
            (self.sink)(message);
        }
    }

    /// The entry behind a register, and where in it the register's bits begin.
    fn entry(&self, register: u8) -> Option<(&AtomicU64, u32)> {
        let index = register.checked_sub(TABLE_REGISTER)?;
        let entry = self.entries.get(usize::from(index / 2))?;
        Some((entry, u32::from(index % 2) * 32))
    }

    fn read_register(&self, register: u8) -> u32 {
        match register {
            ID_REGISTER | ARBITRATION_REGISTER => {
                u32::from(self.id.load(Ordering::Relaxed)) << ID_SHIFT
            }
            VERSION_REGISTER => VERSION,
            _ => self.entry(register).map_or(0, |(entry, shift)| {
                let half = entry.load(Ordering::Relaxed) >> shift & u64::from(u32::MAX);
                u32::try_from(half).unwrap_or(0)
            }),
        }
    }

    fn write_register(&self, register: u8, value: u32) {
        if register == ID_REGISTER {
            let [.., id] = value.to_le_bytes();
            self.id.store(id & ID_MASK, Ordering::Relaxed);
        } else if let Some((entry, shift)) = self.entry(register) {
            let half = u64::from(u32::MAX) << shift;
            let value = u64::from(value) << shift & WRITABLE;
            // The halves are written one after the other: another CPU may write the other half.
            let _ = entry.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |entry| {
                Some(entry & !half | value)
            });
        }
    }
}

/// Registers are 32 bits wide. Of a narrower access the other bits are zeroes, as KVM's own controller
/// takes them; a wider one is one to its first 32 bits.
impl BusDevice for IoApic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT_OFFSET => self.selected.load(Ordering::Relaxed).into(),
            WINDOW_OFFSET => self.read_register(self.selected.load(Ordering::Relaxed)),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        match offset {
            SELECT_OFFSET => self.selected.store(value[0], Ordering::Relaxed),
            WINDOW_OFFSET => {
                let register = self.selected.load(Ordering::Relaxed);
                self.write_register(register, u32::from_le_bytes(value));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
