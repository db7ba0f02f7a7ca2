// Package loopback is for tests that need a server on this machine.
package loopback

import (
	"net"
	"testing"
	"time"
)

// Serve serves each TCP connection with serve, on 127.0.0.1, until the test ends. It returns
// the address.
func Serve(tb testing.TB, serve func(net.Conn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// FreePort is a TCP port of 127.0.0.1 that nobody listened on just now.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// Eventually waits until try has no error, and fails the test with the last one if it has
// one for so long.
func Eventually(tb testing.TB, limit time.Duration, what string, try func() error) {
	tb.Helper()
	var last error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = try(); last == nil {
			return
		}
	}
	tb.Fatalf("waited %s for %s, and last saw: %v", limit, what, last)
}
