//! A clock that tests move by hand.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use monitor::ports::Clock;

/// A clock that stands still until it is told otherwise. Clones share the time.
#[derive(Debug, Clone)]
pub struct FixedClock {
    now: Arc<Mutex<Timestamp>>,
}

impl FixedClock {
    /// A clock that shows this.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { now: Arc::new(Mutex::new(now)) }
    }

    /// Shows this from now on, earlier or later.
    pub fn set(&self, now: Timestamp) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Moves on by so much (back, where negative) and says what it shows then.
    /// At the ends of what a timestamp can hold it stays there.
    pub fn advance(&self, by: SignedDuration) -> Timestamp {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
        *now = now.checked_add(by).unwrap_or(end);
        *now
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a simulated cluster goes by: this machine's clock, or one that is moved.
#[derive(Debug, Clone)]
pub(crate) struct Time(pub(crate) Option<FixedClock>);

impl Time {
    pub(crate) fn now(&self) -> Timestamp {
        self.0.as_ref().map_or_else(Timestamp::now, Clock::now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still_until_moved() {
        let start: Timestamp = "2026-11-23T19:15:45Z".parse().unwrap();
        let clock = FixedClock::new(start);
        let twin = clock.clone();
        assert_eq!(clock.now(), start);
        let later = twin.advance(SignedDuration::from_secs(5));
        assert_eq!(clock.now(), later);
        assert_eq!(later.as_second() - start.as_second(), 5);
        clock.set(start);
        assert_eq!(twin.now(), start);
        clock.set(Timestamp::MAX);
        assert_eq!(clock.advance(SignedDuration::from_secs(1)), Timestamp::MAX);
    }
}
