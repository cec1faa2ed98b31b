//! The HTTP server about itself.

use prometheus::proto::MetricFamily;

use super::{
    catalogue::http,
    family::{family, series},
};
use crate::serve::HttpReading;

pub(super) fn families(reading: &HttpReading) -> [MetricFamily; 7] {
    let HttpReading {
        open,
        accepted,
        accept_errors,
        drops,
        refusals,
        scrapes,
        scrapes_in_flight,
    } = reading;
    let by_label = |counts: &[(&'static str, u64)]| -> Vec<_> {
        counts
            .iter()
            .map(|(label, count)| series([*label], *count))
            .collect()
    };
    [
        family(&http::SCRAPES, by_label(scrapes)),
        family(&http::SCRAPES_IN_FLIGHT, [series([], *scrapes_in_flight)]),
        family(&http::CONNECTIONS, [series([], *open)]),
        family(&http::ACCEPTED, [series([], *accepted)]),
        family(&http::ACCEPT_ERRORS, [series([], *accept_errors)]),
        family(&http::DROPPED, by_label(drops)),
        family(&http::REFUSED, by_label(refusals)),
    ]
}
