//! One step of a vCPU: into the guest, and what to do when it comes out.

use std::sync::Arc;
use std::{fmt, io};

use aerostat_devices::bus::Bus;
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::coalescing::Coalescing;
use crate::memory::Range;

/// The two address spaces in which a vCPU finds devices, and where it finds none.
#[derive(Debug, Default)]
pub(crate) struct Buses {
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    /// Where there is memory and no device can be.
    pub(crate) ram: Vec<Range>,
    /// What KVM keeps of the accesses to ports, if there is a serial port.
    pub(crate) coalescing: Option<Arc<Coalescing>>,
}

impl Buses {
    fn is_ram(&self, address: u64) -> bool {
        let has = |(start, bytes): &Range| (start.0..start.0 + bytes).contains(&address);
        self.ram.iter().any(has)
    }
}

/// A vCPU cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VcpuFailure {
    /// KVM could not emulate an instruction, or met another case that it cannot handle.
    #[error("KVM met an internal error (suberror {suberror}: {meaning})\n{registers}")]
    Internal {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// Its meaning.
        meaning: &'static str,
        /// Where the guest was.
        registers: RegisterDump,
    },
    /// The CPU refused to enter the guest.
    #[error("The CPU refuses to enter the guest (hardware reason {reason:#x})\n{registers}")]
    Entry {
        /// The hardware's reason.
        reason: u64,
        /// Where the guest was.
        registers: RegisterDump,
    },
    /// An exit that nothing here handles.
    #[error("KVM left the guest for a reason that is not handled: {exit}\n{registers}")]
    Unhandled {
        /// The exit.
        exit: String,
        /// Where the guest was.
        registers: RegisterDump,
    },
    /// The host does not give the guest a page of its memory.
    #[error(
        "The host gives no memory for a page of the guest{}: with backing=hugetlbfs its pool of \
         huge pages is used up; others have taken what the guest had given back\n{registers}",
        address.map(|address| format!(" at {address:#x}")).unwrap_or_default()
    )]
    NoMemory {
        /// The guest-physical address, if KVM knows it.
        address: Option<u64>,
        /// Where the guest was.
        registers: RegisterDump,
    },
    /// The host's memory is broken where a page of the guest was.
    #[error("The host's memory is broken at the guest's {address:#x}\n{registers}")]
    BrokenMemory {
        /// The guest-physical address.
        address: u64,
        /// Where the guest was.
        registers: RegisterDump,
    },
    /// KVM_RUN failed.
    #[error("KVM cannot run the vCPU: {source}\n{registers}")]
    Run {
        /// The reason.
        source: kvm_ioctls::Error,
        /// Where the guest was.
        registers: RegisterDump,
    },
}

/// The registers of a vCPU, for a person to read.
#[derive(Debug)]
pub struct RegisterDump(Result<Box<(kvm_regs, kvm_sregs)>, kvm_ioctls::Error>);

/// Code segment and instruction pointer after a reset. AMD's SVM leaves a vCPU undefined after a
/// triple fault, so KVM resets it before it tells.
const RESET_VECTOR: (u16, u64) = (0xf000, 0xfff0);

impl RegisterDump {
    fn take(vcpu: &VcpuFd) -> Self {
        let registers = || Ok(Box::new((vcpu.get_regs()?, vcpu.get_sregs()?)));
        Self(registers())
    }
}

impl fmt::Display for RegisterDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (r, s) = match &self.0 {
            Ok(registers) => registers.as_ref(),
            Err(error) => return write!(f, "  (registers cannot be read: {error})"),
        };
        let rows = [
            [
                ("rip", r.rip),
                ("rsp", r.rsp),
                ("rflags", r.rflags),
                ("cr3", s.cr3),
            ],
            [
                ("rax", r.rax),
                ("rbx", r.rbx),
                ("rcx", r.rcx),
                ("rdx", r.rdx),
            ],
            [("rsi", r.rsi), ("rdi", r.rdi), ("rbp", r.rbp), ("r8", r.r8)],
            [("r9", r.r9), ("r10", r.r10), ("r11", r.r11), ("r12", r.r12)],
            [
                ("r13", r.r13),
                ("r14", r.r14),
                ("r15", r.r15),
                ("cr2", s.cr2),
            ],
            [
                ("cr0", s.cr0),
                ("cr4", s.cr4),
                ("efer", s.efer),
                ("cs", s.cs.selector.into()),
            ],
        ];
        for (index, row) in rows.iter().enumerate() {
            f.write_str(if index == 0 { " " } else { "\n " })?;
            for (name, value) in row {
                write!(f, " {name:>6} {value:016x}")?;
            }
        }
        if (s.cs.selector, r.rip) == RESET_VECTOR {
            f.write_str(
                "\n  KVM has reset this vCPU already: the registers at the fault are lost",
            )?;
        }
        Ok(())
    }
}

/// Why a guest cannot be entered again.
pub(crate) enum Exit {
    /// It met a fault while it handled a fault while it handled a fault.
    TripleFault(RegisterDump),
    /// The vCPU cannot go on.
    Failure(VcpuFailure),
}

