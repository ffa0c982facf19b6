#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| prom_fuzz_targets::frames(data));
