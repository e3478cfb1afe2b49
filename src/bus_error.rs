//! The last word of a process to which the host gives no huge page any more.
//!
//! A huge page that the guest has put into its balloon belongs to the host's pool. Where others
//! have taken all of the pool, a device that touches such a page (the guest has put its queues
//! there) gets SIGBUS: nothing can go on then, but the reason can be told.

use std::ffi::{c_int, c_void};
use std::io;

use libc::siginfo_t;

/// There is no memory at the address.
const BUS_ADRERR: c_int = 2;

const LAST_WORD: &[u8] = b"aerostat: The host gives no memory for guest memory that a device \
needs: its pool of huge pages is used up; others have taken what the guest had given back\n";

/// The exit status of a machine that failed.
const FAILED: c_int = 1;

/// Tells of SIGBUS before the process ends.
///
/// # Errors
/// When the host does not know of such signals.
pub fn tell() -> io::Result<()> {
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

extern "C" fn on_bus_error(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel hands a valid description to a handler of this kind.
    let code = unsafe { (*info).si_code };
    // What else it may be (broken hardware) comes again, and ends the process as it always does.
    if code == BUS_ADRERR {
        // SAFETY: both calls are allowed in handlers, and the text is as long as is said.
        unsafe {
            libc::write(2, LAST_WORD.as_ptr().cast(), LAST_WORD.len());
            libc::_exit(FAILED);
        }
    }
}
