package kindx

import (
	"net"

	"golang.org/x/sys/unix"
)

// socketPeer is the process that listens on a unix socket; 0 if there is none, or
// it is in a PID namespace that this one does not see (SO_PEERCRED, unix(7)).
func socketPeer(socket string) int {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