/// Runs the guest until it needs something, and gives it that.
///
/// # Errors
/// When the guest cannot be entered again.
pub(crate) fn step(vcpu: &mut VcpuFd, buses: &Buses) -> Result<(), Exit> {
    let coalescing = buses.coalescing.as_ref();
    if let Some(coalescing) = coalescing {
        coalescing.begin_if_wanted(vcpu);
    }
    let exit = vcpu.run();
    // That exit comes with an error.
    let error = io::Error::last_os_error().raw_os_error();
    if let Some(coalescing) = coalescing {
        coalescing.deliver();
    }
    match exit {
        Ok(VcpuExit::IoIn(port, data)) => {
            let data = std::ptr::from_mut(data);
            let width = port_width(vcpu);
            // SAFETY: the bytes are KVM's, mapped for as long as the vCPU lives, and nobody else
            // refers to them: they lie behind the structure of which `port_width` reads a member.
            let items = unsafe { &mut *data }.chunks_mut(width);
            items.for_each(|item| buses.ports.read(port.into(), item));
            Ok(())
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            let data = std::ptr::from_ref(data);
            let width = port_width(vcpu);
            // SAFETY: as above.
            let items = unsafe { &*data }.chunks(width);
            items.for_each(|item| buses.ports.write(port.into(), item));
            Ok(())
        }
        // Where KVM emulates instructions, it takes memory that it cannot reach for a device.
        Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _))
            if buses.is_ram(address) =>
        {
            Err(no_memory(vcpu, Some(address)))
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            buses.mmio.read(address, data);
            Ok(())
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            buses.mmio.write(address, data);
            Ok(())
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Ok(()),
        Ok(VcpuExit::Shutdown) => Err(Exit::TripleFault(RegisterDump::take(vcpu))),
        Ok(VcpuExit::FailEntry(reason, _)) => Err(Exit::Failure(VcpuFailure::Entry {
            reason,
            registers: RegisterDump::take(vcpu),
        })),
        Ok(VcpuExit::MemoryFault { gpa, .. }) if error == Some(libc::EHWPOISON) => {
            Err(Exit::Failure(VcpuFailure::BrokenMemory {
                address: gpa,
                registers: RegisterDump::take(vcpu),
            }))
        }
        Ok(VcpuExit::MemoryFault { gpa, .. }) => Err(no_memory(vcpu, Some(gpa))),
        // Kernels before 6.8 do not say where.
        Err(error) if error.errno() == libc::EFAULT => Err(no_memory(vcpu, None)),
        Ok(VcpuExit::InternalError) => Err(Exit::Failure(internal_error(vcpu))),
        Ok(exit) => {
            let exit = format!("{exit:?}");
            Err(Exit::Failure(VcpuFailure::Unhandled {
                exit,
                registers: RegisterDump::take(vcpu),
            }))
        }
        // EINTR: somebody wants this thread. EAGAIN: the vCPU waits to be started.
        Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => Ok(()),
        Err(source) => Err(Exit::Failure(VcpuFailure::Run {
            source,
            registers: RegisterDump::take(vcpu),
        })),
    }
}

/// The bytes of one access to a port: KVM hands over all accesses of a string instruction at once.
fn port_width(vcpu: &mut VcpuFd) -> usize {
    // SAFETY: KVM fills this member of the union for the exit reason KVM_EXIT_IO, which is why we
    // are here.
    let width = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.io.size };
    usize::from(width).max(1)
}

fn no_memory(vcpu: &VcpuFd, address: Option<u64>) -> Exit {
    let registers = RegisterDump::take(vcpu);
    Exit::Failure(VcpuFailure::NoMemory { address, registers })
}

fn internal_error(vcpu: &mut VcpuFd) -> VcpuFailure {
    // SAFETY: KVM fills this member of the union for the exit reason KVM_EXIT_INTERNAL_ERROR,
    // which is why we are here.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let meaning = match suberror {
        1 => "an instruction could not be emulated",
        2 => "a fault was met while another was delivered",
        3 => "a fault was met while an interrupt was delivered",
        4 => "an unexpected exit",
        _ => "unknown",
    };
    VcpuFailure::Internal {
        suberror,
        meaning,
        registers: RegisterDump::take(vcpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_memory_are_known_to_be_no_devices() {
        let buses = Buses {
            ram: crate::memory::ranges("3584M".parse().unwrap()),
            ..Buses::default()
        };
        let [low_end, high, high_end] = [0xc000_0000, 1 << 32, (1 << 32) + (512 << 20)];
        for address in [0, low_end - 1, high, high_end - 1] {
            assert!(buses.is_ram(address), "{address:#x}");
        }
        for address in [low_end, high - 1, high_end, u64::MAX] {
            assert!(!buses.is_ram(address), "{address:#x}");
        }
    }

    #[test]
    fn dump_of_a_reset_vcpu_says_so() {
        let mut sregs = kvm_sregs::default();
        (sregs.cs.selector, _) = RESET_VECTOR;
        let regs = kvm_regs {
            rip: RESET_VECTOR.1,
            ..Default::default()
        };
        let text = RegisterDump(Ok(Box::new((regs, sregs)))).to_string();
        assert!(text.contains("KVM has reset this vCPU already"), "{text}");
    }

    #[test]
    fn dump_names_every_general_register_once() {
        let registers = Box::new((
            kvm_regs {
                rip: 0xabcd,
                ..Default::default()
            },
            kvm_sregs::default(),
        ));
        let text = RegisterDump(Ok(registers)).to_string();
        assert!(text.contains("rip 000000000000abcd"));
        let names: Vec<_> = text.split_whitespace().step_by(2).collect();
        for name in [
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r15", "cr3",
        ] {
            assert_eq!(names.iter().filter(|n| **n == name).count(), 1, "{name}");
        }
    }
}
