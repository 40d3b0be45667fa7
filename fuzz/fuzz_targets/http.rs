#![no_main]
libfuzzer_sys::fuzz_target!(|octets: &[u8]| spiked_fuzz::http(octets));
