#![doc = include_str!("../README.md")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test may fail by a panic.

mod fixtures;
mod input;
mod promises;
mod targets;

use std::{ffi::OsString, fs, path::PathBuf, sync::Mutex};

use peak_alloc::PeakAlloc;

pub use targets::{ADDRESS, API, CERTIFICATE, EVENT, FLUX, PAYLOAD, PLAIN, PROBE, REDACTION, REGISTRATION};

/// Counts what the parsers take. libFuzzer's own limits do not see it: they hang on a sanitizer, and its own memory,
/// which is in C++, is not counted here.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// One input at a time, in tests too: there is one heap.
static ALONE: Mutex<()> = Mutex::new(());

/// What is fuzzed: bytes in, a panic where a promise is broken.
#[derive(Debug)]
pub struct Target {
    /// As its program is called.
    pub name: &'static str,
    /// What is given first: recorded answers, sample events.
    seeds: fn() -> Vec<Vec<u8>>,
    run: fn(&[u8]),
    heap: Heap,
}

/// How much memory one input may take, beyond itself: so many bytes, and so many for each of its bytes.
#[derive(Debug, Clone, Copy)]
struct Heap {
    fixed: usize,
    times: usize,
}

/// All of them.
pub const TARGETS: [&Target; 10] =
    [&ADDRESS, &API, &CERTIFICATE, &EVENT, &FLUX, &PAYLOAD, &PLAIN, &PROBE, &REDACTION, &REGISTRATION];

impl Target {
    /// What is given first.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }

    /// Writes the seeds into the folder that the environment names, before libFuzzer reads it.
    ///
    /// # Panics
    /// Where they can't be written.
    pub fn begin(&self, folder: Option<OsString>) {
        let Some(folder) = folder.map(PathBuf::from) else { return };
        for (index, seed) in self.seeds().iter().enumerate() {
            fs::write(folder.join(format!("seed-{index:03}")), seed).unwrap();
        }
    }

    /// Gives it an input.
    ///
    /// # Panics
    /// Where a promise is broken, or too much memory was taken.
    pub fn run(&self, data: &[u8]) {
        let _alone = ALONE.lock();
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        (self.run)(data);
        let taken = HEAP.peak_usage().saturating_sub(before);
        let allowed = self.heap.fixed + self.heap.times * data.len();
        assert!(taken <= allowed, "{} bytes took {taken} bytes of memory; {allowed} are allowed", data.len());
    }
}
