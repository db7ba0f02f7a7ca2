//go:build !linux

package dial

import "syscall"

// Elsewhere the keep-alives have to do.
func giveUpOnSilence(_, _ string, _ syscall.RawConn) error { return nil }
