package precinct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// good is a journey on which all was well.
func good() *journey {
	j := &journey{Browser: Browser{URL: "http://127.0.0.1:3000"}, version: "Chrome/1", done: map[string]bool{}}
	for _, s := range steps {
		j.done[s.name] = true
	}
	j.requests = []*request{
		{id: "1", method: "GET", url: j.URL + "/login", kind: "Document", status: 200},
		{id: "2", method: "POST", url: j.URL + "/login", kind: "Document", status: 401},
		{id: "3", method: "GET", url: "data:image/png,x", kind: "Image"},
	}
	j.messages = []message{{level: "error", source: "network", text: "the server responded with a status of 401", request: "2"}}
	for _, path := range []string{"/dashboard", "/github", "/security"} {
		j.guarded = append(j.guarded, guarded{path: path, at: "/login?next=%2F" + path[1:], status: 200, form: true})
	}
	j.guarded = append(j.guarded, guarded{path: "/", at: "/login?next=%2Fdashboard", status: 200, form: true})
	j.wrong = refusal{status: 401, said: "Invalid username or password."}
	j.cookie = cookie{landed: "/dashboard", name: "s", httpOnly: true, sameSite: "Lax", reloaded: "/dashboard", user: true, sent: true}
	j.calls = []call{{name: "me", method: "GET", path: "/api/auth/me", want: 200, got: 200, holds: "jake", body: `{"user":"jake"}`, kind: "application/json; charset=utf-8"}}
	j.github = github{empty: true, status: 200, owner: "amy", pages: [][]string{{"a", "b"}, {"c"}}}
	j.security = security{
		edges: []edge{
			{From: "frontend", To: "backend", Allowed: true, Outcome: "connected", State: "match"},
			{From: "backend", To: "frontend", Outcome: "timeout", State: "match"},
		},
		ids: []string{"spiffe://d/f", "spiffe://d/b"}, lives: [2][]string{{"9:59", "1:00:00"}, {"9:58", "59:59"}},
		before: "v-1", after: "v-2", swap: "v-1 became v-2; the old one no longer exists",
	}
	j.pages = []page{{name: "login", width: 390, headings: 1, mains: 1, language: "en"}}
	return j
}

