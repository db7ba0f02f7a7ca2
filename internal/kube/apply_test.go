package kube

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

const thing = `
apiVersion: x.org/v1
kind: Thing
metadata: {name: t, namespace: a}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.x.org}
---
apiVersion: v1
kind: Namespace
metadata: {name: a}
`

// The definition's kind becomes known some requests after the definition was
// applied, and its endpoint some requests later still.
func TestApplyWaitsForTheKind(t *testing.T) {
	f, c := newFake(t)
	asked, tried := 0, 0
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if _, defined := f.objects["/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.org"]; defined && r.URL.Path == "/apis" {
			if asked++; asked == 2 {
				f.kinds["x.org/v1"] = []metav1.APIResource{{Name: "things", Kind: "Thing", Namespaced: true}}
			}
		}
		if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/things/t") {
			if tried++; tried == 1 {
				http.Error(w, "404 page not found", http.StatusNotFound)
				return true
			}
		}
		return false
	}
	if err := c.Apply(t.Context(), "me", []byte(thing)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"PATCH /api/v1/namespaces/a",
		"PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.org",
		"PATCH /apis/x.org/v1/namespaces/a/things/t",
		"PATCH /api/v1/namespaces/default/configmaps/c",
	}
	if !slices.Equal(f.calls, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(f.calls, "\n"), strings.Join(want, "\n"))
	}
	for _, q := range f.query {
		if !strings.Contains(q, "fieldManager=me") || !strings.Contains(q, "force=true") {
			t.Errorf("query %q", q)
		}
	}
	if asked < 2 || tried < 2 {
		t.Errorf("discovery was asked %d times, the endpoint %d times", asked, tried)
	}
}

func TestApplyTriesAgainWhatPasses(t *testing.T) {
	f, c := newFake(t)
	answers := []func(w http.ResponseWriter){
		func(w http.ResponseWriter) {
			answerStatus(w, http.StatusForbidden, metav1.StatusReasonForbidden, "is being terminated",
				&metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "NamespaceTerminating"}}})
		},
		func(w http.ResponseWriter) {
			answerStatus(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "failed calling webhook", nil)
		},
		func(w http.ResponseWriter) {
			answerStatus(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "starting", nil)
		},
	}
	n := 0
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || n == len(answers) {
			return false
		}
		answers[n](w)
		n++
		return true
	}
	err := c.Apply(t.Context(), "me", []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: a}\n"))
	if err != nil || n != len(answers) || len(f.calls) != 1 {
		t.Errorf("%v after %d answers, calls %v", err, n, f.calls)
	}
}

func TestApplyStopsAtOnce(t *testing.T) {
	for what, tt := range map[string]struct {
		answer func(w http.ResponseWriter)
		says   []string
	}{
		"invalid": {func(w http.ResponseWriter) {
			answerStatus(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "spec.x: field is immutable", nil)
		}, []string{"apply ConfigMap a/c", "field is immutable"}},
		"forbidden": {func(w http.ResponseWriter) {
			answerStatus(w, http.StatusForbidden, metav1.StatusReasonForbidden, "user cannot patch", nil)
		}, []string{"apply ConfigMap a/c", "user cannot patch"}},
		"no namespace": {func(w http.ResponseWriter) { notFound(w, "/api/v1/namespaces/a") }, []string{"apply ConfigMap a/c", `namespaces "a" not found`}},
	} {
		t.Run(what, func(t *testing.T) {
			f, c := newFake(t)
			tries := 0
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					tries++
					tt.answer(w)
				}
				return r.Method == http.MethodPatch
			}
			err := c.Apply(t.Context(), "me", []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: d, namespace: a}\n"))
			says(t, err, tt.says...)
			if tries != 1 {
				t.Errorf("tried %d times", tries)
			}
		})
	}
	_, c := newFake(t)
	says(t, c.Apply(t.Context(), "", []byte(thing)), "owner")
	says(t, c.Apply(t.Context(), "me", []byte("a: [")), "read the manifests")
}

