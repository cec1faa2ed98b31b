//! `read_owners`: walks over the kernel's list of processes and over the descriptors of each, and
//! hands over those that are sockets in wanted states.
//!
//! Slots are looked at in groups, and what they lead to is read side by side, a step of each in
//! turn. A process ends without waiting for anyone: its `files_struct` and the table in it are freed
//! at once, and so is a socket that it closes. So a group is only believed where its process has the
//! same table afterwards, and a descriptor only where its slot has the same file.
//!
//! What is called in a loop is a global function: the verifier looks at it once, and not at each
//! turn. Such a function gets and gives numbers, so all else is in the map.

use aya_ebpf::{
    helpers::{
        bpf_get_current_task,
        generated::{bpf_jiffies64, bpf_ktime_get_ns},
    },
    macros::map,
    maps::Array,
};
use tcpstate_common::{
    TcpState,
    pass::{
        Anchor, HELD_PIECES, MAX_ANCHORS, MAX_HELD, MAX_KINDS, MAX_OWNER_STEPS, MAX_TASKS,
        NO_DESCRIPTOR, NO_OFFSET, Owners, OwnersCursor, PIECE_BYTES, PIECE_WORDS, SLOTS_TOGETHER,
    },
};

use crate::{
    MMAPABLE,
    memory::{copy, half_word, word},
    objects,
};

#[map]
static OWNERS: Array<Owners> = Array::with_max_entries(1, MMAPABLE);

macro_rules! owners {
    () => {
        match OWNERS.get_ptr_mut(0) {
            // SAFETY: the map gave a valid element; the agent lets one run follow the other.
            Some(owners) => unsafe { &mut *owners },
            None => return DONE,
        }
    };
}

/// What the functions give: whether there is more to do.
const MORE: u64 = 0;
const DONE: u64 = 1;

const NO_RECORD: u32 = MAX_TASKS as u32;
/// How often a table is opened again that was not what it was said to be.
const RETRIES: u32 = 8;
/// Threads that are asked for the table. Those that have ended are taken out of the list, but for
/// the first.
const THREADS: u32 = 8;
/// `PF_KTHREAD`: a thread of the kernel's own, with the table of the first process.
const KERNEL_THREAD: u32 = 0x20_0000;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn read_owners(_ctx: *const u64) -> u64 {
    let owners = owners!();
    owners.held_count = 0;
    owners.task_count = 0;
    owners.is_done = 0;
    owners.tables_left = 0;
    owners.tasks_seen = 0;
    owners.begun_ns = now();
    // SAFETY: the helper takes no argument and cannot fail.
    owners.jiffies = unsafe { bpf_jiffies64() };
    owners.cursor.files = 0;
    owners.cursor.record = NO_RECORD;
    // SAFETY: the helper takes no argument and cannot fail.
    let task = unsafe { bpf_get_current_task() };
    if owners.request.socket_operations == 0 {
        return owners_learn(task);
    }
    let Some(first) = word(task + u64::from(owners.request.offsets.task_leader)) else {
        return DONE;
    };
    owners.first = first;
    owners.anchor = MAX_ANCHORS as u32;
    for number in 0..MAX_ANCHORS as u64 {
        if owners_find(number) == DONE {
            break;
        }
    }
    if owners.anchor >= MAX_ANCHORS as u32 {
        owners_begin(first);
    } else if owners.anchor > 0 {
        owners_pass();
    } else if owners.cursor.is_holder != 0 {
        owners_record();
    }
    for _ in 0..MAX_OWNER_STEPS {
        if owners_step() == DONE {
            break;
        }
    }
    MORE
}

