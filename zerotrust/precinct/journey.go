package precinct

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// journey is one way through the whole site, and all that was seen on it. It is made
// first and judged afterwards.
type journey struct {
	Browser
	record
	version string

	done  map[string]bool // the steps that were made to their end
	ended error           // why the journey ended early; nil if it did not
	at    string          // the step that it ended in

	guarded  []guarded
	wrong    refusal
	cookie   cookie
	calls    []call
	github   github
	security security
	pages    []page
}

// guarded is a page that was asked for without a session.
type guarded struct {
	path   string
	at     string // where that led
	status int
	form   bool // the login form is there
}

// refusal is the answer to a wrong password.
type refusal struct {
	status  int
	said    string
	cookies int // of the site, afterwards
	kept    string
}

// cookie is what the login set.
type cookie struct {
	landed   string // the page that it led to
	name     string
	httpOnly bool
	sameSite string
	readable string // what document.cookie says
	reloaded string // the page after a reload
	user     bool   // which still knows the user
	sent     bool   // the cookie travelled with the reload
}

// call is one of the API's, made by the page's own fetch.
type call struct {
	name         string
	method, path string
	want, got    int
	holds        string // what the answer has to hold
	body         string
	kind         string // its content type
}

// github is what its page showed.
type github struct {
	empty  bool // no token at first
	status int  // of storing one
	owner  string
	user   string // who should own it
	pages  [][]string
}

// security is what its page showed.
type security struct {
	edges         []edge
	verdict       string
	ids           []string
	lives         [2][]string // the SVIDs' remaining lives, twice
	before, after string      // the database user
	swap          string      // what the page says of the change
	between       time.Duration
}

// edge is a row of the board.
type edge struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Address string `json:"address"`
	Allowed bool   `json:"allowed"`
	Outcome string `json:"outcome"`
	State   string `json:"state"`
	Text    string `json:"text"`
}

// page is how one looks.
type page struct {
	name     string
	width    int // that it needs at the phone's width
	nameless []string
	headings int // h1
	mains    int
	language string
	shots    []string
}

// steps of the journey, in their order: each needs what those before left.
var steps = []struct {
	name string
	run  func(*journey, *tab) error
}{
	{"signed out", (*journey).stepSignedOut},
	{"wrong password", (*journey).stepWrongPassword},
	{"login", (*journey).stepLogin},
	{"security page", (*journey).stepSecurity},
	{"API", (*journey).stepAPI},
	{"GitHub page", (*journey).stepGitHub},
	{"GitHub API", (*journey).stepGitHubAPI},
	{"sign out", (*journey).stepSignOut},
}

// travel makes the journey. What goes wrong on the way is in the result.
func travel(ctx context.Context, b Browser) *journey {
	j := &journey{Browser: b, done: map[string]bool{}}
	t, err := b.open(ctx, j.listen)
	if err != nil {
		j.ended, j.at = err, "start"
		return j
	}
	defer j.end()
	defer t.close()
	j.version = t.version
	for _, s := range steps {
		phase.Progress(ctx, "browser: %s", s.name)
		j.enter(s.name)
		if err := s.run(j, t); err != nil {
			j.ended, j.at = err, s.name
			return j
		}
		j.done[s.name] = true
	}
	return j
}

// reached is nil if a step was made. Else its error is a failure if the site did not do
// what the step waited for, and leaves open what is asked in all other cases.
func (j *journey) reached(step string) error {
	if j.done[step] {
		return nil
	}
	if gap, ok := errors.AsType[*missing](j.ended); ok && j.at == step {
		return phase.Failf("%s: %w", step, gap)
	}
	return fmt.Errorf("the journey ended at %q: %w", j.at, j.ended)
}

func (j *journey) goTo(t *tab, path string) (status int, err error) {
	return t.load(path, chromedp.Navigate(j.URL+path))
}

// visit goes to a page for users, and has to get there.
func (j *journey) visit(t *tab, path string) error {
	if _, err := j.goTo(t, path); err != nil {
		return err
	}
	at, err := here(t)
	if err == nil && at != path {
		err = &missing{what: path + " led elsewhere", saw: t.saw()}
	}
	return err
}

// here is the path and query of the page.
func here(t *tab) (string, error) { return read[string](t, `location.pathname + location.search`) }

