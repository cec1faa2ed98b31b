//! Whose sockets, as labels say it.

mod cgroup;
mod labels;
mod naming;

pub use cgroup::CgroupIdentity;
pub use labels::OwnerLabels;
pub use naming::{Hidden, Naming};