/// Learns what a file looks like that is a socket, by one that the agent has made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_learn(task: u64) -> u64 {
    let owners = owners!();
    let offsets = &owners.request.offsets;
    let files = word(task + u64::from(offsets.task_files)).unwrap_or(0);
    let table = word(files + u64::from(offsets.files_table)).unwrap_or(0);
    let slots = word(table + u64::from(offsets.table_slots)).unwrap_or(0);
    let file = word(slots + u64::from(owners.request.own_socket) * 8).unwrap_or(0);
    let operations = word(file + u64::from(offsets.file_operations));
    owners.request.socket_operations = operations.unwrap_or(0);
    for number in 0..2 {
        let file = owners.request.own_tcp[number];
        let file = word(slots + u64::from(file) * 8).unwrap_or(0);
        let socket = word(file + u64::from(offsets.file_private)).unwrap_or(0);
        let sock = word(socket + u64::from(offsets.socket_sock)).unwrap_or(0);
        let operations = word(sock + u64::from(offsets.sock_operations));
        owners.request.tcp[number] = operations.unwrap_or(0);
    }
    MORE
}

/// Goes to an anchor, if it is still in the list. From then on the run can follow the list: the
/// kernel frees a process only after those have ended that may have found it there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_find(number: u64) -> u64 {
    let owners = owners!();
    if number >= u64::from(owners.request.anchor_count) {
        return DONE;
    }
    let anchor = owners.request.anchors[number as usize & (MAX_ANCHORS - 1)];
    let offsets = &owners.request.offsets;
    let node = anchor.task.wrapping_add(u64::from(offsets.task_list));
    let is_there = word(node + 8).and_then(word) == Some(node)
        && word(anchor.task + u64::from(offsets.task_start)) == Some(anchor.start_ns)
        && half_word(anchor.task + u64::from(offsets.task_tgid)) == Some(anchor.tgid);
    if !is_there {
        return MORE;
    }
    owners.anchor = number as u32;
    if number > 0 {
        owners.cursor.at = anchor;
    }
    DONE
}

/// Begins with a process.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_begin(task: u64) -> u64 {
    let owners = owners!();
    let offsets = &owners.request.offsets;
    owners.cursor = OwnersCursor {
        at: Anchor {
            task,
            start_ns: word(task + u64::from(offsets.task_start)).unwrap_or(0),
            tgid: half_word(task + u64::from(offsets.task_tgid)).unwrap_or(0),
            padding: 0,
        },
        record: NO_RECORD,
        ..OwnersCursor::default()
    };
    owners.tasks_seen += 1;
    MORE
}

/// Goes on to the next process.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_pass() -> u64 {
    let owners = owners!();
    let list = u64::from(owners.request.offsets.task_list);
    let Some(next) = word(owners.cursor.at.task + list) else {
        return DONE;
    };
    let next = next.wrapping_sub(list);
    if next == owners.first {
        owners.is_done = 1;
        return DONE;
    }
    owners_begin(next)
}

/// One step: a group of slots, or from one process to the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_step() -> u64 {
    let owners = owners!();
    let is_full = owners.held_count > (MAX_HELD - SLOTS_TOGETHER) as u32;
    if owners.is_done != 0 || is_full || now() - owners.begun_ns > owners.request.run_ns {
        return DONE;
    }
    if owners.cursor.files == 0 {
        return if owners_open() == DONE {
            owners_pass()
        } else {
            MORE
        };
    }
    if owners.cursor.next < owners.cursor.length {
        return owners_group();
    }
    let record = owners.cursor.record as usize;
    if record < MAX_TASKS {
        owners.tasks[record].is_whole = 1;
    }
    if owners.task_count >= MAX_TASKS as u32 {
        return DONE;
    }
    owners_pass()
}

