//! Which device answers an access: ranges of ports, or of guest-physical addresses.
//!
//! Filled once while the machine is built, then shared by all vCPU threads without a lock; each
//! device synchronises itself.

use std::fmt;
use std::sync::Arc;

/// A device that is reached through registers.
///
/// Both methods run on a vCPU thread, stand between the guest and its next instruction, and must
/// not block. `offset` counts bytes from the start of the device's range; the access lies wholly
/// inside the range.
pub trait BusDevice: Send + Sync {
    /// Fills `data` with what the guest reads: 1 to 8 bytes.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes what the guest wrote: 1 to 8 bytes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range could not be claimed because another device has part of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Bus range {start:#x}..{end:#x} overlaps a device that is already there")]
pub struct Overlap {
    start: u64,
    end: u64,
}

struct Entry {
    start: u64,
    end: u64,
    device: Arc<dyn BusDevice>,
}

/// The devices of one address space, ordered by address.
#[derive(Default)]
pub struct Bus {
    entries: Vec<Entry>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.entries.iter().map(|entry| entry.start..entry.end);
        f.debug_list().entries(ranges).finish()
    }
}

impl Bus {
    /// An empty address space.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `device` the `length` addresses from `start`.
    ///
    /// # Errors
    /// [`Overlap`] when one of them belongs to another device.
    pub fn insert(
        &mut self,
        start: u64,
        length: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), Overlap> {
        let end = start.saturating_add(length);
        let at = self.entries.partition_point(|entry| entry.end <= start);
        if self.entries.get(at).is_some_and(|entry| entry.start < end) {
            return Err(Overlap { start, end });
        }
        self.entries.insert(at, Entry { start, end, device });
        Ok(())
    }

    /// Reads for the guest. Where no device answers, all bits are set, as on a floating bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes for the guest. Where no device answers, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(&dyn BusDevice, u64)> {
        let at = self.entries.partition_point(|entry| entry.end <= address);
        let entry = self.entries.get(at)?;
        let last = address.checked_add(u64::try_from(length).ok()?)?;
        (entry.start <= address && last <= entry.end)
            .then(|| (entry.device.as_ref(), address - entry.start))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Register(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Register {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn bus_with(start: u64, length: u64) -> (Bus, Arc<Register>) {
        let device = Arc::new(Register::default());
        let mut bus = Bus::new();
        bus.insert(start, length, device.clone()).unwrap();
        (bus, device)
    }

    #[test]
    fn read_inside_a_range_reaches_the_device_with_its_offset() {
        let (bus, _) = bus_with(0x100, 8);
        let mut data = [0; 2];
        bus.read(0x104, &mut data);
        assert_eq!(data, [4, 4]);
    }

    #[test]
    fn read_outside_every_range_sees_all_bits_set() {
        let (bus, _) = bus_with(0x100, 8);
        let mut data = [0; 4];
        bus.read(0x108, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn access_across_the_end_of_a_range_reaches_nobody() {
        let (bus, device) = bus_with(0x100, 8);
        bus.write(0x106, &[1, 2, 3, 4]);
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn access_at_the_end_of_the_address_space_reaches_nobody() {
        let (bus, device) = bus_with(0x100, 8);
        bus.write(u64::MAX, &[1, 2]);
        assert!(device.0.lock().unwrap().is_empty());
    }

    #[test]
    fn overlapping_range_is_refused() {
        let (mut bus, device) = bus_with(0x100, 8);
        let refused = bus.insert(0x107, 4, device);
        assert_eq!(
            refused,
            Err(Overlap {
                start: 0x107,
                end: 0x10b
            })
        );
    }

    #[test]
    fn neighbouring_ranges_are_accepted() {
        let (mut bus, device) = bus_with(0x100, 8);
        bus.insert(0x108, 4, device.clone()).unwrap();
        bus.insert(0xf0, 0x10, device.clone()).unwrap();
        bus.write(0x108, &[7]);
        assert_eq!(*device.0.lock().unwrap(), [(0, vec![7])]);
    }
}
