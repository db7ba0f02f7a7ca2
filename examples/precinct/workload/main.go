// Command workload stands in for an application of the precinct-99 demo. It
// serves plain TCP ports, and tries, from inside its own pod, whether it gets
// through to somebody else's.
//
//	workload serve :8000 :9000
//	workload probe -timeout 5s backend:8000
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: workload serve ADDRESS... | workload probe [-timeout 5s] HOST:PORT")

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:])
	case "probe":
		flags := flag.NewFlagSet("probe", flag.ContinueOnError)
		timeout := flags.Duration("timeout", 5*time.Second, "how long to try")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if flags.NArg() != 1 {
			return errUsage
		}
		return json.NewEncoder(os.Stdout).Encode(probe(ctx, flags.Arg(0), *timeout))
	}
	return errUsage
}

// serve answers each connection with one line and closes it.
func serve(ctx context.Context, addresses []string) error {
	failed := make(chan error, len(addresses))
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				go greet(conn)
			}
		}()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func greet(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	host, _ := os.Hostname()
	fmt.Fprintf(conn, "hello %s, this is %s\n", conn.RemoteAddr(), host)
}

// Result is what a probe saw.
type Result struct {
	Target    string  `json:"target"`
	Address   string  `json:"address,omitempty"`   // the address that was tried
	LocalPort int     `json:"localPort,omitempty"` // the port that it was tried from
	Connected bool    `json:"connected"`
	Answer    string  `json:"answer,omitempty"`
	Error     string  `json:"error,omitempty"`
	Kind      string  `json:"kind,omitempty"` // of the error: "name", "timeout", "refused", "other"
	Seconds   float64 `json:"seconds"`
}

// probe connects once and reads the greeting. The name is looked up apart, so
// that a DNS failure is never taken for a refusal.
func probe(ctx context.Context, target string, timeout time.Duration) Result {
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
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return fail("name", err)
	}
	r.Address = net.JoinHostPort(addrs[0], port)
	// A port chosen beforehand tells this attempt from all others in the
	// network's own records, also when it never gets through.
	local, err := freePort()
	if err != nil {
		return fail("other", err)
	}
	r.LocalPort = local.Port
	conn, err := (&net.Dialer{LocalAddr: local}).DialContext(ctx, "tcp", r.Address)
	if err != nil {
		return fail(kindOf(err), err)
	}
	defer conn.Close()
	r.Connected = true
	_ = conn.SetDeadline(time.Now().Add(timeout))
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		return fail(kindOf(err), err)
	}
	r.Answer, r.Seconds = strings.TrimSpace(string(buf[:n])), time.Since(start).Seconds()
	return r
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
