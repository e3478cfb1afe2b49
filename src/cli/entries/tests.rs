use super::super::arguments;
use super::*;

/// The arguments that a file in the directory `/vms` stands for.
fn arguments_of(text: &str) -> Result<Vec<OsString>, String> {
    let entries = entries(text, Path::new("/vms"), &mut arguments::command());
    entries
        .map(|entries| {
            entries
                .into_iter()
                .flat_map(|entry| entry.arguments)
                .collect()
        })
        .map_err(|problem| problem.to_string())
}

#[test]
fn values_become_the_text_of_the_command_line_in_the_order_of_the_file() {
    let text = "\
        mem = '1.5G'\n\
        cpus = 0x10\n\
        timeout = 1_000\n\
        paused = true\n\
        no-reboot = false\n\
        serial = ['stdio', 'file:log', 'file:/log']\n\
        cmdline = \"a='b' \\\"c\\\"\"\n\
        kernel = '../bzImage'\n";
    let expected = [
        "--mem=1.5G",
        "--cpus=16",
        "--timeout=1000",
        "--paused=on",
        "--no-reboot=off",
        "--serial=stdio",
        "--serial=file:/vms/log",
        "--serial=file:/log",
        "--cmdline=a='b' \"c\"",
        "--kernel=/vms/../bzImage",
    ];
    assert_eq!(arguments_of(text).unwrap(), expected);
}

#[test]
fn switch_or_table_or_text_stands_for_the_balloon() {
    for (text, value) in [
        ("balloon = true", "on"),
        ("balloon = false", "off"),
        ("balloon = 'deflate-on-oom=on'", "deflate-on-oom=on"),
        ("[balloon]", "on"),
        ("[balloon]\ndeflate-on-oom = true", "deflate-on-oom=on"),
        ("[balloon]\ndeflate-on-oom = 'off'", "deflate-on-oom=off"),
        ("balloon.deflate-on-oom = true", "deflate-on-oom=on"),
        ("balloon = { deflate-on-oom = true }", "deflate-on-oom=on"),
    ] {
        let expected = OsString::from(format!("--balloon={value}"));
        assert_eq!(arguments_of(text), Ok(vec![expected]), "{text}");
    }
}

#[test]
fn file_with_nothing_in_it_says_nothing() {
    for text in ["", "# kernel = 'k'\n", "\u{feff}\r\n"] {
        assert_eq!(arguments_of(text), Ok(Vec::new()), "{text:?}");
    }
}

#[track_caller]
fn assert_refused(text: &str, expected: &str) {
    assert_eq!(arguments_of(text), Err(expected.to_owned()), "{text}");
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    assert_refused(
        "\n\nmemm = 1",
        r#"unknown key "memm": did you mean "mem"? (line 3)"#,
    );
    assert_refused(
        "log_file = 'x'",
        r#"unknown key "log_file": did you mean "log-file"? (line 1)"#,
    );
    assert_refused(
        "[balloon]\n deflate = true",
        r#"unknown key "balloon.deflate": did you mean "balloon.deflate-on-oom"? (line 2)"#,
    );
    assert_refused("[[drive]]\nx = 1", UNKNOWN_DRIVE);
}

const UNKNOWN_DRIVE: &str =
    r#"unknown key "drive": the keys are the long options of aerostat --help (line 1)"#;

#[test]
fn what_only_the_command_line_can_say_is_no_key() {
    for key in ["config", "help", "version", "check", "v"] {
        let error = arguments_of(&format!("{key} = 'x'")).unwrap_err();
        assert!(
            error.starts_with(&format!("unknown key {key:?}")),
            "{error}"
        );
    }
}

#[test]
fn first_thing_wrong_in_the_file_is_named() {
    let error = arguments_of("verbose = 9\nb = 1\na = 1\n").unwrap_err();
    assert!(error.starts_with("verbose: "), "{error}");
}