/// Opens the table of the process at hand. `DONE` where it has none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_open() -> u64 {
    let owners = owners!();
    let offsets = &owners.request.offsets;
    let task = owners.cursor.at.task;
    let flags = half_word(task + u64::from(offsets.task_flags)).unwrap_or(KERNEL_THREAD);
    if flags & KERNEL_THREAD != 0 {
        return DONE;
    }
    owners.cursor.files_at = task + u64::from(offsets.task_files);
    owners.cursor.files = word(owners.cursor.files_at).unwrap_or(0);
    if owners.cursor.files == 0 {
        owners_ask_threads();
    }
    let files = owners.cursor.files;
    if files == 0 {
        return DONE;
    }
    let table = word(files + u64::from(offsets.files_table)).unwrap_or(0);
    let length = half_word(table + u64::from(offsets.table_length));
    let slots = word(table + u64::from(offsets.table_slots));
    let (Some(length), Some(slots)) = (length, slots) else {
        return owners_leave();
    };
    owners.cursor.table = table;
    owners.cursor.length = length;
    owners.cursor.slots = slots;
    MORE
}

/// Leaves a table that was torn down, for another try while there are some left.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_leave() -> u64 {
    let owners = owners!();
    owners.cursor.files = 0;
    owners.cursor.retries += 1;
    if owners.cursor.retries <= RETRIES {
        return MORE;
    }
    owners.tables_left += 1;
    DONE
}

/// Where the first thread has ended before the others, they have the table.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_ask_threads() -> u64 {
    let owners = owners!();
    let offsets = &owners.request.offsets;
    let signal = word(owners.cursor.at.task + u64::from(offsets.task_signal)).unwrap_or(0);
    let head = signal + u64::from(offsets.signal_threads);
    let mut node = word(head).unwrap_or(head);
    for _ in 0..THREADS {
        if node == head {
            break;
        }
        let thread = node.wrapping_sub(u64::from(offsets.task_thread));
        let files_at = thread + u64::from(offsets.task_files);
        let files = word(files_at).unwrap_or(0);
        if files != 0 {
            owners.cursor.files_at = files_at;
            owners.cursor.files = files;
            break;
        }
        node = word(node).unwrap_or(head);
    }
    DONE
}

/// Reads a group of slots.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_group() -> u64 {
    let owners = owners!();
    let from = owners.cursor.slots + u64::from(owners.cursor.next) * 8;
    // SAFETY: there is room for so many words.
    if !unsafe { copy(owners.slots.as_mut_ptr(), SLOTS_TOGETHER as u32 * 8, from) } {
        return owners_leave_or_pass();
    }
    owners.lanes = 0;
    let mut any = 0;
    for slot in 0..SLOTS_TOGETHER {
        any |= owners.slots[slot];
    }
    // Most of a large table is empty.
    if any == 0 {
        owners.cursor.next += SLOTS_TOGETHER as u32;
        return MORE;
    }
    for slot in 0..SLOTS_TOGETHER as u64 {
        owners_file(slot);
    }
    let (held, lanes) = (owners.held_count, u64::from(owners.lanes));
    if lanes > 0 {
        each_lane(lanes, owners_socket);
        each_lane(lanes, owners_sock);
    }
    let offsets = &owners.request.offsets;
    let is_same = word(owners.cursor.files_at) == Some(owners.cursor.files)
        && word(owners.cursor.files + u64::from(offsets.files_table)) == Some(owners.cursor.table);
    if !is_same {
        owners.held_count = held;
        return owners_leave_or_pass();
    }
    if owners.held_count > held {
        // SAFETY: there is room for so many words.
        unsafe {
            copy(
                owners.slots_after.as_mut_ptr(),
                SLOTS_TOGETHER as u32 * 8,
                from,
            )
        };
        for number in 0..SLOTS_TOGETHER as u64 {
            owners_confirm(u64::from(held) + number);
        }
    }
    let mut open = 0;
    for slot in 0..SLOTS_TOGETHER {
        let file = owners.slots[slot];
        // The highest bit tells.
        open += (file | file.wrapping_neg()) >> 63;
    }
    owners.cursor.open += open as u32;
    owners.cursor.next += SLOTS_TOGETHER as u32;
    let record = owners.cursor.record as usize;
    if record < MAX_TASKS {
        owners.tasks[record].open = owners.cursor.open;
    }
    MORE
}

