mod check;
mod paths;
mod samples;

use std::fs;

use aerostat_devices::RamOptions;
use tempfile::TempDir;

use super::arguments::{file_options, key};
use super::balloon::BalloonSettings;
use super::kind::{Kind, repeats};
use super::options::{BootArgument, ErrorPolicy, PanicPolicy, TermPolicy};
use super::*;
use samples::SAMPLES;

/// What a machine needs, to be paused too.
const NEEDED: [&str; 3] = ["--kernel=/k", "--mem=2G", "--qmp=/q"];

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// What a machine needs, less the option `key`.
fn needed_besides(key: &str) -> Vec<String> {
    let option = format!("--{key}=");
    let needed = NEEDED.iter().filter(|needed| !needed.starts_with(&option));
    needed.map(ToString::to_string).collect()
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let line = ["aerostat"]
        .into_iter()
        .chain(arguments.iter().map(String::as_str));
    request(line.map(OsString::from)).map_err(|error| error.to_string())
}

/// What a run with these arguments has for its options.
fn run(arguments: &[String]) -> Result<Options, String> {
    match parse(arguments)? {
        Request::Run(options) => Ok(options),
        other => panic!("{other:?}"),
    }
}

/// As [`run`], with what a machine needs before the arguments.
fn machine(arguments: &[&str]) -> Result<Options, String> {
    run(&[needed_besides(""), strings(arguments)].concat())
}

/// A directory with the configuration file `machine.toml`.
struct Place(TempDir);

