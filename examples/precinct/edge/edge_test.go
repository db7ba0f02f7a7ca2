package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"none", "", `{"from":"backend","edges":[]}`},
		{"two", `[{"to":"postgres","address":"p:5432","allowed":true},{"to":"vault","address":"[::1]:8200"}]`,
			`{"from":"backend","edges":[{"to":"postgres","address":"p:5432","allowed":true},{"to":"vault","address":"[::1]:8200","allowed":false}]}`},
		{"no JSON", `postgres:5432`, "JSON array"},
		{"no port", `[{"to":"a","address":"postgres"}]`, "not HOST:PORT"},
		{"no host", `[{"to":"a","address":":80"}]`, "not HOST:PORT"},
		{"no name", `[{"address":"p:80"}]`, "no workload"},
		{"twice", `[{"to":"a","address":"p:80"},{"to":"b","address":"p:80"}]`, "twice"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := Parse("backend", tc.text)
			if err != nil {
				if !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("%v, want %q", err, tc.want)
				}
				return
			}
			got, _ := json.Marshal(l)
			if string(got) != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestTry(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, tc := range []struct {
		address string
		want    Outcome
	}{
		{open.Addr().String(), Connected},
		{closed.Addr().String(), Refused},
		{"no-such-workload.invalid:80", Name},
		{silent(t), Timeout},
	} {
		t.Run(string(tc.want), func(t *testing.T) {
			got, said := try(t.Context(), tc.address, 500*time.Millisecond)
			if got != tc.want || (said == "") != (tc.want == Connected) {
				t.Errorf("got %q (%q), want %q", got, said, tc.want)
			}
			host, _, _ := net.SplitHostPort(tc.address)
			if strings.Contains(said, host) {
				t.Errorf("%q tells the address", said)
			}
		})
	}
}

// silent is an address that answers no SYN: its listener's queue is full.
func silent(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("a queue of none took 16 connections")
	return ""
}

func TestACancelledTryIsNoTimeout(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, said := try(ctx, silent(t), time.Minute); got != Other {
		t.Errorf("got %q (%q)", got, said)
	}
}

func TestTryTakesOnlyWhatIsListed(t *testing.T) {
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	address := open.Addr().String()
	l := List{From: "backend", Edges: []Edge{{To: "vault", Address: address, Allowed: true}}}
	got, err := l.Try(t.Context(), address)
	if err != nil || got.Outcome != Connected || got.To != "vault" || got.From != "backend" || !got.Allowed || got.Seconds <= 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, other := range []string{"", "127.0.0.1:1", "localhost:" + address[len("127.0.0.1:"):], address + " "} {
		if _, err := l.Try(t.Context(), other); !errors.Is(err, ErrNotListed) {
			t.Errorf("%q: %v", other, err)
		}
	}
}

func ExampleList_Try() {
	l, _ := Parse("backend", `[{"to":"vault","address":"vault.99-vault.svc.cluster.local:8200","allowed":true}]`)
	_, err := l.Try(context.Background(), "example.org:22")
	fmt.Println(err)
	// Output: this address is not among the edges
}
