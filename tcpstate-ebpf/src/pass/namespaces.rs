//! `read_namespaces`: the kernel's list of network namespaces, and what it counts in each.
//!
//! The list goes round through its head, which is no namespace. The agent begins with its own,
//! which cannot go while it runs.

use aya_ebpf::{macros::map, maps::Array};
use tcpstate_common::pass::{
    MAX_CPUS, MAX_LINUX_MIB, MAX_NET_PIECES, MAX_TCP_MIB, NAMESPACES_A_RUN, Namespaces,
    PIECE_BYTES, PROTOCOLS,
};

use crate::{
    MMAPABLE,
    memory::{copy, opaque, word},
};

#[map]
static NETS: Array<Namespaces> = Array::with_max_entries(1, MMAPABLE);

macro_rules! namespaces {
    () => {
        match NETS.get_ptr_mut(0) {
            // SAFETY: the map gave a valid element; the agent lets one run follow the other.
            Some(namespaces) => unsafe { &mut *namespaces },
            None => return DONE,
        }
    };
}

const MORE: u64 = 0;
const DONE: u64 = 1;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn read_namespaces(_ctx: *const u64) -> u64 {
    let namespaces = namespaces!();
    namespaces.count = 0;
    namespaces.is_lost = 0;
    let first = namespaces.request.first;
    namespaces.next = first;
    // One more than there is room for: the head of the list takes a turn.
    for _ in 0..=NAMESPACES_A_RUN {
        if namespace_step() == DONE {
            break;
        }
    }
    MORE
}

/// Reads one namespace, and goes on to the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn namespace_step() -> u64 {
    let namespaces = namespaces!();
    let number = namespaces.count as usize;
    if number >= NAMESPACES_A_RUN || number >= namespaces.request.at_most as usize {
        return DONE;
    }
    let net = namespaces.next;
    let request = &namespaces.request;
    let node = net + u64::from(request.list);
    let Some(following) = word(node) else {
        namespaces.is_lost = 1;
        return DONE;
    };
    // One that was unlinked since the last run, and maybe freed.
    let is_linked = word(node + 8).and_then(word) == Some(node);
    let has_cookie = request.cookie == 0
        || net != request.first
        || word(net + u64::from(request.cookie)) == Some(request.first_cookie);
    if !is_linked || !has_cookie {
        namespaces.is_lost = 1;
        return DONE;
    }
    if word(net + u64::from(request.ops)) == Some(request.ops_value) {
        let object = &mut namespaces.objects[number];
        object.address = net;
        for piece in 0..MAX_NET_PIECES {
            let offset = request.pieces[piece];
            if offset != 0 {
                let to = object.pieces[piece].as_mut_ptr();
                // SAFETY: a piece has room for so many bytes.
                unsafe { copy(to, PIECE_BYTES as u32, net + u64::from(offset)) };
            }
        }
        object.tcp_mib = [0; MAX_TCP_MIB];
        object.in_use = [0; PROTOCOLS];
        for counter in 0..MAX_LINUX_MIB {
            object.linux_mib[counter] = 0;
        }
        let cpus = u64::from(request.cpus);
        for cpu in 0..MAX_CPUS as u64 {
            if cpu >= cpus {
                break;
            }
            namespace_cpu(cpu);
        }
        namespaces.count = number as u32 + 1;
    }
    namespaces.next = following.wrapping_sub(u64::from(namespaces.request.list));
    u64::from(namespaces.next == namespaces.request.end)
}

/// Adds what one CPU has counted in the namespace that is being read.
#[unsafe(no_mangle)]
#[inline(never)]
#[expect(
    clippy::needless_range_loop,
    reason = "the verifier follows a number more easily than two iterators"
)]
extern "C" fn namespace_cpu(cpu: u64) -> u64 {
    let namespaces = namespaces!();
    let number = namespaces.count as usize & (NAMESPACES_A_RUN - 1);
    let object = &mut namespaces.objects[number];
    let request = &namespaces.request;
    let here = request.cpu_offsets[cpu as usize & (MAX_CPUS - 1)];
    let mut tcp = [0_u64; MAX_TCP_MIB];
    if let Some(mib) = word(object.address + u64::from(request.tcp_mib)) {
        // SAFETY: there is room for so many counters.
        unsafe {
            copy(
                tcp.as_mut_ptr(),
                MAX_TCP_MIB as u32 * 8,
                mib.wrapping_add(here),
            )
        };
    }
    for counter in 0..MAX_TCP_MIB {
        object.tcp_mib[counter] += tcp[counter];
    }
    // A number of its own, so that the verifier sees what is checked.
    let counters = opaque(u64::from(request.linux_mibs));
    if counters <= MAX_LINUX_MIB as u64
        && let Some(mib) = word(object.address + u64::from(request.linux_mib))
    {
        let of_cpu = &mut namespaces.cpu_linux_mib;
        let bytes = counters as u32 * 8;
        // SAFETY: there is room for so many counters.
        unsafe { copy(of_cpu.as_mut_ptr(), bytes, mib.wrapping_add(here)) };
        for counter in 0..MAX_LINUX_MIB {
            object.linux_mib[counter] += of_cpu[counter];
        }
    }
    if let Some(in_use) = word(object.address + u64::from(request.in_use)) {
        for protocol in 0..PROTOCOLS {
            let offset = request.protocols[protocol];
            let mut count = 0_u32;
            let at = in_use.wrapping_add(here) + u64::from(offset);
            // SAFETY: there is room for the count.
            if offset != 0 && unsafe { copy(&raw mut count, 4, at) } {
                object.in_use[protocol] += u64::from(count);
            }
        }
    }
    MORE
}
