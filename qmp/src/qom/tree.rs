//! The tree of objects, made anew for each command from what the machine says of itself.

use serde_json::Value;

use super::RAM_ID;
use super::types::{
    self, Access, BALLOON_TYPE, BUS_TYPE, CONTAINER, CPU_TYPE, MACHINE_TYPE, MEMFD_TYPE, Property,
    QomType, RAM_TYPE, REPORTING, REPORTING_RATE, TRANSPORT_TYPE,
};
use crate::backend::{Backend, BalloonInfo, CommandError, GuestStatistics, MachineInfo, RamInfo};
use crate::json::{object, object_of};

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

/// Objects are known by their place in the tree's list.
type Id = usize;

/// What a property holds.
#[derive(Debug)]
enum Slot {
    /// A value.
    Value(Value),
    /// Another object, or none.
    Link(Option<Id>),
}

/// An object.
#[derive(Debug)]
struct Object {
    name: String,
    ty: &'static QomType,
    parent: Option<Id>,
    children: Vec<Id>,
    /// What the properties of its type hold.
    slots: Vec<(&'static str, Slot)>,
    /// Links that its type does not have: name, type of the target, target.
    links: Vec<(String, &'static str, Id)>,
}

/// The tree; object 0 is the root.
#[derive(Debug)]
pub struct Tree(Vec<Object>);

/// What setting a property changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// How often the guest is asked for its statistics, in seconds.
    PollingInterval(u32),
    /// Whether memory that the guest reports as free is given back.
    Reporting(bool),
    /// How fast at most, in bytes per second; 0 for as fast as it comes.
    ReportingRate(u64),
}

impl Change {
    /// Makes the change.
    ///
    /// # Errors
    ///
    /// When the machine refuses it.
    pub fn apply(self, machine: &mut dyn Backend) -> Result<(), CommandError> {
        match self {
            Self::PollingInterval(seconds) => {
                machine.set_polling_interval(seconds);
                Ok(())
            }
            Self::Reporting(is_on) => machine.switch_reporting(is_on),
            Self::ReportingRate(rate) => machine.set_reporting_rate(rate),
        }
    }
}

/// What a path leads to.
enum Found {
    One(Id),
    None,
    Many,
}

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

