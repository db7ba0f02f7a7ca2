package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

const (
	// listening is what capture says when it hears everything.
	listening = "listening"
	// A shorter text may turn up by chance in what is encrypted.
	shortestMark, longestMark, mostMarks = 12, 200, 16
	// mostFlows is how many flows are told apart.
	mostFlows = 1 << 16
)

// Traffic is what a capture heard. probe.Traffic has the same fields.
type Traffic struct {
	Flows     []Flow  `json:"flows"`
	Packets   int     `json:"packets"`   // that the kernel had for us
	Dropped   int     `json:"dropped"`   // of them, lost before they were looked at
	Truncated int     `json:"truncated"` // of them, not looked at to their end
	Seconds   float64 `json:"seconds"`
}

// Flow is one direction of a connection. A packet counts on each interface that it crosses.
type Flow struct {
	Protocol string `json:"protocol"` // "tcp", "udp", or "other": what has no ports
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	Packets  int    `json:"packets"` // with payload
	Bytes    int    `json:"bytes"`   // of payload
	Hits     []int  `json:"hits"`    // of each mark, in their order
}

// capture counts what crosses the interfaces of this network namespace, and how often the
// marks are in it, until stdin ends. The marks are the first lines of stdin, up to an empty
// one. It says a line when it listens, and a Traffic at the end; another end, also that limit
// has passed, is an error.
func capture(ctx context.Context, limit time.Duration, stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	marks, err := readMarks(in)
	if err != nil {
		return err
	}
	packets, err := listenAll()
	if err != nil {
		return fmt.Errorf("listening on all interfaces: %w", err)
	}
	defer packets.close()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s have passed", limit))
	defer cancel()
	ctx, enough := context.WithCancelCause(ctx)
	go func() {
		_, err := io.Copy(io.Discard, in)
		enough(cmp.Or(err, io.EOF))
	}()
	fmt.Fprintln(stdout, listening)
	began := time.Now()
	w := newWatch(marks)
	t, err := packets.read(ctx, w.see)
	if err != nil {
		return fmt.Errorf("reading packets: %w", err)
	}
	if why := context.Cause(ctx); !errors.Is(why, io.EOF) {
		return fmt.Errorf("it was ended before stdin was: %w", why)
	}
	t.Flows, t.Seconds = w.list(), time.Since(began).Seconds()
	return json.NewEncoder(stdout).Encode(t)
}

func readMarks(in *bufio.Reader) ([][]byte, error) {
	var marks [][]byte
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("reading the marks: they end with no empty line: %w", err)
		}
		mark := strings.TrimSuffix(line, "\n")
		switch {
		case mark == "" && len(marks) == 0:
			return nil, errors.New("there is no mark")
		case mark == "":
			return marks, nil
		case len(mark) < shortestMark, len(mark) > longestMark, len(marks) == mostMarks:
			return nil, fmt.Errorf("want at most %d marks of %d to %d bytes", mostMarks, shortestMark, longestMark)
		}
		marks = append(marks, []byte(mark))
	}
}

// flow is what packets are told apart by.
type flow struct {
	protocol string
	src, dst netip.AddrPort
}

// place is where a flow is heard: a packet passes several.
type place struct {
	link int  // index of the interface
	kind byte // coming in or going out
	flow flow
}

// watch counts.
type watch struct {
	marks [][]byte
	keep  int // how much of a flow's end a mark may begin in
	flows map[flow]*Flow
	tails map[place][]byte

	joined []byte
}

func newWatch(marks [][]byte) *watch {
	w := &watch{marks: marks, flows: map[flow]*Flow{}, tails: map[place][]byte{}}
	for _, m := range marks {
		w.keep = max(w.keep, len(m)-1)
	}
	return w
}

// see looks at one packet, from its network header on. What is not understood is looked at
// as a whole.
func (w *watch) see(link int, kind byte, etherType uint16, packet []byte) {
	f, payload := split(etherType, packet)
	if len(payload) == 0 {
		return
	}
	seen, known := w.flows[f]
	if !known {
		if len(w.flows) >= mostFlows {
			f = flow{protocol: other}
		}
		if seen = w.flows[f]; seen == nil {
			seen = &Flow{Protocol: f.protocol, Src: address(f.src), Dst: address(f.dst), Hits: make([]int, len(w.marks))}
			w.flows[f] = seen
		}
	}
	seen.Packets++
	seen.Bytes += len(payload)
	// What a packet ends with may be the beginning of a mark.
	at := place{link, kind, f}
	tail := len(w.tails[at])
	w.joined = append(append(w.joined[:0], w.tails[at]...), payload...)
	for i, m := range w.marks {
		seen.Hits[i] += bytes.Count(w.joined[max(0, tail-len(m)+1):], m)
	}
	w.tails[at] = append(w.tails[at][:0], last(w.joined, w.keep)...)
}

func last(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (w *watch) list() []Flow {
	all := []Flow{}
	for _, f := range w.flows {
		all = append(all, *f)
	}
	return all
}

// The numbers of protocols that are understood. https://www.iana.org/assignments/protocol-numbers
const (
	etherIPv4 = 0x0800
	ipTCP     = 6
	ipUDP     = 17
	other     = "other"
)

// split tells the flow of a packet and what it carries, which is all of it where that
// cannot be told.
func split(etherType uint16, packet []byte) (flow, []byte) {
	if etherType != etherIPv4 || len(packet) < 20 || packet[0]>>4 != 4 {
		return flow{protocol: other}, packet
	}
	header := int(packet[0]&15) * 4
	// 0 stands for more than the field can hold.
	// https://github.com/torvalds/linux/blob/v6.12/include/linux/ip.h, iph_totlen
	total := int(binary.BigEndian.Uint16(packet[2:]))
	if total == 0 {
		total = len(packet)
	}
	src, dst := netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
	whole := flow{other, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)}
	if header < 20 || total < header || total > len(packet) {
		return whole, packet
	}
	segment := packet[header:total] // less what pads the frame
	if fragment := binary.BigEndian.Uint16(packet[6:]) & 0x1fff; fragment != 0 {
		return whole, packet
	}
	name, size := "", 0
	switch packet[9] {
	case ipTCP:
		if name = "tcp"; len(segment) >= 20 {
			size = int(segment[12]>>4) * 4
		}
	case ipUDP:
		name, size = "udp", 8
	}
	if size < 8 || name == "tcp" && size < 20 || size > len(segment) {
		return whole, packet
	}
	return flow{name,
		netip.AddrPortFrom(src, binary.BigEndian.Uint16(segment)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(segment[2:])),
	}, segment[size:]
}
