package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// fakeAPI is as much of an API server as this package talks to, at the wire:
// discovery, server-side apply, get, list, delete. Tests set its hooks before use.
type fakeAPI struct {
	mu      sync.Mutex
	kinds   map[string][]metav1.APIResource // by group version, "v1" or "apps/v1"
	objects map[string]map[string]any       // by path
	calls   []string                        // "PATCH /api/v1/namespaces/a", less discovery and GETs
	query   []string                        // of the PATCHes

	// before may answer a request itself (true); it is called with mu held.
	before func(w http.ResponseWriter, r *http.Request) bool
	// handle takes requests of other kinds: streams. Called without mu.
	handle map[string]http.HandlerFunc // by path
}

func newFake(t *testing.T) (*fakeAPI, *Client) {
	t.Helper()
	namespaced := func(name, kind string) metav1.APIResource {
		return metav1.APIResource{Name: name, Kind: kind, Namespaced: true, Verbs: metav1.Verbs{"get"}}
	}
	f := &fakeAPI{
		kinds: map[string][]metav1.APIResource{
			"v1":      {namespaced("configmaps", "ConfigMap"), namespaced("pods", "Pod"), {Name: "namespaces", Kind: "Namespace"}},
			"apps/v1": {namespaced("daemonsets", "DaemonSet"), namespaced("deployments", "Deployment"), namespaced("statefulsets", "StatefulSet")},
			"apiextensions.k8s.io/v1": {
				{Name: "customresourcedefinitions", Kind: "CustomResourceDefinition"},
			},
		},
		objects: map[string]map[string]any{},
		handle:  map[string]http.HandlerFunc{},
	}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	c, err := New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := f.handle[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before != nil && f.before(w, r) {
		return
	}
	if f.discovery(w, r) {
		return
	}
	path := r.URL.Path
	if r.Method != http.MethodGet {
		f.calls = append(f.calls, r.Method+" "+path)
	}
	switch r.Method {
	case http.MethodPatch:
		f.query = append(f.query, r.URL.RawQuery)
		var o map[string]any
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			answerStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error(), nil)
			return
		}
		f.objects[path] = o
		answer(w, http.StatusOK, o)
	case http.MethodDelete:
		o, ok := f.objects[path]
		if !ok {
			notFound(w, path)
			return
		}
		delete(f.objects, path)
		answer(w, http.StatusOK, o)
	case http.MethodGet:
		if o, ok := f.objects[path]; ok {
			answer(w, http.StatusOK, o)
			return
		}
		var items []any
		for _, p := range f.paths() {
			if rest, ok := strings.CutPrefix(p, path+"/"); ok && !strings.Contains(rest, "/") {
				items = append(items, f.objects[p])
			}
		}
		last := path[strings.LastIndex(path, "/")+1:]
		if items == nil && last != "pods" && last != "events" {
			notFound(w, path)
			return
		}
		answer(w, http.StatusOK, map[string]any{"apiVersion": "v1", "kind": map[string]string{"pods": "PodList", "events": "EventList"}[last], "items": items})
	default: // a stream to a pod that is not there
		notFound(w, path[:strings.LastIndex(path, "/")])
	}
}

func (f *fakeAPI) paths() []string {
	var all []string
	for p := range f.objects {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

func (f *fakeAPI) discovery(w http.ResponseWriter, r *http.Request) bool {
	switch path := r.URL.Path; {
	case path == "/api":
		answer(w, http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
	case path == "/apis":
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for gv := range f.kinds {
			if group, version, ok := strings.Cut(gv, "/"); ok {
				v := metav1.GroupVersionForDiscovery{GroupVersion: gv, Version: version}
				list.Groups = append(list.Groups, metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
			}
		}
		answer(w, http.StatusOK, list)
	default:
		gv := strings.TrimPrefix(strings.TrimPrefix(path, "/apis/"), "/api/")
		resources, ok := f.kinds[gv]
		if !ok {
			return false
		}
		answer(w, http.StatusOK, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: gv, APIResources: resources})
	}
	return true
}

// put stores objects as a cluster that was there before would have them.
func (f *fakeAPI) put(t *testing.T, path string, o any) {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects[path] = m
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func answerStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string, details *metav1.StatusDetails) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message, Details: details,
	})
}

func notFound(w http.ResponseWriter, path string) {
	parts := strings.Split(path, "/")
	name, kind := parts[len(parts)-1], parts[len(parts)-2]
	answerStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("%s %q not found", kind, name),
		&metav1.StatusDetails{Name: name, Kind: kind})
}

// says fails the test unless err tells all of the words.
func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
