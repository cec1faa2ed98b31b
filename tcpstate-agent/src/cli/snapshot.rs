//! `snapshot`: count all sockets once.

use std::io;

use clap::Args;
use serde_json::{Map, Value, json};
use tcpstate_common::{Family, TcpState};

use super::{
    loading::watch_once,
    output::{Output, print},
};
use crate::{collect::sockets::Census, engine::Reading, kernel::plan::ProgramId};

/// Flags of `snapshot`.
#[derive(Args, Clone, Debug)]
pub(super) struct SnapshotArgs {
    /// Output format
    #[arg(long, env = "TCPSTATE_OUTPUT", value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Version of the JSON object.
const SCHEMA_VERSION: u32 = 2;
/// Counts and prints.
pub(super) fn execute(output: Output) -> anyhow::Result<()> {
    let watch = watch_once(&[ProgramId::Tables])?;
    let reading = watch.read()?;
    print(|out| match output {
        Output::Text => write_table(out, &reading),
        Output::Json => writeln!(out, "{}", to_json(&reading)),
    })?;
    Ok(())
}

fn write_table(out: &mut dyn io::Write, reading: &Reading) -> io::Result<()> {
    let census = reading.sockets.unwrap_or_default();
    writeln!(
        out,
        "{:<12}{:>10}{:>10}{:>10}",
        "STATE", "IPV4", "IPV6", "TOTAL"
    )?;
    for state in TcpState::FOUND {
        let [ipv4, ipv6] = Family::ALL.map(|family| census.get(family, state));
        let total = census.in_state(state);
        writeln!(out, "{:<12}{ipv4:>10}{ipv6:>10}{total:>10}", state.name())?;
    }
    let [ipv4, ipv6] = Family::ALL.map(|family| of_family(&census, family));
    let total = census.total();
    writeln!(out, "{:<12}{ipv4:>10}{ipv6:>10}{total:>10}", "total")?;
    let namespaces = reading.namespaces.unwrap_or(0);
    let took = reading.snapshot.unwrap_or_default().duration;
    writeln!(
        out,
        "\n{namespaces} network {} counted in {:.1} ms",
        if namespaces == 1 {
            "namespace"
        } else {
            "namespaces"
        },
        took.as_secs_f64() * 1000.0
    )?;
    Ok(())
}

fn of_family(census: &Census, family: Family) -> u64 {
    TcpState::FOUND
        .into_iter()
        .map(|state| census.get(family, state))
        .sum()
}

fn to_json(reading: &Reading) -> Value {
    let census = reading.sockets.unwrap_or_default();
    let by_state = |family| -> Map<String, Value> {
        TcpState::FOUND
            .into_iter()
            .map(|state| (state.name().to_owned(), census.get(family, state).into()))
            .collect()
    };
    json!({
        "schema_version": SCHEMA_VERSION,
        "sockets": {
            "ipv4": by_state(Family::Ipv4),
            "ipv6": by_state(Family::Ipv6),
        },
        "namespaces": reading.namespaces,
        "duration_seconds": reading.snapshot.unwrap_or_default().duration.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::SnapshotState;

    fn reading() -> Reading {
        let mut census = Census::default();
        census.add(Family::Ipv4, TcpState::Listen, 2);
        census.add(Family::Ipv6, TcpState::CloseWait, 1_234_567);
        Reading {
            sockets: Some(census),
            snapshot: Some(SnapshotState {
                duration: Duration::from_micros(2_500),
                ..SnapshotState::default()
            }),
            namespaces: Some(1),
            ..Reading::default()
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let mut text = Vec::new();
        write_table(&mut text, &reading()).unwrap();
        let expected = "\
STATE             IPV4      IPV6     TOTAL
listen               2         0         2
syn_sent             0         0         0
syn_recv             0         0         0
established          0         0         0
fin_wait1            0         0         0
fin_wait2            0         0         0
close_wait           0   1234567   1234567
closing              0         0         0
last_ack             0         0         0
time_wait            0         0         0
total                2   1234567   1234569

1 network namespace counted in 2.5 ms
";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn the_json_is_as_documented() {
        let expected = json!({
            "schema_version": 2,
            "sockets": {
                "ipv4": {"listen": 2, "syn_sent": 0, "syn_recv": 0, "established": 0,
                         "fin_wait1": 0, "fin_wait2": 0, "close_wait": 0, "closing": 0,
                         "last_ack": 0, "time_wait": 0},
                "ipv6": {"listen": 0, "syn_sent": 0, "syn_recv": 0, "established": 0,
                         "fin_wait1": 0, "fin_wait2": 0, "close_wait": 1_234_567, "closing": 0,
                         "last_ack": 0, "time_wait": 0},
            },
            "namespaces": 1,
            "duration_seconds": 0.0025,
        });
        assert_eq!(to_json(&reading()), expected);
    }
}
