//! Every option with values, in both notations.

/// An option with two values other than its default, the first of them in both notations.
pub struct Sample {
    pub key: &'static str,
    pub arguments: &'static [&'static str],
    pub file: &'static str,
    pub others: &'static [&'static str],
}

const fn sample(
    key: &'static str,
    arguments: &'static [&'static str],
    file: &'static str,
    others: &'static [&'static str],
) -> Sample {
    Sample {
        key,
        arguments,
        file,
        others,
    }
}

pub const SAMPLES: [Sample; 24] = [
    sample(
        "kernel",
        &["--kernel", "/a"],
        "kernel = '/a'",
        &["--kernel=/b"],
    ),
    sample(
        "boot",
        &["--boot", "guest-decompress"],
        "boot = 'guest-decompress'",
        &["--boot=direct"],
    ),
    sample(
        "kernel-cache",
        &["--kernel-cache", "/c"],
        "kernel-cache = '/c'",
        &["--kernel-cache=/d"],
    ),
    sample(
        "initrd",
        &["--initrd", "/a"],
        "initrd = '/a'",
        &["--initrd=/b"],
    ),
    sample(
        "cmdline",
        &["--cmdline", "-a b"],
        "cmdline = '-a b'",
        &["--cmdline="],
    ),
    sample("cpus", &["--cpus", "64"], "cpus = 64", &["--cpus=2"]),
    sample(
        "mem",
        &["--mem", "128M,backing=memfd,thp=on"],
        "mem = '128M,backing=memfd,thp=on'",
        &["--mem=1.5G"],
    ),
    sample(
        "balloon",
        &["--balloon", "deflate-on-oom=on,id=b,stall-after=2s"],
        "[balloon]\ndeflate-on-oom = true\nid = \"b\"\nstall-after = \"2s\"",
        &["--balloon=off"],
    ),
    sample(
        "name",
        &["--name", "web 1"],
        "name = 'web 1'",
        &["--name=-"],
    ),
    sample(
        "uuid",
        &["--uuid", "01234567-89ab-cdef-0123-456789ABCDEF"],
        "uuid = '01234567-89ab-cdef-0123-456789ABCDEF'",
        &["--uuid=00000000-0000-0000-0000-000000000001"],
    ),
    sample(
        "qmp",
        &["--qmp", "/a,mode=0660,group=0", "--qmp", "/b"],
        "qmp = ['/a,mode=0660,group=0', '/b']",
        &["--qmp=unix:/a,,b,server=on,wait=off"],
    ),
    sample("paused", &["--paused"], "paused = true", &["--paused=off"]),
    sample(
        "no-reboot",
        &["--no-reboot"],
        "no-reboot = true",
        &["--no-reboot=off"],
    ),
    sample(
        "no-shutdown",
        &["--no-shutdown"],
        "no-shutdown = true",
        &["--no-shutdown=off"],
    ),
    sample(
        "on-term",
        &["--on-term", "powerdown"],
        "on-term = 'powerdown'",
        &["--on-term=quit"],
    ),
    sample(
        "on-panic",
        &["--on-panic", "reset"],
        "on-panic = 'reset'",
        &["--on-panic=pause"],
    ),
    sample(
        "on-error",
        &["--on-error", "pause"],
        "on-error = 'pause'",
        &["--on-error=exit"],
    ),
    sample(
        "timeout",
        &["--timeout", "60"],
        "timeout = 60",
        &["--timeout=2m"],
    ),
    sample(
        "expect",
        &["--expect", "-a\nb"],
        "expect = \"-a\\nb\"",
        &["--expect=b"],
    ),
    sample(
        "debug-exit",
        &["--debug-exit"],
        "debug-exit = true",
        &["--debug-exit=off"],
    ),
    sample(
        "boot-timer",
        &["--boot-timer"],
        "boot-timer = true",
        &["--boot-timer=off"],
    ),
    sample(
        "serial",
        &["--serial", "file:/a", "--serial", "stdio"],
        "serial = ['file:/a', 'stdio']",
        &["--serial=off"],
    ),
    sample(
        "verbose",
        &["-v", "--verbose"],
        "verbose = 2",
        &["--verbose=0"],
    ),
    sample(
        "log-file",
        &["--log-file", "/a"],
        "log-file = '/a'",
        &["--log-file=/b"],
    ),
];
