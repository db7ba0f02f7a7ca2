//go:build e2e

package main

import (
	"strings"
	"testing"
	"time"
)

func TestE2EJourney(t *testing.T) {
	w := started(t)
	b := w.browser()
	expect(t, "a stranger", b.get("/api/auth/me"), 401, "not signed in")

	got := b.post("/api/auth/login", "username", "jake", "password", "jake-precinct99")
	expect(t, "login", got, 200, `"full_name":"Jake Peralta"`)
	set := got.header.Get("Set-Cookie")
	for _, part := range []string{"precinct_session=", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=28800"} {
		if !strings.Contains(set, part) {
			t.Errorf("the cookie %q lacks %s", set, part)
		}
	}
	if strings.Contains(set, "Domain=") || len(b.cookie) < 43 {
		t.Errorf("cookie %q", set)
	}
	if n := w.database.count("SELECT count(*) FROM sessions WHERE encode(token_hash, 'escape') = '" + b.cookie + "'"); n != 0 {
		t.Error("the database knows the cookie's value")
	}
	expect(t, "me", b.get("/api/auth/me"), 200, `"username":"jake"`)

	expect(t, "no token", b.get("/api/github/user"), 404, "no GitHub token stored")
	expect(t, "configure", b.post("/api/github/configure", "token", "ghp_demo_jake"), 200, `"login":"jake-peralta"`)
	expect(t, "user", b.get("/api/github/user"), 200, `"public_repos"`)
	first := b.get("/api/github/repos?per_page=20")
	expect(t, "first page", first, 200, `"next_page":2`)
	second := b.get("/api/github/repos?per_page=20&page=2")
	expect(t, "last page", second, 200, `"next_page":0`)
	if n := len(first.field("repositories").([]any)) + len(second.field("repositories").([]any)); n != 37 {
		t.Errorf("%d repositories", n)
	}
	expect(t, "somebody else's token", w.browser().login("amy").get("/api/github/user"), 404, "no GitHub token stored")

	expect(t, "svid", b.get("/api/demo/svid"), 200, backendID.String())
	before := b.get("/api/demo/database")
	expect(t, "database", before, 200, `"rotations":0`)
	if before.field("user") != before.field("server_user") {
		t.Errorf("who we are: %s", before.body)
	}
	rotated := b.do("POST", "/api/demo/rotate", "", nil)
	expect(t, "rotate", rotated, 200, `"old_gone":true`)
	after := b.get("/api/demo/database")
	if rotated.field("old_user") != before.field("user") || rotated.field("new_user") != after.field("server_user") || after.field("rotations") != 1.0 {
		t.Errorf("from %s by %s to %s", before.body, rotated.body, after.body)
	}
	expect(t, "the token after a rotation", b.get("/api/github/user"), 200, "jake-peralta")

	expect(t, "edges", b.get("/api/demo/edges"), 200, `"from":"backend"`)
	expect(t, "an edge", b.post("/api/demo/edges", "address", w.vault.address), 200, `"outcome":"connected"`)
	expect(t, "a refused edge", b.post("/api/demo/edges", "address", "127.0.0.1:1"), 200, `"outcome":"refused"`)
	expect(t, "no edge", b.post("/api/demo/edges", "address", "example.org:22"), 400, "not among the edges")

	stolen := b.cookie
	expect(t, "logout", b.do("POST", "/api/auth/logout", "", nil), 200, "Logged out")
	if b.cookie != "" {
		t.Errorf("the cookie is %q after the logout", b.cookie)
	}
	b.cookie = stolen
	expect(t, "the cookie after logout", b.get("/api/auth/me"), 401, "not signed in")

	if n := w.database.count(`SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'`); n != 1 {
		t.Errorf("%d database users, want the current one alone", n)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	w.vault.dropped.Wait()
	if n := w.database.count(`SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'`); n != 0 {
		t.Errorf("%d database users are left after the end", n)
	}
	for _, secret := range []string{"jake-precinct99", "ghp_demo", stolen, "hvs.", "jwt-for-", "$2a$"} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestE2EEverySeededUserLogsIn(t *testing.T) {
	w := started(t)
	for _, name := range []string{"jake", "amy", "rosa", "terry", "holt", "charles"} {
		start := time.Now()
		w.browser().login(name)
		t.Logf("%s: %s", name, time.Since(start).Round(time.Millisecond))
	}
}

func TestE2ERegister(t *testing.T) {
	w := started(t)
	b := w.browser()
	expect(t, "register", b.post("/api/auth/register", "username", "Gina", "email", "gina@precinct99.example", "password", "floorgasm"), 201, `"username":"gina"`)
	expect(t, "signed in at once", b.get("/api/auth/me"), 200, "gina")
	expect(t, "login", w.browser().post("/api/auth/login", "username", "GINA", "password", "floorgasm"), 200, "gina")
	expect(t, "same name", b.post("/api/auth/register", "username", "gina", "email", "other@precinct99.example", "password", "floorgasm"), 409, "username is taken")
	expect(t, "same address", b.post("/api/auth/register", "username", "gina2", "email", "GINA@precinct99.example", "password", "floorgasm"), 409, "e-mail address is taken")
	if n := w.database.count("SELECT count(*) FROM users"); n != 7 {
		t.Errorf("%d users", n)
	}
}
