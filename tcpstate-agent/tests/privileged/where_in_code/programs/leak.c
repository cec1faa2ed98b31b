// Serves a command a connection: L is read to its end and forgotten, O is read and closed; C and D
// do the same with a connection that is opened for it. Usage: leak PORT BACKEND_PORT
#include <arpa/inet.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))

static int backend;

static struct sockaddr_in loopback(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

APART int read_all(int fd)
{
	char buffer[512];
	int total = 0, got;
	while ((got = recv(fd, buffer, sizeof buffer, 0)) > 0)
		total += got;
	return total;
}

// More stack than a short copy holds, between the handler and the read.
APART int read_deep(int fd)
{
	volatile char buffer[48 * 1024];
	// A page that nobody has written to is not there to be copied.
	for (unsigned at = 0; at < sizeof buffer; at += 1024)
		buffer[at] = 1;
	int total = read_all(fd);
	buffer[sizeof buffer - 1] = total;
	return total + buffer[0];
}

APART int dial(void)
{
	struct sockaddr_in address = loopback(backend);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof address))
		abort();
	return fd;
}

// What each does after the call keeps the compiler from making a jump of it.
APART int handle_leak(int fd) { return read_all(fd) + 1; }
APART int handle_deep(int fd) { return read_deep(fd) + 1; }
APART int handle_ok(int fd) { int total = read_all(fd); close(fd); return total; }
APART int fetch_leak(void) { return read_all(dial()) + 1; }
APART int fetch_ok(void) { int fd = dial(), total = read_all(fd); close(fd); return total; }

APART void *serve(void *argument)
{
	int fd = (intptr_t)argument;
	char command = 0;
	if (recv(fd, &command, 1, 0) != 1)
		return 0;
	switch (command) {
	case 'L': handle_leak(fd); break;
	case 'P': handle_deep(fd); break;
	case 'C': fetch_leak(); handle_ok(fd); break;
	case 'D': fetch_ok(); handle_ok(fd); break;
	default: handle_ok(fd);
	}
	return 0;
}

APART int take_one(int listener) { int fd = accept(listener, 0, 0); return fd; }

int main(int count, char **arguments)
{
	if (count != 3)
		return 2;
	int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in address = loopback(atoi(arguments[1]));
	backend = atoi(arguments[2]);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128))
		return 1;
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = take_one(listener);
		pthread_t thread;
		if (fd >= 0 && !pthread_create(&thread, 0, serve, (void *)(intptr_t)fd))
			pthread_detach(thread);
	}
}
