package precinct

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// FrontendProxy is the phase 4A: the site works in a real browser, by way of its own
// origin alone. install gets a browser where there is none; nil: there has to be one.
func FrontendProxy(b Browser, install func(context.Context) error) *phase.Phase {
	return &phase.Phase{
		Name: "4A-frontend-proxy",
		Doc:  "The site works in a real browser, which talks to one origin alone.",
		Apply: func(ctx context.Context) error {
			if _, err := b.find(); err == nil || install == nil {
				return nil
			}
			phase.Progress(ctx, "installing a browser")
			return install(ctx)
		},
		Checks: Checks(func(context.Context) (Browser, error) { return b, nil }),
	}
}

// Checks judge one journey through the site, which the first of them to run makes for
// all. It registers a user, and stores a GitHub token as that user.
func Checks(browser func(context.Context) (Browser, error)) []phase.Check {
	s := &shared{browser: browser}
	var all []phase.Check
	for _, c := range []struct {
		name, doc, hint string
		judge           func(*journey, *phase.Evidence) error
	}{
		{"same origin", "Every request of the whole journey goes to the site's own origin, and none needs a preflight.",
			"Look for an absolute URL in examples/precinct/frontend/templates or assets.", judgeOrigin},
		{"console clean", "No error, no violation of the content security policy and no failed request shows on the console.",
			"Open the site with the browser's developer tools; kubectl -n 99-apps logs deploy/frontend", judgeConsole},
		{"login cookie", "The login sets a cookie that no script and no other site can use, and that survives a reload.",
			"postLogin of the backend sets it; the frontend hands it on.", judgeCookie},
		{"signed out", "Pages for users lead to the login, and a wrong password is told so.",
			"kubectl -n 99-apps logs deploy/frontend", judgeSignedOut},
		{"API routes", "The eight same-origin routes answer a script of the page as they should.",
			"kubectl -n 99-apps logs deploy/backend; curl -i http://127.0.0.1:3000/api/health/ready", judgeAPI},
		{"GitHub page", "A new user stores a token, and then sees whose it is and all repositories, page by page.",
			"kubectl -n 99-apps logs deploy/backend deploy/githubstub", judgeGitHub},
		{"security page", "Every edge shows the verdict that the intent wants, the database user changes on request, and the SVIDs' lives run down.",
			"Compare with the edges of phase 4D, which have Hubble's account.", judgeSecurity},
		{"phone and labels", "No page scrolls sideways on a phone, and a screen reader has a name for every control.",
			"Look at the screenshots.", judgeLooks},
	} {
		all = append(all, phase.Check{Name: c.name, Doc: c.doc, Hint: c.hint, Run: func(ctx context.Context) (phase.Evidence, error) {
			j, err := s.journey(ctx, c.name)
			if err != nil {
				return phase.Evidence{}, err
			}
			ev := phase.Evidence{Source: cmp.Or(j.version, "no browser") + " at " + j.URL}
			if j.version == "" {
				return ev, j.ended
			}
			err = c.judge(j, &ev)
			return ev, err
		}})
	}
	return all
}

// shared is the journey of all checks of a run.
type shared struct {
	browser func(context.Context) (Browser, error)

	mu   sync.Mutex
	made *made
}

// made is a journey, under way or over, and who has asked for it.
type made struct {
	done  chan struct{}
	asked map[string]bool
	j     *journey
	err   error
}

