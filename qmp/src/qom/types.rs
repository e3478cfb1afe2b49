//! The types of objects, as QEMU names those that mean the same, with their properties.
//!
//! A client that looks for the balloon goes by these names and by this order.

use serde_json::Value;

use crate::backend::CommandError;
use crate::command::types::{Member, Type};
use crate::json::object_of;

/// What `qom-list` and its like tell of a property (`ObjectPropertyInfo`).
pub const PROPERTY_INFO: Type = Type::Object(&[
    Member::required("name", Type::Str),
    Member::required("type", Type::Str),
    Member::optional("description", Type::Str),
    Member::optional("default-value", Type::Any),
]);

/// The type of the machine.
pub const MACHINE_TYPE: &str = "aerostat-machine";
/// The type of its CPUs: what the host has.
pub const CPU_TYPE: &str = "host-x86_64-cpu";
/// The type of the balloon.
pub const BALLOON_TYPE: &str = "virtio-balloon-device";
/// The type of what the devices stand in.
pub const CONTAINER: &str = "container";
/// The type of the guest's memory where it is the process's alone.
pub const RAM_TYPE: &str = "memory-backend-ram";
/// The type of the guest's memory where it is a file without a name.
pub const MEMFD_TYPE: &str = "memory-backend-memfd";
/// The transport of the balloon.
pub const TRANSPORT_TYPE: &str = "virtio-mmio";
/// What the balloon is plugged into.
pub const BUS_TYPE: &str = "virtio-mmio-bus";

/// Who may write a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    ReadOnly,
    /// Whoever makes the device; here that is the command line.
    Frozen,
    /// Says whether the device is in use.
    Realized,
    /// How often the guest is asked for its statistics.
    PollingInterval,
    /// Whether memory that the guest reports as free is given back.
    Reporting,
    /// How fast that is done.
    ReportingRate,
}

/// A property.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// Its type, as QEMU writes it.
    pub ty: &'static str,
    /// What `device-list-properties` says of a switch.
    default: Option<bool>,
    /// Who may write it.
    pub access: Access,
    /// Whether lists tell of it: they are QEMU's.
    pub is_listed: bool,
}

impl Property {
    /// One that can only be read.
    const fn fact(name: &'static str, ty: &'static str) -> Self {
        Self {
            name,
            ty,
            default: None,
            access: Access::ReadOnly,
            is_listed: true,
        }
    }

    /// A switch that is chosen before the device is made.
    const fn switch(name: &'static str, default: bool) -> Self {
        Self {
            name,
            ty: "bool",
            default: Some(default),
            access: Access::Frozen,
            is_listed: true,
        }
    }

