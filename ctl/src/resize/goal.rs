//! What the guest will have when it has reached its target. Sizes are in bytes.

/// Bytes in a page of the balloon (virtio 1.2 §5.5.6).
const PAGE: u64 = 4096;

/// A size to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    bytes: u64,
    /// How far off the guest may be: a server that does not say what it has may round.
    tolerance: u64,
}

impl Goal {
    /// The goal when `value` is asked for. A machine of `memory` bytes rounds it up to a page, and
    /// gives no more than it has.
    pub fn new(value: u64, memory: Option<u64>) -> Self {
        match memory {
            Some(memory) => {
                let balloon = memory.saturating_sub(value) / PAGE * PAGE;
                Self::exactly(memory - balloon)
            }
            None => Self {
                bytes: value,
                tolerance: PAGE - 1,
            },
        }
    }

    /// The goal that the server names.
    pub fn exactly(bytes: u64) -> Self {
        Self {
            bytes,
            tolerance: 0,
        }
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Whether a guest that has `actual` bytes is there.
    pub fn is_reached(self, actual: u64) -> bool {
        self.bytes.abs_diff(actual) <= self.tolerance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 256 << 20;

    #[test]
    fn size_is_rounded_up_to_a_page() {
        let goal = Goal::new((100 << 20) + 1, Some(MEMORY));
        assert_eq!(goal, Goal::exactly((100 << 20) + PAGE));
    }

    #[test]
    fn size_is_at_most_the_memory() {
        assert_eq!(Goal::new(1 << 40, Some(MEMORY)), Goal::exactly(MEMORY));
        assert_eq!(Goal::new(0, Some(MEMORY)), Goal::exactly(0));
    }

    #[test]
    fn unknown_memory_leaves_a_page_of_doubt() {
        let goal = Goal::new((100 << 20) + 1, None);
        assert!(goal.is_reached((100 << 20) + PAGE));
        assert!(!goal.is_reached((100 << 20) + 1 + PAGE));
    }
}
