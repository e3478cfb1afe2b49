//! The initial file systems of the Linux guest and of the outer machine.
//!
//! Both are uncompressed: unpacking a compressed archive costs an emulated CPU more time than
//! copying the bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;
use crate::error::{Error, FileContext, Result};
use crate::kernel::Kernel;
use crate::process;
use crate::workspace::Workspace;

/// What the guest needs to find its balloon, to tell of a panic, and to hear its power button.
const GUEST_MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_balloon",
    "pvpanic_mmio",
    "button",
    "evdev",
];
/// What the outer machine needs to offer `/dev/kvm` on its emulated SVM CPU.
const OUTER_MODULES: &[&str] = &["irqbypass", "kvm", "kvm_amd"];
/// What busybox's `acpid` runs when the power button is pressed.
const POWER_BUTTON_SCRIPT: &[u8] = b"#!/bin/sh\necho 'guest: power button'\npoweroff -f\n";
/// Where modules are, with the file that lists them in the order to load them.
const MODULE_DIRECTORY: &str = "lib/modules";

/// Files that make a Linux guest, in a directory with fixed names.
#[derive(Debug, Clone)]
pub struct LinuxFiles {
    /// The directory: `bzImage`, `vmlinux` and `initramfs`.
    pub directory: PathBuf,
}

impl LinuxFiles {
    /// Brings the guest's files up to date below the workspace's target directory.
    ///
    /// # Errors
    ///
    /// When a file cannot be made.
    pub fn prepare(workspace: &Workspace, kernel: &Kernel) -> Result<Self> {
        let directory = workspace.linux()?.join("guest");
        fs::create_dir_all(&directory).file("create", &directory)?;
        for (source, name) in [(&kernel.bzimage, "bzImage"), (&kernel.vmlinux, "vmlinux")] {
            replace_link(source, &directory.join(name))?;
        }
        let archive = guest_archive(workspace, kernel)?;
        write_atomically(&directory.join("initramfs"), &archive)?;
        Ok(Self { directory })
    }
}

/// The guest's initial file system: busybox, modules for its devices, what it tells its
/// machine with that a test has ended or how far its boot has come, an init, and another one that says
/// where the kernel is.
fn guest_archive(workspace: &Workspace, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = base(workspace, "guest-init")?;
    archive.directory("etc/acpi");
    archive.directory("etc/acpi/PWRF");
    archive.program("etc/acpi/PWRF/00000080", POWER_BUTTON_SCRIPT);
    archive.program("bin/debug-exit", &aerostat_tiny_guest::debug_exit_program());
    archive.program("bin/boot-timer", &aerostat_tiny_guest::boot_timer_program());
    archive.program("place-init", &resource(workspace, "place-init")?);
    add_modules(&mut archive, kernel, GUEST_MODULES)?;
    Ok(archive.finish())
}

/// The outer machine's initial file system so far: busybox, KVM and an init; the caller adds what
/// is to run in it.
///
/// # Errors
///
/// When a file is missing.
pub fn outer_archive(workspace: &Workspace, kernel: &Kernel) -> Result<Archive> {
    let mut archive = base(workspace, "outer-init")?;
    add_modules(&mut archive, kernel, OUTER_MODULES)?;
    Ok(archive)
}

/// Adds a dynamically linked program under `path`, without its debug information, and the shared
/// libraries that it needs.
///
/// # Errors
///
/// When the program or a library cannot be read.
pub fn add_program(archive: &mut Archive, path: &str, program: &Path) -> Result<()> {
    archive.program(path, &stripped(program)?);
    for library in shared_libraries(program)? {
        let contents = fs::read(&library).file("read", &library)?;
        archive.program(&library.to_string_lossy(), &contents);
    }
    Ok(())
}

fn base(workspace: &Workspace, init: &str) -> Result<Archive> {
    let mut archive = Archive::new();
    for directory in ["proc", "sys", "dev", "tmp", "run", "root", "etc"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    let busybox = process::find_on_path("busybox")
        .ok_or_else(|| Error::Check("There is no busybox on the search path".to_owned()))?;
    archive.program("bin/busybox", &fs::read(&busybox).file("read", &busybox)?);
    archive.link("bin/sh", "busybox");
    archive.program("init", &resource(workspace, init)?);
    Ok(archive)
}

fn resource(workspace: &Workspace, name: &str) -> Result<Vec<u8>> {
    let path = workspace.root.join("resources/linux").join(name);
    fs::read(&path).file("read", &path)
}

fn add_modules(archive: &mut Archive, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let mut order = String::new();
    for (name, contents) in kernel.modules(names)? {
        archive.file(&format!("{MODULE_DIRECTORY}/{name}.ko"), &contents);
        order.push_str(&format!("{name}.ko\n"));
    }
    archive.file(&format!("{MODULE_DIRECTORY}/order"), order.as_bytes());
    Ok(())
}

/// The program's contents without debug information, which is most of a test binary.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let copy = tempfile::NamedTempFile::new().map_err(|source| Error::System {
        action: "create a temporary file",
        source,
    })?;
    process::output(
        Command::new("strip")
            .arg("-o")
            .arg(copy.path())
            .arg(program),
    )?;
    fs::read(copy.path()).file("read", copy.path())
}

fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    match process::output(Command::new("ldd").arg(program)) {
        Ok(text) => Ok(library_paths(&text)),
        // A static program has none, which ldd takes for a failure.
        Err(Error::Failed { output, .. }) if output.contains("not a dynamic executable") => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Paths in the output of ldd: `name => /path (address)` or `/path (address)`.
fn library_paths(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

fn replace_link(source: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == source) {
        return Ok(());
    }
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(source, link).file("create", link)
}

/// Writes a file so that a reader sees the old or the new contents, never a part.
///
/// # Errors
///
/// When the file cannot be written or renamed.
pub fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&temporary, contents).file("write", &temporary)?;
    fs::rename(&temporary, path).file("create", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_paths_are_taken_from_both_forms_of_line() {
        let text = "\tlinux-vdso.so.1 (0x7f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let paths = library_paths(text);
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(paths, expected.map(PathBuf::from));
    }
}
