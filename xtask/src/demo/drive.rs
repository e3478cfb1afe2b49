//! The demo proper: one guest from boot to power-off, with each claim checked.
//!
//! It runs on the machine that has the usable `/dev/kvm`: this one, or the outer machine.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Result};
use crate::harness::machine::Machine;
use crate::harness::qmp::Client;
use crate::harness::scaled;
use crate::harness::setup::Setup;
use crate::job::DemoFiles;
use crate::report::Event;

const MIB: u64 = 1 << 20;
const KIB_PER_MIB: u64 = 1024;
/// What the guest keeps for itself while it fills its memory.
const GUEST_RESERVE_MIB: u64 = 48;
/// Of the memory that the balloon takes, the part in percent that the host must get back: the rest
/// is what the guest had not touched, and its own noise.
const RELEASED_PERCENT: u64 = 78;
/// Time between two events of a balloon on its way; they come once a second.
const EVENT_LIMIT: Duration = Duration::from_secs(15);
/// Time for Linux to report what it has freed: it begins two seconds later.
const REPORT_LIMIT: Duration = Duration::from_secs(30);
/// More often would take the CPU from a slow guest.
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// Runs the demo and tells `show` what happens.
///
/// # Errors
///
/// At the first thing that is not as it should be.
pub fn drive(files: &DemoFiles, show: &mut dyn FnMut(Event)) -> Result<()> {
    let mut demo = Demo {
        mem_mib: files.mem_mib,
        show,
    };
    demo.run(files)
}

struct Demo<'a> {
    mem_mib: u64,
    show: &'a mut dyn FnMut(Event),
}

