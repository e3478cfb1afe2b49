//! The floor: the least that KVM needs to run a guest, for `cargo xtask bench` to measure beside the
//! machines.
//!
//! Its guest has what the guests of that benchmark have, 256 MiB, local interrupt controllers and a CPU,
//! and writes `!` to the serial port. With `floor reset` it then resets its machine, and the program
//! ends with status 0; with `floor halt` it halts for ever. There is nothing else: no device, no
//! socket, no thread, no option, and nothing of the C library but its start-up.
//!
//! `cargo xtask bench` links it statically, at a fixed address: what a program of C would be at its
//! fastest. Medians of 101 rounds in turn of what was tried, on a cloud machine with KVM, from exec to
//! the byte and to the end:
//!
//! | | ms | ms |
//! | --- | --- | --- |
//! | dynamically linked | 1.04 | 1.32 |
//! | static-pie | 0.79 | 1.05 |
//! | static, at a fixed address | 0.75 | 0.99 |
//! | the same, entered past the C library | 0.51 | 0.72 |
//!
//! The last has no start-up at all, which no program of several threads can do without: the C library
//! (glibc 2.36) executes 68 CPUID instructions before `main`, each an exit of 1.5 µs where the host is a
//! virtual machine itself. All else made no difference of more than 0.03 ms: `panic =
//! "abort"` or `unwind`; the slots before or after the interrupt controllers, as long as nothing is on
//! KVM's buses; guest memory written before or after it is in a slot; registers set, or the reset vector
//! used as here.

#![no_main]

use std::ffi::{CStr, c_int, c_long};

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_EXIT_IO, KVMIO, kvm_enable_cap, kvm_run, kvm_userspace_memory_region,
};

/// Guest memory in bytes, from guest address 0.
const MEMORY: u64 = 256 << 20;
/// Where the guest's first 64 KiB are seen a second time: a CPU begins 16 bytes before their end, so
/// that none of its registers has to be set (Intel SDM volume 3, "First Instruction Executed").
const FIRMWARE: u64 = 0xffff_0000;
/// The size of that.
const FIRMWARE_BYTES: u64 = 0x1_0000;
/// The first instruction, in guest memory.
const RESET_VECTOR: usize = 0xfff0;
/// COM1's data register.
const SERIAL_PORT: u16 = 0x3f8;
/// The keyboard controller's command register; the guest writes but the command for a reset.
const KEYBOARD_PORT: u16 = 0x64;

/// In real mode: `mov dx, 0x3f8; mov al, '!'; out dx, al; mov al, 0xfe; out 0x64, al; cli; 1: hlt;
/// jmp 1b`.
static RESET: &[u8] = &[
    0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xb0, 0xfe, 0xe6, 0x64, 0xfa, 0xf4, 0xeb, 0xfd,
];
/// The same without `mov al, 0xfe; out 0x64, al`.
static HALT: &[u8] = &[0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xfa, 0xf4, 0xeb, 0xfd];

/// Local interrupt controllers by KVM, and no others, as in Aerostat. With them, KVM also waits for a
/// halted CPU.
static LOCAL_APICS: kvm_enable_cap = kvm_enable_cap {
    cap: KVM_CAP_SPLIT_IRQCHIP,
    flags: 0,
    args: [0; 4],
    pad: [0; 64],
};

// include/uapi/linux/kvm.h
const KVM_CREATE_VM: u64 = libc::_IO(KVMIO, 0x01);
const KVM_GET_VCPU_MMAP_SIZE: u64 = libc::_IO(KVMIO, 0x04);
const KVM_CREATE_VCPU: u64 = libc::_IO(KVMIO, 0x41);
const KVM_SET_USER_MEMORY_REGION: u64 = libc::_IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
const KVM_RUN: u64 = libc::_IO(KVMIO, 0x80);
const KVM_ENABLE_CAP: u64 = libc::_IOW::<kvm_enable_cap>(KVMIO, 0xa3);

/// Where the C library enters the program.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const u8) -> ! {
    let word = match count {
        // SAFETY: `words` has `count` pointers to strings.
        2 => unsafe { *words.add(1) },
        _ => c"".as_ptr().cast(),
    };
    if is(word, c"reset") {
        run(RESET);
    }
    if is(word, c"halt") {
        run(HALT);
    }
    say(b"Usage: floor reset|halt; `cargo xtask bench start` measures it\n");
    // `cargo bench` and `cargo test --all-targets` run all benchmarks: that is no failure.
    let is_benchmark = is(word, c"") || is(word, c"--bench");
    exit(if is_benchmark { 0 } else { 2 })
}

/// Whether the string at `word` is this text.
fn is(word: *const u8, text: &CStr) -> bool {
    let mut bytes = text.to_bytes_with_nul().iter().enumerate();
    // SAFETY: the first byte that differs ends it, at the latest the string's NUL. Volatile, so that
    // this does not become a call of the C library.
    bytes.all(|(index, byte)| unsafe { word.add(index).read_volatile() } == *byte)
}

