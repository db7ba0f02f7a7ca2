//go:build e2e

package spire_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// TestE2ERealServer runs everything that holds for the fake against a real SPIRE server
// with one agent, then has the agent deliver an SVID for an entry that Sync made.
func TestE2ERealServer(t *testing.T) {
	real := spiretest.StartReal(t, spiretest.RealConfig{BinDir: sourcetest.SPIRE(t), TrustDomain: td})
	conformance(t, real.Conn)
	t.Run("model", func(t *testing.T) { testModel(t, real) })
	t.Run("SVID delivered", func(t *testing.T) { testDelivered(t, real) })
}

// testDelivered: what Sync made on the server comes out of the Workload API as an SVID
// that the trust bundle verifies, and stops coming once Sync removed it.
func testDelivered(t *testing.T, real *spiretest.Real) {
	suite{real.Conn}.empty(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+real.AgentSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	e := spire.Entry{
		SPIFFEID: spiffeid.RequireFromPath(td, "/me"), ParentID: real.AgentID,
		Selectors: []spire.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", os.Getuid())}},
		DNSNames:  []string{"me.example"}, X509TTL: 10 * time.Minute, Hint: "mine",
	}
	begin := time.Now()
	if _, err := spire.Sync(ctx, real.Conn, []spire.Entry{e}, spire.SyncConfig{Owner: "me"}); err != nil {
		t.Fatal(err)
	}
	svid := await(ctx, t, client, true)
	t.Logf("delivered %s after Sync began", time.Since(begin).Round(time.Millisecond))
	check(t, "ID", svid.ID, e.SPIFFEID)
	check(t, "hint", svid.Hint, "mine")
	check(t, "DNS name", fmt.Sprint(svid.Certificates[0].DNSNames), "[me.example]")
	if left := time.Until(svid.Certificates[0].NotAfter); left > 11*time.Minute {
		t.Errorf("the SVID lives for %s, want about 10 minutes", left)
	}
	if id, _, err := x509svid.Verify(svid.Certificates, real.Bundle); err != nil || id != e.SPIFFEID {
		t.Errorf("verify the SVID with the trust bundle: %s, %v", id, err)
	}

	if _, err := spire.Sync(ctx, real.Conn, nil, spire.SyncConfig{Owner: "me"}); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, client, false)
}

// await polls until the Workload API delivers an SVID, or until it no longer does.
func await(ctx context.Context, t *testing.T, client *workloadapi.Client, want bool) *x509svid.SVID {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		svid, err := client.FetchX509SVID(ctx)
		if (err == nil) == want {
			return svid
		}
		select {
		case <-ctx.Done():
			t.Fatalf("SVID delivered: want %v; last seen: %v, %v", want, svid, err)
		case <-tick.C:
		}
	}
}

// testModel plays scenarios of the model against the real server for a while.
func testModel(t *testing.T, real *spiretest.Real) {
	const within = 12 * time.Second
	w := newWorld(real.Conn)
	seed := int(time.Now().UnixNano())
	n := 0
	defer func() { t.Logf("%d scenarios; the last was of seed %d", n, seed+n) }()
	for begin := time.Now(); time.Since(begin) < within; n++ {
		w.play(t, scenarios.Example(seed+n))
	}
	if n < 10 {
		t.Errorf("only %d scenarios in %s", n, within)
	}
}
