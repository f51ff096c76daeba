//! `std`'s locks, seen by Birthmark: a changed `use` line.
//!
//! While async debug is on ([`crate::set_debug`]) each lock knows who holds it and where it was taken. A guard of one that is
//! held while a wrapped future waits (`birthmark::tokio::spawn`, `.watched()`, the root of `birthmark::tokio::run`) is told as
//! `lock-across-await`, and a poll that is stuck in `lock` names the thread that holds it and the line that took it. While
//! it is off a lock costs one relaxed load more than `std`'s.
//!
//! ```
//! use birthmark::sync::Mutex;
//!
//! static COUNT: Mutex<u32> = Mutex::new(0);
//! *COUNT.lock().unwrap() += 1;
//! assert_eq!(*COUNT.lock().unwrap(), 1);
//! ```

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::{self as std_sync, LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

pub use std_sync::WaitTimeoutResult;

use super::locks::{Held, Holder, Waits, hold};

/// A lock of std taken, in ours: poisoned or not.
fn wrapped<G, H>(result: LockResult<G>, wrap: impl FnOnce(G) -> H) -> LockResult<H> {
    match result {
        Ok(guard) => Ok(wrap(guard)),
        Err(poisoned) => Err(PoisonError::new(wrap(poisoned.into_inner()))),
    }
}

fn try_wrapped<G, H>(result: TryLockResult<G>, wrap: impl FnOnce(G) -> H) -> TryLockResult<H> {
    match result {
        Ok(guard) => Ok(wrap(guard)),
        Err(TryLockError::Poisoned(poisoned)) => {
            Err(TryLockError::Poisoned(PoisonError::new(wrap(poisoned.into_inner()))))
        }
        Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
    }
}

/// Tries first, so that only a thread that really waits is noted as waiting.
fn taken<G>(
    holder: &Holder,
    attempt: impl FnOnce() -> TryLockResult<G>,
    wait: impl FnOnce() -> LockResult<G>,
) -> LockResult<G> {
    match attempt() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
        Err(TryLockError::WouldBlock) => {
            let _waits = Waits::begin(holder);
            wait()
        }
    }
}

/// As [`std::sync::Mutex`], and knows who holds it.
pub struct Mutex<T: ?Sized> {
    holder: Holder,
    inner: std_sync::Mutex<T>,
}

/// As [`std::sync::MutexGuard`].
#[must_use = "if unused the Mutex will immediately unlock"]
#[clippy::has_significant_drop]
pub struct MutexGuard<'l, T: ?Sized> {
    /// Dropped first: while the lock is still held.
    held: Held<'l>,
    inner: std_sync::MutexGuard<'l, T>,
}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub const fn new(value: T) -> Self {
        Self { holder: Holder::new(), inner: std_sync::Mutex::new(value) }
    }

    /// The value.
    ///
    /// # Errors
    /// When the mutex is poisoned.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock, and waits for it.
    ///
    /// # Errors
    /// When a holder panicked; the guard is in the error.
    #[track_caller]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let place = Location::caller();
        wrapped(taken(&self.holder, || self.inner.try_lock(), || self.inner.lock()), |inner| MutexGuard {
            held: hold(&self.holder, "Mutex", place),
            inner,
        })
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// When it isn't, or when a holder panicked.
    #[track_caller]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let place = Location::caller();
        try_wrapped(self.inner.try_lock(), |inner| MutexGuard {
            held: hold(&self.holder, "Mutex", place),
            inner,
        })
    }

    /// The value, which nobody else can have.
    ///
    /// # Errors
    /// When the mutex is poisoned.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.inner.get_mut()
    }

    /// Whether a holder panicked.
    pub fn is_poisoned(&self) -> bool {
        self.inner.is_poisoned()
    }

    /// Forgets that a holder panicked.
    pub fn clear_poison(&self) {
        self.inner.clear_poison();
    }
}

/// As [`std::sync::RwLock`], and knows who holds it; of several readers, the last.
pub struct RwLock<T: ?Sized> {
    holder: Holder,
    inner: std_sync::RwLock<T>,
}

/// As [`std::sync::RwLockReadGuard`].
#[must_use = "if unused the RwLock will immediately unlock"]
#[clippy::has_significant_drop]
pub struct RwLockReadGuard<'l, T: ?Sized> {
    _held: Held<'l>,
    inner: std_sync::RwLockReadGuard<'l, T>,
}

