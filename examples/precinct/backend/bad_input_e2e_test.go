//go:build e2e

package main

import (
	"crypto/rand"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"
)

var injections = []string{`' OR '1'='1`, `jake'--`, `'; DROP TABLE users; --`, `" OR ""="`, `$1`, `\'; SELECT pg_sleep(5); --`, `jake') UNION SELECT 1--`}

func TestE2EBadInput(t *testing.T) {
	w := started(t)
	b := w.browser()
	long := strings.Repeat("a", 73)
	for _, tc := range []struct {
		name, path, kind, body string
		status                 int
		tells                  string
	}{
		{"wrong password", "/api/auth/login", "", `{"username":"jake","password":"amy-precinct99"}`, 401, "invalid username or password"},
		{"unknown user", "/api/auth/login", "", `{"username":"doug","password":"jake-precinct99"}`, 401, "invalid username or password"},
		{"overlong password", "/api/auth/login", "", `{"username":"jake","password":"` + long + `"}`, 401, "invalid username or password"},
		{"right password and more", "/api/auth/login", "", `{"username":"jake","password":"jake-precinct99` + "x" + `"}`, 401, "invalid username or password"},
		{"overlong username", "/api/auth/login", "", `{"username":"` + long + `","password":"x"}`, 400, "username is longer than 64 bytes"},
		{"no username", "/api/auth/login", "", `{"password":"x"}`, 400, "username is missing"},
		{"no password", "/api/auth/login", "", `{"username":"jake"}`, 400, "password is missing"},
		{"non-UTF-8 username", "/api/auth/login", "", "{\"username\":\"ja\xffke\",\"password\":\"x\"}", 400, "username is not valid UTF-8"},
		{"non-UTF-8 password", "/api/auth/login", "", "{\"username\":\"jake\",\"password\":\"\xc3\x28\"}", 400, "password is not valid UTF-8"},
		{"half a surrogate", "/api/auth/login", "", `{"username":"\ud800","password":"x"}`, 400, "username is not valid UTF-8"},
		{"NUL", "/api/auth/login", "", `{"username":"jake\u0000","password":"x"}`, 400, "username holds a control character"},
		{"newline", "/api/auth/login", "", `{"username":"jake\nadmin","password":"x"}`, 400, "username holds a control character"},
		{"a number", "/api/auth/login", "", `{"username":1,"password":"x"}`, 400, "username has to be a string"},
		{"an array", "/api/auth/login", "", `["jake"]`, 400, "not a JSON object"},
		{"no JSON", "/api/auth/login", "", `username=jake`, 400, "not a JSON object"},
		{"two objects", "/api/auth/login", "", `{"username":"jake"}{"password":"x"}`, 400, "not a JSON object"},
		{"null", "/api/auth/login", "", `null`, 400, "username is missing"},
		{"nothing", "/api/auth/login", "", ``, 400, "not a JSON object"},
		{"unknown fields", "/api/auth/login", "", `{"username":"jake","password":"jake-precinct99","admin":true}`, 200, "Login successful"},
		{"a form", "/api/auth/login", "application/x-www-form-urlencoded", `username=jake&password=jake-precinct99`, 415, "application/json"},
		{"plain text", "/api/auth/login", "text/plain", `{"username":"jake","password":"jake-precinct99"}`, 415, "application/json"},
		{"an oversized body", "/api/auth/login", "", `{"username":"jake","password":"` + strings.Repeat("a", 64<<10) + `"}`, 413, "larger than 64 KiB"},
		{"duplicate user", "/api/auth/register", "", `{"username":"jake","email":"new@precinct99.example","password":"long enough"}`, 409, "username is taken"},
		{"duplicate user in capitals", "/api/auth/register", "", `{"username":"JAKE","email":"new@precinct99.example","password":"long enough"}`, 409, "username is taken"},
		{"duplicate address", "/api/auth/register", "", `{"username":"new","email":"Jake@precinct99.example","password":"long enough"}`, 409, "e-mail address is taken"},
		{"beyond bcrypt", "/api/auth/register", "", `{"username":"new","email":"new@precinct99.example","password":"` + long + `"}`, 400, "password is longer than 72 bytes"},
		{"short password", "/api/auth/register", "", `{"username":"new","email":"new@precinct99.example","password":"short"}`, 400, "password is shorter than 8"},
		{"no address", "/api/auth/register", "", `{"username":"new","email":"nobody","password":"long enough"}`, 400, "email is not an e-mail address"},
		{"an address with a name", "/api/auth/register", "", `{"username":"new","email":"N <new@precinct99.example>","password":"long enough"}`, 400, "email is not an e-mail address"},
		{"overlong name", "/api/auth/register", "", `{"username":"` + long + `","email":"new@precinct99.example","password":"long enough"}`, 400, "username is longer than 32"},
		{"overlong full name", "/api/auth/register", "", `{"username":"new","full_name":"` + long + long + `","email":"new@precinct99.example","password":"long enough"}`, 400, "full_name is longer"},
		{"markup as a name", "/api/auth/register", "", `{"username":"<script>","email":"new@precinct99.example","password":"long enough"}`, 400, "username has to be"},
	} {
		kind := tc.kind
		if kind == "" {
			kind = "application/json"
		}
		b.cookie = ""
		expect(t, tc.name, b.do("POST", tc.path, kind, strings.NewReader(tc.body)), tc.status, tc.tells)
		if (b.cookie != "") != (tc.status == 200) {
			t.Errorf("%s: cookie %q", tc.name, b.cookie)
		}
	}
	b.login("jake")
	for _, tc := range []struct {
		name, token string
		status      int
		tells       string
	}{
		{"empty", "", 400, "token is missing"},
		{"overlong", strings.Repeat("a", 256), 400, "token is longer"},
		{"a header", "ghp_demo_x\r\nX-Evil: 1", 400, "token holds a control character"},
		{"spaces", "ghp demo", 400, "token is not a GitHub token"},
		{"SQL", injections[0], 400, "token is not a GitHub token"},
	} {
		expect(t, "token: "+tc.name, b.post("/api/github/configure", "token", tc.token), tc.status, tc.tells)
	}
	expect(t, "no such page", b.get("/api/nothing"), 404, "nothing here")
	expect(t, "wrong method", b.get("/api/auth/login"), 405, "POST")
	if n := w.database.count("SELECT count(*) FROM users"); n != 6 {
		t.Errorf("%d users after all that", n)
	}
	if strings.Contains(w.log.String(), `"msg":"panic"`) {
		t.Error("something panicked")
	}
}

