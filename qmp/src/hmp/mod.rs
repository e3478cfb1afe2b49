//! The human monitor: `human-monitor-command`, the lines that people type at QEMU.
//!
//! Lines end in CR LF. What goes wrong is text as well, in QEMU's words.

mod expression;

use serde_json::Value;

use crate::backend::{CommandError, RunState};
use crate::command::Context;
use crate::message;

const LINE_END: &str = "\r\n";
const MIB: i64 = 1 << 20;

/// What a command does with the rest of its line; what it prints.
#[derive(Clone, Copy)]
enum Action {
    /// Takes no arguments.
    Plain(fn(&mut Context<'_>) -> Result<String, CommandError>),
    /// `balloon`.
    Balloon,
    /// `info`, with commands of its own.
    Info,
    /// `help`.
    Help,
}

/// A command for people.
struct HumanCommand {
    /// Its names, the long one first.
    names: &'static [&'static str],
    parameters: &'static str,
    help: &'static str,
    action: Action,
}

const fn entry(
    names: &'static [&'static str],
    parameters: &'static str,
    help: &'static str,
    action: Action,
) -> HumanCommand {
    HumanCommand {
        names,
        parameters,
        help,
        action,
    }
}

static COMMANDS: &[HumanCommand] = &[
    entry(
        &["balloon"],
        "target",
        "request VM to change its memory allocation (in MB)",
        Action::Balloon,
    ),
    entry(
        &["cont", "c"],
        "",
        "resume emulation",
        Action::Plain(|context| context.machine.cont().map(|()| String::new())),
    ),
    entry(&["help", "?"], "[cmd]", "show the help", Action::Help),
    entry(
        &["info"],
        "[subcommand]",
        "show various information about the system state",
        Action::Info,
    ),
    entry(
        &["quit", "q"],
        "",
        "quit the emulator",
        Action::Plain(|context| {
            context.machine.quit();
            context.effects.quit = true;
            Ok(String::new())
        }),
    ),
    entry(
        &["stop", "s"],
        "",
        "stop emulation",
        Action::Plain(|context| context.machine.stop().map(|()| String::new())),
    ),
    entry(
        &["system_powerdown"],
        "",
        "send system power down event",
        Action::Plain(|context| {
            context.machine.power_down();
            Ok(String::new())
        }),
    ),
    entry(
        &["system_reset"],
        "",
        "reset the system",
        Action::Plain(|context| context.machine.reset().map(|()| String::new())),
    ),
];

static INFO: &[HumanCommand] = &[
    entry(
        &["balloon"],
        "",
        "show balloon information",
        Action::Plain(|context| {
            let actual = context.machine.balloon_actual()?;
            Ok(line(&format!("balloon: actual={}", actual >> 20)))
        }),
    ),
    entry(
        &["cpus"],
        "",
        "show infos for each CPU",
        Action::Plain(|context| {
            let cpus = context.machine.cpus().into_iter().enumerate();
            let chosen = context.monitor_cpu;
            let lines = cpus.map(|(index, cpu)| {
                let mark = if index == chosen { '*' } else { ' ' };
                line(&format!("{mark} CPU #{index}: thread_id={}", cpu.thread_id))
            });
            Ok(lines.collect())
        }),
    ),
    entry(
        &["kvm"],
        "",
        "show KVM information",
        Action::Plain(|context| {
            let kvm = context.machine.info().kvm;
            let support = match (kvm.present, kvm.enabled) {
                (false, _) => "not compiled",
                (true, false) => "disabled",
                (true, true) => "enabled",
            };
            Ok(line(&format!("kvm support: {support}")))
        }),
    ),
    entry(
        &["name"],
        "",
        "show the current VM name",
        Action::Plain(|context| {
            let name = context.machine.info().name;
            Ok(name.as_deref().map(line).unwrap_or_default())
        }),
    ),
    entry(
        &["status"],
        "",
        "show the current VM status (running|paused)",
        Action::Plain(|context| Ok(line(&status(context.machine.status())))),
    ),
    entry(
        &["uuid"],
        "",
        "show the current VM UUID",
        Action::Plain(|context| Ok(line(&context.machine.info().uuid))),
    ),
    entry(
        &["version"],
        "",
        "show the version of QEMU",
        Action::Plain(|_| Ok(line(&message::version_text()))),
    ),
];

