//! The memory's option: a size, and where the memory comes from.

use std::str::FromStr;

use aerostat_devices::{Backing, HugePageSize, RamOptions};
use aerostat_vmm::units::MemorySize;

use super::values::switch;

/// A size, and where the memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryArgument {
    /// How much the guest has.
    pub size: MemorySize,
    /// Where it comes from.
    pub ram: RamOptions,
}

/// What was given behind the size.
#[derive(Default)]
struct Given {
    backing: Option<Kind>,
    huge_page: Option<HugePageSize>,
    thp: Option<bool>,
    prealloc: bool,
    lock: bool,
}

/// A backing as it is written, without the size of its pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Memfd,
    HugeTlb,
}

/// Sets one of the options; what is wrong with the value.
type Setter = fn(&mut Given, &str) -> Result<(), String>;

/// The options: name, values, effect.
const OPTIONS: [(&str, &str, Setter); 5] = [
    ("backing", "anon|memfd|hugetlbfs", |given, value| {
        given.backing = Some(match value {
            "anon" => Kind::Anonymous,
            "memfd" => Kind::Memfd,
            "hugetlbfs" => Kind::HugeTlb,
            _ => return Err("the value is anon, memfd or hugetlbfs".to_owned()),
        });
        Ok(())
    }),
    ("hugepage", "2M|1G", |given, value| {
        given.huge_page = Some(match value {
            "2M" => HugePageSize::Size2M,
            "1G" => HugePageSize::Size1G,
            _ => return Err("the value is 2M or 1G".to_owned()),
        });
        Ok(())
    }),
    ("thp", "on|off", |given, value| {
        given.thp = Some(switch(value)?);
        Ok(())
    }),
    ("prealloc", "on|off", |given, value| {
        given.prealloc = switch(value)?;
        Ok(())
    }),
    ("lock", "on|off", |given, value| {
        given.lock = switch(value)?;
        Ok(())
    }),
];

impl Given {
    /// What goes together.
    fn options(self) -> Result<RamOptions, String> {
        let backing = match (self.backing, self.huge_page) {
            (Some(Kind::HugeTlb), size) => Backing::HugeTlb(size.unwrap_or(HugePageSize::Size2M)),
            (_, Some(size)) => {
                return Err(format!(
                    "hugepage={size} is the size of pages of backing=hugetlbfs: add that, or write \
                     thp=on for transparent huge pages"
                ));
            }
            (Some(Kind::Memfd), None) => Backing::Memfd,
            (Some(Kind::Anonymous) | None, None) => Backing::Anonymous,
        };
        if self.thp.is_some() && matches!(backing, Backing::HugeTlb(_)) {
            return Err(
                "thp is about transparent huge pages, which backing=hugetlbfs does not have: use one"
                    .to_owned(),
            );
        }
        Ok(RamOptions {
            backing,
            thp: self.thp,
            prealloc: self.prealloc,
            lock: self.lock,
        })
    }
}

