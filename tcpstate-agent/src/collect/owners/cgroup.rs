//! Unit, container and pod from the names of a process's cgroups.
//!
//! systemd and the container runtimes name cgroups after what they run. Reading the names costs
//! one small file, where asking each runtime would take its socket and its client. They are
//! names only, though: whoever owns a delegated cgroup may call its children what it likes.

/// What the paths of its cgroups tell about who runs a process. Each is empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupIdentity {
    /// The innermost systemd unit that is neither a slice nor the scope of a container, spelled
    /// as systemd does: `nginx.service`, `session-3.scope`, `dev-disk\x2dby.swap`.
    pub unit: String,
    /// The runtime's id of the innermost container, without what the runtime puts around it.
    pub container_id: String,
    /// The Kubernetes uid of the pod. With dashes, or 32 hexadecimal digits for a static pod.
    pub pod_uid: String,
}

/// A name in a filesystem is never longer. The text may be: it need not come from the kernel.
const MAX_BYTES: usize = 255;

/// What runtimes put before a container's id in the name of a cgroup. Their monitors have the
/// same beginnings (`crio-conmon-`, `libpod-conmon-`): only the digits after it tell them apart.
const PREFIXES: [&str; 6] = [
    "docker-",
    "cri-containerd-",
    "nerdctl-",
    "crio-",
    "libpod-",
    // `podman run --cgroups=split`, which is what Quadlet uses.
    "libpod-payload-",
];

/// The same where a runtime that manages cgroups itself is given a path for systemd,
/// `SLICE:RUNTIME:ID`, and takes it for a name.
const RUNTIMES: [&str; 5] = ["docker", "cri-containerd", "nerdctl", "crio", "libpod"];

/// Units that hold processes. A `.slice` only groups units.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

impl CgroupIdentity {
    /// What the paths of a process's cgroups tell, as the kernel has them: that of the unified
    /// hierarchy, and that of another one, where a runtime may have put its containers instead.
    #[must_use]
    pub fn of_paths(unified: Option<&str>, controller: Option<&str>) -> Self {
        let unified = unified.map(|path| format!("0::{path}\n"));
        let controller = controller.map(|path| format!("1:pids:{path}\n"));
        Self::parse(&(unified.unwrap_or_default() + &controller.unwrap_or_default()))
    }

    /// Parses the contents of `/proc/PID/cgroup`, of any version.
    ///
    /// A process is in one cgroup of each hierarchy, and they may disagree: Docker on a hybrid
    /// host leaves its containers in `0::/system.slice/containerd.service` and puts them into
    /// `/docker/ID` everywhere else. So the first line that names a container counts; without
    /// one, the first that tells anything. The order is version 2, systemd's own, the others.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut hierarchies: Vec<_> = text.split('\n').filter_map(Hierarchy::parse).collect();
        // Stable: the others stay in the kernel's order.
        hierarchies.sort_by_key(|hierarchy| hierarchy.rank);
        let mut first_that_tells = Self::default();
        for hierarchy in hierarchies {
            let identity = Self::of_path(hierarchy.path);
            if !identity.container_id.is_empty() {
                return identity;
            }
            if first_that_tells == Self::default() {
                first_that_tells = identity;
            }
        }
        first_that_tells
    }

    fn of_path(path: &str) -> Self {
        // The kernel marks the path of a cgroup that was removed under its last process.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        // A reader in another cgroup namespace sees `/../../system.slice/…`. The dots are neither
        // unit nor container, and so they are passed over like any other name.
        let components: Vec<&str> = path.split('/').collect();
        let innermost_first = || components.iter().enumerate().rev();
        let container_at = |at: usize| container_id(components[at], &components[..at]);

        let container_id = innermost_first().find_map(|(at, _)| container_at(at));
        let pod_uid = innermost_first().find_map(|(_, name)| pod_uid(name));
        let unit = innermost_first()
            .find_map(|(at, name)| unit(name).filter(|_| container_at(at).is_none()));
        Self {
            unit: bounded(unit.unwrap_or_default()),
            container_id: bounded(container_id.unwrap_or_default()),
            pod_uid: bounded(pod_uid.unwrap_or_default()).replace('_', "-"),
        }
    }
}