func (j *journey) stepSignedOut(t *tab) error {
	if err := t.set(looks[0]); err != nil {
		return err
	}
	for _, path := range []string{"/dashboard", "/github", "/security", "/"} {
		g := guarded{path: path}
		var err error
		if g.status, err = j.goTo(t, path); err != nil {
			return err
		}
		if g.at, err = here(t); err != nil {
			return err
		}
		if g.form, err = read[bool](t, `!!document.querySelector("form[action='/login'] [name=password]")`); err != nil {
			return err
		}
		j.guarded = append(j.guarded, g)
	}
	if _, err := j.goTo(t, "/register"); err != nil {
		return err
	}
	if err := j.inspect(t, "register"); err != nil {
		return err
	}
	if _, err := j.goTo(t, "/login"); err != nil {
		return err
	}
	return j.inspect(t, "login")
}

const loginForm = "form[action='/login']"

func (j *journey) stepWrongPassword(t *tab) (err error) {
	if j.wrong.status, err = t.fill(loginForm, [2]string{"username", demoUser}, [2]string{"password", "wrong-" + rand.Text()}); err != nil {
		return err
	}
	if j.wrong.said, err = read[string](t, `[...document.querySelectorAll("[role=alert]")].map(e => e.innerText).join(" ").trim()`); err != nil {
		return err
	}
	if j.wrong.kept, err = read[string](t, `document.querySelector("[name=password]")?.value ?? "no field"`); err != nil {
		return err
	}
	cookies, err := t.cookies(j.URL)
	j.wrong.cookies = len(cookies)
	return err
}

func (j *journey) stepLogin(t *tab) error {
	if _, err := t.fill(loginForm, [2]string{"username", demoUser}, [2]string{"password", demoPassword}); err != nil {
		return err
	}
	c := &j.cookie
	var err error
	if c.landed, err = here(t); err != nil {
		return err
	}
	cookies, err := t.cookies(j.URL)
	if err != nil {
		return err
	}
	for _, got := range cookies {
		c.name, c.httpOnly, c.sameSite = got.Name, got.HTTPOnly, string(got.SameSite)
	}
	if c.readable, err = read[string](t, `document.cookie`); err != nil {
		return err
	}
	if _, err := t.load("the reload", chromedp.Reload()); err != nil {
		return err
	}
	if c.reloaded, err = here(t); err != nil {
		return err
	}
	if c.user, err = read[bool](t, `document.body.innerText.includes("`+demoUser+`")`); err != nil {
		return err
	}
	c.sent = j.travelled(c.reloaded, c.name)
	if c.landed != "/dashboard" {
		return nil // for the check to say
	}
	return j.inspect(t, "dashboard")
}

// travelled says whether a cookie went with the newest request for a page.
func (j *journey) travelled(path, name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.requests) - 1; i >= 0; i-- {
		r := j.requests[i]
		if u, err := url.Parse(r.url); err == nil && r.kind == "Document" && u.RequestURI() == path {
			for _, sent := range j.sent[r.id] {
				if sent == name {
					return name != ""
				}
			}
			return false
		}
	}
	return false
}

const board = `[...document.querySelectorAll("[data-board]")]`

