package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-github/v84/github"
)

// client is go-github on the stub: what it makes of the answers is what counts.
func client(t *testing.T, token string) *github.Client {
	t.Helper()
	server := httptest.NewServer(Handler(time.Now))
	t.Cleanup(server.Close)
	c := github.NewClient(nil)
	if token != "" {
		c = c.WithAuthToken(token)
	}
	c.BaseURL, _ = url.Parse(server.URL + "/")
	return c
}

func TestUser(t *testing.T) {
	for token, want := range map[string]string{"ghp_demo_jake": "jake-peralta", "ghp_demo_amy": "amy-santiago", "ghp_demo_x1": "jake-peralta"} {
		u, answer, err := client(t, token).Users.Get(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if u.GetLogin() != want || u.GetPublicRepos() == 0 || u.GetName() == "" {
			t.Errorf("%s is %+v", token, u)
		}
		if answer.Rate.Limit != hourly || answer.Rate.Remaining != hourly-1 || !answer.Rate.Reset.After(time.Now()) {
			t.Errorf("rate is %+v", answer.Rate)
		}
	}
}

func TestPages(t *testing.T) {
	for _, tc := range []struct{ perPage, pages int }{{0, 2}, {10, 4}, {37, 1}, {100, 1}, {1000, 1}} {
		c := client(t, "ghp_demo_jake")
		opts := &github.RepositoryListByAuthenticatedUserOptions{ListOptions: github.ListOptions{PerPage: tc.perPage}}
		seen, pages := map[string]bool{}, 0
		for {
			found, answer, err := c.Repositories.ListByAuthenticatedUser(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, r := range found {
				seen[r.GetFullName()] = true
			}
			if pages > 1 && answer.PrevPage != pages-1 {
				t.Errorf("page %d has %d before it", pages, answer.PrevPage)
			}
			if answer.NextPage == 0 {
				break
			}
			opts.Page = answer.NextPage
		}
		if len(seen) != len(catalogue) || pages != tc.pages {
			t.Errorf("by %d: %d repositories on %d pages, want %d on %d", tc.perPage, len(seen), pages, len(catalogue), tc.pages)
		}
	}
}

func TestBeyondTheLastPage(t *testing.T) {
	found, answer, err := client(t, "ghp_demo_jake").Repositories.ListByAuthenticatedUser(t.Context(),
		&github.RepositoryListByAuthenticatedUserOptions{ListOptions: github.ListOptions{Page: 99}})
	if err != nil || len(found) != 0 || answer.NextPage != 0 || answer.PrevPage != 2 {
		t.Errorf("got %d repositories, %+v, %v", len(found), answer, err)
	}
}

func TestBadTokens(t *testing.T) {
	for _, token := range []string{"", "ghp_real", "demo_ghp_", "GHP_DEMO_jake"} {
		_, _, err := client(t, token).Users.Get(t.Context(), "")
		answer, ok := errors.AsType[*github.ErrorResponse](err)
		if !ok || answer.Response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestALimitedToken(t *testing.T) {
	_, _, err := client(t, "ghp_demo_limited").Users.Get(t.Context(), "")
	limit, ok := errors.AsType[*github.RateLimitError](err)
	if !ok || limit.Rate.Remaining != 0 || !limit.Rate.Reset.After(time.Now()) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	_, _, err := client(t, "ghp_demo_jake").Users.Get(t.Context(), "amy")
	answer, ok := errors.AsType[*github.ErrorResponse](err)
	if !ok || answer.Response.StatusCode != http.StatusNotFound {
		t.Errorf("got %v", err)
	}
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range catalogue {
		if seen[r.name] || r.description == "" || r.language == "" {
			t.Errorf("%+v", r)
		}
		seen[r.name] = true
	}
}

func ExampleHandler() {
	r := httptest.NewRequest("GET", "/user", nil)
	r.Header.Set("Authorization", "Bearer something-else")
	w := httptest.NewRecorder()
	Handler(time.Now).ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)
	// Output: 401 {"documentation_url":"https://docs.github.com/rest","message":"Bad credentials","status":"401"}
}
