//! A guest that programs the controller, and devices that pull its lines.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// A controller, and the messages that it has sent.
struct Bench {
    controller: Arc<IoApic>,
    sent: Arc<Mutex<Vec<Message>>>,
}

impl Bench {
    fn new() -> Self {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = sent.clone();
        let sink = Box::new(move |message| log.lock().unwrap().push(message));
        let controller = Arc::new(IoApic::new(sink));
        Self { controller, sent }
    }

    fn write(&self, register: u8, value: u32) {
        self.controller.write(SELECT_OFFSET, &[register, 0, 0, 0]);
        self.controller.write(WINDOW_OFFSET, &value.to_le_bytes());
    }

    fn read(&self, register: u8) -> u32 {
        let mut data = [0; 4];
        self.controller.write(SELECT_OFFSET, &[register, 0, 0, 0]);
        self.controller.read(WINDOW_OFFSET, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes the entry of a pin as Linux does: the half with the mask last.
    fn program(&self, pin: u8, low: u32, high: u32) {
        self.write(0x11 + 2 * pin, high);
        self.write(0x10 + 2 * pin, low);
    }

    /// What edges on a pin send.
    fn edges(&self, pin: u8, count: usize) -> Vec<(u32, u32)> {
        self.sent.lock().unwrap().clear();
        let line = self.controller.line(pin);
        (0..count).for_each(|_| line.raise());
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|sent| (sent.address, sent.data)).collect()
    }
}

#[test]
fn edge_becomes_the_message_of_its_entry() {
    let bench = Bench::new();
    // Vector 0x31, fixed, physical, to CPU 3.
    bench.program(16, 0x31, 0x0300_0000);
    assert_eq!(bench.edges(16, 1), [(0xfee0_3000, 0x31)]);
    // Vector 0xef, lowest priority, logical, to CPUs 0 and 1.
    bench.program(4, 0x9ef, 0x0300_0000);
    assert_eq!(bench.edges(4, 2), [(0xfee0_3004, 0x1ef); 2]);
    // A non-maskable interrupt.
    bench.program(23, 0x402, 0xff00_0000);
    assert_eq!(bench.edges(23, 1), [(0xfeef_f000, 0x402)]);
}

#[test]
fn masked_pin_loses_its_edges() {
    let bench = Bench::new();
    assert_eq!(bench.edges(7, 1), []);
    bench.program(7, 0x1_0031, 0);
    assert_eq!(bench.edges(7, 3), []);
    bench.program(7, 0x31, 0);
    assert_eq!(bench.edges(7, 1).len(), 1);
}

#[test]
fn pin_that_is_taken_for_a_level_sends_a_message_for_each_edge() {
    let bench = Bench::new();
    bench.program(9, 0xa031, 0);
    assert_eq!(bench.edges(9, 2), [(0xfee0_0000, 0x31); 2]);
    assert_eq!(bench.read(0x10 + 2 * 9), 0xa031);
}

#[test]
fn reserved_delivery_modes_send_nothing() {
    let bench = Bench::new();
    for mode in [3, 6] {
        bench.program(5, mode << 8 | 0x31, 0);
        assert_eq!(bench.edges(5, 1), []);
    }
}

#[test]
fn line_past_the_last_pin_leads_nowhere() {
    assert_eq!(Bench::new().edges(PINS, 1), []);
}

#[test]
fn identity_version_and_arbitration_are_as_specified() {
    let bench = Bench::new();
    assert_eq!(bench.read(VERSION_REGISTER), 0x0017_0011);
    bench.write(VERSION_REGISTER, u32::MAX);
    assert_eq!(bench.read(VERSION_REGISTER), 0x0017_0011);
    bench.write(ID_REGISTER, u32::MAX);
    assert_eq!(bench.read(ID_REGISTER), 0x0f00_0000);
    assert_eq!(bench.read(ARBITRATION_REGISTER), 0x0f00_0000);
    bench.write(ARBITRATION_REGISTER, 0);
    assert_eq!(bench.read(ID_REGISTER), 0x0f00_0000);
}

#[test]
fn selector_reads_back_and_what_is_no_register_reads_as_zero() {
    let bench = Bench::new();
    let mut data = [0xff; 4];
    bench.controller.write(SELECT_OFFSET, &[0x3f, 0, 0, 0]);
    bench.controller.read(SELECT_OFFSET, &mut data);
    assert_eq!(data, [0x3f, 0, 0, 0]);
    for offset in [1, 4, 0x11, 0x14, 0x40, IoApic::LENGTH - 4] {
        bench.controller.write(offset, &[0xff; 4]);
        bench.controller.read(offset, &mut data);
        assert_eq!(data, [0; 4], "{offset:#x}");
    }
    for register in [3, 0xf, 0x40, 0xff] {
        bench.write(register, u32::MAX);
        assert_eq!(bench.read(register), 0, "{register:#x}");
    }
}

#[test]
fn accesses_of_other_widths_reach_the_low_bits() {
    let bench = Bench::new();
    bench.controller.write(SELECT_OFFSET, &[0x10]);
    bench.controller.write(WINDOW_OFFSET, &[0x31, 0x09]);
    assert_eq!(bench.read(0x10), 0x931);
    let mut wide = [0xff; 8];
    bench.controller.read(WINDOW_OFFSET, &mut wide);
    assert_eq!(u64::from_le_bytes(wide), 0x931);
    bench.controller.write(WINDOW_OFFSET, &[0xff; 8]);
    assert_eq!(bench.read(0x10), 0x1_afff);
    assert_eq!(bench.read(0x11), 0);
}

#[test]
fn reset_masks_all_pins() {
    let bench = Bench::new();
    (0..PINS).for_each(|pin| bench.program(pin, 0x31, 0xff00_0000));
    bench.write(ID_REGISTER, u32::MAX);
    bench.controller.reset();
    for pin in 0..PINS {
        assert_eq!(bench.edges(pin, 1), []);
        assert_eq!(bench.read(0x10 + 2 * pin), 0x1_0000);
        assert_eq!(bench.read(0x11 + 2 * pin), 0);
    }
    assert_eq!(bench.read(ID_REGISTER), 0);
}

proptest! {
    /// A model of the table with one array of halves.
    #[test]
    fn table_holds_what_was_written_and_edges_follow_it(
        writes in prop::collection::vec((0x10..0x40_u8, any::<u32>()), 0..80),
    ) {
        let bench = Bench::new();
        let mut halves = [[0x1_0000_u32, 0]; PINS as usize];
        for (register, value) in writes {
            bench.write(register, value);
            let index = usize::from(register - 0x10);
            let mask = [0x0001_afff, 0xff00_0000][index % 2];
            halves[index / 2][index % 2] = value & mask;
        }
        for (pin, [low, high]) in (0..PINS).zip(halves) {
            prop_assert_eq!(bench.read(0x10 + 2 * pin), low);
            prop_assert_eq!(bench.read(0x11 + 2 * pin), high);
            let mode = low >> 8 & 7;
            let is_sent = low & 0x1_0000 == 0 && mode != 3 && mode != 6;
            let address = 0xfee0_0000 + (high >> 24 << 12) + (low >> 11 & 1) * 4;
            let expected = is_sent.then_some((address, low & 0x7ff));
            prop_assert_eq!(bench.edges(pin, 1), Vec::from_iter(expected));
        }
    }
}
