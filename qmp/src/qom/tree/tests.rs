//! The answers are those that QEMU gave to the same questions, types of the machine apart.

use super::*;
use crate::backend::RamInfo;
use crate::qom::types::BALLOON_TYPE;
use crate::testing::Machine;

const BALLOON: &str = "/machine/peripheral/balloon0";

fn tree() -> Tree {
    Tree::of(&Machine::default())
}

fn names(path: &str) -> Vec<String> {
    let listed = tree().list(path).unwrap();
    let listed = listed.as_array().unwrap().iter();
    listed
        .map(|property| property["name"].as_str().unwrap().to_owned())
        .collect()
}

fn fault<T: std::fmt::Debug>(result: Result<T, CommandError>) -> String {
    let error = result.unwrap_err();
    format!("{}: {error}", error.class())
}

#[test]
fn every_object_has_the_type_it_was_given_and_can_be_reached() {
    let tree = tree();
    for (id, object) in tree.0.iter().enumerate() {
        assert!(types::find(object.ty.name).is_some());
        assert!(id == 0 || object.ty.name != "object", "{}", object.name);
        let path = tree.path(id);
        assert!(matches!(tree.resolve(&path), Found::One(found) if found == id));
        for property in tree.list(&path).unwrap().as_array().unwrap() {
            let name = property["name"].as_str().unwrap();
            let got = tree.get(&path, name);
            assert_eq!(got.is_err(), name == "legacy-iothread", "{path} {name}");
        }
    }
}

#[test]
fn paths_may_have_empty_parts_be_partial_and_follow_links() {
    let tree = tree();
    for path in [
        BALLOON,
        "//machine//peripheral/balloon0/",
        "balloon0",
        "peripheral/balloon0",
        "/machine/peripheral/balloon0/parent_bus/child[0]",
    ] {
        assert_eq!(tree.get(path, "type"), Ok("virtio-balloon-device".into()));
    }
    assert_eq!(names("/"), ["type", "objects", "machine"]);
    let bus = "/machine/unattached/device[1]/virtio-mmio-bus.0";
    assert_eq!(tree.get(BALLOON, "parent_bus"), Ok(bus.into()));
    assert_eq!(
        tree.get("/machine", "memory-backend"),
        Ok("/objects/aerostat.ram".into())
    );
    assert_eq!(
        tree.get("/machine", "peripheral"),
        Ok("/machine/peripheral".into())
    );
}

#[test]
fn memory_is_the_object_by_which_qemu_would_be_told_of_it() {
    let mut machine = Machine::default();
    let get = |machine: &Machine, property| {
        let ram = Tree::of(machine);
        ram.get("/objects/aerostat.ram", property)
    };
    assert_eq!(get(&machine, "type"), Ok("memory-backend-ram".into()));
    assert_eq!(get(&machine, "share"), Ok(false.into()));
    assert!(get(&machine, "hugetlb").is_err());

    machine.info.ram = RamInfo {
        memfd: true,
        huge_page_bytes: Some(2 << 20),
        prealloc: true,
    };
    assert_eq!(get(&machine, "type"), Ok("memory-backend-memfd".into()));
    for (property, value) in [
        ("share", true.into()),
        ("hugetlb", true.into()),
        ("hugetlbsize", Value::from(2 << 20)),
        ("seal", true.into()),
        ("prealloc", true.into()),
        ("reserve", true.into()),
    ] {
        assert_eq!(get(&machine, property), Ok(value), "{property}");
    }
    machine.info.ram.huge_page_bytes = None;
    assert_eq!(get(&machine, "hugetlb"), Ok(false.into()));
    assert_eq!(get(&machine, "hugetlbsize"), Ok(0.into()));
    let tree = Tree::of(&machine);
    let listed = tree.list("/objects/aerostat.ram").unwrap();
    for property in listed.as_array().unwrap() {
        assert!(get(&machine, property["name"].as_str().unwrap()).is_ok());
    }
}

#[test]
fn unknown_and_ambiguous_paths_are_told_apart_by_qom_list_only() {
    let tree = tree();
    assert_eq!(
        fault(tree.list("x")),
        "DeviceNotFound: Device 'x' not found"
    );
    assert_eq!(fault(tree.list("")), "GenericError: Path '' is ambiguous");
    assert_eq!(
        fault(tree.get("", "type")),
        "DeviceNotFound: Device '' not found"
    );
}

