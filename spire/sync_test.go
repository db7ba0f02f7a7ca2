package spire_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

var fast = spire.Retry{Attempts: 4, Pause: time.Microsecond}

func TestSyncOutlivesAnAbsentServer(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted} {
		server := spiretest.Start(t, td)
		s := suite{server.Conn()}
		s.sync(t, entry("/old"), entry("/changed"))
		changed := entry("/changed")
		changed.Hint = "h"

		server.Fail(func(method string, call int) error {
			if call%3 != 0 { // each RPC fails twice, then succeeds
				return status.Error(code, "not now")
			}
			return nil
		})
		var waits int
		r, err := spire.Sync(t.Context(), server.Conn(), []spire.Entry{entry("/new"), changed}, spire.SyncConfig{
			Owner: "me", Retry: fast, OnEvent: func(e spire.Event) {
				if e.Kind == spire.EventWaiting {
					waits++
				}
			},
		})
		if err != nil {
			t.Fatalf("%v: %v", code, err)
		}
		check(t, "result", counts(r), "1+ 1~ 1- 0= 0!")
		server.Fail(nil)
		check(t, "on the server", s.paths(t), "/changed /new")
		check(t, "waits", waits, 5*2) // two pages, update, create, delete
	}
}

func TestSyncGivesUp(t *testing.T) {
	server := spiretest.Start(t, td)
	server.Fail(func(method string, call int) error {
		if method == "BatchCreateEntry" {
			return status.Error(codes.Unavailable, "gone fishing")
		}
		return nil
	})
	r, err := spire.Sync(t.Context(), server.Conn(), []spire.Entry{entry("/a")}, spire.SyncConfig{Retry: fast})
	if status.Code(errors.Unwrap(err)) != codes.Unavailable && !strings.Contains(fmt.Sprint(err), "given up after 4 attempts") {
		t.Errorf("error = %v, want one that says how often it was tried", err)
	}
	check(t, "calls", server.Calls("BatchCreateEntry"), 4)
	check(t, "failed", r.Count(spire.Failed), 1)
}

// TestSyncDoesNotWaitForEachCall: of 20 calls to a server that is away the first alone is
// repeated; once it is back they are repeated again.
func TestSyncDoesNotWaitForEachCall(t *testing.T) {
	var want []spire.Entry
	for i := range 20 {
		want = append(want, entry(fmt.Sprintf("/w%d", i)))
	}
	for _, test := range []struct {
		name          string
		away          func(call int) bool
		calls, failed int
	}{
		{"for good", func(int) bool { return true }, 4 + 19, 20},
		{"for two calls", func(call int) bool { return call <= 5 }, 4 + 19, 2},
		{"for one call, and a while later", func(call int) bool { return call <= 4 || call == 10 }, 4 + 19 + 1, 1},
	} {
		server := spiretest.Start(t, td)
		server.Fail(func(method string, call int) error {
			if method == "BatchCreateEntry" && test.away(call) {
				return status.Error(codes.Unavailable, "away")
			}
			return nil
		})
		r, err := spire.Sync(t.Context(), server.Conn(), want, spire.SyncConfig{BatchSize: 1, Parallel: 1, Retry: fast})
		if err == nil || !strings.Contains(err.Error(), "given up after 4 attempts") {
			t.Errorf("away %s: error = %v", test.name, err)
		}
		check(t, "away "+test.name+": calls", server.Calls("BatchCreateEntry"), test.calls)
		check(t, "away "+test.name+": failed", r.Count(spire.Failed), test.failed)
		check(t, "away "+test.name+": created", r.Count(spire.Created), 20-test.failed)
	}
}

func TestSyncDoesNotRepeatWhatIsFinal(t *testing.T) {
	server := spiretest.Start(t, td)
	server.Fail(func(string, int) error { return status.Error(codes.PermissionDenied, "not an admin") })
	_, err := spire.Sync(t.Context(), server.Conn(), nil, spire.SyncConfig{Retry: fast})
	if err == nil || !strings.Contains(err.Error(), "nothing changed") || !strings.Contains(err.Error(), "not an admin") {
		t.Errorf("error = %v", err)
	}
	check(t, "calls", server.Calls("ListEntries"), 1)
}

