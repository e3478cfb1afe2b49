//! The texts are QEMU's, as 7.2 printed them and 10.0 changed them.

use super::*;
use crate::testing::{Machine, in_context};

fn said(machine: &mut Machine, text: &str) -> String {
    in_context(machine, |context| run(context, text))
}

#[test]
fn balloon_counts_in_mib_and_says_nothing() {
    let mut machine = Machine::default();
    assert_eq!(said(&mut machine, "balloon 64*2"), "");
    assert_eq!(machine.target_bytes, Some(128 << 20));
    assert_eq!(
        said(&mut machine, "info balloon"),
        "balloon: actual=256\r\n"
    );
}

#[test]
fn faults_are_texts_with_advice() {
    let mut machine = Machine::default();
    for (text, answer) in [
        ("nope", "unknown command: 'nope'\r\n"),
        ("info nope", "unknown command: 'info nope'\r\n"),
        ("  info  nope x", "unknown command: '  info  nope'\r\n"),
        (
            "stop x",
            "stop|s: extraneous characters at the end of line\r\n\
             Try \"help stop\" for more information\r\n",
        ),
        (
            " s  x",
            "stop|s: extraneous characters at the end of line\r\n\
             Try \"help  s\" for more information\r\n",
        ),
        (
            "info  status x",
            "status: extraneous characters at the end of line\r\n\
             Try \"help info  status\" for more information\r\n",
        ),
        (
            "balloon '",
            "character constant expected\r\nTry \"help balloon\" for more information\r\n",
        ),
        (
            "info balloon x",
            "balloon: extraneous characters at the end of line\r\n\
             Try \"help info balloon\" for more information\r\n",
        ),
        (
            "balloon",
            "unexpected end of expression\r\nTry \"help balloon\" for more information\r\n",
        ),
        (
            "balloon -1",
            "enter a positive value\r\nTry \"help balloon\" for more information\r\n",
        ),
        ("balloon 0", "Error: Parameter 'value' expects a size\r\n"),
        (
            "balloon 17592186044416",
            "Error: Parameter 'value' expects a size\r\n",
        ),
    ] {
        assert_eq!(said(&mut machine, text), answer);
    }
    assert_eq!(machine.target_bytes, None);
}

#[test]
fn help_is_for_all_commands_or_one() {
    let mut machine = Machine::default();
    for (text, answer) in [
        ("help c", "cont|c  -- resume emulation\r\n"),
        ("? help", "help|? [cmd] -- show the help\r\n"),
        (
            "help info balloon",
            "info balloon  -- show balloon information\r\n",
        ),
        ("help nope", "unknown command: 'nope'\r\n"),
    ] {
        assert_eq!(said(&mut machine, text), answer);
    }
    let all = said(&mut machine, "help");
    assert_eq!(all.lines().count(), COMMANDS.len());
    assert_eq!(said(&mut machine, "info"), said(&mut machine, "help info"));
}

#[test]
fn chosen_cpu_is_marked() {
    let mut machine = Machine::default();
    let cpus = in_context(&mut machine, |context| {
        context.monitor_cpu = 1;
        run(context, "info cpus")
    });
    let marks = cpus.lines().map(|line| line.starts_with("* CPU"));
    assert!(
        marks
            .enumerate()
            .all(|(index, is_marked)| is_marked == (index == 1)),
        "{cpus}"
    );
}

#[test]
fn quit_ends_the_server() {
    let mut machine = Machine::default();
    let quit = in_context(&mut machine, |context| {
        run(context, "q");
        context.effects.quit
    });
    assert!(quit && machine.quit);
}
