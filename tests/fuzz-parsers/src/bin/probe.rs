//! `src/targets/probe.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::PROBE;

libfuzzer_sys::fuzz_target!(init: PROBE.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| PROBE.run(data));
