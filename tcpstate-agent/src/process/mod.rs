//! stub
/// x
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessId {
    /// x
    pub tgid: u32,
    /// x
    pub start_boottime_ns: u64,
}
