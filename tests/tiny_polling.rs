//! What a guest prints by polling, as Linux does: KVM collects it, which nobody may notice but by the time
//! that it takes.

mod common;
mod process;

use std::time::{Duration, Instant};

use aerostat_tiny_guest::Script;
use common::machine::Machine;
use common::scaled;
use common::setup::Setup;
use process::Files;

const LIMIT: Duration = Duration::from_secs(30);
/// The thread that there is while KVM collects.
const THREAD: &str = "coalescing";

/// Registers of the serial port.
const DATA: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = 0x3f9;
const LINE_CONTROL: u16 = 0x3fb;
const MODEM_CONTROL: u16 = 0x3fc;

/// Where what is printed stands: all different as far as it goes.
const TEXT: u64 = 0x200_0000;
const TEXT_NUMBERS: u32 = 5000;
/// Its bytes.
const TEXT_BYTES: u64 = 4 * TEXT_NUMBERS as u64;
/// A counter, and a place that stays as it is.
const COUNTER: u64 = TEXT - 4096;
const NOTHING: u64 = COUNTER + 4;

/// A guest that has the text.
fn with_text() -> Script {
    Script::new().numbers(TEXT, TEXT_NUMBERS.into(), 0, 1)
}

/// The `count` bytes of the text from `start` on.
fn text(start: u64, count: u64) -> Vec<u8> {
    let text = (0..TEXT_NUMBERS).flat_map(u32::to_le_bytes);
    let [start, count] = [start, count].map(|number| usize::try_from(number).expect("usize"));
    text.skip(start).take(count).collect()
}

/// Does nothing any more, without an exit.
fn spin(script: Script) -> Script {
    script.wait32(NOTHING, 1, 1)
}