// lossy is a connection whose first answer to a method is lost on the way back.
type lossy struct {
	grpc.ClientConnInterface
	method string
	lost   atomic.Bool
}

func (l *lossy) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := l.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	if strings.HasSuffix(method, "/"+l.method) && l.lost.CompareAndSwap(false, true) {
		return status.Error(codes.Unavailable, "connection reset")
	}
	return err
}

func TestSyncAfterALostAnswer(t *testing.T) {
	for _, method := range []string{"BatchCreateEntry", "BatchUpdateEntry", "BatchDeleteEntry"} {
		server := spiretest.Start(t, td)
		suite{server.Conn()}.sync(t, entry("/old"), entry("/changed"))
		changed := entry("/changed")
		changed.Hint = "h"
		conn := &lossy{ClientConnInterface: server.Conn(), method: method}
		r, err := spire.Sync(t.Context(), conn, []spire.Entry{entry("/new"), changed}, spire.SyncConfig{Owner: "me", Retry: fast})
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		check(t, method+" lost once", counts(r), "1+ 1~ 1- 0= 0!")
		check(t, "lost", conn.lost.Load(), true)
	}
}

func TestSyncInterruptedGoesOn(t *testing.T) {
	server := spiretest.Start(t, td)
	var want []spire.Entry
	for i := range 40 {
		want = append(want, entry(fmt.Sprintf("/w%d", i)))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := errors.New("interrupted")
	cfg := spire.SyncConfig{Owner: "me", BatchSize: 5, Parallel: 1, Retry: fast, OnEvent: func(e spire.Event) {
		if e.Kind == spire.EventCreated && e.Done == 10 {
			cancel(interrupt)
		}
	}}
	r, err := spire.Sync(ctx, server.Conn(), want, cfg)
	if !errors.Is(err, interrupt) {
		t.Errorf("error = %v, want the cause of the cancellation", err)
	}
	check(t, "created before", r.Count(spire.Created), 10)
	check(t, "not done", r.Count(spire.NotDone), 30)
	check(t, "the rest", counts(suite{server.Conn()}.sync(t, want...)), "30+ 0~ 0- 10= 0!")
}

func TestSyncDeletesLast(t *testing.T) {
	server := spiretest.Start(t, td)
	s := suite{server.Conn()}
	s.sync(t, entry("/a"), entry("/b"))
	var order []string
	server.Fail(func(method string, call int) error {
		if strings.HasPrefix(method, "Batch") {
			order = append(order, method)
		}
		return nil
	})
	b := entry("/b")
	b.Hint = "h"
	s.sync(t, b, entry("/c"))
	if want := []string{"BatchUpdateEntry", "BatchCreateEntry", "BatchDeleteEntry"}; !slices.Equal(order, want) {
		t.Errorf("order = %v, want %v", order, want)
	}
}

func TestApplyRefusesPlansAgainstOthers(t *testing.T) {
	server := spiretest.Start(t, td)
	s := suite{server.Conn()}
	s.foreign(t, "", "/a")
	theirs := s.list(t)[0]
	for _, plan := range []spire.Plan{
		{Owner: "me", Delete: []spire.Change{{Have: theirs}}},
		{Owner: "me", Update: []spire.Change{{Have: theirs, Want: theirs}}},
	} {
		if _, err := spire.Apply(t.Context(), server.Conn(), plan, spire.SyncConfig{}); err == nil || !strings.Contains(err.Error(), "not theirs") {
			t.Errorf("error = %v, want a refusal", err)
		}
	}
	check(t, "on the server", s.paths(t), "/a")
}

// A page may be larger than gRPC's default limit of 4 MiB for a message, and a batch
// must not be.
func TestSyncOfLongEntries(t *testing.T) {
	server := spiretest.Start(t, td)
	var want []spire.Entry
	for i := range 3000 {
		e := entry(fmt.Sprintf("/w%d", i))
		e.Hint = strings.Repeat("h", 1024)
		e.Selectors = append(e.Selectors, spire.Selector{Type: "k8s", Value: "pod-label:long:" + strings.Repeat("v", 1024)})
		want = append(want, e)
	}
	cfg := spire.SyncConfig{PageSize: 3000, BatchSize: 3000}
	for _, result := range []string{"3000+ 0~ 0- 0= 0!", "0+ 0~ 0- 3000= 0!"} {
		r, err := spire.Sync(t.Context(), server.Conn(), want, cfg)
		if err != nil {
			t.Fatal(err)
		}
		check(t, "result", counts(r), result)
	}
	if n := server.Calls("BatchCreateEntry"); n < 7 || n > 10 {
		t.Errorf("%d calls to create about 7 MB, want batches of about 1 MiB", n)
	}
}

// A server newer than this client keeps fields that the client does not know.
func TestSyncKeepsUnknownFields(t *testing.T) {
	server := spiretest.Start(t, td)
	s := suite{server.Conn()}
	e := wire(entry("/a"))
	e.Id = spire.EntryID("me", entry("/a"))
	unknown := protowire.AppendString(protowire.AppendTag(nil, 1999, protowire.BytesType), "from the future")
	e.ProtoReflect().SetUnknown(unknown)
	if _, err := s.raw().BatchCreateEntry(t.Context(), &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{e}}); err != nil {
		t.Fatal(err)
	}
	check(t, "nothing to do", counts(s.sync(t, entry("/a"))), "0+ 0~ 0- 1= 0!")
	changed := entry("/a")
	changed.Hint = "h"
	check(t, "updated", counts(s.sync(t, changed)), "0+ 1~ 0- 0= 0!")
	got, err := s.raw().GetEntry(t.Context(), &entryv1.GetEntryRequest{Id: e.Id})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "hint", got.Hint, "h")
	check(t, "unknown fields", string(got.ProtoReflect().GetUnknown()), string(unknown))
}