    const fn with(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// One that QEMU does not have, which only those find who know its name.
    const fn extension(name: &'static str, ty: &'static str, access: Access) -> Self {
        Self {
            is_listed: false,
            ..Self::fact(name, ty).with(access)
        }
    }

    /// `ObjectPropertyInfo`, with all that is known of the class's property.
    fn info(&self) -> Value {
        let mut members = vec![("name", self.name.into()), ("type", self.ty.into())];
        if let Some(default) = self.default {
            members.push(("description", "on/off".into()));
            members.push(("default-value", default.into()));
        }
        object_of(members)
    }

    /// Whether it is one that all devices have.
    fn is_common(&self) -> bool {
        self.name == "type" || DEVICE.iter().any(|common| common.name == self.name)
    }
}

/// A type of objects.
#[derive(Debug)]
pub struct QomType {
    /// Its name.
    pub name: &'static str,
    parent: Option<&'static str>,
    is_abstract: bool,
    properties: &'static [Property],
}

const fn class(
    name: &'static str,
    parent: &'static str,
    properties: &'static [Property],
) -> QomType {
    QomType {
        name,
        parent: Some(parent),
        is_abstract: false,
        properties,
    }
}

const fn abstract_class(
    name: &'static str,
    parent: &'static str,
    properties: &'static [Property],
) -> QomType {
    QomType {
        is_abstract: true,
        ..class(name, parent, properties)
    }
}

const DEVICE: &[Property] = &[
    Property::fact("parent_bus", "link<bus>"),
    Property::fact("realized", "bool").with(Access::Realized),
    Property::fact("hotplugged", "bool"),
    Property::fact("hotpluggable", "bool"),
];

/// All types; each behind its parent.
static TYPES: &[QomType] = &[
    QomType {
        name: "object",
        parent: None,
        is_abstract: true,
        properties: &[Property::fact("type", "string")],
    },
    class(CONTAINER, "object", &[]),
    abstract_class("machine", "object", &[]),
    class(
        MACHINE_TYPE,
        "machine",
        &[Property::fact("memory-backend", "link<memory-backend>")],
    ),
    abstract_class(
        "memory-backend",
        "object",
        &[
            Property::fact("share", "bool"),
            Property::fact("size", "int"),
            Property::fact("dump", "bool"),
            Property::fact("policy", "HostMemPolicy"),
            Property::fact("prealloc", "bool"),
            Property::fact("reserve", "bool"),
            Property::fact("host-nodes", "int"),
            Property::fact("merge", "bool"),
        ],
    ),
    class(RAM_TYPE, "memory-backend", &[]),
    class(
        MEMFD_TYPE,
        "memory-backend",
        &[
            Property::fact("hugetlb", "bool"),
            Property::fact("seal", "bool"),
            Property::fact("hugetlbsize", "int"),
        ],
    ),
    abstract_class(
        "bus",
        "object",
        &[Property::fact("realized", "bool").with(Access::Realized)],
    ),
    abstract_class("virtio-bus", "bus", &[]),
    class(BUS_TYPE, "virtio-bus", &[]),
    abstract_class("device", "object", DEVICE),
    abstract_class("cpu", "device", &[]),
    abstract_class(
        "x86_64-cpu",
        "cpu",
        &[
            Property::fact("thread-id", "int32").with(Access::Frozen),
            Property::fact("core-id", "int32").with(Access::Frozen),
            Property::fact("socket-id", "int32").with(Access::Frozen),
        ],
    ),
    class(CPU_TYPE, "x86_64-cpu", &[]),
    abstract_class("sys-bus-device", "device", &[]),
    class(TRANSPORT_TYPE, "sys-bus-device", &[]),
    abstract_class(
        "virtio-device",
        "device",
        &[
            Property::switch("use-disabled-flag", true),
            Property::switch("queue_reset", true),
            Property::switch("packed", false),
            Property::switch("in_order", false),
            Property::switch("iommu_platform", false),
            Property::switch("event_idx", true),
            Property::switch("x-disable-legacy-check", false),
            Property::switch("notify_on_empty", true),
            Property::switch("any_layout", true),
            Property::switch("use-started", true),
            Property::switch("indirect_desc", true),
        ],
    ),
    class(
        BALLOON_TYPE,
        "virtio-device",
        &[
            Property::fact(LEGACY_IOTHREAD, "str"),
            Property::fact("iothread", "link<iothread>").with(Access::Frozen),
            Property::switch("deflate-on-oom", false),
            Property::switch("free-page-hint", false),
            Property::switch("page-poison", true),
            Property::switch("qemu-4-0-config-size", false),
            Property::switch("free-page-reporting", false),
            Property::fact("guest-stats-polling-interval", "int").with(Access::PollingInterval),
            Property::fact("guest-stats", "guest statistics"),
            Property::extension(REPORTING, "bool", Access::Reporting),
            Property::extension(REPORTING_RATE, "int", Access::ReportingRate),
        ],
    ),
];

/// A property that QEMU lists but does not let anybody read.
pub(super) const LEGACY_IOTHREAD: &str = "legacy-iothread";

/// Whether memory that the guest reports as free is given back.
pub(super) const REPORTING: &str = "x-free-page-reporting";
/// How fast at most, in bytes per second; 0 for as fast as it comes.
pub(super) const REPORTING_RATE: &str = "x-free-page-reporting-max-rate";

/// The type that all others descend from.
pub(super) fn root() -> &'static QomType {
    &TYPES[0]
}