/// Runs a line; what it prints.
pub fn run(context: &mut Context<'_>, text: &str) -> String {
    if text.trim_ascii().is_empty() {
        return String::new();
    }
    run_in(COMMANDS, context, text, text)
}

/// Runs a line of which `rest` is left, with one of `commands`.
fn run_in(commands: &[HumanCommand], context: &mut Context<'_>, whole: &str, rest: &str) -> String {
    let (name, rest) = first_word(rest);
    // What was typed up to here, as faults quote it.
    let typed = whole[..whole.len() - rest.len()].trim_ascii_end();
    let rest = rest.trim_ascii();
    let Some(command) = find(commands, name) else {
        return line(&format!("unknown command: '{typed}'"));
    };
    match command.action {
        Action::Info if rest.is_empty() => help_of_all(INFO, "info "),
        Action::Info => run_in(INFO, context, whole, &whole[typed.len()..]),
        Action::Help => help(rest),
        Action::Plain(_) if !rest.is_empty() => extraneous(command, typed),
        Action::Plain(act) => act(context).unwrap_or_else(|error| failed(&error)),
        Action::Balloon => match expression::evaluate(rest) {
            Ok((mib, "")) => balloon(context, mib, typed),
            Ok(_) => extraneous(command, typed),
            Err(fault) => line(&fault.to_string()) + &advice(typed),
        },
    }
}

/// `balloon N`, in MiB.
fn balloon(context: &mut Context<'_>, mib: i64, typed: &str) -> String {
    if mib < 0 {
        return line("enter a positive value") + &advice(typed);
    }
    // As in QEMU: a size that is too large is none.
    let bytes = Value::from(mib.wrapping_mul(MIB));
    let set = context.machine.balloon_actual();
    let set = set.and_then(|_| context.set_balloon(Some(&bytes)));
    set.map_or_else(|error| failed(&error), |()| String::new())
}

fn status(state: RunState) -> String {
    match state {
        RunState::Running => "VM status: running".to_owned(),
        RunState::Paused => "VM status: paused".to_owned(),
        other => format!("VM status: paused ({})", other.name()),
    }
}

fn help(rest: &str) -> String {
    let (name, rest) = first_word(rest);
    if name.is_empty() {
        return help_of_all(COMMANDS, "");
    }
    let Some(command) = find(COMMANDS, name) else {
        return line(&format!("unknown command: '{name}'"));
    };
    let (topic, _) = first_word(rest);
    match command.action {
        Action::Info if topic.is_empty() => help_of_all(INFO, "info "),
        Action::Info => match find(INFO, topic) {
            Some(command) => help_of(command, "info "),
            None => line(&format!("unknown command: 'info {topic}'")),
        },
        Action::Plain(_) | Action::Balloon | Action::Help => help_of(command, ""),
    }
}

fn help_of_all(commands: &[HumanCommand], prefix: &str) -> String {
    commands
        .iter()
        .map(|command| help_of(command, prefix))
        .collect()
}

fn help_of(command: &HumanCommand, prefix: &str) -> String {
    let HumanCommand {
        parameters, help, ..
    } = command;
    line(&format!(
        "{prefix}{} {parameters} -- {help}",
        command.names.join("|")
    ))
}

fn extraneous(command: &HumanCommand, typed: &str) -> String {
    let names = command.names.join("|");
    line(&format!(
        "{names}: extraneous characters at the end of line"
    )) + &advice(typed)
}

fn advice(typed: &str) -> String {
    line(&format!("Try \"help {typed}\" for more information"))
}

fn failed(error: &CommandError) -> String {
    line(&format!("Error: {error}"))
}

fn find<'a>(commands: &'a [HumanCommand], name: &str) -> Option<&'a HumanCommand> {
    commands
        .iter()
        .find(|command| command.names.contains(&name))
}

/// The first word of a text, and what follows it.
fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_ascii_start();
    let end = text.find(|c: char| c.is_ascii_whitespace());
    text.split_at(end.unwrap_or(text.len()))
}

fn line(text: &str) -> String {
    format!("{text}{LINE_END}")
}

#[cfg(test)]
mod tests;