func TestJudges(t *testing.T) {
	gone := errors.New("the browser is gone")
	judges := map[string]func(*journey, *phase.Evidence) error{
		"origin": judgeOrigin, "console": judgeConsole, "cookie": judgeCookie, "out": judgeSignedOut,
		"API": judgeAPI, "GitHub": judgeGitHub, "security": judgeSecurity, "looks": judgeLooks,
	}
	// endedIn is a journey that came no further.
	endedIn := func(step string, err error) func(*journey) {
		return func(j *journey) {
			j.ended, j.at = err, step
			over := false
			for _, s := range steps {
				over = over || s.name == step
				j.done[s.name] = !over
			}
		}
	}
	all := map[string]phase.Status{}
	for name := range judges {
		all[name] = phase.Unknown
	}
	for _, tc := range []struct {
		name  string
		spoil func(*journey)
		not   map[string]phase.Status // those that do not pass
	}{
		{"all well", func(*journey) {}, nil},
		{"another host", func(j *journey) { j.requests[0].url = "http://localhost:3000/login" }, map[string]phase.Status{"origin": phase.Failed}},
		{"another scheme", func(j *journey) { j.requests[0].url = "https://127.0.0.1:3000/login" }, map[string]phase.Status{"origin": phase.Failed}},
		{"a preflight", func(j *journey) { j.requests[0].kind = "Preflight" }, map[string]phase.Status{"origin": phase.Failed}},
		{"an OPTIONS", func(j *journey) { j.requests[0].method = "OPTIONS" }, map[string]phase.Status{"origin": phase.Failed}},
		{"a socket elsewhere", func(j *journey) { j.requests[0].url = "ws://127.0.0.1:3001/" }, map[string]phase.Status{"origin": phase.Failed}},
		{"a 500", func(j *journey) { j.requests[0].status = 500 }, map[string]phase.Status{"console": phase.Failed}},
		{"another refusal than was asked for", func(j *journey) { j.requests[1].status = 403 }, map[string]phase.Status{"console": phase.Failed}},
		{"a request that failed", func(j *journey) { j.requests[0].failed = "net::ERR_FAILED" }, map[string]phase.Status{"console": phase.Failed}},
		{"a message of a request that was not asked for", func(j *journey) { j.messages[0].request = "1" }, map[string]phase.Status{"console": phase.Failed}},
		{"an error of a script", func(j *journey) { j.messages[0].source = "console" }, map[string]phase.Status{"console": phase.Failed}},
		{"a script sees the cookie", func(j *journey) { j.cookie.readable = "s=1" }, map[string]phase.Status{"cookie": phase.Failed}},
		{"SameSite=None", func(j *journey) { j.cookie.sameSite = "None" }, map[string]phase.Status{"cookie": phase.Failed}},
		{"a reload forgets", func(j *journey) { j.cookie.reloaded = "/login" }, map[string]phase.Status{"cookie": phase.Failed}},
		{"the cookie stays at home", func(j *journey) { j.cookie.sent = false }, map[string]phase.Status{"cookie": phase.Failed}},
		{"a page is open", func(j *journey) { j.guarded[1].at = "/github" }, map[string]phase.Status{"out": phase.Failed}},
		{"a login page without a form", func(j *journey) { j.guarded[1].form = false }, map[string]phase.Status{"out": phase.Failed}},
		{"a wrong password is fine", func(j *journey) { j.wrong.status = 200 }, map[string]phase.Status{"out": phase.Failed}},
		{"a wrong password sets a cookie", func(j *journey) { j.wrong.cookies = 1 }, map[string]phase.Status{"out": phase.Failed}},
		{"a wrong password comes back", func(j *journey) { j.wrong.kept = "x" }, map[string]phase.Status{"out": phase.Failed}},
		{"a route says something else", func(j *journey) { j.calls[0].body = "{}" }, map[string]phase.Status{"API": phase.Failed}},
		{"a route is a page", func(j *journey) { j.calls[0].kind = "text/html" }, map[string]phase.Status{"API": phase.Failed}},
		{"the same page twice", func(j *journey) { j.github.pages[1] = []string{"a"} }, map[string]phase.Status{"GitHub": phase.Failed}},
		{"one page", func(j *journey) { j.github.pages = j.github.pages[:1] }, map[string]phase.Status{"GitHub": phase.Failed}},
		{"nobody's token", func(j *journey) { j.github.owner = "" }, map[string]phase.Status{"GitHub": phase.Failed}},
		{"an edge refused", func(j *journey) { j.security.edges[1].Outcome = "refused" }, map[string]phase.Status{"security": phase.Failed}},
		{"an edge shown wrongly", func(j *journey) { j.security.edges[1].State = "mismatch" }, map[string]phase.Status{"security": phase.Failed}},
		{"no denied edge", func(j *journey) { j.security.edges = j.security.edges[:1] }, map[string]phase.Status{"security": phase.Failed}},
		{"no edge", func(j *journey) { j.security.edges = nil }, map[string]phase.Status{"security": phase.Failed}},
		{"one identity for two", func(j *journey) { j.security.ids[1] = j.security.ids[0] }, map[string]phase.Status{"security": phase.Failed}},
		{"a life that stands still", func(j *journey) { j.security.lives[1][1] = "1:00:00" }, map[string]phase.Status{"security": phase.Failed}},
		{"a life that is over", func(j *journey) { j.security.lives[1][1] = "0:00" }, map[string]phase.Status{"security": phase.Failed}},
		{"no life", func(j *journey) { j.security.lives[0][0] = "" }, map[string]phase.Status{"security": phase.Failed}},
		{"the same user", func(j *journey) { j.security.after = "v-1" }, map[string]phase.Status{"security": phase.Failed}},
		{"the old user is there", func(j *journey) { j.security.swap = "v-1 became v-2; the old one is still there" }, map[string]phase.Status{"security": phase.Failed}},
		{"too wide", func(j *journey) { j.pages[0].width = 391 }, map[string]phase.Status{"looks": phase.Failed}},
		{"a nameless button", func(j *journey) { j.pages[0].nameless = []string{"a button"} }, map[string]phase.Status{"looks": phase.Failed}},
		{"two headings", func(j *journey) { j.pages[0].headings = 2 }, map[string]phase.Status{"looks": phase.Failed}},
		{"the browser dies first", endedIn("signed out", gone), all},
		{"the browser dies in the middle", endedIn("API", gone), map[string]phase.Status{
			"origin": phase.Unknown, "console": phase.Unknown, "out": phase.Unknown, "API": phase.Unknown, "GitHub": phase.Unknown, "looks": phase.Unknown}},
		{"the board does not come", endedIn("security page", &missing{"waited for the board", "it shows nothing"}), map[string]phase.Status{
			"origin": phase.Unknown, "console": phase.Unknown, "out": phase.Unknown, "API": phase.Unknown, "GitHub": phase.Unknown, "looks": phase.Unknown, "security": phase.Failed}},
		{"wrong already, and then over", func(j *journey) {
			endedIn("GitHub page", gone)(j)
			j.requests[0].url = "http://elsewhere/"
			j.requests[0].status = 500
			j.pages[0].width = 1000
			j.calls[0].got = 500
			j.guarded[0].form = false
		}, map[string]phase.Status{"origin": phase.Failed, "console": phase.Failed, "out": phase.Failed, "API": phase.Failed, "looks": phase.Failed, "GitHub": phase.Unknown}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, judge := range judges {
				j := good()
				tc.spoil(j)
				var ev phase.Evidence
				err := judge(j, &ev)
				got := phase.Passed
				if _, no := errors.AsType[*phase.Mismatch](err); no {
					got = phase.Failed
				} else if err != nil {
					got = phase.Unknown
				}
				want := phase.Passed
				if s, ok := tc.not[name]; ok {
					want = s
				}
				if got != want {
					t.Errorf("%s: %s (%v), want %s", name, got, err, want)
				}
				if ev.Want == "" || got == phase.Passed && ev.Got == "" {
					t.Errorf("%s: evidence %+v", name, ev)
				}
			}
		})
	}
}

