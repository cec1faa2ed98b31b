//! Who holds a listening socket.

use std::{
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{ACCEPT_LIMIT, ACCEPT_QUEUE, Look, SHOWN, SOCKETS, says, ss_listener};
use crate::{
    actor::{Actor, Duty, HEIR},
    harness::{Netns, require, say_skipped, within},
};

const fn duty(port: u16) -> Duty {
    Duty::Listen {
        address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port),
        accepts: true,
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "how long it takes is worth knowing")]
fn a_listener_has_its_process_whether_it_was_there_before_or_came_later() {
    let namespace = Netns::new();
    let older = Actor::start(&namespace, "older", duty(24_131));
    let look = Look::new();
    let shown = |actor: &Actor, name: &str| {
        let begun = Instant::now();
        // The page first: to ask for a report has owners looked for at once.
        within(SHOWN, || {
            let page = look.page();
            says(&page, ACCEPT_LIMIT, actor.port, &[("process", name)], 4096)?;
            says(&page, ACCEPT_LIMIT, actor.port, &[], 4096)
        });
        println!("{name} is shown after {:?}", begun.elapsed());
        let found = look.listener(&namespace, actor.port).unwrap();
        let process = found.process.unwrap();
        assert_eq!((process.pid, &*process.name), (actor.pid(), name));
    };
    shown(&older, "older");
    for port in [24_132, 24_133] {
        let younger = Actor::start(&namespace, "younger", duty(port));
        shown(&younger, "younger");
    }
    shown(&older, "older");
}

#[test]
fn a_listener_whose_process_has_ended_belongs_to_the_child_that_has_inherited_it() {
    const PORT: u16 = 24_135;

    let namespace = Netns::new();
    let look = Look::new();
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let testator = Actor::start(&namespace, "testator", Duty::Bequeath { address });
    within(SHOWN, || {
        let page = look.page();
        says(&page, ACCEPT_LIMIT, PORT, &[("process", "testator")], 4096)
    });
    testator.kill();
    within(SHOWN, || {
        let found = look.listener(&namespace, PORT)?;
        let process = found.process.ok_or("nobody's")?;
        require(
            process.name == HEIR && process.pid != testator.pid(),
            format!("{process:?}"),
        )
    });
    let page = look.page();
    says(&page, ACCEPT_LIMIT, PORT, &[("process", HEIR)], 4096).unwrap();
    says(&page, ACCEPT_LIMIT, PORT, &[], 4096).unwrap();
    drop(testator);
    within(SHOWN, || {
        let left = look.report(&namespace);
        require(left.is_empty(), format!("{left:?}"))
    });
}

/// Go's servers listen so since 1.24, whoever connects.
#[test]
fn a_listener_of_multipath_tcp_has_its_process_its_queue_and_its_connections() {
    const PORT: u16 = 24_137;
    const QUEUED: u64 = 5;

    let namespace = Netns::new();
    let look = Look::new();
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let Some(listener) = namespace.enter(|| {
        Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))
            .inspect_err(|error| say_skipped(&format!("no Multipath TCP: {error}")))
            .ok()
    }) else {
        return;
    };
    listener.bind(&address.into()).unwrap();
    listener.listen(100).unwrap();
    let _clients: Vec<TcpStream> = namespace.enter(|| {
        let connect = |_| TcpStream::connect(address).unwrap();
        (0..QUEUED + 3).map(connect).collect()
    });
    let _accepted: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
    let truth = ss_listener(&namespace, PORT);
    assert_eq!((truth.queue, truth.limit), (QUEUED, 100));
    within(SHOWN, || {
        let page = look.page();
        says(&page, ACCEPT_QUEUE, PORT, &[], QUEUED)?;
        says(&page, ACCEPT_LIMIT, PORT, &[], 100)?;
        says(
            &page,
            SOCKETS,
            PORT,
            &[("state", "established")],
            QUEUED + 3,
        )?;
        let found = look.listener(&namespace, PORT)?;
        let pid = found.process.map(|process| process.pid);
        require(pid == Some(std::process::id()), format!("{pid:?}"))
    });
}