#[inline(always)]
fn each_lane(lanes: u64, step: extern "C" fn(u64) -> u64) {
    for lane in 0..SLOTS_TOGETHER as u64 {
        if lane >= lanes {
            break;
        }
        step(lane);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_leave_or_pass() -> u64 {
    if owners_leave() == DONE {
        return owners_pass();
    }
    MORE
}

/// Looks whether a slot's file is a socket.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_file(slot: u64) -> u64 {
    let owners = owners!();
    let slot = slot as usize & (SLOTS_TOGETHER - 1);
    let file = owners.slots[slot];
    if file == 0 {
        return DONE;
    }
    let offsets = &owners.request.offsets;
    let operations = word(file + u64::from(offsets.file_operations));
    if operations != Some(owners.request.socket_operations) {
        return DONE;
    }
    let lane = owners.lanes as usize & (SLOTS_TOGETHER - 1);
    owners.lane_slots[lane] = slot as u32;
    owners.lane_sockets[lane] = word(file + u64::from(offsets.file_private)).unwrap_or(0);
    owners.lane_references[lane] = word(file + u64::from(offsets.file_references)).unwrap_or(0);
    owners.lanes += 1;
    MORE
}

/// From the `struct socket` to the `struct sock`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_socket(lane: u64) -> u64 {
    let owners = owners!();
    let lane = lane as usize & (SLOTS_TOGETHER - 1);
    let socket = owners.lane_sockets[lane];
    let at = socket + u64::from(owners.request.offsets.socket_sock);
    owners.lane_sockets[lane] = word(at).unwrap_or(0);
    MORE
}

/// Takes a socket, if it is a wanted one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_sock(lane: u64) -> u64 {
    let owners = owners!();
    let lane = lane as usize & (SLOTS_TOGETHER - 1);
    let number = owners.held_count as usize & (MAX_HELD - 1);
    let offsets = &owners.request.offsets;
    let held = &mut owners.held[number];
    let mut sock = owners.lane_sockets[lane];
    // SAFETY: a head has room for so many bytes.
    if sock == 0 || !unsafe { copy(held.head.as_mut_ptr(), PIECE_BYTES as u32, sock) } {
        return DONE;
    }
    let family = u32::from(objects::byte(&held.head, offsets.sock_family));
    if family != AF_INET && family != AF_INET6 {
        return DONE;
    }
    let mut mptcp_state = 0;
    // Each cache line costs, and nearly all say here already that they are TCP sockets.
    let operations = objects::word(&held.head, offsets.sock_operations);
    if operations != owners.request.tcp[0] && operations != owners.request.tcp[1] {
        let protocol = half_word(sock + u64::from(offsets.sock_protocol)).unwrap_or(0) & 0xffff;
        if protocol == IPPROTO_MPTCP && offsets.first_subflow != NO_OFFSET {
            mptcp_state = objects::byte(&held.head, owners.request.wanted.state) & 31;
            sock = word(sock + u64::from(offsets.first_subflow)).unwrap_or(0);
            // SAFETY: see above.
            let is_read = unsafe { copy(held.head.as_mut_ptr(), PIECE_BYTES as u32, sock) };
            if sock == 0 || !is_read {
                return DONE;
            }
        } else if protocol != IPPROTO_TCP {
            return DONE;
        }
    }
    // Of the second line only IPv6 has something.
    if family == AF_INET6 {
        let rest = held.head.as_mut_ptr().wrapping_add(PIECE_WORDS);
        // SAFETY: a head has room for as many bytes again.
        unsafe { copy(rest, PIECE_BYTES as u32, sock + PIECE_BYTES as u64) };
    }
    let wanted = &owners.request.wanted;
    let mut state = objects::byte(&held.head, wanted.state) & 31;
    // Its peer has closed, and its subflows stay as they are.
    if mptcp_state == TcpState::CloseWait as u8 {
        state = mptcp_state;
    }
    let mut kind = MAX_KINDS;
    for number in 0..MAX_KINDS {
        if kind == MAX_KINDS && wanted.states[number] >> state & 1 != 0 {
            kind = number;
        }
    }
    if kind == MAX_KINDS {
        return DONE;
    }
    for piece in 0..HELD_PIECES {
        let offset = wanted.pieces[kind & (MAX_KINDS - 1)][piece];
        if offset != 0 {
            let to = held.pieces[piece].as_mut_ptr();
            // SAFETY: a piece has room for so many bytes. One that cannot be read is zeros.
            unsafe { copy(to, PIECE_BYTES as u32, sock + u64::from(offset)) };
        }
    }
    let net = objects::word(&held.head, offsets.sock_net);
    held.namespace = half_word(net + u64::from(offsets.net_inode)).unwrap_or(0);
    held.sock = sock;
    held.kind = kind as u32;
    held.mptcp_state = u32::from(mptcp_state);
    held.references = owners.lane_references[lane];
    held.descriptor = owners.cursor.next + owners.lane_slots[lane];
    if owners.cursor.record >= NO_RECORD {
        owners_record();
    }
    held.task = owners.cursor.record;
    owners.held_count = number as u32 + 1;
    MORE
}

