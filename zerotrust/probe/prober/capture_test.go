package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
)

var (
	client = netip.MustParseAddrPort("10.244.1.5:40000")
	server = netip.MustParseAddrPort("10.244.2.7:8000")
)

// ipv4 is a packet without options.
func ipv4(protocol byte, src, dst netip.AddrPort, segment []byte) []byte {
	p := make([]byte, 20, 20+len(segment))
	p[0], p[9] = 0x45, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(segment)))
	a, b := src.Addr().As4(), dst.Addr().As4()
	copy(p[12:], a[:])
	copy(p[16:], b[:])
	return append(p, segment...)
}

func tcp(src, dst netip.AddrPort, payload string) []byte {
	h := make([]byte, 32)
	binary.BigEndian.PutUint16(h, src.Port())
	binary.BigEndian.PutUint16(h[2:], dst.Port())
	h[12] = 8 << 4 // with 12 bytes of options, as they are
	return ipv4(ipTCP, src, dst, append(h, payload...))
}

func udp(src, dst netip.AddrPort, payload string) []byte {
	h := make([]byte, 8)
	binary.BigEndian.PutUint16(h, src.Port())
	binary.BigEndian.PutUint16(h[2:], dst.Port())
	return ipv4(ipUDP, src, dst, append(h, payload...))
}

// changed is the packet with one byte set.
func changed(p []byte, at int, to byte) []byte {
	p = bytes.Clone(p)
	p[at] = to
	return p
}

func TestSplit(t *testing.T) {
	good := tcp(client, server, "hello")
	hosts := func(protocol string) flow {
		return flow{protocol, netip.AddrPortFrom(client.Addr(), 0), netip.AddrPortFrom(server.Addr(), 0)}
	}
	for what, tt := range map[string]struct {
		etherType uint16
		packet    []byte
		flow      flow
		carries   string
	}{
		"TCP":                        {etherIPv4, good, flow{"tcp", client, server}, "hello"},
		"TCP without payload":        {etherIPv4, tcp(client, server, ""), flow{"tcp", client, server}, ""},
		"UDP":                        {etherIPv4, udp(client, server, "hello"), flow{"udp", client, server}, "hello"},
		"UDP without payload":        {etherIPv4, udp(client, server, ""), flow{"udp", client, server}, ""},
		"a padded frame":             {etherIPv4, append(bytes.Clone(good), "padding"...), flow{"tcp", client, server}, "hello"},
		"larger than can be said":    {etherIPv4, changed(changed(good, 2, 0), 3, 0), flow{"tcp", client, server}, "hello"},
		"a first fragment":           {etherIPv4, changed(good, 6, 0x20), flow{"tcp", client, server}, "hello"},
		"a later fragment":           {etherIPv4, changed(good, 7, 1), hosts(other), string(changed(good, 7, 1))},
		"another protocol":           {etherIPv4, changed(good, 9, 1), hosts(other), string(changed(good, 9, 1))},
		"IPv6":                       {0x86dd, []byte("\x60whatever"), flow{protocol: other}, "\x60whatever"},
		"ARP":                        {0x0806, []byte("whatever"), flow{protocol: other}, "whatever"},
		"IPv4 that says another":     {etherIPv4, changed(good, 0, 0x65), flow{protocol: other}, string(changed(good, 0, 0x65))},
		"nothing":                    {etherIPv4, nil, flow{protocol: other}, ""},
		"half a header":              {etherIPv4, good[:19], flow{protocol: other}, string(good[:19])},
		"less than it says":          {etherIPv4, good[:len(good)-1], hosts(other), string(good[:len(good)-1])},
		"a header of 16 bytes":       {etherIPv4, changed(good, 0, 0x44), hosts(other), string(changed(good, 0, 0x44))},
		"a header beyond the end":    {etherIPv4, ipv4(ipTCP, client, server, nil)[:20:20], hosts(other), string(ipv4(ipTCP, client, server, nil))},
		"TCP with a header too big":  {etherIPv4, changed(good, 32, 0xf0), hosts(other), string(changed(good, 32, 0xf0))},
		"TCP with none":              {etherIPv4, changed(good, 32, 0), hosts(other), string(changed(good, 32, 0))},
		"TCP of the size of UDP":     {etherIPv4, changed(good, 32, 2<<4), hosts(other), string(changed(good, 32, 2<<4))},
		"UDP of less than a header":  {etherIPv4, ipv4(ipUDP, client, server, []byte("seven b")), hosts(other), string(ipv4(ipUDP, client, server, []byte("seven b")))},
		"IP options before the rest": {etherIPv4, options(good), flow{"tcp", client, server}, "hello"},
	} {
		f, payload := split(tt.etherType, tt.packet)
		if f != tt.flow || string(payload) != tt.carries {
			t.Errorf("%s: %v carries %q, want %v with %q", what, f, payload, tt.flow, tt.carries)
		}
	}
}

// options puts four bytes of them into a packet.
func options(p []byte) []byte {
	p = append(append(bytes.Clone(p[:20]), 1, 1, 1, 0), p[20:]...)
	p[0] = 0x46
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	return p
}

