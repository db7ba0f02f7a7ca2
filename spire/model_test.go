package spire_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// scenario is what befalls a server: others write, syncs run into trouble, and at the
// end of each round one sync runs in peace. All entries come from few keys, so that they
// get into each other's way.
type scenario []round

type round struct {
	hands []hand
	want  []spire.Entry
	// runs are syncs of want in trouble, all at once: what becomes of each of their calls in
	// turn. Calls beyond the list go through.
	runs [][]fate
	cfg  spire.SyncConfig
}

// hand is somebody else's write.
type hand struct {
	kind  handKind
	which int // of the entries that are there, for an edit or a removal
	id    string
	entry spire.Entry
}

type handKind int

const (
	handCreates handKind = iota
	handEdits            // entry takes the place of one of ours, under its ID
	handRemoves
)

// fate is what becomes of one call.
type fate struct {
	kind fateKind
	code codes.Code
	hand hand
}

type fateKind int

const (
	passes   fateKind = iota
	refused           // it never gets there
	lost              // it is carried out, but the answer is lost
	halfDone          // the first half of a batch is carried out; then the server goes
	killed            // the client is killed before it
	tooLate           // the client is killed when it has been carried out
	halfway           // the client is killed when half of it has been carried out
	meddled           // somebody else writes just before it, but never under a name of ours
)

var scenarios = rapid.Custom(func(t *rapid.T) scenario { return rapid.SliceOfN(rounds, 1, 4).Draw(t, "rounds") })

var rounds = rapid.Custom(func(t *rapid.T) round {
	want := map[string]spire.Entry{}
	for _, e := range rapid.SliceOfN(entries, 0, 8).Draw(t, "want") {
		want[spire.EntryID("me", e)] = e
	}
	return round{
		hands: rapid.SliceOfN(hands, 0, 6).Draw(t, "hands"),
		want:  slices.Collect(maps.Values(want)),
		runs:  rapid.SliceOfN(rapid.SliceOfN(fates, 0, 12), 0, 2).Draw(t, "runs"),
		cfg: spire.SyncConfig{
			Owner: "me", Retry: spire.Retry{Attempts: 3, Pause: time.Microsecond},
			PageSize: rapid.IntRange(1, 5).Draw(t, "page"), BatchSize: rapid.IntRange(1, 5).Draw(t, "batch"),
			Parallel: rapid.IntRange(1, 3).Draw(t, "parallel"),
		},
	}
})

var entries = rapid.Custom(func(t *rapid.T) spire.Entry {
	e := spire.Entry{
		SPIFFEID:  spiffeid.RequireFromPath(td, rapid.SampledFrom([]string{"/a", "/b", "/c"}).Draw(t, "path")),
		ParentID:  spire.NodeAliasID(td, rapid.SampledFrom([]string{"x", "y"}).Draw(t, "parent")),
		Selectors: []spire.Selector{{Type: "k8s", Value: "ns:1"}},
		Hint:      rapid.SampledFrom([]string{"", "one", "two"}).Draw(t, "hint"),
		Admin:     rapid.Bool().Draw(t, "admin"), Downstream: rapid.Bool().Draw(t, "downstream"), StoreSVID: rapid.Bool().Draw(t, "store"),
		X509TTL:  time.Duration(rapid.IntRange(0, 1).Draw(t, "x509")) * time.Hour,
		JWTTTL:   time.Duration(rapid.IntRange(0, 1).Draw(t, "jwt")) * time.Minute,
		DNSNames: rapid.SampledFrom([][]string{nil, {"a.test"}, {"b.test", "a.test"}}).Draw(t, "DNS"),
	}
	if rapid.Bool().Draw(t, "more") {
		e.Selectors = append(e.Selectors, spire.Selector{Type: "k8s", Value: "aa:first"})
	}
	if rapid.Bool().Draw(t, "expires") {
		e.ExpiresAt = time.Unix(4e9, 0)
	}
	return e
})

var hands = rapid.Custom(func(t *rapid.T) hand {
	h := hand{
		kind: handKind(rapid.IntRange(0, 2).Draw(t, "kind")), which: rapid.IntRange(0, 9).Draw(t, "which"),
		entry: entries.Draw(t, "entry"),
	}
	switch rapid.IntRange(0, 4).Draw(t, "whose") {
	case 0: // an ID that the server picks
	case 1:
		h.id = fmt.Sprintf("me2.%d", h.which)
	case 2: // ours, under a name that is not of its key
		h.id = fmt.Sprintf("me.%d", h.which)
	case 3: // ours, under the name of another
		h.id = spire.EntryID("me", entries.Draw(t, "named"))
	case 4: // Cilium's, under our name
		h.id = spire.EntryID("me", entries.Draw(t, "named"))
		h.entry.SPIFFEID = spiffeid.RequireFromPath(td, "/identity/7")
	}
	return h
})

