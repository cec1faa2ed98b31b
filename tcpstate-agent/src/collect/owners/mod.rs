//! Whose sockets, as labels and reports say it.

pub(crate) mod catalogue;
mod cgroup;
mod labels;
mod report;

pub use cgroup::CgroupIdentity;
pub use labels::OwnerLabels;
pub(crate) use report::Reporter;
pub use report::{ReportCgroup, ReportProcess};
