//! Memory that the C library keeps after it was freed (`malloc_trim(3)`): a question about everybody takes hundreds of megabytes, and the agent
//! lives long after it. Decides nothing.

/// Gives back to the kernel what nobody holds any more. Takes some milliseconds for each hundred megabytes.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, may be called at any time from any thread, and moves nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
