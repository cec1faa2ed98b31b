//! How many SYN-ACKs were sent again, by listening socket.

use aya::maps::{HashMap, MapData, MapError};
use rustc_hash::FxHashMap;
use tracing::debug;

use crate::collect::listeners::ListeningSocket;

/// Those that were counted since the program was attached. Dropping it detaches the program.
pub struct SynAckTable {
    by_socket: HashMap<MapData, u64, u64>,
    _link: aya::programs::tp_btf::BtfTracePointLink,
}

impl SynAckTable {
    pub(super) const fn new(
        by_socket: HashMap<MapData, u64, u64>,
        link: aya::programs::tp_btf::BtfTracePointLink,
    ) -> Self {
        Self {
            by_socket,
            _link: link,
        }
    }

    /// Tells each of `sockets` how many there were at it. Only sockets at which there were some are
    /// in the table.
    pub fn join(&mut self, sockets: &mut [ListeningSocket]) {
        let counts: Result<FxHashMap<u64, u64>, MapError> = self.by_socket.iter().collect();
        let counts = match counts {
            Ok(counts) if counts.is_empty() => return,
            Ok(counts) => counts,
            Err(error) => {
                debug!(%error, "cannot read how many SYN-ACKs were sent again");
                return;
            }
        };
        for socket in sockets {
            socket.synack_retransmits = counts.get(&socket.socket).copied().unwrap_or(0);
        }
    }
}
