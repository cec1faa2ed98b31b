//! `read_chain`: goes along the accept queue of a listener.
//!
//! A request that was accepted is freed, and may be another listener's by the time that it is
//! looked at; it says whose it is.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::map, maps::Array};
use tcpstate_common::pass::{CHAIN_STATES, Chain, ChainEnd, MAX_CHAINED};

use crate::{
    MMAPABLE,
    memory::{half_word, word},
};

#[map]
static CHAIN: Array<Chain> = Array::with_max_entries(1, MMAPABLE);

macro_rules! chain {
    () => {
        match CHAIN.get_ptr_mut(0) {
            // SAFETY: the map gave a valid element; the agent lets one run follow the other.
            Some(chain) => unsafe { &mut *chain },
            None => return DONE,
        }
    };
}

const MORE: u64 = 0;
const DONE: u64 = 1;

/// Requests that one run looks at most.
const MAX_STEPS: u32 = 2048;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn read_chain(_ctx: *const u64) -> u64 {
    let chain = chain!();
    chain.count = 0;
    chain.by_state = [0; CHAIN_STATES];
    chain.end = ChainEnd::MORE;
    // SAFETY: the helper takes no argument and cannot fail.
    chain.begun_ns = unsafe { bpf_ktime_get_ns() };
    let request = &chain.request;
    if !is_at(chain, request.listener, request.state) {
        chain.end = ChainEnd::GONE;
        return DONE;
    }
    if request.request == 0 {
        let head = word(request.listener + u64::from(request.sock_queue)).unwrap_or(0);
        chain.request.request = head;
        chain.request.request_sock = child(chain, head);
    }
    for _ in 0..MAX_STEPS {
        if chain_step() == DONE {
            break;
        }
    }
    MORE
}

/// One step along the queue.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn chain_step() -> u64 {
    let chain = chain!();
    let request = chain.request.request;
    if request == 0 {
        chain.end = ChainEnd::LAST;
        return DONE;
    }
    // SAFETY: the helper takes no argument and cannot fail.
    let now = unsafe { bpf_ktime_get_ns() };
    if chain.count >= MAX_CHAINED as u32 || now - chain.begun_ns > chain.request.run_ns {
        return DONE;
    }
    let sock = child(chain, request);
    let state = state(chain, sock);
    let next = word(request + u64::from(chain.request.request_next)).unwrap_or(0);
    let next_sock = child(chain, next);
    // Looked at last: until here it was in the queue. One that was made of a SYN cookie says no
    // listener.
    let owner = word(request + u64::from(chain.request.request_listener));
    let is_own = owner == Some(chain.request.listener) || owner == Some(0);
    if !is_own || sock != chain.request.request_sock || !is_at(chain, sock, state) {
        chain.end = ChainEnd::MOVED;
        return DONE;
    }
    chain.by_state[state as usize & (CHAIN_STATES - 1)] += 1;
    if chain.request.wanted >> (state & 31) & 1 != 0 {
        let number = chain.count as usize & (MAX_CHAINED - 1);
        chain.sockets[number] = sock;
        chain.count = number as u32 + 1;
    }
    chain.request.request = next;
    chain.request.request_sock = next_sock;
    MORE
}

#[inline(always)]
fn child(chain: &Chain, request: u64) -> u64 {
    if request == 0 {
        return 0;
    }
    word(request + u64::from(chain.request.request_child)).unwrap_or(0)
}

#[inline(always)]
fn state(chain: &Chain, sock: u64) -> u32 {
    half_word(sock + u64::from(chain.request.sock_state)).unwrap_or(0) & 0xff
}

/// Whether there is a socket of the listener's address, in this state.
#[inline(always)]
fn is_at(chain: &Chain, sock: u64, wanted: u32) -> bool {
    let port = half_word(sock + u64::from(chain.request.sock_port)).unwrap_or(0) & 0xffff;
    port == chain.request.port
        && state(chain, sock) == wanted
        && word(sock + u64::from(chain.request.sock_net)) == Some(chain.request.net)
}
