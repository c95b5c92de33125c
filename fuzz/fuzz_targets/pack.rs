#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| warren::fuzz::pack(bytes));