impl Place {
    fn with(file: &str) -> Self {
        let place = Self(TempDir::new().unwrap());
        fs::write(place.path("machine.toml"), file).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// The argument for the file.
    fn config(&self) -> Vec<String> {
        vec![format!("--config={}", self.path("machine.toml"))]
    }
}

#[test]
fn definitions_are_consistent() {
    arguments::command().debug_assert();
}

#[test]
fn needed_arguments_make_a_machine_with_the_defaults() {
    let expected = Options {
        kernel: "/k".into(),
        boot: BootArgument::Direct,
        kernel_cache: None,
        initrd: None,
        cmdline: aerostat_vmm::config::DEFAULT_CMDLINE.to_owned(),
        cpus: 1,
        mem: "2G".parse().unwrap(),
        ram: RamOptions::default(),
        balloon: Some(BalloonSettings::default()),
        name: None,
        uuid: None,
        qmp: vec![SocketArgument::parse("/q".into()).unwrap()],
        paused: false,
        no_reboot: false,
        no_shutdown: false,
        on_term: TermPolicy::Quit,
        on_panic: PanicPolicy::Exit,
        on_error: ErrorPolicy::Exit,
        timeout: None,
        expect: None,
        debug_exit: false,
        boot_timer: false,
        serial: vec![SerialArgument::Stdio],
        verbose: 0,
        log_file: None,
    };
    assert_eq!(machine(&[]), Ok(expected));
}

#[test]
fn samples_are_all_options() {
    let command = arguments::command();
    let options: Vec<_> = file_options(&command).map(key).collect();
    let samples: Vec<_> = SAMPLES.iter().map(|sample| sample.key).collect();
    let without: Vec<_> = options
        .iter()
        .filter(|key| !samples.contains(key))
        .collect();
    assert!(
        without.is_empty(),
        "give a sample of {without:?} in SAMPLES"
    );
    assert_eq!(samples.len(), options.len());
}

#[test]
fn option_means_the_same_in_file_and_command_line() {
    let defaults = machine(&[]).unwrap();
    for sample in &SAMPLES {
        let needed = needed_besides(sample.key);
        let place = Place::with(sample.file);
        let from_file = run(&[needed.clone(), place.config()].concat());
        let from_line = run(&[needed, strings(sample.arguments)].concat());
        assert_eq!(from_file, from_line, "{}", sample.key);
        assert_ne!(from_line, Ok(defaults.clone()), "{}", sample.key);
    }
}

#[test]
fn every_switch_can_be_taken_back_and_every_value_replaced_by_the_command_line() {
    for sample in &SAMPLES {
        let needed = needed_besides(sample.key);
        let place = Place::with(sample.file);
        let line = [needed, strings(sample.others)].concat();
        let both = run(&[line.clone(), place.config()].concat());
        assert_eq!(both, run(&line), "{}", sample.key);
        let first = run(&[needed_besides(sample.key), strings(sample.arguments)].concat());
        assert_ne!(both, first, "{}", sample.key);
    }
}

#[test]
fn whole_machine_can_stand_in_a_file() {
    // A table takes all keys that follow it, so the one sample with a table comes last.
    let (tables, keys): (Vec<_>, Vec<_>) = SAMPLES
        .iter()
        .filter(|sample| sample.key != "no-shutdown")
        .partition(|sample| sample.file.starts_with('['));
    let lines: Vec<_> = keys
        .iter()
        .chain(&tables)
        .map(|sample| sample.file)
        .collect();
    let arguments: Vec<_> = keys
        .iter()
        .chain(&tables)
        .flat_map(|sample| sample.arguments)
        .collect();
    let from_line = run(&arguments
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>());
    assert!(from_line.is_ok(), "{from_line:?}");
    assert_eq!(run(&Place::with(&lines.join("\n")).config()), from_line);
}

#[test]
fn options_that_repeat_may_be_single_in_a_file() {
    let place = Place::with("serial = 'off'\n");
    let options = run(&[needed_besides(""), place.config()].concat()).unwrap();
    assert_eq!(options.serial, []);
    let command = arguments::command();
    let repeating: Vec<_> = file_options(&command)
        .filter(|o| repeats(o))
        .map(key)
        .collect();
    assert_eq!(repeating, ["qmp", "serial", "verbose"]);
}

#[test]
fn guest_in_huge_pages_of_the_pool_reports_free_pages_only_where_that_is_chosen() {
    let reports = |mem: &str, balloon: &[&str]| {
        let arguments = [&["--kernel=/k", mem], balloon].concat();
        let options = run(&strings(&arguments)).unwrap();
        options.balloon.unwrap().device.free_page_reporting
    };
    let huge = "--mem=2G,backing=hugetlbfs";
    assert!(reports("--mem=2G", &[]));
    assert!(!reports(huge, &[]));
    assert!(!reports(huge, &["--balloon=page-poison=off"]));
    assert!(reports(huge, &["--balloon=free-page-reporting=on"]));
}

#[test]
fn reports_that_could_give_nothing_back_are_refused() {
    let huge = "--mem=2G,backing=hugetlbfs,hugepage=1G";
    let parse = |balloon: &str| parse(&strings(&["--kernel=bz", huge, balloon]));
    assert!(parse("--balloon=min=1G").is_ok());
    let refused = parse("--balloon=free-page-reporting=on").unwrap_err();
    assert!(refused.to_string().contains("choose hugepage=2M"));
}

#[test]
fn paused_machine_needs_a_socket() {
    let arguments = strings(&["--kernel=/k", "--mem=2G", "--paused"]);
    let refusal = run(&arguments).unwrap_err();
    assert!(refusal.contains("--qmp"), "{refusal}");
}

#[test]
fn switches_without_value_are_on() {
    let options = machine(&["--paused", "--no-reboot=on", "--no-shutdown=off"]).unwrap();
    assert!(options.paused && options.no_reboot && !options.no_shutdown);
}

#[test]
fn verbosity_adds_up_to_3() {
    let verbose = |arguments: &[&str]| machine(arguments).unwrap().verbose;
    assert_eq!(verbose(&["-v"]), 1);
    assert_eq!(verbose(&["-vv"]), 2);
    assert_eq!(verbose(&["-v", "--verbose", "--verbose=1"]), 3);
    assert_eq!(verbose(&["-vvvvv"]), 3);
    assert_eq!(verbose(&["--verbose=0"]), 0);
    assert!(machine(&["--verbose=4"]).unwrap_err().contains("0 to 3"));
}

#[test]
fn missing_options_are_all_named_with_where_they_may_stand() {
    let error = run(&[]).unwrap_err();
    for part in ["--kernel PATH and --mem SIZE", "--config", "--help"] {
        assert!(error.contains(part), "{error}");
    }
    let error = run(&strings(&["--kernel=/k"])).unwrap_err();
    assert!(error.starts_with("--mem SIZE must"), "{error}");
}

#[test]
fn options_that_make_no_machine_together_are_refused_wherever_they_stand() {
    for (file, arguments, parts) in [
        (
            "expect = 'x'",
            ["--serial=off"].as_slice(),
            ["--expect", "--serial off"],
        ),
        (
            "serial = 'off'",
            &["--expect=x"],
            ["--expect", "--serial off"],
        ),
        (
            "debug-exit = true",
            &["--no-shutdown"],
            ["--debug-exit", "--no-shutdown"],
        ),
        ("balloon = 'min=2049M'", &[], ["min=2049M", "--mem 2G"]),
        (
            "",
            &["--serial=off", "--serial=stdio"],
            ["--serial off", "alone"],
        ),
        (
            "",
            &["--serial=off", "--serial=off"],
            ["--serial off", "alone"],
        ),
        (
            "serial = ['stdio', 'stdio']",
            &[],
            ["--serial stdio", "twice"],
        ),
    ] {
        let place = Place::with(file);
        let line = [needed_besides(""), place.config(), strings(arguments)].concat();
        let error = run(&line).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn command_line_can_mend_what_does_not_go_together_in_the_file() {
    let place = Place::with("expect = 'x'\nserial = 'off'\n");
    let line = [
        needed_besides(""),
        place.config(),
        strings(&["--serial=stdio"]),
    ]
    .concat();
    assert_eq!(run(&line).unwrap().serial, [SerialArgument::Stdio]);
}

#[test]
fn wrong_arguments_are_answered_in_one_line_with_their_value() {
    for (arguments, value) in [
        (&["--cmdline", "x", "--cmdline"][..], "--cmdline"),
        (&["--frobnicate"], "--frobnicate"),
        (&["stray"], "stray"),
        (&["--cpus", "65"], "65"),
        (&["--on-panic", "explode"], "explode"),
        (&["--paused=perhaps"], "perhaps"),
        (&["--qmp", "tcp::1"], "tcp::1"),
        (&["--qmp", "/a,x=1"], "x=1"),
        (&["--name", ""], "--name"),
        (&["--uuid", "abc"], "abc"),
    ] {
        let line = machine(arguments).unwrap_err();
        assert!(line.contains(value) && line.contains("--help"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["check", "--help"],
    ] {
        assert!(matches!(parse(&strings(arguments)), Ok(Request::Show(_))));
    }
}

#[test]
fn check_is_a_word_only_in_its_place() {
    assert_eq!(machine(&["--cmdline", "check"]).unwrap().cmdline, "check");
    let error = machine(&["check"]).unwrap_err();
    assert!(error.contains("'check' cannot be used with"), "{error}");
}
