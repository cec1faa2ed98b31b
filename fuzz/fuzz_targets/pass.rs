//! What the programs of a pass hand over: copies of sockets, namespaces, processes and cgroups, torn
//! and freed ones among them.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::{
    collect::listeners::listener_of,
    decode::{
        self, HeldLayout, HeldTimes, KernelNamespace, KernelSocket, References,
        object::{Object, pieces},
    },
    kernel::layout::{Bit, Field, Layout},
};
use tcpstate_common::pass::{
    Cgroup, HeldRecord, NamespaceObject, NamespacesRequest, Objects, TaskRecord, Wanted,
};
use zerocopy::{FromBytes, FromZeros as _, IntoBytes};

/// No struct of the kernel is longer: the reader of its types sees to that.
const LONGEST: u32 = 1 << 24;

thread_local! {
    /// Too large to be made for each input.
    static OBJECTS: RefCell<Box<Objects>> =
        RefCell::new(Box::new(Objects::new_zeroed()));
}

/// The input, handed out piece by piece, and zeros behind it.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn fill(&mut self, to: &mut (impl FromBytes + IntoBytes + ?Sized)) {
        let to = to.as_mut_bytes();
        let length = self.0.len().min(to.len());
        let (from, rest) = self.0.split_at(length);
        to[..length].copy_from_slice(from);
        to[length..].fill(0);
        self.0 = rest;
    }

    fn take<T: FromBytes + IntoBytes>(&mut self) -> T {
        let mut taken = T::new_zeroed();
        self.fill(&mut taken);
        taken
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&what, rest)) = bytes.split_first() else {
        return;
    };
    let mut input = Input(rest);
    match what % 4 {
        0 => sockets(&mut input),
        1 => namespaces(&mut input),
        2 => held(&mut input),
        _ => cgroups(&mut input),
    }
});

fn sockets(input: &mut Input<'_>) {
    OBJECTS.with_borrow_mut(|objects| {
        let wanted: Wanted = input.take();
        let any: [u32; 4] = input.take();
        input.fill(&mut objects.addresses[0]);
        input.fill(&mut objects.kinds[0]);
        input.fill(&mut objects.heads[0]);
        input.fill(&mut objects.pieces[0]);
        let Some(object) = Object::of(objects, &wanted, 0) else {
            return;
        };
        let [offset, size, number, now] = any;
        let (offset, size) = (offset % LONGEST, size % LONGEST);
        let field = Field { offset, size };
        let _ = (object.number(field), object.array::<16>(field));
        // As many bits as a byte has.
        let _ = object.is_set(Bit {
            byte: field,
            number: number % 8,
        });
        let _ = pieces(&[field]);
        let layout = Layout::made_up();
        let Some(socket) = KernelSocket::of(&object, &layout.common) else {
            return;
        };
        let _ = socket.close_wait(&object, &layout, number, None, now);
        let _ = socket.unanswered(&object, &layout, number, (now, u64::from(now) << 20));
        let _ = socket.half_open(&object, &layout, u64::from(now) << 20);
        if let Some(listener) = listener_of(&socket, &object, &layout, number) {
            let _ = listener.listen_address();
        }
    });
}

fn namespaces(input: &mut Input<'_>) {
    let mut request = NamespacesRequest::new_zeroed();
    input.fill(&mut request.pieces);
    input.fill(&mut request.linux_mibs);
    let object: Box<NamespaceObject> = Box::new(input.take());
    let _ = KernelNamespace::of(&object, &request, &Layout::made_up()).id();
}

fn held(input: &mut Input<'_>) {
    let record: HeldRecord = input.take();
    let task: TaskRecord = input.take();
    let fields: [u32; 15] = input.take();
    let jiffies: u32 = input.take();
    let [
        state,
        family,
        net,
        local_port,
        remote_port,
        remote_ipv4,
        remote_ipv6,
        fields @ ..,
    ] = fields.map(|field| field % LONGEST);
    let [
        received,
        read,
        written,
        acknowledged,
        last_ack,
        last_data,
        last_sent,
        accept_queue,
    ] = fields;
    let layout = HeldLayout {
        state,
        family,
        net,
        local_port,
        remote_port,
        remote_ipv4,
        remote_ipv6,
        received,
        read,
        written,
        acknowledged,
        last_ack,
        last_data,
        last_sent,
        accept_queue,
        references: References::FromOne,
    };
    let times = HeldTimes {
        since: |_| None,
        jiffies,
    };
    for every in [false, true] {
        let wanted = layout.wanted(every);
        let _ = layout.owner(&wanted, &record, decode::process_id(&task), &times);
    }
    let name = decode::process_name(&task);
    assert!(!name.contains('\0'));
    let _ = (decode::run_state(&task), decode::descriptors(&task).left());
}

fn cgroups(input: &mut Input<'_>) {
    let cgroup: Box<Cgroup> = Box::new(input.take());
    if let Some(path) = decode::cgroup_path(&cgroup) {
        assert!(path.starts_with('/') && !path.contains('\0'), "{path:?}");
    }
}
