//! What `aerostat check` prints: a file that means the same.

use proptest::prelude::*;

use super::*;

/// The options and the file that `aerostat check` makes of these arguments.
fn checked(arguments: &[String]) -> (Options, String) {
    match parse(&[strings(&["check"]), arguments.to_vec()].concat()) {
        Ok(Request::Check { options, file }) => (options, file),
        other => panic!("{other:?}"),
    }
}

#[test]
fn check_prints_the_defaults_too() {
    let (_, file) = checked(&needed_besides(""));
    let expected = "\
# Boot
kernel = \"/k\"
boot = \"direct\"
cmdline = \"console=ttyS0 panic=-1\"

# Machine
cpus = 1
mem = \"2G\"
balloon = \"on\"

# Control
qmp = \"/q\"
paused = false

# Life cycle
no-reboot = false
no-shutdown = false
on-term = \"quit\"
on-panic = \"exit\"
on-error = \"exit\"

# Testing kernels
debug-exit = false
boot-timer = false

# Console and log
serial = \"stdio\"
verbose = 0
";
    assert_eq!(file, expected);
}

#[test]
fn check_prints_absolute_paths() {
    let (_, file) = checked(&strings(&["--kernel=a/k", "--mem=2G", "--serial=file:c"]));
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    assert!(file.contains(&format!("kernel = \"{here}/a/k\"")), "{file}");
    assert!(
        file.contains(&format!("serial = \"file:{here}/c\"")),
        "{file}"
    );
}

#[test]
fn check_prints_sockets_with_their_options_and_absolute_paths() {
    let sockets = ["--qmp=a,,b,mode=0660", "--qmp=unix:c,server,nowait"];
    let (_, file) = checked(&[needed_besides("qmp"), strings(&sockets)].concat());
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    let line = format!("qmp = [\"{here}/a,,b,mode=0660\", \"unix:{here}/c,server,nowait\"]\n");
    assert!(file.contains(&line), "{file}");
}

#[test]
fn check_refuses_to_print_a_path_that_is_no_text() {
    use std::os::unix::ffi::OsStringExt;
    let path = OsString::from_vec(b"--kernel=/\xff".to_vec());
    let line = ["aerostat", "check", "--mem=2G"].map(OsString::from);
    let error = request(line.into_iter().chain([path])).unwrap_err();
    assert!(
        error.to_string().contains("--kernel is not UTF-8"),
        "{error}"
    );
}

#[test]
fn what_check_prints_means_the_same_option_by_option() {
    for sample in &SAMPLES {
        for values in [sample.arguments, sample.others] {
            let (options, file) = checked(&[needed_besides(sample.key), strings(values)].concat());
            assert_eq!(run(&Place::with(&file).config()), Ok(options), "{file}");
        }
    }
}

/// Arguments for a machine with all options, with any texts in them.
fn any_arguments() -> impl Strategy<Value = Vec<String>> {
    let path = || "/[^\0]{0,20}";
    let switch = || prop::sample::select(vec!["on", "off"]);
    let boot = (path(), prop::option::of(path()), "[^\0]{0,40}", 1..=64_u8);
    let consoles = prop::sample::subsequence(vec!["stdio", "file:/1", "file:/2 \"'"], 0..=3);
    let ends = (
        prop::sample::select(vec![
            "--no-shutdown",
            "--debug-exit",
            "--paused",
            "--no-reboot",
        ]),
        switch(),
        prop::option::of("[^\0\r]{1,20}"),
        prop::collection::vec(0..=3_u8, 1..3),
    );
    (boot, consoles, ends).prop_map(|((kernel, initrd, cmdline, cpus), consoles, ends)| {
        let (flag, on, expect, verbose) = ends;
        let mut arguments = vec![
            format!("--kernel={kernel}"),
            "--mem=1.5G".to_owned(),
            "--qmp=/q".to_owned(),
            format!("--cmdline={cmdline}"),
            format!("--cpus={cpus}"),
            format!("{flag}={on}"),
        ];
        arguments.extend(verbose.iter().map(|number| format!("--verbose={number}")));
        arguments.extend(initrd.map(|path| format!("--initrd={path}")));
        arguments.extend(expect.map(|text| format!("--expect={text}")));
        arguments.extend(consoles.iter().map(|console| format!("--serial={console}")));
        arguments
    })
}

proptest! {
    #[test]
    fn what_check_prints_means_the_same_for_any_texts(arguments in any_arguments()) {
        let (options, file) = checked(&arguments);
        let again = run(&Place::with(&file).config());
        prop_assert_eq!(again.as_ref(), Ok(&options), "{}", file);
        let printed = checked(&Place::with(&file).config()).1;
        prop_assert_eq!(printed, file);
    }
}