#[test]
fn values_are_refused_with_the_words_of_the_command_line() {
    assert_refused(
        "mem = '2G,backing=disk'",
        "mem: \"2G,backing=disk\": \"backing=disk\": the value is anon, memfd or hugetlbfs (line 1)",
    );
    assert_refused(
        "mem = '2X'",
        "mem: \"2X\": not a size: write a number and K, M, G or T, for example 512M or 2G (line 1)",
    );
    assert_refused(
        "\ncpus = -1",
        "cpus: \"-1\": write a number from 1 to 64 (line 2)",
    );
    assert_refused(
        "on-term = ''",
        "on-term: \"\": write quit or powerdown (line 1)",
    );
    assert_refused("kernel = ''", "kernel: \"\": a value is needed (line 1)");
    assert_refused(
        "serial = ['stdio',\n'file:']",
        "serial: \"file:\": file: needs a path (line 2)",
    );
    assert_refused(
        "balloon.deflate-on-oom = 3",
        "balloon: \"deflate-on-oom=3\": \"deflate-on-oom=3\": the value is on or off (line 1)",
    );
}

#[test]
fn number_past_128_bits_is_shown_as_it_stands() {
    let number = "9".repeat(50);
    let error = arguments_of(&format!("mem = {number}")).unwrap_err();
    assert!(
        error.contains(&number) && error.contains("too large"),
        "{error}"
    );
}

#[test]
fn values_that_would_not_fit_into_an_argument_are_refused() {
    assert_refused(
        "cmdline = \"a\\u0000b\"",
        "cmdline: \"a\\0b\": no argument can have a NUL character (line 1)",
    );
    assert_refused(
        "[balloon]\ndeflate-on-oom = 'on,x=y'",
        "balloon.deflate-on-oom: \"on,x=y\": a comma would end the value (line 2)",
    );
}

#[test]
fn types_that_an_option_cannot_have_are_refused_with_those_it_can() {
    for (text, key, found, needed) in [
        ("kernel = 5", "kernel", "a number", "a text"),
        ("kernel = true", "kernel", "true or false", "a text"),
        ("kernel = ['a']", "kernel", "a list", "a text"),
        ("mem = true", "mem", "true or false", "a text or a number"),
        ("mem = {}", "mem", "a table", "a text or a number"),
        (
            "cmdline = 2020-01-01",
            "cmdline",
            "a date or time of day",
            "a text or a number",
        ),
        ("paused = 1", "paused", "a number", "true or false"),
        ("cpus = [1]", "cpus", "a list", "a number"),
        (
            "serial = []",
            "serial",
            "an empty list",
            "a text, or a list of texts",
        ),
        (
            "serial = [1]",
            "serial",
            "a number",
            "a text, or a list of texts",
        ),
        (
            "serial = [['stdio']]",
            "serial",
            "a list",
            "a text, or a list of texts",
        ),
        (
            "balloon = 1",
            "balloon",
            "a number",
            "true, false, a text, or a table of these",
        ),
        (
            "balloon.deflate-on-oom = []",
            "balloon",
            "an empty list",
            "true, false, a text, or a table of these",
        ),
    ] {
        let expected = format!("{key}: {found} cannot stand here: write {needed} (line 1)");
        assert_refused(text, &expected);
    }
}

#[test]
fn text_that_is_no_toml_is_refused_with_line_and_column() {
    for (text, place) in [
        ("mem = ", "(line 1, column 7)"),
        ("mem = '2G'\nmem = '3G'", "(line 2, column 1)"),
        ("[balloon\n", "(line 1, column 9)"),
        ("--kernel=x", "(line 1, column 10)"),
        ("cmdline = 'µ' x", "(line 1, column 15)"),
        ("a = \"\n", "(line 1, column 6)"),
    ] {
        let error = arguments_of(text).unwrap_err();
        assert!(
            error.ends_with(place) && !error.contains('\n'),
            "{text}: {error}"
        );
    }
}

#[test]
fn nesting_without_end_is_refused() {
    let error = arguments_of(&format!("mem = {}", "[".repeat(100_000))).unwrap_err();
    assert!(error.contains("(line 1"), "{error}");
}
