//! The table. In QEMU's words: the commands of the schema, each with the types that it takes and
//! returns.

use super::types::{Member, Type};
use super::{
    Command, Handler, NEGOTIATION_COMMAND, balloon, chardev, introspection, machine, qom,
    run_state, statistics,
};
use crate::backend::RunState;
use crate::qom::types::PROPERTY_INFO;
use crate::resize::{BalloonState, Outcome};
use Type::{Any, Array, Bool, Enum, Int, Object, Str, Uint};

const fn required(name: &'static str, ty: Type) -> Member {
    Member::required(name, ty)
}

const fn optional(name: &'static str, ty: Type) -> Member {
    Member::optional(name, ty)
}

type Now = fn(
    &mut super::Context<'_>,
    &super::types::Arguments,
) -> Result<serde_json::Value, crate::CommandError>;

/// A command without arguments.
const fn plain(name: &'static str, returns: Type, handler: Now) -> Command {
    command(name, &[], returns, handler)
}

const fn command(
    name: &'static str,
    arguments: &'static [Member],
    returns: Type,
    handler: Now,
) -> Command {
    Command {
        name,
        arguments,
        returns,
        allow_oob: false,
        handler: Handler::Now(handler),
    }
}

/// A command that `exec-oob` may run too.
const fn out_of_band(command: Command) -> Command {
    Command {
        allow_oob: true,
        ..command
    }
}

/// Every command there is.
pub static COMMANDS: &[Command] = &[
    Command {
        name: NEGOTIATION_COMMAND,
        arguments: &[optional("enable", Array(&Enum(&["oob"])))],
        returns: NOTHING,
        allow_oob: false,
        handler: Handler::Negotiate,
    },
    // Of the server.
    plain("query-version", VERSION, introspection::query_version),
    plain(
        "query-commands",
        Array(&Object(&[required("name", Str)])),
        introspection::query_commands,
    ),
    plain(
        "query-qmp-schema",
        Array(&SCHEMA_INFO),
        introspection::query_qmp_schema,
    ),
    command(
        "human-monitor-command",
        &[required("command-line", Str), optional("cpu-index", Int)],
        Str,
        introspection::human_monitor_command,
    ),
    plain("query-chardev", Array(&CHARDEV), chardev::query_chardev),
    out_of_band(plain(
        "query-yank",
        Array(&YANK_INSTANCE),
        chardev::query_yank,
    )),
    out_of_band(command(
        "yank",
        &[required("instances", Array(&YANK_INSTANCE))],
        NOTHING,
        chardev::yank,
    )),
    // Of the machine.
    plain(
        "query-name",
        Object(&[optional("name", Str)]),
        machine::query_name,
    ),
    plain(
        "query-uuid",
        Object(&[required("UUID", Str)]),
        machine::query_uuid,
    ),
    plain(
        "query-kvm",
        Object(&[required("enabled", Bool), required("present", Bool)]),
        machine::query_kvm,
    ),
    plain(
        "query-target",
        Object(&[required("arch", TARGET)]),
        machine::query_target,
    ),
    plain("query-cpus-fast", Array(&CPU), machine::query_cpus_fast),
    plain(
        "query-current-machine",
        Object(&[required("wakeup-suspend-support", Bool)]),
        machine::query_current_machine,
    ),
    plain("query-machines", Array(&MACHINE), machine::query_machines),
    plain(
        "query-memory-size-summary",
        Object(&[
            required("base-memory", Int),
            optional("plugged-memory", Int),
        ]),
        machine::query_memory_size_summary,
    ),
    plain(
        "query-memdev",
        Array(&MEMORY_BACKEND),
        machine::query_memdev,
    ),
    plain("query-memory-devices", NEVER_ANY, machine::query_none),
    plain("query-iothreads", NEVER_ANY, machine::query_none),
    plain("query-block", NEVER_ANY, machine::query_none),
    command(
        "query-blockstats",
        &[optional("query-nodes", Bool)],
        NEVER_ANY,
        machine::query_none,
    ),
    plain("query-jobs", NEVER_ANY, machine::query_none),
    plain("query-migrate", NOTHING, machine::query_migrate),
    // The run state.
    plain(
        "query-status",
        Object(&[
            required("running", Bool),
            required("status", Enum(RunState::NAMES)),
        ]),
        run_state::query_status,
    ),
    plain("stop", NOTHING, run_state::stop),
    plain("cont", NOTHING, run_state::cont),
    plain("system_reset", NOTHING, run_state::system_reset),
    plain("system_powerdown", NOTHING, run_state::system_powerdown),
    plain("quit", NOTHING, run_state::quit),
    // The balloon.
    command(
        "balloon",
        &[required("value", Int)],
        NOTHING,
        balloon::balloon,
    ),
    plain(
        "query-balloon",
        Object(&[required("actual", Int)]),
        balloon::query_balloon,
    ),
    plain("x-query-balloon", BALLOON, balloon::x_query_balloon),
    Command {
        name: "x-balloon-wait",
        arguments: &[optional("value", Int), required("timeout-ms", Uint)],
        returns: WAITED,
        allow_oob: false,
        handler: Handler::Later(balloon::x_balloon_wait),
    },
    Command {
        name: "x-query-guest-stats",
        arguments: &[required("timeout-ms", Uint)],
        returns: GUEST_STATISTICS,
        allow_oob: false,
        handler: Handler::Later(statistics::x_query_guest_stats),
    },
    // The object model.
    command(
        "qom-list",
        &[required("path", Str)],
        Array(&PROPERTY_INFO),
        qom::qom_list,
    ),
    command(
        "qom-get",
        &[required("path", Str), required("property", Str)],
        Any,
        qom::qom_get,
    ),
    command(
        "qom-set",
        &[
            required("path", Str),
            required("property", Str),
            required("value", Any),
        ],
        NOTHING,
        qom::qom_set,
    ),
    command(
        "qom-list-types",
        &[optional("implements", Str), optional("abstract", Bool)],
        Array(&Object(&[
            required("name", Str),
            optional("abstract", Bool),
            optional("parent", Str),
        ])),
        qom::qom_list_types,
    ),
    command(
        "qom-list-properties",
        &[required("typename", Str)],
        Array(&PROPERTY_INFO),
        qom::qom_list_properties,
    ),
    command(
        "device-list-properties",
        &[required("typename", Str)],
        Array(&PROPERTY_INFO),
        qom::device_list_properties,
    ),
];

