package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// giveUpOnSilence ends a connection whose other side has not even acknowledged what
// was sent for 3 s: its pod is gone, and nobody is left to say so. A backend that is
// merely slow acknowledges at once.
func giveUpOnSilence(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 3000)
	})
	if err != nil {
		return err
	}
	return set
}
