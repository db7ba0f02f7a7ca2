package main

import (
	"cmp"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

const reposPerPage = 6

type githubView struct {
	Owner    *GitHubUser // nil: no token, or GitHub could not be asked
	Repos    []Repository
	Page     int
	Previous int // 0: none
	Next     int // 0: none
	Stored   bool
	Refused  *notice // why the token given was not stored
	Trouble  *notice // why there is nothing to show
}

// notice is something to tell, with its reason.
type notice struct{ Title, Text string }

func (s *site) githubPage(w http.ResponseWriter, r *http.Request, user User) {
	s.renderGitHub(w, r, user, nil)
}

// renderGitHub shows the page, with why a token was refused if it was.
func (s *site) renderGitHub(w http.ResponseWriter, r *http.Request, user User, refused error) {
	page, err := strconv.Atoi(r.URL.Query().Get("page"))
	if err != nil || page < 1 || page > 10000 {
		page = 1
	}
	v := githubView{Page: page, Stored: r.URL.Query().Get("stored") == "1"}
	code := http.StatusOK
	if refused != nil {
		no := refusalOf(refused)
		retryLater(w, no)
		code, v.Refused = no.Status, githubNotice(no)
	}
	if err := s.fillGitHub(r, &v); err != nil && status(err) != http.StatusNotFound {
		no := refusalOf(err)
		if no.Status == http.StatusUnauthorized {
			http.Redirect(w, r, "/login?next=%2Fgithub", http.StatusSeeOther)
			return
		}
		if v.Trouble = githubNotice(no); code == http.StatusOK {
			retryLater(w, no)
			code = no.Status
		}
	}
	s.render(w, code, "github", view{Title: "GitHub", User: &user, Data: v})
}

func (s *site) fillGitHub(r *http.Request, v *githubView) error {
	var owner GitHubUser
	if _, err := s.backend.call(r, http.MethodGet, "/api/github/user", nil, &owner); err != nil {
		return err
	}
	v.Owner = &owner
	var repos Repositories
	at := fmt.Sprintf("/api/github/repos?page=%d&per_page=%d", v.Page, reposPerPage)
	if _, err := s.backend.call(r, http.MethodGet, at, nil, &repos); err != nil {
		return err
	}
	v.Repos, v.Next = repos.Repositories, repos.NextPage
	v.Previous = v.Page - 1
	return nil
}

func githubNotice(no *refusal) *notice {
	title := map[int]string{
		http.StatusBadRequest:          "That is no token",
		http.StatusUnprocessableEntity: "GitHub refused the token",
		http.StatusTooManyRequests:     "GitHub asks for a pause",
		http.StatusBadGateway:          "GitHub does not answer",
		http.StatusServiceUnavailable:  "Out of reach for a moment",
	}[no.Status]
	text := sentence(no.Sentence)
	if seconds, err := strconv.Atoi(no.RetryAfter); err == nil && seconds > 0 && no.Status == http.StatusTooManyRequests && !strings.Contains(text, "try again") {
		text += fmt.Sprintf(" Try again in %s.", span(seconds))
	}
	return &notice{Title: cmp.Or(title, "That did not work"), Text: text}
}

func span(seconds int) string {
	switch {
	case seconds == 1:
		return "a second"
	case seconds < 120:
		return fmt.Sprintf("%d seconds", seconds)
	}
	return fmt.Sprintf("%d minutes", (seconds+59)/60)
}
