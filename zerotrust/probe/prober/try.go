package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"time"
)

// A target that greets does so at once; most do not at all.
const (
	greetingTime  = 300 * time.Millisecond
	greetingBytes = 256
)

// Result is what came of a try. probe.Attempt has the same fields.
type Result struct {
	Target    string  `json:"target"`
	Address   string  `json:"address,omitempty"`   // the address that was tried
	LocalPort int     `json:"localPort,omitempty"` // the port that it was tried from
	Connected bool    `json:"connected"`           // the TCP handshake was completed
	Answer    string  `json:"answer,omitempty"`    // what the target said first, if anything
	Error     string  `json:"error,omitempty"`     // why there is no connection
	Kind      string  `json:"kind,omitempty"`      // of the error: "name", "timeout", "refused", "other"
	Seconds   float64 `json:"seconds"`             // until it was connected, or was not
}

// try connects once, and reads the greeting if there is one. The name is looked up
// apart, so that a DNS failure is never taken for a refusal.
func try(ctx context.Context, target string, timeout time.Duration) Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	r := Result{Target: target}
	fail := func(kind string, err error) Result {
		r.Kind, r.Error, r.Seconds = kind, err.Error(), time.Since(start).Seconds()
		return r
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return fail("other", err)
	}
	// The C library's resolver, where a build has it, does not heed ctx.
	addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, host)
	if err != nil {
		return fail("name", err)
	}
	r.Address = net.JoinHostPort(addrs[0], port)
	// A port chosen beforehand tells this try from all others in the network's own
	// records, also when it never gets through.
	local, err := freePort()
	if err != nil {
		return fail("other", err)
	}
	r.LocalPort = local.Port
	conn, err := (&net.Dialer{LocalAddr: local}).DialContext(ctx, "tcp", r.Address)
	if brokenOff(err) {
		r.Connected, r.Seconds = true, time.Since(start).Seconds()
		return r
	}
	if err != nil {
		return fail(kindOf(err), err)
	}
	defer conn.Close()
	r.Connected, r.Seconds = true, time.Since(start).Seconds()
	r.Answer = greeting(conn)
	return r
}

// brokenOff says whether dialling failed because the other side reset the connection
// as soon as it was there. A reset in answer to the SYN would be ECONNREFUSED: see
// tcp_reset in https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_input.c
func brokenOff(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// greeting is what the other side says first. Whatever ends it says nothing about the
// connection, which was there.
func greeting(conn net.Conn) string {
	if err := conn.SetReadDeadline(time.Now().Add(greetingTime)); err != nil {
		return ""
	}
	buf := make([]byte, greetingBytes)
	n, _ := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n]))
}

func freePort() (*net.TCPAddr, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &net.TCPAddr{Port: l.Addr().(*net.TCPAddr).Port}, nil
}

func kindOf(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "other"
}
