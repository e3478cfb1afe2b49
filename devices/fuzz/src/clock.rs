//! Time that passes when an input says so: what waits for a timer of the device waits no longer.
//!
//! The device's timers are found where its event loop waits for them (epoll's `fdinfo`, proc(5)).

use std::fs;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{Itimerspec, TimerfdTimerFlags, timerfd_gettime, timerfd_settime};

/// The timers for which the same loop waits as for the event `fd`.
pub fn timers_beside(fd: RawFd) -> Vec<RawFd> {
    let open = fs::read_dir("/proc/self/fd").expect("proc");
    let mut waited_for = open
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|epoll| fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).ok())
        .map(|info| targets(&info))
        .find(|targets| targets.contains(&fd))
        .expect("an event loop");
    waited_for.retain(|fd| {
        fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|kind| kind.as_os_str() == "anon_inode:[timerfd]")
    });
    waited_for
}

/// What an epoll instance waits for.
fn targets(info: &str) -> Vec<RawFd> {
    info.lines()
        .filter_map(|line| line.strip_prefix("tfd:"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

/// Lets each of these timers that is set call now.
pub fn pass_time(timers: &[RawFd]) {
    for &timer in timers {
        // SAFETY: the device and its event loop, which own the timer, live as long as the guest
        // that calls this.
        let timer = unsafe { BorrowedFd::borrow_raw(timer) };
        let set = timerfd_gettime(timer).expect("timer");
        if set.it_value != Timespec::default() {
            let value = Timespec {
                tv_sec: 0,
                tv_nsec: 1,
            };
            let now = Itimerspec {
                it_interval: Timespec::default(),
                it_value: value,
            };
            timerfd_settime(timer, TimerfdTimerFlags::empty(), &now).expect("timer");
            poll(&mut [PollFd::new(&timer, PollFlags::IN)], None).expect("call");
        }
    }
}
