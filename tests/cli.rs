//! Wrong arguments and unusable files: exit status 2 and one line that says what to do.

mod common;
mod place;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output};
use std::time::Duration;

use aerostat_tiny_guest::{Script, goodbye_elf, script_elf};
use common::setup::{Setup, binary_under_test};
use place::{Place, assert_ran, assert_says, refusal};

/// Runs a machine that would work but for the arguments in `more`, which come first.
fn run_with(place: &Place, more: &[&str]) -> Output {
    let given = |name: &&[&str]| !more.contains(&name[0]);
    let needed: [&[&str]; 3] = [&["--kernel", "kernel"], &["--mem", "64M"], &["--qmp", "q"]];
    let rest = needed.iter().filter(|n| given(n)).flat_map(|n| n.iter());
    place.run(&more.iter().chain(rest).collect::<Vec<_>>())
}

/// The one line with which such a machine is refused.
#[track_caller]
fn refusal_with(place: &Place, more: &[&str]) -> String {
    refusal(&run_with(place, more))
}

#[test]
fn machine_with_the_needed_arguments_runs() {
    assert_ran(&Place::new().run(&["--kernel", "kernel", "--mem", "64M"]));
}

#[test]
fn machine_with_a_control_socket_runs() {
    assert_ran(&run_with(&Place::new(), &[]));
}

#[test]
fn help_and_version_are_printed_with_status_0() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert_says(
        &String::from_utf8_lossy(&help.stdout),
        &["--kernel", "--mem", "check", "Example:", "socat", "124"],
    );
    let version = place.run(&["--version"]);
    assert_says(&String::from_utf8_lossy(&version.stdout), &["aerostat 0."]);
    assert!(help.status.success() && version.status.success());
}

#[test]
fn missing_and_unknown_arguments_are_named() {
    let place = Place::new();
    assert_says(&refusal(&place.run::<&str>(&[])), &["--kernel", "--mem"]);
    assert_says(
        &refusal_with(&place, &["--nonsense"]),
        &["--nonsense", "--help"],
    );
}

#[test]
fn sizes_that_make_no_machine_are_refused_with_the_reason() {
    let place = Place::new();
    for (size, reason) in [
        ("0", "needs memory"),
        ("much", "not a size"),
        ("32M", "minimum is 64M"),
        ("67108865b", "4 KiB"),
        ("999999999T", "too large"),
    ] {
        assert_says(&refusal_with(&place, &["--mem", size]), &[size, reason]);
    }
}

#[test]
fn options_that_make_no_machine_together_are_refused() {
    let place = Place::new();
    for (more, parts) in [
        (
            &["--expect", "x", "--serial", "off"][..],
            ["--expect", "--serial off"],
        ),
        (
            &["--debug-exit", "--no-shutdown"],
            ["--debug-exit", "--no-shutdown"],
        ),
        (
            &["--serial", "stdio", "--serial", "stdio"],
            ["--serial stdio", "twice"],
        ),
        (
            &["--serial", "off", "--serial", "stdio"],
            ["--serial off", "alone"],
        ),
        (
            &["--serial", "file:a", "--serial", "file:./a"],
            ["file:./a", "another"],
        ),
    ] {
        assert_says(&refusal_with(&place, more), &parts);
    }
    assert!(!place.path("a").exists() && !place.path("q").exists());
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    let place = Place::new();
    for (more, part) in [
        (["--cpus", "0"], "1 to 64"),
        (["--cpus", "65"], "1 to 64"),
        (["--timeout", "0"], "no time"),
        (["--timeout", "2 years"], "365 days"),
        (["--timeout", "soon"], "500ms"),
        (["--expect", ""], "empty"),
        (["--on-panic", "x"], "exit, pause, reset"),
    ] {
        assert_says(&refusal_with(&place, &more), &[more[0], part]);
    }
}

#[test]
fn size_beyond_the_host_is_refused_with_the_option_to_change() {
    assert_says(
        &refusal_with(&Place::new(), &["--mem", "8000T"]),
        &["8000T", "--mem"],
    );
}

#[test]
fn kernel_that_is_not_there_is_named_with_the_reason() {
    let text = refusal_with(&Place::new(), &["--kernel", "nowhere"]);
    assert_says(&text, &["nowhere", "No such file"]);
}

#[test]
fn files_that_are_no_kernels_are_refused() {
    let place = Place::new();
    place.write("text", b"hello, world");
    place.write("empty", b"");
    for name in ["text", "empty", "/dev/null", "."] {
        assert_says(&refusal_with(&place, &["--kernel", name]), &[name]);
    }
}

#[test]
fn truncated_kernel_is_refused_as_such() {
    let place = Place::new();
    let kernel = goodbye_elf();
    place.write("cut", &kernel[..kernel.len() - 1]);
    assert_says(
        &refusal_with(&place, &["--kernel", "cut"]),
        &["cut", "truncated"],
    );
}

#[test]
fn kernel_for_another_architecture_is_refused_by_its_name() {
    let place = Place::new();
    let mut kernel = goodbye_elf();
    kernel[18] = 183;
    place.write("arm", &kernel);
    assert_says(
        &refusal_with(&place, &["--kernel", "arm"]),
        &["arm", "AArch64", "x86-64"],
    );
}