var fates = rapid.Custom(func(t *rapid.T) fate {
	return fate{
		kind: rapid.SampledFrom([]fateKind{passes, passes, passes, meddled, meddled, refused, lost, halfDone, killed, tooLate, halfway}).Draw(t, "fate"),
		code: rapid.SampledFrom([]codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted, codes.Internal}).Draw(t, "code"),
		hand: meddling.Draw(t, "hand"),
	}
})

// meddling is a hand while a sync runs. It makes no entry of Cilium's out of one of ours
// that is about to go: SPIRE deletes by ID alone, and so nobody could tell.
var meddling = rapid.Map(hands, func(h hand) hand {
	if h.entry.SPIFFEID.Path() == "/identity/7" {
		h.kind, h.id = handCreates, ""
	}
	return h
})

// troubled is a connection on which each call meets its fate.
type troubled struct {
	grpc.ClientConnInterface
	kill   context.CancelFunc
	meddle func(hand)

	mu    sync.Mutex
	fates []fate
}

func (c *troubled) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	c.mu.Lock()
	f := fate{}
	if len(c.fates) > 0 {
		f, c.fates = c.fates[0], c.fates[1:]
	}
	c.mu.Unlock()
	call := func(args any) {
		_ = c.ClientConnInterface.Invoke(context.WithoutCancel(ctx), method, args, reply, opts...)
	}
	switch f.kind {
	case meddled:
		c.meddle(f.hand)
		fallthrough
	case passes:
		return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	case lost, tooLate:
		call(args)
	case halfDone, halfway:
		call(half(args))
	}
	if f.kind == killed || f.kind == tooLate || f.kind == halfway {
		c.kill()
		return status.FromContextError(context.Canceled).Err()
	}
	return status.Error(f.code, "trouble")
}

// half is the first half of a batch, and of other calls all.
func half(args any) any {
	switch r := args.(type) {
	case *entryv1.BatchCreateEntryRequest:
		return &entryv1.BatchCreateEntryRequest{Entries: r.Entries[:len(r.Entries)/2]}
	case *entryv1.BatchUpdateEntryRequest:
		return &entryv1.BatchUpdateEntryRequest{Entries: r.Entries[:len(r.Entries)/2], InputMask: r.InputMask}
	case *entryv1.BatchDeleteEntryRequest:
		return &entryv1.BatchDeleteEntryRequest{Ids: r.Ids[:len(r.Ids)/2]}
	}
	return args
}

// world is a server with what is on it.
type world struct {
	api  entryv1.EntryClient
	conn grpc.ClientConnInterface
}

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

