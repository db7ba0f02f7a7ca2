package dial

import (
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDialerSetsTheTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := Dialer().Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil || got != 3000 {
			t.Errorf("got %d ms, %v", got, err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func ExampleDialer() {
	fmt.Println(Dialer().Timeout)
	// Output: 3s
}
