//go:build e2e

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/internal/loopback"
)

// TestE2ECapture hears this machine's own loopback. It needs root.
func TestE2ECapture(t *testing.T) {
	const mark = "abcdefghijklmnop"
	through := make(chan struct{})
	addr := loopback.Serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c); close(through) })
	stdin, enough := io.Pipe()
	out, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- command{verb: "capture", limit: time.Minute}.run(stdin, stdout, io.Discard)
		stdout.Close()
	}()
	fmt.Fprintf(enough, "%s\n%sx\n\n", mark, mark)
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != listening+"\n" {
		t.Fatalf("%q, %v, %v", line, err, <-ended)
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"x" + mark[:5], mark[5:], "y"} {
		fmt.Fprint(conn, part)
		time.Sleep(50 * time.Millisecond)
	}
	// More than one read of ours, and all of it before the end.
	big := strings.Repeat("z", 10<<20) + mark
	fmt.Fprint(conn, big)
	conn.Close()
	<-through
	enough.Close()
	var got Traffic
	if err := json.NewDecoder(lines).Decode(&got); err != nil {
		t.Fatal(err, <-ended)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for _, f := range got.Flows {
		if f.Protocol == "tcp" && f.Src == conn.LocalAddr().String() && f.Dst == addr {
			// Each packet goes out on loopback, and comes in there.
			if f.Hits[0] != 4 || f.Hits[1] != 0 || f.Packets < 8 || f.Bytes != 2*(1+len(mark)+1+len(big)) {
				t.Errorf("%+v", f)
			}
			t.Logf("%+v; %d packets in %.2f s, %d dropped, %d truncated", f, got.Packets, got.Seconds, got.Dropped, got.Truncated)
			return
		}
	}
	t.Errorf("the connection is not among %d flows", len(got.Flows))
}

// A capture that was ended in another way than wanted may have missed something.
func TestE2ECaptureEndsEarly(t *testing.T) {
	stdin, in := io.Pipe()
	defer in.Close()
	go fmt.Fprint(in, "abcdefghijklmnop\n\n")
	err := command{verb: "capture", limit: 300 * time.Millisecond}.run(stdin, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "300ms have passed") {
		t.Error(err)
	}
}
