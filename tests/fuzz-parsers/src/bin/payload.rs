//! `src/targets/payload.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::PAYLOAD;

libfuzzer_sys::fuzz_target!(init: PAYLOAD.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| PAYLOAD.run(data));
