#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_sidecar::testing::hostile::transport_header(bytes));