func (j *journey) stepSecurity(t *tab) error {
	s := &j.security
	if err := j.visit(t, "/security"); err != nil {
		return err
	}
	// A denied edge is tried until its time is up, and there may be many.
	if err := t.until(4*time.Minute, "every edge to be tried",
		`document.querySelectorAll("tr[data-address]").length > 0 && [...document.querySelectorAll("tr[data-address]")].every(e => !["waiting", "trying"].includes(e.dataset.state))`); err != nil {
		return err
	}
	var err error
	if s.edges, err = read[[]edge](t, board+`.flatMap(b => [...b.querySelectorAll("tr[data-address]")].map(e => ({
		from: b.dataset.board, to: e.querySelector("th").innerText.split("\n")[0], address: e.dataset.address, allowed: e.dataset.allowed === "true",
		outcome: e.dataset.outcome ?? "", state: e.dataset.state, text: e.querySelector("[data-got]").innerText})))`); err != nil {
		return err
	}
	if err := t.until(patience, "the verdict", `!document.querySelector("[data-again]").disabled`); err != nil {
		return err
	}
	if s.verdict, err = read[string](t, `document.querySelector("[data-progress-text]").innerText`); err != nil {
		return err
	}
	if s.ids, err = read[[]string](t, board+`.map(b => b.querySelector(".svid-id")?.innerText ?? "")`); err != nil {
		return err
	}
	const user = `document.querySelector("[data-db-user]").innerText`
	if s.before, err = read[string](t, user); err != nil {
		return err
	}
	if err := t.within(patience, "the button that rotates", func(ctx context.Context) error {
		return chromedp.Do(ctx, chromedp.Click(chromedp.CSS("[data-rotate] button"), chromedp.NodeVisible))
	}); err != nil {
		return err
	}
	if err := t.until(patience, "the database user to change", `!document.querySelector("[data-rotate] button").disabled && document.querySelector("[data-swap]").innerText !== ""`); err != nil {
		return err
	}
	if s.swap, err = read[string](t, `document.querySelector("[data-swap]").innerText`); err != nil {
		return err
	}
	if s.after, err = read[string](t, user); err != nil {
		return err
	}
	const lives = board + `.map(b => b.querySelector("[data-left]")?.innerText ?? "")`
	if s.lives[0], err = read[[]string](t, lives); err != nil {
		return err
	}
	start := time.Now()
	if err := t.until(patience, "the SVID's remaining life to change", lives+`[0] !== `+strconv.Quote(first(s.lives[0]))); err != nil {
		return err
	}
	s.between = time.Since(start)
	if s.lives[1], err = read[[]string](t, lives); err != nil {
		return err
	}
	return j.inspect(t, "security")
}

func first(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// fetch makes a call from inside the page, as its scripts would.
func (j *journey) fetch(t *tab, name, method, path string, body any, want int, holds string) error {
	c := call{name: name, method: method, path: path, want: want, holds: holds}
	options := map[string]any{"method": method}
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		options["headers"], options["body"] = map[string]string{"Content-Type": "application/json"}, string(text)
	}
	o, err := json.Marshal(options)
	if err != nil {
		return err
	}
	got, err := read[struct {
		Status int    `json:"status"`
		Kind   string `json:"kind"`
		Body   string `json:"body"`
	}](t, fmt.Sprintf(`fetch(%q, %s).then(async r => ({status: r.status, kind: r.headers.get("Content-Type") ?? "", body: await r.text()}))`, path, o))
	if err != nil {
		return fmt.Errorf("fetch %s: %w", path, err)
	}
	c.got, c.kind, c.body = got.Status, got.Kind, got.Body
	j.calls = append(j.calls, c)
	return nil
}

// stepAPI goes through the routes that sign in and out, and ends as a new user.
func (j *journey) stepAPI(t *tab) error {
	// A page that asks for nothing by itself while sessions come and go.
	if err := j.visit(t, "/dashboard"); err != nil {
		return err
	}
	name := "visitor-" + strings.ToLower(rand.Text()[:10])
	j.github.user = name
	for _, c := range []struct {
		name, method, path string
		body               any
		want               int
		holds              string
	}{
		{"me", "GET", "/api/auth/me", nil, 200, `"username":"` + demoUser + `"`},
		{"ready", "GET", "/api/health/ready", nil, 200, `"status":"ready"`},
		{"logout", "POST", "/api/auth/logout", struct{}{}, 200, `"message":`},
		{"me, signed out", "GET", "/api/auth/me", nil, 401, `"error":`},
		{"login, wrong password", "POST", "/api/auth/login", login{demoUser, "wrong-" + rand.Text()}, 401, `"error":`},
		{"login", "POST", "/api/auth/login", login{demoUser, demoPassword}, 200, `"username":"` + demoUser + `"`},
		{"me, signed in again", "GET", "/api/auth/me", nil, 200, `"username":"` + demoUser + `"`},
		{"logout again", "POST", "/api/auth/logout", struct{}{}, 200, `"message":`},
		{"register", "POST", "/api/auth/register", map[string]string{"username": name, "email": name + "@precinct99.example", "password": rand.Text()}, 201, `"username":"` + name + `"`},
		{"me, registered", "GET", "/api/auth/me", nil, 200, `"username":"` + name + `"`},
	} {
		if err := j.fetch(t, c.name, c.method, c.path, c.body, c.want, c.holds); err != nil {
			return err
		}
	}
	return nil
}

