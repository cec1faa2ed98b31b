// A server with connections of a network namespace that none of its threads is in: it makes the
// namespace and listens there, and goes back. Each command that comes in its own namespace is for
// another connection there: L leaks it, O closes it, U does not accept it.
// Usage: elsewhere PORT [PORT_THERE]
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static int checked(int result) {
    if (result < 0) {
        perror("elsewhere");
        exit(1);
    }
    return result;
}

static int bound(int port, int (*how)(int, const struct sockaddr *, socklen_t)) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int descriptor = checked(socket(AF_INET, SOCK_STREAM, 0));
    checked(how(descriptor, (struct sockaddr *)&address, sizeof address));
    return descriptor;
}

static int listener(int port) {
    int descriptor = bound(port, bind);
    checked(listen(descriptor, 64));
    return descriptor;
}

APART int read_all(int descriptor) {
    char buffer[256];
    int all = 0, got;
    while ((got = read(descriptor, buffer, sizeof buffer)) > 0) all += got;
    return all;
}

// Two at the end keep the compiler from making jumps of the calls.
APART int leak_elsewhere(int descriptor) { return read_all(descriptor) + 1; }
APART int close_elsewhere(int descriptor) { return read_all(descriptor) + close(descriptor); }

int main(int count, char **words) {
    int port = atoi(words[1]), port_there = atoi(words[count > 2 ? 2 : 1]);
    int home = checked(open("/proc/self/ns/net", O_RDONLY));
    int door = listener(port);
    checked(unshare(CLONE_NEWNET));
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int away = checked(socket(AF_INET, SOCK_DGRAM, 0));
    checked(ioctl(away, SIOCSIFFLAGS, &loopback));
    close(away);
    away = listener(port_there);
    int other = checked(open("/proc/self/ns/net", O_RDONLY));
    checked(setns(home, CLONE_NEWNET));
    puts("ready");
    fflush(stdout);
    for (;;) {
        char command;
        int asked = checked(accept(door, NULL, NULL));
        checked(read(asked, &command, 1));
        checked(setns(other, CLONE_NEWNET));
        int peer = bound(port_there, connect);
        checked(setns(home, CLONE_NEWNET));
        checked(write(peer, "data", 4));
        close(peer);
        if (command == 'L') leak_elsewhere(checked(accept(away, NULL, NULL)));
        if (command == 'O') close_elsewhere(checked(accept(away, NULL, NULL)));
        close(asked);
    }
}
