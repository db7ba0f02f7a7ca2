// Command workload stands in for an application that nobody wrote yet: it serves plain
// TCP and UDP ports, or none, and waits. Precinct-99's intruder is one.
//
//	workload serve [:8000 udp::5353 ...]
package main

import (
	"context"
	"errors"
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

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] != "serve" {
		return errors.New("usage: workload serve [ADDRESS...]")
	}
	return serve(ctx, args[1:])
}

// serve answers each connection with one line and closes it, and each packet with one.
func serve(ctx context.Context, addresses []string) error {
	failed := make(chan error, len(addresses))
	for _, address := range addresses {
		if address, udp := strings.CutPrefix(address, "udp:"); udp {
			conn, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }()
			go func() { failed <- answer(conn) }()
			continue
		}
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

// answer says to each packet what greet says to a connection.
func answer(conn net.PacketConn) error {
	host, _ := os.Hostname()
	for {
		_, from, err := conn.ReadFrom(make([]byte, 512))
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(fmt.Appendf(nil, "hello %s, this is %s\n", from, host), from); err != nil {
			return err
		}
	}
}

func greet(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	host, _ := os.Hostname()
	fmt.Fprintf(conn, "hello %s, this is %s\n", conn.RemoteAddr(), host)
}