func TestSeconds(t *testing.T) {
	for text, want := range map[string]int{"0:00": 0, "9:59": 599, "1:00:00": 3600, "59:41": 3581, "": -1, "x": -1, "12": -1, "1:xx": -1} {
		if got, ok := seconds(text); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %t", text, got, ok)
		}
	}
}

// The checks of a run share a journey; the next run makes its own.
func TestOneJourneyForAllChecks(t *testing.T) {
	var asked atomic.Int64
	all := Checks(func(context.Context) (Browser, error) {
		asked.Add(1)
		time.Sleep(10 * time.Millisecond) // the others come meanwhile
		return Browser{URL: "http://127.0.0.1:1", Exec: "no-such-browser"}, nil
	})
	for run := range 3 {
		var running sync.WaitGroup
		for _, c := range all {
			running.Go(func() {
				if _, err := c.Run(t.Context()); !errors.Is(err, ErrNoBrowser) {
					t.Errorf("%s: %v", c.Name, err)
				}
			})
		}
		running.Wait()
		if got := asked.Load(); got != int64(run+1) {
			t.Errorf("after run %d: %d journeys", run+1, got)
		}
	}
}

func TestChecksPassOnWhyThereIsNoSite(t *testing.T) {
	no := errors.New("no cluster")
	for _, c := range Checks(func(context.Context) (Browser, error) { return Browser{}, no }) {
		if _, err := c.Run(t.Context()); !errors.Is(err, no) {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func ExampleFrontendProxy() {
	f := FrontendProxy(Browser{URL: "http://127.0.0.1:3000", ScreenshotDir: "report/screenshots"}, nil)
	fmt.Println(f.Name)
	for _, c := range f.Checks {
		fmt.Println("-", c.Name)
	}
	// Output:
	// 4A-frontend-proxy
	// - same origin
	// - console clean
	// - login cookie
	// - signed out
	// - API routes
	// - GitHub page
	// - security page
	// - phone and labels
}