/// As [`std::sync::RwLockWriteGuard`].
#[must_use = "if unused the RwLock will immediately unlock"]
#[clippy::has_significant_drop]
pub struct RwLockWriteGuard<'l, T: ?Sized> {
    _held: Held<'l>,
    inner: std_sync::RwLockWriteGuard<'l, T>,
}

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { holder: Holder::new(), inner: std_sync::RwLock::new(value) }
    }

    /// The value.
    ///
    /// # Errors
    /// When the lock is poisoned.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Takes the lock to read, and waits for it.
    ///
    /// # Errors
    /// When a writer panicked; the guard is in the error.
    #[track_caller]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        let place = Location::caller();
        wrapped(taken(&self.holder, || self.inner.try_read(), || self.inner.read()), |inner| {
            RwLockReadGuard { _held: hold(&self.holder, "RwLock", place), inner }
        })
    }

    /// Takes the lock to write, and waits for it.
    ///
    /// # Errors
    /// When a writer panicked; the guard is in the error.
    #[track_caller]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        let place = Location::caller();
        wrapped(taken(&self.holder, || self.inner.try_write(), || self.inner.write()), |inner| {
            RwLockWriteGuard { _held: hold(&self.holder, "RwLock", place), inner }
        })
    }

    /// Takes the lock to read if no writer has it.
    ///
    /// # Errors
    /// When one has, or when one panicked.
    #[track_caller]
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        let place = Location::caller();
        try_wrapped(self.inner.try_read(), |inner| RwLockReadGuard {
            _held: hold(&self.holder, "RwLock", place),
            inner,
        })
    }

    /// Takes the lock to write if it is free.
    ///
    /// # Errors
    /// When it isn't, or when a writer panicked.
    #[track_caller]
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        let place = Location::caller();
        try_wrapped(self.inner.try_write(), |inner| RwLockWriteGuard {
            _held: hold(&self.holder, "RwLock", place),
            inner,
        })
    }

    /// The value, which nobody else can have.
    ///
    /// # Errors
    /// When the lock is poisoned.
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.inner.get_mut()
    }

    /// Whether a writer panicked.
    pub fn is_poisoned(&self) -> bool {
        self.inner.is_poisoned()
    }

    /// Forgets that a writer panicked.
    pub fn clear_poison(&self) {
        self.inner.clear_poison();
    }
}

/// As [`std::sync::Condvar`], for a [`Mutex`] of this module: its lock isn't held while it waits.
#[derive(Debug, Default)]
pub struct Condvar(std_sync::Condvar);

impl Condvar {
    /// Nobody waits for it.
    pub const fn new() -> Self {
        Self(std_sync::Condvar::new())
    }

    /// Gives the lock back, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    /// When a holder panicked.
    #[track_caller]
    pub fn wait<'l, T>(&self, guard: MutexGuard<'l, T>) -> LockResult<MutexGuard<'l, T>> {
        let place = Location::caller();
        let (holder, inner) = guard.released();
        wrapped(self.0.wait(inner), |inner| MutexGuard { held: hold(holder, "Mutex", place), inner })
    }

    /// Waits for as long as `condition` says so.
    ///
    /// # Errors
    /// When a holder panicked.
    #[track_caller]
    pub fn wait_while<'l, T>(
        &self,
        guard: MutexGuard<'l, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'l, T>> {
        let place = Location::caller();
        let (holder, inner) = guard.released();
        wrapped(self.0.wait_while(inner, condition), |inner| MutexGuard {
            held: hold(holder, "Mutex", place),
            inner,
        })
    }

    /// As [`Condvar::wait`], for at most so long.
    ///
    /// # Errors
    /// When a holder panicked.
    #[track_caller]
    pub fn wait_timeout<'l, T>(
        &self,
        guard: MutexGuard<'l, T>,
        limit: Duration,
    ) -> LockResult<(MutexGuard<'l, T>, WaitTimeoutResult)> {
        let place = Location::caller();
        let (holder, inner) = guard.released();
        wrapped(self.0.wait_timeout(inner, limit), |(inner, result)| {
            (MutexGuard { held: hold(holder, "Mutex", place), inner }, result)
        })
    }

    /// As [`Condvar::wait_while`], for at most so long.
    ///
    /// # Errors
    /// When a holder panicked.
    #[track_caller]
    pub fn wait_timeout_while<'l, T>(
        &self,
        guard: MutexGuard<'l, T>,
        limit: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'l, T>, WaitTimeoutResult)> {
        let place = Location::caller();
        let (holder, inner) = guard.released();
        wrapped(self.0.wait_timeout_while(inner, limit, condition), |(inner, result)| {
            (MutexGuard { held: hold(holder, "Mutex", place), inner }, result)
        })
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl<'l, T: ?Sized> MutexGuard<'l, T> {
    /// Not noted as held any more.
    fn released(self) -> (&'l Holder, std_sync::MutexGuard<'l, T>) {
        let Self { held, inner } = self;
        (held.holder(), inner)
    }
}

