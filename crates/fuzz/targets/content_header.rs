//! Hands libFuzzer's input to [`leveret_fuzz::content_header`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leveret_fuzz::content_header(input));