/// One line, `NUMBER:CONTROLLERS:PATH`.
struct Hierarchy<'a> {
    rank: u8,
    path: &'a str,
}

impl<'a> Hierarchy<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // The path may contain colons, the rest may not.
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let rank = match (number, controllers) {
            ("0", "") => 0,
            (_, "name=systemd") => 1,
            _ => 2,
        };
        Some(Self { rank, path })
    }
}

/// The id of the container whose cgroup is called `name`, below `parents`.
fn container_id<'a>(name: &'a str, parents: &[&str]) -> Option<&'a str> {
    if let [_, runtime, id] = *name.split(':').collect::<Vec<_>>() {
        // The place says that it is an id, whatever it looks like: users of containerd choose.
        return (RUNTIMES.contains(&runtime) && !id.is_empty()).then_some(id);
    }
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    for prefix in PREFIXES {
        match stem.strip_prefix(prefix) {
            Some(id) if is_hexadecimal(id, 64) => return Some(id),
            // No other runtime's prefix, and nothing else, begins like this.
            Some(id) if prefix == "cri-containerd-" && !id.is_empty() => return Some(id),
            _ => {}
        }
    }
    // A runtime that manages cgroups itself: `/docker/ID`, `/kubepods/…/podUID/ID`.
    if is_hexadecimal(name, 64) || parents.contains(&"ecs") && is_fargate_id(name) {
        return Some(name);
    }
    None
}

