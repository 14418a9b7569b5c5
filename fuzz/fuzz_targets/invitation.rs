#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| espejo_fuzz::invitation(data));
