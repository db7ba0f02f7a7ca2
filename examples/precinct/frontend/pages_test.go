package main

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
)

func TestSignedOutGoesToTheLogin(t *testing.T) {
	w := newWorld(t, backendID)
	for _, tc := range []struct{ method, path, cookie, want string }{
		{"GET", "/", "", "/login?next=%2Fdashboard"},
		{"GET", "/dashboard", "", "/login?next=%2Fdashboard"},
		{"GET", "/github?page=2", "", "/login?next=%2Fgithub%3Fpage%3D2"},
		{"GET", "/security", "", "/login?next=%2Fsecurity"},
		{"GET", "/security", "Cookie: precinct_session=forged", "/login?next=%2Fsecurity"},
		{"POST", "/github", "", "/login?next=%2Fgithub"},
		{"POST", "/security/rotate", "", "/login?next=%2Fsecurity"},
	} {
		got := w.ask(tc.method, tc.path, "", tc.cookie)
		w.want(got, http.StatusSeeOther)
		if got.Header.Get("Location") != tc.want {
			t.Errorf("%s %s → %q, want %q", tc.method, tc.path, got.Header.Get("Location"), tc.want)
		}
	}
	w.want(w.ask("GET", "/api/demo/frontend/svid", ""), 401, "not signed in")
	w.want(w.ask("GET", "/api/demo/frontend/edges", ""), 401, "not signed in")
	w.want(w.ask("POST", "/api/demo/frontend/edges", `{"address":"vault.invalid:8200"}`), 401, "not signed in")
}

func TestNextLeadsNowhereElse(t *testing.T) {
	w := newWorld(t, backendID)
	for _, tc := range []struct{ next, want string }{
		{"", "/dashboard"},
		{"/security", "/security"},
		{"/github?page=2", "/github?page=2"},
		{"https://evil.example/", "/dashboard"},
		{"//evil.example/dashboard", "/dashboard"},
		{`/\evil.example`, "/dashboard"},
		{`\\evil.example`, "/dashboard"},
		{"/\tevil.example", "/dashboard"},
		{"///evil.example", "/dashboard"},
		{"javascript:alert(1)", "/dashboard"},
		{"/dashboard@evil.example", "/dashboard"},
		{"http:/dashboard", "/dashboard"},
		{"/login", "/dashboard"},
		{"/security\r\nSet-Cookie: a=b", "/dashboard"},
		{"/github?page=1&x=%0d%0aSet-Cookie:a", "/github?page=1&x=%0D%0ASet-Cookie%3Aa"},
		{"/security#x", "/security"},
		{"/security/../..//evil.example", "/dashboard"},
	} {
		body := url.Values{"username": {"jake"}, "password": {"jake-precinct99"}, "next": {tc.next}}.Encode()
		got := w.ask("POST", "/login", body)
		w.want(got, http.StatusSeeOther)
		if at := got.Header.Get("Location"); at != tc.want {
			t.Errorf("next %q → %q, want %q", tc.next, at, tc.want)
		}
		// The same for those who are signed in already.
		c := got.Cookies()[0]
		got = w.ask("GET", "/login?"+url.Values{"next": {tc.next}}.Encode(), "", "Cookie: "+c.Name+"="+c.Value)
		if at := got.Header.Get("Location"); at != tc.want {
			t.Errorf("signed in, next %q → %q, want %q", tc.next, at, tc.want)
		}
	}
}

