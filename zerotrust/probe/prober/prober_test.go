package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/org/spire-vault-99-action/internal/loopback"
	"github.com/org/spire-vault-99-action/internal/try"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		args string
		want command
		says string // of the error
	}{
		{"serve", command{verb: "serve", socket: "zerotrust-probe", idle: 10 * time.Minute}, ""},
		{"serve -idle 30s -socket a.b", command{verb: "serve", socket: "a.b", idle: 30 * time.Second}, ""},
		{"try db:5432", command{verb: "try", socket: "zerotrust-probe", timeout: 5 * time.Second, target: "db:5432"}, ""},
		{"try -timeout 4s -socket x -- [::1]:80", command{verb: "try", socket: "x", timeout: 4 * time.Second, target: "[::1]:80"}, ""},
		{"try udp://db:53", command{verb: "try", socket: "zerotrust-probe", timeout: 5 * time.Second, target: "udp://db:53"}, ""},
		{"try udp://db", command{}, "missing port"},
		{"try http://web:80/live?x=1", command{verb: "try", socket: "zerotrust-probe", timeout: 5 * time.Second, target: "http://web:80/live?x=1"}, ""},
		{"try http://web/live", command{}, "missing port"},
		{"try dns://db.shop", command{verb: "try", socket: "zerotrust-probe", timeout: 5 * time.Second, target: "dns://db.shop"}, ""},
		{"try dns://db:53", command{}, "want dns://HOST"},
		{"try dns://", command{}, "want dns://HOST"},
		{"", command{}, "no command"},
		{"ping x:1", command{}, `unknown command "ping"`},
		{"serve x", command{}, "serve takes 0 arguments"},
		{"serve -idle 0s", command{}, "-idle 0s"},
		{"serve -idle soon", command{}, "invalid value"},
		{"serve -timeout 1s", command{}, "not defined: -timeout"},
		{"serve -socket " + strings.Repeat("x", 101), command{}, "-socket"},
		{"try", command{}, "try takes 1 arguments"},
		{"try a:1 b:2", command{}, "try takes 1 arguments"},
		{"try -timeout -1s a:1", command{}, "-timeout -1s"},
		{"try a", command{}, "missing port"},
		{"try :80", command{}, "want HOST:PORT"},
		{"try a:http", command{}, "want HOST:PORT"},
		{"try a:0", command{}, "want HOST:PORT"},
		{"try a:65536", command{}, "want HOST:PORT"},
		{"capture", command{verb: "capture", limit: 2 * time.Minute}, ""},
		{"capture -limit 10s", command{verb: "capture", limit: 10 * time.Second}, ""},
		{"capture -limit 0s", command{}, "-limit 0s"},
		{"capture -socket x", command{}, "not defined: -socket"},
		{"capture x", command{}, "capture takes 0 arguments"},
	} {
		got, err := parse(strings.Fields(tt.args))
		switch {
		case tt.says == "" && (err != nil || got != tt.want):
			t.Errorf("%s: %+v, %v", tt.args, got, err)
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%s: error %v, want one that says %q", tt.args, err, tt.says)
		}
	}
}

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		touched := make(chan struct{}, 1)
		go func() {
			for range 3 {
				time.Sleep(time.Minute - time.Second)
				touched <- struct{}{}
			}
		}()
		begin := time.Now()
		err := linger(t.Context(), time.Minute, touched, nil)
		if want := 3*(time.Minute-time.Second) + time.Minute; err != nil || time.Since(begin) != want {
			t.Errorf("%v after %s, want %s", err, time.Since(begin), want)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := linger(ctx, time.Minute, nil, nil); err != nil {
			t.Error(err)
		}

		failed := make(chan error, 1)
		failed <- net.ErrClosed
		if err := linger(t.Context(), time.Minute, nil, failed); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestServe(t *testing.T) {
	socket := fmt.Sprintf("prober-test-%d-%s", syscall.Getpid(), t.Name())
	if err := touch(socket); err == nil {
		t.Error("there is nobody, and yet it could be told")
	}
	if err := serve(t.Context(), socket, 10*time.Millisecond, io.Discard); err != nil {
		t.Error(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, socket, time.Hour, io.Discard) }()
	for touch(socket) != nil {
		time.Sleep(5 * time.Millisecond)
		if t.Context().Err() != nil {
			t.Fatal("it does not listen")
		}
	}
	if err := serve(t.Context(), socket, time.Hour, io.Discard); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one of the same name: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Without anybody to tell, a try is made and reported all the same.
func TestRunTry(t *testing.T) {
	cmd, err := parse([]string{"try", "-socket", "prober-test-nobody", loopback.Serve(t, func(c net.Conn) { fmt.Fprint(c, "hi"); c.Close() })})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := cmd.run(nil, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	var r try.Result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil || !r.Connected || r.Answer != "hi" {
		t.Errorf("%s, %v", &stdout, err)
	}
	if !strings.Contains(stderr.String(), "telling serve") {
		t.Errorf("stderr %q", &stderr)
	}
}