type login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

const tokenForm = "form[action='/github']"

// stepGitHub stores a token as the new user, who has none yet.
func (j *journey) stepGitHub(t *tab) error {
	g := &j.github
	if err := j.visit(t, "/github"); err != nil {
		return err
	}
	var err error
	if g.empty, err = read[bool](t, `!document.querySelector(".repo-list") && !!document.querySelector("`+tokenForm+` [name=token]")`); err != nil {
		return err
	}
	if err := j.inspect(t, "github-no-token"); err != nil {
		return err
	}
	if g.status, err = t.fill(tokenForm, [2]string{"token", "ghp_demo_" + rand.Text()}); err != nil {
		return err
	}
	if g.owner, err = read[string](t, `document.querySelector("[aria-labelledby=owner] dd")?.innerText ?? ""`); err != nil {
		return err
	}
	for page := 1; page <= 50; page++ {
		names, err := read[[]string](t, `[...document.querySelectorAll(".repo-name a")].map(e => e.innerText)`)
		if err != nil {
			return err
		}
		g.pages = append(g.pages, names)
		if page == 1 {
			if err := j.inspect(t, "github"); err != nil {
				return err
			}
		}
		more, err := read[bool](t, `!!document.querySelector("a[rel=next]")`)
		if err != nil || !more {
			return err
		}
		if _, err := t.load("the next page of repositories", chromedp.Click(chromedp.CSS("a[rel=next]"), chromedp.NodeVisible)); err != nil {
			return err
		}
	}
	return nil
}

func (j *journey) stepGitHubAPI(t *tab) error {
	for _, c := range []struct {
		name, method, path string
		body               any
		holds              string
	}{
		{"configure", "POST", "/api/github/configure", map[string]string{"token": "ghp_demo_" + rand.Text()}, `"message":`},
		{"user", "GET", "/api/github/user", nil, `"login":"`},
		{"repos", "GET", "/api/github/repos?page=1&per_page=2", nil, `"repositories":[{`},
	} {
		if err := j.fetch(t, c.name, c.method, c.path, c.body, http.StatusOK, c.holds); err != nil {
			return err
		}
	}
	return nil
}

func (j *journey) stepSignOut(t *tab) error {
	if _, err := t.load("signing out", chromedp.Click(chromedp.CSS("form[action='/logout'] button"), chromedp.NodeVisible)); err != nil {
		return err
	}
	g := guarded{path: "/dashboard"}
	var err error
	if g.status, err = j.goTo(t, g.path); err != nil {
		return err
	}
	if g.at, err = here(t); err != nil {
		return err
	}
	g.form, err = read[bool](t, `!!document.querySelector("form[action='/login'] [name=password]")`)
	j.guarded = append(j.guarded, g)
	return err
}

// inspect looks at the page in all ways, and takes its pictures.
func (j *journey) inspect(t *tab, name string) error {
	p := page{name: name}
	var err error
	if p.nameless, err = t.nameless(); err != nil {
		return err
	}
	if p.headings, err = read[int](t, `document.querySelectorAll("h1").length`); err != nil {
		return err
	}
	if p.mains, err = read[int](t, `document.querySelectorAll("main").length`); err != nil {
		return err
	}
	if p.language, err = read[string](t, `document.documentElement.lang`); err != nil {
		return err
	}
	for _, l := range looks {
		if err := t.set(l); err != nil {
			return err
		}
		if l.phone {
			if p.width, err = read[int](t, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)`); err != nil {
				return err
			}
		}
		if j.ScreenshotDir == "" {
			continue
		}
		file, err := j.shoot(t, name+"-"+l.name+".png")
		if err != nil {
			return err
		}
		p.shots = append(p.shots, file)
	}
	j.pages = append(j.pages, p)
	return t.set(looks[0])
}

func (j *journey) shoot(t *tab, file string) (string, error) {
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		return "", fmt.Errorf("screenshot %s: %w", file, err)
	}
	return file, cmp.Or(os.MkdirAll(j.ScreenshotDir, 0o755), os.WriteFile(filepath.Join(j.ScreenshotDir, file), png, 0o644))
}