// journey is the one of this run: a check that asks for the second time is in the next.
func (s *shared) journey(ctx context.Context, check string) (*journey, error) {
	s.mu.Lock()
	m := s.made
	mine := m == nil || m.asked[check]
	if mine {
		m = &made{done: make(chan struct{}), asked: map[string]bool{}}
		s.made = m
	}
	m.asked[check] = true
	s.mu.Unlock()
	if mine {
		defer close(m.done)
		var b Browser
		if b, m.err = s.browser(ctx); m.err == nil {
			b.URL = strings.TrimRight(b.URL, "/")
			m.j = travel(ctx, b)
		}
		return m.j, m.err
	}
	select {
	case <-m.done:
		return m.j, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// whole is nil if the journey was made to its end: what holds for all of it is not
// known before.
func (j *journey) whole() error {
	if j.ended != nil {
		return fmt.Errorf("the journey ended early, at %q: %w", j.at, j.ended)
	}
	return nil
}

// verdict is a failure if something is wrong.
func verdict(ev *phase.Evidence, wrong []string) error {
	if len(wrong) == 0 {
		return nil
	}
	return phase.Want(ev.Want, strings.Join(wrong, "; "))
}

func judgeOrigin(j *journey, ev *phase.Evidence) error {
	ev.Want = "all requests to " + j.URL + ", no OPTIONS"
	own, err := url.Parse(j.URL)
	if err != nil {
		return err
	}
	var wrong []string
	byKind := map[string]int{}
	for _, r := range j.requests {
		u, err := url.Parse(r.url)
		switch {
		case err == nil && (u.Scheme == "data" || u.Scheme == "blob" || u.Scheme == "about"):
			continue // no request over the network
		case err != nil || u.Scheme != own.Scheme || u.Host != own.Host:
			wrong = append(wrong, "to another origin: "+r.String())
		case r.method == "OPTIONS" || r.kind == "Preflight":
			wrong = append(wrong, "a preflight: "+r.String())
		}
		byKind[r.kind]++
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %d", kind, byKind[kind]))
	}
	ev.Got = fmt.Sprintf("%d requests, %d elsewhere or with a preflight", len(j.requests), len(wrong))
	if err := verdict(ev, wrong); err != nil {
		return err
	}
	return j.whole()
}

// asked are the requests that are refused because the journey wants to see that.
var asked = map[string]int{
	"POST /login":          401,
	"GET /api/auth/me":     401,
	"POST /api/auth/login": 401,
}

// wanted says whether a request's failure was asked for.
func wanted(r *request) bool {
	u, err := url.Parse(r.url)
	return err == nil && r.status != 0 && asked[r.method+" "+u.Path] == r.status
}

func judgeConsole(j *journey, ev *phase.Evidence) error {
	ev.Want = "no error and no warning but for the refusals that were asked for"
	var wrong []string
	refused := map[string]bool{}
	for _, r := range j.requests {
		switch {
		case wanted(r):
			refused[r.id] = true
			ev.Details = append(ev.Details, fmt.Sprintf("asked for: %s %d", r, r.status))
		case r.failed != "":
			wrong = append(wrong, r.failed+": "+r.String())
		case r.status >= 400:
			wrong = append(wrong, fmt.Sprintf("%d: %s", r.status, r))
		}
	}
	for _, m := range j.messages {
		if m.source == "network" && refused[m.request] {
			continue
		}
		wrong = append(wrong, m.String())
	}
	ev.Got = fmt.Sprintf("%d requests, %d messages; %d wrong", len(j.requests), len(j.messages), len(wrong))
	if err := verdict(ev, wrong); err != nil {
		return err
	}
	return j.whole()
}

func judgeCookie(j *journey, ev *phase.Evidence) error {
	ev.Want = "one cookie, HttpOnly, SameSite, unseen by scripts, sent again after a reload"
	if err := j.reached("login"); err != nil {
		return err
	}
	c := j.cookie
	ev.Got = fmt.Sprintf("cookie %q, HttpOnly %t, SameSite %q", c.name, c.httpOnly, c.sameSite)
	ev.Details = []string{"the login led to " + c.landed, "after a reload: " + c.reloaded}
	var wrong []string
	say := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	say(c.landed != "/dashboard", "the login led to %s", c.landed)
	say(c.name == "", "no cookie was set")
	say(c.name != "" && !c.httpOnly, "the cookie %s is not HttpOnly", c.name)
	say(c.name != "" && c.sameSite != "Lax" && c.sameSite != "Strict", "the cookie %s has SameSite %q", c.name, c.sameSite)
	say(c.readable != "", "document.cookie is not empty")
	say(c.reloaded != c.landed, "a reload led to %s", c.reloaded)
	say(!c.user, "after a reload the page does not know %s", demoUser)
	say(!c.sent, "the cookie was not sent with the reload")
	return verdict(ev, wrong)
}

func judgeSignedOut(j *journey, ev *phase.Evidence) error {
	ev.Want = "every page for users leads to the login; a wrong password: 401, an error, no cookie"
	var wrong []string
	for _, g := range j.guarded {
		ev.Details = append(ev.Details, fmt.Sprintf("%s → %s (%d)", g.path, g.at, g.status))
		next := "/login?next=" + url.QueryEscape(g.path)
		if g.path == "/" {
			next = "/login?next=" + url.QueryEscape("/dashboard")
		}
		if g.at != next || !g.form {
			wrong = append(wrong, fmt.Sprintf("%s led to %s, login form there: %t", g.path, g.at, g.form))
		}
	}
	if err := verdict(ev, wrong); err != nil {
		return err
	}
	if err := j.reached("wrong password"); err != nil {
		return err
	}
	w := j.wrong
	ev.Details = append(ev.Details, fmt.Sprintf("a wrong password: %d, %q", w.status, w.said))
	if w.status != 401 || w.said == "" {
		wrong = append(wrong, fmt.Sprintf("a wrong password was answered with %d, and the error %q", w.status, w.said))
	}
	if w.cookies > 0 {
		wrong = append(wrong, fmt.Sprintf("a wrong password left %d cookies", w.cookies))
	}
	if w.kept != "" {
		wrong = append(wrong, "the page gave the wrong password back")
	}
	ev.Got = fmt.Sprintf("%d pages led to the login; a wrong password: %d, %q", len(j.guarded), w.status, w.said)
	if err := verdict(ev, wrong); err != nil {
		return err
	}
	return j.reached("sign out")
}

func judgeAPI(j *journey, ev *phase.Evidence) error {
	ev.Want = "login, register, logout, me, configure, user, repos and ready answer with JSON as they should"
	var wrong []string
	for _, c := range j.calls {
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %s %s → %d", c.name, c.method, c.path, c.got))
		switch {
		case c.got != c.want:
			wrong = append(wrong, fmt.Sprintf("%s: %s %s answered %d, want %d", c.name, c.method, c.path, c.got, c.want))
		case !strings.Contains(c.body, c.holds):
			wrong = append(wrong, fmt.Sprintf("%s: the answer of %s holds no %s", c.name, c.path, c.holds))
		case !strings.HasPrefix(c.kind, "application/json"):
			wrong = append(wrong, fmt.Sprintf("%s: the answer of %s is %q", c.name, c.path, c.kind))
		}
	}
	ev.Got = fmt.Sprintf("%d calls, %d wrong", len(j.calls), len(wrong))
	if err := verdict(ev, wrong); err != nil {
		return err
	}
	return cmp.Or(j.reached("API"), j.reached("GitHub API"))
}

func judgeGitHub(j *journey, ev *phase.Evidence) error {
	ev.Want = "no token at first; then the owner of the token, and repositories on more than one page"
	if err := j.reached("GitHub page"); err != nil {
		return err
	}
	g := j.github
	seen := map[string]bool{}
	for i, names := range g.pages {
		ev.Details = append(ev.Details, fmt.Sprintf("page %d: %s", i+1, strings.Join(names, ", ")))
		for _, name := range names {
			seen[name] = true
		}
	}
	var wrong []string
	say := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	total := len(slices.Concat(g.pages...))
	say(!g.empty, "a new user did not see the form for a token alone")
	say(g.status != 200, "storing the token ended with %d", g.status)
	say(g.owner == "", "the page does not say whose token it is")
	say(len(g.pages) < 2, "%d pages of repositories", len(g.pages))
	say(len(seen) == 0, "no repositories")
	say(len(seen) != total, "%d repositories, of which %d are different ones", total, len(seen))
	ev.Got = fmt.Sprintf("owner %q, %d repositories on %d pages", g.owner, total, len(g.pages))
	return verdict(ev, wrong)
}

func judgeSecurity(j *journey, ev *phase.Evidence) error {
	ev.Want = "every allowed edge connected, every denied one without an answer, another database user, lives that run down"
	if err := j.reached("security page"); err != nil {
		return err
	}
	s := j.security
	var wrong []string
	say := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	count := map[bool]int{}
	from := map[string]bool{}
	for _, e := range s.edges {
		count[e.Allowed]++
		from[e.From] = true
		want := "timeout"
		if e.Allowed {
			want = "connected"
		}
		line := fmt.Sprintf("%s → %s %s: allowed %t, %s, shown as %q", e.From, e.To, e.Address, e.Allowed, e.Outcome, e.Text)
		ev.Details = append(ev.Details, line)
		say(e.Outcome != want || e.State != "match", "%s", line)
	}
	say(count[true] == 0 || count[false] == 0, "%d allowed and %d denied edges are no board", count[true], count[false])
	say(len(from) != len(s.ids) || len(from) < 2, "edges from %d pods, and %d identities", len(from), len(s.ids))
	for i, id := range s.ids {
		say(!strings.HasPrefix(id, "spiffe://"), "the identity %q", id)
		say(slices.Index(s.ids, id) != i, "two pods with the identity %s", id)
	}
	for i := range s.ids {
		a, okA := seconds(s.lives[0][i])
		b, okB := seconds(s.lives[1][i])
		ev.Details = append(ev.Details, fmt.Sprintf("%s has another %s, and %s after %.1f s", s.ids[i], s.lives[0][i], s.lives[1][i], s.between.Seconds()))
		// A new SVID in between is as good.
		say(!okA || !okB || a == 0 || b == 0 || a == b, "the SVID's life goes from %q to %q", s.lives[0][i], s.lives[1][i])
	}
	ev.Details = append(ev.Details, fmt.Sprintf("database user %s became %s", s.before, s.after), "the page says: "+s.verdict)
	say(s.before == "" || s.after == s.before, "the database user was %q and is %q", s.before, s.after)
	say(!strings.Contains(s.swap, s.before) || !strings.Contains(s.swap, s.after) || !strings.Contains(s.swap, "no longer exists"), "of the change the page says %q", s.swap)
	ev.Got = fmt.Sprintf("%d edges allowed, %d denied; %d wrong", count[true], count[false], len(wrong))
	return verdict(ev, wrong)
}

// seconds reads a life as the page shows it: 59:41, 1:00:00.
func seconds(life string) (n int, ok bool) {
	for part := range strings.SplitSeq(life, ":") {
		var value int
		if _, err := fmt.Sscanf(part, "%d", &value); err != nil {
			return 0, false
		}
		n = 60*n + value
	}
	return n, strings.Contains(life, ":")
}

func judgeLooks(j *journey, ev *phase.Evidence) error {
	ev.Want = fmt.Sprintf("every page fits %d px, every control has a name, one h1, one main", phoneWidth)
	var wrong []string
	shots := 0
	for _, p := range j.pages {
		if p.width > phoneWidth {
			wrong = append(wrong, fmt.Sprintf("%s needs %d px", p.name, p.width))
		}
		if len(p.nameless) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: no name for %s", p.name, strings.Join(p.nameless, ", ")))
		}
		if p.headings != 1 || p.mains != 1 || p.language == "" {
			wrong = append(wrong, fmt.Sprintf("%s has %d h1, %d main and the language %q", p.name, p.headings, p.mains, p.language))
		}
		shots += len(p.shots)
		for _, file := range p.shots {
			ev.Details = append(ev.Details, "screenshot "+file)
		}
	}
	ev.Got = fmt.Sprintf("%d pages, %d screenshots; %d wrong", len(j.pages), shots, len(wrong))
	if err := verdict(ev, wrong); err != nil {
		return err
	}
	return j.whole()
}
