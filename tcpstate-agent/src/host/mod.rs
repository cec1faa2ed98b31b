//! What is asked of the host besides the kernel's tables.

#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator is asked in C's terms")
)]
pub(crate) mod memory;
pub mod netlink;
mod orphans;
pub mod process;

pub use orphans::Orphans;
