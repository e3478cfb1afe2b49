//! The last word of a process to which the host gives no page of guest memory any more.
//!
//! A huge page that the guest has put into its balloon belongs to the host's pool. Where others
//! have taken all of the pool, a device that touches such a page (the guest has put its queues
//! there) gets SIGBUS: nothing can go on then, but the reason can be told.

use std::ffi::{c_int, c_void};
use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use libc::siginfo_t;

use crate::console::terminal;

/// There is no memory at the address.
const BUS_ADRERR: c_int = 2;

const LAST_WORD: &[u8] = b"aerostat: The host gives no memory for guest memory that a device \
needs: its pool of huge pages is used up; others have taken what the guest had given back\n";

/// The exit status of a machine that failed.
const FAILED: c_int = 1;

/// Where guest memory is.
static GUEST_MEMORY: OnceLock<Vec<Range<usize>>> = OnceLock::new();

/// Tells of SIGBUS in guest memory, which is at these addresses, before the process ends.
///
/// # Errors
/// When the host does not know of such signals.
pub fn tell(guest_memory: Vec<Range<usize>>) -> io::Result<()> {
    // There is one machine in a process.
    let _ = GUEST_MEMORY.set(guest_memory);
    // SAFETY: an action of zeroes is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
    // SAFETY: the action is a valid one, and its handler calls nothing that a handler may not.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Nothing here waits or takes memory.
extern "C" fn on_bus_error(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel hands a valid description to a handler of this kind.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let mut guest_memory = GUEST_MEMORY.get().into_iter().flatten();
    let is_guest_memory = guest_memory.any(|range| range.contains(&address));
    terminal::restore_at_once();
    // SAFETY: all three calls are allowed in handlers, and the text is as long as is said.
    unsafe {
        if code == BUS_ADRERR && is_guest_memory {
            libc::write(2, LAST_WORD.as_ptr().cast(), LAST_WORD.len());
            libc::_exit(FAILED);
        }
        // Whatever else it is (broken hardware, somebody's `kill`) ends the process as it always
        // does: this handler is there for one signal only.
        libc::raise(libc::SIGBUS);
    }
}
