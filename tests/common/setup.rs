//! How a machine is to be started: the command line, piece by piece.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use aerostat_tiny_guest::{Script, script_elf};

use super::machine::Machine;
use super::{Context, Error, Result, host};

/// Environment variable with the binary under test.
pub const BINARY: &str = "AEROSTAT_BIN";
/// Environment variable with the binary of `aerostat-ctl` under test.
pub const CTL_BINARY: &str = "AEROSTAT_CTL_BIN";
/// Environment variable with the directory of `bzImage`, `vmlinux` and `initramfs`.
pub const LINUX_DIRECTORY: &str = "AEROSTAT_LINUX_DIR";

/// Environment variable with the Python that has QEMU's QMP clients.
pub const CLIENTS_PYTHON: &str = "AEROSTAT_CLIENTS_PYTHON";
/// Where `cargo xtask` leaves that Python, from the target directory.
pub const CLIENTS_PYTHON_IN_TARGET: &str = "qmp-clients/venv/bin/python";

/// Files that make a Linux guest.
#[derive(Debug, Clone)]
pub struct LinuxFiles {
    directory: PathBuf,
}

impl LinuxFiles {
    /// The files in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// The files that the environment names, or those that `cargo xtask` left in `target/`.
    ///
    /// # Errors
    ///
    /// When there are none, or a Linux guest would not get anywhere on this CPU.
    pub fn find() -> Result<Self> {
        let directory = std::env::var_os(LINUX_DIRECTORY).map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/linux/guest"),
            PathBuf::from,
        );
        let files = Self { directory };
        let missing = [files.bzimage(), files.vmlinux(), files.initramfs()]
            .into_iter()
            .find(|file| !file.exists());
        if let Some(file) = missing {
            return Err(Error::NoLinux(format!("there is no {}", file.display())));
        }
        if !host::cpu_virtualizes() {
            return Err(Error::NoLinux(
                "the CPU has neither VT-x nor SVM".to_owned(),
            ));
        }
        Ok(files)
    }

    /// The kernel as a bzImage.
    pub fn bzimage(&self) -> PathBuf {
        self.directory.join("bzImage")
    }

    /// The same kernel as ELF.
    pub fn vmlinux(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    /// The initial file system.
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs")
    }
}

/// A machine that is not started yet.
#[derive(Debug)]
pub struct Setup {
    binary: PathBuf,
    arguments: Vec<OsString>,
    /// Options whose value is a file with this name and content.
    files: Vec<(&'static str, &'static str, Vec<u8>)>,
}

impl Setup {
    /// A machine with `mem` of memory (as on the command line) and the kernel at `kernel`.
    pub fn new(binary: &Path, kernel: &Path, mem: &str) -> Self {
        Self::without_kernel(binary, mem).argument("--kernel", kernel)
    }

    fn without_kernel(binary: &Path, mem: &str) -> Self {
        let setup = Self {
            binary: binary.to_owned(),
            arguments: Vec::new(),
            files: Vec::new(),
        };
        setup.argument("--mem", mem)
    }

    /// The bare-metal guest with 64 MiB that does what `script` says; it runs on any KVM.
    ///
    /// # Errors
    ///
    /// As [`binary_under_test`].
    pub fn tiny(script: Script) -> Result<Self> {
        Self::tiny_in(script, "64M")
    }

    /// The same with this memory (as on the command line).
    ///
    /// # Errors
    ///
    /// As [`binary_under_test`].
    pub fn tiny_in(script: Script, mem: &str) -> Result<Self> {
        let setup = Self::without_kernel(&binary_under_test()?, mem);
        let setup = setup.file("--kernel", "kernel", script_elf());
        Ok(setup.file("--initrd", "script", script.into_initrd()))
    }

    /// A machine with 64 MiB and this content as its kernel.
    ///
    /// # Errors
    ///
    /// As [`binary_under_test`].
    pub fn tiny_kernel(content: Vec<u8>) -> Result<Self> {
        let setup = Self::without_kernel(&binary_under_test()?, "64M");
        Ok(setup.file("--kernel", "kernel", content))
    }

    /// The stock Linux guest as a bzImage with its initial file system, and the binary under test.
    ///
    /// # Errors
    ///
    /// As [`LinuxFiles::find`] and [`binary_under_test`].
    pub fn linux(mem: &str) -> Result<Self> {
        Ok(Self::linux_by_default(mem)?.cmdline("console=ttyS0 panic=-1 quiet"))
    }

