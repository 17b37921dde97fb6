//! Hands libFuzzer's input to [`leveret_fuzz::queue_operations`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| leveret_fuzz::queue_operations(input));
