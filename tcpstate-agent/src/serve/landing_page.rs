//! The page at `/`.

use std::fmt::Write as _;

use crate::{collect::closes::RecentEnds, version::VERSION};

/// How many peers to name.
const PEERS: usize = 10;

/// The page, for an agent that shows its metrics under `telemetry_path`.
///
/// Everything on it is the agent's own words, numbers, or addresses; nothing needs escaping.
#[must_use]
pub(super) fn html(telemetry_path: &str, is_ready: bool, recent: &RecentEnds) -> String {
    let ready = if is_ready { "ready" } else { "not ready yet" };
    format!(
        "<!DOCTYPE html>\n\
         <html lang=\"en\">\n\
         <head><meta charset=\"utf-8\"><title>tcpstate-agent</title>\n\
         <style>body{{font-family:sans-serif;margin:2em;max-width:50em}}\
         table{{border-collapse:collapse}}td,th{{padding:.2em 1em .2em 0;text-align:left}}\
         td.n,th.n{{text-align:right}}</style></head>\n\
         <body>\n\
         <h1>tcpstate-agent {version}</h1>\n\
         <p>TCP connection states of this host, in all its network namespaces, counted in the \
         kernel.</p>\n\
         <ul>\n\
         <li><a href=\"{telemetry_path}\">Metrics</a></li>\n\
         <li><a href=\"/-/healthy\">Health</a></li>\n\
         <li><a href=\"/-/ready\">Readiness</a>: {ready}</li>\n\
         </ul>\n\
         {ends}\
         </body>\n\
         </html>\n",
        version = VERSION,
        ends = ends(recent),
    )
}

fn ends(recent: &RecentEnds) -> String {
    let mut text = String::from("<h2>Connections that ended abnormally</h2>\n");
    if recent.is_empty() {
        text.push_str("<p>None since the agent started.</p>\n");
        return text;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "<p>The last {}, by cause:</p>", recent.len());
    let causes = recent.by_cause();
    table(
        &mut text,
        "cause",
        causes.iter().map(|(cause, count)| (*cause, *count)),
    );
    let _ = writeln!(text, "<p>The peers with most of them:</p>");
    let peers = recent.top_peers(PEERS);
    table(
        &mut text,
        "peer",
        peers.iter().map(|(peer, count)| (peer, *count)),
    );
    text
}

fn table<T: std::fmt::Display>(
    text: &mut String,
    heading: &str,
    rows: impl Iterator<Item = (T, usize)>,
) {
    let _ = writeln!(
        text,
        "<table><tr><th>{heading}</th><th class=\"n\">connections</th></tr>"
    );
    for (name, count) in rows {
        let _ = writeln!(text, "<tr><td>{name}</td><td class=\"n\">{count}</td></tr>");
    }
    text.push_str("</table>\n");
}
