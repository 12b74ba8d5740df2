//! Waits until an instant, to some 50 microseconds.
//!
//! The timers of tokio have a grain of one millisecond: at 5,000 arrivals a second that grain would be
//! the median of what is measured. Where the system has no better timer, they are what is used.

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

/// A timer.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    #[cfg(target_os = "linux")]
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Pacer {
    /// A timer of this thread's runtime.
    #[cfg(target_os = "linux")]
    #[expect(deprecated, reason = "it is unsound for numbers of descriptors; an owned one is what it says")]
    pub(crate) fn new() -> Self {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).ok();
        Self { timer: timer.and_then(|timer| AsyncFd::new(timer).ok()) }
    }

    /// A timer of this thread's runtime.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> Self {
        Self {}
    }

    /// Returns at `until`, and at the earliest after others had their turn.
    pub(crate) async fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return tokio::task::yield_now().await;
        }
        if !self.ring(left).await {
            tokio::time::sleep(left).await;
        }
    }

    #[cfg(target_os = "linux")]
    async fn ring(&self, after: Duration) -> bool {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let Some(timer) = &self.timer else { return false };
        let (Ok(tv_sec), tv_nsec) = (after.as_secs().try_into(), after.subsec_nanos().into()) else { return false };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once = Itimerspec { it_interval: never, it_value: Timespec { tv_sec, tv_nsec } };
        if timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).is_err() {
            return false;
        }
        loop {
            let Ok(mut ready) = timer.readable().await else { return false };
            let read = |timer: &AsyncFd<OwnedFd>| Ok(rustix::io::read(timer, &mut [0_u8; 8])?);
            if ready.try_io(read).is_ok_and(|read| read.is_ok()) {
                return true;
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_async, reason = "there is nothing to wait for here")]
    async fn ring(&self, _: Duration) -> bool {
        false
    }
}