impl FromStr for MemoryArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut items = text.split(',');
        let size = items.next().unwrap_or_default();
        let size: MemorySize = size.parse().map_err(|error| format!("{error}"))?;
        let mut given = Given::default();
        for item in items {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let known = OPTIONS.iter().find(|(known, ..)| *known == key);
            let Some((_, _, set)) = known else {
                let known = OPTIONS.map(|(key, values, _)| format!("{key}={values}"));
                return Err(format!(
                    "{item:?} is no option: behind the size stand {}",
                    known.join(", ")
                ));
            };
            set(&mut given, value).map_err(|error| format!("{item:?}: {error}"))?;
        }
        let ram = given.options()?;
        if let Backing::HugeTlb(page) = ram.backing
            && !size.bytes().is_multiple_of(page.bytes())
        {
            return Err(format!(
                "{size} of memory are not a whole number of huge pages of {page}: write a multiple \
                 of {page}"
            ));
        }
        Ok(Self { size, ram })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ram(text: &str) -> RamOptions {
        text.parse::<MemoryArgument>().unwrap().ram
    }

    fn refusal(text: &str) -> String {
        text.parse::<MemoryArgument>().unwrap_err()
    }

    #[test]
    fn size_alone_is_anonymous_memory_as_the_host_gives_it() {
        let memory: MemoryArgument = "2G".parse().unwrap();
        assert_eq!(memory.size.bytes(), 2 << 30);
        assert_eq!(memory.ram, RamOptions::default());
        assert_eq!(memory.ram.backing, Backing::Anonymous);
        assert_eq!(memory.ram.thp, None);
    }

    #[test]
    fn options_are_taken_and_the_last_of_a_name_counts() {
        let expected = RamOptions {
            backing: Backing::HugeTlb(HugePageSize::Size1G),
            thp: None,
            prealloc: true,
            lock: true,
        };
        let text = "4G,backing=anon,lock=on,backing=hugetlbfs,hugepage=1G,prealloc=off,prealloc=on";
        assert_eq!(ram(text), expected);
        assert_eq!(ram("64M,backing=memfd,thp=on").thp, Some(true));
        assert_eq!(ram("64M,thp=off").thp, Some(false));
        let small = Backing::HugeTlb(HugePageSize::Size2M);
        assert_eq!(ram("64M,backing=hugetlbfs").backing, small);
    }

    #[test]
    fn wrong_options_are_named_with_what_could_stand_there() {
        assert!(refusal("2G,size=3").contains("\"size=3\" is no option"));
        assert!(refusal("2G,").contains("backing=anon|memfd|hugetlbfs"));
        assert!(refusal("2G,backing=file").contains("\"backing=file\": the value is anon"));
        assert!(refusal("2G,hugepage=4M").contains("the value is 2M or 1G"));
        assert!(refusal("2G,thp").contains("the value is on or off"));
        assert!(refusal("backing=memfd").contains("not a size"));
        assert!(refusal("1M,backing=memfd").contains("the minimum is 64M"));
    }

    #[test]
    fn options_that_do_not_go_together_are_named_with_what_to_do() {
        for text in ["2G,hugepage=2M", "2G,backing=memfd,hugepage=1G"] {
            let refused = refusal(text);
            assert!(refused.contains("backing=hugetlbfs: add that"), "{refused}");
        }
        for thp in ["on", "off"] {
            let refused = refusal(&format!("2G,backing=hugetlbfs,thp={thp}"));
            assert!(refused.contains("thp is about"), "{refused}");
        }
    }

    #[test]
    fn size_that_is_no_whole_number_of_huge_pages_is_refused_with_the_page() {
        let refused = refusal("65M,backing=hugetlbfs");
        assert!(
            refused.contains("65M of memory") && refused.contains("of 2M"),
            "{refused}"
        );
        let refused = refusal("1.5G,backing=hugetlbfs,hugepage=1G");
        assert!(refused.contains("multiple of 1G"), "{refused}");
        assert!("65M".parse::<MemoryArgument>().is_ok());
    }

    proptest! {
        #[test]
        fn no_text_is_taken_that_makes_no_memory(
            size in 64..5000_u64,
            items in prop::collection::vec(
                prop::sample::select(vec![
                    "backing=anon", "backing=memfd", "backing=hugetlbfs", "hugepage=2M",
                    "hugepage=1G", "thp=on", "thp=off", "prealloc=on", "lock=on", "x=1", "",
                ]),
                0..5,
            ),
        ) {
            let text = [vec![format!("{size}M")], items.iter().map(ToString::to_string).collect()]
                .concat()
                .join(",");
            if let Ok(memory) = text.parse::<MemoryArgument>() {
                prop_assert_eq!(memory.size.bytes(), size << 20);
                let has_size = items.iter().any(|item| item.starts_with("hugepage"));
                match memory.ram.backing {
                    Backing::HugeTlb(page) => {
                        prop_assert_eq!((size << 20) % page.bytes(), 0);
                        prop_assert_eq!(memory.ram.thp, None);
                    }
                    _ => prop_assert!(!has_size),
                }
            }
        }
    }
}