func TestE2ESQLInEveryField(t *testing.T) {
	w := started(t)
	b := w.browser().login("jake")
	mine := b.cookie
	for _, sql := range injections {
		start := time.Now()
		expect(t, "username", w.browser().post("/api/auth/login", "username", sql, "password", "x"), 401, "invalid username or password")
		expect(t, "password", w.browser().post("/api/auth/login", "username", "jake", "password", sql), 401, "invalid username or password")
		expect(t, "new username", w.browser().post("/api/auth/register", "username", sql, "email", "a@b.example", "password", "long enough"), 400, "username has to be")
		expect(t, "new address", w.browser().post("/api/auth/register", "username", "new", "email", sql, "password", "long enough"), 400, "email is not")
		expect(t, "an edge", b.post("/api/demo/edges", "address", sql), 400, "not among the edges")
		cookie := w.browser()
		cookie.cookie = base64.RawURLEncoding.EncodeToString([]byte(sql))
		expect(t, "cookie", cookie.get("/api/auth/me"), 401, "not signed in")
		if time.Since(start) > 4*time.Second {
			t.Errorf("%s took %s: did it sleep?", sql, time.Since(start))
		}
	}
	// What is no name or address is text, and is kept as it came.
	got := w.browser().post("/api/auth/register", "username", "bobby", "email", "bobby@precinct99.example",
		"full_name", `Robert'); DROP TABLE users;--`, "password", `'; DROP TABLE sessions; --`)
	expect(t, "Bobby", got, 201, `Robert'); DROP TABLE users;--`)
	expect(t, "Bobby again", w.browser().post("/api/auth/login", "username", "bobby", "password", `'; DROP TABLE sessions; --`), 200, `Robert'); DROP TABLE users;--`)
	b.cookie = mine
	expect(t, "everything is still there", b.get("/api/auth/me"), 200, "jake")
	if n := w.database.count("SELECT count(*) FROM users"); n != 7 {
		t.Errorf("%d users", n)
	}
}

func TestE2ECookies(t *testing.T) {
	w := started(t)
	b := w.browser().login("holt")
	good := b.cookie
	forged := make([]byte, 32)
	_, _ = rand.Read(forged)
	for name, value := range map[string]string{
		"made up":     base64.RawURLEncoding.EncodeToString(forged),
		"cut short":   good[:len(good)-1],
		"too long":    good + "A",
		"one changed": flip(good),
		"padded":      good + "=",
		"no base64":   "!!!",
		"huge":        strings.Repeat("A", 4000),
		"a username":  "holt",
	} {
		b.cookie = value
		expect(t, name, b.get("/api/auth/me"), 401, "not signed in")
		b.cookie = value
		expect(t, name+" at a page that changes something", b.do("POST", "/api/demo/rotate", "", nil), 401, "not signed in")
	}
	b.cookie = good
	expect(t, "the real one", b.get("/api/auth/me"), 200, "holt")
	w.database.exec("UPDATE sessions SET expires_at = now() - interval '1 second'")
	expect(t, "expired", b.get("/api/auth/me"), 401, "not signed in")
	if err := w.backend.deleteExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.database.count("SELECT count(*) FROM sessions"); n != 0 {
		t.Errorf("%d sessions after the sweep", n)
	}
	for _, path := range []string{"/api/github/user", "/api/github/repos", "/api/demo/svid", "/api/demo/database", "/api/demo/edges"} {
		expect(t, path, b.get(path), 401, "not signed in")
	}
}

// flip changes a bit that counts.
func flip(s string) string {
	b := []byte(s)
	if b[0] = b[0] ^ 1; b[0] == '_' || b[0] < '0' {
		b[0] = 'A'
	}
	return string(b)
}

// Who asks for a user that is not there must not see it by the time. The fastest of
// many is compared, as whatever else the machine does only adds to it.
func TestE2EAnUnknownUserTakesAsLong(t *testing.T) {
	w := started(t)
	b := w.browser()
	took := map[string][]time.Duration{}
	ask := func(kind, username, password string) {
		start := time.Now()
		expect(t, kind, b.post("/api/auth/login", "username", username, "password", password), 401, "invalid username or password")
		took[kind] = append(took[kind], time.Since(start))
	}
	for range 25 {
		ask("wrong password", "jake", "wrong-password")
		ask("unknown user", "doug", "wrong-password")
		ask("overlong password", "jake", strings.Repeat("x", 73))
	}
	fastest := func(kind string) time.Duration { return slices.Min(took[kind]) }
	wrong := fastest("wrong password")
	if wrong < 20*time.Millisecond {
		t.Errorf("a wrong password takes %s: that is no bcrypt", wrong)
	}
	for _, kind := range []string{"unknown user", "overlong password"} {
		got := fastest(kind)
		t.Logf("%s %s, wrong password %s", kind, got, wrong)
		if got < wrong*6/10 || got > wrong*15/10 {
			t.Errorf("%s takes %s, a wrong password %s", kind, got, wrong)
		}
	}
}
