//! What a boot of ours consists of, from the line of its boot timer.

use serde::{Deserialize, Serialize};

/// Seconds since the process began at which a part of the boot was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    built: f64,
    loaded: f64,
    entered: f64,
    printed: f64,
    init: f64,
}

/// A part of a boot, in seconds.
type Part = fn(&Phases) -> f64;

impl Phases {
    /// The parts of a boot, one after the other but for the kernel, which is loaded while the machine
    /// is built.
    pub const PARTS: [(&'static str, Part); 5] = [
        ("boot.built", |it| it.built),
        ("boot.kernel", |it| it.loaded),
        ("boot.entry", |it| it.entered),
        ("boot.to_first_output", |it| it.printed - it.entered),
        ("boot.to_init", |it| it.init - it.printed),
    ];

    /// Understands `Boot timer: 1 at 8.000 ms, machine built 1.000 ms, kernel loaded 2.000 ms, …`.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, line) = line.split_once("Boot timer: ")?;
        let after = |name: &str| {
            let (_, rest) = line.split_once(name)?;
            let number = rest.trim_start().split_once(" ms")?.0;
            Some(number.parse::<f64>().ok()? / 1e3)
        };
        Some(Self {
            built: after("machine built")?,
            loaded: after("kernel loaded")?,
            entered: after("guest entered")?,
            // A guest that prints nothing has one part less.
            printed: after("first output").or_else(|| after(" at"))?,
            init: after(" at")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "[INFO ] Boot timer: 1 at 900.5 ms, machine built 2.000 ms, kernel loaded \
                        30.000 ms, guest entered 31.000 ms, first output 100.5 ms, CPU 800.000 ms";

    #[test]
    fn line_of_the_boot_timer_is_understood() {
        let phases = Phases::parse(LINE).unwrap();
        let parts = Phases::PARTS.map(|(_, part)| (part(&phases) * 1e3).round());
        assert_eq!(parts, [2.0, 30.0, 31.0, 70.0, 800.0]);
    }

    #[test]
    fn other_lines_are_not() {
        assert_eq!(Phases::parse("[WARN ] something else"), None);
        assert_eq!(Phases::parse("[INFO ] Boot timer: 1 at once"), None);
    }
}
