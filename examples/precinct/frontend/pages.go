package main

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// view is what every page's template sees.
type view struct {
	Title string
	Here  string // the page's name: "github"
	User  *User  // nil when signed out
	Now   time.Time
	Data  any
}

type errorView struct {
	Status    int
	Sentence  string
	RequestID string
}

type pages map[string]*template.Template

var pageNames = []string{"login", "register", "dashboard", "github", "security", "error"}

func loadPages(a *assets) (pages, error) {
	funcs := template.FuncMap{
		"asset": a.path,
		"when":  func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"day":   func(t time.Time) string { return t.UTC().Format("2 Jan 2006") },
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"add":   func(a, b int) int { return a + b },
		"left":  left,
		"full":  sentence,
		"svg":   inlineSVG,
	}
	all := pages{}
	for _, name := range pageNames {
		t, err := template.New("layout.html").Funcs(funcs).ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("templates: %w", err)
		}
		all[name] = t
	}
	return all, nil
}

// inlineSVG puts a drawing of ours into a page, where the style sheet reaches it.
func inlineSVG(name string) (template.HTML, error) {
	text, err := files.ReadFile(path.Join("templates", name+".svg"))
	return template.HTML(text), err //nolint:gosec // a file of this program
}

// left is the time until t, as the live page counts it.
func left(now, t time.Time) string {
	d := max(0, t.Sub(now)).Round(time.Second)
	if d >= time.Hour {
		return fmt.Sprintf("%d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

func (s *site) render(w http.ResponseWriter, status int, name string, v view) {
	v.Here, v.Now = name, time.Now()
	var page bytes.Buffer
	if err := s.pages[name].Execute(&page, v); err != nil {
		s.Log.Error("page", "page", name, "error", err.Error())
		http.Error(w, "Something went wrong here.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // the browser went away
}

// signedIn sends those who are not to the login page, and back here afterwards.
func (s *site) signedIn(next func(http.ResponseWriter, *http.Request, User)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, err := s.backend.me(r)
		switch {
		case status(err) == http.StatusUnauthorized:
			back := r.URL.Path
			if r.Method == http.MethodGet {
				back = r.URL.RequestURI()
			}
			http.Redirect(w, r, "/login?next="+url.QueryEscape(localPath(back)), http.StatusSeeOther)
		case err != nil:
			s.fail(w, r, err)
		default:
			next(w, r, user)
		}
	}
}

const homePath = "/dashboard"

// localPath is a page of this site to go on to after the login, whatever was asked
// for: next comes from the address bar, and must lead nowhere else.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil {
		return homePath
	}
	for _, page := range []string{"/dashboard", "/github", "/security"} {
		if u.Path == page || u.Path == "/security/rotate" && page == "/security" {
			return (&url.URL{Path: page, RawQuery: u.Query().Encode()}).String()
		}
	}
	return homePath
}

func (s *site) home(w http.ResponseWriter, r *http.Request) {
	s.signedIn(func(w http.ResponseWriter, r *http.Request, _ User) {
		http.Redirect(w, r, homePath, http.StatusSeeOther)
	})(w, r)
}

func (s *site) dashboardPage(w http.ResponseWriter, r *http.Request, user User) {
	health, err := s.backend.health(r)
	s.render(w, http.StatusOK, "dashboard", view{Title: "Dashboard", User: &user, Data: dashboardView{Health: health, HealthError: words(err)}})
}

type dashboardView struct {
	Health      Health
	HealthError string
}

// words are an error's for a page, "" for none.
func words(err error) string {
	if err == nil {
		return ""
	}
	return sentence(strings.TrimSpace(refusalOf(err).Sentence))
}
