package precinct

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// fakeSite writes down what it is asked, and answers with status 200 or as it is told.
func fakeSite(t *testing.T, answers map[string]string, status map[string]int) (*Site, *[]string) {
	t.Helper()
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		call := r.URL.Path + " " + string(body)
		asked = append(asked, call)
		for part, code := range status {
			if strings.Contains(call, part) {
				w.WriteHeader(code)
			}
		}
		for path, answer := range answers {
			if strings.Contains(call, path) {
				_, _ = io.WriteString(w, answer)
			}
		}
	}))
	t.Cleanup(server.Close)
	return NewSite(server.URL), &asked
}

func TestMarks(t *testing.T) {
	site, _ := fakeSite(t, map[string]string{"/database": `{"user":"x","server_user":"v-jwt-backend-abc-1234"}`}, nil)
	marks, err := site.Marks(t.Context(), "marker")
	if got := slices.Sorted(maps.Keys(marks)); err != nil || !slices.Equal(got, []string{"marker", "v-jwt-backend-abc-1234"}) {
		t.Errorf("%v, %v", got, err)
	}
	site, _ = fakeSite(t, map[string]string{"/database": `{}`}, nil)
	if marks, err := site.Marks(t.Context(), "marker"); err == nil {
		t.Errorf("without a database user: %v", marks)
	}
}

func TestCarry(t *testing.T) {
	const back = `/api/github/configure {"token":"ghp_demo_drill"}`
	gone := map[string]string{"/rotate": `{"old_user":"a","new_user":"b","old_gone":true}`}
	nobody := `"username":"marker"`
	for what, tt := range map[string]struct {
		answers map[string]string
		status  map[string]int
		says    string
		back    bool // the token
	}{
		"all well":            {gone, map[string]int{nobody: 401}, "", true},
		"the marker gets in":  {gone, nil, "want 401, got a session", false},
		"no database":         {gone, map[string]int{nobody: 503}, "want 401, got POST /api/auth/login: 503", false},
		"no Vault":            {gone, map[string]int{nobody: 401, "repos": 503}, "repos: 503", true},
		"the old user stays":  {nil, map[string]int{nobody: 401}, "still there", true},
		"it is not put back":  {gone, map[string]int{nobody: 401, "drill": 503}, "putting the token back", true},
		"it cannot be marked": {gone, map[string]int{nobody: 401, "demo_marker": 422}, "422", true},
	} {
		site, asked := fakeSite(t, tt.answers, tt.status)
		err := site.Carry(t.Context(), "marker")
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error that says %q", what, err, tt.says)
		}
		if end := (*asked)[len(*asked)-1]; (end == back) != tt.back {
			t.Errorf("%s: at the end %s", what, end)
		}
	}
}