    /// As [`Self::linux`], with the default command line: the kernel prints all that it does, which takes
    /// half of a boot where the CPU is emulated.
    ///
    /// # Errors
    ///
    /// As [`Self::linux`].
    pub fn linux_by_default(mem: &str) -> Result<Self> {
        let files = LinuxFiles::find()?;
        let setup = Self::new(&binary_under_test()?, &files.bzimage(), mem);
        Ok(setup.argument("--initrd", files.initramfs()))
    }

    /// As [`Self::linux`], with the kernel as ELF.
    ///
    /// # Errors
    ///
    /// As [`Self::linux`].
    pub fn linux_elf(mem: &str) -> Result<Self> {
        let files = LinuxFiles::find()?;
        let setup = Self::new(&binary_under_test()?, &files.vmlinux(), mem);
        Ok(setup.argument("--initrd", files.initramfs()))
    }

    /// Adds an option with its value.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.arguments.push(name.into());
        self.arguments.push(value.into());
        self
    }

    /// Adds an option whose value is a file that lives as long as the machine.
    #[must_use]
    pub fn file(mut self, option: &'static str, name: &'static str, content: Vec<u8>) -> Self {
        self.files.push((option, name, content));
        self
    }

    /// Adds an option without a value.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.arguments.push(name.into());
        self
    }

    /// Replaces the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, text: &str) -> Self {
        // In place of the one before.
        let before = self.arguments.iter().position(|word| word == "--cmdline");
        if let Some(at) = before {
            self.arguments.drain(at..at + 2);
        }
        self.argument("--cmdline", text)
    }

    /// Starts the machine, with its console on pipes and a QMP socket of its own.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn start(self) -> Result<Machine> {
        self.start_at(None)
    }

    /// As [`Self::start`], with the QMP socket at `socket`.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_on(self, socket: &Path) -> Result<Machine> {
        self.start_at(Some(socket))
    }

    fn start_at(mut self, socket: Option<&Path>) -> Result<Machine> {
        let directory = tempfile::Builder::new()
            .prefix("aerostat-")
            .tempdir()
            .context("create a temporary directory")?;
        for (option, name, content) in std::mem::take(&mut self.files) {
            let path = directory.path().join(name);
            std::fs::write(&path, content).context(format!("write {}", path.display()))?;
            self = self.argument(option, path);
        }
        let socket = socket.map_or_else(|| directory.path().join("qmp.sock"), Path::to_owned);
        let errors = directory.path().join("stderr");
        let stderr =
            std::fs::File::create(&errors).context(format!("create {}", errors.display()))?;
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .arg("--qmp")
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .context(format!("start {}", self.binary.display()))?;
        Machine::new(child, directory, socket, errors)
    }
}

/// The binary that the environment names, or the one that Cargo built for these tests.
///
/// # Errors
///
/// When there is neither.
pub fn binary_under_test() -> Result<PathBuf> {
    std::env::var_os(BINARY)
        .map(PathBuf::from)
        .or_else(|| option_env!("CARGO_BIN_EXE_aerostat").map(PathBuf::from))
        .ok_or_else(|| Error::NoLinux(format!("{BINARY} does not name a binary")))
}

/// The `aerostat-ctl` that the environment names, or one that Cargo builds now beside the binary of
/// these tests: it belongs to another package, and Cargo makes no binaries of those for tests.
///
/// # Errors
///
/// When it cannot be built.
pub fn ctl_under_test() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    if let Some(named) = std::env::var_os(CTL_BINARY) {
        return Ok(named.into());
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(built) = &*built {
        return Ok(built.clone());
    }
    let path = build_ctl()?;
    *built = Some(path.clone());
    Ok(path)
}

fn build_ctl() -> Result<PathBuf> {
    let missing = || io::Error::other(format!("{CTL_BINARY} does not name it"));
    // The directory of a profile, in the target directory.
    let directory = option_env!("CARGO_BIN_EXE_aerostat").and_then(|path| Path::new(path).parent());
    let target = directory.and_then(Path::parent);
    let (directory, target) = directory
        .zip(target)
        .ok_or_else(missing)
        .context("find aerostat-ctl")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--package", "aerostat-ctl"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("build aerostat-ctl")?;
    if !status.success() {
        return Err(io::Error::other(status.to_string())).context("build aerostat-ctl");
    }
    Ok(directory.join("aerostat-ctl"))
}

/// The Python that the environment names, or the one that `cargo xtask` left in `target/`.
///
/// # Errors
///
/// When there is none.
pub fn clients_python() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let python = std::env::var_os(CLIENTS_PYTHON)
        .map_or_else(|| target.join(CLIENTS_PYTHON_IN_TARGET), PathBuf::from);
    if python.is_file() {
        Ok(python)
    } else {
        Err(Error::NoClients(python))
    }
}
