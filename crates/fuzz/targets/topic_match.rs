//! Hands libFuzzer's input to [`leveret_fuzz::topic_match`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leveret_fuzz::topic_match(input));
