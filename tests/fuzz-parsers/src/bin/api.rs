//! `src/targets/api.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::API;

libfuzzer_sys::fuzz_target!(init: API.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| API.run(data));