/// Fargate since 1.4 has ids like `34dc0b5e626f2c5c4c5170e34b10e765-1234567890`.
fn is_fargate_id(name: &str) -> bool {
    name.split_once('-').is_some_and(|(task, number)| {
        is_hexadecimal(task, 32)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The uid in `pod<uid>`, `kubepods-burstable-pod<uid>.slice` and what may follow a colon.
fn pod_uid(name: &str) -> Option<&str> {
    let slice = name.split(':').next()?;
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    // A uid has no `p` in it, and so the last `pod` is the one before it.
    let (group, uid) = stem.rsplit_once("pod")?;
    let is_word = group.is_empty() || group.ends_with('-');
    (is_word && (is_hexadecimal(uid, 32) || is_uuid(uid))).then_some(uid)
}

/// `0a1b2c3d-…`, or `0a1b2c3d_…` since a dash in the name of a slice means another level.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split(['-', '_']).collect();
    groups.len() == 5
        && groups
            .iter()
            .zip([8, 4, 4, 4, 12])
            .all(|(group, digits)| is_hexadecimal(group, digits))
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The unit whose cgroup is called `name`.
fn unit(name: &str) -> Option<&str> {
    // systemd puts `_` before a name that the kernel might use itself, such as `cpu.service`:
    // `cg_escape` in its src/basic/cgroup-util.c.
    let name = name.strip_prefix('_').unwrap_or(name);
    UNIT_SUFFIXES
        .iter()
        .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        .then_some(name)
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860";
    const OUTER: &str = "93529524695bb00d91c1f6dba692ea8d3550c3b94fb2463af7bc9ec82f992d26";
    const POD: &str = "73dc8baf-43a0-413e-aac2-5eb0868f6c1a";

    /// The constants stand for `$ID` and so on; `$_POD` is the pod as slices write it.
    fn filled(text: &str) -> String {
        text.replace("$USER", "/user.slice/user-1000.slice/user@1000.service")
            .replace("$ID", ID)
            .replace("$OUTER", OUTER)
            .replace("$POD", POD)
            .replace("$_POD", &POD.replace('-', "_"))
    }

    #[track_caller]
    fn check(text: &str, unit: &str, container_id: &str, pod_uid: &str) {
        let expected = CgroupIdentity {
            unit: filled(unit),
            container_id: filled(container_id),
            pod_uid: filled(pod_uid),
        };
        assert_eq!(CgroupIdentity::parse(&filled(text)), expected, "{text}");
    }

    /// Checks a table of `PATH => UNIT CONTAINER POD`, with `-` for what is unknown.
    #[track_caller]
    fn check_paths(table: &str) {
        let is_row = |line: &&str| !line.is_empty() && !line.starts_with('#');
        for row in table.lines().map(str::trim).filter(is_row) {
            let (path, expected) = row.split_once(" => ").unwrap();
            let values: Vec<&str> = expected
                .split(' ')
                .map(|value| if value == "-" { "" } else { value })
                .collect();
            let [unit, container_id, pod_uid] = values[..] else {
                panic!("{row}");
            };
            check(&format!("0::{path}\n"), unit, container_id, pod_uid);
        }
    }

    #[test]
    fn a_unit_is_found_wherever_systemd_puts_it() {
        check_paths(
            r"
            / => - - -
            /init.scope => init.scope - -
            /system.slice/nginx.service => nginx.service - -
            /system.slice/docker.socket => docker.socket - -
            /system.slice/boot-efi.mount => boot-efi.mount - -
            /system.slice/dev-zd\x2d0.swap => dev-zd\x2d0.swap - -
            /system.slice/system-getty.slice/getty@tty1.service => getty@tty1.service - -
            /system.slice/system-openvpn\x2dclient.slice/openvpn-client@a\x2db.service => openvpn-client@a\x2db.service - -
            /user.slice/user-1000.slice => - - -
            /user.slice/user-1000.slice/session-3.scope => session-3.scope - -
            $USER/init.scope => init.scope - -
            $USER/app.slice/foo.service => foo.service - -
            $USER/app.slice/app-org.gnome.Terminal-12345.scope => app-org.gnome.Terminal-12345.scope - -
            # What a service makes of the cgroup that it was given.
            /system.slice/systemd-udevd.service/udev => systemd-udevd.service - -
            # Escaped, since the kernel has files called `cpu.stat` and the like.
            /system.slice/_cpu.service => cpu.service - -
            # Not units.
            /.service => - - -
            /service => - - -
            /system.slice/nginx.service.d => - - -
            /lxc.payload.web => - - -
            ",
        );
    }

    #[test]
    fn a_container_is_found_whoever_runs_it() {
        check_paths(
            r"
            # Docker: systemd driver, cgroupfs driver, a parent given by hand, rootless.
            /system.slice/docker-$ID.scope => - $ID -
            /docker/$ID => - $ID -
            /docker-$ID => - $ID -
            /actions_job/$ID => - $ID -
            /$ID => - $ID -
            /system.slice/system.slice:docker:$ID => - $ID -
            $USER/user.slice/docker-$ID.scope => user@1000.service $ID -
            # containerd: nerdctl, plain, ids that a user chose.
            /system.slice/nerdctl-$ID.scope => - $ID -
            /user.slice/user-501.slice/user@501.service/user.slice/nerdctl-$ID.scope => user@501.service $ID -
            /default/$ID => - $ID -
            /default/redis => - - -
            /system.slice/cri-containerd-redis.scope => - redis -
            /a.slice:cri-containerd:web.service => - web.service -
            # Podman: root, rootless, in a pod, cgroupfs driver, Quadlet.
            /machine.slice/libpod-$ID.scope => - $ID -
            /machine.slice/libpod-$ID.scope/container => - $ID -
            $USER/user.slice/libpod-$ID.scope/container => user@1000.service $ID -
            /machine.slice/machine-libpod_pod_$OUTER.slice/libpod-$ID.scope => - $ID -
            /libpod_parent/libpod-$ID => - $ID -
            /system.slice/kepler.service/libpod-payload-$ID => kepler.service $ID -
            # ECS: classic, Fargate before and since 1.4.
            /ecs/test-ecs-classic/5a0d5ceddf6c44c1928d367a815d890f/$ID => - $ID -
            /ecs/55091c13-b8cf-4801-b527-f4601742204d/$ID => - $ID -
            /ecs/34dc0b5e626f2c5c4c5170e34b10e765-1234567890 => - 34dc0b5e626f2c5c4c5170e34b10e765-1234567890 -
            /other/34dc0b5e626f2c5c4c5170e34b10e765-1234567890 => - - -
            # CRI-O without Kubernetes.
            /system.slice/crio-$ID.scope => - $ID -
            # Kata's hypervisor.
            /kata_overhead/$ID => - $ID -
            ",
        );
    }

    #[test]
    fn a_pod_is_found_whatever_its_class_and_driver() {
        check_paths(
            r"
            # cgroupfs driver.
            /kubepods/burstable/pod$POD => - - $POD
            /kubepods/burstable/pod$POD/$ID => - $ID $POD
            /kubepods/besteffort/pod$POD/$ID => - $ID $POD
            /kubepods/pod$POD/$ID => - $ID $POD
            /kubelet/kubepods/besteffort/pod$POD/$ID => - $ID $POD
            # systemd driver: containerd, CRI-O, Docker.
            /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_POD.slice/cri-containerd-$ID.scope => - $ID $POD
            /kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod$_POD.slice/crio-$ID.scope => - $ID $POD
            /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_POD.slice/crio-$ID.scope/container => - $ID $POD
            /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$POD.slice/docker-$ID.scope => - $ID $POD
            # Guaranteed.
            /kubepods.slice/kubepods-pod$_POD.slice/cri-containerd-$ID.scope => - $ID $POD
            # Static pods.
            /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podc704ef4c297ab11032b83ce52cbfc87b.slice/cri-containerd-$ID.scope => - $ID c704ef4c297ab11032b83ce52cbfc87b
            /kubepods/podb53dfa9e2dc9b890f7fadb2770857b03/crio-$ID => - $ID b53dfa9e2dc9b890f7fadb2770857b03
            # containerd with its cgroupfs driver under a kubelet with the systemd one.
            /system.slice/containerd.service/kubepods-burstable-pod$_POD.slice:cri-containerd:$ID => containerd.service $ID $POD
            /kubepods-besteffort-pod$_POD.slice:cri-containerd:$ID => - $ID $POD
            # Not pods.
            /kubepods/burstable/podium => - - -
            /kubepods/tripod$POD => - - -
            /system.slice/pod-$POD.service => pod-$POD.service - -
            ",
        );
    }

    #[test]
    fn the_monitor_of_a_container_is_not_the_container() {
        check_paths(
            r"
            /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_POD.slice/crio-conmon-$ID.scope => crio-conmon-$ID.scope - $POD
            /system.slice/crio-conmon-$ID.scope => crio-conmon-$ID.scope - -
            /machine.slice/libpod-conmon-$ID.scope => libpod-conmon-$ID.scope - -
            /libpod_parent/libpod-conmon-$ID => - - -
            /system.slice/redis.service/runtime => redis.service - -
            /system.slice/containerd.service => containerd.service - -
            # Mounted for the container, by the host.
            /system.slice/run-containerd-task-k8s.io-$ID-rootfs.mount => run-containerd-task-k8s.io-$ID-rootfs.mount - -
            ",
        );
    }

    #[test]
    fn the_innermost_container_counts() {
        check_paths(
            r"
            /docker/$OUTER/docker/$ID => - $ID -
            /system.slice/docker-$OUTER.scope/docker/$ID => - $ID -
            /kubepods/burstable/pod$POD/$OUTER/docker/$ID => - $ID $POD
            # kind, both drivers.
            /docker/$OUTER/kubelet/kubepods/besteffort/pod$POD/$ID => - $ID $POD
            /system.slice/docker-$OUTER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod$_POD.slice/cri-containerd-$ID.scope => - $ID $POD
            /libpod_parent/libpod-$OUTER/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$_POD.slice/docker-$ID.scope => - $ID $POD
            # systemd in a container.
            /system.slice/docker-$ID.scope/init.scope => init.scope $ID -
            /docker/$ID/system.slice/nginx.service => nginx.service $ID -
            ",
        );
    }

    #[test]
    fn another_cgroup_namespace_does_not_confuse() {
        check_paths(
            r"
            /.. => - - -
            /../../system.slice/sshd.service => sshd.service - -
            /../crio-$ID.scope => - $ID -
            /../../../burstable/pod$POD/$ID => - $ID $POD
            /../cri-containerd-$ID.scope/.. => - $ID -
            ",
        );
    }

    #[test]
    fn a_removed_cgroup_keeps_its_name() {
        check_paths(
            r"
            /system.slice/docker-$ID.scope (deleted) => - $ID -
            /system.slice/nginx.service (deleted) => nginx.service - -
            ",
        );
    }

    #[test]
    fn version_2_comes_first_when_it_tells_anything() {
        let text = "10:devices:/user.slice\n5:pids:$USER\n1:name=systemd:$USER/old.service\n\
                    0::$USER/new.service\n";
        check(text, "new.service", "", "");
    }

    #[test]
    fn systemd_comes_first_when_version_2_tells_nothing() {
        let text = "11:pids:/system.slice/other.service\n\
                    1:name=systemd:/system.slice/sshd.service\n0::/\n";
        check(text, "sshd.service", "", "");
        let without_version_2 = "11:blkio:/user.slice/user-0.slice/session-14.scope\n9:hugetlb:/\n\
                                 1:name=systemd:/user.slice/user-0.slice/session-14.scope\n";
        check(without_version_2, "session-14.scope", "", "");
    }

    #[test]
    fn any_hierarchy_may_name_the_container() {
        let docker = "13:hugetlb:/docker/$ID\n12:cpu,cpuacct:/\n0::/\n";
        check(docker, "", "$ID", "");
        let ecs = "4:memory:/ecs/task/$ID\n1:name=systemd:/\n";
        check(ecs, "", "$ID", "");
    }

    #[test]
    fn docker_on_a_hybrid_host_is_not_taken_for_its_daemon() {
        let docker = "3:rdma:/\n2:cpuset:/docker/$ID\n1:name=systemd:/docker/$ID\n\
                      0::/system.slice/containerd.service\n";
        check(docker, "", "$ID", "");
        let kubernetes = "1:name=systemd:/kubepods/burstable/pod$POD/$ID\n\
                          0::/system.slice/containerd.service\n";
        check(kubernetes, "", "$ID", "$POD");
    }

    #[test]
    fn text_of_another_kind_tells_nothing() {
        for text in [
            "",
            "\n\n",
            "0",
            "0:",
            "0::",
            "::",
            "11:hugetlb",
            "totally random line",
            "/docker/$ID",
            "0::docker-.scope",
            "0::/cri-containerd-.scope/",
            "0::/a.slice:cri-containerd:",
            "0::/a:other:$ID",
            "0::/\u{0}\u{fffd}é🦀",
        ] {
            let identity = CgroupIdentity::parse(&filled(text));
            assert_eq!(identity.container_id, "", "{text:?}");
            assert_eq!(identity.pod_uid, "", "{text:?}");
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let identity = CgroupIdentity::parse(&format!(
            "0::/cri-containerd-{}/{}.service",
            "é".repeat(300),
            "🦀".repeat(300)
        ));
        assert_eq!(identity.container_id, "é".repeat(127));
        assert_eq!(identity.unit, "🦀".repeat(63));
    }

    proptest! {
        #[test]
        fn any_text_gives_something_bounded(text: String) {
            assert_bounded(&text)?;
        }

        #[test]
        fn any_text_of_the_right_kind_gives_something_bounded(
            text in r"([0-9]?:(name=systemd)?:(/(\.\.|docker|docker-|kubepods-pod|pod|ecs|cri-containerd-|a:cri-containerd:|_)?[0-9a-f_é-]{0,70}(\.scope|\.slice|\.service)?){0,4}\n){0,4}",
        ) {
            assert_bounded(&text)?;
        }

        #[test]
        fn any_id_is_found(id in "[0-9a-f]{64}", uid in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}") {
            let slice = uid.replace('-', "_");
            for text in [
                format!("0::/kubepods/pod{uid}/{id}"),
                format!("0::/kubepods-pod{slice}.slice/crio-{id}.scope"),
                format!("0::/kubepods-pod{slice}.slice:cri-containerd:{id}"),
            ] {
                let identity = CgroupIdentity::parse(&text);
                prop_assert_eq!(&identity.container_id, &id);
                prop_assert_eq!(&identity.pod_uid, &uid);
            }
        }
    }

    fn assert_bounded(text: &str) -> Result<(), TestCaseError> {
        let identity = CgroupIdentity::parse(text);
        for value in [identity.unit, identity.container_id, identity.pod_uid] {
            prop_assert!(value.len() <= MAX_BYTES);
            prop_assert!(!value.contains(['/', '\n']));
        }
        Ok(())
    }
}
