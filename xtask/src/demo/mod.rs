//! `cargo xtask demo`: boots a stock Linux kernel and steers its memory, before the user's eyes.

mod drive;
mod interactive;

use std::path::PathBuf;
use std::time::Duration;

use crate::dist;
use crate::error::{Error, Result};
use crate::host::{Host, Way};
use crate::initramfs::LinuxFiles;
use crate::job::{DemoFiles, Job, Message};
use crate::kernel::Kernel;
use crate::outer::{Console, Cpu, Outer};
use crate::packages;
use crate::report::{Display, Event};
use crate::workspace::Workspace;

pub use drive::drive;

/// Where the demo's files lie in the outer machine.
const OUTER_BINARY: &str = "/bin/aerostat";
const OUTER_KERNEL: &str = "/linux/kernel";
const OUTER_INITRAMFS: &str = "/linux/initramfs";
/// Time for the whole demo in the outer machine, with much to spare.
const OUTER_LIMIT: Duration = Duration::from_secs(900);
/// Time that its user has for the outer machine.
const USER_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Least memory with which the guest boots and has something left to give.
const LEAST_MIB: u64 = 256;

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Kernel to boot instead of the stock Debian cloud kernel (bzImage or ELF)
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Initial file system to use instead of the demo's own; it must offer a shell on the console
    /// in the same way
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// Memory of the guest, as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_mib)]
    mem: u64,
    /// Leave the console and the QMP socket to you
    #[arg(long)]
    interactive: bool,
}

/// Prepares what is missing and runs the demo.
///
/// # Errors
///
/// When something cannot be provided, or the demo does not show what it should.
pub fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    let host = Host::detect();
    let way = host.way();
    println!("Linux guests run here {way},\nsince {}.", host.reason());

    packages::ensure(&[packages::BUSYBOX])?;
    if way == Way::Nested {
        packages::ensure(&[packages::QEMU])?;
    }
    if options.interactive {
        packages::ensure(&[packages::SOCAT])?;
    }
    let kernel = Kernel::ensure(&workspace.linux()?)?;
    let guest = LinuxFiles::prepare(&workspace, &kernel)?;
    println!("Building the release binary");
    let files = DemoFiles {
        binary: dist::build(&workspace)?,
        kernel: options
            .kernel
            .clone()
            .unwrap_or_else(|| guest.directory.join("bzImage")),
        initramfs: options
            .initrd
            .clone()
            .unwrap_or_else(|| guest.directory.join("initramfs")),
        mem_mib: options.mem,
    };
    for file in [&files.kernel, &files.initramfs] {
        if !file.is_file() {
            return Err(Error::Check(format!("There is no file {}", file.display())));
        }
    }
    match (way, options.interactive) {
        (Way::Direct, false) => show(|display| drive(&files, &mut |event| display.show(event))),
        (Way::Nested, false) => show(|display| nested(&workspace, &kernel, &files, display)),
        (Way::Direct, true) => interactive::direct(&workspace, &files),
        (Way::Nested, true) => interactive::nested(&workspace, &kernel, &files),
    }
}

/// Runs `demo` with a display and prints the figures that it gave, also where it failed.
fn show(demo: impl FnOnce(&mut Display) -> Result<()>) -> Result<()> {
    let mut display = Display::new();
    let outcome = demo(&mut display);
    println!("\n{}", display.finish());
    if outcome.is_ok() {
        println!("The demo passed.");
    }
    outcome
}

fn nested(
    workspace: &Workspace,
    kernel: &Kernel,
    files: &DemoFiles,
    display: &mut Display,
) -> Result<()> {
    display.show(Event::Step("Starting the outer machine".to_owned()));
    let mut first = true;
    outer(
        workspace,
        kernel,
        files,
        Job::Demo(outer_files(files)),
        Console::Keep,
    )
    .run(|message| {
        if let Message::Demo(event) = message {
            if std::mem::take(&mut first) {
                display.show(Event::Done("The outer machine is up".to_owned()));
            }
            display.show(event);
        }
    })
}

fn outer_files(files: &DemoFiles) -> DemoFiles {
    DemoFiles {
        binary: OUTER_BINARY.into(),
        kernel: OUTER_KERNEL.into(),
        initramfs: OUTER_INITRAMFS.into(),
        mem_mib: files.mem_mib,
    }
}

fn outer<'a>(
    workspace: &'a Workspace,
    kernel: &'a Kernel,
    files: &DemoFiles,
    job: Job,
    console: Console,
) -> Outer<'a> {
    Outer {
        workspace,
        kernel,
        cpu: Cpu::Quick,
        clears_freed: false,
        job,
        programs: vec![(OUTER_BINARY.to_owned(), files.binary.clone())],
        files: vec![
            (OUTER_KERNEL.to_owned(), files.kernel.clone()),
            (OUTER_INITRAMFS.to_owned(), files.initramfs.clone()),
        ],
        directories: Vec::new(),
        console,
        limit: if console == Console::Terminal {
            USER_LIMIT
        } else {
            OUTER_LIMIT
        },
    }
}

/// A memory size in MiB from text as `512M` or `2G`.
fn parse_mib(text: &str) -> std::result::Result<u64, String> {
    let (number, factor) = match text.strip_suffix('G') {
        Some(number) => (number, 1024),
        None => (text.strip_suffix('M').unwrap_or(""), 1),
    };
    let mib = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    match mib {
        Some(mib) if mib >= LEAST_MIB => Ok(mib),
        Some(mib) => Err(format!(
            "{mib} MiB are too few for the demo, which needs {LEAST_MIB}M"
        )),
        None => Err("a size is a number with M or G, as 512M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_binary_units() {
        assert_eq!(parse_mib("512M"), Ok(512));
        assert_eq!(parse_mib("2G"), Ok(2048));
    }

    #[test]
    fn size_without_unit_is_refused() {
        assert!(parse_mib("512").is_err());
        assert!(parse_mib("M").is_err());
        assert!(parse_mib("99999999999999999999G").is_err());
    }

    #[test]
    fn size_below_the_least_is_refused_with_the_least() {
        assert!(parse_mib("64M").unwrap_err().contains("256M"));
    }
}
