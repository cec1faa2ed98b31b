#!/bin/busybox sh
# The first process of a virtual machine: runs the privileged tests one by one, and reports in
# lines that begin with @tcpstate, which the host reads from the console.

/bin/busybox --install -s /usr/sbin
export PATH=/usr/bin:/usr/sbin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Without this the kernel's own console is none to write to.
exec </dev/console >/dev/console 2>&1

# Lines of their own: what came before may not have ended its line.
say() { echo; echo "@tcpstate $*"; }

say kernel "$(uname -r)"
ip link set lo up
for module in /vm/modules/*; do
    case $module in
    *.xz) unxz "$module" && module=${module%.xz} ;;
    esac
    insmod "$module" || say trouble "cannot insert $module"
done
# As a service manager is told to do for it. Kernels before 5.11 charge maps to the latter, which
# an agent without CAP_SYS_RESOURCE cannot raise by itself.
ulimit -n 65536
ulimit -l unlimited
. /vm/settings

say begin-check
timeout -s KILL "$TEST_SECONDS" "$AGENT" check
say end-check $?

# The settings have set the arguments: which tests to run.
/vm/privileged --list --format terse "$@" >/tmp/tests
say tests "$(grep -c ': test$' /tmp/tests)"
sed -n 's/: test$//p' /tmp/tests >/tmp/names
while read -r name; do
    say begin-test "$name"
    start=$(cut -d ' ' -f 1 /proc/uptime)
    # Each in a process of its own, so that one that hangs or dies is one test and no more.
    timeout -s KILL "$TEST_SECONDS" \
        /vm/privileged --exact "$name" --nocapture --test-threads=1 </dev/null
    say end-test "$name" $? "$start" "$(cut -d ' ' -f 1 /proc/uptime)"
done </tmp/names
say done
# The kernel is told to end the emulator instead of starting again.
reboot -f
