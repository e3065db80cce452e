//! `src/targets/event.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::EVENT;

libfuzzer_sys::fuzz_target!(init: EVENT.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| EVENT.run(data));