/// The type of this name.
pub fn find(name: &str) -> Option<&'static QomType> {
    TYPES.iter().find(|ty| ty.name == name)
}

impl QomType {
    fn parent(&self) -> Option<&'static QomType> {
        self.parent.and_then(find)
    }

    fn is_a(&self, name: &str) -> bool {
        self.name == name || self.parent().is_some_and(|parent| parent.is_a(name))
    }

    /// Its properties and those that it inherits; these first.
    pub fn all_properties(&self) -> Vec<&'static Property> {
        let inherited = self.parent().map(QomType::all_properties);
        let mut all = inherited.unwrap_or_default();
        all.extend(self.properties);
        all
    }

    /// Its own or inherited property of this name.
    pub fn property(&self, name: &str) -> Option<&'static Property> {
        let own = self
            .properties
            .iter()
            .find(|property| property.name == name);
        own.or_else(|| self.parent()?.property(name))
    }
}

/// `qom-list-types`: the types that are, or descend from, `implements`.
pub fn list(implements: Option<&str>, with_abstract: bool) -> Value {
    let implements = implements.unwrap_or("object");
    let wanted = |ty: &&QomType| ty.is_a(implements) && (with_abstract || !ty.is_abstract);
    let types = TYPES.iter().filter(wanted).map(|ty| {
        let mut members = vec![("name", ty.name.into())];
        if ty.is_abstract {
            members.push(("abstract", true.into()));
        }
        if let Some(parent) = ty.parent {
            members.push(("parent", parent.into()));
        }
        object_of(members)
    });
    types.collect()
}

/// `qom-list-properties`: those of all objects of a type.
///
/// # Errors
///
/// When there is no such type.
pub fn properties(name: &str) -> Result<Value, CommandError> {
    let ty = find(name)
        .ok_or_else(|| CommandError::DeviceNotFound(format!("Class '{name}' not found")))?;
    let properties = ty.all_properties();
    let listed = properties.into_iter().filter(|property| property.is_listed);
    Ok(listed.map(Property::info).collect())
}

/// `device-list-properties`: those that a user of a device can choose or see.
///
/// # Errors
///
/// When there is no such type, or it is not one of devices.
pub fn device_properties(name: &str) -> Result<Value, CommandError> {
    let ty = find(name)
        .ok_or_else(|| CommandError::DeviceNotFound(format!("Device '{name}' not found")))?;
    if ty.is_abstract || !ty.is_a("device") {
        return Err(CommandError::generic(
            "Parameter 'typename' expects a non-abstract device type",
        ));
    }
    let hidden = |property: &Property| {
        property.is_common() || property.name == LEGACY_IOTHREAD || !property.is_listed
    };
    let properties = ty.all_properties().into_iter();
    let shown = properties.filter(|property| !hidden(property));
    Ok(shown.map(Property::info).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parent_is_a_type_that_stands_before() {
        for (index, ty) in TYPES.iter().enumerate() {
            let before = &TYPES[..index];
            let known = |parent| before.iter().any(|other| other.name == parent);
            assert!(ty.parent.is_none_or(known), "{}", ty.name);
        }
    }

    #[test]
    fn types_are_listed_with_those_that_descend_from_them() {
        let names = |implements, with_abstract| {
            let types = list(implements, with_abstract);
            let types = types.as_array().unwrap().iter();
            let names = types.map(|ty| ty["name"].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(Some("virtio-device"), false), [BALLOON_TYPE]);
        assert_eq!(
            names(Some("virtio-device"), true),
            ["virtio-device", BALLOON_TYPE]
        );
        assert_eq!(names(None, true).len(), TYPES.len());
    }
}