/// All that the guest of `script` prints until it ends.
fn output_of(script: Script, more: &[&str]) -> Vec<u8> {
    let files = Files::new(script);
    let output = files.command().args(more).output().expect("run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output.stdout
}

fn assert_same(printed: &[u8], expected: &[u8]) {
    let same = printed.iter().zip(expected).take_while(|(a, b)| a == b);
    let (same, printed, expected) = (same.count(), printed.len(), expected.len());
    assert!(
        same == printed && same == expected,
        "{printed} bytes in place of {expected}, of which the first {same} are right"
    );
}

fn collects(machine: &Machine) -> bool {
    machine.threads().iter().any(|name| name == THREAD)
}

fn wait_until_collects(machine: &Machine, expected: bool) {
    let deadline = Instant::now() + scaled(LIMIT);
    while collects(machine) != expected {
        assert!(Instant::now() < deadline, "it does not become {expected}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A guest that prints `text` for ever.
fn prints_for_ever(text: [u8; 8]) -> Setup {
    let script = Script::new().fill(TEXT, 200, 8, u64::from_le_bytes(text));
    let again = script.here();
    let script = script.print_polled(TEXT, 1600).jump(again);
    Setup::tiny(script).expect("guest")
}

#[test]
fn bytes_come_whole_and_in_order() {
    let script = with_text().print_polled(TEXT, TEXT_BYTES).power_off();
    assert_same(&output_of(script, &[]), &text(0, TEXT_BYTES));
}

/// Those that KVM keeps come before those that it does not, whatever else is done to the port.
#[test]
fn bytes_of_all_ways_come_in_order() {
    let script = with_text()
        .print_polled(TEXT, 1000)
        .out8(DATA, b'a')
        .out8(DATA, b'b')
        .outs(DATA, TEXT + 1000, 100)
        .print_polled(TEXT + 1100, 1)
        // The divisor is not printed.
        .out8(LINE_CONTROL, 0x80)
        .out8(DATA, b'!')
        .out8(LINE_CONTROL, 0x03)
        .print_polled(TEXT + 1101, 400)
        .power_off();
    let expected = [text(0, 1000), b"ab".to_vec(), text(1000, 501)].concat();
    assert_same(&output_of(script, &[]), &expected);
}

/// One instruction writes more than KVM has room for.
#[test]
fn string_instruction_loses_nothing() {
    let script = with_text()
        .print_polled(TEXT, 16_000)
        .outs(DATA, TEXT + 16_000, 4000)
        .power_off();
    assert_same(&output_of(script, &[]), &text(0, 20_000));
}

/// It has to poll for longer each time.
#[test]
fn guest_that_comes_to_poll_over_and_over_loses_nothing() {
    const ROUNDS: u32 = 6;
    let script = with_text().store32(COUNTER, ROUNDS);
    let again = script.here();
    let script = script
        .print_polled(TEXT, TEXT_BYTES)
        .out8(INTERRUPT_ENABLE, 0x02)
        .print_polled(TEXT, 10)
        .out8(INTERRUPT_ENABLE, 0x00)
        .print_polled(TEXT, TEXT_BYTES)
        // What loops back is not printed.
        .out8(MODEM_CONTROL, 0x10)
        .print_polled(TEXT, 10)
        .out8(MODEM_CONTROL, 0x00)
        .repeat(COUNTER, again)
        .power_off();
    let round = [text(0, TEXT_BYTES), text(0, 10), text(0, TEXT_BYTES)].concat();
    let expected = round.repeat(ROUNDS.try_into().expect("usize"));
    assert_same(&output_of(script, &[]), &expected);
}

#[test]
fn bytes_come_in_order_while_another_cpu_uses_the_port() {
    let script = with_text();
    // What the other does.
    let skip = script.here() + 3;
    let script = script.jump(skip);
    let other = script.here();
    let script = script.ins(LINE_CONTROL, NOTHING, 1).jump(other);
    assert_eq!(script.here(), skip);
    let script = script
        .start_others_at(other)
        .print_polled(TEXT, TEXT_BYTES)
        .power_off();
    let printed = output_of(script, &["--cpus", "2"]);
    assert_same(&printed, &text(0, TEXT_BYTES));
}

/// The last byte is followed by nothing that could bring it out.
#[test]
fn last_byte_appears_though_the_guest_does_nothing_more() {
    let script = Script::new()
        .fill(TEXT, 200, 8, u64::from_le_bytes(*b"........"))
        .store(TEXT + 1600, u64::from_le_bytes(*b"the end\n"), 8)
        .print_polled(TEXT, 1608);
    let mut machine = Setup::tiny(spin(script))
        .and_then(Setup::start)
        .expect("start");
    machine.console.wait_for("the end\n", LIMIT).expect("guest");
    // A machine whose guest prints nothing has nothing to do.
    wait_until_collects(&machine, false);
}

/// It prints on, but interrupts are to follow from that, and must not be late.
#[test]
fn guest_that_asks_for_interrupts_ends_it() {
    let script = with_text().store32(COUNTER, 20);
    let again = script.here();
    let script = script
        .print_polled(TEXT, TEXT_BYTES)
        .repeat(COUNTER, again)
        .out8(INTERRUPT_ENABLE, 0x02)
        .puts("asked");
    let again = script.here();
    let script = script.print_polled(TEXT, TEXT_BYTES).jump(again);
    let mut machine = Setup::tiny(script).and_then(Setup::start).expect("start");
    wait_until_collects(&machine, true);
    machine.console.wait_for("asked", LIMIT).expect("guest");
    wait_until_collects(&machine, false);
}

#[test]
fn machine_that_stops_and_goes_on_collects_again() {
    let machine = prints_for_ever(*b"for ever").start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    for _ in 0..3 {
        wait_until_collects(&machine, true);
        qmp.execute("stop").expect("stop");
        wait_until_collects(&machine, false);
        qmp.execute("cont").expect("cont");
    }
}

#[test]
fn reset_ends_what_the_guest_before_it_began() {
    let mut machine = prints_for_ever(*b"for ever").start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    for _ in 0..10 {
        wait_until_collects(&machine, true);
        qmp.execute("system_reset").expect("reset");
    }
    assert_eq!(qmp.status().expect("status"), "running");
    qmp.execute("stop").expect("stop");
    qmp.execute("system_reset").expect("reset");
    wait_until_collects(&machine, false);
    qmp.execute("quit").expect("quit");
    machine.wait_success().expect("end");
}
