//! A polling driver for the virtio-mmio balloon, as fragments of a [`Script`].
//!
//! virtio 1.2 §3.1.1 (initialisation), §4.2.2 (MMIO registers), §5.5 (balloon). It needs no
//! interrupt: it polls the used ring.

use crate::Script;

/// Offsets of virtio-mmio registers (virtio 1.2 §4.2.2).
pub(crate) mod register {
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC_LOW: u64 = 0x80;
    pub const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub const CONFIG_GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}

/// Entries of each of the driver's queues.
pub(crate) const QUEUE_SIZE: u32 = 16;
/// Queues for which there is room.
pub(crate) const MAX_QUEUES: usize = 4;
/// Guest memory per queue: a page each for descriptors, available and used ring.
const QUEUE_STRIDE: u64 = 0x3000;

/// A driver whose rings start at a guest address of the test's choice.
///
/// The fragments keep exactly one buffer in flight and must follow one another as a real
/// driver's operations would: [`Self::init`] first, then [`Self::inflate`] and
/// [`Self::deflate`].
#[derive(Clone, Debug)]
pub struct BalloonDriver {
    base: u64,
    rings: u64,
    /// The device's own features that it uses: bits 0 to 31.
    features: u32,
    /// Queues that it sets up.
    queues: usize,
    /// Buffers put into each queue so far.
    submitted: [u16; MAX_QUEUES],
}

impl BalloonDriver {
    /// A driver for the device at `base` with its rings and page-number buffer in the 56 KiB
    /// from `rings`.
    #[must_use]
    pub fn new(base: u64, rings: u64) -> Self {
        Self {
            base,
            rings,
            features: 0,
            queues: 2,
            submitted: [0; MAX_QUEUES],
        }
    }

    /// The same with these features of the device (virtio 1.2 §5.5.3), which must be on offer.
    #[must_use]
    pub fn with_features(self, features: u32) -> Self {
        Self { features, ..self }
    }

    /// The same with so many queues instead of two: 4 at most.
    #[must_use]
    pub fn with_queues(self, queues: usize) -> Self {
        Self { queues, ..self }
    }

    /// The guest address of a device register.
    #[must_use]
    pub fn register(&self, offset: u64) -> u64 {
        self.base + offset
    }

    /// The guest address of `num_pages` in the configuration space (virtio 1.2 §5.5.4).
    #[must_use]
    pub fn num_pages(&self) -> u64 {
        self.register(register::CONFIG)
    }

    /// The guest address of `actual` in the configuration space.
    #[must_use]
    pub fn actual(&self) -> u64 {
        self.register(register::CONFIG + 4)
    }

    /// Where the page numbers of a request stand (room for 2048).
    #[must_use]
    pub fn buffer(&self) -> u64 {
        self.descriptors(MAX_QUEUES)
    }

    /// The descriptor table of `queue`.
    #[must_use]
    pub fn descriptors(&self, queue: usize) -> u64 {
        self.rings + QUEUE_STRIDE * queue as u64
    }

    /// The available ring of `queue`.
    #[must_use]
    pub fn available(&self, queue: usize) -> u64 {
        self.descriptors(queue) + 0x1000
    }

    /// The used ring of `queue`.
    #[must_use]
    pub fn used(&self, queue: usize) -> u64 {
        self.descriptors(queue) + 0x2000
    }

    /// Brings the device from reset to DRIVER_OK with its queues.
    #[must_use]
    pub fn init(&mut self, script: Script) -> Script {
        let mut script = self.negotiate(script);
        for queue in 0..self.queues {
            script = self.init_queue(script, queue);
        }
        script.store32(self.register(register::STATUS), 15)
    }

    /// Brings the device from reset to FEATURES_OK.
    pub(crate) fn negotiate(&mut self, mut script: Script) -> Script {
        self.submitted = [0; MAX_QUEUES];
        for (offset, value) in [
            (register::STATUS, 0),
            (register::STATUS, 1),
            (register::STATUS, 3),
            (register::DRIVER_FEATURES_SEL, 1),
            (register::DRIVER_FEATURES, 1), // VIRTIO_F_VERSION_1
            (register::DRIVER_FEATURES_SEL, 0),
            (register::DRIVER_FEATURES, self.features),
            (register::STATUS, 11),
        ] {
            script = script.store32(self.register(offset), value);
        }
        script
    }

    fn init_queue(&self, script: Script, queue: usize) -> Script {
        let low = |address: u64| u32::try_from(address).expect("rings lie below 4 GiB");
        script
            .store(self.available(queue), 0, 4)
            .store(self.used(queue), 0, 4)
            .store32(self.register(register::QUEUE_SEL), low(queue as u64))
            .store32(self.register(register::QUEUE_NUM), QUEUE_SIZE)
            .store32(
                self.register(register::QUEUE_DESC_LOW),
                low(self.descriptors(queue)),
            )
            .store32(
                self.register(register::QUEUE_DRIVER_LOW),
                low(self.available(queue)),
            )
            .store32(
                self.register(register::QUEUE_DEVICE_LOW),
                low(self.used(queue)),
            )
            .store32(self.register(register::QUEUE_READY), 1)
    }

    /// Gives `count` pages from page number `first` to the device, `step` apart, waits until it
    /// has taken them, and reports `actual` pages as ballooned.
    #[must_use]
    pub fn inflate(
        &mut self,
        script: Script,
        first: u32,
        count: u32,
        step: i32,
        actual: u32,
    ) -> Script {
        self.request(script, 0, first, count, step)
            .store32(self.actual(), actual)
    }

    /// Takes pages back; as [`Self::inflate`].
    #[must_use]
    pub fn deflate(&mut self, script: Script, first: u32, count: u32, actual: u32) -> Script {
        self.request(script, 1, first, count, 1)
            .store32(self.actual(), actual)
    }

    fn request(
        &mut self,
        script: Script,
        queue: usize,
        first: u32,
        count: u32,
        step: i32,
    ) -> Script {
        let script = script.numbers(self.buffer(), count.into(), first, step);
        self.submit(script, queue, self.buffer(), count * 4, 0)
    }

    /// Puts one descriptor (address, length in bytes, flags of virtio 1.2 §2.7.5) into a queue,
    /// kicks, and polls the used ring until the device has returned it.
    #[must_use]
    pub fn submit(
        &mut self,
        script: Script,
        queue: usize,
        address: u64,
        bytes: u32,
        flags: u16,
    ) -> Script {
        let slot = u64::from(self.submitted[queue]) % u64::from(QUEUE_SIZE);
        self.submitted[queue] = self.submitted[queue].wrapping_add(1);
        let index = u32::from(self.submitted[queue]);
        let descriptor = self.descriptors(queue);
        script
            .store(descriptor, address, 8)
            .store(descriptor + 8, bytes.into(), 4)
            .store(descriptor + 12, flags.into(), 4)
            .store(self.available(queue) + 4 + 2 * slot, 0, 2)
            .store(self.available(queue) + 2, index.into(), 2)
            .store32(
                self.register(register::QUEUE_NOTIFY),
                u32::try_from(queue).unwrap_or(0),
            )
            .wait32(self.used(queue), 0xffff_0000, index << 16)
    }
}
