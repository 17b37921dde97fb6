//! Hands libFuzzer's input to [`leveret_fuzz::frame`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leveret_fuzz::frame(input));
