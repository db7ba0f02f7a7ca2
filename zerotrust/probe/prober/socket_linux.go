package main

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	// queueBytes is the kernel's room for what was not read yet.
	queueBytes = 64 << 20
	// packetBytes is more than the largest packet, also where the kernel joins several.
	packetBytes = 256 << 10
	// pollTime is how often a silent network is left to see whether it is enough.
	pollTime = 100 * time.Millisecond
	// catchUp is how long reading what is queued may take at the end.
	catchUp = 10 * time.Second
	// packetStatistics is PACKET_STATISTICS of linux/if_packet.h.
	packetStatistics = 6
)

// packets hears every interface of this network namespace: packet(7).
type packets struct{ fd int }

// listenAll needs CAP_NET_RAW and, for its queue, CAP_NET_ADMIN.
func listenAll() (*packets, error) {
	// Of no protocol at first, so that it hears nothing before it is ready.
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &packets{fd}
	wait := syscall.NsecToTimeval(int64(pollTime))
	if err := errors.Join(
		os.NewSyscallError("setsockopt SO_RCVBUFFORCE", syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, queueBytes)),
		os.NewSyscallError("setsockopt SO_RCVTIMEO", syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait)),
		os.NewSyscallError("bind", syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: network16(syscall.ETH_P_ALL)})),
	); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *packets) close() { _ = syscall.Close(p.fd) }

// read hands on every packet until ctx ends, and then those that are queued already.
func (p *packets) read(ctx context.Context, see func(link int, kind byte, etherType uint16, packet []byte)) (Traffic, error) {
	var t Traffic
	buf := make([]byte, packetBytes)
	flags, end := syscall.MSG_TRUNC, time.Time{}
	for {
		if ctx.Err() != nil && end.IsZero() {
			flags, end = flags|syscall.MSG_DONTWAIT, time.Now().Add(catchUp)
		}
		if !end.IsZero() && time.Now().After(end) {
			return t, errors.New("packets come faster than they can be read")
		}
		n, from, err := syscall.Recvfrom(p.fd, buf, flags)
		switch {
		// An interface that goes down says so here; there are others.
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENETDOWN):
			continue
		case errors.Is(err, syscall.EAGAIN) && !end.IsZero():
			return p.count(t)
		case errors.Is(err, syscall.EAGAIN):
			continue
		case err != nil:
			return t, os.NewSyscallError("recvfrom", err)
		}
		if n > len(buf) {
			t.Truncated++
			n = len(buf)
		}
		link, ok := from.(*syscall.SockaddrLinklayer)
		if !ok {
			return t, errors.New("a packet came from no interface")
		}
		see(link.Ifindex, link.Pkttype, network16(link.Protocol), buf[:n])
	}
}

// count adds how many packets there were, and were lost.
func (p *packets) count(t Traffic) (Traffic, error) {
	// struct tpacket_stats is two numbers, which this reads the bytes of.
	stats, err := syscall.GetsockoptIPMreq(p.fd, syscall.SOL_PACKET, packetStatistics)
	if err != nil {
		return t, os.NewSyscallError("getsockopt PACKET_STATISTICS", err)
	}
	t.Packets, t.Dropped = int(binary.NativeEndian.Uint32(stats.Multiaddr[:])), int(binary.NativeEndian.Uint32(stats.Interface[:]))
	return t, nil
}

// network16 changes between this machine's order of bytes and the network's.
func network16(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
