package spire_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

var td = spiffeid.RequireTrustDomainFromString("demo.local")

func TestConformanceOfTheFake(t *testing.T) {
	server := spiretest.Start(t, td)
	server.AddAgent(&types.Agent{
		Id:              &types.SPIFFEID{TrustDomain: td.Name(), Path: "/spire/agent/join_token/x"},
		AttestationType: "join_token", X509SvidExpiresAt: time.Now().Add(time.Hour).Unix(),
	})
	conformance(t, server.Conn())
}

func TestConformanceOfAnOlderServer(t *testing.T) {
	server := spiretest.Start(t, td)
	server.AddAgent(&types.Agent{
		Id:              &types.SPIFFEID{TrustDomain: td.Name(), Path: "/spire/agent/join_token/x"},
		AttestationType: "join_token", X509SvidExpiresAt: time.Now().Add(time.Hour).Unix(),
	})
	conformance(t, older{server.Conn()})
}

// older is a connection to a server that answers as SPIRE 1.9 and 1.10 do: Internal for each
// entry that the datastore refuses to create or to update, whatever the reason.
type older struct{ grpc.ClientConnInterface }

func (c older) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	switch r := reply.(type) {
	case *entryv1.BatchCreateEntryResponse:
		for _, result := range r.GetResults() {
			if result.Entry == nil { // one that is similar comes along
				internal(result.Status)
			}
		}
	case *entryv1.BatchUpdateEntryResponse:
		for _, result := range r.GetResults() {
			internal(result.Status)
		}
	}
	return err
}

func internal(st *types.Status) {
	if code := codes.Code(st.Code); code == codes.AlreadyExists || code == codes.NotFound {
		st.Code = int32(codes.Internal)
	}
}

// conformance holds for any SPIRE server, real or not, of td that has one agent,
// attested by join token. It empties the server's table.
func conformance(t *testing.T, conn grpc.ClientConnInterface) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, suite)
	}{
		{"create, nothing, update, delete", testLifeCycle},
		{"every attribute arrives", testAttributes},
		{"foreign entries stay", testForeign},
		{"a foreign twin is a conflict", testConflict},
		{"a twin that appears after the plan is a conflict", testLateConflict},
		{"creating again what is ours is fine", testCreateAgain},
		{"hand edits are undone", testDrift},
		{"names of ours swapped by hand", testSwap},
		{"federation comes and goes", testFederation},
		{"what went after the plan is made again", testUpdateGone},
		{"an entry's ID is taken", testIDTaken},
		{"an identity stays until its successor is there", testHeldBack},
		{"two at once", testTwoAtOnce},
		{"one bad entry does not stop the others", testOneRefused},
		{"pages and batches", testPages},
		{"MaxDeletes refuses", testMaxDeletes},
		{"DryRun changes nothing", testDryRun},
		{"invalid wants change nothing", testInvalid},
		{"deleting what is gone is fine", testDeleteGone},
		{"list by filter", testFilters},
		{"agents", testAgents},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := suite{conn}
			s.empty(t)
			test.run(t, s)
		})
	}
}

type suite struct{ conn grpc.ClientConnInterface }

func (s suite) raw() entryv1.EntryClient { return entryv1.NewEntryClient(s.conn) }

