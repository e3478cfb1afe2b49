//! The device status field (virtio 1.2 §2.1) and the steps that it may take.

use std::fmt;

/// Bits of the device status field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus(u32);

impl DeviceStatus {
    /// The state after a reset.
    pub const RESET: Self = Self(0);
    /// A driver has noticed the device.
    pub const ACKNOWLEDGE: Self = Self(1);
    /// The driver knows how to drive it.
    pub const DRIVER: Self = Self(2);
    /// The driver is set up; the device works.
    pub const DRIVER_OK: Self = Self(4);
    /// The features are negotiated.
    pub const FEATURES_OK: Self = Self(8);
    /// The device cannot go on without a reset.
    pub const NEEDS_RESET: Self = Self(64);
    /// The driver has given up.
    pub const FAILED: Self = Self(128);

    /// A status from its bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits, as the driver reads them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This status with the bits of `other` added.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What the status becomes when a driver writes `written` (not 0, which resets), or why it
    /// stays.
    ///
    /// A driver adds bits in the order of §3.1.1 and never clears one. FAILED may always be
    /// added. Whether the features or the queues are acceptable is for the transport to say.
    pub(crate) fn step(self, written: u32) -> Result<Self, StatusFault> {
        let next = Self(written);
        if !next.contains(Self(self.0 & !Self::NEEDS_RESET.0)) {
            return Err(StatusFault::Cleared {
                from: self.0,
                to: written,
            });
        }
        let known = Self::ACKNOWLEDGE
            .with(Self::DRIVER)
            .with(Self::DRIVER_OK)
            .with(Self::FEATURES_OK)
            .with(Self::NEEDS_RESET)
            .with(Self::FAILED);
        if !known.contains(next) {
            return Err(StatusFault::Unknown(written));
        }
        let requirements = [
            (Self::DRIVER, Self::ACKNOWLEDGE),
            (Self::FEATURES_OK, Self::DRIVER),
            (Self::DRIVER_OK, Self::FEATURES_OK),
        ];
        if requirements
            .iter()
            .any(|&(bit, before)| next.contains(bit) && !next.contains(before))
        {
            return Err(StatusFault::OutOfOrder {
                from: self.0,
                to: written,
            });
        }
        // Only the device sets or clears NEEDS_RESET.
        Ok(Self(
            written & !Self::NEEDS_RESET.0 | self.0 & Self::NEEDS_RESET.0,
        ))
    }
}

/// Why a write to the status field changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusFault {
    Cleared { from: u32, to: u32 },
    OutOfOrder { from: u32, to: u32 },
    Unknown(u32),
}

impl fmt::Display for StatusFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cleared { from, to } => write!(f, "status {from:#x} -> {to:#x} clears a bit"),
            Self::OutOfOrder { from, to } => {
                write!(f, "status {from:#x} -> {to:#x} is out of order")
            }
            Self::Unknown(to) => write!(f, "status {to:#x} has unknown bits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(from: u32, to: u32) -> Result<u32, StatusFault> {
        DeviceStatus(from).step(to).map(DeviceStatus::bits)
    }

    #[test]
    fn the_order_of_the_specification_is_accepted() {
        assert_eq!(step(0, 1), Ok(1));
        assert_eq!(step(1, 3), Ok(3));
        assert_eq!(step(3, 11), Ok(11));
        assert_eq!(step(11, 15), Ok(15));
    }

    #[test]
    fn a_driver_may_give_up_at_any_time() {
        assert_eq!(step(0, 128), Ok(128));
        assert_eq!(step(15, 143), Ok(143));
    }

    #[test]
    fn clearing_a_bit_is_refused() {
        assert_eq!(step(15, 11), Err(StatusFault::Cleared { from: 15, to: 11 }));
    }

    #[test]
    fn skipping_a_step_is_refused() {
        assert_eq!(step(0, 2), Err(StatusFault::OutOfOrder { from: 0, to: 2 }));
        assert_eq!(step(3, 7), Err(StatusFault::OutOfOrder { from: 3, to: 7 }));
        assert_eq!(step(1, 9), Err(StatusFault::OutOfOrder { from: 1, to: 9 }));
    }

    #[test]
    fn unknown_bits_are_refused() {
        assert_eq!(step(1, 0x101), Err(StatusFault::Unknown(0x101)));
    }

    #[test]
    fn needs_reset_belongs_to_the_device() {
        assert_eq!(step(64 | 15, 15), Ok(64 | 15));
        assert_eq!(step(3, 64 | 3), Ok(3));
    }
}
