// Package edge tries, from inside a workload, whether the network lets it through
// to the others. It tries only what the deployment lists, so that it is no port
// scanner for whoever can reach the page that shows it.
package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
)

// How long a lookup and a connection may take, each. A first packet that Cilium holds
// back for authentication is sent again after 1 and 3 s; where nothing is to come
// through, nobody needs to wait that long.
const (
	allowedLimit = 5 * time.Second
	deniedLimit  = 2 * time.Second
)

// ErrNotListed says that an address is none of the deployment's.
var ErrNotListed = errors.New("this address is not among the edges")

// Edge is one port of another workload.
type Edge struct {
	To      string `json:"to"`      // the workload's name
	Address string `json:"address"` // host:port
	Allowed bool   `json:"allowed"` // by the intent
}

// List is every edge that one workload may try.
type List struct {
	From  string `json:"from"`
	Edges []Edge `json:"edges"`
}

// Outcome is what came of a try. The zero value is unknown.
type Outcome string

// A refusal needs evidence: a name that cannot be looked up is none.
const (
	Connected Outcome = "connected"
	Timeout   Outcome = "timeout" // no answer at all: how a dropped packet looks
	Refused   Outcome = "refused" // the other side said no
	Name      Outcome = "name"    // the name could not be looked up
	Other     Outcome = "other"
)

// Result is one try.
type Result struct {
	From    string  `json:"from"`
	To      string  `json:"to"`
	Address string  `json:"address"`
	Allowed bool    `json:"allowed"`
	Outcome Outcome `json:"outcome"`
	Error   string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Parse reads the edges of workload from: a JSON array of Edge. No text is no edges.
func Parse(from, text string) (List, error) {
	l := List{From: from, Edges: []Edge{}}
	if strings.TrimSpace(text) == "" {
		return l, nil
	}
	if err := json.Unmarshal([]byte(text), &l.Edges); err != nil {
		return List{}, fmt.Errorf("read the edges, a JSON array of to, address and allowed: %w", err)
	}
	seen := map[string]bool{}
	for _, e := range l.Edges {
		host, port, err := net.SplitHostPort(e.Address)
		switch {
		case err != nil || host == "" || port == "":
			return List{}, fmt.Errorf("edge to %q: address %q is not HOST:PORT", e.To, e.Address)
		case e.To == "":
			return List{}, fmt.Errorf("edge to %q names no workload", e.Address)
		case seen[e.Address]:
			return List{}, fmt.Errorf("edge to %q is listed twice", e.Address)
		}
		seen[e.Address] = true
	}
	return l, nil
}

// Try connects to a listed address once and closes the connection again. What
// happened is in the result; the error is ErrNotListed alone.
func (l List) Try(ctx context.Context, address string) (Result, error) {
	for _, e := range l.Edges {
		if e.Address == address {
			r := Result{From: l.From, To: e.To, Address: e.Address, Allowed: e.Allowed}
			limit := deniedLimit
			if e.Allowed {
				limit = allowedLimit
			}
			start := time.Now()
			r.Outcome, r.Error = try(ctx, address, limit)
			r.Seconds = time.Since(start).Seconds()
			return r, nil
		}
	}
	return Result{}, ErrNotListed
}

// try looks the name up apart, so that a DNS failure is never taken for a refusal.
// The words are its own: the system's name addresses that are nobody's business.
func try(ctx context.Context, address string, limit time.Duration) (Outcome, string) {
	host, port, _ := net.SplitHostPort(address)
	lookup, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(lookup, host)
	if err != nil {
		return Name, "the name could not be looked up"
	}
	dial, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(dial, "tcp", net.JoinHostPort(addresses[0], port))
	if err != nil {
		return classify(ctx, err, limit)
	}
	conn.Close()
	return Connected, ""
}

func classify(ctx context.Context, err error, limit time.Duration) (Outcome, string) {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		// The asker went away: that says nothing about the network.
		return Other, "the try was cut short"
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, "the connection was refused"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout, fmt.Sprintf("no answer within %s", limit)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Other, "there is no route to it"
	case errors.Is(err, syscall.ECONNRESET):
		return Other, "the connection was reset"
	}
	return Other, "the connection failed"
}
