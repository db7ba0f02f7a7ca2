package cilium

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestHelmsRequestsEndWithOurContext holds that a request made without any context
// ends with the one that the getter was made for.
func TestHelmsRequestsEndWithOurContext(t *testing.T) {
	asked, hang := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		select {
		case <-r.Context().Done():
		case <-hang:
		}
	}))
	defer server.Close()
	defer close(hang)

	ctx, cancel := context.WithCancel(t.Context())
	g, err := newGetter(ctx, &rest.Config{Host: server.URL}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := g.ToRESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-asked; cancel() }()
	if _, err := cs.CoreV1().Pods("x").List(context.Background(), metav1.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("in flight: got %v, want context.Canceled", err)
	}
	if _, err := cs.CoreV1().Pods("x").List(context.Background(), metav1.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("afterwards: got %v, want context.Canceled", err)
	}
	if ns, _, err := g.ToRawKubeConfigLoader().Namespace(); err != nil || ns != Namespace {
		t.Errorf("Helm's namespace is %q (%v)", ns, err)
	}
}

func TestDeadCluster(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	_, err := Install(t.Context(), &rest.Config{Host: server.URL}, Config{Chart: Chart{Archive: packed(t, smallChart("cilium", "1.20.2"))}})
	for _, say := range []string{"unreachable", "check the kubeconfig", strings.TrimPrefix(server.URL, "http://")} {
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
}

func TestWarningsBecomeEvents(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Warning", `299 - "v1 Thing is deprecated"`)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"kind":"PodList","apiVersion":"v1"}`)
	}))
	defer server.Close()
	var got []string
	g, err := newGetter(t.Context(), &rest.Config{Host: server.URL}, func(m string) { got = append(got, m) })
	if err != nil {
		t.Fatal(err)
	}
	cs, err := kubernetes.NewForConfig(g.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().Pods("x").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != "v1 Thing is deprecated" {
		t.Errorf("warnings %q", got)
	}
}

// TestAnswersAreReadInFull holds that binding a request does not cut its answer off.
func TestAnswersAreReadInFull(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, 1<<20))
	}))
	defer server.Close()
	client := http.Client{Transport: boundTransport{t.Context(), http.DefaultTransport}}
	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if data, err := io.ReadAll(resp.Body); err != nil || len(data) != 1<<20 {
		t.Errorf("read %d bytes: %v", len(data), err)
	}
}
