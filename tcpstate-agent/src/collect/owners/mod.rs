//! Whose sockets, as labels say it.

mod cgroup;
mod labels;

pub use cgroup::CgroupIdentity;
pub use labels::OwnerLabels;
