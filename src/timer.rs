//! A timer that calls once, for the event loop.

use std::io;
use std::time::Duration;

use vmm_sys_util::errno::Error;
use vmm_sys_util::timerfd::TimerFd;

/// Calls after `time`, from now on; its descriptor is readable then.
///
/// # Errors
/// When the process may have no further descriptor.
pub fn once(time: Duration) -> io::Result<TimerFd> {
    let os_error = |error: Error| io::Error::from_raw_os_error(error.errno());
    let mut timer = TimerFd::new().map_err(os_error)?;
    timer.reset(time, None).map_err(os_error)?;
    Ok(timer)
}
