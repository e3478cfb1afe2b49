//! The objects of a machine, from what it says of itself.

use serde_json::Value;

use super::{Id, Slot, Tree};
use crate::backend::{Backend, BalloonInfo, GuestStatistics, MachineInfo, RamInfo};
use crate::command::MEMORY_POLICY;
use crate::json::{object, object_of};
use crate::qom::RAM_ID;
use crate::qom::types::{
    Access, BALLOON_TYPE, BUS_TYPE, CONTAINER, CPU_TYPE, MACHINE_TYPE, MEMFD_TYPE, RAM_TYPE,
    REPORTING, REPORTING_RATE, TRANSPORT_TYPE,
};

/// The names of the statistics, by tag (virtio 1.2 §5.5.6.3), as QEMU has them.
pub(crate) const STATISTICS: [&str; 16] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
    "stat-oom-kills",
    "stat-alloc-stalls",
    "stat-async-scans",
    "stat-direct-scans",
    "stat-async-reclaims",
    "stat-direct-reclaims",
];

/// Switches of the balloon that say how older QEMUs behaved, and mean nothing for a device that
/// speaks only virtio 1: as QEMU has them by default.
const ALWAYS_ON: [&str; 4] = [
    "use-disabled-flag",
    "any_layout",
    "notify_on_empty",
    "use-started",
];

impl Tree {
    /// The tree of a machine.
    pub fn of(machine: &dyn Backend) -> Self {
        let mut tree = Self(Vec::new());
        let root = tree.add(None, "", CONTAINER, Vec::new());
        let objects = tree.add(Some(root), "objects", CONTAINER, Vec::new());
        let ram = tree.add_ram(objects, &machine.info());
        let backend = vec![("memory-backend", Slot::Link(Some(ram)))];
        let top = tree.add(Some(root), "machine", MACHINE_TYPE, backend);
        tree.add(Some(top), "peripheral-anon", CONTAINER, Vec::new());
        let peripheral = tree.add(Some(top), "peripheral", CONTAINER, Vec::new());
        let unattached = tree.add(Some(top), "unattached", CONTAINER, Vec::new());

        let cpus = machine.cpus().len();
        for index in 0..cpus {
            let fact = |value: Value| Slot::Value(value);
            let mut slots = device(None);
            slots.extend([
                ("thread-id", fact(0.into())),
                ("core-id", fact(index.into())),
                ("socket-id", fact(0.into())),
            ]);
            tree.add(
                Some(unattached),
                &format!("device[{index}]"),
                CPU_TYPE,
                slots,
            );
        }
        if let Some(balloon) = machine.balloon() {
            tree.add_balloon(peripheral, unattached, cpus, &balloon);
        }
        tree
    }

    /// Adds the guest's memory, as the object by which QEMU would be told of it.
    fn add_ram(&mut self, objects: Id, info: &MachineInfo) -> Id {
        let RamInfo {
            memfd,
            huge_page_bytes,
            prealloc,
        } = info.ram;
        let switch = |on: bool| Slot::Value(on.into());
        let mut slots = vec![
            ("share", switch(memfd)),
            ("prealloc", switch(prealloc)),
            ("reserve", switch(info.ram.is_reserved())),
            ("merge", off()),
            ("size", Slot::Value(info.memory_bytes.into())),
            ("dump", on()),
            ("policy", Slot::Value(MEMORY_POLICY.into())),
            ("host-nodes", Slot::Value(Value::Array(Vec::new()))),
        ];
        let ty = if memfd { MEMFD_TYPE } else { RAM_TYPE };
        if memfd {
            slots.extend([
                ("hugetlb", switch(huge_page_bytes.is_some())),
                (
                    "hugetlbsize",
                    Slot::Value(huge_page_bytes.unwrap_or(0).into()),
                ),
                ("seal", on()),
            ]);
        }
        self.add(Some(objects), RAM_ID, ty, slots)
    }

    /// Adds the balloon and its transport, which is the device with this number.
    fn add_balloon(&mut self, peripheral: Id, unattached: Id, number: usize, info: &BalloonInfo) {
        let name = format!("device[{number}]");
        let transport = self.add(Some(unattached), &name, TRANSPORT_TYPE, device(None));
        let realized = vec![("realized", on())];
        let bus = self.add(Some(transport), "virtio-mmio-bus.0", BUS_TYPE, realized);
        let balloon = self.add(Some(peripheral), &info.id, BALLOON_TYPE, device(Some(bus)));
        let link = ("child[0]".to_owned(), BALLOON_TYPE, balloon);
        self.0[bus].links.push(link);

        let ty = self.0[balloon].ty;
        let switches = ty.all_properties().into_iter();
        let switches =
            switches.filter(|switch| switch.ty == "bool" && switch.access == Access::Frozen);
        let switches = switches.map(|switch| {
            let on = ALWAYS_ON.contains(&switch.name) || info.offered.contains(&switch.name);
            (switch.name, Slot::Value(on.into()))
        });
        let slots = &mut self.0[balloon].slots;
        slots.extend(switches);
        slots.extend([
            ("iothread", Slot::Link(None)),
            (
                "guest-stats-polling-interval",
                Slot::Value(info.polling_interval.into()),
            ),
            (
                "guest-stats",
                Slot::Value(statistics_value(&info.statistics)),
            ),
            (REPORTING, Slot::Value(info.is_reporting.into())),
            (REPORTING_RATE, Slot::Value(info.reporting_rate.into())),
        ]);
    }
}

fn on() -> Slot {
    Slot::Value(true.into())
}

fn off() -> Slot {
    Slot::Value(false.into())
}

/// What every device says of itself.
fn device(bus: Option<Id>) -> Vec<(&'static str, Slot)> {
    vec![
        ("parent_bus", Slot::Link(bus)),
        ("realized", on()),
        ("hotplugged", off()),
        ("hotpluggable", off()),
    ]
}

/// What `guest-stats` holds.
pub(crate) fn statistics_value(statistics: &GuestStatistics) -> Value {
    let values = STATISTICS.into_iter().zip(statistics.values);
    let values = object_of(values.map(|(name, value)| (name, value.into())));
    object([
        ("stats", values),
        ("last-update", statistics.last_update.into()),
    ])
}
