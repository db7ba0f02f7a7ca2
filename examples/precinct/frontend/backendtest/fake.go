package backendtest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// Fake is the backend. Its tokens: ghp_demo_… is good, one that holds "limited" is rate-limited,
// ghp_down finds GitHub down, any other is refused.
type Fake struct {
	// Outcomes are what comes of trying an address; those that the intent allows connect
	// and the others time out, unless it says otherwise.
	Outcomes map[string]edge.Outcome
	// Delay is how long a try takes that times out.
	Delay time.Duration
	SVID  func() identity.Info

	mu       sync.Mutex
	users    map[string]*user
	sessions map[string]*user
	down     map[string]string
	database string
	since    time.Time
	rotated  int
	seen     []*http.Request
}

type user struct {
	ID        int       `json:"id"`
	Username  string    `json:"username"`
	Email     string    `json:"email"`
	FullName  string    `json:"full_name"`
	CreatedAt time.Time `json:"created_at"`

	password, token string
}

// New has one user: jake, whose password is jake-precinct99.
func New() *Fake {
	joined := time.Date(2013, time.September, 17, 20, 30, 0, 0, time.UTC)
	return &Fake{
		SVID:     func() identity.Info { return identity.Info{SPIFFEID: "spiffe://demo.local/ns/99-apps/sa/backend"} },
		users:    map[string]*user{"jake": {1, "jake", "jake@precinct99.example", "Jake Peralta", joined, "jake-precinct99", ""}},
		sessions: map[string]*user{}, down: map[string]string{},
		database: databaseUser(), since: time.Now(),
	}
}

func databaseUser() string {
	return fmt.Sprintf("v-jwt-back-backend-%s-%d", rand.Text()[:20], time.Now().Unix())
}

// Edges are the backend's.
var Edges = edge.List{From: "backend", Edges: []edge.Edge{
	{To: "frontend", Address: "frontend.99-apps.svc.cluster.local:3000"},
	{To: "githubstub", Address: "githubstub.99-apps.svc.cluster.local:8443", Allowed: true},
	{To: "postgres", Address: "postgres.99-data.svc.cluster.local:5432", Allowed: true},
	{To: "vault", Address: "vault.99-vault.svc.cluster.local:8200", Allowed: true},
	{To: "vault", Address: "vault.99-vault.svc.cluster.local:8201"},
}}

// Break says what is wrong with a dependency; "" mends it.
func (f *Fake) Break(dependency, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[dependency] = detail
}

// Rename is the user's full name from now on.
func (f *Fake) Rename(username, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users[username].FullName = name
}

// Seen are the requests so far, without their bodies.
func (f *Fake) Seen() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r.Clone(r.Context()))
	f.mu.Unlock()
	w.Header().Set("Server", "must-not-travel")
	http.SetCookie(w, &http.Cookie{Name: "other", Value: "must-not-travel"}) //nolint:gosec // for tests
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/auth/login", f.login)
	mux.HandleFunc("POST /api/auth/register", f.register)
	mux.HandleFunc("POST /api/auth/logout", f.logout)
	mux.HandleFunc("GET /api/health/ready", f.ready)
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request, *user){
		"GET /api/auth/me":           func(w http.ResponseWriter, _ *http.Request, u *user) { say(w, 200, map[string]any{"user": u}) },
		"POST /api/github/configure": f.configure,
		"GET /api/github/user":       f.githubUser,
		"GET /api/github/repos":      f.repos,
		"GET /api/demo/svid":         func(w http.ResponseWriter, _ *http.Request, _ *user) { say(w, 200, f.SVID()) },
		"GET /api/demo/database":     f.databaseNow,
		"POST /api/demo/rotate":      f.rotate,
		"GET /api/demo/edges":        func(w http.ResponseWriter, _ *http.Request, _ *user) { say(w, 200, Edges) },
		"POST /api/demo/edges":       f.try,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			var u *user
			if c, err := r.Cookie("precinct_session"); err == nil {
				u = f.sessions[c.Value]
			}
			down := f.down["database"]
			f.mu.Unlock()
			switch {
			case down != "":
				w.Header().Set("Retry-After", "5")
				no(w, 503, "the database is not available")
			case u == nil:
				no(w, 401, "not signed in")
			default:
				h(w, r, u)
			}
		})
	}
	mux.ServeHTTP(w, r)
}

func say(w http.ResponseWriter, status int, v any) { service.JSON(w, status, v) }

func no(w http.ResponseWriter, status int, sentence string) {
	say(w, status, map[string]string{"error": sentence, "request_id": "fake"})
}

func read(w http.ResponseWriter, r *http.Request) (map[string]string, bool) {
	in := map[string]string{}
	text, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, &in)
	}
	if err != nil {
		no(w, 400, "the request is not valid JSON")
	}
	return in, err == nil
}

func (f *Fake) enter(w http.ResponseWriter, u *user) {
	id := rand.Text()
	f.sessions[id] = u
	http.SetCookie(w, &http.Cookie{Name: "precinct_session", Value: id, Path: "/", MaxAge: 8 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode}) //nolint:gosec // plain HTTP on the loopback
}

func (f *Fake) login(w http.ResponseWriter, r *http.Request) {
	in, ok := read(w, r)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.users[in["username"]]
	if u == nil || u.password != in["password"] {
		no(w, 401, "invalid username or password")
		return
	}
	f.enter(w, u)
	say(w, 200, map[string]any{"message": "Login successful", "user": u})
}