func TestSyncTriesInternalErrorsAgain(t *testing.T) {
	server := spiretest.Start(t, td)
	for failures, ok := range map[int]bool{2: true, 3: false} {
		server.Fail(func(method string, call int) error {
			if method == "ListEntries" && call <= failures {
				return status.Error(codes.Internal, "stream terminated by RST_STREAM")
			}
			return nil
		})
		if _, err := spire.Sync(t.Context(), server.Conn(), nil, spire.SyncConfig{Retry: fast}); (err == nil) != ok {
			t.Errorf("after %d failures: error = %v, want ok %v", failures, err, ok)
		}
	}
}

// terse answers Internal where an ID is taken, with no entry, as a server does that does
// not know its database's error for it.
type terse struct{ grpc.ClientConnInterface }

func (o terse) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := o.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	if r, ok := reply.(*entryv1.BatchCreateEntryResponse); ok {
		for _, result := range r.Results {
			if result.Status.Code == int32(codes.AlreadyExists) {
				result.Status.Code, result.Entry = int32(codes.Internal), nil
			}
		}
	}
	return err
}

func TestSyncFindsWhatAnotherRunCreated(t *testing.T) {
	server := spiretest.Start(t, td)
	s := suite{server.Conn()}
	plan := spire.Diff(nil, []spire.Entry{entry("/a"), entry("/b")}, "me")
	s.sync(t, entry("/a"))
	r, err := spire.Apply(t.Context(), terse{server.Conn()}, plan, spire.SyncConfig{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "result", counts(r), "2+ 0~ 0- 0= 0!")
	check(t, "on the server", s.paths(t), "/a /b")
}

// Part of a list must not pass for all of it, wherever the walk is interrupted.
func TestEntriesInterrupted(t *testing.T) {
	server := spiretest.Start(t, td)
	suite{server.Conn()}.sync(t, entry("/a"), entry("/b"), entry("/c"))
	interrupt := errors.New("interrupted")
	for range 50 {
		for after := range 3 {
			ctx, cancel := context.WithCancelCause(t.Context())
			seen, failed := 0, error(nil)
			for _, err := range spire.Entries(ctx, server.Conn(), spire.ListConfig{PageSize: 1}) {
				if seen++; err != nil {
					failed = err
				}
				if seen == after+1 {
					time.Sleep(time.Duration(after) * 100 * time.Microsecond)
					cancel(interrupt)
				}
			}
			cancel(nil)
			if failed == nil && seen < 3 {
				t.Fatalf("after %d entries: the walk ended with %d of 3 and no error", after+1, seen)
			}
		}
	}
}
