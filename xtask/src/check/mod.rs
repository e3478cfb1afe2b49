//! `cargo xtask test`: every check of the project, in stages.
//!
//! Each stage runs even when one before it failed; a summary with times comes last.

mod build;
mod stages;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::harness::setup::{BINARY, CLIENTS_PYTHON, CTL_BINARY, LINUX_DIRECTORY};
use crate::host::{Host, Way};
use crate::initramfs::LinuxFiles;
use crate::job::{Job, Message, TestProgram};
use crate::kernel::Kernel;
use crate::outer::{Console, Cpu, Outer};
use crate::workspace::Workspace;
use crate::{chain, clients, dist, inside, licenses, packages, process};
use stages::Stages;

/// Test targets that boot Linux.
const LINUX_TESTS: &[&str] = &[
    "boot",
    "linux_backing",
    "linux_balloon",
    "linux_ci",
    "linux_kaslr",
    "linux_life",
    "linux_pressure",
    "linux_statistics",
];
/// The test target that runs clients which were written for QEMU.
const CLIENTS_TEST: &str = "qmp_clients";
/// Packages whose tests open `/dev/kvm`.
const KVM_PACKAGES: &[&str] = &["aerostat", "aerostat-vmm"];
/// Packages whose tests start QEMU.
const QEMU_PACKAGES: &[&str] = &["aerostat-ctl"];
/// Binaries of the development profile that tests start, below the target directory.
const DEBUG_BINARY: &str = "debug/aerostat";
const DEBUG_CTL: &str = "debug/aerostat-ctl";
/// Time for all tests of one outer machine; a boot takes some 10 s there.
const OUTER_LIMIT: Duration = Duration::from_secs(25 * 60);
/// Where the outer machine has what the Linux tests need.
const OUTER_BINARY: &str = "/bin/aerostat";
const OUTER_LINUX: &str = "/linux";
/// Where the outer machine has what the script for CI speaks QMP with.
const OUTER_SOCAT: &str = "/bin/socat";

/// Runs all stages; or, where `names` are given, those test programs alone.
///
/// # Errors
///
/// When at least one stage failed, or there is no test program of a name.
pub fn run(names: &[String]) -> Result<()> {
    let workspace = Workspace::find()?;
    let host = Host::detect();
    println!("Linux guests run {}: {}.", host.way(), host.reason());
    if !host.kvm_usable {
        println!("Tests with a tiny guest run nested too: /dev/kvm cannot be opened here.");
    }

    let mut stages = Stages::default();
    if names.is_empty() {
        check_sources(&workspace, &mut stages);
    }
    let mut programs = Vec::new();
    stages.run("Building the tests", || {
        programs = named(build::test_programs(&workspace)?, names)?;
        // Built with them, but unknown to those of other packages.
        let ctl = workspace.target.join(DEBUG_CTL);
        let ctl = (CTL_BINARY.to_owned(), ctl.to_string_lossy().into_owned());
        for program in &mut programs {
            program.environment.push(ctl.clone());
        }
        Ok(())
    });
    if programs.iter().any(runs_clients) {
        stages.run("Clients for the tests of QMP", || {
            provide_clients(&workspace, &mut programs)
        });
    }
    let (linux, others): (Vec<_>, Vec<_>) = programs.into_iter().partition(boots_linux);
    let (nested, here): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|program| !host.kvm_usable && needs_kvm(program));
    if names.is_empty() || !here.is_empty() {
        stages.run("Tests without Linux guests", || run_here(&here));
    }
    if names.is_empty() {
        stages.run("Examples in the documentation", || {
            process::run(workspace.cargo().args(["test", "--workspace", "--doc"]))
        });
        stages.run("Tests with Linux guests", || {
            all_are_there(&linux)?;
            run_linux(&workspace, host.way(), linux, nested)
        });
    } else if !linux.is_empty() || !nested.is_empty() {
        stages.run("Tests with Linux guests", || {
            run_linux(&workspace, host.way(), linux, nested)
        });
    }
    stages.summarize()
}