func (w world) list(t failer) []*types.Entry {
	t.Helper()
	resp, err := w.api.ListEntries(t.Context(), &entryv1.ListEntriesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Entries
}

// ours are the entries that a sync of owner me may touch, by ID, foreign all others as they
// go over the wire.
func (w world) split(t failer) (ours map[string]*types.Entry, foreign map[string]string) {
	t.Helper()
	ours, foreign = map[string]*types.Entry{}, map[string]string{}
	for _, e := range w.list(t) {
		if strings.HasPrefix(e.Id, "me.") && !strings.HasPrefix(e.SpiffeId.Path, "/identity/") {
			ours[e.Id] = e
			continue
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		foreign[e.Id] = string(b)
	}
	return ours, foreign
}

func (w world) empty(t failer) {
	t.Helper()
	req := &entryv1.BatchDeleteEntryRequest{}
	for _, e := range w.list(t) {
		req.Ids = append(req.Ids, e.Id)
	}
	if _, err := w.api.BatchDeleteEntry(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// write is what a hand does; the server may refuse it.
func (w world) write(t failer, h hand) {
	t.Helper()
	ours, _ := w.split(t)
	ids := slices.Sorted(maps.Keys(ours))
	var err error
	switch p := full(h.entry); {
	case h.kind == handCreates:
		p.Id = h.id
		_, err = w.api.BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{p}})
	case len(ids) == 0:
	case h.kind == handEdits:
		p.Id = ids[h.which%len(ids)]
		_, err = w.api.BatchUpdateEntry(t.Context(), &entryv1.BatchUpdateEntryRequest{Entries: []*types.Entry{p}})
	case h.kind == handRemoves:
		_, err = w.api.BatchDeleteEntry(t.Context(), &entryv1.BatchDeleteEntryRequest{Ids: ids[h.which%len(ids):][:1]})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// full is e with all its fields as others send it.
func full(e spire.Entry) *types.Entry {
	p := wire(e)
	p.X509SvidTtl, p.JwtSvidTtl = int32(e.X509TTL/time.Second), int32(e.JWTTTL/time.Second)
	p.Admin, p.Downstream, p.StoreSvid, p.DnsNames = e.Admin, e.Downstream, e.StoreSVID, e.DNSNames
	if !e.ExpiresAt.IsZero() {
		p.ExpiresAt = e.ExpiresAt.Unix()
	}
	return p
}

// plain is p without what is the server's, as text.
func plain(p *types.Entry) string {
	p = proto.CloneOf(p)
	p.Id, p.RevisionNumber, p.CreatedAt, p.AdditionalAttributes = "", 0, 0, nil
	slices.SortFunc(p.Selectors, func(a, b *types.Selector) int { return strings.Compare(a.Type+":"+a.Value, b.Type+":"+b.Value) })
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// similar is what a server takes for the same entry.
func similar(p *types.Entry) string {
	return plain(&types.Entry{SpiffeId: p.SpiffeId, ParentId: p.ParentId, Selectors: p.Selectors})
}

func (w world) play(t failer, s scenario) {
	t.Helper()
	w.empty(t)
	for n, r := range s {
		for _, h := range r.hands {
			w.write(t, h)
		}
		_, foreign := w.split(t)

		var one sync.Mutex
		meddle := func(h hand) {
			one.Lock()
			defer one.Unlock()
			w.write(t, h)
			_, now := w.split(t)
			for id, b := range now {
				if _, ok := foreign[id]; !ok {
					foreign[id] = b
				}
			}
		}
		var runs sync.WaitGroup
		for _, fates := range r.runs {
			runs.Go(func() {
				ctx, kill := context.WithCancel(t.Context())
				defer kill()
				// What it answers is of no account: a killed process answers nothing.
				_, _ = spire.Sync(ctx, &troubled{ClientConnInterface: w.conn, kill: kill, meddle: meddle, fates: fates}, r.want, r.cfg)
			})
		}
		runs.Wait()
		if _, after := w.split(t); !maps.Equal(foreign, after) {
			t.Fatalf("round %d: a sync in trouble touched foreign entries:\nbefore %q\nafter  %q", n, foreign, after)
		}

		result, err := spire.Sync(t.Context(), w.conn, r.want, r.cfg)
		if err != nil && !errors.Is(err, spire.ErrConflict) {
			t.Fatalf("round %d: %v", n, err)
		}
		w.judge(t, n, r.want, foreign, result)

		before := w.list(t)
		again, _ := spire.Sync(t.Context(), w.conn, r.want, r.cfg)
		if n := again.Count(spire.Created) + again.Count(spire.Updated) + again.Count(spire.Deleted); n > 0 {
			t.Fatalf("round %d: a second sync wrote %d entries: %s", n, n, again.Plan)
		}
		if after := w.list(t); !slices.EqualFunc(before, after, func(a, b *types.Entry) bool { return proto.Equal(a, b) }) {
			t.Fatalf("round %d: a second sync changed\n%v\nto\n%v", n, before, after)
		}
	}
}

// judge compares what is on the server after a sync with what should be.
func (w world) judge(t failer, n int, want []spire.Entry, foreign map[string]string, result spire.Result) {
	t.Helper()
	ours, after := w.split(t)
	if !maps.Equal(foreign, after) {
		t.Fatalf("round %d: foreign entries were touched:\nbefore %q\nafter  %q", n, foreign, after)
	}
	taken := map[string]bool{} // keys and IDs that somebody else has
	for id, b := range foreign {
		var p types.Entry
		if err := proto.Unmarshal([]byte(b), &p); err != nil {
			t.Fatal(err)
		}
		taken[similar(&p)], taken[id] = true, true
	}
	left := map[string]*types.Entry{}
	for _, e := range ours {
		k := similar(e)
		if left[k] != nil {
			t.Fatalf("round %d: there twice: %v and %v", n, e, left[k])
		}
		left[k] = e
	}
	conflicts := 0
	for _, e := range want {
		p := full(e)
		k := similar(p)
		switch got := left[k]; {
		case got != nil && plain(got) != plain(p):
			t.Fatalf("round %d: on the server is\n%v\nwant\n%v\n%s", n, got, p, result.Plan)
		case got == nil && !taken[k] && !taken[spire.EntryID("me", e)]:
			t.Fatalf("round %d: %s is not there\n%s", n, e, result.Plan)
		case got == nil:
			conflicts++
		}
		delete(left, k)
	}
	if len(left) > 0 {
		t.Fatalf("round %d: not wanted, but there: %v\n%s", n, left, result.Plan)
	}
	if got := result.Count(spire.Conflict); got != conflicts {
		t.Fatalf("round %d: %d conflicts, want %d\n%s", n, got, conflicts, result.Plan)
	}
}

func newWorld(conn grpc.ClientConnInterface) world {
	return world{api: entryv1.NewEntryClient(conn), conn: conn}
}

// TestModel: whatever befalls a sync, and however many run at once, the next one in peace
// ends in exactly what is wanted, and what is somebody else's stays as it was, byte by byte.
func TestModel(t *testing.T) {
	w := newWorld(spiretest.Start(t, td).Conn())
	rapid.Check(t, func(t *rapid.T) { w.play(t, scenarios.Draw(t, "scenario")) })
}

// TestModelOfAnOlderServer is the same for a server that says less of why it refuses.
func TestModelOfAnOlderServer(t *testing.T) {
	w := newWorld(older{spiretest.Start(t, td).Conn()})
	rapid.Check(t, func(t *rapid.T) { w.play(t, scenarios.Draw(t, "scenario")) })
}
