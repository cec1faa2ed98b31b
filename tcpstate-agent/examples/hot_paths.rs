//! What the agent does for each socket, record or series, each on its own and so many times, for a
//! tool that counts instructions: `cargo xtask bench instructions`.

use std::{
    collections::BTreeMap,
    error::Error,
    hint::black_box,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tcpstate_agent::{
    collect::{
        Admission, SeriesLimits,
        close_wait::{Holdings, Survey},
        closes::RecentEnds,
        listeners::{
            Assignment, Increments, Labelled, ListenerSeries, ListeningSocket, Totals, top,
        },
        owners::OwnerLabels,
    },
    decode::{CloseWaitSocket, HeldLayout, HeldTimes, References, Socket, Transition},
    engine::ListenersReading,
    exposition::{self, Spare},
    host::process::ProcessId,
};
use tcpstate_common::{
    CloseReason, Family, HalfOpenCounts, TcpState, TransitionRecord, pass::HeldRecord,
};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// Sockets, records or listeners each time.
const COUNT: u32 = 10_000;
/// Listeners that have series of their own, by default.
const SHOWN: usize = 200;

type Outcome = Result<(), Box<dyn Error>>;

/// `hot_paths PATH TIMES`.
fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("no path")?;
    let times = arguments.next().ok_or("no number of times")?.parse()?;
    match &*path {
        "ends" => ends(times),
        "survey" => {
            survey(times);
            Ok(())
        }
        "holders" => holders(times),
        "listeners" => listeners(times),
        "page" => page(times),
        _ => Err(format!("no path {path}").into()),
    }
}

/// Records of the ring.
fn ends(times: u32) -> Outcome {
    let mut record = TransitionRecord::new_zeroed();
    record.family = 2;
    record.old_state = TcpState::Established as u8;
    record.new_state = TcpState::Close as u8;
    record.reason = CloseReason::ResetReceived as u8;
    let mut recent = RecentEnds::default();
    for number in 0..COUNT * times {
        record.socket = number.into();
        recent.add(&Transition::decode(black_box(record.as_bytes()))?);
    }
    black_box(recent);
    Ok(())
}

fn close_wait(number: u32) -> CloseWaitSocket {
    CloseWaitSocket {
        socket: number.into(),
        since_ns: Some(u64::from(number) * 1_000_000),
        namespace: 7,
        last_ack_jiffies: 0,
        last_data_jiffies: None,
        last_sent_jiffies: None,
        unread: 101,
        unsent: 0,
        is_accepted: true,
        local_port: 8080,
        remote: ([10, 0, 0, 1], 40_000).into(),
        cgroup: 0,
    }
}

/// Sockets in CLOSE_WAIT, as a pass finds them.
fn survey(times: u32) {
    for _ in 0..times {
        let mut survey = Survey::new(u64::MAX / 2, None);
        survey.begin(7);
        for number in 0..COUNT {
            survey.add(&Socket::CloseWait(black_box(close_wait(number))));
        }
        black_box(survey.total());
    }
}

/// The same, as a walk over descriptors does.
fn holders(times: u32) -> Outcome {
    // Where Linux 6.18 has them.
    let layout = HeldLayout {
        state: 18,
        family: 16,
        net: 48,
        local_port: 14,
        remote_port: 12,
        remote_ipv4: 0,
        remote_ipv6: 56,
        received: 1664,
        read: 1464,
        written: 1576,
        acknowledged: 1672,
        last_ack: 1724,
        last_data: 1264,
        last_sent: 1584,
        accept_queue: 600,
        references: References::FromZero,
    };
    let wanted = layout.wanted(false);
    let process = ProcessId {
        tgid: 1000,
        start_boottime_ns: 1,
    };
    let mut record = HeldRecord {
        namespace: 7,
        ..HeldRecord::default()
    };
    let head = record.head.as_mut_bytes();
    head[..4].copy_from_slice(&[10, 0, 0, 1]);
    head[14..16].copy_from_slice(&8080_u16.to_ne_bytes());
    head[16..19].copy_from_slice(&[2, 0, TcpState::CloseWait as u8]);
    let seen = HeldTimes {
        since: |socket| Some(socket + 1),
        jiffies: 0,
    };
    for _ in 0..times {
        let mut survey = Survey::new(u64::MAX / 2, None);
        survey.begin(7);
        survey.add(&Socket::CloseWait(close_wait(0)));
        let mut holdings = Holdings::default();
        for number in 0..COUNT {
            record.sock = u64::from(number) * 64;
            record.descriptor = number;
            let found = layout.owner(&wanted, black_box(&record), process, &seen)?;
            let (owner, _) = found.ok_or("no owner")?;
            holdings.add(&owner, &survey);
        }
        black_box(&holdings);
    }
    Ok(())
}

fn listening() -> Result<Vec<ListeningSocket>, Box<dyn Error>> {
    let sockets = (0..COUNT).map(|number| {
        Ok(ListeningSocket {
            socket: number.into(),
            namespace: 7,
            family: Family::Ipv4,
            address: SocketAddr::from(([0, 0, 0, 0], u16::try_from(10_000 + number)?)),
            is_any_port: false,
            accept_queue: 0,
            accept_limit: 128,
            half_open: 0,
            drops: 0,
            synack_retransmits: 0,
        })
    });
    sockets.collect()
}

fn assigned(sockets: &[ListeningSocket]) -> Assignment {
    let labels = Arc::new(OwnerLabels {
        process: "server".to_owned(),
        ..OwnerLabels::default()
    });
    let labelled = sockets.iter().map(|socket| {
        let labels = &labels;
        (socket, Some(Labelled { labels, order: 1 }))
    });
    Assignment::new(labelled)
}

/// Listening sockets at each scrape.
fn listeners(times: u32) -> Outcome {
    let sockets = listening()?;
    let assignment = assigned(&sockets);
    let (mut increments, mut totals) = (Increments::default(), Totals::default());
    let now = Instant::now();
    let mut admission = Admission::new(SeriesLimits::USUAL, now);
    for _ in 0..times {
        let of_each = increments.look(sockets.iter().map(|socket| (socket, true)));
        let sockets = black_box(&sockets).iter().zip(of_each.iter().copied());
        black_box(top(
            &assignment,
            sockets,
            &BTreeMap::new(),
            SHOWN,
            &mut totals,
            &mut admission,
            now,
        ));
    }
    Ok(())
}

/// The series of as many listeners as are shown.
fn page(times: u32) -> Outcome {
    let sockets = listening()?;
    let assignment = assigned(&sockets);
    let series = (0..SHOWN).map(|at| (assignment.key(at), ListenerSeries::default()));
    let reading = ListenersReading {
        series: series.collect(),
        half_open: HalfOpenCounts::default(),
        took: Duration::ZERO,
        folded: 0,
    };
    let mut spare = Spare::default();
    for _ in 0..times {
        black_box(exposition::of_listeners(black_box(&reading), &mut spare)?);
    }
    Ok(())
}