/// Everything that is checked without running the project's own code.
fn check_sources(workspace: &Workspace, stages: &mut Stages) {
    stages.run("Formatting", || {
        process::run(workspace.cargo().args(["fmt", "--all", "--check"]))
    });
    stages.run("Lints", || {
        let arguments = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        process::run(workspace.cargo().args(arguments))
    });
    stages.run("Documentation", || {
        let mut command = workspace.cargo();
        command
            .env("RUSTDOCFLAGS", "-Dwarnings")
            .args(["doc", "--workspace", "--no-deps"]);
        process::run(&mut command)
    });
    stages.run("Fuzz targets", || check_fuzz_targets(workspace));
    stages.run("Licences", || licenses::check(workspace));
}

/// The fuzz targets are workspaces of their own.
const FUZZ_MANIFESTS: [&str; 2] = ["devices/fuzz/Cargo.toml", "qmp/fuzz/Cargo.toml"];

/// Without the fuzzer the targets need no C++ compiler.
fn check_fuzz_targets(workspace: &Workspace) -> Result<()> {
    FUZZ_MANIFESTS
        .iter()
        .try_for_each(|manifest| check_fuzz_target(workspace, manifest))
}

fn check_fuzz_target(workspace: &Workspace, manifest: &str) -> Result<()> {
    let manifest = ["--manifest-path", manifest];
    process::run(workspace.cargo().arg("fmt").args(manifest).arg("--check"))?;
    process::run(
        workspace
            .cargo()
            .arg("clippy")
            .args(manifest)
            .args(["--locked", "--no-default-features", "--target-dir"])
            .arg(workspace.target.join("fuzz"))
            .args(["--", "-D", "warnings"]),
    )
}

/// The programs that are named, each with the tests that are named (`boot` or
/// `boot::part_of_a_name`); all of them if there are no names.
fn named(programs: Vec<TestProgram>, names: &[String]) -> Result<Vec<TestProgram>> {
    if names.is_empty() {
        return Ok(programs);
    }
    let mut wanted: Vec<TestProgram> = Vec::new();
    for name in names {
        let (name, filter) = name.split_once("::").unwrap_or((name, ""));
        if !wanted.iter().any(|program| program.name == name) {
            let found = programs.iter().filter(|program| program.name == name);
            wanted.extend(found.cloned());
        }
        let mut found = wanted.iter_mut().filter(|program| program.name == name);
        let first = found.next();
        let first =
            first.ok_or_else(|| Error::Check(format!("There is no test program {name}")))?;
        std::iter::once(first)
            .chain(found)
            .for_each(|program| program.filters.push(filter.to_owned()));
    }
    Ok(wanted)
}

/// Tests that boot Linux are not to be missed because they are no longer built.
fn all_are_there(linux: &[TestProgram]) -> Result<()> {
    let missing = |name: &&&str| !linux.iter().any(|program| program.name == **name);
    match LINUX_TESTS.iter().find(missing) {
        Some(name) => Err(Error::Check(format!(
            "There is no test {name}: it did not build"
        ))),
        None => Ok(()),
    }
}

fn boots_linux(program: &TestProgram) -> bool {
    program.package == "aerostat" && LINUX_TESTS.contains(&program.name.as_str())
}

fn runs_clients(program: &TestProgram) -> bool {
    program.package == "aerostat" && program.name == CLIENTS_TEST
}

/// Installs the clients and tells their test where they are.
fn provide_clients(workspace: &Workspace, programs: &mut [TestProgram]) -> Result<()> {
    packages::ensure(&[packages::SOCAT])?;
    let python = clients::ensure(workspace)?.to_string_lossy().into_owned();
    for program in programs.iter_mut().filter(|program| runs_clients(program)) {
        let variable = (CLIENTS_PYTHON.to_owned(), python.clone());
        program.environment.push(variable);
    }
    Ok(())
}

fn needs_kvm(program: &TestProgram) -> bool {
    KVM_PACKAGES.contains(&program.package.as_str())
}

fn run_here(programs: &[TestProgram]) -> Result<()> {
    let starts_qemu = |program: &TestProgram| QEMU_PACKAGES.contains(&program.package.as_str());
    if programs.iter().any(starts_qemu) {
        packages::ensure(&[packages::QEMU])?;
    }
    let failed: Vec<&str> = programs
        .iter()
        .filter(|program| {
            println!("\n     Running {} of {}", program.name, program.package);
            let outcome = build::run(program);
            if let Err(error) = &outcome {
                println!("{}", chain(error));
            }
            outcome.is_err()
        })
        .map(|program| program.name.as_str())
        .collect();
    if programs.is_empty() {
        return Err(Error::Check(
            "There are no tests: they did not build".to_owned(),
        ));
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Check(format!(
        "Failed tests in: {}",
        failed.join(", ")
    )))
}

