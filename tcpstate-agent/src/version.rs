//! Which agent this is.

/// Version of the agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it is made of, or `unknown`.
pub const REVISION: &str = env!("TCPSTATE_BUILD_REVISION");
/// The branch that was checked out, `HEAD` where none was.
pub const BRANCH: &str = env!("TCPSTATE_BUILD_BRANCH");
/// Version of the compiler.
pub const RUSTC: &str = env!("TCPSTATE_BUILD_RUSTC");

/// When the commit was made; when the agent was built would be another text in each build.
const COMMIT_DATE: &str = env!("TCPSTATE_BUILD_COMMIT_DATE");

/// As exporters show it, without who built it.
#[must_use]
pub fn text() -> String {
    format!(
        "tcpstate-agent, version {VERSION} (branch: {BRANCH}, revision: {REVISION})\n  \
         build date:       {COMMIT_DATE}\n  \
         rustc version:    {RUSTC}\n  \
         platform:         {}/{}\n  \
         tags:             unknown\n",
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_an_exporter() {
        let text = text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("tcpstate-agent, version "), "{text}");
        assert!(
            lines[0].contains(" (branch: ") && lines[0].contains(", revision: "),
            "{text}"
        );
        let names: Vec<&str> = lines[1..]
            .iter()
            .map(|line| line.split(':').next().unwrap_or_default())
            .collect();
        assert_eq!(
            names,
            ["  build date", "  rustc version", "  platform", "  tags"]
        );
        // All values begin in the same column.
        for line in &lines[1..] {
            assert!(
                line.as_bytes()[19] == b' ' && line.as_bytes()[20] != b' ',
                "{line:?}"
            );
        }
    }
}
