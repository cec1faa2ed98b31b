//! The connections of a network namespace by the listening socket that they belong to. Part of a
//! pass of `iter/tcp`, which comes to the listening sockets first.
//!
//! A connection belongs to what listens on its local port: on its local address, or else on any.

use aya_ebpf::{bindings::BPF_ANY, macros::map, maps::HashMap};
use tcpstate_common::{
    Family, ListenAddress, MAX_LISTENERS, ServiceCounts, SocketCounts, TcpState,
};

use crate::{
    kernel::{Request, Sock},
    listeners,
    ports::Port,
};

#[map]
static SERVICES: HashMap<ListenAddress, ServiceCounts> =
    HashMap::with_max_entries(MAX_LISTENERS, 0);

/// Takes note of a socket that listens.
#[inline(always)]
pub(crate) fn note_listener(sock: Sock, family: Family, port: &mut Port, pass: u32) {
    listeners::know(sock.identity());
    let Some(address) = address(sock, family, port.number()) else {
        return;
    };
    port.serve(address.is_any());
    begin(address, pass, sock.defers_accepting());
}

/// Counts a half-open connection.
#[inline(always)]
pub(crate) fn count_half_open(sock: Sock, family: Family, port: &Port, counts: &mut SocketCounts) {
    let half_open = Request::of(sock).look(family);
    counts.half_open.add(half_open);
    if port.is_served()
        && let Some(service) = service_of(sock, family, port, counts.pass)
    {
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        unsafe { (*service).add_half_open(half_open) };
    }
}

/// Counts any other socket on whose local port something listens.
#[inline(always)]
pub(crate) fn count(sock: Sock, family: Family, state: TcpState, port: &Port, pass: u32) {
    if let Some(service) = service_of(sock, family, port, pass) {
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        unsafe { (*service).add(state) };
    }
}

#[inline(always)]
fn service_of(sock: Sock, family: Family, port: &Port, pass: u32) -> Option<*mut ServiceCounts> {
    let address = address(sock, family, port.number())?;
    if port.is_served_on_one()
        && let Some(service) = of_this_pass(address, pass)
    {
        return Some(service);
    }
    if !port.is_served_on_any() {
        return None;
    }
    of_this_pass(address.any(), pass)
}

#[inline(always)]
fn address(sock: Sock, family: Family, port: u16) -> Option<ListenAddress> {
    let mut address = ListenAddress {
        namespace: sock.namespace(),
        port,
        family: family.to_kernel().into(),
        address: [0; 16],
    };
    sock.local_address(family, &mut address.address)
        .then_some(address)
}

/// Something listens there. It may be one of several.
#[inline(always)]
fn begin(address: ListenAddress, pass: u32, defers: bool) {
    if let Some(known) = SERVICES.get_ptr_mut(address) {
        // SAFETY: the map gave a valid element; only one pass runs at a time.
        let known = unsafe { &mut *known };
        if known.pass == pass {
            known.defers |= u32::from(defers);
            return;
        }
    }
    let counts = ServiceCounts {
        pass,
        defers: defers.into(),
        ..ServiceCounts::default()
    };
    // Where there is no room its connections are not counted; the agent says so.
    let _ = SERVICES.insert(address, counts, u64::from(BPF_ANY));
}

#[inline(always)]
fn of_this_pass(address: ListenAddress, pass: u32) -> Option<*mut ServiceCounts> {
    let service = SERVICES.get_ptr_mut(address)?;
    // SAFETY: the map gave a valid element; only one pass runs at a time.
    (unsafe { (*service).pass } == pass).then_some(service)
}
