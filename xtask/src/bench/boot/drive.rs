//! Boots, one after the other, on the machine that has the usable `/dev/kvm`: this one, or the outer
//! machine.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::phases::Phases;
use crate::bench::linux;
use crate::error::{Error, Result};
use crate::process;

/// Memory of the guests.
const MEMORY_MIB: u32 = 256;
/// What the guest prints goes where both VMMs drop it; it costs the guest the same.
const CMDLINE: &str = "console=ttyS0 panic=-1";
/// What the guest's init writes to the port with its first line.
const INIT_RUNS: u8 = 1;
/// Time for a boot.
const LIMIT: Duration = Duration::from_secs(120);

/// What boots, and how often.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {
    /// Programs, kernel and initial file system.
    pub linux: linux::Files,
    /// How often each.
    pub rounds: u32,
}

/// Whose boot it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Ours, which unpacks the kernel and moves it.
    Direct,
    /// Ours, which unpacks the kernel alone.
    NoKaslr,
    /// Ours, whose guest unpacks and moves its kernel.
    GuestDecompress,
    /// QEMU's, whose guest does so too.
    Qemu,
}

impl Kind {
    /// As the figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "aerostat",
            Self::NoKaslr => "nokaslr",
            Self::GuestDecompress => "guest-decompress",
            Self::Qemu => "qemu",
        }
    }
}

/// A boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Whose it was.
    pub kind: Kind,
    /// From before exec until init's first line was heard of.
    pub init: Duration,
    /// What it consisted of, where the VMM says so.
    pub phases: Option<Phases>,
}

/// For people, who wait for minutes where it runs nested.
impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, seconds) = (self.kind.name(), self.init.as_secs_f64());
        write!(formatter, "Boot ({name}): init after {seconds:.2} s")
    }
}

/// Boots all kinds, once to fill caches; then, so often, the others in an order of chance, each between two
/// of ours. Hands each of these boots on.
///
/// # Errors
///
/// When a guest does not boot.
pub fn drive(files: &Files, on_round: &mut dyn FnMut(Round)) -> Result<()> {
    let mut others = vec![Kind::NoKaslr, Kind::GuestDecompress];
    others.extend(files.linux.qemu.as_ref().map(|_| Kind::Qemu));
    for &kind in &others {
        boot(kind, &files.linux)?;
    }
    boot(Kind::Direct, &files.linux)?;
    on_round(boot(Kind::Direct, &files.linux)?);
    for _ in 0..files.rounds {
        fastrand::shuffle(&mut others);
        for &kind in &others {
            on_round(boot(kind, &files.linux)?);
            on_round(boot(Kind::Direct, &files.linux)?);
        }
    }
    Ok(())
}

fn boot(kind: Kind, files: &linux::Files) -> Result<Round> {
    let mut command = match (kind, &files.qemu) {
        (Kind::Qemu, Some(qemu)) => Command::new(qemu),
        _ => Command::new(&files.aerostat),
    };
    let cmdline = match kind {
        Kind::NoKaslr => format!("{CMDLINE} nokaslr"),
        _ => CMDLINE.to_owned(),
    };
    match kind {
        Kind::Qemu => add_arguments_of_qemu(&mut command, files, &cmdline),
        _ => add_arguments_of_ours(&mut command, files, &cmdline),
    }
    if kind == Kind::GuestDecompress {
        command.args(["--boot", "guest-decompress"]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().map_err(|source| Error::Start {
        command: process::describe(&command),
        source,
    })?;
    let heard = listen(kind, &mut child);
    let init = begun.elapsed();
    // An error means that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    Ok(Round {
        kind,
        init,
        phases: Phases::parse(&heard?),
    })
}

/// Waits until init is heard of on the standard error: by our boot timer, or by the byte that QEMU's
/// debug console passes on. What was said by then.
fn listen(kind: Kind, child: &mut Child) -> Result<String> {
    let Some(mut errors) = child.stderr.take() else {
        return Err(Error::Check("The machine has no standard error".to_owned()));
    };
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = errors.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    let is_heard = |said: &[u8]| match kind {
        Kind::Qemu => said.contains(&INIT_RUNS),
        _ => String::from_utf8_lossy(said).contains(&format!("Boot timer: {INIT_RUNS} at")),
    };
    let deadline = Instant::now() + LIMIT;
    let mut said = Vec::new();
    while !is_heard(&said) {
        let left = deadline.saturating_duration_since(Instant::now());
        let failure = match receiver.recv_timeout(left) {
            Ok(bytes) => {
                said.extend(bytes);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => "does not boot",
            Err(RecvTimeoutError::Disconnected) => "ended before its guest's init",
        };
        let said = String::from_utf8_lossy(&said);
        let (name, said) = (kind.name(), said.trim());
        return Err(Error::Check(format!("{name} {failure}; it said: {said}")));
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn add_arguments_of_ours(command: &mut Command, files: &linux::Files, cmdline: &str) {
    command
        .arg("--kernel")
        .arg(&files.kernel)
        .arg("--initrd")
        .arg(&files.initramfs)
        .args(["--mem", &format!("{MEMORY_MIB}M")])
        .args(["--cmdline", cmdline, "--boot-timer"]);
}

/// A microvm with the clock that Linux looks for, for long where there is none.
fn add_arguments_of_qemu(command: &mut Command, files: &linux::Files, cmdline: &str) {
    command
        .args(["-M", "microvm,rtc=on", "-accel", "kvm", "-cpu", "host"])
        .args(["-m", &MEMORY_MIB.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", "stdio"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-device", "virtio-balloon-device,bus=virtio-mmio-bus.1"])
        .args(["-chardev", "file,id=timer,path=/proc/self/fd/2"])
        .args(["-device", "isa-debugcon,iobase=0xe9,chardev=timer"])
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-initrd")
        .arg(&files.initramfs)
        .args(["-append", cmdline]);
}
