// Command prober tries, from inside a pod, whether a TCP port lets it connect, a UDP port or
// an HTTP server answers, or a name is found. It is what package probe puts into other
// people's pods, so it needs nothing there: no files, no privileges, no ports. On a node, as
// root, it also listens to all that passes.
//
//	prober serve -idle 10m              waits; ends after ten minutes without a try
//	prober try -timeout 5s db.app:5432  tries once and prints what happened as JSON
//	prober try udp://dns.app:53         the same over UDP
//	prober try tls://db.app:5432        and what certificates it presents
//	prober try http://web.app:80/live   and how it answers a GET
//	prober try dns://db.app             whether the name is found
//	prober capture -limit 2m            counts packets, and in how many the texts are that
//	                                    its first lines of stdin say, until stdin ends
//
// A try that could be made ends with 0, whatever came of it; wrong arguments end with 2.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/org/spire-vault-99-action/internal/try"
)

func main() {
	cmd, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "prober: %v\n%s\n", err, usage)
		os.Exit(2)
	}
	if err := cmd.run(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "prober:", err)
		os.Exit(1)
	}
}

const usage = "usage: prober serve [-idle 10m] [-socket NAME] | prober try [-timeout 5s] [-socket NAME] [udp://|tls://]HOST:PORT | http://HOST:PORT/PATH | dns://HOST | prober capture [-limit 2m]"

// command is what the arguments ask for.
type command struct {
	verb   string // "serve", "try" or "capture"
	socket string // where try tells serve that it is needed: an abstract unix socket's name

	idle time.Duration // serve

	timeout time.Duration // try
	target  string

	limit time.Duration // capture
}

// parse reads the arguments; a new option is a flag of its verb here.
func parse(args []string) (command, error) {
	if len(args) == 0 {
		return command{}, errors.New("no command given")
	}
	cmd := command{verb: args[0]}
	flags := flag.NewFlagSet(cmd.verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	if cmd.verb != "capture" {
		flags.StringVar(&cmd.socket, "socket", "zerotrust-probe", "name of the socket between try and serve")
	}
	want := 0
	switch cmd.verb {
	case "capture":
		flags.DurationVar(&cmd.limit, "limit", 2*time.Minute, "end after this long at the latest")
	case "serve":
		flags.DurationVar(&cmd.idle, "idle", 10*time.Minute, "end after this long without a try")
	case "try":
		flags.DurationVar(&cmd.timeout, "timeout", 5*time.Second, "how long to try")
		want = 1
	default:
		return command{}, fmt.Errorf("unknown command %q", cmd.verb)
	}
	if err := flags.Parse(args[1:]); err != nil {
		return command{}, err
	}
	if flags.NArg() != want {
		return command{}, fmt.Errorf("%s takes %d arguments, got %q", cmd.verb, want, flags.Args())
	}
	cmd.target = flags.Arg(0)
	return cmd, cmd.check()
}

func (c command) check() error {
	if c.verb == "capture" {
		if c.limit <= 0 {
			return fmt.Errorf("-limit %s: want more than 0", c.limit)
		}
		return nil
	}
	// The kernel takes 107 bytes, and an empty name as "choose one".
	if c.socket == "" || len(c.socket) > 100 || strings.Contains(c.socket, "\x00") {
		return fmt.Errorf("-socket %q: want 1 to 100 bytes", c.socket)
	}
	if c.verb == "serve" {
		if c.idle <= 0 {
			return fmt.Errorf("-idle %s: want more than 0", c.idle)
		}
		return nil
	}
	if c.timeout <= 0 {
		return fmt.Errorf("-timeout %s: want more than 0", c.timeout)
	}
	to := try.ParseTarget(c.target)
	if to.Network == "dns" {
		if to.Address == "" || strings.ContainsAny(to.Address, ":/") {
			return fmt.Errorf("target %q: want dns://HOST", c.target)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(to.Address)
	if err != nil {
		return fmt.Errorf("target %q: %w", c.target, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("target %q: want HOST:PORT with a port from 1 to 65535, or udp://, tls:// or http:// before it", c.target)
	}
	return nil
}

func (c command) run(stdin io.Reader, stdout, stderr io.Writer) error {
	if c.verb != "try" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if c.verb == "capture" {
			return capture(ctx, c.limit, stdin, stdout)
		}
		return serve(ctx, c.socket, c.idle, stdout)
	}
	if err := touch(c.socket); err != nil {
		// The try is as good without it; serve may end too early.
		fmt.Fprintln(stderr, "prober: telling serve of this try:", err)
	}
	return json.NewEncoder(stdout).Encode(try.Once(context.Background(), c.target, c.timeout))
}
