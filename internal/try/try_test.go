package try

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/internal/loopback"
)

func TestTryConnects(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	from := make(chan string, 1)
	for _, tt := range []struct {
		what   string
		serve  func(net.Conn)
		answer string
	}{
		{"a target that greets", func(c net.Conn) { from <- c.RemoteAddr().String(); fmt.Fprintln(c, "hello"); c.Close() }, "hello"},
		{"one that waits to be asked", func(net.Conn) { <-over }, ""},
		{"one that hangs up", func(c net.Conn) { c.Close() }, ""},
		{"one that breaks off", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() }, ""},
		{"one that talks much", func(c net.Conn) { fmt.Fprint(c, strings.Repeat("x", 10000)); <-over }, strings.Repeat("x", greetingBytes)},
		{"one that speaks in bytes", func(c net.Conn) { _, _ = c.Write([]byte{'a', 0xff, 0}); <-over }, "a\xff\x00"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			addr := loopback.Serve(t, tt.serve)
			r := Once(t.Context(), addr, 10*time.Second)
			if !r.Connected || r.Error != "" || r.Kind != "" || r.Answer != tt.answer || r.Target != addr || r.Address != addr {
				t.Errorf("%+v", r)
			}
			if tt.answer == "hello" {
				if want := fmt.Sprintf("127.0.0.1:%d", r.LocalPort); <-from != want {
					t.Errorf("it did not come from %s", want)
				}
			}
		})
	}
}

// What a server of TLS presents is told, also by one that wants a certificate itself.
func TestTryTLS(t *testing.T) {
	for what, auth := range map[string]tls.ClientAuthType{"anybody": tls.NoClientCert, "who has a certificate": tls.RequireAnyClientCert} {
		s := httptest.NewUnstartedServer(nil)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{ClientAuth: auth, MinVersion: tls.VersionTLS13}
		s.StartTLS()
		t.Cleanup(s.Close)
		r := Once(t.Context(), "tls://"+s.Listener.Addr().String(), 5*time.Second)
		if !r.Connected || r.SpeechError != "" || len(r.Certificates) != 1 || !bytes.Equal(r.Certificates[0], s.Certificate().Raw) {
			t.Errorf("for %s: %+v", what, r)
		}
	}
	plain := loopback.Serve(t, func(c net.Conn) { fmt.Fprintln(c, "hello"); c.Close() })
	if r := Once(t.Context(), "tls://"+plain, 5*time.Second); !r.Connected || r.SpeechError == "" || len(r.Certificates) != 0 {
		t.Errorf("plain text: %+v", r)
	}
}

// A server is asked for a page, once, and for nothing that it points to.
func TestTryHTTP(t *testing.T) {
	asked := make(chan string, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.String() + " at " + r.Host
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	t.Cleanup(s.Close)
	addr := s.Listener.Addr().String()
	for target, want := range map[string]string{"http://" + addr + "/live?x=1": "/live?x=1", "http://" + addr: "/"} {
		r := Once(t.Context(), target, 5*time.Second)
		if !r.Connected || r.Status != http.StatusFound || r.SpeechError != "" || r.Address != addr || r.LocalPort == 0 {
			t.Errorf("%s: %+v", target, r)
		}
		if got := <-asked; got != "GET "+want+" at "+addr || len(asked) > 0 {
			t.Errorf("%s: asked %s, and %d more", target, got, len(asked))
		}
	}
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	for what, serve := range map[string]func(net.Conn){
		"another protocol": func(c net.Conn) { fmt.Fprintln(c, "hello"); c.Close() },
		"no answer":        func(net.Conn) { <-over },
	} {
		r := Once(t.Context(), "http://"+loopback.Serve(t, serve), time.Second)
		if !r.Connected || r.Status != 0 || r.SpeechError == "" || r.Error != "" {
			t.Errorf("%s: %+v", what, r)
		}
	}
}

func TestTryDNS(t *testing.T) {
	if r := Once(t.Context(), "dns://localhost", 5*time.Second); !r.Connected || len(r.Addresses) == 0 || r.LocalPort != 0 || r.Error != "" {
		t.Errorf("localhost: %+v", r)
	}
	if r := Once(t.Context(), "dns://no..name", 5*time.Second); r.Connected || r.Kind != "name" || r.Error == "" || len(r.Addresses) > 0 {
		t.Errorf("a name that is none: %+v", r)
	}
}

// Over UDP only an answer tells that somebody is there, and the system that nobody is.
func TestTryUDP(t *testing.T) {
	serve := func(answer bool) string {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			for n := 0; ; n++ {
				buf := make([]byte, 100)
				size, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				if answer && n > 0 { // the first packet is lost
					_, _ = conn.WriteTo(append([]byte("got "), buf[:size]...), from)
				}
			}
		}()
		return conn.LocalAddr().String()
	}
	shut, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shut.Close()
	for what, tt := range map[string]struct{ addr, answer, kind string }{
		"one that answers":            {serve(true), "got zerotrust probe", ""},
		"one that is silent":          {serve(false), "", "timeout"},
		"a port where nobody listens": {shut.LocalAddr().String(), "", "refused"},
	} {
		t.Run(what, func(t *testing.T) {
			r := Once(t.Context(), "udp://"+tt.addr, 3*time.Second)
			if r.Connected != (tt.kind == "") || r.Answer != tt.answer || r.Kind != tt.kind || r.Address != tt.addr || r.LocalPort == 0 || r.Target != "udp://"+tt.addr {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestTryDoesNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shut := l.Addr().String()
	l.Close()
	for _, tt := range []struct{ what, target, kind string }{
		{"a port where nobody listens", shut, "refused"},
		{"a target that is silent", silent(t), "timeout"},
		// No name server need be asked to know that there cannot be such a name.
		{"a name that is none", "no..name:80", "name"},
		{"what is no target", "x", "other"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			r := Once(t.Context(), tt.target, 500*time.Millisecond)
			if r.Connected || r.Kind != tt.kind || r.Error == "" || r.Seconds <= 0 {
				t.Errorf("%+v", r)
			}
			tried := tt.kind == "refused" || tt.kind == "timeout"
			if (r.LocalPort != 0) != tried || (r.Address == tt.target) != tried {
				t.Errorf("a try was made: %t, want %t: %+v", !tried, tried, r)
			}
		})
	}
}

// silent is an address on loopback that does not answer: a socket whose queue of
// connections is full drops what comes further, as Linux does by default.
func silent(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil { // room for one
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*syscall.SockaddrInet4).Port)
	for range 8 {
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("a socket with a queue of one takes nine connections")
	return ""
}

func TestKindOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		kind string
	}{
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "refused"},
		{&net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}, "timeout"},
		{context.DeadlineExceeded, "timeout"},
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, "other"},
		{&net.OpError{Op: "dial", Err: syscall.EPERM}, "other"},
		{errors.New("x"), "other"},
	} {
		if got := kindOf(tt.err); got != tt.kind {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.kind)
		}
	}
}

func TestBrokenOff(t *testing.T) {
	for err, want := range map[error]bool{
		nil: false, syscall.ECONNREFUSED: false, syscall.ETIMEDOUT: false, context.DeadlineExceeded: false,
		&net.OpError{Op: "dial", Err: syscall.ECONNRESET}: true, &net.OpError{Op: "dial", Err: syscall.EPIPE}: true,
	} {
		if brokenOff(err) != want {
			t.Errorf("%v: %t", err, !want)
		}
	}
}