    fn add(
        &mut self,
        parent: Option<Id>,
        name: &str,
        ty: &str,
        slots: Vec<(&'static str, Slot)>,
    ) -> Id {
        let id = self.0.len();
        // Every name that is used here is in the table; a test walks the whole tree.
        let ty = types::find(ty).unwrap_or(types::root());
        self.0.push(Object {
            name: name.to_owned(),
            ty,
            parent,
            children: Vec::new(),
            slots,
            links: Vec::new(),
        });
        if let Some(parent) = parent {
            self.0[parent].children.push(id);
        }
        id
    }

    /// `qom-list`.
    ///
    /// # Errors
    ///
    /// When the path leads nowhere, or to several objects.
    pub fn list(&self, path: &str) -> Result<Value, CommandError> {
        let object_at = match self.resolve(path) {
            Found::One(id) => &self.0[id],
            Found::None => return Err(not_found(path)),
            Found::Many => {
                let fault = format!("Path '{path}' is ambiguous");
                return Err(CommandError::Generic(fault));
            }
        };
        let property = |name: &str, ty: &str| object([("name", name.into()), ("type", ty.into())]);
        let own = object_at.ty.all_properties().into_iter();
        let own = own.filter(|own| own.is_listed);
        let own = own.map(|own| property(own.name, own.ty));
        let children = object_at.children.iter().map(|&id| &self.0[id]);
        let children =
            children.map(|child| property(&child.name, &format!("child<{}>", child.ty.name)));
        let links = object_at.links.iter();
        let links = links.map(|(name, ty, _)| property(name, &format!("link<{ty}>")));
        Ok(own.chain(children).chain(links).collect())
    }

    /// `qom-get`.
    ///
    /// # Errors
    ///
    /// When there is no such object or property, or it cannot be read.
    pub fn get(&self, path: &str, property: &str) -> Result<Value, CommandError> {
        let id = self.find(path)?;
        let object = &self.0[id];
        if property == "type" {
            return Ok(object.ty.name.into());
        }
        if let Some(target) = self.component(id, property) {
            return Ok(self.path(target).into());
        }
        let slot = object.slots.iter().find(|(name, _)| *name == property);
        match slot {
            Some((_, Slot::Value(value))) => Ok(value.clone()),
            Some((_, Slot::Link(_))) => Ok("".into()),
            None if object.ty.property(property).is_some() => {
                Err(object.fault(property, "is not readable"))
            }
            None => Err(object.fault(property, "not found")),
        }
    }

    /// `qom-set`: what is to be done, if anything.
    ///
    /// # Errors
    ///
    /// When there is no such object or property, or it cannot be set to this.
    pub fn set(
        &self,
        path: &str,
        property: &str,
        value: &Value,
    ) -> Result<Option<Change>, CommandError> {
        let id = self.find(path)?;
        let object = &self.0[id];
        let Some(known) = object.ty.property(property) else {
            let what = match self.component(id, property) {
                Some(_) => "is not writable",
                None => "not found",
            };
            return Err(object.fault(property, what));
        };
        match known.access {
            Access::ReadOnly => Err(object.fault(property, "is not writable")),
            Access::Frozen => Err(match self.wrong_link(known, value) {
                Some(fault) => fault,
                None => self.frozen(id, known),
            }),
            Access::Realized => match value {
                Value::Bool(true) => Ok(None),
                Value::Bool(false) => Err(CommandError::Generic(format!(
                    "Device '{}' cannot be taken out of the machine",
                    object.name
                ))),
                _ => Err(wrong_type(property, "boolean")),
            },
            Access::PollingInterval => {
                let seconds = value.as_i64();
                let seconds = seconds.ok_or_else(|| wrong_type(property, "integer"))?;
                polling_interval(seconds).map(|seconds| Some(Change::PollingInterval(seconds)))
            }
            Access::Reporting => {
                let is_on = value.as_bool();
                let is_on = is_on.ok_or_else(|| wrong_type(property, "boolean"))?;
                Ok(Some(Change::Reporting(is_on)))
            }
            Access::ReportingRate => {
                let rate = value.as_u64();
                let rate = rate.ok_or_else(|| wrong_type(property, "uint64"))?;
                Ok(Some(Change::ReportingRate(rate)))
            }
        }
    }

    /// What is wrong with a link's new value, which is looked at before anything else. No object
    /// here is of a type that a device's link could lead to.
    fn wrong_link(&self, property: &Property, value: &Value) -> Option<CommandError> {
        let target = property.ty.strip_prefix("link<")?.strip_suffix('>')?;
        let Some(path) = value.as_str() else {
            return Some(wrong_type(property.name, "string"));
        };
        if path.is_empty() {
            return None;
        }
        Some(match self.find(path) {
            Err(fault) => fault,
            Ok(_) => wrong_type(property.name, target),
        })
    }

    /// Why a property of a device cannot be set any more.
    fn frozen(&self, id: Id, property: &Property) -> CommandError {
        let Object {
            name, ty, parent, ..
        } = &self.0[id];
        let link = match property.ty.starts_with("link") {
            true => "link ",
            false => "",
        };
        let has_id = parent.is_some_and(|parent| self.0[parent].name == "peripheral");
        let device = match has_id {
            true => format!("device '{name}'"),
            false => "anonymous device".to_owned(),
        };
        CommandError::Generic(format!(
            "Attempt to set {link}property '{}' on {device} (type '{}') after it was realized",
            property.name, ty.name
        ))
    }

    fn find(&self, path: &str) -> Result<Id, CommandError> {
        match self.resolve(path) {
            Found::One(id) => Ok(id),
            Found::None | Found::Many => Err(not_found(path)),
        }
    }

    /// What a path leads to: from the root if it begins with a slash, else from any one object.
    fn resolve(&self, path: &str) -> Found {
        let from = |start: Id| {
            let mut parts = path.split('/').filter(|part| !part.is_empty());
            parts.try_fold(start, |id, part| self.component(id, part))
        };
        if path.starts_with('/') {
            return from(0).map_or(Found::None, Found::One);
        }
        let mut found = (0..self.0.len()).filter_map(from);
        match (found.next(), found.next()) {
            (Some(id), None) => Found::One(id),
            (None, _) => Found::None,
            (Some(_), Some(_)) => Found::Many,
        }
    }

    /// The child of this name, or what the link of this name leads to.
    fn component(&self, id: Id, name: &str) -> Option<Id> {
        let object = &self.0[id];
        let mut children = object.children.iter().copied();
        let child = children.find(|&child| self.0[child].name == name);
        let slot = || {
            let mut slots = object.slots.iter();
            slots.find_map(|(slot, value)| match value {
                Slot::Link(target) if *slot == name => *target,
                _ => None,
            })
        };
        let link = || {
            let mut links = object.links.iter();
            links.find_map(|(link, _, target)| (link == name).then_some(*target))
        };
        child.or_else(slot).or_else(link)
    }

    fn path(&self, id: Id) -> String {
        let object = &self.0[id];
        match object.parent {
            None => "/".to_owned(),
            Some(0) => format!("/{}", object.name),
            Some(parent) => format!("{}/{}", self.path(parent), object.name),
        }
    }
}

impl Object {
    fn fault(&self, property: &str, what: &str) -> CommandError {
        CommandError::Generic(format!("Property '{}.{property}' {what}", self.ty.name))
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

/// Seconds that can be an interval; 0 switches the polling off.
fn polling_interval(seconds: i64) -> Result<u32, CommandError> {
    if seconds < 0 {
        return Err(CommandError::generic(
            "timer value must be greater than zero",
        ));
    }
    u32::try_from(seconds).map_err(|_| CommandError::generic("timer value is too big"))
}

fn not_found(path: &str) -> CommandError {
    CommandError::DeviceNotFound(format!("Device '{path}' not found"))
}

fn wrong_type(property: &str, expected: &str) -> CommandError {
    CommandError::Generic(format!(
        "Invalid parameter type for '{property}', expected: {expected}"
    ))
}

#[cfg(test)]
mod tests;
