//! Hands libFuzzer's input to [`leveret_fuzz::field_table`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leveret_fuzz::field_table(input));
