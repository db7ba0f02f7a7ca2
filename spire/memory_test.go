package spire_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"testing"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/org/spire-vault-99-action/spire"
)

// many are n entries of one cluster, a hundred to a namespace.
func many(n int) []spire.Entry {
	want := make([]spire.Entry, n)
	for i := range want {
		want[i] = spire.WorkloadEntry(td, "c", fmt.Sprintf("ns-%d", i/100), fmt.Sprintf("sa-%d", i%100))
	}
	return want
}

// canned is a server with a large table that it keeps as it goes over the wire, in
// pages of 1000, so that what it takes is little and does not change. It fails
// whatever writes.
type canned struct {
	entryv1.UnimplementedEntryServer
	pages []*entryv1.ListEntriesResponse
}

func newCanned(t testing.TB, table []spire.Entry, owner string) canned {
	t.Helper()
	var c canned
	for page := range slices.Chunk(table, 1000) {
		list := &entryv1.ListEntriesResponse{}
		for _, e := range page {
			p := wire(e)
			p.Id = spire.EntryID(owner, e)
			list.Entries = append(list.Entries, p)
		}
		encoded, err := proto.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		list = &entryv1.ListEntriesResponse{NextPageToken: strconv.Itoa(len(c.pages) + 1)}
		list.ProtoReflect().SetUnknown(encoded) // sent as it is
		c.pages = append(c.pages, list)
	}
	c.pages = append(c.pages, &entryv1.ListEntriesResponse{})
	return c
}

func (c canned) ListEntries(_ context.Context, req *entryv1.ListEntriesRequest) (*entryv1.ListEntriesResponse, error) {
	if req.PageSize != 1000 {
		return nil, status.Errorf(codes.InvalidArgument, "page size %d", req.PageSize)
	}
	n, _ := strconv.Atoi(req.PageToken)
	return c.pages[n], nil
}

// wire is an entry as others send it.
func wire(e spire.Entry) *types.Entry {
	p := &types.Entry{
		SpiffeId: &types.SPIFFEID{TrustDomain: td.Name(), Path: e.SPIFFEID.Path()},
		ParentId: &types.SPIFFEID{TrustDomain: td.Name(), Path: e.ParentID.Path()},
		Hint:     e.Hint,
	}
	for _, s := range e.Selectors {
		p.Selectors = append(p.Selectors, &types.Selector{Type: s.Type, Value: s.Value})
	}
	return p
}

func serve(t testing.TB, s entryv1.EntryServer) grpc.ClientConnInterface {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	entryv1.RegisterEntryServer(server, s)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///canned", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// heap is what objects take on the heap, garbage included.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// peak is the most that run had on the heap above what was there before, in bytes.
func peak(run func()) uint64 {
	runtime.GC()
	before := heap()
	highest := before
	done := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			highest = max(highest, heap())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	run()
	close(done)
	<-watched
	return highest - before
}

// A table of the limit that Sync promises, all of it wanted, or all of it somebody else's.
func TestSyncMemory(t *testing.T) {
	const n, limit = 100_000, 64 << 20
	for _, test := range []struct{ wanted, foreign int }{{n, 0}, {0, n}} {
		want := many(test.wanted)
		conn := serve(t, newCanned(t, many(n), "me"))
		owner := "me"
		if test.foreign > 0 {
			owner = "other"
		}
		var r spire.Result
		var err error
		used := peak(func() { r, err = spire.Sync(t.Context(), conn, want, spire.SyncConfig{Owner: owner}) })
		if err != nil {
			t.Fatal(err)
		}
		check(t, "unchanged", r.Plan.Unchanged, test.wanted)
		check(t, "of others", r.Plan.Foreign, test.foreign)
		t.Logf("%d wanted, %d of others: %.1f MiB at most above the list itself", test.wanted, test.foreign, float64(used)/(1<<20))
		if used > limit {
			t.Errorf("a sync of %d entries took %d bytes, want at most %d", n, used, limit)
		}
		runtime.KeepAlive(want)
	}
}

// BenchmarkSyncNothingToDo is the client's share of a sync that finds all right: the
// server makes its pages from memory.
func BenchmarkSyncNothingToDo(b *testing.B) {
	want := many(100_000)
	conn := serve(b, newCanned(b, want, "me"))
	var most uint64
	for b.Loop() {
		most = max(most, peak(func() {
			if _, err := spire.Sync(b.Context(), conn, want, spire.SyncConfig{Owner: "me"}); err != nil {
				b.Fatal(err)
			}
		}))
	}
	b.ReportMetric(float64(most)/(1<<20), "peak-MiB")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(len(want)), "µs/entry")
}
