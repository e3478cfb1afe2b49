//! Where guest memory comes from, as users choose it.

use std::fmt;

use super::PAGE_SIZE;

/// Bytes in a transparent huge page.
const THP_BYTES: u64 = 2 << 20;
/// What the host does with anonymous memory of which nobody has said anything; the word in
/// brackets holds.
const THP_SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
/// The same for memory of a memfd.
const THP_SHARED_SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The sizes of huge pages on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePageSize {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl HugePageSize {
    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The binary logarithm of the size, which is how system calls are told of it.
    pub(super) fn shift(self) -> u32 {
        match self {
            Self::Size2M => 21,
            Self::Size1G => 30,
        }
    }
}

/// As users write it.
impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        })
    }
}

/// Where guest memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Memory of this process alone.
    #[default]
    Anonymous,
    /// A file without a name, which the process shares with whoever gets its descriptor.
    Memfd,
    /// Huge pages of the host's pool, in such a file.
    HugeTlb(HugePageSize),
}

/// What a user can choose about guest memory besides its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamOptions {
    /// Where it comes from.
    pub backing: Backing,
    /// Whether the host is to use transparent huge pages; `None` for what it does by itself.
    /// Without meaning for [`Backing::HugeTlb`].
    pub thp: Option<bool>,
    /// All of it is taken from the host before the guest starts.
    pub prealloc: bool,
    /// What was taken is never swapped out.
    pub lock: bool,
}

/// In which pieces memory goes back to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Pages of 4 KiB.
    Pages,
    /// The same, but each huge page of so many pages had better go as a whole: the host takes
    /// longer for its parts, and has to split it.
    BetterWhole(u32),
    /// Huge pages of so many pages, as a whole or not at all.
    OnlyWhole(u32),
}

impl RamOptions {
    /// In which pieces memory with these options goes back.
    pub(super) fn granularity(self) -> Granularity {
        let pages = |bytes: u64| u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        match (self.backing, self.thp) {
            (Backing::HugeTlb(size), _) => Granularity::OnlyWhole(pages(size.bytes())),
            (_, Some(true)) => Granularity::BetterWhole(pages(THP_BYTES)),
            (Backing::Anonymous, None) if setting(THP_SETTING) == "always" => {
                Granularity::BetterWhole(pages(THP_BYTES))
            }
            _ => Granularity::Pages,
        }
    }

    /// To what size mappings are aligned, so that a huge page of the guest can be one of the host.
    pub(super) fn alignment(self) -> u64 {
        match self.backing {
            Backing::HugeTlb(size) => size.bytes(),
            Backing::Anonymous | Backing::Memfd => THP_BYTES,
        }
    }

    /// The setting of the host that makes `thp: Some(true)` a wish without effect.
    pub(super) fn thwarting_setting(self) -> Option<&'static str> {
        if self.thp != Some(true) {
            return None;
        }
        let path = match self.backing {
            Backing::Anonymous => THP_SETTING,
            Backing::Memfd => THP_SHARED_SETTING,
            Backing::HugeTlb(_) => return None,
        };
        let is_off = ["never", "deny"].contains(&setting(path).as_str());
        is_off.then_some(path)
    }
}

/// The choice that a file of the host shows; empty when there is none.
fn setting(path: &str) -> String {
    chosen(&std::fs::read_to_string(path).unwrap_or_default()).to_owned()
}

/// The word in brackets.
fn chosen(text: &str) -> &str {
    let behind = text.split_once('[').map_or("", |(_, behind)| behind);
    behind.split_once(']').map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_of_the_host_is_the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("[always] madvise never\n"), "always");
        assert_eq!(chosen("always"), "");
        assert_eq!(chosen("[always"), "");
    }

    #[test]
    fn pieces_follow_from_backing_and_wish() {
        let with = |backing, thp| {
            let options = RamOptions {
                backing,
                thp,
                ..RamOptions::default()
            };
            options.granularity()
        };
        assert_eq!(with(Backing::Anonymous, Some(false)), Granularity::Pages);
        assert_eq!(with(Backing::Memfd, None), Granularity::Pages);
        for backing in [Backing::Anonymous, Backing::Memfd] {
            assert_eq!(with(backing, Some(true)), Granularity::BetterWhole(512));
        }
        let small = Backing::HugeTlb(HugePageSize::Size2M);
        assert_eq!(with(small, None), Granularity::OnlyWhole(512));
        let large = Backing::HugeTlb(HugePageSize::Size1G);
        assert_eq!(with(large, None), Granularity::OnlyWhole(262_144));
    }
}
