//! The outer machine of the nested set-up: QEMU with an emulated SVM CPU, a Linux with `kvm_amd`
//! in it, and one job.
//!
//! Its first serial port is the console, its second the line for the job's messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, FileContext, Result};
use crate::initramfs;
use crate::job::{JOB_FILE, Job, Message};
use crate::kernel::Kernel;
use crate::pinned;
use crate::process;
use crate::workspace::Workspace;

/// Memory of the outer machine: room for its own files and what the guests touch of theirs.
const MEMORY_MIB: u32 = 3072;
/// CPUs of the outer machine. With two, and QEMU's threads on several CPUs of this machine, guests
/// hung or triple-faulted now and then, and once the outer machine itself fell silent. The cause is
/// not proven; suspected is QEMU's emulated SVM, which clears a pending interrupt with a plain read
/// and write beside threads that set others. With one CPU each it has not been seen.
const CPUS: u32 = 1;
/// Kernel command line: no messages but critical ones, no time for mitigations, end on a panic. A
/// clock that ticks anyhow makes up for an interrupt that is lost all the same, and an emulated
/// TSC that was kept waiting is not to be distrusted, since KVM's clocks follow it.
const CMDLINE: &str = "console=ttyS0 panic=-1 loglevel=3 mitigations=off tsc=reliable nohz=off \
                       highres=off";
/// More of it, for [`Outer::clears_freed`].
const CLEAR_FREED: &str = " init_on_free=1";
/// Lines of the console that go into an error.
const ERROR_LINES: usize = 60;

/// Time for the machine to power off after its job.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);
/// Time between two looks whether the machine has ended.
const PAUSE: Duration = Duration::from_secs(1);
/// How long what the machine has sent may take to be read when it has ended.
const LAST_INPUTS: Duration = Duration::from_secs(30);

/// What becomes of the outer machine's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// Printed as it comes.
    Stream,
    /// Kept, and shown only in an error.
    Keep,
    /// Left to the user's terminal.
    Terminal,
}

/// The CPU of an outer machine. Four levels of page tables are enough for its memory and, nested, quicker to
/// walk than five.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// All that TCG emulates, with SVM: what is measured is measured on this.
    Whole,
    /// Without what takes TCG long or what it gets wrong: a guest boots in two thirds of the time. A string
    /// instruction is emulated one repetition at a time, eight times as many for bytes (`erms`, `fsrm`) as
    /// for words; `smap` took a fifth of the rest. With `xsave`, KVM does not seem to hear of what a nested
    /// guest writes to XCR0: its CPUID contradicts that, of which Linux warns in sixty lines.
    Quick,
}

impl Cpu {
    /// As QEMU is told of it.
    fn argument(self) -> &'static str {
        match self {
            Self::Whole => "max,+svm,-la57",
            Self::Quick => "max,+svm,-la57,-erms,-fsrm,-smap,-xsave",
        }
    }
}

/// An outer machine that is not started yet.
#[derive(Debug)]
pub struct Outer<'a> {
    /// The source tree.
    pub workspace: &'a Workspace,
    /// The kernel of the outer machine.
    pub kernel: &'a Kernel,
    /// Its CPU.
    pub cpu: Cpu,
    /// Whether memory is cleared when it is freed too, where nobody waits for it. Of three boots in a row the
    /// second and third spent over 2 s at one place, clearing what the guest before had given back, the first
    /// none: TCG is suspected to look, at each store into a page, for code of it that it has translated.
    pub clears_freed: bool,
    /// What it shall do.
    pub job: Job,
    /// Programs to put into it: path there and file here.
    pub programs: Vec<(String, PathBuf)>,
    /// Other files to put into it: path there and file here.
    pub files: Vec<(String, PathBuf)>,
    /// Directories to create in it.
    pub directories: Vec<PathBuf>,
    /// Where its console goes.
    pub console: Console,
    /// Time after which it is taken for hanging.
    pub limit: Duration,
}

enum Input {
    Console(Vec<u8>),
    Message(String),
    ConsoleClosed,
}

