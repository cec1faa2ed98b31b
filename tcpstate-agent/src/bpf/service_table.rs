//! What passes over the sockets have counted by what is listened on.

use aya::maps::{HashMap, MapData, MapError};
use tcpstate_common::{ListenAddress, ServiceCounts};

use super::wire::Wire;

/// The connections of listening sockets, by address.
pub struct ServiceTable(HashMap<MapData, Wire<ListenAddress>, Wire<ServiceCounts>>);

impl ServiceTable {
    pub(super) const fn new(
        services: HashMap<MapData, Wire<ListenAddress>, Wire<ServiceCounts>>,
    ) -> Self {
        Self(services)
    }

    /// What the last pass over a namespace has counted at `address`; `None` where it has not come
    /// there.
    pub fn service(&self, address: &ListenAddress) -> Result<Option<ServiceCounts>, MapError> {
        match self.0.get(&Wire(*address), 0) {
            Ok(Wire(counts)) => Ok(Some(counts)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets the addresses of which `is_wanted` says no.
    pub fn keep(&mut self, is_wanted: impl Fn(&ListenAddress) -> bool) -> Result<(), MapError> {
        let unwanted: Vec<_> = self
            .0
            .keys()
            .filter_map(Result::ok)
            .filter(|Wire(address)| !is_wanted(address))
            .collect();
        for address in unwanted {
            match self.0.remove(&address) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
