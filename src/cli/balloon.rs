//! The balloon's option.

use std::num::NonZero;
use std::str::FromStr;

use aerostat_devices::balloon::BalloonOptions;
use aerostat_qmp::SteeringOptions;
use aerostat_units::{parse_size, parse_time};

use super::values::switch;

/// A balloon, and how clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalloonSettings {
    /// Its id, which ends its QOM path: a letter, then letters, digits, `-`, `.` and `_`.
    pub id: String,
    /// What may be asked of the guest, and when it counts as stalled.
    pub steering: SteeringOptions,
    /// What the device offers.
    pub device: BalloonOptions,
    /// Whether the user has said if the guest reports free pages.
    pub chooses_reporting: bool,
}

impl Default for BalloonSettings {
    fn default() -> Self {
        Self {
            id: "balloon0".to_owned(),
            steering: SteeringOptions::default(),
            device: BalloonOptions::default(),
            chooses_reporting: false,
        }
    }
}

/// Sets one of the options; what is wrong with the value.
type Setter = fn(&mut BalloonSettings, &str) -> Result<(), String>;

/// The options: name, values, effect.
const OPTIONS: [(&str, &str, Setter); 7] = [
    ("deflate-on-oom", "on|off", |balloon, value| {
        balloon.device.deflate_on_oom = switch(value)?;
        Ok(())
    }),
    ("free-page-reporting", "on|off", |balloon, value| {
        balloon.device.free_page_reporting = switch(value)?;
        balloon.chooses_reporting = true;
        Ok(())
    }),
    ("page-poison", "on|off", |balloon, value| {
        balloon.device.page_poison = switch(value)?;
        Ok(())
    }),
    ("id", "NAME", |balloon, value| {
        balloon.id = id(value)?;
        Ok(())
    }),
    ("min", "SIZE", |balloon, value| {
        balloon.steering.limits.min = parse_size(value).map_err(|error| error.to_string())?;
        Ok(())
    }),
    ("max-rate", "SIZE/s", |balloon, value| {
        balloon.steering.limits.max_rate = Some(rate(value)?);
        Ok(())
    }),
    ("stall-after", "TIME", |balloon, value| {
        balloon.steering.stall_after = parse_time(value).map_err(|error| error.to_string())?;
        Ok(())
    }),
];

/// The slowest rate: less would not be a page in each step.
const MIN_RATE_BYTES: u64 = 64 << 10;

/// A rate in bytes per second.
fn rate(text: &str) -> Result<NonZero<u64>, String> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    let rate = parse_size(size).map_err(|error| error.to_string())?;
    let rate = NonZero::new(rate).filter(|rate| rate.get() >= MIN_RATE_BYTES);
    rate.ok_or_else(|| "write 64K/s or more, or leave max-rate out for no limit".to_owned())
}

/// A name that QEMU would take for a device.
fn id(text: &str) -> Result<String, String> {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if begins && text.chars().all(rest) {
        Ok(text.to_owned())
    } else {
        Err("an id is a letter, then letters, digits, '-', '.' and '_'".to_owned())
    }
}

/// `off`, `on`, or options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalloonArgument(pub Option<BalloonSettings>);

impl BalloonArgument {
    /// The names of the options.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        OPTIONS.iter().map(|(key, ..)| *key)
    }
}

impl FromStr for BalloonArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match switch(text) {
            Ok(false) => return Ok(Self(None)),
            Ok(true) => return Ok(Self(Some(BalloonSettings::default()))),
            Err(_) => {}
        }
        let mut balloon = BalloonSettings::default();
        for option in text.split(',') {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let known = OPTIONS.iter().find(|(known, ..)| *known == key);
            let Some((_, _, set)) = known else {
                let known = OPTIONS.map(|(key, values, _)| format!("{key}={values}"));
                let known = known.join(", ");
                return Err(format!("{option:?} is no option: write off, on or {known}"));
            };
            set(&mut balloon, value).map_err(|error| format!("{option:?}: {error}"))?;
        }
        Ok(Self(Some(balloon)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aerostat_qmp::Limits;

    use super::*;

    fn balloon(text: &str) -> Option<BalloonSettings> {
        text.parse::<BalloonArgument>().unwrap().0
    }

    fn refusal(text: &str) -> String {
        text.parse::<BalloonArgument>().unwrap_err()
    }

    #[test]
    fn balloon_is_there_unless_it_is_off() {
        assert_eq!(balloon("off"), None);
        assert_eq!(balloon("on"), Some(BalloonSettings::default()));
    }

    #[test]
    fn options_are_taken_and_the_last_of_a_name_counts() {
        let text = "deflate-on-oom=on,free-page-reporting=off,page-poison=off,id=b-1,stall-after=2s,\
                    min=256M,max-rate=100M/s,deflate-on-oom=off";
        let expected = BalloonSettings {
            id: "b-1".to_owned(),
            steering: SteeringOptions {
                limits: Limits {
                    min: 256 << 20,
                    max_rate: NonZero::new(100 << 20),
                },
                stall_after: Duration::from_secs(2),
            },
            device: BalloonOptions {
                deflate_on_oom: false,
                free_page_reporting: false,
                page_poison: false,
            },
            chooses_reporting: true,
        };
        assert_eq!(balloon(text), Some(expected));
    }

    #[test]
    fn wrong_options_are_named() {
        assert!(refusal("size=3").contains("\"size=3\" is no option"));
        assert!(refusal("").contains("deflate-on-oom=on|off"));
        assert!(refusal("deflate-on-oom=maybe").contains("the value is on or off"));
        assert!(refusal("deflate-on-oom").contains("the value is on or off"));
        assert!(refusal("stall-after=0").contains("no time at all"));
        assert!(refusal("min=lots").contains("min=lots"));
    }

    #[test]
    fn rates_are_sizes_in_a_second() {
        let rate = |text: &str| {
            balloon(text)
                .unwrap()
                .steering
                .limits
                .max_rate
                .unwrap()
                .get()
        };
        assert_eq!(rate("max-rate=64K/s"), 64 << 10);
        assert_eq!(rate("max-rate=1G"), 1 << 30);
        for text in ["max-rate=0", "max-rate=63K/s", "max-rate=1B/s"] {
            assert!(refusal(text).contains("64K/s or more"), "{text}");
        }
        assert!(refusal("max-rate=1G/m").contains("max-rate=1G/m"));
    }

    #[test]
    fn ids_are_those_that_qemu_takes() {
        for text in ["id=", "id=0b", "id=a/b", "id=ä", "id=a b"] {
            assert!(refusal(text).contains("an id is a letter"), "{text}");
        }
    }
}