const NOTHING: Type = Object(&[]);

/// A list of things of which a machine here never has one.
const NEVER_ANY: Type = Array(&NOTHING);

const VERSION: Type = Object(&[
    required(
        "qemu",
        Object(&[
            required("major", Int),
            required("minor", Int),
            required("micro", Int),
        ]),
    ),
    required("package", Str),
]);

const TARGET: Type = Enum(&[machine::TARGET]);

const CPU: Type = Object(&[
    required("cpu-index", Int),
    required("qom-path", Str),
    required("thread-id", Int),
    required(
        "props",
        Object(&[
            required("socket-id", Int),
            required("core-id", Int),
            required("thread-id", Int),
        ]),
    ),
    required("target", TARGET),
]);

const MACHINE: Type = Object(&[
    required("name", Str),
    optional("is-default", Bool),
    required("cpu-max", Int),
    required("hotpluggable-cpus", Bool),
    required("numa-mem-supported", Bool),
    required("deprecated", Bool),
    optional("default-cpu-type", Str),
    optional("default-ram-id", Str),
    required("acpi", Bool),
]);

const MEMORY_BACKEND: Type = Object(&[
    optional("id", Str),
    required("size", Int),
    required("merge", Bool),
    required("dump", Bool),
    required("prealloc", Bool),
    required("share", Bool),
    optional("reserve", Bool),
    required("host-nodes", Array(&Int)),
    required("policy", Enum(&[machine::MEMORY_POLICY])),
]);

/// `guest-stats`, as QEMU has it.
const GUEST_STATISTICS: Type = Object(&[
    required("stats", Object(&STATISTICS)),
    required("last-update", Int),
]);

const STATISTICS: [Member; crate::qom::STATISTICS.len()] = {
    let mut members = [required("", Int); crate::qom::STATISTICS.len()];
    let mut tag = 0;
    while tag < members.len() {
        members[tag] = required(crate::qom::STATISTICS[tag], Int);
        tag += 1;
    }
    members
};

const CHARDEV: Type = Object(&[
    required("label", Str),
    required("filename", Str),
    required("frontend-open", Bool),
]);

const YANK_INSTANCE: Type = Object(&[
    required("type", Enum(chardev::YANK_TYPES)),
    optional("id", Str),
    optional("node-name", Str),
]);

const BALLOON: Type = Object(&[
    required("target", Int),
    required("actual", Int),
    required("min", Int),
    required("max-rate", Int),
    required("asked-pages", Int),
    required("released", Int),
    required("reported", Int),
    required("state", Enum(BalloonState::NAMES)),
    required(
        "since",
        Object(&[required("seconds", Int), required("microseconds", Int)]),
    ),
    required("rate", Int),
    required("driver-present", Bool),
    required("features", Array(&Str)),
]);

const WAITED: Type = Object(&[
    required("outcome", Enum(Outcome::NAMES)),
    required("target", Int),
    required("actual", Int),
]);

/// QEMU makes this a union over `meta-type`; here its members that not all have are optional.
const SCHEMA_INFO: Type = Object(&[
    required("name", Str),
    required(
        "meta-type",
        Enum(&["builtin", "enum", "array", "object", "command", "event"]),
    ),
    optional("json-type", Enum(&["string", "int", "boolean", "value"])),
    optional("element-type", Str),
    optional(
        "members",
        Array(&Object(&[
            required("name", Str),
            optional("type", Str),
            optional("default", Any),
        ])),
    ),
    optional("values", Array(&Str)),
    optional("arg-type", Str),
    optional("ret-type", Str),
    optional("allow-oob", Bool),
]);
