//! `src/targets/flux.rs` under libFuzzer.
#![no_main]

use fuzz_parsers::FLUX;

libfuzzer_sys::fuzz_target!(init: FLUX.begin(std::env::var_os("FUZZ_SEEDS")), |data: &[u8]| FLUX.run(data));
