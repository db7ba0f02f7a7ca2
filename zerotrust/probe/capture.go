package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Traffic is what a Capture heard in one network namespace.
type Traffic struct {
	Flows     []Flow  `json:"flows"`     // in no order
	Packets   int     `json:"packets"`   // that the kernel had
	Dropped   int     `json:"dropped"`   // of them, lost before they were looked at
	Truncated int     `json:"truncated"` // of them, not looked at to their end
	Seconds   float64 `json:"seconds"`
}

// Flow is one direction of a connection. A packet counts on each interface that it crosses,
// on some twice: out and in.
type Flow struct {
	// Protocol is "tcp", "udp" or "other": what is not IPv4 or has no ports, whose headers
	// count as payload.
	Protocol string         `json:"protocol"`
	Src      netip.AddrPort `json:"src"`     // not valid where it is not known
	Dst      netip.AddrPort `json:"dst"`     // likewise
	Packets  int            `json:"packets"` // with payload
	Bytes    int            `json:"bytes"`   // of payload
	Hits     []int          `json:"hits"`    // how often each mark was in it, in their order
}

// Capture is a prober that listens; see Listen.
type Capture struct {
	marks  int
	enough io.Closer // of its stdin, which ends it
	out    *bufio.Reader
	ended  chan error
}

// machine is where a prober can be run as root: a kindx.Node.
type machine interface {
	Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error
}

// listening is what the prober says when it hears everything.
const listening = "listening"

// Listen runs the prober at path on a machine, where it hears all interfaces of the network
// namespace and counts how often each of the marks, texts of 12 to 200 bytes in one line, is
// in what passes. It returns when everything is heard. The caller calls Stop, also when ctx
// has ended; a prober that is left alone ends after limit.
func Listen(ctx context.Context, on machine, path string, marks []string, limit time.Duration) (*Capture, error) {
	for _, m := range marks {
		if strings.Contains(m, "\n") {
			return nil, errors.New("listening to packets: a mark has to be one line")
		}
	}
	stdin, enough := io.Pipe()
	out, stdout := io.Pipe()
	c := &Capture{marks: len(marks), enough: enough, out: bufio.NewReader(out), ended: make(chan error, 1)}
	go func() {
		err := on.Exec(ctx, stdin, stdout, path, "capture", "-limit", limit.String())
		// Whoever still writes or reads is to know.
		stdin.Close()
		_ = stdout.Close() // never fails
		c.ended <- err
	}()
	if _, err := io.WriteString(enough, strings.Join(marks, "\n")+"\n\n"); err != nil {
		return nil, fmt.Errorf("listening to packets: %w", c.end(err))
	}
	line, err := c.out.ReadString('\n')
	if err == nil && line != listening+"\n" {
		err = fmt.Errorf("it said %q", line)
	}
	if err != nil {
		return nil, fmt.Errorf("listening to packets: %w", c.end(err))
	}
	return c, nil
}

// Stop ends the capture and returns what it heard until now.
func (c *Capture) Stop() (Traffic, error) {
	_ = c.enough.Close() // never fails
	printed, err := io.ReadAll(c.out)
	if err := c.end(err); err != nil {
		return Traffic{}, fmt.Errorf("listening to packets: %w", err)
	}
	return parseTraffic(printed, c.marks)
}

// end waits for the prober's end, which says more than what followed from it.
func (c *Capture) end(err error) error {
	_ = c.enough.Close()
	go func() { _, _ = io.Copy(io.Discard, c.out) }() // or its last words would hold it
	if ended := <-c.ended; ended != nil {
		return ended
	}
	return err
}

// parseTraffic reads what the prober printed, which has to be whole.
func parseTraffic(printed []byte, marks int) (Traffic, error) {
	var t Traffic
	fail := func(err error) (Traffic, error) {
		return Traffic{}, fmt.Errorf("reading what was heard: %w", err)
	}
	if err := json.Unmarshal(printed, &t); err != nil {
		return fail(err)
	}
	if t.Flows == nil || t.Packets < 0 || t.Dropped < 0 || t.Truncated < 0 || t.Seconds <= 0 {
		return fail(errors.New("it is not whole"))
	}
	for _, f := range t.Flows {
		ports := f.Protocol == "tcp" || f.Protocol == "udp"
		switch {
		case len(f.Hits) != marks:
			return fail(fmt.Errorf("a flow has hits of %d marks, not of %d", len(f.Hits), marks))
		case !ports && f.Protocol != "other", ports && !(f.Src.IsValid() && f.Dst.IsValid()), f.Packets <= 0, f.Bytes < f.Packets:
			return fail(fmt.Errorf("a flow says %+v", f))
		}
	}
	return t, nil
}
