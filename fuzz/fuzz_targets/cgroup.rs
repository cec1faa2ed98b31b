//! Paths of cgroups, which whoever makes one chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcpstate_agent::collect::owners::CgroupIdentity;

/// No label is longer, in bytes.
const LONGEST: usize = 1024;

fuzz_target!(|text: &str| {
    let (unified, controller) = text.split_once('\n').unwrap_or((text, ""));
    for identity in [
        CgroupIdentity::parse(text),
        CgroupIdentity::of_paths(Some(unified), Some(controller)),
        CgroupIdentity::of_paths(None, Some(text)),
    ] {
        for label in [identity.unit, identity.container_id, identity.pod_uid] {
            assert!(label.len() <= LONGEST, "{} bytes", label.len());
            assert!(!label.contains('/'), "{label:?} is a path");
        }
    }
});
