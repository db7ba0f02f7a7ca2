package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// sessionCookie is the backend's; it is the only one that travels.
const sessionCookie = "precinct_session"

// User is who is signed in.
type User struct {
	ID        int       `json:"id"`
	Username  string    `json:"username"`
	Email     string    `json:"email"`
	FullName  string    `json:"full_name"`
	CreatedAt time.Time `json:"created_at"`
}

// Name is what a page calls the user.
func (u User) Name() string { return cmp.Or(strings.TrimSpace(u.FullName), u.Username) }

// Initials are at most two letters of the name.
func (u User) Initials() string { return initials(u.Name()) }

func initials(name string) string {
	var first []rune
	for word := range strings.FieldsSeq(name) {
		if len(first) < 2 {
			first = append(first, []rune(word)[0])
		}
	}
	return strings.ToUpper(string(first))
}

// Health is what the backend says of what it needs.
type Health struct {
	Status       string                        `json:"status"`
	Dependencies map[string]service.Dependency `json:"dependencies"`
}

// GitHubUser is the owner of the stored token.
type GitHubUser struct {
	Login       string `json:"login"`
	Name        string `json:"name"`
	PublicRepos int    `json:"public_repos"`
	Followers   int    `json:"followers"`
	Bio         string `json:"bio"`
}

// Initials stand in for the avatar: the page loads nothing from elsewhere.
func (u GitHubUser) Initials() string { return initials(cmp.Or(u.Name, u.Login)) }

// Repositories is one page of them.
type Repositories struct {
	Repositories []Repository `json:"repositories"`
	NextPage     int          `json:"next_page"`
}

// Repository is one of the user's.
type Repository struct {
	Name        string    `json:"name"`
	FullName    string    `json:"full_name"`
	Description string    `json:"description"`
	Private     bool      `json:"private"`
	Language    string    `json:"language"`
	Stars       int       `json:"stars"`
	UpdatedAt   time.Time `json:"updated_at"`
	URL         string    `json:"url"`
}

// Database is the credential that the backend uses now.
type Database struct {
	User       string    `json:"user"`
	ServerUser string    `json:"server_user"`
	Since      time.Time `json:"since"`
	Expires    time.Time `json:"expires"`
	Rotations  int       `json:"rotations"`
}

// Rotation is one change of that credential.
type Rotation struct {
	OldUser string  `json:"old_user"`
	NewUser string  `json:"new_user"`
	OldGone bool    `json:"old_gone"`
	Seconds float64 `json:"seconds"`
}

// refusal is an answer of the backend that is no success, or of this program where
// the backend gave none.
type refusal struct {
	Status     int    `json:"-"`
	Sentence   string `json:"error"`
	Field      string `json:"field"`
	RequestID  string `json:"request_id"`
	RetryAfter string `json:"-"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%d: %s", r.Status, r.Sentence) }

// status is that of a refusal, 0 for another error or none.
func status(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.Status
	}
	return 0
}

// unreachable says in plain words why the backend gave no answer. Who may see it must
// not learn host names and addresses from it.
func unreachable(self identity.X509, err error) *refusal {
	switch lack := identity.Check(self); {
	case lack != nil:
		return &refusal{Status: http.StatusServiceUnavailable, RetryAfter: "2",
			Sentence: "The frontend has no identity (SVID) to show to the backend: " + lack.Error() + "."}
	case errors.Is(err, errImpostor):
		return &refusal{Status: http.StatusBadGateway,
			Sentence: "Whoever answers in the backend's place could not prove to be the backend, so nothing was sent there."}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{Status: http.StatusServiceUnavailable, RetryAfter: "5", Sentence: "The backend took too long to answer."}
	}
	return &refusal{Status: http.StatusServiceUnavailable, RetryAfter: "5", Sentence: "The backend does not answer at the moment."}
}

// backend is the API behind this site.
type backend struct {
	base      *url.URL
	transport http.RoundTripper
	self      identity.X509
}

// answerTime is how long the backend may take, a little less than this site itself may.
const answerTime = 28500 * time.Millisecond

// answerLimit is more than any answer of the backend to a page.
const answerLimit = 1 << 20

// call asks the backend on behalf of a browser's request: with its session and its
// request ID and nothing else of it. A nil in sends no body; out gets the answer, also
// that of a refusal. The cookies are those that the backend sets.
func (b *backend) call(r *http.Request, method, path string, in, out any) ([]*http.Cookie, error) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	target := b.base.String() + path
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	carry(req.Header, r)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		return nil, unreachable(b.self, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, unreachable(b.self, err)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil && resp.StatusCode < 300 {
			return nil, &refusal{Status: http.StatusBadGateway, Sentence: "The backend gave an answer that makes no sense."}
		}
	}
	if resp.StatusCode >= 300 {
		no := &refusal{}
		_ = json.Unmarshal(text, no)
		no.Status, no.RetryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
		no.Sentence = cmp.Or(no.Sentence, "the backend gave no reason")
		return ours(resp.Cookies()), no
	}
	return ours(resp.Cookies()), nil
}

// carry puts on a request to the backend what travels of the browser's: the session
// and the request's ID.
func carry(h http.Header, r *http.Request) {
	if c, err := r.Cookie(sessionCookie); err == nil {
		h.Set("Cookie", sessionCookie+"="+c.Value)
	}
	if id := service.RequestID(r.Context()); id != "" {
		h.Set("X-Request-Id", id)
	}
}

// ours are the cookies that may reach the browser.
func ours(all []*http.Cookie) []*http.Cookie {
	var kept []*http.Cookie
	for _, c := range all {
		if c.Name == sessionCookie {
			kept = append(kept, c)
		}
	}
	return kept
}

// me is who is signed in. The error is a refusal with status 401 if nobody is.
func (b *backend) me(r *http.Request) (User, error) {
	if c, err := r.Cookie(sessionCookie); err != nil || c.Value == "" {
		return User{}, &refusal{Status: http.StatusUnauthorized, Sentence: "not signed in"}
	}
	var got struct {
		User User `json:"user"`
	}
	_, err := b.call(r, http.MethodGet, "/api/auth/me", nil, &got)
	return got.User, err
}

// health is the backend's readiness: an answer also where it is not ready.
func (b *backend) health(r *http.Request) (Health, error) {
	var got Health
	_, err := b.call(r, http.MethodGet, "/api/health/ready", nil, &got)
	if status(err) == http.StatusServiceUnavailable && got.Status != "" {
		err = nil
	}
	return got, err
}

func (b *backend) edges(r *http.Request) (edge.List, error) {
	var got edge.List
	_, err := b.call(r, http.MethodGet, "/api/demo/edges", nil, &got)
	return got, err
}

func (b *backend) svid(r *http.Request) (identity.Info, error) {
	var got identity.Info
	_, err := b.call(r, http.MethodGet, "/api/demo/svid", nil, &got)
	return got, err
}

func (b *backend) database(r *http.Request) (Database, error) {
	var got Database
	_, err := b.call(r, http.MethodGet, "/api/demo/database", nil, &got)
	return got, err
}

// refusalOf is any error as a refusal.
func refusalOf(err error) *refusal {
	if no, ok := errors.AsType[*refusal](err); ok {
		return no
	}
	return &refusal{Status: http.StatusInternalServerError, Sentence: "something went wrong here"}
}
