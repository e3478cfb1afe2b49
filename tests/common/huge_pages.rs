//! Huge pages of the host's pool for one test at a time, whichever program it is in.

use std::fs::{self, File};
use std::io;

use rustix::fs::{FlockOperation, flock};

/// The files of the pool of 2 MiB pages.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Free huge pages of 2 MiB, for as long as this is there. Others who want some wait.
pub struct HugePages {
    /// How large the pool was before.
    before: u64,
    _lock: File,
}

impl HugePages {
    /// Sees to it that `count` huge pages are free and promised to nobody.
    ///
    /// # Panics
    ///
    /// When they cannot be had: the message says how to get them.
    pub fn take(count: u64) -> Self {
        let path = std::env::temp_dir().join("aerostat-test-huge-pages.lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        flock(&lock, FlockOperation::LockExclusive).expect("lock");
        let all = number("nr_hugepages");
        if available() < count {
            let missing = count - available();
            if let Err(error) = set(all + missing) {
                panic!("{}: {error}", advice(all + missing));
            }
        }
        let pages = Self {
            before: all,
            _lock: lock,
        };
        assert!(available() >= count, "{}", advice(all + count));
        pages
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if number("nr_hugepages") != self.before {
            let _ = set(self.before);
        }
    }
}

/// Huge pages that somebody who asks now can have.
pub fn available() -> u64 {
    number("free_hugepages").saturating_sub(number("resv_hugepages"))
}

/// Makes the pool so large that `count` huge pages are left to those who ask now.
///
/// # Panics
///
/// When the pool cannot be changed.
pub fn leave(count: u64) {
    let all = number("nr_hugepages") + count;
    let all = all.saturating_sub(available());
    set(all).unwrap_or_else(|error| panic!("{}: {error}", advice(all)));
}

fn number(name: &str) -> u64 {
    let text = fs::read_to_string(format!("{POOL}/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn set(count: u64) -> io::Result<()> {
    fs::write(format!("{POOL}/nr_hugepages"), count.to_string())
}

fn advice(count: u64) -> String {
    format!(
        "this test needs huge pages: run it as root, or run `echo {count} > {POOL}/nr_hugepages` \
         as root before, with memory free for them"
    )
}
