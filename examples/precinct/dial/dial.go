// Package dial connects to workloads that may vanish without a word: their pod is gone,
// and nobody is left to say so.
package dial

import (
	"net"
	"time"
)

// silence is how long the other side may fail to acknowledge what was sent.
const silence = 3 * time.Second

// Dialer gives up on a connection whose other side no longer acknowledges anything. One
// that is merely slow acknowledges at once.
func Dialer() *net.Dialer {
	return &net.Dialer{
		Timeout: 3 * time.Second,
		Control: giveUpOnSilence,
		// What is idle is found dead before it is needed.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 2},
	}
}
