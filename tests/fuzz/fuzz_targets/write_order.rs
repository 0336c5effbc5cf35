#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sshfix_tests::targets::write_order(bytes));
