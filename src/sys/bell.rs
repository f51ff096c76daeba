//! What one thread waits at and others ring, from anywhere: inside an allocation, in a signal handler.

#[cfg(all(unix, not(target_vendor = "apple")))]
pub(crate) use semaphore::Bell;
/// Apple's have no semaphores without a name; elsewhere nobody asks for one often.
#[cfg(not(all(unix, not(target_vendor = "apple"))))]
pub(crate) type Bell = Polled;

/// A bell that nobody hears: who waits looks every ten milliseconds.
#[derive(Default)]
pub(crate) struct Polled;

impl Polled {
    #[cfg(not(all(unix, not(target_vendor = "apple"))))]
    pub(crate) fn new() -> Self {
        Self
    }
    #[cfg(not(all(unix, not(target_vendor = "apple"))))]
    pub(crate) fn ring(&self) {}
    pub(crate) fn wait(&self) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[cfg(all(unix, not(target_vendor = "apple")))]
mod semaphore {
    use core::cell::UnsafeCell;
    use core::mem::MaybeUninit;

    /// A semaphore of this process. It is rung and waited at only where it stays.
    pub(crate) struct Bell {
        semaphore: UnsafeCell<MaybeUninit<libc::sem_t>>,
        made: bool,
    }

    // SAFETY: a semaphore is made to be used from several threads by its address.
    unsafe impl Sync for Bell {}
    // SAFETY: as above; nothing in it belongs to a thread.
    unsafe impl Send for Bell {}

    impl Bell {
        pub(crate) fn new() -> Self {
            let mut semaphore = MaybeUninit::zeroed();
            // SAFETY: initialises a semaphore in a valid buffer; it isn't used before it has its last place.
            let made = unsafe { libc::sem_init(semaphore.as_mut_ptr(), 0, 0) } == 0;
            Self { semaphore: UnsafeCell::new(semaphore), made }
        }

        /// One `wait` returns. An atomic add and at most a system call, which may change `errno`.
        pub(crate) fn ring(&self) {
            if self.made {
                // SAFETY: initialised; `sem_post` may be called anywhere.
                unsafe { libc::sem_post(self.semaphore.get().cast()) };
            }
        }

        /// Until it is rung, or a signal comes.
        pub(crate) fn wait(&self) {
            if self.made {
                // SAFETY: as in `ring`.
                unsafe { libc::sem_wait(self.semaphore.get().cast()) };
            } else {
                super::Polled.wait();
            }
        }
    }
}