#[test]
fn properties_are_refused_in_the_words_of_qemu() {
    let tree = tree();
    assert_eq!(
        fault(tree.get(BALLOON, "nope")),
        "GenericError: Property 'virtio-balloon-device.nope' not found"
    );
    assert_eq!(
        fault(tree.get(BALLOON, "legacy-iothread")),
        "GenericError: Property 'virtio-balloon-device.legacy-iothread' is not readable"
    );
    let set = |path, property, value: Value| fault(tree.set(path, property, &value));
    for (property, value, expected) in [
        (
            "nope",
            true.into(),
            "Property 'virtio-balloon-device.nope' not found",
        ),
        (
            "type",
            "x".into(),
            "Property 'virtio-balloon-device.type' is not writable",
        ),
        (
            "legacy-iothread",
            "x".into(),
            "Property 'virtio-balloon-device.legacy-iothread' is not writable",
        ),
        (
            "deflate-on-oom",
            true.into(),
            "Attempt to set property 'deflate-on-oom' on device 'balloon0' \
             (type 'virtio-balloon-device') after it was realized",
        ),
        (
            "iothread",
            "".into(),
            "Attempt to set link property 'iothread' on device 'balloon0' \
             (type 'virtio-balloon-device') after it was realized",
        ),
        (
            "iothread",
            5.into(),
            "Invalid parameter type for 'iothread', expected: string",
        ),
        (
            "iothread",
            "/machine".into(),
            "Invalid parameter type for 'iothread', expected: iothread",
        ),
        (
            "realized",
            "x".into(),
            "Invalid parameter type for 'realized', expected: boolean",
        ),
        (
            "guest-stats-polling-interval",
            1.5.into(),
            "Invalid parameter type for 'guest-stats-polling-interval', expected: integer",
        ),
        (
            "guest-stats-polling-interval",
            (-1).into(),
            "timer value must be greater than zero",
        ),
        (
            "guest-stats-polling-interval",
            4_294_967_296_u64.into(),
            "timer value is too big",
        ),
    ] {
        assert_eq!(
            set(BALLOON, property, value),
            format!("GenericError: {expected}")
        );
    }
    assert_eq!(
        set(BALLOON, "iothread", "nope".into()),
        "DeviceNotFound: Device 'nope' not found"
    );
    assert_eq!(
        set("/machine/unattached/device[0]", "core-id", 1.into()),
        "GenericError: Attempt to set property 'core-id' on anonymous device \
         (type 'host-x86_64-cpu') after it was realized"
    );
    assert_eq!(
        set("/machine/peripheral", "balloon0", "x".into()),
        "GenericError: Property 'container.balloon0' is not writable"
    );
    assert_eq!(
        set("/nope", "x", 1.into()),
        "DeviceNotFound: Device '/nope' not found"
    );
}

#[test]
fn interval_of_polling_and_what_becomes_of_reports_can_be_changed() {
    let tree = tree();
    let set = |value: u32| tree.set("balloon0", "guest-stats-polling-interval", &value.into());
    assert_eq!(set(0), Ok(Some(Change::PollingInterval(0))));
    assert_eq!(set(u32::MAX), Ok(Some(Change::PollingInterval(u32::MAX))));
    assert_eq!(tree.set("balloon0", "realized", &true.into()), Ok(None));
    assert_eq!(
        tree.set("balloon0", "x-free-page-reporting", &false.into()),
        Ok(Some(Change::Reporting(false)))
    );
    let rate = |value: Value| tree.set("balloon0", "x-free-page-reporting-max-rate", &value);
    assert_eq!(rate(7.into()), Ok(Some(Change::ReportingRate(7))));
    assert!(rate((-1).into()).is_err());
}

#[test]
fn properties_that_qemu_does_not_have_are_read_but_not_listed() {
    let tree = tree();
    let listed = tree.list(BALLOON).unwrap().to_string();
    let listed_types = types::properties(BALLOON_TYPE).unwrap().to_string();
    for (name, value) in [
        ("x-free-page-reporting", Value::from(true)),
        ("x-free-page-reporting-max-rate", 0.into()),
    ] {
        assert_eq!(tree.get(BALLOON, name), Ok(value));
        assert!(!listed.contains(name) && !listed_types.contains(name));
    }
}

#[test]
fn machine_without_a_balloon_has_an_empty_peripheral() {
    let machine = Machine {
        balloon: false,
        ..Machine::default()
    };
    let listed = Tree::of(&machine).list("/machine/peripheral").unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}