impl Outer<'_> {
    /// Runs the job to its end and hands each message on, but for the last.
    ///
    /// # Errors
    ///
    /// When the machine fails or hangs, or the job says that it failed.
    pub fn run(&self, mut on_message: impl FnMut(Message)) -> Result<()> {
        let scratch = tempfile::Builder::new()
            .prefix("aerostat-outer-")
            .tempdir()
            .map_err(|source| Error::System {
                action: "create a temporary directory",
                source,
            })?;
        let archive = scratch.path().join("initramfs");
        std::fs::write(&archive, self.archive()?).file("write", &archive)?;
        let socket = scratch.path().join("messages");
        let listener = UnixListener::bind(&socket).file("listen on", &socket)?;

        let mut command = self.command(&archive, &socket);
        let mut child = pinned::spawn(&mut command)?;
        let outcome = self.follow(&mut child, listener, &mut on_message);
        // An error means that it has ended already.
        let _ = child.kill();
        let _ = child.wait();
        outcome
    }

    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = initramfs::outer_archive(self.workspace, self.kernel)?;
        let job = serde_json::to_vec(&self.job).map_err(|source| Error::Json {
            what: "The job",
            source,
        })?;
        archive.file(JOB_FILE, &job);
        // Through /proc, since a build may have replaced the file that this process runs.
        let own_program = format!("/proc/{}/exe", std::process::id());
        initramfs::add_program(&mut archive, "bin/xtask", Path::new(&own_program))?;
        for (path, program) in &self.programs {
            initramfs::add_program(&mut archive, path, program)?;
        }
        for directory in &self.directories {
            archive.directory(&directory.to_string_lossy());
        }
        for (path, file) in &self.files {
            archive.file(path, &std::fs::read(file).file("read", file)?);
        }
        Ok(archive.finish())
    }

    fn cmdline(&self) -> String {
        let more = if self.clears_freed { CLEAR_FREED } else { "" };
        format!("{CMDLINE}{more}")
    }

    fn command(&self, archive: &Path, socket: &Path) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg", "-cpu", self.cpu.argument()])
            .args(["-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()])
            .args([
                "-nic",
                "none",
                "-vga",
                "none",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-no-user-config", "-monitor", "none"])
            .arg("-kernel")
            .arg(&self.kernel.bzimage)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", &self.cmdline()]);
        let console = if self.console == Console::Terminal {
            "signal=off"
        } else {
            "mux=off"
        };
        command.args(["-chardev", &format!("stdio,id=console,{console}")]);
        command.args(["-serial", "chardev:console"]);
        command.args([
            "-chardev",
            &format!("socket,id=messages,path={}", socket.display()),
        ]);
        command.args(["-serial", "chardev:messages"]);
        if self.console != Console::Terminal {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        command
    }

    fn follow(
        &self,
        child: &mut Child,
        listener: UnixListener,
        on_message: &mut impl FnMut(Message),
    ) -> Result<()> {
        let (sender, inputs) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            forward_console(output, sender.clone());
        }
        forward_messages(listener, sender.clone());
        // Kept where nothing else would, so that the channel lives as long as the machine.
        let _keep = (self.console == Console::Terminal).then_some(sender);

        let mut deadline = Instant::now() + self.limit;
        let mut console = Vec::new();
        let mut finished = None;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match inputs.recv_timeout(remaining.min(PAUSE)) {
                Ok(Input::Console(bytes)) => {
                    if self.console == Console::Stream {
                        let mut stdout = std::io::stdout().lock();
                        // A closed output does not change the outcome.
                        let _ = stdout.write_all(&bytes).and_then(|()| stdout.flush());
                    }
                    console.extend_from_slice(&bytes);
                }
                Ok(Input::Message(line)) => match serde_json::from_str(&line) {
                    Ok(Message::Done(outcome)) => {
                        finished = Some(outcome);
                        deadline = deadline.min(Instant::now() + SHUTDOWN_LIMIT);
                    }
                    Ok(message) => on_message(message),
                    Err(_) => return Err(failure(format!("it sent {line:?}"), &console)),
                },
                Ok(Input::ConsoleClosed) => break,
                Err(_) if has_ended(child)? => break,
                Err(_) if remaining.is_zero() && finished.is_some() => break,
                Err(_) if remaining.is_zero() => {
                    let limit = self.limit.as_secs();
                    return Err(failure(
                        format!("it did not end within {limit} s"),
                        &console,
                    ));
                }
                Err(_) => {}
            }
        }
        match finished.or_else(|| last_outcome(&inputs)) {
            Some(outcome) => outcome.map_err(Error::Check),
            // Its user may power it off.
            None if self.console == Console::Terminal => Ok(()),
            None => Err(failure(
                match child.try_wait() {
                    Ok(Some(status)) => format!("it ended ({status}) before its job did"),
                    _ => "its console closed before its job ended".to_owned(),
                },
                &console,
            )),
        }
    }
}

fn failure(reason: String, console: &[u8]) -> Error {
    let console = process::last_lines(&String::from_utf8_lossy(console), ERROR_LINES);
    Error::Outer { reason, console }
}

fn has_ended(child: &mut Child) -> Result<bool> {
    child
        .try_wait()
        .map(|status| status.is_some())
        .map_err(|source| Error::System {
            action: "wait for the outer machine",
            source,
        })
}

/// The outcome among the inputs that are still on their way after the machine ended.
fn last_outcome(inputs: &mpsc::Receiver<Input>) -> Option<std::result::Result<(), String>> {
    while let Ok(input) = inputs.recv_timeout(LAST_INPUTS) {
        if let Input::Message(line) = input
            && let Ok(Message::Done(outcome)) = serde_json::from_str(&line)
        {
            return Some(outcome);
        }
    }
    None
}

fn forward_console(mut output: impl Read + Send + 'static, sender: Sender<Input>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if sender
                .send(Input::Console(buffer[..count].to_vec()))
                .is_err()
            {
                return;
            }
        }
        let _ = sender.send(Input::ConsoleClosed);
    });
}

fn forward_messages(listener: UnixListener, sender: Sender<Input>) {
    thread::spawn(move || {
        let Ok((stream, _)) = listener.accept() else {
            return;
        };
        for line in lines(stream) {
            if sender.send(Input::Message(line)).is_err() {
                return;
            }
        }
    });
}

fn lines(stream: UnixStream) -> impl Iterator<Item = String> {
    BufReader::new(stream)
        .lines()
        .map_while(std::result::Result::ok)
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
}
