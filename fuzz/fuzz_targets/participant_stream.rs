#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coordinator::testing::participant_stream(bytes));
