// Package try makes one attempt to connect, over TCP, UDP, TLS or HTTP, or to look a name up,
// and says what came of it. The prober does so in other people's pods, and whoever has no
// pod, here. It needs the standard library alone.
package try

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// A target that greets does so at once; most do not at all.
const (
	greetingTime  = 300 * time.Millisecond
	greetingBytes = 256
)

// question is what a try sends over UDP, where there is no handshake: any answer will do.
const question = "zerotrust probe\n"

// Result is what came of a try. probe.Attempt, which explains them, has the same fields in
// the same order.
type Result struct {
	Target    string  `json:"target"`
	Address   string  `json:"address,omitempty"`   // the address that was tried
	LocalPort int     `json:"localPort,omitempty"` // the port that it was tried from
	Connected bool    `json:"connected"`           // the TCP handshake was completed; over UDP, there was an answer
	Answer    string  `json:"answer,omitempty"`    // what the target said first, if anything
	Error     string  `json:"error,omitempty"`     // why there is no connection
	Kind      string  `json:"kind,omitempty"`      // of the error: "name", "timeout", "refused", "other"
	Seconds   float64 `json:"seconds"`             // until it was connected, or was not

	// Certificates are those that a tls:// target presents, DER, its own first; nobody has
	// verified them. Status is with what an http:// target answers. SpeechError is why there
	// is neither.
	Certificates [][]byte `json:"certificates,omitempty"`
	Status       int      `json:"status,omitempty"`
	SpeechError  string   `json:"speechError,omitempty"`

	// Addresses are those that the name of a dns:// target has.
	Addresses []string `json:"addresses,omitempty"`
}

// Once tries once, for at most timeout: to connect to what is "host:port", or begins with
// udp://, tls:// or http://, or to find the name of a dns:// one. It reads the greeting if
// there is one. The name is looked up apart, so that a DNS failure is never taken for a refusal.
func Once(ctx context.Context, what string, timeout time.Duration) Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	r := Result{Target: what}
	fail := func(kind string, err error) Result {
		r.Kind, r.Error, r.Seconds = kind, err.Error(), time.Since(start).Seconds()
		return r
	}
	to := ParseTarget(what)
	host, port := to.Address, ""
	if to.Network != "dns" {
		var err error
		if host, port, err = net.SplitHostPort(to.Address); err != nil {
			return fail("other", err)
		}
	}
	// The C library's resolver, where a build has it, does not heed ctx.
	addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, host)
	if err != nil {
		return fail("name", err)
	}
	if to.Network == "dns" {
		r.Connected, r.Addresses, r.Seconds = true, addrs, time.Since(start).Seconds()
		return r
	}
	r.Address = net.JoinHostPort(addrs[0], port)
	// A port chosen beforehand tells this try from all others in the network's own
	// records, also when it never gets through.
	if to.Network == "udp" {
		return exchange(ctx, r, fail)
	}
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
	switch to.Network {
	case "tls":
		r.Certificates, err = presented(ctx, conn)
	case "http":
		r.Status, err = get(ctx, conn, to)
	default:
		r.Answer = greeting(conn)
	}
	if err != nil {
		r.SpeechError = err.Error()
	}
	return r
}

// get is the status of the answer to a GET, redirections not followed.
func get(ctx context.Context, conn net.Conn, to Target) (int, error) {
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return 0, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.Address+to.Path, nil)
	if err != nil {
		return 0, err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// presented is what a server of TLS presents. Whether it is to be believed is for whoever
// has the trust bundle. It may want a certificate, which it says only afterwards.
func presented(ctx context.Context, conn net.Conn) ([][]byte, error) {
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // see above
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	var all [][]byte
	for _, c := range secured.ConnectionState().PeerCertificates {
		all = append(all, c.Raw)
	}
	return all, nil
}

// Target is what is tried, taken apart.
type Target struct {
	Network string // what it begins with, udp, tls, http or dns, and else "tcp"
	Address string // host and port; of dns the host alone
	Path    string // of http, with its slash
}

// ParseTarget takes it apart; whether it is sound is for the caller to look.
func ParseTarget(s string) Target {
	for _, network := range []string{"udp", "tls", "dns"} {
		if address, is := strings.CutPrefix(s, network+"://"); is {
			return Target{Network: network, Address: address}
		}
	}
	if rest, is := strings.CutPrefix(s, "http://"); is {
		address, path, _ := strings.Cut(rest, "/")
		return Target{Network: "http", Address: address, Path: "/" + path}
	}
	return Target{Network: "tcp", Address: s}
}

// exchange asks over UDP, again and again, as packets get lost, until there is an answer.
// That nobody listens the other side's system may tell; silence tells nothing.
func exchange(ctx context.Context, r Result, fail func(string, error) Result) Result {
	start := time.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", r.Address)
	if err != nil {
		return fail(kindOf(err), err)
	}
	defer conn.Close()
	r.LocalPort = conn.LocalAddr().(*net.UDPAddr).Port
	failed := func(err error) Result {
		failure := fail(kindOf(err), err)
		failure.Address, failure.LocalPort = r.Address, r.LocalPort
		return failure
	}
	buf := make([]byte, greetingBytes)
	for {
		if _, err := conn.Write([]byte(question)); err != nil {
			return failed(err)
		}
		until := time.Now().Add(time.Second)
		if end, ok := ctx.Deadline(); ok && end.Before(until) {
			until = end
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return failed(err)
		}
		n, err := conn.Read(buf)
		switch {
		case err == nil:
			r.Connected, r.Seconds, r.Answer = true, time.Since(start).Seconds(), strings.TrimSpace(string(buf[:n]))
			return r
		case ctx.Err() != nil, !errors.Is(err, os.ErrDeadlineExceeded):
			return failed(err)
		}
	}
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