func TestForms(t *testing.T) {
	w := newWorld(t, backendID)

	got := w.ask("POST", "/login", "username=jake&password=wrong-secret&next=/security")
	w.want(got, 401, "Invalid username or password.", `value="jake"`, `value="/security"`, `role="alert"`)
	if strings.Contains(got.text, "wrong-secret") || len(got.Cookies()) != 0 {
		t.Error("the password came back, or a cookie")
	}

	got = w.ask("POST", "/register", "username=gina&email=gina%40precinct99.example&password=short-p")
	w.want(got, 400, "Password is shorter than 8 characters.", `value="gina"`, `value="gina@precinct99.example"`, `aria-describedby="password-rule password-wrong"`)
	if strings.Contains(got.text, "short-p") {
		t.Error("the password came back")
	}
	w.want(w.ask("POST", "/register", "username=jake&email=a%40b.example&password=long-enough"), 409, "This username is taken.", `id="username-wrong"`)

	got = w.ask("POST", "/register", "username=gina&email=gina%40precinct99.example&password=long-enough")
	w.want(got, http.StatusSeeOther)
	if got.Header.Get("Location") != "/dashboard" || len(got.Cookies()) != 1 {
		t.Fatalf("registered: %v", got.Header)
	}
	c := got.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge != int((8*time.Hour).Seconds()) {
		t.Errorf("the cookie came as %q", c.Raw)
	}
	session := "Cookie: " + c.Name + "=" + c.Value
	w.want(w.ask("GET", "/dashboard", "", session), 200, "On duty: gina", "gina@precinct99.example")

	got = w.ask("POST", "/logout", "x=y", session)
	w.want(got, http.StatusSeeOther)
	if got.Header.Get("Location") != "/login?out=1" || len(got.Cookies()) != 1 || got.Cookies()[0].MaxAge >= 0 {
		t.Errorf("signed out: %v", got.Header)
	}
	w.want(w.ask("GET", "/login?out=1", ""), 200, "You are signed out.")
	w.want(w.ask("GET", "/dashboard", "", session), http.StatusSeeOther)
	w.want(w.ask("POST", "/login", "username=%zz"), 400, "The form could not be read.")
}

func TestHostileNamesAreEscaped(t *testing.T) {
	w := newWorld(t, backendID)
	const name = `<script>alert(1)</script>"' onload=x`
	w.fake.Rename("jake", name)
	session := w.signIn()
	w.want(w.ask("POST", "/github", "token=ghp_demo_1", session), http.StatusSeeOther)
	for _, got := range []answer{
		w.ask("GET", "/dashboard", "", session),
		w.ask("GET", "/github", "", session),
		w.ask("POST", "/login", url.Values{"username": {name}}.Encode()),
		w.ask("POST", "/register", url.Values{"username": {name}, "email": {name}}.Encode()),
		w.ask("GET", "/login?next="+url.QueryEscape(`/security?"><script>alert(1)</script>`), ""),
		w.ask("GET", `/%3Cscript%3Ealert(1)%3C/script%3E`, ""),
	} {
		if strings.Contains(got.text, "<script>") || strings.Contains(got.text, `"' onload`) {
			t.Errorf("%s %s holds it as it is:\n%s", got.Request.Method, got.Request.URL, got.text)
		}
	}
	w.want(w.ask("GET", "/dashboard", "", session), 200, name)
}

var (
	repoLink = regexp.MustCompile(`href="https://github.com/[^"]+"`)
	nextLink = regexp.MustCompile(`href="([^"]+)" rel="next"`)
)

