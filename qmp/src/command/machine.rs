//! Queries about the machine: what it is made of, and what it does not have.
//!
//! Where a machine here has nothing of a kind (disks, migration, hotplug), the answer is QEMU's for
//! a machine that has none either.

use serde_json::Value;

use super::types::Arguments;
use super::{Context, nothing};
use crate::backend::CommandError;
use crate::json::object;
use crate::qom::{self, MACHINE_NAME, RAM_ID};

type Return = Result<Value, CommandError>;

/// What QEMU calls the architecture of the CPUs (`SysEmuTarget`).
pub(super) const TARGET: &str = "x86_64";

/// The NUMA policy of the guest's memory (`HostMemPolicy`): the host's own.
pub(crate) const MEMORY_POLICY: &str = "default";

pub(super) fn query_name(context: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(match context.machine.info().name {
        Some(name) => object([("name", name.into())]),
        None => nothing(),
    })
}

pub(super) fn query_uuid(context: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(object([("UUID", context.machine.info().uuid.into())]))
}

pub(super) fn query_kvm(context: &mut Context<'_>, _: &Arguments) -> Return {
    let kvm = context.machine.info().kvm;
    Ok(object([
        ("enabled", kvm.enabled.into()),
        ("present", kvm.present.into()),
    ]))
}

pub(super) fn query_target(_: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(object([("arch", TARGET.into())]))
}

/// The guest sees each virtual CPU as a core with one thread, and all of them in one socket.
pub(super) fn query_cpus_fast(context: &mut Context<'_>, _: &Arguments) -> Return {
    let cpus = context.machine.cpus().into_iter().enumerate();
    let cpus = cpus.map(|(index, cpu)| {
        let props = object([
            ("socket-id", 0.into()),
            ("core-id", index.into()),
            ("thread-id", 0.into()),
        ]);
        object([
            ("cpu-index", index.into()),
            ("qom-path", qom::cpu_path(index).into()),
            ("thread-id", cpu.thread_id.into()),
            ("props", props),
            ("target", TARGET.into()),
        ])
    });
    Ok(cpus.collect())
}

/// A guest cannot suspend itself here, so nobody has to wake it.
pub(super) fn query_current_machine(_: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(object([("wakeup-suspend-support", false.into())]))
}

pub(super) fn query_machines(context: &mut Context<'_>, _: &Arguments) -> Return {
    let machine = object([
        ("name", MACHINE_NAME.into()),
        ("is-default", true.into()),
        ("cpu-max", context.machine.info().max_cpus.into()),
        ("hotpluggable-cpus", false.into()),
        ("numa-mem-supported", false.into()),
        ("deprecated", false.into()),
        ("default-cpu-type", qom::CPU_TYPE.into()),
        ("default-ram-id", RAM_ID.into()),
        ("acpi", true.into()),
    ]);
    Ok(vec![machine].into())
}

pub(super) fn query_memory_size_summary(context: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(object([
        ("base-memory", context.machine.info().memory_bytes.into()),
        ("plugged-memory", 0.into()),
    ]))
}

pub(super) fn query_memdev(context: &mut Context<'_>, _: &Arguments) -> Return {
    let info = context.machine.info();
    let backend = object([
        ("id", RAM_ID.into()),
        ("size", info.memory_bytes.into()),
        ("merge", false.into()),
        ("dump", true.into()),
        ("prealloc", info.ram.prealloc.into()),
        ("share", info.ram.memfd.into()),
        ("reserve", info.ram.is_reserved().into()),
        ("host-nodes", Value::Array(Vec::new())),
        ("policy", MEMORY_POLICY.into()),
    ]);
    Ok(vec![backend].into())
}

/// The answer to a query for things that a machine here never has.
pub(super) fn query_none(_: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(Value::Array(Vec::new()))
}

/// No migration has ever been started.
pub(super) fn query_migrate(_: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(nothing())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RamInfo;
    use crate::json;
    use crate::testing::{Machine, run};

    #[test]
    fn memory_is_told_of_as_it_was_chosen() {
        let mut machine = Machine::default();
        let memory = |machine: &mut Machine| run(machine, query_memdev, []).unwrap()[0].clone();
        let plain = memory(&mut machine);
        for switch in ["prealloc", "share", "reserve"] {
            assert_eq!(plain[switch], false, "{switch}");
        }
        machine.info.ram = RamInfo {
            memfd: true,
            huge_page_bytes: Some(2 << 20),
            prealloc: true,
        };
        let huge = memory(&mut machine);
        for switch in ["prealloc", "share", "reserve"] {
            assert_eq!(huge[switch], true, "{switch}");
        }
    }

    #[test]
    fn cpus_are_the_cores_of_one_socket_in_the_order_of_objects() {
        let mut machine = Machine {
            vcpu_threads: vec![4001, 4002],
            ..Machine::default()
        };
        let cpus = run(&mut machine, query_cpus_fast, []).unwrap();
        let mut text = Vec::new();
        json::write(&cpus, &mut text);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "[{\"thread-id\": 4001, \
             \"props\": {\"core-id\": 0, \"thread-id\": 0, \"socket-id\": 0}, \
             \"qom-path\": \"/machine/unattached/device[0]\", \
             \"cpu-index\": 0, \"target\": \"x86_64\"}, \
             {\"thread-id\": 4002, \
             \"props\": {\"core-id\": 1, \"thread-id\": 0, \"socket-id\": 0}, \
             \"qom-path\": \"/machine/unattached/device[1]\", \
             \"cpu-index\": 1, \"target\": \"x86_64\"}]"
        );
    }

    #[test]
    fn machine_without_a_name_has_no_member_for_it() {
        let mut machine = Machine::default();
        assert_eq!(run(&mut machine, query_name, []), Ok(object([])));
        machine.info.name = Some("vm1".to_owned());
        assert_eq!(
            run(&mut machine, query_name, []),
            Ok(object([("name", "vm1".into())]))
        );
    }
}
