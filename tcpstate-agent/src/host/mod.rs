//! What is asked of the host besides the kernel's tables.

mod orphans;

pub use orphans::Orphans;