func TestGitHubPage(t *testing.T) {
	w := newWorld(t, backendID)
	session := w.signIn()
	w.want(w.ask("GET", "/github", "", session), 200, "There is none yet.", `type="password" autocomplete="off"`)
	for _, tc := range []struct {
		token  string
		status int
		says   []string
	}{
		{"nonsense-token", 422, []string{"GitHub refused the token"}},
		{"ghp_limited", 429, []string{"GitHub asks for a pause", "try again in 30m0s"}},
		{"ghp_down", 503, []string{"GitHub is not reachable"}},
	} {
		got := w.ask("POST", "/github", "token="+tc.token, session)
		w.want(got, tc.status, append(tc.says, "Store a token")...)
		if strings.Contains(got.text, tc.token) {
			t.Errorf("the page holds the token %s", tc.token)
		}
		if (got.Header.Get("Retry-After") != "") != (tc.status == 429) {
			t.Errorf("%s: Retry-After %q", tc.token, got.Header.Get("Retry-After"))
		}
	}
	got := w.ask("POST", "/github", "token=ghp_demo_secret", session)
	w.want(got, http.StatusSeeOther)
	if got.Header.Get("Location") != "/github?stored=1" {
		t.Errorf("stored: %v", got.Header)
	}
	seen := map[string]bool{}
	for at, page := "/github?stored=1", 1; at != ""; page++ {
		got := w.ask("GET", at, "", session)
		w.want(got, 200, "Whose token it is")
		for _, repo := range repoLink.FindAllString(got.text, -1) {
			seen[repo] = true
		}
		if (page > 1) != strings.Contains(got.text, `rel="prev"`) {
			t.Errorf("page %d: a link back, or none", page)
		}
		at = ""
		if next := nextLink.FindStringSubmatch(got.text); next != nil {
			at = next[1]
		}
		if page > 4 {
			t.Fatal("there is no end of pages")
		}
	}
	if len(seen) != 17 {
		t.Errorf("%d repositories on all pages, want 17", len(seen))
	}
	w.want(w.ask("GET", "/github?page=99", "", session), 200, "There is none on this page.")
	w.want(w.ask("GET", "/github?page=-1", "", session), 200, "pontiac-bandit")
}

func TestSecurityPage(t *testing.T) {
	w := newWorld(t, backendID)
	session := w.signIn()
	got := w.ask("GET", "/security", "", session)
	w.want(got, 200, backendID.String(), frontendID.String(), "vault.invalid:8200", "postgres.99-data.svc.cluster.local:5432",
		"Trying it live needs JavaScript", "SVID good for another", "Hubble", "v-jwt-back-backend-")
	if !regexp.MustCompile(`role="timer">(59:5\d|1:00:00)<`).MatchString(got.text) {
		t.Error("no remaining life of an hour")
	}
	if n := strings.Count(got.text, `data-state="waiting">`); n < 7 {
		t.Errorf("%d edges", n)
	}

	// Rotating works without a script.
	before := w.ask("GET", "/api/demo/database", "", session).json("user").(string)
	got = w.ask("POST", "/security/rotate", "x=y", session)
	after := w.ask("GET", "/api/demo/database", "", session).json("user").(string)
	w.want(got, 200, "<s>"+before+"</s>", "<b>"+after+"</b>", "the old one no longer exists")
	if before == after {
		t.Error("the user did not change")
	}

	// What the frontend's own pod sees.
	w.want(w.ask("GET", "/api/demo/frontend/svid", "", session), 200, `"spiffe_id":"`+frontendID.String()+`"`, `"not_after"`)
	w.want(w.ask("GET", "/api/demo/frontend/edges", "", session), 200, `"from":"frontend"`, "vault.invalid:8200")
	try := w.ask("POST", "/api/demo/frontend/edges", `{"address":"`+w.back.Listener.Addr().String()+`"}`, session)
	if w.want(try, 200); try.json("outcome") != string(edge.Connected) || try.json("allowed") != true {
		t.Errorf("tried: %s", try.text)
	}
	try = w.ask("POST", "/api/demo/frontend/edges", `{"address":"vault.invalid:8200"}`, session)
	if w.want(try, 200); try.json("outcome") != string(edge.Name) || try.json("allowed") != false {
		t.Errorf("tried: %s", try.text)
	}
	w.want(w.ask("POST", "/api/demo/frontend/edges", `{"address":"example.org:22"}`, session), 400, edge.ErrNotListed.Error())
	w.want(w.ask("POST", "/api/demo/frontend/edges", `{`, session), 400)
	w.want(w.ask("POST", "/api/demo/frontend/edges", `address=x`, session), 415)

	// What is missing is said in its place.
	w.fake.Break("vault", "sealed")
	w.want(w.ask("GET", "/dashboard", "", session), 200, "sealed")
	w.fake.Break("database", "not reachable")
	w.want(w.ask("GET", "/security", "", session), 503, "The database is not available.")
}
