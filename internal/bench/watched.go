package main

import (
	"context"
	"net"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// call is what a program asked of a SPIRE server.
type call struct {
	method     string // such as ListEntries
	begun, end time.Time
	failed     bool
}

// watched is a unix socket by which a program reaches a SPIRE server, and that takes note of
// its calls. Messages are passed on as they are.
type watched struct {
	socket string

	mu    sync.Mutex
	calls []call
	open  int // calls that have not ended
}

func watch(t testing.TB, real *spiretest.Real) (*watched, error) {
	conn, err := grpc.NewClient("unix://"+real.ServerSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	// The path of a unix socket has at most 107 bytes: a test's own folder can be too deep.
	dir, err := os.MkdirTemp("/tmp", "watched")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &watched{socket: filepath.Join(dir, "server.sock")}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(passed{}), grpc.MaxRecvMsgSize(64<<20), grpc.MaxSendMsgSize(64<<20),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return w.pass(stream, conn) }))
	t.Cleanup(server.Stop)
	go func() { _ = server.Serve(l) }() // until Stop
	return w, nil
}

// pass carries out one call; spire-controller-manager makes none that stream.
func (w *watched) pass(stream grpc.ServerStream, conn *grpc.ClientConn) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var request, answer mem.BufferSlice
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	w.mu.Lock()
	w.open++
	w.mu.Unlock()
	c := call{method: path.Base(method), begun: time.Now()}
	err := conn.Invoke(stream.Context(), method, &request, &answer, grpc.ForceCodecV2(passed{}),
		grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20))
	c.end, c.failed = time.Now(), err != nil
	w.mu.Lock()
	w.open--
	w.calls = append(w.calls, c)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return stream.SendMsg(&answer)
}

// quiet waits until there was a call of the method, and then none of any for so long.
func (w *watched) quiet(ctx context.Context, method string, long time.Duration) ([]call, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		calls, open := w.calls, w.open
		w.mu.Unlock()
		if n := len(calls); n > 0 && open == 0 && time.Since(calls[n-1].end) > long {
			for _, c := range calls {
				if c.method == method {
					return calls, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// passed is a codec for messages that are not looked into: they are mem.BufferSlice.
type passed struct{}

func (passed) Name() string { return "proto" }

func (passed) Marshal(v any) (mem.BufferSlice, error) {
	data := *v.(*mem.BufferSlice)
	data.Ref() // grpc frees what it has sent
	return data, nil
}

func (passed) Unmarshal(data mem.BufferSlice, v any) error {
	data.Ref() // and what it has received
	*v.(*mem.BufferSlice) = data
	return nil
}