func (f *Fake) register(w http.ResponseWriter, r *http.Request) {
	in, ok := read(w, r)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case in["username"] == "":
		no(w, 400, "username is missing")
	case len(in["password"]) < 8:
		no(w, 400, "password is shorter than 8 characters")
	case f.users[in["username"]] != nil:
		no(w, 409, "this username is taken")
	default:
		u := &user{len(f.users) + 1, in["username"], in["email"], "", time.Now().UTC(), in["password"], ""}
		f.users[u.Username] = u
		f.enter(w, u)
		say(w, 201, map[string]any{"message": "Registration successful", "user": u})
	}
}

func (f *Fake) logout(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, err := r.Cookie("precinct_session"); err == nil {
		delete(f.sessions, c.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: "precinct_session", Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode}) //nolint:gosec // plain HTTP on the loopback
	say(w, 200, map[string]string{"message": "Logged out"})
}

func (f *Fake) ready(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	down := maps.Clone(f.down)
	f.mu.Unlock()
	status, code, dependencies := "ready", 200, map[string]service.Dependency{}
	for _, name := range []string{"svid", "vault", "database"} {
		dependencies[name] = service.Dependency{OK: down[name] == "", Detail: down[name]}
		if down[name] != "" {
			status, code = "not ready", 503
		}
	}
	say(w, code, map[string]any{"status": status, "dependencies": dependencies})
}

func (f *Fake) configure(w http.ResponseWriter, r *http.Request, u *user) {
	in, ok := read(w, r)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch token := in["token"]; {
	case f.down["vault"] != "":
		no(w, 503, "the secret store is not available")
	case strings.Contains(token, "limited"):
		w.Header().Set("Retry-After", "1800")
		no(w, 429, "GitHub limits the requests of this token: try again in 30m0s")
	case token == "ghp_down":
		no(w, 503, "GitHub is not reachable")
	case !strings.HasPrefix(token, "ghp_demo_"):
		no(w, 422, "GitHub refused the token")
	default:
		u.token = token
		say(w, 200, map[string]string{"message": "GitHub token stored", "login": u.Username})
	}
}

func (f *Fake) hasToken(w http.ResponseWriter, u *user) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u.token == "" {
		no(w, 404, "no GitHub token stored")
	}
	return u.token != ""
}

func (f *Fake) githubUser(w http.ResponseWriter, _ *http.Request, u *user) {
	if f.hasToken(w, u) {
		say(w, 200, map[string]any{"login": u.Username, "name": u.FullName, "avatar_url": "https://avatars.example/1.png", "public_repos": 15})
	}
}

func (f *Fake) repos(w http.ResponseWriter, r *http.Request, u *user) {
	if !f.hasToken(w, u) {
		return
	}
	const total = 17
	page, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("page"), "1"))
	size, _ := strconv.Atoi(cmp.Or(r.URL.Query().Get("per_page"), "30"))
	names := []string{"pontiac-bandit", "halloween-heist", "die-hard-quotes", "case-board", "mattress-of-debt", "nakatomi"}
	texts := []string{"Everything known about one man, and still not enough.", "Plans, counter-plans, and a cummerbund.", "", "A board, some pins, a lot of string."}
	languages := []string{"Go", "TypeScript", "", "Python", "Shell"}
	list, next := []map[string]any{}, 0
	for i := (page - 1) * size; i < min(page*size, total); i++ {
		name := names[i%len(names)]
		if i >= len(names) {
			name += "-" + strconv.Itoa(i/len(names)+1)
		}
		list = append(list, map[string]any{
			"name": name, "full_name": u.Username + "/" + name, "description": texts[i%len(texts)], "private": i%5 == 2,
			"language": languages[i%len(languages)], "stars": (i*37 + 9) % 140,
			"updated_at": time.Date(2026, time.January, 2, 3, 0, 0, 0, time.UTC).AddDate(0, 0, -3*i), "url": "https://github.com/" + u.Username + "/" + name,
		})
	}
	if page*size < total {
		next = page + 1
	}
	say(w, 200, map[string]any{"repositories": list, "next_page": next})
}

func (f *Fake) databaseNow(w http.ResponseWriter, _ *http.Request, _ *user) {
	f.mu.Lock()
	defer f.mu.Unlock()
	say(w, 200, map[string]any{"user": f.database, "server_user": f.database, "since": f.since.UTC(), "expires": f.since.Add(time.Hour).UTC(), "rotations": f.rotated})
}

func (f *Fake) rotate(w http.ResponseWriter, _ *http.Request, _ *user) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.database
	f.database, f.since = databaseUser(), time.Now()
	f.rotated++
	say(w, 200, map[string]any{"old_user": old, "new_user": f.database, "old_gone": true, "seconds": 0.31})
}

func (f *Fake) try(w http.ResponseWriter, r *http.Request, _ *user) {
	in, ok := read(w, r)
	if !ok {
		return
	}
	for _, e := range Edges.Edges {
		if e.Address != in["address"] {
			continue
		}
		got := edge.Result{From: "backend", To: e.To, Address: e.Address, Allowed: e.Allowed, Outcome: edge.Timeout, Seconds: 0.004}
		if e.Allowed {
			got.Outcome = edge.Connected
		}
		got.Outcome = cmp.Or(f.Outcomes[e.Address], got.Outcome)
		if got.Outcome == edge.Timeout {
			got.Error, got.Seconds = "no answer in time", f.Delay.Seconds()
			select {
			case <-r.Context().Done():
			case <-time.After(f.Delay):
			}
		}
		say(w, 200, got)
		return
	}
	no(w, 400, edge.ErrNotListed.Error())
}
