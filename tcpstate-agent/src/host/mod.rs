//! What is asked of the host besides the kernel's tables.

pub mod descriptors;
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator is asked in C's terms")
)]
pub(crate) mod memory;
pub mod netlink;
mod orphans;
pub mod process;
mod service_manager;
mod source;

pub use orphans::Orphans;
pub use service_manager::ServiceManager;
pub use source::Source;