func TestApplyToAClusterThatIsGone(t *testing.T) {
	c, err := New(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err = c.Apply(ctx, "me", []byte(thing))
	says(t, err, "apply Namespace a", "127.0.0.1:1", "connection refused", "gave up")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestDelete(t *testing.T) {
	f, c := newFake(t)
	// Two are there; the namespace goes away slowly; the Thing's kind is not known.
	f.put(t, "/api/v1/namespaces/a", map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "a"}})
	f.put(t, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.org",
		map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "things.x.org"}})
	looks := 0
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/a" {
			return false
		}
		if looks++; looks < 3 {
			answer(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": "Namespace",
				"metadata": map[string]any{"name": "a", "deletionTimestamp": "2020-01-01T00:00:00Z"}})
			return true
		}
		return false
	}
	if err := c.Delete(t.Context(), []byte(thing)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"DELETE /api/v1/namespaces/default/configmaps/c",
		"DELETE /apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.x.org",
		"DELETE /api/v1/namespaces/a",
	}
	if !slices.Equal(f.calls, want) || looks != 3 {
		t.Errorf("calls %q, looked %d times", f.calls, looks)
	}
	if err := c.Delete(t.Context(), []byte(thing)); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestDeleteSaysWhatHoldsItBack(t *testing.T) {
	f, c := newFake(t)
	f.put(t, "/api/v1/namespaces/a", map[string]any{})
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/a" {
			return false
		}
		answer(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{"name": "a", "deletionTimestamp": "2020-01-01T00:00:00Z", "finalizers": []string{"x.org/keep"}},
			"status":   map[string]any{"conditions": []any{map[string]any{"type": "ContentRemaining", "status": "True", "message": "2 pods left"}}}})
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	says(t, c.Delete(ctx, []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")), "Namespace a to be gone", "x.org/keep", "2 pods left")
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, n := time.Now(), 0
		err := Wait(t.Context(), "three", time.Second, func(context.Context) (bool, string, error) {
			n++
			return n == 3, "", nil
		})
		if err != nil || n != 3 || time.Since(begin) != 2*time.Second {
			t.Errorf("%v after %d probes and %s", err, n, time.Since(begin))
		}

		broken := errors.New("broken for good")
		err = Wait(t.Context(), "it", time.Second, func(context.Context) (bool, string, error) { return true, "", Permanent(broken) })
		says(t, err, "waiting for it: broken for good")
		if !errors.Is(err, broken) {
			t.Error("the permanent error is lost")
		}
		if Permanent(nil) != nil {
			t.Error("Permanent(nil) is an error")
		}

		// The last thing seen is told, not the error that the end itself makes.
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		n = 0
		err = Wait(ctx, "pods", time.Second, func(ctx context.Context) (bool, string, error) {
			if n++; n == 3 {
				<-ctx.Done()
				return false, "", ctx.Err()
			}
			return false, "1 of 2 ready", errors.New("flaky")
		})
		says(t, err, "waiting for pods", "gave up after 2.5s", "last seen: 1 of 2 ready: flaky")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}

		// An error beside done is not done.
		ctx, cancel = context.WithCancel(t.Context())
		err = Wait(ctx, "it", 0, func(context.Context) (bool, string, error) { cancel(); return true, "half", errors.New("odd") })
		says(t, err, "gave up")

		n = 0
		err = Wait(ctx, "it", 0, func(context.Context) (bool, string, error) { n++; return true, "", nil })
		if !errors.Is(err, context.Canceled) || n != 0 {
			t.Errorf("after the end: %v, %d probes", err, n)
		}
		says(t, err, "last seen: nothing yet")
	})
}

func TestNew(t *testing.T) {
	if _, err := New(nil); err == nil {
		t.Error("no error for no connection")
	}
	given := &rest.Config{Host: "http://127.0.0.1:1"}
	c, err := New(given)
	if err != nil {
		t.Fatal(err)
	}
	if given.QPS != 0 || given.UserAgent != "" {
		t.Error("the caller's config was changed")
	}
	c.REST().Host = "changed"
	if c.REST().Host != given.Host || c.Clientset() == nil || c.Dynamic() == nil {
		t.Error("REST is not a copy")
	}
}
