package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// silent is an address that answers no SYN, as if a policy dropped it: the queue of its
// listener is full.
func silent() (address string, done func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return "", nil, err
	}
	open := []func(){func() { _ = syscall.Close(fd) }}
	done = func() {
		for _, c := range open {
			c()
		}
	}
	fail := func(err error) (string, func(), error) {
		done()
		return "", nil, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fail(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return fail(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return fail(err)
	}
	at, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		return fail(errors.New("the socket has no IPv4 address"))
	}
	address = fmt.Sprintf("127.0.0.1:%d", at.Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address, done, nil
		}
		open = append(open, func() { conn.Close() })
	}
	return fail(errors.New("a queue of none took 16 connections"))
}