#[test]
fn initrd_that_does_not_fit_is_refused_with_what_would_do() {
    let place = Place::new();
    let initrd = fs::File::create(place.path("big")).expect("create");
    initrd.set_len(100 << 20).expect("grow");
    assert_says(
        &refusal_with(&place, &["--initrd", "big"]),
        &["Initrd big", "102M", "--mem"],
    );
}

#[test]
fn command_line_past_the_kernels_limit_is_refused_with_both_lengths() {
    let text = refusal_with(&Place::new(), &["--cmdline", &"x".repeat(2048)]);
    assert_says(&text, &["2048", "2047"]);
}

#[test]
fn command_line_up_to_the_kernels_limit_is_taken() {
    assert!(
        run_with(&Place::new(), &["--cmdline", &"x".repeat(2047)])
            .status
            .success()
    );
}

#[test]
fn socket_path_past_the_limit_is_refused_with_the_limit() {
    let long = format!("/tmp/{}", "x".repeat(200));
    assert_says(
        &refusal_with(&Place::new(), &["--qmp", &long]),
        &["205 bytes", "107"],
    );
}

#[test]
fn socket_in_a_directory_that_is_not_there_is_refused() {
    assert_says(
        &refusal_with(&Place::new(), &["--qmp", "no/where"]),
        &["no/where"],
    );
}

#[test]
fn file_in_the_place_of_the_socket_is_left_alone() {
    let place = Place::new();
    let file = place.write("precious", b"data");
    assert_says(&refusal_with(&place, &["--qmp", "precious"]), &["precious"]);
    assert_eq!(fs::read(file).expect("read"), b"data");
}

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn stale_socket_is_replaced() {
    let place = Place::new();
    drop(UnixListener::bind(place.path("q")).expect("bind"));
    // A process that is being started elsewhere has the descriptor for a moment.
    let is_stale = || UnixStream::connect(place.path("q")).is_err();
    assert!(common::wait_until(LIMIT, is_stale));
    assert!(place.path("q").exists());
    assert!(run_with(&place, &[]).status.success());
}

#[test]
fn socket_of_a_live_server_is_refused_and_left_to_it() {
    let machine = Setup::tiny(Script::new())
        .expect("guest")
        .start()
        .expect("start");
    machine.qmp().expect("connect");
    let socket = machine.socket().to_str().expect("path").to_owned();
    assert_says(
        &refusal_with(&Place::new(), &["--qmp", &socket]),
        &[&socket, "in use"],
    );
    machine
        .qmp()
        .expect("the first machine still serves its socket");
}

#[test]
fn socket_is_for_its_owner_alone_and_gone_at_the_end() {
    let mut machine = Setup::tiny(Script::new())
        .expect("guest")
        .start()
        .expect("start");
    let mut qmp = machine.qmp().expect("connect");
    let metadata = fs::metadata(machine.socket()).expect("socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    qmp.execute("quit").expect("quit");
    machine.wait_success().expect("status 0");
    assert!(!machine.socket().exists());
}

#[test]
fn refused_machine_leaves_no_socket() {
    let place = Place::new();
    refusal_with(&place, &["--kernel", "nowhere"]);
    assert!(!place.path("q").exists());
}

#[test]
fn console_goes_to_a_file() {
    let place = Place::new();
    let output = run_with(&place, &["--serial", "file:console"]);
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(fs::read(place.path("console")).expect("console"), b"!");
}

#[test]
fn files_that_cannot_be_written_are_named() {
    let place = Place::new();
    assert_says(
        &refusal_with(&place, &["--serial", "file:no/where"]),
        &["no/where"],
    );
    assert_says(
        &refusal_with(&place, &["--log-file", "no/where"]),
        &["no/where"],
    );
}

#[test]
fn log_goes_to_a_file_rather_than_to_standard_error() {
    let place = Place::new();
    let output = run_with(&place, &["-vv", "--log-file", "log"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_says(
        &fs::read_to_string(place.path("log")).expect("log"),
        &["Kernel: Pvh"],
    );
}

/// The kernel that a test wrote is found by its content, whatever its name says.
#[test]
fn kernel_is_recognised_by_its_content() {
    let place = Place::new();
    place.write("bzImage.txt", &script_elf());
    place.write("off", &Script::new().power_off().into_initrd());
    let output = run_with(&place, &["--kernel", "bzImage.txt", "--initrd", "off"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Hides `/dev/kvm` from a process in a mount namespace of its own, where that is allowed.
fn without_kvm(place: &Place, hide: &str) -> Output {
    let script = format!("{hide}; exec \"$0\" --kernel kernel --mem 64M --qmp q </dev/null");
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(binary_under_test().expect("binary"))
        .current_dir(place.directory())
        .output()
        .expect("unshare")
}

#[test]
fn missing_kvm_is_named() {
    let place = Place::new();
    let output = without_kvm(&place, "mount -t tmpfs none /dev && : >/dev/null");
    assert_says(&refusal(&output), &["/dev/kvm does not exist", "kvm_intel"]);
}

#[test]
fn device_that_is_no_kvm_is_named() {
    let place = Place::new();
    let output = without_kvm(&place, "mount --bind /dev/null /dev/kvm");
    assert_says(&refusal(&output), &["/dev/kvm"]);
}
