package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	execPath    = "/api/v1/namespaces/a/pods/p/exec"
	forwardPath = "/api/v1/namespaces/a/pods/p/portforward"
)

// command is what the fake container runs: it echoes stdin in upper case, writes its
// argv to stderr, and ends with the code.
type command struct{ code int }

func (c command) run(argv []string, stdin io.Reader, stdout, stderr io.Writer) metav1.Status {
	if stdin != nil {
		in, _ := io.ReadAll(stdin)
		_, _ = stdout.Write(bytes.ToUpper(in))
	}
	fmt.Fprintf(stderr, "%q", argv)
	_, _ = io.WriteString(stdout, "done\n")
	if c.code == 0 {
		return metav1.Status{Status: metav1.StatusSuccess}
	}
	return metav1.Status{Status: metav1.StatusFailure, Reason: "NonZeroExitCode", Message: "command terminated",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "ExitCode", Message: fmt.Sprint(c.code)}}}}
}

// serveWebsocket speaks v5.channel.k8s.io: the first byte of a message is its stream,
// and 255 closes the stream named by the second.
func (c command) serveWebsocket(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	var stdin io.Reader
	if r.URL.Query().Get("stdin") == "true" {
		var in bytes.Buffer
		for {
			_, m, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if m[0] == 255 {
				break
			}
			in.Write(m[1:])
		}
		stdin = &in
	}
	write := func(stream byte) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			return len(p), conn.WriteMessage(websocket.BinaryMessage, append([]byte{stream}, p...))
		})
	}
	status := c.run(r.URL.Query()["command"], stdin, write(1), write(2))
	_ = json.NewEncoder(write(3)).Encode(status)
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// serveSPDY speaks v4.channel.k8s.io and no websocket.
func (c command) serveSPDY(w http.ResponseWriter, r *http.Request) {
	if websocket.IsWebSocketUpgrade(r) {
		http.Error(w, "no websockets here", http.StatusBadRequest)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	opened := make(chan httpstream.Stream, 8)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		go func() { <-replied; opened <- s }()
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	want := 3
	if r.URL.Query().Get("stdin") == "true" {
		want = 4
	}
	streams := map[string]httpstream.Stream{}
	for len(streams) < want {
		s := <-opened
		streams[s.Headers().Get(corev1.StreamType)] = s
	}
	var stdin io.Reader
	if s := streams[corev1.StreamTypeStdin]; s != nil {
		stdin = s
	}
	status := c.run(r.URL.Query()["command"], stdin, streams[corev1.StreamTypeStdout], streams[corev1.StreamTypeStderr])
	_ = json.NewEncoder(streams[corev1.StreamTypeError]).Encode(status)
	for _, s := range streams {
		_ = s.Close()
	}
	<-conn.CloseChan()
}

func TestExec(t *testing.T) {
	for protocol, serve := range map[string]func(command) http.HandlerFunc{
		"websocket": func(c command) http.HandlerFunc { return c.serveWebsocket },
		"SPDY":      func(c command) http.HandlerFunc { return c.serveSPDY },
	} {
		t.Run(protocol, func(t *testing.T) {
			f, c := newFake(t)
			f.handle[execPath] = serve(command{})
			var stdout, stderr bytes.Buffer
			err := c.Exec(t.Context(), Exec{Namespace: "a", Pod: "p", Container: "main", Argv: []string{"tr", "a b", "$X"},
				Stdin: strings.NewReader("hello "), Stdout: &stdout, Stderr: &stderr})
			if err != nil {
				t.Fatal(err)
			}
			if stdout.String() != "HELLO done\n" || stderr.String() != `["tr" "a b" "$X"]` {
				t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
			}
			if out, err := c.ExecOutput(t.Context(), "a", "p", "", "date"); err != nil || out != "done" {
				t.Errorf("output %q, %v", out, err)
			}

			f.handle[execPath] = serve(command{code: 42})
			out, err := c.ExecOutput(t.Context(), "a", "p", "main", "date")
			var failed *ExecError
			if !errors.As(err, &failed) {
				t.Fatalf("error %T %v", err, err)
			}
			if failed.ExitCode != 42 || failed.Stderr != `["date"]` || !slices.Equal(failed.Argv, []string{"date"}) || out != "done" {
				t.Errorf("error %#v, output %q", failed, out)
			}
			says(t, err, "date in pod a/p (container main) ended with exit code 42", `["date"]`)
		})
	}
}

func TestExecCannot(t *testing.T) {
	f, c := newFake(t)
	_, err := c.ExecOutput(t.Context(), "a", "p", "", "date")
	says(t, err, "run date in pod a/p", "not found")
	var failed *ExecError
	if errors.As(err, &failed) {
		t.Error("a command that never ran is told as one that failed")
	}
	says(t, c.Exec(t.Context(), Exec{Namespace: "a", Pod: "p"}), "no command")

	// A command that does not end is left when the context ends.
	begun := make(chan struct{})
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	f.handle[execPath] = func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{"v5.channel.k8s.io"}}
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		close(begun)
		<-over
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-begun; cancel(errors.New("enough")) }()
	_, err = c.ExecOutput(ctx, "a", "p", "", "sleep")
	says(t, err, "run sleep in pod a/p", "enough")
}

