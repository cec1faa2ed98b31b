// The same as leak.c, with a template, a lambda and exceptions. Usage: leak PORT BACKEND_PORT
#include <arpa/inet.h>
#include <iostream>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#define APART __attribute__((noinline))

struct Connection {
	int fd;
	APART std::string read_all()
	{
		std::string all;
		char buffer[512];
		ssize_t got;
		while ((got = ::recv(fd, buffer, sizeof buffer, 0)) > 0)
			all.append(buffer, got);
		return all;
	}
};

namespace app {
static int backend;

static sockaddr_in loopback(int port)
{
	sockaddr_in address{};
	address.sin_family = AF_INET;
	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

APART Connection dial()
{
	sockaddr_in address = loopback(backend);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address))
		throw std::runtime_error("connect");
	return {fd};
}

template <typename T> struct Handler {
	APART void handle_leak(Connection connection)
	{
		if (connection.read_all() == "never")
			throw std::runtime_error("never");
	}
	APART void handle_ok(Connection connection)
	{
		if (connection.read_all() == "never")
			throw std::runtime_error("never");
		close(connection.fd);
	}
};

APART void fetch_leak()
{
	if (dial().read_all() == "never")
		throw std::runtime_error("never");
}

APART void fetch_ok()
{
	Connection connection = dial();
	connection.read_all();
	close(connection.fd);
}
}

int main(int, char **arguments)
{
	int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	sockaddr_in address = app::loopback(std::stoi(arguments[1]));
	app::backend = std::stoi(arguments[2]);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) || listen(listener, 128))
		return 1;
	std::cout << "ready" << std::endl;
	for (;;) {
		int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
		std::thread([fd] {
			app::Handler<int> handler;
			char command = 0;
			if (recv(fd, &command, 1, 0) != 1)
				return;
			if (command == 'L')
				return handler.handle_leak({fd});
			if (command == 'C')
				app::fetch_leak();
			if (command == 'D')
				app::fetch_ok();
			handler.handle_ok({fd});
		}).detach();
	}
}
