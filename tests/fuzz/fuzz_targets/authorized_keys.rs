#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sshfix_tests::targets::authorized_keys(bytes));