/// Runs the tests that boot Linux, and with them those that find no `/dev/kvm` here.
fn run_linux(
    workspace: &Workspace,
    way: Way,
    mut linux: Vec<TestProgram>,
    others: Vec<TestProgram>,
) -> Result<()> {
    packages::ensure(&[packages::BUSYBOX, packages::SOCAT])?;
    if way == Way::Nested {
        packages::ensure(&[packages::QEMU])?;
    }
    let kernel = Kernel::ensure(&workspace.linux()?)?;
    let guest = LinuxFiles::prepare(workspace, &kernel)?;
    let binary = dist::build(workspace)?;
    let (binary_there, directory_there) = match way {
        Way::Direct => (binary.to_string_lossy(), guest.directory.to_string_lossy()),
        Way::Nested => (OUTER_BINARY.into(), OUTER_LINUX.into()),
    };
    for program in &mut linux {
        program
            .environment
            .push((BINARY.to_owned(), binary_there.to_string()));
        program
            .environment
            .push((LINUX_DIRECTORY.to_owned(), directory_there.to_string()));
    }
    match way {
        Way::Direct => linux.iter().try_for_each(inside::run_test),
        Way::Nested => {
            let socat = process::find_on_path(packages::SOCAT.program)
                .ok_or_else(|| Error::Check("There is no socat on the search path".to_owned()))?;
            let mut programs = vec![
                (OUTER_BINARY.to_owned(), binary),
                (OUTER_SOCAT.to_owned(), socat),
            ];
            let mut files = Vec::new();
            if others.iter().any(runs_clients) {
                let same = |path: PathBuf| (path.to_string_lossy().into_owned(), path);
                let (python, library) = clients::files(workspace)?;
                programs.extend(python.into_iter().map(same));
                files.extend(library.into_iter().map(same));
            }
            // Tests know the binaries that Cargo built for them by their paths.
            if !others.is_empty() {
                for name in [DEBUG_BINARY, DEBUG_CTL] {
                    let debug = workspace.target.join(name);
                    programs.push((debug.to_string_lossy().into_owned(), debug));
                }
            }
            let jobs: Vec<_> = others.into_iter().chain(linux).collect();
            run_nested(workspace, &kernel, &guest, jobs, programs, files)
        }
    }
}

fn run_nested(
    workspace: &Workspace,
    kernel: &Kernel,
    guest: &LinuxFiles,
    jobs: Vec<TestProgram>,
    mut programs: Vec<(String, PathBuf)>,
    mut files: Vec<(String, PathBuf)>,
) -> Result<()> {
    for job in &jobs {
        programs.push((job.path.to_string_lossy().into_owned(), job.path.clone()));
    }
    for name in ["bzImage", "vmlinux", "initramfs"] {
        files.push((format!("{OUTER_LINUX}/{name}"), guest.directory.join(name)));
    }
    let outer = Outer {
        workspace,
        kernel,
        cpu: Cpu::Quick,
        clears_freed: false,
        directories: jobs.iter().map(|job| job.directory.clone()).collect(),
        job: Job::Tests(jobs),
        programs,
        files,
        console: Console::Stream,
        limit: OUTER_LIMIT,
    };
    outer.run(|message| {
        if let Message::Tested { name, passed } = message {
            println!("     {name}: {}", if passed { "passed" } else { "FAILED" });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(package: &str, name: &str) -> TestProgram {
        TestProgram {
            name: name.to_owned(),
            package: package.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn boot_tests_are_told_by_package_and_name() {
        assert!(boots_linux(&program("aerostat", "boot")));
        assert!(!boots_linux(&program("aerostat-vmm", "boot")));
        assert!(!boots_linux(&program("aerostat", "cli")));
    }

    #[test]
    fn programs_and_tests_are_chosen_by_name() {
        let all = || vec![program("aerostat", "boot"), program("aerostat", "cli")];
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(named(all(), &[]).unwrap(), all());
        let chosen = named(all(), &names(&["cli::one", "cli::two"])).unwrap();
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].filters, names(&["one", "two"]));
        assert!(named(all(), &names(&["nothing"])).is_err());
    }
}
