// The same as leak.c in Go. Usage: leak PORT BACKEND_PORT
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

var backend string
var kept = make(chan net.Conn, 10000)

//go:noinline
func readAll(connection net.Conn) int {
	all, _ := io.ReadAll(connection)
	return len(all)
}

//go:noinline
func handleLeak(connection net.Conn) int {
	read := readAll(connection)
	kept <- connection
	return read
}

//go:noinline
func handleOk(connection net.Conn) int {
	read := readAll(connection)
	connection.Close()
	return read
}

//go:noinline
func fetchLeak() int {
	connection, err := net.Dial("tcp", "127.0.0.1:"+backend)
	if err != nil {
		panic(err)
	}
	read := readAll(connection)
	kept <- connection
	return read
}

//go:noinline
func fetchOk() int {
	connection, err := net.Dial("tcp", "127.0.0.1:"+backend)
	if err != nil {
		panic(err)
	}
	read := readAll(connection)
	connection.Close()
	return read
}

func serve(connection net.Conn) {
	command := make([]byte, 1)
	if _, err := connection.Read(command); err != nil {
		return
	}
	switch command[0] {
	case 'L':
		handleLeak(connection)
		return
	case 'C':
		fetchLeak()
	case 'D':
		fetchOk()
	}
	handleOk(connection)
}

func main() {
	backend = os.Args[2]
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	for {
		connection, err := listener.Accept()
		if err == nil {
			go serve(connection)
		}
	}
}
