// Reads each connection to its end by io_uring, in threads of the kernel's, and forgets it.
// Usage: uring PORT BACKEND_PORT
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ring;
static struct io_uring_params of_ring;
static char *submissions, *completions;
static struct io_uring_sqe *entries;

static void check(int is_well) {
    if (!is_well) {
        perror("uring");
        exit(1);
    }
}

static void *map(size_t bytes, off_t what) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
    check(at != MAP_FAILED);
    return at;
}

static void open_ring(void) {
    ring = syscall(SYS_io_uring_setup, 4, &of_ring);
    check(ring >= 0);
    submissions = map(of_ring.sq_off.array + of_ring.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    completions = map(of_ring.cq_off.cqes + of_ring.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    entries = map(of_ring.sq_entries * sizeof *entries, IORING_OFF_SQES);
}

static unsigned *at(char *from, unsigned offset) { return (unsigned *)(from + offset); }

// One read, by a thread of the kernel's.
static int read_apart(int descriptor, void *buffer, unsigned bytes) {
    unsigned tail = *at(submissions, of_ring.sq_off.tail);
    unsigned mask = *at(submissions, of_ring.sq_off.ring_mask);
    entries[tail & mask] = (struct io_uring_sqe){
        .opcode = IORING_OP_RECV,
        .flags = IOSQE_ASYNC,
        .fd = descriptor,
        .addr = (unsigned long)buffer,
        .len = bytes,
    };
    at(submissions, of_ring.sq_off.array)[tail & mask] = tail & mask;
    __atomic_store_n(at(submissions, of_ring.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
    check(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
    unsigned head = *at(completions, of_ring.cq_off.head);
    mask = *at(completions, of_ring.cq_off.ring_mask);
    struct io_uring_cqe *all = (struct io_uring_cqe *)(completions + of_ring.cq_off.cqes);
    int result = all[head & mask].res;
    __atomic_store_n(at(completions, of_ring.cq_off.head), head + 1, __ATOMIC_RELEASE);
    return result;
}

int main(int count, char **words) {
    (void)count;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    check(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    check(listen(listener, 64) == 0);
    open_ring();
    puts("ready");
    fflush(stdout);
    for (;;) {
        char buffer[256];
        int connection = accept(listener, NULL, NULL);
        check(connection >= 0);
        int got;
        while ((got = read_apart(connection, buffer, sizeof buffer)) > 0) {
        }
        check(got == 0);
    }
}
