package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/go-github/v84/github"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

var (
	errNoToken      = &problem{status: http.StatusNotFound, sentence: "no GitHub token stored"}
	errTokenRefused = &problem{status: http.StatusUnprocessableEntity, sentence: "GitHub refused the token"}
	errGitHubAnswer = &problem{status: http.StatusBadGateway, sentence: "GitHub gave an unexpected answer", after: 10 * time.Second}
	errGitHubDown   = &problem{status: http.StatusServiceUnavailable, sentence: "GitHub is not reachable", after: 10 * time.Second}
)

// githubClient is a client for one request: go-github remembers a rate limit, and one
// user's is not another's.
func (b *backend) githubClient(token string) *github.Client {
	c := github.NewClient(b.GitHub).WithAuthToken(token)
	c.BaseURL = b.github
	c.UserAgent = "precinct-99"
	return c
}

// githubError tells what GitHub refused. The cause is for the log: go-github's errors
// hold the request's address and GitHub's message, and never the token.
func githubError(err error) error {
	p := errGitHubDown
	if limit, ok := errors.AsType[*github.RateLimitError](err); ok {
		p = rateLimited(time.Until(limit.Rate.Reset.Time))
	} else if limit, ok := errors.AsType[*github.AbuseRateLimitError](err); ok {
		p = rateLimited(limit.GetRetryAfter())
	} else if answer, ok := errors.AsType[*github.ErrorResponse](err); ok {
		switch answer.Response.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			p = errTokenRefused
		case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			p = errGitHubDown
		default:
			p = errGitHubAnswer
		}
	}
	return fmt.Errorf("%w: %w", p, err)
}

func rateLimited(after time.Duration) *problem {
	after = min(max(after.Round(time.Second), time.Second), time.Hour)
	return &problem{status: http.StatusTooManyRequests, after: after,
		sentence: fmt.Sprintf("GitHub limits the requests of this token: try again in %s", after)}
}

func tokenPath(u *user) string { return "github/" + strconv.FormatInt(u.ID, 10) }

// token is the user's GitHub token.
func (b *backend) token(ctx context.Context, u *user) (token string, err error) {
	err = b.sessions.Use(ctx, func(s *session) error {
		data, err := s.login.Get(ctx, tokenPath(u))
		token, _ = data["token"].(string)
		return err
	})
	if errors.Is(err, vault.ErrNotFound) || err == nil && token == "" {
		return "", errNoToken
	}
	return token, err
}

func (b *backend) postGitHubToken(w http.ResponseWriter, r who) error {
	var in struct {
		Token string `json:"token"`
	}
	if err := decode(w, r.Request, &in); err != nil {
		return err
	}
	if err := check(field{name: "token", value: in.Token, most: 255, ok: isToken, rule: "is not a GitHub token"}); err != nil {
		return err
	}
	u, _, err := b.githubClient(in.Token).Users.Get(r.Context(), "")
	if err != nil {
		return githubError(err)
	}
	if err := b.sessions.Use(r.Context(), func(s *session) error {
		return s.login.Put(r.Context(), tokenPath(r.user), map[string]any{"token": in.Token})
	}); err != nil {
		return err
	}
	service.JSON(w, http.StatusOK, map[string]string{"message": "GitHub token stored", "login": u.GetLogin()})
	return nil
}

func (b *backend) getGitHubUser(w http.ResponseWriter, r who) error {
	token, err := b.token(r.Context(), r.user)
	if err != nil {
		return err
	}
	u, _, err := b.githubClient(token).Users.Get(r.Context(), "")
	if err != nil {
		return githubError(err)
	}
	service.JSON(w, http.StatusOK, map[string]any{
		"login":        u.GetLogin(),
		"name":         u.GetName(),
		"avatar_url":   u.GetAvatarURL(),
		"url":          u.GetHTMLURL(),
		"bio":          u.GetBio(),
		"company":      u.GetCompany(),
		"public_repos": u.GetPublicRepos(),
		"followers":    u.GetFollowers(),
	})
	return nil
}

// repository is what the site shows of one.
type repository struct {
	Name        string    `json:"name"`
	FullName    string    `json:"full_name"`
	Description string    `json:"description"`
	Private     bool      `json:"private"`
	Language    string    `json:"language"`
	Stars       int       `json:"stars"`
	UpdatedAt   time.Time `json:"updated_at"`
	URL         string    `json:"url"`
}

func (b *backend) getRepositories(w http.ResponseWriter, r who) error {
	page, err := number(r.Request, "page", 1, 10000)
	if err != nil {
		return err
	}
	perPage, err := number(r.Request, "per_page", 30, 100)
	if err != nil {
		return err
	}
	token, err := b.token(r.Context(), r.user)
	if err != nil {
		return err
	}
	found, answer, err := b.githubClient(token).Repositories.ListByAuthenticatedUser(r.Context(),
		&github.RepositoryListByAuthenticatedUserOptions{ListOptions: github.ListOptions{Page: page, PerPage: perPage}})
	if err != nil {
		return githubError(err)
	}
	list := make([]repository, 0, len(found))
	for _, f := range found {
		list = append(list, repository{
			Name: f.GetName(), FullName: f.GetFullName(), Description: f.GetDescription(), Private: f.GetPrivate(),
			Language: f.GetLanguage(), Stars: f.GetStargazersCount(), UpdatedAt: f.GetUpdatedAt().UTC(), URL: f.GetHTMLURL(),
		})
	}
	service.JSON(w, http.StatusOK, map[string]any{"repositories": list, "next_page": answer.NextPage})
	return nil
}

// number is a query's value between 1 and most.
func number(r *http.Request, name string, without, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return without, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, &problem{status: http.StatusBadRequest, sentence: fmt.Sprintf("%s has to be a number from 1 to %d", name, most)}
	}
	return n, nil
}
