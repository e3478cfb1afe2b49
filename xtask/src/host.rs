//! What this machine can do for a guest, and so which way Linux guests are run.

use std::fmt;
use std::path::Path;

use crate::harness::host::cpu_virtualizes;

/// How Linux guests are run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// On this machine's own KVM.
    Direct,
    /// In an outer machine that QEMU emulates with an SVM CPU.
    Nested,
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Direct => "directly on this machine's KVM",
            Self::Nested => "nested: inside an outer machine that QEMU emulates (TCG, SVM CPU)",
        })
    }
}

/// What was found out about this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// The CPU offers VT-x or SVM.
    pub cpu_virtualizes: bool,
    /// `/dev/kvm` can be opened for reading and writing.
    pub kvm_usable: bool,
}

impl Host {
    /// Looks at this machine.
    pub fn detect() -> Self {
        Self {
            cpu_virtualizes: cpu_virtualizes(),
            kvm_usable: can_open_kvm(),
        }
    }

    /// The way to run a Linux guest.
    ///
    /// Without VT-x or SVM even a working `/dev/kvm` emulates a guest instruction by instruction:
    /// enough for a tiny guest, hopeless for Linux.
    pub fn way(self) -> Way {
        if self.cpu_virtualizes && self.kvm_usable {
            Way::Direct
        } else {
            Way::Nested
        }
    }

    /// Why it is that way, in words.
    pub fn reason(self) -> &'static str {
        match (self.cpu_virtualizes, self.kvm_usable) {
            (true, true) => "the CPU has VT-x or SVM and /dev/kvm can be opened",
            (true, false) => "/dev/kvm is missing or this user may not open it",
            (false, _) => "/proc/cpuinfo lists neither vmx nor svm",
        }
    }
}

fn can_open_kvm() -> bool {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(Path::new("/dev/kvm"))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::host::lists_virtualization;

    #[test]
    fn svm_flag_is_virtualization() {
        assert!(lists_virtualization(
            "processor: 0\nflags\t\t: fpu svm sse\n"
        ));
    }

    #[test]
    fn flag_that_only_contains_the_name_is_not() {
        assert!(!lists_virtualization(
            "flags\t\t: fpu svm_lock\nbugs : vmx\n"
        ));
    }

    #[test]
    fn kvm_without_cpu_support_is_nested() {
        let host = Host {
            cpu_virtualizes: false,
            kvm_usable: true,
        };
        assert_eq!(host.way(), Way::Nested);
    }

    #[test]
    fn cpu_support_without_kvm_is_nested() {
        let host = Host {
            cpu_virtualizes: true,
            kvm_usable: false,
        };
        assert_eq!(host.way(), Way::Nested);
    }
}
