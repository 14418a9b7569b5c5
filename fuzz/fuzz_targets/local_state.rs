#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| espejo_fuzz::local_state(data));
