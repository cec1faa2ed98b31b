//! Counting TCP segments on network interfaces.
//!
//! What is known of an interface ([`Interface`](crate::host::netlink::Interface)) and of what lies below it
//! ([`Below`]) leads to a plan
//! ([`plan`](mod@plan)), the plan to what is attached ([`Follower`]), and what that counts to sums
//! by the interface's name ([`Totals`]). Names of flags ([`flag_names`]) and of what is wrong with
//! them ([`Anomaly`]) are made here, from the byte that the kernel side counts by.

mod attachment;
mod below;
pub mod catalogue;
mod claim;
mod decode;
mod flags;
mod follow;
pub(crate) mod metrics;
pub mod packet;
pub mod plan;
mod selection;
mod text;
mod totals;

pub use attachment::Means;
pub use below::Below;
pub use decode::Segment;
pub use flags::{Anomaly, SHOWN_AT_ZERO, flag_names};
pub use follow::{DeviceState, Follower, Seen, SegmentsReading};
pub use selection::{Selection, SelectionError};
pub use text::SegmentLine;
pub use totals::{Counts, Totals};

/// How to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSettings {
    /// On which interfaces.
    pub devices: Selection,
    /// How XDP is to run; `None` where it is not to.
    pub xdp: Option<crate::kernel::XdpMode>,
}
