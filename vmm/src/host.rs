//! The host's KVM: whether it is there, and whether it can do what a machine needs.

use std::io;

use kvm_ioctls::{Cap, Kvm};

/// The version of the stable KVM API.
const API_VERSION: i32 = 12;

/// KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no KVM.
    #[error(
        "/dev/kvm does not exist: enable virtualisation in the firmware and load the kvm_intel or \
         kvm_amd module"
    )]
    Missing,
    /// The user may not use it.
    #[error("/dev/kvm may not be opened by this user: join the group that owns it (often kvm)")]
    NotPermitted,
    /// It cannot be opened for another reason.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] io::Error),
    /// Not the stable API.
    #[error("/dev/kvm speaks API version {0}, not {API_VERSION}: update the host's kernel")]
    Version(i32),
    /// Something that every machine needs is not there.
    #[error("KVM lacks {0}, which every machine needs: update the host's kernel")]
    Capability(&'static str),
    /// More vCPUs than KVM runs.
    #[error("{asked} CPUs are more than this host's KVM runs ({max}): ask for fewer with --cpus")]
    Cpus {
        /// What was asked for.
        asked: u8,
        /// The most that KVM runs.
        max: usize,
    },
}

/// What every machine needs.
const REQUIRED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
];

/// KVM, with everything in it that a machine needs.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) kvm: Kvm,
    /// Whether pages can be taken from a running guest; without it there is no ballooning.
    pub(crate) sync_mmu: bool,
}

impl Host {
    /// Opens KVM and looks for what is needed.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub(crate) fn open() -> Result<Self, HostError> {
        let kvm = Kvm::new().map_err(|error| open_error(error.into()))?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(HostError::Version(version));
        }
        let has = |cap| kvm.check_extension(cap);
        if let Some(name) = first_missing(has) {
            return Err(HostError::Capability(name));
        }
        let sync_mmu = kvm.check_extension(Cap::SyncMmu);
        Ok(Self { kvm, sync_mmu })
    }

    /// Whether KVM runs a machine with so many vCPUs.
    ///
    /// # Errors
    /// When it does not; more than it recommends is only worth a line in the log.
    pub(crate) fn check_cpus(&self, asked: u8) -> Result<(), HostError> {
        let recommended = self.kvm.get_nr_vcpus();
        if usize::from(asked) > recommended {
            log::info!("{asked} CPUs are more than KVM recommends on this host ({recommended})");
        }
        check_cpus(asked, self.kvm.get_max_vcpus())
    }
}

fn check_cpus(asked: u8, max: usize) -> Result<(), HostError> {
    if usize::from(asked) > max {
        return Err(HostError::Cpus { asked, max });
    }
    Ok(())
}

fn first_missing(has: impl Fn(Cap) -> bool) -> Option<&'static str> {
    REQUIRED
        .into_iter()
        .find(|&(cap, _)| !has(cap))
        .map(|(_, name)| name)
}

fn open_error(error: io::Error) -> HostError {
    match error.kind() {
        io::ErrorKind::NotFound => HostError::Missing,
        io::ErrorKind::PermissionDenied => HostError::NotPermitted,
        // The file is there, but no module stands behind it.
        _ if error.raw_os_error() == Some(libc::ENXIO)
            || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            HostError::Missing
        }
        _ => HostError::Open(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capability_is_named() {
        let missing = first_missing(|cap| !matches!(cap, Cap::SignalMsi));
        assert_eq!(missing, Some("KVM_CAP_SIGNAL_MSI"));
        assert_eq!(first_missing(|_| true), None);
    }

    #[test]
    fn more_cpus_than_kvm_runs_are_refused_with_both_numbers() {
        assert!(check_cpus(8, 8).is_ok());
        let refused = check_cpus(9, 8).unwrap_err().to_string();
        assert!(
            refused.contains("9 CPUs") && refused.contains("(8)"),
            "{refused}"
        );
    }

    #[test]
    fn reasons_not_to_open_kvm_are_told_apart() {
        let of = |code| open_error(io::Error::from_raw_os_error(code));
        assert!(matches!(of(libc::ENOENT), HostError::Missing));
        assert!(matches!(of(libc::ENXIO), HostError::Missing));
        assert!(matches!(of(libc::EACCES), HostError::NotPermitted));
        assert!(matches!(of(libc::EMFILE), HostError::Open(_)));
    }
}
