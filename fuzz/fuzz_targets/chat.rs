#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| antiphon_fuzzing::chat::check(input));
