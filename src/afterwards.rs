//! What the start leaves in memory and nobody needs any more: code that has run once, and what the
//! allocator keeps for more. It goes back to the host when the machine has run for a moment.
//!
//! Code is the file's and clean: what is needed again comes back by a page fault.

use std::ffi::{c_int, c_void};
use std::io;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::mm::{Advice, madvise};
use vmm_sys_util::timerfd::TimerFd;

use crate::timer;

/// A guest that ends sooner ends without it.
const MOMENT: Duration = Duration::from_millis(100);

/// The subscriber that gives it back, once. The timer stays, so that nothing but memory changes.
pub struct Afterwards(TimerFd);

impl Afterwards {
    /// In a moment from now.
    ///
    /// # Errors
    /// When no timer can be had.
    pub fn new() -> io::Result<Self> {
        timer::once(MOMENT).map(Self)
    }
}

impl MutEventSubscriber for Afterwards {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        if self.0.wait().is_ok() {
            give_back();
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.0, EventSet::IN)) {
            log::debug!("What the start has left stays in memory: {error}");
        }
    }
}

fn give_back() {
    // First, for the sake of its own code.
    // SAFETY: it has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: the callback is as `dl_iterate_phdr` wants it, and its data is nothing.
    unsafe { libc::dl_iterate_phdr(Some(give_back_code), std::ptr::null_mut()) };
}

/// Called for the program, and for each of its libraries if it has some.
///
/// # Safety
/// `info` is what `dl_iterate_phdr` says of an object in memory.
unsafe extern "C" fn give_back_code(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let info = unsafe { &*info };
    // SAFETY: the same: there are so many headers.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let page = rustix::param::page_size();
    let constant = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in constant {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
        let end = start.wrapping_add(header.p_memsz);
        let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
            continue;
        };
        let start = start / page * page;
        let range = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: what cannot be written to is as it is in the file, from which it comes again. An
        // error leaves it where it is.
        let _ = unsafe { madvise(range, end - start, Advice::LinuxDontNeed) };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_goes_on_with_what_comes_back() {
        let text = format!("{MOMENT:?}");
        give_back();
        assert_eq!(format!("{MOMENT:?}"), text);
    }
}
