package images

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// pushed is a registry that notes the requests which change something.
func pushed(t *testing.T, handler http.Handler) (host string, writes func() []string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			mu.Lock()
			all = append(all, r.Method+" "+r.URL.Path)
			mu.Unlock()
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), all...)
	}
}

func TestPush(t *testing.T) {
	host, writes := pushed(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	one, two := testImage(t, Gzip, "one"), testImage(t, Gzip, "two")
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: one}, mutate.IndexAddendum{Add: two})
	indexed, err := Push(t.Context(), []NamedImage{{Ref: host + "/both:1", Index: index}}, PushConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if ref, err := name.ParseReference(indexed[0]); err != nil {
		t.Error(err)
	} else if got, err := remote.Index(ref); err != nil {
		t.Errorf("pulling the index %s: %v", indexed[0], err)
	} else if _, err := got.Image(digestOf(t, two)); err != nil {
		t.Errorf("an image of the index: %v", err)
	}
	all := []NamedImage{{Ref: host + "/team/quay.io/one:v1", Image: one}, {Ref: host + "/team/two:v2", Image: two}}

	if missing, err := Unpushed(t.Context(), all, PushConfig{}); err != nil || len(missing) != 2 {
		t.Fatalf("missing before: %v, %v", missing, err)
	}
	var events []string
	refs, err := Push(t.Context(), all, PushConfig{OnEvent: func(e Event) { events = append(events, e.Verb) }})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range all {
		if want := n.Ref + "@" + digestOf(t, n.Image).String(); refs[i] != want {
			t.Errorf("got %s, want %s", refs[i], want)
		}
		ref, err := name.ParseReference(refs[i])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := remote.Image(ref); err != nil || digestOf(t, got) != digestOf(t, n.Image) {
			t.Errorf("pulling %s: %v", refs[i], err)
		}
	}
	if got := strings.Join(events, " "); got != "pushed pushed" {
		t.Errorf("events: %s", got)
	}

	before := len(writes())
	if again, err := Push(t.Context(), all, PushConfig{}); err != nil || strings.Join(again, " ") != strings.Join(refs, " ") {
		t.Errorf("again: %v, %v", again, err)
	}
	if after := writes(); len(after) != before {
		t.Errorf("what is there is written again: %v", after[before:])
	}
	// The tag has moved: it is put back.
	if _, err := Push(t.Context(), []NamedImage{{Ref: all[0].Ref, Image: two}}, PushConfig{}); err != nil {
		t.Fatal(err)
	}
	if missing, err := Unpushed(t.Context(), all, PushConfig{}); err != nil || len(missing) != 1 || missing[0] != all[0].Ref {
		t.Errorf("missing after the tag moved: %v, %v", missing, err)
	}
}

func TestPushFails(t *testing.T) {
	denied, _ := pushed(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
	}))
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	img := testImage(t, Gzip, "x")
	if _, err := Push(t.Context(), []NamedImage{{Ref: denied + "/x:1"}}, PushConfig{}); err == nil || !strings.Contains(err.Error(), "one of NamedImage.Image") {
		t.Errorf("of nothing: %v", err)
	}
	for ref, want := range map[string]string{
		denied + "/x:1": "credentials",
		strings.TrimPrefix(closed.URL, "http://") + "/x:1": "cannot be reached",
		"x":               "HOST/PATH:TAG",
		denied + "/X Y:1": "HOST/PATH:TAG",
	} {
		_, err := Push(t.Context(), []NamedImage{{Ref: ref, Image: img}}, PushConfig{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: got %v, want %q", ref, err, want)
		}
		if _, err := Unpushed(t.Context(), []NamedImage{{Ref: ref, Image: img}}, PushConfig{}); err == nil {
			t.Errorf("%s: Unpushed tells although it cannot know", ref)
		}
	}
}