macro_rules! lock {
    ($lock:ident) => {
        impl<T: Default> Default for $lock<T> {
            fn default() -> Self {
                Self::new(T::default())
            }
        }
        impl<T> From<T> for $lock<T> {
            fn from(value: T) -> Self {
                Self::new(value)
            }
        }
        impl<T: ?Sized + fmt::Debug> fmt::Debug for $lock<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.inner.fmt(f)
            }
        }
    };
}
lock!(Mutex);
lock!(RwLock);

macro_rules! guard {
    ($guard:ident $(, $mutable:ident)?) => {
        impl<T: ?Sized> Deref for $guard<'_, T> {
            type Target = T;
            #[inline]
            fn deref(&self) -> &T {
                &self.inner
            }
        }
        $(impl<T: ?Sized> $mutable for $guard<'_, T> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                &mut self.inner
            }
        })?
        impl<T: ?Sized + fmt::Debug> fmt::Debug for $guard<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.inner.fmt(f)
            }
        }
        impl<T: ?Sized + fmt::Display> fmt::Display for $guard<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.inner.fmt(f)
            }
        }
    };
}
guard!(MutexGuard, DerefMut);
guard!(RwLockReadGuard);
guard!(RwLockWriteGuard, DerefMut);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn locks_are_stds_poison_and_all() {
        let mutex = Arc::new(Mutex::new(1));
        let broken = mutex.clone();
        let panicked = std::thread::spawn(move || {
            let _guard = broken.lock().unwrap();
            panic!("with the lock held");
        });
        assert!(panicked.join().is_err());
        assert!(mutex.is_poisoned());
        assert_eq!(*mutex.lock().unwrap_err().into_inner(), 1);
        mutex.clear_poison();
        let guard = mutex.lock().unwrap();
        assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
        drop(guard);
        assert_eq!(format!("{mutex:?}"), format!("{:?}", std_sync::Mutex::new(1)));
        let lock = RwLock::new(3);
        let (first, second) = (lock.read().unwrap(), lock.try_read().unwrap());
        assert_eq!(*first + *second, 6);
        assert!(lock.try_write().is_err());
        drop((first, second));
        *lock.write().unwrap() = 4;
        assert_eq!(lock.into_inner().unwrap(), 4);
    }

    #[test]
    fn a_condition_variable_gives_its_lock_back_while_it_waits() {
        let pair = Arc::new((Mutex::new(0), Condvar::new()));
        let other = pair.clone();
        let thread = std::thread::spawn(move || {
            let (mutex, changed) = &*other;
            let guard = changed.wait_while(mutex.lock().unwrap(), |n| *n != 1).unwrap();
            let (mut guard, timed_out) = changed.wait_timeout(guard, Duration::from_millis(1)).unwrap();
            assert!(timed_out.timed_out());
            *guard = 2;
            changed.notify_all();
        });
        let (mutex, changed) = &*pair;
        *mutex.lock().unwrap() = 1;
        changed.notify_one();
        let mut guard = mutex.lock().unwrap();
        while *guard != 2 {
            guard = changed.wait(guard).unwrap();
        }
        let (guard, result) =
            changed.wait_timeout_while(guard, Duration::from_millis(1), |n| *n == 2).unwrap();
        assert!(result.timed_out() && *guard == 2);
        thread.join().unwrap();
    }
}
