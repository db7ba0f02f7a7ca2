// Command prober tries, from inside a pod, whether a TCP port lets it connect, or a UDP port
// answers. It is
// what package probe puts into other people's pods, so it needs nothing there: no
// files, no privileges, no ports.
//
//	prober serve -idle 10m              waits; ends after ten minutes without a try
//	prober try -timeout 5s db.app:5432  tries once and prints what happened as JSON
//	prober try udp://dns.app:53         the same over UDP
//	prober try tls://db.app:5432        and what certificates it presents
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
	if err := cmd.run(os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "prober:", err)
		os.Exit(1)
	}
}

const usage = "usage: prober serve [-idle 10m] [-socket NAME] | prober try [-timeout 5s] [-socket NAME] [udp://|tls://]HOST:PORT"

// command is what the arguments ask for.
type command struct {
	verb   string // "serve" or "try"
	socket string // where try tells serve that it is needed: an abstract unix socket's name

	idle time.Duration // serve

	timeout time.Duration // try
	target  string
}

// parse reads the arguments; a new option is a flag of its verb here.
func parse(args []string) (command, error) {
	if len(args) == 0 {
		return command{}, errors.New("no command given")
	}
	cmd := command{verb: args[0]}
	flags := flag.NewFlagSet(cmd.verb, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	flags.StringVar(&cmd.socket, "socket", "zerotrust-probe", "name of the socket between try and serve")
	want := 0
	switch cmd.verb {
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
	_, address := try.Network(c.target)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("target %q: %w", c.target, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("target %q: want HOST:PORT with a port from 1 to 65535, or udp:// or tls:// before it", c.target)
	}
	return nil
}

func (c command) run(stdout, stderr io.Writer) error {
	if c.verb == "serve" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return serve(ctx, c.socket, c.idle, stdout)
	}
	if err := touch(c.socket); err != nil {
		// The try is as good without it; serve may end too early.
		fmt.Fprintln(stderr, "prober: telling serve of this try:", err)
	}
	return json.NewEncoder(stdout).Encode(try.Once(context.Background(), c.target, c.timeout))
}