func TestWatch(t *testing.T) {
	const mark, short = "abcdefghijklmnop", "0123456789ab"
	type packet struct {
		link int
		kind byte
		data []byte
	}
	at := func(link int, payload string) packet { return packet{link, 0, tcp(client, server, payload)} }
	for what, tt := range map[string]struct {
		packets []packet
		want    Flow // of client to server
	}{
		"not there":            {[]packet{at(1, "abcdefghijklmno"), at(1, "x"), at(1, "p")}, Flow{Packets: 3, Bytes: 17, Hits: []int{0, 0}}},
		"in one packet":        {[]packet{at(1, "x"+mark+"y"+mark+short)}, Flow{Packets: 1, Bytes: 46, Hits: []int{2, 1}}},
		"over two":             {[]packet{at(1, "x"+mark[:7]), at(1, mark[7:]+"y")}, Flow{Packets: 2, Bytes: 18, Hits: []int{1, 0}}},
		"over many":            {[]packet{at(1, mark[:2]), at(1, mark[2:3]), at(1, mark[3:8]), at(1, mark[8:15]), at(1, mark[15:])}, Flow{Packets: 5, Bytes: 16, Hits: []int{1, 0}}},
		"one that was told":    {[]packet{at(1, short), at(1, "x"), at(1, "y")}, Flow{Packets: 3, Bytes: 14, Hits: []int{0, 1}}},
		"at two interfaces":    {[]packet{at(1, mark[:7]), at(2, mark[:7]), at(1, mark[7:]), at(2, mark[7:])}, Flow{Packets: 4, Bytes: 32, Hits: []int{2, 0}}},
		"out and in again":     {[]packet{{1, 4, tcp(client, server, mark[:7])}, {1, 0, tcp(client, server, mark[:7])}, {1, 4, tcp(client, server, mark[7:])}, {1, 0, tcp(client, server, mark[7:])}}, Flow{Packets: 4, Bytes: 32, Hits: []int{2, 0}}},
		"of two directions":    {[]packet{at(1, mark[:7]), {1, 0, tcp(server, client, mark[7:])}}, Flow{Packets: 1, Bytes: 7, Hits: []int{0, 0}}},
		"acknowledged between": {[]packet{at(1, mark[:7]), at(1, ""), at(1, mark[7:])}, Flow{Packets: 2, Bytes: 16, Hits: []int{1, 0}}},
	} {
		w := newWatch([][]byte{[]byte(mark), []byte(short)})
		for _, p := range tt.packets {
			w.see(p.link, p.kind, etherIPv4, p.data)
		}
		got := w.flows[flow{"tcp", client, server}]
		if got == nil || got.Packets != tt.want.Packets || got.Bytes != tt.want.Bytes || got.Hits[0] != tt.want.Hits[0] || got.Hits[1] != tt.want.Hits[1] {
			t.Errorf("%s: %+v, want %+v", what, got, tt.want)
		}
	}
}

// What is not understood is searched all the same, and so is what there is no room for.
func TestWatchAll(t *testing.T) {
	const mark = "abcdefghijklmnop"
	w := newWatch([][]byte{[]byte(mark)})
	w.see(1, 0, 0x86dd, []byte("\x60"+mark))
	w.see(1, 0, etherIPv4, changed(tcp(client, server, mark), 7, 1))
	for port := range 1<<16 - 1 {
		w.see(1, 0, etherIPv4, tcp(client, netip.AddrPortFrom(server.Addr(), uint16(port)), "x"))
	}
	w.see(1, 0, etherIPv4, tcp(server, client, mark))
	all := w.list()
	hits := map[string]int{}
	for _, f := range all {
		hits[f.Protocol+" "+f.Src] += f.Hits[0]
	}
	if len(all) > mostFlows+1 || hits["other "] != 2 || hits["other 10.244.1.5:0"] != 1 || hits["tcp 10.244.2.7:8000"] != 0 {
		t.Errorf("%d flows, hits %v", len(all), hits)
	}
}

func TestReadMarks(t *testing.T) {
	const good = "abcdefghijklmnop"
	for _, tt := range []struct{ in, want, says string }{
		{good + "\n\nrest", good, ""},
		{good + "\n" + good + "x\n\n", good + " " + good + "x", ""},
		{"", "", "no empty line"},
		{good + "\n" + good, "", "no empty line"},
		{"\n", "", "no mark"},
		{"short\n\n", "", "12 to 200 bytes"},
		{strings.Repeat("x", 201) + "\n\n", "", "12 to 200 bytes"},
		{strings.Repeat(good+"\n", 17) + "\n", "", "at most 16"},
	} {
		marks, err := readMarks(bufio.NewReader(strings.NewReader(tt.in)))
		if got := string(bytes.Join(marks, []byte(" "))); got != tt.want || (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %q, %v", tt.in, got, err)
		}
		if err != nil && strings.Contains(err.Error(), good) {
			t.Errorf("the error holds a mark: %v", err)
		}
	}
}

// Whatever comes, it is told apart or searched as a whole, and never more than there is.
func FuzzSplit(f *testing.F) {
	for _, p := range [][]byte{tcp(client, server, "hello"), udp(client, server, "x"), options(tcp(client, server, "y")), {}, []byte("\x45")} {
		f.Add(uint16(etherIPv4), p)
	}
	f.Fuzz(func(t *testing.T, etherType uint16, packet []byte) {
		f, payload := split(etherType, packet)
		switch f.protocol {
		case "tcp", "udp":
			if !f.src.IsValid() || !f.dst.IsValid() || len(payload) > len(packet)-28 || !bytes.Contains(packet, payload) {
				t.Errorf("%v carries %q", f, payload)
			}
		case other:
			if !bytes.Equal(payload, packet) {
				t.Errorf("not understood, and %d bytes of %d searched", len(payload), len(packet))
			}
		default:
			t.Errorf("protocol %q", f.protocol)
		}
		w := newWatch([][]byte{[]byte("abcdefghijklmnop")})
		for range 3 {
			w.see(1, 0, etherType, packet)
		}
	})
}