/// Looks whether a descriptor that was taken is still what it was.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_confirm(number: u64) -> u64 {
    let owners = owners!();
    if number >= u64::from(owners.held_count) {
        return DONE;
    }
    let held = &mut owners.held[number as usize & (MAX_HELD - 1)];
    let slot = held.descriptor.wrapping_sub(owners.cursor.next) as usize & (SLOTS_TOGETHER - 1);
    if owners.slots[slot] != owners.slots_after[slot] {
        held.descriptor = NO_DESCRIPTOR;
    }
    MORE
}

/// Notes what there is to say of the process at hand.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owners_record() -> u64 {
    let owners = owners!();
    let number = owners.task_count as usize & (MAX_TASKS - 1);
    let offsets = &owners.request.offsets;
    let task = owners.cursor.at.task;
    let record = &mut owners.tasks[number];
    record.tgid = owners.cursor.at.tgid;
    record.start_ns = owners.cursor.at.start_ns;
    record.open = owners.cursor.open;
    record.length = owners.cursor.length;
    record.is_whole = 0;
    record.state = half_word(task + u64::from(offsets.task_state)).unwrap_or(0);
    let comm = record.comm.as_mut_ptr();
    // SAFETY: there is room for it.
    unsafe {
        copy(
            comm,
            size_of_val(&record.comm) as u32,
            task + u64::from(offsets.task_comm),
        )
    };
    let signal = word(task + u64::from(offsets.task_signal)).unwrap_or(0);
    record.limit = word(signal + u64::from(offsets.signal_limit)).unwrap_or(u64::MAX);
    let groups = word(task + u64::from(offsets.task_cgroups)).unwrap_or(0);
    let unified = word(groups + u64::from(offsets.cgroups_unified)).unwrap_or(0);
    record.cgroup_node = word(unified + u64::from(offsets.cgroup_node)).unwrap_or(0);
    record.cgroup_id = word(record.cgroup_node + u64::from(offsets.node_id)).unwrap_or(0);
    record.pids_node = 0;
    record.pids_id = 0;
    if offsets.cgroups_pids != NO_OFFSET {
        let controller = word(groups + u64::from(offsets.cgroups_pids)).unwrap_or(0);
        let cgroup = word(controller + u64::from(offsets.controller_cgroup)).unwrap_or(0);
        record.pids_node = word(cgroup + u64::from(offsets.cgroup_node)).unwrap_or(0);
        record.pids_id = word(record.pids_node + u64::from(offsets.node_id)).unwrap_or(0);
    }
    owners.cursor.record = number as u32;
    owners.cursor.is_holder = 1;
    owners.task_count = number as u32 + 1;
    MORE
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no argument and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}
