package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// target is a port on loopback that says nothing.
func target(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestTry(t *testing.T) {
	f, client := newFake(t)
	pod, at := *f.pod, target(t)
	p := New(client, Config{Image: goodImage})

	// Many at once, in two Probers, and a pod that changes meanwhile: one container.
	f.conflicts = 2
	var all sync.WaitGroup
	for i := range 8 {
		p := p
		if i%2 == 0 {
			p = New(client, Config{Image: goodImage})
		}
		all.Go(func() {
			a, err := p.Try(t.Context(), pod, at, 10*time.Second)
			if err != nil || !a.Connected || a.Target != at || a.Address != at || a.LocalPort == 0 || a.Error != "" {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	all.Wait()
	if got := f.containers(); !slices.Equal(got, []string{"zerotrust-probe-1 runs"}) || f.refused < 2 {
		t.Errorf("containers %q, %d conflicts", got, f.refused)
	}
	// A try that could not tell serve of itself would say so.
	if f.stderr.Len() > 0 {
		t.Errorf("stderr %q", &f.stderr)
	}
	for _, argv := range f.execs {
		want := fmt.Sprintf("/app/prober try -timeout 10s -socket zerotrust-probe-1.%s -- %s", pod.UID, at)
		if got := strings.Join(argv, " "); got != want {
			t.Errorf("ran %s, want %s", got, want)
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if a, err := p.Try(t.Context(), pod, l.Addr().String(), 0); err != nil || a.Connected || a.Kind != KindRefused {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := p.Try(t.Context(), pod, "no..name:80", 0); err != nil || a.Connected || a.Kind != KindName {
		t.Errorf("%+v, %v", a, err)
	}

	// It is killed, and the node does not report it before the next try meets it.
	f.mu.Lock()
	f.stale = true
	_ = f.running["zerotrust-probe-1"].Process.Signal(os.Kill)
	f.mu.Unlock()
	for f.alive("zerotrust-probe-1") {
		time.Sleep(5 * time.Millisecond)
	}
	time.AfterFunc(time.Second, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stale = false
		f.report("zerotrust-probe-1", corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137}})
	})
	if a, err := p.Try(t.Context(), pod, at, 0); err != nil || !a.Connected {
		t.Errorf("%+v, %v", a, err)
	}
	if got := f.containers(); !slices.Equal(got, []string{"zerotrust-probe-1 ended 137", "zerotrust-probe-2 runs"}) {
		t.Errorf("containers %q", got)
	}

	// Another pod of the name.
	pod.UID = types.UID("older")
	_, err = p.Try(t.Context(), pod, at, 0)
	says(t, err, "from pod a/p", "replaced by another pod", "list the pods again")
	pod.UID = ""
	if a, err := p.Try(t.Context(), pod, at, 0); err != nil || !a.Connected {
		t.Errorf("%+v, %v", a, err)
	}
}

func (f *fakePod) alive(container string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running[container] != nil
}

// A container that has ended, idle, is followed by the next.
func TestIdle(t *testing.T) {
	f, client := newFake(t)
	p := New(client, Config{Image: goodImage, Idle: 1500 * time.Millisecond})
	at := target(t)
	for _, want := range []string{"zerotrust-probe-1 ended 0", "zerotrust-probe-2 ended 0"} {
		if a, err := p.Try(t.Context(), *f.pod, at, time.Second); err != nil || !a.Connected {
			t.Fatalf("%+v, %v", a, err)
		}
		for !slices.Contains(f.containers(), want) {
			if time.Sleep(20 * time.Millisecond); t.Context().Err() != nil {
				t.Fatalf("containers %q", f.containers())
			}
		}
	}
}

func TestTryCannot(t *testing.T) {
	f, client := newFake(t)
	at := target(t)
	_, err := New(client, Config{Image: "r.example/missing:1"}).Try(t.Context(), *f.pod, at, 0)
	says(t, err, "try "+at+" from pod a/p", "r.example/missing:1", "node node1 does not have", "load it into the node")

	// A broken image is tried a few times, and then no more.
	p := New(client, Config{Image: badImage})
	_, err = p.Try(t.Context(), *f.pod, at, 0)
	says(t, err, "the last 3 containers of image "+badImage+" failed", "exit code 128 (StartError): /app/prober: no such file", "give a working image")
	_, err = p.Try(t.Context(), *f.pod, at, 0)
	says(t, err, "the last 3 containers")
	want := []string{"zerotrust-probe-1 waits", "zerotrust-probe-2 ended 128", "zerotrust-probe-3 ended 128", "zerotrust-probe-4 ended 128"}
	if got := f.containers(); !slices.Equal(got, want) {
		t.Errorf("containers %q, want %q", got, want)
	}
	// A working one is used besides.
	if a, err := New(client, Config{Image: goodImage}).Try(t.Context(), *f.pod, at, 0); err != nil || !a.Connected {
		t.Errorf("%+v, %v", a, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = New(client, Config{Image: goodImage}).Try(ctx, *f.pod, at, 0)
	says(t, err, "context canceled")
	gone := *f.pod
	gone.Name = "q"
	_, err = New(client, Config{Image: goodImage}).Try(t.Context(), gone, at, 0)
	says(t, err, "pod a/q", "not found")
}

// What the cluster's admission says is told at once, whatever code it comes with.
func TestTryRefusedByAdmission(t *testing.T) {
	f, client := newFake(t)
	p, at := New(client, Config{Image: goodImage}), target(t)
	for _, said := range []metav1.Status{
		{Code: 422, Reason: metav1.StatusReasonInvalid, Message: `pods "p" is forbidden: ValidatingAdmissionPolicy 'images' with binding 'images' denied request: ask the platform team`},
		{Code: 403, Reason: metav1.StatusReasonForbidden, Message: `admission webhook "validate.kyverno.svc" denied the request: ask the platform team`},
		{Code: 409, Reason: metav1.StatusReasonConflict, Message: `admission webhook "x" denied the request: ask the platform team`},
		{Code: 403, Reason: metav1.StatusReasonForbidden, Message: `pods "p" is forbidden: violates PodSecurity "restricted:latest": ask the platform team`},
	} {
		f.denial, f.denied = &said, 0
		began := time.Now()
		_, err := p.Try(t.Context(), *f.pod, at, 0)
		says(t, err, "from pod a/p", "admission refuses", "ask the platform team", goodImage, "into namespace a", "as Config.Image")
		if !errors.Is(err, ErrAdmission) || f.denied != 1 || time.Since(began) > 5*time.Second {
			t.Errorf("%v; asked %d times", err, f.denied)
		}
	}
	f.denial = &metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden, Message: `pods "p" is forbidden: User "u" cannot patch resource "pods/ephemeralcontainers"`}
	if _, err := p.Try(t.Context(), *f.pod, at, 0); err == nil || errors.Is(err, ErrAdmission) {
		t.Errorf("without the right: %v", err)
	}
}

// FromHere is the same attempt without a pod.
func TestFromHere(t *testing.T) {
	at := target(t)
	if a, err := FromHere(t.Context(), at, time.Second); err != nil || !a.Connected || a.Address != at || a.LocalPort == 0 {
		t.Errorf("%+v, %v", a, err)
	}
	_, err := FromHere(t.Context(), "t", 0)
	says(t, err, "try t from here", "missing port")
}

// What is wrong is told before anything is touched.
func TestTryChecksFirst(t *testing.T) {
	good := Config{Image: "i"}
	for _, tt := range []struct {
		cfg     Config
		pod     *corev1.Pod
		target  string
		timeout time.Duration
		says    string
	}{
		{Config{}, has(), "t:1", 0, "Config.Image is required"},
		{Config{Image: "i", PullPolicy: "Sometimes"}, has(), "t:1", 0, `Config.PullPolicy "Sometimes"`},
		{Config{Image: "i", Idle: 4 * time.Second}, has(), "t:1", 4 * time.Second, "Config.Idle of 4s is not longer"},
		{good, &corev1.Pod{}, "t:1", 0, "namespace and name are required"},
		{good, has(), "t:1", -1, "timeout of -1ns"},
		{good, has(), "t", 0, "missing port"},
		{good, has(), ":80", 0, "want host:port"},
	} {
		_, err := New(nil, tt.cfg).Try(t.Context(), *tt.pod, tt.target, tt.timeout)
		says(t, err, tt.says)
	}
}
