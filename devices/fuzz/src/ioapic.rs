//! What the I/O APIC answers and sends after any sequence of accesses and edges, as Intel's 82093AA
//! (290566-001, §3) has it: a second account of it, which the controller has to agree with.

use std::sync::{Arc, Mutex};

use aerostat_devices::bus::BusDevice;
use aerostat_devices::ioapic::{IoApic, Message, PINS};

use super::choices::Choices;

/// Offsets that are accessed more often than others: the selector and the window.
const OFFSETS: [u64; 2] = [0x00, 0x10];

/// A redirection entry, field by field.
#[derive(Clone, Copy)]
struct Entry {
    vector: u32,
    mode: u32,
    is_logical: bool,
    /// Polarity and trigger mode, which nothing follows from.
    wiring: u32,
    is_masked: bool,
    destination: u32,
}

impl Entry {
    const AT_POWER_ON: Self = Self {
        vector: 0,
        mode: 0,
        is_logical: false,
        wiring: 0,
        is_masked: true,
        destination: 0,
    };

    fn write_low(&mut self, value: u32) {
        self.vector = value % 0x100;
        self.mode = value / 0x100 % 8;
        self.is_logical = value / 0x800 % 2 == 1;
        self.wiring = value & (0x2000 + 0x8000);
        self.is_masked = value / 0x1_0000 % 2 == 1;
    }

    fn low(self) -> u32 {
        self.vector
            + self.mode * 0x100
            + u32::from(self.is_logical) * 0x800
            + self.wiring
            + u32::from(self.is_masked) * 0x1_0000
    }

    fn message(self) -> Option<Message> {
        let is_reserved = matches!(self.mode, 3 | 6);
        (!self.is_masked && !is_reserved).then_some(Message {
            address: 0xfee0_0000 + self.destination * 0x1000 + u32::from(self.is_logical) * 4,
            data: self.mode * 0x100 + self.vector,
        })
    }
}

struct Model {
    selected: u8,
    id: u32,
    entries: [Entry; PINS as usize],
}

impl Model {
    const AT_POWER_ON: Self = Self {
        selected: 0,
        id: 0,
        entries: [Entry::AT_POWER_ON; PINS as usize],
    };

    fn register(&self) -> u32 {
        match self.selected {
            0 | 2 => self.id * 0x100_0000,
            1 => 0x17_0011,
            0x10..0x40 => {
                let entry = self.entries[usize::from(self.selected - 0x10) / 2];
                match self.selected % 2 {
                    0 => entry.low(),
                    _ => entry.destination * 0x100_0000,
                }
            }
            _ => 0,
        }
    }

    fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.selected.into(),
            0x10 => self.register(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match (offset, self.selected) {
            (0x00, _) => self.selected = value.to_le_bytes()[0],
            (0x10, 0) => self.id = value / 0x100_0000 % 0x10,
            (0x10, 0x10..0x40) => {
                let entry = &mut self.entries[usize::from(self.selected - 0x10) / 2];
                match self.selected % 2 {
                    0 => entry.write_low(value),
                    _ => entry.destination = value / 0x100_0000,
                }
            }
            _ => {}
        }
    }
}

fn offset(choices: &mut Choices<'_>, width: usize) -> u64 {
    let byte = choices.byte();
    match OFFSETS.get(usize::from(byte)) {
        Some(&offset) => offset,
        // The bus hands over what is wholly inside the range.
        None => u64::from(byte).min(IoApic::LENGTH - width as u64),
    }
}

/// Accesses of every width and offset, edges on every line, and resets.
pub fn ioapic_keeps_to_its_model(input: &[u8]) {
    let sent: Arc<Mutex<Vec<Message>>> = Arc::default();
    let log = sent.clone();
    let sink = Box::new(move |message| log.lock().expect("the log").push(message));
    let controller = Arc::new(IoApic::new(sink));
    let mut model = Model::AT_POWER_ON;
    let mut choices = Choices::new(input);
    while !choices.is_empty() {
        match choices.byte() % 8 {
            0..=3 => {
                let width = choices.width();
                let offset = offset(&mut choices, width);
                let data = choices.number().to_le_bytes();
                let mut wide = [0xa5; 8];
                wide[..4].copy_from_slice(&data);
                let wide = &wide[..width];
                let mut value = [0; 4];
                value[..width.min(4)].copy_from_slice(&wide[..width.min(4)]);
                controller.write(offset, wide);
                model.write(offset, u32::from_le_bytes(value));
            }
            4 | 5 => {
                let width = choices.width();
                let offset = offset(&mut choices, width);
                let mut data = [0xa5; 8];
                controller.read(offset, &mut data[..width]);
                let expected = u64::from(model.read(offset)).to_le_bytes();
                assert_eq!(data[..width], expected[..width], "{offset:#x}");
            }
            6 => {
                let pin = choices.byte() % (PINS + 2);
                controller.line(pin).raise();
                let entry = model.entries.get(usize::from(pin));
                let expected: Vec<_> = entry
                    .and_then(|entry| entry.message())
                    .into_iter()
                    .collect();
                assert_eq!(
                    std::mem::take(&mut *sent.lock().expect("the log")),
                    expected
                );
            }
            _ => {
                controller.reset();
                model = Model::AT_POWER_ON;
            }
        }
        assert!(sent.lock().expect("the log").is_empty());
    }
}
