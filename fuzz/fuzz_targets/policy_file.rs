#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let told = mesh_control::testing::policy_file(bytes);
    mesh_sidecar::testing::hostile::policies(told.inbound, told.outbound);
});
