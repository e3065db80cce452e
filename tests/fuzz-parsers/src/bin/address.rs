//! `src/targets/address.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::ADDRESS;

libfuzzer_sys::fuzz_target!(init: ADDRESS.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| ADDRESS.run(data));