// forwarded serves the pod's end of port forwarding: port 80 echoes a line, any
// other refuses. It counts the connections by protocol.
type forwarded struct {
	websockets, spdys atomic.Int32
	onlySPDY          bool

	mu    sync.Mutex
	conns []httpstream.Connection
	gone  bool // the pod
}

func (f *forwarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	gone := f.gone
	f.mu.Unlock()
	if gone {
		notFound(w, "/api/v1/namespaces/a/pods/p")
		return
	}
	var conn httpstream.Connection
	handler := f.streams()
	if websocket.IsWebSocketUpgrade(r) {
		if f.onlySPDY {
			http.Error(w, "no websockets here", http.StatusForbidden)
			return
		}
		f.websockets.Add(1)
		up := websocket.Upgrader{Subprotocols: []string{"SPDY/3.1+portforward.k8s.io"}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		if conn, err = spdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), handler); err != nil {
			return
		}
	} else {
		f.spdys.Add(1)
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			return
		}
		if conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, handler); conn == nil {
			return
		}
	}
	f.mu.Lock()
	f.conns = append(f.conns, conn)
	f.mu.Unlock()
	<-conn.CloseChan()
}

func (f *forwarded) streams() httpstream.NewStreamHandler {
	return func(s httpstream.Stream, replied <-chan struct{}) error {
		go func() {
			<-replied
			ok := s.Headers().Get(corev1.PortHeader) == "80"
			switch s.Headers().Get(corev1.StreamType) {
			case corev1.StreamTypeError:
				if !ok {
					_, _ = io.WriteString(s, "connection refused")
				}
				_ = s.Close()
			case corev1.StreamTypeData:
				if ok {
					buf := make([]byte, 1024)
					n, _ := s.Read(buf)
					_, _ = s.Write(bytes.ToUpper(buf[:n]))
				}
				_ = s.Close()
			}
		}()
		return nil
	}
}

// drop breaks the connection, as a restarted API server does.
func (f *forwarded) drop(t *testing.T, podGone bool) {
	t.Helper()
	// The client may have its answer before the server has taken note.
	err := Wait(t.Context(), "a connection to break", 5*time.Millisecond, func(context.Context) (bool, string, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.gone = podGone
		n := len(f.conns)
		for _, c := range f.conns {
			_ = c.Close()
		}
		f.conns = nil
		return n > 0, "none", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func talk(addr string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", err
	}
	out, err := io.ReadAll(conn)
	return string(out), err
}

func TestForward(t *testing.T) {
	for _, onlySPDY := range []bool{false, true} {
		t.Run(fmt.Sprintf("onlySPDY=%t", onlySPDY), func(t *testing.T) {
			f, c := newFake(t)
			pod := &forwarded{onlySPDY: onlySPDY}
			f.handle[forwardPath] = pod.ServeHTTP
			ctx, cancel := context.WithCancel(t.Context())
			fwd, err := c.Forward(ctx, "a", "p", 80)
			if err != nil {
				t.Fatal(err)
			}
			cancel() // bounds the setting up alone
			if !strings.HasPrefix(fwd.Addr, "127.0.0.1:") {
				t.Errorf("address %q", fwd.Addr)
			}
			for range 2 {
				if out, err := talk(fwd.Addr); err != nil || out != "HELLO" {
					t.Fatalf("%q, %v", out, err)
				}
			}
			if (pod.websockets.Load() == 0) != onlySPDY || (pod.spdys.Load() == 0) == onlySPDY {
				t.Errorf("%d websockets, %d SPDY connections", pod.websockets.Load(), pod.spdys.Load())
			}

			// A stream that breaks is opened again, on the same port.
			pod.drop(t, false)
			err = Wait(t.Context(), "the forward to be back", 20*time.Millisecond, func(context.Context) (bool, string, error) {
				out, err := talk(fwd.Addr)
				return out == "HELLO", out, err
			})
			if err != nil || fwd.Err() != nil {
				t.Errorf("%v, %v", err, fwd.Err())
			}

			fwd.Close()
			fwd.Close()
			if _, err := talk(fwd.Addr); err == nil {
				t.Error("the port still answers")
			}
			l, err := net.Listen("tcp", fwd.Addr)
			if err != nil {
				t.Fatalf("the port is not free: %v", err)
			}
			l.Close()
			if fwd.Err() != nil {
				t.Errorf("closed, and yet an error: %v", fwd.Err())
			}
		})
	}
}

func TestForwardEndsWithItsPod(t *testing.T) {
	f, c := newFake(t)
	pod := &forwarded{}
	f.handle[forwardPath] = pod.ServeHTTP
	fwd, err := c.Forward(t.Context(), "a", "p", 80)
	if err != nil {
		t.Fatal(err)
	}
	defer fwd.Close()
	pod.drop(t, true)
	select {
	case <-fwd.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the forward did not end")
	}
	says(t, fwd.Err(), `pods "p" not found`)
}

func TestForwardCannot(t *testing.T) {
	f, c := newFake(t)
	_, err := c.Forward(t.Context(), "a", "p", 80)
	says(t, err, "forward a port to pod a/p port 80", "not found")

	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	f.handle[forwardPath] = func(http.ResponseWriter, *http.Request) { <-over }
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("enough"))
	defer cancel()
	_, err = c.Forward(ctx, "a", "p", 80)
	says(t, err, "pod a/p", "enough")
}
