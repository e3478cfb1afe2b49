//! The device with a guest in the same process: queues in guest memory, a driver on this thread,
//! and the loop of the device thread on another, or on this one: then nobody waits for the other, and
//! what it takes is the host's side alone.
//!
//! virtio 1.2 §2.7 (split queues), §4.2.2 (registers), §5.5 (balloon). As Linux's, the driver sleeps
//! until the interrupt, and kicks when the device has not said that it need not (§2.7.10.1). What a
//! real guest pays besides, its exits and its interrupt controller, is not in here.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aerostat_devices::balloon::{Balloon, BalloonEvents, BalloonOptions};
use aerostat_devices::bus::BusDevice;
use aerostat_devices::interrupt::InterruptLine;
use aerostat_devices::virtio::MmioInterrupt;
use aerostat_devices::virtio::mmio::MmioTransport;
use aerostat_devices::{GuestMemory, GuestRam, PAGE_SIZE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vm_memory::{Bytes, GuestAddress};

use super::order::BUFFER_PAGES;
use super::server::{DeviceThread, LIMIT, Server, event_loop, hangs, refused, serve};
use crate::error::{Error, Result};

/// Descriptors in the queue, as Linux takes them from us and from QEMU.
pub const QUEUE_SIZE: u16 = 128;
/// Rings of the inflate queue, a page each, and the buffers behind them, from where the guest has
/// them on.
const DESCRIPTORS: u64 = PAGE_SIZE;
const AVAILABLE: u64 = 2 * PAGE_SIZE;
const USED: u64 = 3 * PAGE_SIZE;
const BUFFERS: u64 = 4 * PAGE_SIZE;
/// What all of it needs: half of a huge page is more than enough.
pub const RINGS_BYTES: u64 = 1 << 20;
/// Bytes of a buffer: page numbers of 32 bits.
const BUFFER_BYTES: usize = BUFFER_PAGES * 4;
/// The queue that pages are given through (§5.5.2).
const INFLATE: u32 = 0;
/// VIRTIO_BALLOON_F_MUST_TELL_HOST (§5.5.3).
const MUST_TELL_HOST: u32 = 1;
/// §2.7.8: the device needs no kick.
const NO_NOTIFY: u16 = 1;

/// InterruptACK (§4.2.2), and a used buffer in it.
const INTERRUPT_ACK: u64 = 0x64;
const USED_BUFFER: u32 = 1;

/// A balloon, its loop, and a driver.
pub struct Guest {
    balloon: Arc<Balloon>,
    transport: MmioTransport,
    /// Counts the interrupts.
    interrupts: Arc<OwnedFd>,
    memory: GuestMemory,
    /// Where its rings are.
    rings: u64,
    /// Buffers put into the queue.
    submitted: u16,
    server: Server,
}

impl Guest {
    /// A driver that has set DRIVER_OK, with [`RINGS_BYTES`] of its memory from `rings` on, of a
    /// device that is served by a thread of its own, as in a machine.
    ///
    /// # Errors
    ///
    /// When the process may have no further descriptor or thread.
    pub fn new(ram: &GuestRam, rings: u64) -> Result<Self> {
        Self::served_by(ram, rings, |events| {
            DeviceThread::spawn(events).map(|_thread| Server::Thread { _thread })
        })
    }

    /// The same, served by the thread that is the driver's.
    ///
    /// # Errors
    ///
    /// When the process may have no further descriptor.
    pub fn on_one_thread(ram: &GuestRam, rings: u64) -> Result<Self> {
        Self::served_by(ram, rings, |events| {
            let events = event_loop(events)?;
            let took = Duration::ZERO;
            Ok(Server::Here { events, took })
        })
    }

    fn served_by(
        ram: &GuestRam,
        rings: u64,
        server: impl FnOnce(BalloonEvents) -> Result<Server>,
    ) -> Result<Self> {
        let interrupts = eventfd(0, EventfdFlags::NONBLOCK).map_err(io::Error::from);
        let interrupts = Arc::new(interrupts.map_err(refused)?);
        let event = interrupts.clone();
        let line = InterruptLine::new(move || {
            // Only a counter at its maximum refuses.
            let _ = rustix::io::write(&*event, &1_u64.to_ne_bytes());
        });
        let interrupt = Arc::new(MmioInterrupt::new(line));
        let options = BalloonOptions::default();
        let balloon = Balloon::new(options, ram.clone(), interrupt.clone(), Box::new(drop));
        let balloon = Arc::new(balloon.map_err(refused)?);
        let memory = ram.memory().clone();
        let transport = MmioTransport::new(balloon.clone(), memory.clone(), interrupt);
        start_driver(&transport, rings);
        let server = server(BalloonEvents::new(balloon.clone()))?;
        Ok(Self {
            balloon,
            transport,
            interrupts,
            memory,
            rings,
            submitted: 0,
            server,
        })
    }

    /// Gives pages by their numbers, with at most `in_flight` buffers that the device has not
    /// returned yet, and waits for the last.
    ///
    /// # Errors
    ///
    /// When the device returns none for long.
    pub fn give(&mut self, numbers: &[u8], in_flight: u16) -> Result<()> {
        let mut used = self.submitted;
        let mut buffers = numbers.chunks(BUFFER_BYTES).peekable();
        loop {
            let before = self.submitted;
            while self.submitted.wrapping_sub(used) < in_flight.min(QUEUE_SIZE)
                && let Some(buffer) = buffers.next()
            {
                self.submit(buffer)?;
            }
            if self.submitted != before {
                self.kick()?;
            }
            if used == self.submitted {
                return Ok(());
            }
            used = self.wait_for_more_than(used)?;
        }
    }

    /// What of [`Self::give`] was the host's work since this was asked last, where one thread does
    /// all.
    pub fn host_time(&mut self) -> Option<Duration> {
        match &mut self.server {
            Server::Here { took, .. } => Some(std::mem::take(took)),
            Server::Thread { .. } => None,
        }
    }

    /// Puts a buffer into the queue without telling the device.
    fn submit(&mut self, numbers: &[u8]) -> Result<()> {
        let slot = self.submitted % QUEUE_SIZE;
        let buffer = self.rings + BUFFERS + u64::from(slot) * BUFFER_BYTES as u64;
        let length = u32::try_from(numbers.len()).unwrap_or(0);
        let descriptor = self.rings + DESCRIPTORS + 16 * u64::from(slot);
        self.submitted = self.submitted.wrapping_add(1);
        let available = self.rings + AVAILABLE;
        let memory = &self.memory;
        memory
            .write_slice(numbers, GuestAddress(buffer))
            .and_then(|()| memory.write_obj(buffer, GuestAddress(descriptor)))
            .and_then(|()| memory.write_obj(length, GuestAddress(descriptor + 8)))
            .and_then(|()| memory.write_obj(0u32, GuestAddress(descriptor + 12)))
            .and_then(|()| {
                memory.write_obj(slot, GuestAddress(available + 4 + 2 * u64::from(slot)))
            })
            .and_then(|()| {
                let index = GuestAddress(available + 2);
                memory.store(self.submitted, index, Ordering::Release)
            })
            .map_err(outside)
    }

    fn kick(&self) -> Result<()> {
        // §2.7.13.4: the index must be there before the flag is looked at.
        std::sync::atomic::fence(Ordering::SeqCst);
        let flags: u16 = self
            .memory
            .load(GuestAddress(self.rings + USED), Ordering::Acquire)
            .map_err(outside)?;
        if flags & NO_NOTIFY == 0
            && let Some(kick) = self.balloon.kicks().first()
        {
            kick.write(1).map_err(refused)?;
        }
        Ok(())
    }

    /// The used index as soon as it is another than `used`: at the interrupt, as Linux's driver.
    fn wait_for_more_than(&mut self, used: u16) -> Result<u16> {
        loop {
            let index = GuestAddress(self.rings + USED + 2);
            let now: u16 = self
                .memory
                .load(index, Ordering::Acquire)
                .map_err(outside)?;
            if now != used {
                return Ok(now);
            }
            match &mut self.server {
                Server::Here { events, took } => {
                    let begun = Instant::now();
                    serve(events)?;
                    *took += begun.elapsed();
                }
                Server::Thread { .. } => self.await_interrupt()?,
            }
        }
    }

    fn await_interrupt(&self) -> Result<()> {
        let interrupts = PollFd::new(&self.interrupts, PollFlags::IN);
        let ready = poll(&mut [interrupts], Some(&LIMIT)).map_err(|error| refused(error.into()))?;
        if ready == 0 {
            return Err(hangs());
        }
        rustix::io::read(&*self.interrupts, &mut [0; 8]).map_err(|error| refused(error.into()))?;
        self.transport
            .write(INTERRUPT_ACK, &USED_BUFFER.to_le_bytes());
        Ok(())
    }
}

/// The driver's side of §3.1.1: it tells before it uses a page again, where it may, as Linux does.
fn start_driver(transport: &MmioTransport, rings: u64) {
    let low = |address: u64| u32::try_from(address).unwrap_or(0);
    let write = |register, value: u32| transport.write(register, &value.to_le_bytes());
    for (register, value) in [(0x70, 0), (0x70, 1), (0x70, 3), (0x14, 0)] {
        write(register, value);
    }
    let mut offered = [0; 4];
    transport.read(0x10, &mut offered);
    for (register, value) in [
        (0x24, 0),
        (0x20, u32::from_le_bytes(offered) & MUST_TELL_HOST),
        (0x24, 1),
        (0x20, 1), // VIRTIO_F_VERSION_1
        (0x70, 11),
        (0x30, INFLATE),
        (0x38, QUEUE_SIZE.into()),
        (0x80, low(rings + DESCRIPTORS)),
        (0x90, low(rings + AVAILABLE)),
        (0xa0, low(rings + USED)),
        (0x44, 1),
        (0x70, 15),
    ] {
        write(register, value);
    }
}

fn outside(source: vm_memory::GuestMemoryError) -> Error {
    Error::System {
        action: "reach the rings in guest memory",
        source: io::Error::other(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from which pages 64 to 4095 can be given, each written.
    fn memory() -> GuestMemory {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        for page in 64..4096 {
            memory
                .write_obj(1u64, GuestAddress(page * PAGE_SIZE))
                .unwrap();
        }
        memory
    }

    fn given(guest: impl FnOnce(&GuestRam, u64) -> Result<Guest>, in_flight: u16) -> Vec<u64> {
        let memory = memory();
        let numbers: Vec<u8> = (64..4096u32)
            .rev()
            .step_by(2)
            .flat_map(u32::to_le_bytes)
            .collect();
        let mut guest = guest(&memory.clone().into(), 0).unwrap();
        guest.give(&numbers, in_flight).unwrap();
        let is_empty = |&page: &u64| {
            memory
                .read_obj::<u64>(GuestAddress(page * PAGE_SIZE))
                .unwrap()
                == 0
        };
        (64..4096).filter(is_empty).collect()
    }

    #[test]
    fn pages_that_were_given_and_no_others_are_empty_when_the_last_buffer_is_back() {
        let expected: Vec<u64> = (65..4096).step_by(2).collect();
        for in_flight in [1, QUEUE_SIZE] {
            assert_eq!(given(Guest::new, in_flight), expected);
            assert_eq!(given(Guest::on_one_thread, in_flight), expected);
        }
    }

    #[test]
    fn driver_goes_on_where_it_was() {
        let memory = memory();
        let mut guest = Guest::new(&memory.clone().into(), 0).unwrap();
        for page in 64..(64 + 3 * u32::from(QUEUE_SIZE)) {
            guest.give(&page.to_le_bytes(), 1).unwrap();
        }
        assert_eq!(
            memory
                .read_obj::<u64>(GuestAddress(300 * PAGE_SIZE))
                .unwrap(),
            0
        );
    }
}
