package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// everyAnswer is one of each kind: pages, API, assets and refusals.
func everyAnswer(w *world) map[string]answer {
	session := w.signIn()
	all := map[string]answer{}
	for _, tc := range []struct{ method, path, body, header string }{
		{"GET", "/", "", ""},
		{"GET", "/login", "", ""},
		{"POST", "/login", "username=jake&password=wrong", ""},
		{"GET", "/register", "", ""},
		{"POST", "/register", "username=&password=x", ""},
		{"GET", "/dashboard", "", ""},
		{"GET", "/dashboard", "", session},
		{"GET", "/github", "", session},
		{"POST", "/github", "token=bad", session},
		{"GET", "/security", "", session},
		{"POST", "/security/rotate", "x=y", session},
		{"GET", "/nothing", "", ""},
		{"PUT", "/login", "", ""},
		{"GET", "/favicon.ico", "", ""},
		{"GET", "/assets/nothing", "", ""},
		{"GET", "/api/auth/me", "", session},
		{"GET", "/api/nothing", "", ""},
		{"GET", "/api/demo/frontend/edges", "", session},
		{"POST", "/api/auth/logout", "{}", "Sec-Fetch-Site: cross-site"},
		{"POST", "/logout", "x=y", "Sec-Fetch-Site: cross-site"},
	} {
		all[tc.method+" "+tc.path+" "+tc.header] = w.ask(tc.method, tc.path, tc.body, tc.header)
	}
	for name := range mustAssets(w.t).files {
		all["GET "+name] = w.ask("GET", name, "")
	}
	return all
}

func mustAssets(t *testing.T) *assets {
	t.Helper()
	a, err := loadAssets()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSecurityHeadersOnEveryAnswer(t *testing.T) {
	w := newWorld(t, backendID)
	for name, got := range everyAnswer(w) {
		for header, want := range map[string]string{
			"Content-Security-Policy":      policy,
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "same-origin",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
		} {
			if v := got.Header.Values(header); len(v) != 1 || v[0] != want {
				t.Errorf("%s: %s is %q", name, header, v)
			}
		}
		cache := "no-store"
		if strings.HasPrefix(name, "GET /assets/") && got.StatusCode == http.StatusOK {
			cache = "public, max-age=31536000, immutable"
		} else if strings.HasPrefix(name, "GET /favicon.ico") {
			cache = "public, max-age=31536000, immutable"
		}
		if v := got.Header.Get("Cache-Control"); v != cache {
			t.Errorf("%s: Cache-Control %q, want %q", name, v, cache)
		}
	}
}

var (
	inline    = regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script(?:\s+(?:defer|async))*\s*>`)
	linked    = regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`)
	elsewhere = regexp.MustCompile(`(?:src|srcset|action)="(?:https?:)?//`)
)

// The policy forbids all that is inline, so there must be none of it; and all that
// pages load is there, under a name that holds the hash of its content.
func TestPagesLoadOnlyTheirOwn(t *testing.T) {
	w := newWorld(t, backendID)
	pages := 0
	for name, got := range everyAnswer(w) {
		if !strings.HasPrefix(got.Header.Get("Content-Type"), "text/html") {
			continue
		}
		if strings.HasPrefix(got.text, "<a href=") {
			continue // a redirect's
		}
		pages++
		if found := inline.FindString(got.text); found != "" {
			t.Errorf("%s has %q in it", name, found)
		}
		if found := elsewhere.FindString(got.text); found != "" {
			t.Errorf("%s loads %q", name, found)
		}
		links := linked.FindAllStringSubmatch(got.text, -1)
		if len(links) < 3 {
			t.Errorf("%s links to %v", name, links)
		}
		for _, l := range links {
			w.want(w.ask("GET", l[1], ""), http.StatusOK)
		}
	}
	if pages < 10 {
		t.Errorf("only %d pages were looked at", pages)
	}
	for name, kind := range map[string]string{"site.css": "text/css; charset=utf-8", "site.js": "text/javascript; charset=utf-8", "favicon.svg": "image/svg+xml"} {
		at, err := mustAssets(t).path(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.ask("GET", at, "").Header.Get("Content-Type"); got != kind {
			t.Errorf("%s is %q", at, got)
		}
	}
}

func TestCrossSiteRequests(t *testing.T) {
	w := newWorld(t, backendID)
	session := w.signIn()
	own := "Origin: " + w.site.URL
	for _, tc := range []struct {
		name    string
		headers []string
		refused bool
	}{
		{"no browser", nil, false},
		{"same origin", []string{"Sec-Fetch-Site: same-origin", own}, false},
		{"typed in", []string{"Sec-Fetch-Site: none"}, false},
		{"an old browser, same origin", []string{own}, false},
		{"another site", []string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, true},
		{"another port of this host", []string{"Sec-Fetch-Site: same-site", "Origin: http://127.0.0.1:1"}, true},
		{"an old browser, another site", []string{"Origin: https://evil.example"}, true},
		{"an old browser, a sandbox", []string{"Origin: null"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			headers := append(tc.headers, session)
			for _, path := range []string{"/login", "/register", "/logout", "/github", "/security/rotate",
				"/api/auth/login", "/api/auth/register", "/api/github/configure", "/api/demo/rotate", "/api/demo/edges", "/api/demo/frontend/edges", "/api/auth/logout"} {
				if !tc.refused && strings.HasSuffix(path, "logout") {
					continue // the session is still needed
				}
				before := len(w.fake.Seen())
				got := w.ask("POST", path, "x=y", headers...)
				if (got.StatusCode == http.StatusForbidden) != tc.refused {
					t.Errorf("POST %s: %s", path, got.Status)
				}
				if !tc.refused {
					continue
				}
				if len(w.fake.Seen()) != before {
					t.Errorf("POST %s went on to the backend", path)
				}
				w.want(got, http.StatusForbidden, "made by another site")
				if strings.HasPrefix(path, "/api/") != (got.json("error") != nil) {
					t.Errorf("POST %s: %s", path, got.text)
				}
			}
			// Links from elsewhere work, and change nothing.
			w.want(w.ask("GET", "/dashboard", "", headers...), http.StatusOK, "Jake Peralta")
		})
	}
}