func (s suite) empty(t *testing.T) {
	t.Helper()
	req := &entryv1.BatchDeleteEntryRequest{}
	for _, e := range s.list(t) {
		req.Ids = append(req.Ids, e.ID)
	}
	if _, err := s.raw().BatchDeleteEntry(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func (s suite) list(t *testing.T) []spire.Entry {
	t.Helper()
	entries, err := spire.List(t.Context(), s.conn, spire.ListConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// paths are the SPIFFE ID paths on the server, sorted.
func (s suite) paths(t *testing.T) string {
	t.Helper()
	var paths []string
	for _, e := range s.list(t) {
		paths = append(paths, e.SPIFFEID.Path())
	}
	slices.Sort(paths)
	return strings.Join(paths, " ")
}

// foreign creates an entry as somebody else, under an ID that the server picks or id.
func (s suite) foreign(t *testing.T, id, path string) *types.Entry {
	t.Helper()
	e := entry(path)
	resp, err := s.raw().BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{{
		Id:        id,
		SpiffeId:  &types.SPIFFEID{TrustDomain: td.Name(), Path: path},
		ParentId:  &types.SPIFFEID{TrustDomain: td.Name(), Path: e.ParentID.Path()},
		Selectors: []*types.Selector{{Type: e.Selectors[0].Type, Value: e.Selectors[0].Value}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if st := resp.Results[0].Status; st.Code != 0 {
		t.Fatalf("create foreign entry: %v", st)
	}
	return resp.Results[0].Entry
}

func (s suite) sync(t *testing.T, want ...spire.Entry) spire.Result {
	t.Helper()
	r, err := spire.Sync(t.Context(), s.conn, want, spire.SyncConfig{Owner: "me"})
	if err != nil {
		t.Fatalf("Sync: %v", err)
	}
	return r
}

func entry(path string) spire.Entry {
	return spire.Entry{
		SPIFFEID: spiffeid.RequireFromPath(td, path), ParentID: spire.NodeAliasID(td, "c"),
		Selectors: []spire.Selector{{Type: "k8s", Value: "sa:" + path}},
	}
}

func counts(r spire.Result) string {
	return fmt.Sprintf("%d+ %d~ %d- %d= %d!", r.Count(spire.Created), r.Count(spire.Updated), r.Count(spire.Deleted),
		r.Plan.Unchanged, r.Count(spire.Conflict)+r.Count(spire.Failed)+r.Count(spire.NotDone))
}

func check[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func testLifeCycle(t *testing.T, s suite) {
	a, b := entry("/a"), entry("/b")
	check(t, "first sync", counts(s.sync(t, a, b)), "2+ 0~ 0- 0= 0!")
	before := s.list(t)
	check(t, "second sync", counts(s.sync(t, b, a)), "0+ 0~ 0- 2= 0!")
	if diff := cmp.Diff(before, s.list(t), cmp.AllowUnexported(spiffeid.ID{}, spiffeid.TrustDomain{})); diff != "" {
		t.Errorf("a sync with nothing to do wrote (-before +after):\n%s", diff)
	}
	check(t, "ID", before[0].ID, spire.EntryID("me", before[0]))
	if before[0].CreatedAt.IsZero() {
		t.Error("CreatedAt is not set")
	}

	b.Hint = "hint"
	check(t, "changed", counts(s.sync(t, a, b)), "0+ 1~ 0- 1= 0!")
	for _, e := range s.list(t) {
		if e.SPIFFEID == b.SPIFFEID {
			check(t, "hint", e.Hint, "hint")
			check(t, "revision", e.RevisionNumber, 1)
			check(t, "ID after the update", e.ID, spire.EntryID("me", b))
		}
	}
	check(t, "less", counts(s.sync(t, a)), "0+ 0~ 1- 1= 0!")
	check(t, "left", s.paths(t), "/a")
	check(t, "none", counts(s.sync(t)), "0+ 0~ 1- 0= 0!")
	check(t, "left", s.paths(t), "")
}

func testAttributes(t *testing.T, s suite) {
	e := entry("/a")
	e.Selectors = append(e.Selectors, spire.Selector{Type: "k8s", Value: "pod-label:a:b"}, spire.Selector{Type: "a", Value: "b"})
	e.X509TTL, e.JWTTTL = 2*time.Hour, 5*time.Minute
	e.Admin, e.Downstream = true, true
	e.DNSNames, e.Hint = []string{"z.example", "a.example"}, "a hint"
	e.ExpiresAt = time.Now().Add(time.Hour).Truncate(time.Second)
	stored := entry("/stored")
	stored.StoreSVID = true
	s.sync(t, e, stored)
	check(t, "as created", counts(s.sync(t, e, stored)), "0+ 0~ 0- 2= 0!")

	e.X509TTL, e.JWTTTL, e.Admin, e.Downstream = 0, 0, false, false
	e.DNSNames, e.Hint, e.ExpiresAt = []string{"a.example", "z.example"}, "", time.Time{}
	stored.StoreSVID = false
	check(t, "changed", counts(s.sync(t, e, stored)), "0+ 2~ 0- 0= 0!")
	check(t, "as updated", counts(s.sync(t, e, stored)), "0+ 0~ 0- 2= 0!")
}

func testForeign(t *testing.T, s suite) {
	s.foreign(t, "", "/identity/42")
	s.foreign(t, "me.looks-like-ours", "/identity/43")
	s.foreign(t, "me2.other-owner", "/f")
	s.foreign(t, "", "/g")
	s.sync(t, entry("/a"))
	r := s.sync(t)
	check(t, "foreign", r.Plan.Foreign, 4)
	check(t, "left", s.paths(t), "/f /g /identity/42 /identity/43")
	for _, e := range s.list(t) {
		check(t, "revision of "+e.ID, e.RevisionNumber, 0)
	}
}

func testConflict(t *testing.T, s suite) {
	theirs := s.foreign(t, "", "/a")
	r, err := spire.Sync(t.Context(), s.conn, []spire.Entry{entry("/a"), entry("/b")}, spire.SyncConfig{Owner: "me"})
	checkConflict(t, r, err, theirs)
	check(t, "on the server", s.paths(t), "/a /b")
}

// checkConflict: /b was created, /a was not, because of theirs.
func checkConflict(t *testing.T, r spire.Result, err error, theirs *types.Entry) {
	t.Helper()
	if !errors.Is(err, spire.ErrConflict) || !strings.Contains(err.Error(), theirs.Id) {
		t.Errorf("error = %v, want ErrConflict that names entry %s", err, theirs.Id)
	}
	check(t, "result", counts(r), "1+ 0~ 0- 0= 1!")
	check(t, "conflicts", r.Count(spire.Conflict), 1)
}

func testLateConflict(t *testing.T, s suite) {
	plan := spire.Diff(nil, []spire.Entry{entry("/a"), entry("/b")}, "me")
	theirs := s.foreign(t, "", "/a")
	r, err := spire.Apply(t.Context(), s.conn, plan, spire.SyncConfig{})
	checkConflict(t, r, err, theirs)
	for _, e := range s.list(t) {
		if e.ID == theirs.Id {
			check(t, "their revision", e.RevisionNumber, 0)
		}
	}
}

func testCreateAgain(t *testing.T, s suite) {
	a, b := entry("/a"), entry("/b")
	s.sync(t, a, b)
	b.Hint = "new"
	r, err := spire.Apply(t.Context(), s.conn, spire.Diff(nil, []spire.Entry{a, b}, "me"), spire.SyncConfig{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "result", counts(r), "1+ 1~ 0- 0= 0!")
	check(t, "then", counts(s.sync(t, a, b)), "0+ 0~ 0- 2= 0!")
}

// rewrite changes an entry on the server behind Sync's back.
func (s suite) rewrite(t *testing.T, e spire.Entry, selector string) {
	t.Helper()
	resp, err := s.raw().BatchUpdateEntry(t.Context(), &entryv1.BatchUpdateEntryRequest{
		Entries: []*types.Entry{{
			Id:        spire.EntryID("me", e),
			SpiffeId:  &types.SPIFFEID{TrustDomain: td.Name(), Path: selector},
			Selectors: []*types.Selector{{Type: "k8s", Value: "sa:" + selector}},
		}},
		InputMask: &types.EntryMask{Selectors: true, SpiffeId: true},
	})
	if err != nil || resp.Results[0].Status.Code != 0 {
		t.Fatalf("update: %v %v", resp, err)
	}
}

func testDrift(t *testing.T, s suite) {
	a := entry("/a")
	s.sync(t, a)
	s.rewrite(t, a, "/elsewhere")
	check(t, "drifted", s.paths(t), "/elsewhere")
	check(t, "sync", counts(s.sync(t, a)), "0+ 1~ 0- 0= 0!")
	check(t, "healed", s.paths(t), "/a")
}

func testSwap(t *testing.T, s suite) {
	a, b, c := entry("/a"), entry("/b"), entry("/c")
	s.sync(t, a, b)
	s.rewrite(t, a, "/b")
	s.rewrite(t, b, "/c") // imitates c, which is still to be created
	check(t, "sync", counts(s.sync(t, a, b, c)), "1+ 2~ 0- 0= 0!")
	check(t, "healed", s.paths(t), "/a /b /c")
	check(t, "again", counts(s.sync(t, a, b, c)), "0+ 0~ 0- 3= 0!")
}

func testFederation(t *testing.T, s suite) {
	var domains []spiffeid.TrustDomain
	req := &bundlev1.BatchSetFederatedBundleRequest{}
	for _, name := range []string{"z.test", "a.test"} {
		domains = append(domains, spiffeid.RequireTrustDomainFromString(name))
		req.Bundle = append(req.Bundle, &types.Bundle{TrustDomain: name})
	}
	resp, err := bundlev1.NewBundleClient(s.conn).BatchSetFederatedBundle(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.Results {
		check(t, "bundle set: "+r.Status.Message, r.Status.Code, 0)
	}
	e := entry("/a")
	e.FederatesWith = domains
	s.sync(t, e)
	check(t, "as created", counts(s.sync(t, e)), "0+ 0~ 0- 1= 0!")
	e.FederatesWith = domains[1:]
	check(t, "one less", counts(s.sync(t, e)), "0+ 1~ 0- 0= 0!")
	check(t, "as updated", counts(s.sync(t, e)), "0+ 0~ 0- 1= 0!")
	e.FederatesWith = nil
	check(t, "none", counts(s.sync(t, e)), "0+ 1~ 0- 0= 0!")
	check(t, "as updated", counts(s.sync(t, e)), "0+ 0~ 0- 1= 0!")
}

func testUpdateGone(t *testing.T, s suite) {
	s.sync(t, entry("/a"), entry("/b"))
	changed := entry("/a")
	changed.Hint = "h"
	plan := spire.Diff(s.list(t), []spire.Entry{changed, entry("/b")}, "me")
	s.sync(t, entry("/b"))
	r, err := spire.Apply(t.Context(), s.conn, plan, spire.SyncConfig{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "result", counts(r), "1+ 0~ 0- 1= 0!")
	check(t, "again", counts(s.sync(t, changed, entry("/b"))), "0+ 0~ 0- 2= 0!")
}

// testIDTaken: somebody gave an entry of Cilium's our ID. A plan made before that
// meets it at the create.
func testIDTaken(t *testing.T, s suite) {
	plan := spire.Diff(nil, []spire.Entry{entry("/a"), entry("/b")}, "me")
	theirs := s.foreign(t, spire.EntryID("me", entry("/a")), "/identity/44")
	raw := wire(entry("/a"))
	raw.Id = theirs.Id
	answer, err := s.raw().BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{raw}})
	if err != nil {
		t.Fatal(err)
	}
	// Internal is the answer of SPIRE 1.9 and 1.10.
	if code := codes.Code(answer.Results[0].Status.Code); code != codes.AlreadyExists && code != codes.Internal {
		t.Errorf("the server's own answer: got %v, want AlreadyExists or Internal", code)
	}
	check(t, "an entry with it", answer.Results[0].Entry == nil, true)
	r, err := spire.Apply(t.Context(), s.conn, plan, spire.SyncConfig{})
	checkConflict(t, r, err, theirs)
	r, err = spire.Sync(t.Context(), s.conn, []spire.Entry{entry("/a"), entry("/c")}, spire.SyncConfig{Owner: "me"})
	if !errors.Is(err, spire.ErrConflict) {
		t.Errorf("error = %v, want ErrConflict", err)
	}
	check(t, "sync", counts(r), "1+ 0~ 1- 0= 1!")
	check(t, "left", s.paths(t), "/c /identity/44")
}

func testHeldBack(t *testing.T, s suite) {
	unknown := []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("unknown.test")}
	s.sync(t, entry("/a"), entry("/renamed"), entry("/gone"))
	moved := entry("/a") // for other pods now
	moved.Selectors = []spire.Selector{{Type: "k8s", Value: "sa:other"}}
	moved.FederatesWith = unknown
	renamed := entry("/new-name") // for the same pods as before
	renamed.Selectors = entry("/renamed").Selectors
	renamed.FederatesWith = unknown
	r, err := spire.Sync(t.Context(), s.conn, []spire.Entry{moved, renamed}, spire.SyncConfig{Owner: "me"})
	if err == nil || !strings.Contains(err.Error(), "kept") {
		t.Errorf("error = %v, want one that says what was kept", err)
	}
	check(t, "result", counts(r), "0+ 0~ 1- 0= 4!")
	check(t, "not done", r.Count(spire.NotDone), 2)
	check(t, "left", s.paths(t), "/a /renamed")
	moved.FederatesWith, renamed.FederatesWith = nil, nil
	check(t, "later", counts(s.sync(t, moved, renamed)), "2+ 0~ 2- 0= 0!")
	check(t, "left", s.paths(t), "/a /new-name")
}

func testTwoAtOnce(t *testing.T, s suite) {
	var before, want []spire.Entry
	for i := range 60 {
		e := entry(fmt.Sprintf("/w%02d", i))
		if before = append(before, e); i%3 == 0 {
			continue
		}
		if i%3 == 1 {
			e.Hint = "changed"
		}
		want = append(want, e)
	}
	s.sync(t, before[:40]...)
	theirs := s.foreign(t, "", "/theirs")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := spire.Sync(t.Context(), s.conn, want, spire.SyncConfig{Owner: "me", BatchSize: 3, PageSize: 7}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r := s.sync(t, want...)
	check(t, "afterwards", counts(r), fmt.Sprintf("0+ 0~ 0- %d= 0!", len(want)))
	check(t, "of others", r.Plan.Foreign, 1)
	got, err := s.raw().GetEntry(t.Context(), &entryv1.GetEntryRequest{Id: theirs.Id})
	if err != nil || !proto.Equal(got, theirs) {
		t.Errorf("their entry: %v, %v; want %v", got, err, theirs)
	}
}

func testOneRefused(t *testing.T, s suite) {
	bad := entry("/b")
	bad.FederatesWith = []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("unknown.test")}
	r, err := spire.Sync(t.Context(), s.conn, []spire.Entry{entry("/a"), bad, entry("/c")}, spire.SyncConfig{Owner: "me"})
	if err == nil || !strings.Contains(err.Error(), "/b") || !strings.Contains(err.Error(), "unknown.test") {
		t.Errorf("error = %v, want one about /b and the unknown trust domain", err)
	}
	check(t, "result", counts(r), "2+ 0~ 0- 0= 1!")
	check(t, "on the server", s.paths(t), "/a /c")
	check(t, "again, without it", counts(s.sync(t, entry("/a"), entry("/c"))), "0+ 0~ 0- 2= 0!")
}

func testPages(t *testing.T, s suite) {
	var want []spire.Entry
	for i := range 57 {
		want = append(want, entry(fmt.Sprintf("/w%02d", i)))
	}
	var events []spire.Event
	cfg := spire.SyncConfig{Owner: "me", PageSize: 10, BatchSize: 7, Parallel: 3, OnEvent: func(e spire.Event) { events = append(events, e) }}
	r, err := spire.Sync(t.Context(), s.conn, want, cfg)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "created", counts(r), "57+ 0~ 0- 0= 0!")
	for i, e := range r.Entries {
		check(t, fmt.Sprintf("result %d", i), e.Entry.SPIFFEID, want[i].SPIFFEID)
	}
	last := events[len(events)-1]
	check(t, "last event", last.String(), "created 57 of 57 SPIRE entries")

	if r, err = spire.Sync(t.Context(), s.conn, want[:30], cfg); err != nil {
		t.Fatal(err)
	}
	check(t, "less", counts(r), "0+ 0~ 27- 30= 0!")
	n, err := spire.Count(t.Context(), s.conn)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "count", n, 30)
}

func testMaxDeletes(t *testing.T, s suite) {
	s.sync(t, entry("/a"), entry("/b"), entry("/c"))
	cfg := spire.SyncConfig{Owner: "me", MaxDeletes: 1}
	r, err := spire.Sync(t.Context(), s.conn, []spire.Entry{entry("/a"), entry("/new")}, cfg)
	if !errors.Is(err, spire.ErrTooManyDeletes) {
		t.Errorf("error = %v, want ErrTooManyDeletes", err)
	}
	check(t, "planned deletes", len(r.Plan.Delete), 2)
	check(t, "on the server", s.paths(t), "/a /b /c")
	if _, err := spire.Sync(t.Context(), s.conn, []spire.Entry{entry("/a"), entry("/b")}, cfg); err != nil {
		t.Errorf("with one delete: %v", err)
	}
	check(t, "on the server", s.paths(t), "/a /b")
}

func testDryRun(t *testing.T, s suite) {
	s.sync(t, entry("/a"))
	r, err := spire.Sync(t.Context(), s.conn, []spire.Entry{entry("/b")}, spire.SyncConfig{Owner: "me", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "result", r.String(), "dry run: 1 to create, 0 to update, 1 to delete, 0 in conflict; 0 unchanged, 0 of others")
	check(t, "on the server", s.paths(t), "/a")
}

func testInvalid(t *testing.T, s suite) {
	s.sync(t, entry("/a"))
	bad := entry("/b")
	bad.Selectors = nil
	for _, want := range [][]spire.Entry{{bad}, {entry("/c"), entry("/c")}} {
		_, err := spire.Sync(t.Context(), s.conn, want, spire.SyncConfig{Owner: "me"})
		if !errors.Is(err, spire.ErrInvalid) {
			t.Errorf("error = %v, want ErrInvalid", err)
		}
	}
	if _, err := spire.Sync(t.Context(), s.conn, nil, spire.SyncConfig{Owner: "a.b"}); err == nil {
		t.Error("an owner with a dot was taken")
	}
	check(t, "on the server", s.paths(t), "/a")
}

func testDeleteGone(t *testing.T, s suite) {
	s.sync(t, entry("/a"), entry("/b"))
	plan := spire.Diff(s.list(t), nil, "me")
	s.sync(t, entry("/b"))
	r, err := spire.Apply(t.Context(), s.conn, plan, spire.SyncConfig{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "result", counts(r), "0+ 0~ 2- 0= 0!")
	check(t, "on the server", s.paths(t), "")
}

func testFilters(t *testing.T, s suite) {
	a, b, alias := entry("/a"), entry("/a"), spire.NodeAlias(td, "c")
	b.Selectors = []spire.Selector{{Type: "unix", Value: "uid:1"}}
	s.sync(t, a, b, alias)
	for _, test := range []struct {
		cfg  spire.ListConfig
		want int
	}{
		{spire.ListConfig{}, 3},
		{spire.ListConfig{SPIFFEID: a.SPIFFEID, PageSize: 1}, 2},
		{spire.ListConfig{ParentID: alias.ParentID}, 1},
		{spire.ListConfig{SPIFFEID: a.SPIFFEID, ParentID: alias.ParentID}, 0},
	} {
		got, err := spire.List(t.Context(), s.conn, test.cfg)
		if err != nil {
			t.Fatal(err)
		}
		check(t, fmt.Sprintf("entries by %v", test.cfg), len(got), test.want)
	}
	for range spire.Entries(t.Context(), s.conn, spire.ListConfig{PageSize: 1}) {
		break // a walk can be left early
	}
}

func testAgents(t *testing.T, s suite) {
	agents, err := spire.Agents(t.Context(), s.conn)
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) != 1 {
		t.Fatalf("got %d agents, want 1: %v", len(agents), agents)
	}
	a := agents[0]
	check(t, "attestation", a.AttestationType, "join_token")
	check(t, "banned", a.Banned, false)
	if !strings.HasPrefix(a.ID.Path(), "/spire/agent/join_token/") || !a.ExpiresAt.After(time.Now()) {
		t.Errorf("agent = %+v", a)
	}
}
