//! `src/targets/plain.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::PLAIN;

libfuzzer_sys::fuzz_target!(init: PLAIN.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| PLAIN.run(data));
