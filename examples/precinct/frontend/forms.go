package main

import (
	"net/http"
	"net/url"
	"strings"
)

// Forms work without a script: each ends in a redirect, or in its own page again with
// what is wrong.

// form reads one of limited size.
func (s *site) form(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if no := readWhole(w, r); no != nil {
			s.fail(w, r, no)
			return
		}
		if err := r.ParseForm(); err != nil {
			s.fail(w, r, &refusal{Status: http.StatusBadRequest, Sentence: "The form could not be read."})
			return
		}
		next(w, r)
	}
}

// account is the login or the registration form. It never gives a password back.
type account struct {
	Username, Email, Next string
	Problem               string // "" for none
	Field                 string // which the problem is about, if one
	SignedOut             bool
}

func (s *site) loginPage(w http.ResponseWriter, r *http.Request) {
	next := localPath(r.FormValue("next"))
	if _, err := s.backend.me(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	s.render(w, http.StatusOK, "login", view{Title: "Sign in", Data: account{Next: next, SignedOut: r.FormValue("out") != ""}})
}

func (s *site) login(w http.ResponseWriter, r *http.Request) {
	form := account{Username: r.PostFormValue("username"), Next: localPath(r.PostFormValue("next"))}
	cookies, err := s.backend.call(r, http.MethodPost, "/api/auth/login", map[string]string{
		"username": form.Username, "password": r.PostFormValue("password"),
	}, nil)
	if err != nil {
		no := refusalOf(err)
		form.Problem, form.Field = sentence(no.Sentence), no.Field
		retryLater(w, no)
		s.render(w, no.Status, "login", view{Title: "Sign in", Data: form})
		return
	}
	enter(w, r, cookies, form.Next)
}

func (s *site) registerPage(w http.ResponseWriter, r *http.Request) {
	next := localPath(r.FormValue("next"))
	if _, err := s.backend.me(r); err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	s.render(w, http.StatusOK, "register", view{Title: "Register", Data: account{Next: next}})
}

func (s *site) register(w http.ResponseWriter, r *http.Request) {
	form := account{Username: strings.TrimSpace(r.PostFormValue("username")), Email: strings.TrimSpace(r.PostFormValue("email")),
		Next: localPath(r.PostFormValue("next"))}
	cookies, err := s.backend.call(r, http.MethodPost, "/api/auth/register", map[string]string{
		"username": form.Username, "email": form.Email, "password": r.PostFormValue("password"),
	}, nil)
	if err != nil {
		no := refusalOf(err)
		form.Problem, form.Field = sentence(no.Sentence), fieldOf(no)
		retryLater(w, no)
		s.render(w, no.Status, "register", view{Title: "Register", Data: form})
		return
	}
	enter(w, r, cookies, form.Next)
}

// fieldOf is which field of the registration a refusal is about: the one that it names.
func fieldOf(no *refusal) string {
	if no.Field != "" {
		return no.Field
	}
	if no.Status >= http.StatusInternalServerError {
		return ""
	}
	for _, name := range []string{"username", "email", "password"} {
		if strings.Contains(strings.ReplaceAll(no.Sentence, "e-mail", "email"), name) {
			return name
		}
	}
	return ""
}

// enter hands the session on to the browser.
func enter(w http.ResponseWriter, r *http.Request, cookies []*http.Cookie, next string) {
	for _, c := range cookies {
		w.Header().Add("Set-Cookie", c.Raw)
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (s *site) logout(w http.ResponseWriter, r *http.Request) {
	cookies, err := s.backend.call(r, http.MethodPost, "/api/auth/logout", nil, nil)
	if err != nil && status(err) != http.StatusUnauthorized {
		// Said aloud: the session is still there.
		s.fail(w, r, err)
		return
	}
	enter(w, r, cookies, "/login?out=1")
}

func (s *site) storeToken(w http.ResponseWriter, r *http.Request, user User) {
	_, err := s.backend.call(r, http.MethodPost, "/api/github/configure", map[string]string{
		"token": strings.TrimSpace(r.PostFormValue("token")),
	}, nil)
	if err != nil {
		s.renderGitHub(w, r, user, err)
		return
	}
	http.Redirect(w, r, "/github?"+url.Values{"stored": {"1"}}.Encode(), http.StatusSeeOther)
}

func retryLater(w http.ResponseWriter, no *refusal) {
	if no.RetryAfter != "" {
		w.Header().Set("Retry-After", no.RetryAfter)
	}
}