impl Demo<'_> {
    fn run(&mut self, files: &DemoFiles) -> Result<()> {
        let (mut machine, mut qmp) = self.boot(files)?;
        // At first the guest gives only what it is asked for.
        report_free_pages(&mut qmp, false)?;
        let fill_mib = self
            .guest_free(&mut machine, "guest memory available")?
            .saturating_sub(GUEST_RESERVE_MIB);

        let filled = self.fill(&mut machine, fill_mib, "host memory, guest filled its own")?;
        let target = self.mem_mib / 2;
        self.steer(&mut qmp, target, "Asking the guest to give memory back")?;
        let released = self.resident(&machine, "host memory, balloon inflated")?;
        self.check_released(filled.saturating_sub(released), self.mem_mib - target)?;
        self.guest_free(&mut machine, "guest memory available, inflated")?;

        self.steer(
            &mut qmp,
            self.mem_mib,
            "Giving the memory back to the guest",
        )?;
        self.guest_free(&mut machine, "guest memory available, deflated")?;
        self.fill(&mut machine, fill_mib, "host memory, guest filled it again")?;

        self.step("Letting the guest report what it does not use".to_owned());
        report_free_pages(&mut qmp, true)?;
        let full = machine.fill_guest_memory(fill_mib)? / KIB_PER_MIB;
        self.figure("host memory, guest filled it once more", full);
        self.await_reports(&machine, full, fill_mib)?;
        self.power_off(machine)
    }

    /// Waits until the guest has reported most of the `freed_mib` MiB that it has freed.
    fn await_reports(&mut self, machine: &Machine, full_mib: u64, freed_mib: u64) -> Result<()> {
        let resident = || Ok::<_, Error>(machine.resident_kib()? / KIB_PER_MIB);
        let least = freed_mib * RELEASED_PERCENT / 100;
        let deadline = Instant::now() + scaled(REPORT_LIMIT);
        while full_mib.saturating_sub(resident()?) < least {
            if Instant::now() >= deadline {
                let left = resident()?;
                return Err(Error::Check(format!(
                    "The guest has freed {freed_mib} MiB and reported too few of them: of \
                     {full_mib} MiB of host memory {left} MiB are left"
                )));
            }
            thread::sleep(REPORT_PAUSE);
        }
        self.done("The guest gave back what it had freed, unasked".to_owned());
        self.resident(machine, "host memory, free pages reported")?;
        Ok(())
    }

    fn boot(&mut self, files: &DemoFiles) -> Result<(Machine, Client)> {
        self.step(format!("Booting Linux with {} MiB", self.mem_mib));
        let mem = format!("{}M", self.mem_mib);
        let mut machine = Setup::new(&files.binary, &files.kernel, &mem)
            .argument("--initrd", &files.initramfs)
            .start()?;
        let qmp = machine.qmp()?;
        machine.wait_for_shell()?;
        let release = machine.console.run("uname -sr")?;
        self.done(format!(
            "The guest is up: {release}, a shell on its console"
        ));
        let total = machine.guest_meminfo_kib("MemTotal")? / KIB_PER_MIB;
        self.figure("guest memory (MemTotal)", total);
        self.resident(&machine, "host memory after boot")?;
        Ok((machine, qmp))
    }

    /// Makes the guest touch `mib` MiB and returns the host memory of the machine in MiB.
    fn fill(&mut self, machine: &mut Machine, mib: u64, figure: &str) -> Result<u64> {
        self.step(format!("The guest writes {mib} MiB"));
        machine.fill_guest_memory(mib)?;
        self.done(format!(
            "The guest wrote {mib} MiB and freed them; the host does not know"
        ));
        self.resident(machine, figure)
    }

    /// Steers the guest to `mib` MiB and shows the events on the way.
    fn steer(&mut self, qmp: &mut Client, mib: u64, what: &str) -> Result<()> {
        self.step(format!("{what}: balloon to {mib} MiB"));
        qmp.balloon(mib * MIB)?;
        let mut events = 0;
        let mut actual = None;
        while actual != Some(mib * MIB) {
            let event = qmp.wait_event("BALLOON_CHANGE", EVENT_LIMIT)?;
            actual = event["data"]["actual"].as_u64();
            events += 1;
            let now = actual.unwrap_or_default() / MIB;
            (self.show)(Event::Progress(format!(
                "BALLOON_CHANGE: the guest has {now} MiB"
            )));
        }
        let answer = qmp.balloon_actual()?;
        if Some(answer) != actual {
            return Err(Error::Check(format!(
                "query-balloon says {answer} bytes, the last event {}",
                actual.unwrap_or_default()
            )));
        }
        self.done(format!(
            "The guest has {mib} MiB ({events} BALLOON_CHANGE events)"
        ));
        Ok(())
    }

    fn check_released(&self, released_mib: u64, asked_mib: u64) -> Result<()> {
        let least = asked_mib * RELEASED_PERCENT / 100 + 1;
        if released_mib >= least {
            return Ok(());
        }
        Err(Error::Check(format!(
            "The host got only {released_mib} MiB back, of {asked_mib} MiB that the balloon took; \
             expected at least {least} MiB"
        )))
    }

    fn power_off(&mut self, mut machine: Machine) -> Result<()> {
        self.step("Powering the guest off".to_owned());
        machine.console.send("poweroff -f\n")?;
        machine.wait_success()?;
        self.done("The guest powered off and the process ended with status 0".to_owned());
        Ok(())
    }

    fn guest_free(&mut self, machine: &mut Machine, figure: &str) -> Result<u64> {
        let mib = machine.guest_meminfo_kib("MemAvailable")? / KIB_PER_MIB;
        self.figure(figure, mib);
        Ok(mib)
    }

    fn resident(&mut self, machine: &Machine, figure: &str) -> Result<u64> {
        let mib = machine.resident_kib()? / KIB_PER_MIB;
        self.figure(figure, mib);
        Ok(mib)
    }

    fn step(&mut self, text: String) {
        (self.show)(Event::Step(text));
    }

    fn done(&mut self, text: String) {
        (self.show)(Event::Done(text));
    }

    fn figure(&mut self, name: &str, mib: u64) {
        (self.show)(Event::Figure {
            name: name.to_owned(),
            value: format!("{mib} MiB"),
        });
    }
}

/// Chooses whether the guest's reports of free memory are acted on.
fn report_free_pages(qmp: &mut Client, is_on: bool) -> Result<()> {
    let arguments = json!({
        "path": "/machine/peripheral/balloon0", "property": "x-free-page-reporting", "value": is_on
    });
    qmp.execute_with("qom-set", &arguments)?;
    Ok(())
}