/// Runs the guest until it resets its machine.
fn run(code: &[u8]) -> ! {
    let path = c"/dev/kvm".as_ptr() as u64;
    let flags = libc::O_RDWR.cast_unsigned().into();
    // SAFETY: the path ends in NUL.
    let kvm = unsafe { syscall(libc::SYS_open, [path, flags, 0, 0, 0, 0]) };
    let kvm = checked(kvm, b"open /dev/kvm");
    let vm = ioctl(kvm, KVM_CREATE_VM, 0, b"create a virtual machine");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let memory = map(MEMORY, flags, u64::MAX, b"map guest memory");
    for (place, byte) in (RESET_VECTOR..).zip(code) {
        // SAFETY: within `MEMORY`, which nothing else uses yet. Volatile as in `is`.
        unsafe { memory.add(place).write_volatile(*byte) };
    }
    add_slot(vm, 0, 0, MEMORY, memory);
    add_slot(vm, 1, FIRMWARE, FIRMWARE_BYTES, memory);
    let apics = (&raw const LOCAL_APICS) as u64;
    ioctl(vm, KVM_ENABLE_CAP, apics, b"have local APICs");
    let vcpu = ioctl(vm, KVM_CREATE_VCPU, 0, b"create a CPU");
    let bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, b"learn the CPU's size");
    let page = map(bytes, libc::MAP_SHARED, vcpu, b"map the CPU");
    loop {
        // SAFETY: what the guest can reach stays mapped until the process ends.
        let left = unsafe { syscall(libc::SYS_ioctl, [vcpu, KVM_RUN, 0, 0, 0, 0]) };
        if left != -i64::from(libc::EINTR) {
            checked(left, b"run the guest");
            handle_exit(page);
        }
    }
}

/// Does what the guest asks for. `page` is what the CPU shares with us.
fn handle_exit(page: *mut u8) {
    let run: *const kvm_run = page.cast();
    // SAFETY: KVM writes there in KVM_RUN alone; every bit pattern is a port's exit.
    let (reason, io) = unsafe { ((*run).exit_reason, (*run).__bindgen_anon_1.io) };
    match (reason, io.port) {
        (KVM_EXIT_IO, SERIAL_PORT) => {
            let byte = page as u64 + io.data_offset;
            // SAFETY: KVM says that the byte is there.
            let written = unsafe { syscall(libc::SYS_write, [1, byte, 1, 0, 0, 0]) };
            checked(written, b"write the guest's byte");
        }
        (KVM_EXIT_IO, KEYBOARD_PORT) => exit(0),
        _ => fail(
            b"do what the guest wants",
            b"KVM's exit reason ",
            reason.into(),
        ),
    }
}

/// Guest memory from `guest` on is what is mapped at `host`.
fn add_slot(vm: u64, slot: u32, guest: u64, bytes: u64, host: *mut u8) {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: guest,
        memory_size: bytes,
        userspace_addr: host as u64,
    };
    let region = (&raw const region) as u64;
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, region, b"set guest memory");
}

/// `argument` is a number, or the address of what this request reads.
fn ioctl(file: u64, request: u64, argument: u64, action: &[u8]) -> u64 {
    // SAFETY: each caller gives what its request takes, and none of these requests writes anything.
    let outcome = unsafe { syscall(libc::SYS_ioctl, [file, request, argument, 0, 0, 0]) };
    checked(outcome, action)
}

/// Maps `bytes` for reading and writing.
fn map(bytes: u64, flags: c_int, file: u64, action: &[u8]) -> *mut u8 {
    let access = (libc::PROT_READ | libc::PROT_WRITE).cast_unsigned().into();
    let flags = flags.cast_unsigned().into();
    // SAFETY: a new mapping, at a place of the kernel's choice.
    let address = unsafe { syscall(libc::SYS_mmap, [0, bytes, access, flags, file, 0]) };
    checked(address, action) as *mut u8
}

fn say(text: &[u8]) {
    // There is nobody to tell that it did not come through.
    // SAFETY: the bytes are the caller's.
    unsafe {
        syscall(
            libc::SYS_write,
            [2, text.as_ptr() as u64, text.len() as u64, 0, 0, 0],
        )
    };
}

fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing of the process is used after it.
        unsafe { syscall(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]) };
    }
}

/// What a system call gave, if it did not fail.
fn checked(outcome: i64, action: &[u8]) -> u64 {
    if (-4095..0).contains(&outcome) {
        fail(action, b"errno ", outcome.unsigned_abs());
    }
    outcome.cast_unsigned()
}

/// Ends the process with status 1 and says why; `number` has four digits at most.
fn fail(action: &[u8], kind: &[u8], number: u64) -> ! {
    for text in [b"floor: cannot ", action, b": ", kind] {
        say(text);
    }
    for power in [1000, 100, 10, 1] {
        if number >= power || power == 1 {
            say(&[b'0' + (number / power % 10) as u8]);
        }
    }
    say(b"\n");
    exit(1)
}

/// A system call, past the C library's own, which leaves its error in a place that may not be there.
///
/// # Safety
/// As the system call's.
unsafe fn syscall(number: c_long, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let outcome;
    // SAFETY: the kernel's convention (System V ABI, AMD64 supplement, "Linux Conventions"); what it
    // does is the caller's responsibility.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => outcome,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    outcome
}
