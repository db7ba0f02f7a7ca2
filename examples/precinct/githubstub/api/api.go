// Package api answers as the part of GitHub does that the demo uses: who a token is of,
// and their repositories, by pages.
//
// Tokens that begin with ghp_demo_ are good; one that holds "limited" has used up its
// requests; all others are bad.
package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// The limit of GitHub's for a token, per hour.
// https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
const hourly = 5000

// Handler answers as GitHub does. The time is that of now, for the limit of requests.
func Handler(now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /user", func(w http.ResponseWriter, r *http.Request) {
		write(w, http.StatusOK, profileOf(token(r)))
	})
	mux.HandleFunc("GET /user/repos", listRepositories)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "Not Found")
	})
	var used atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-GitHub-Media-Type", "github.v3; format=json")
		limit := func(used int64, reset time.Time) {
			h.Set("X-RateLimit-Limit", strconv.Itoa(hourly))
			h.Set("X-RateLimit-Used", strconv.FormatInt(used, 10))
			h.Set("X-RateLimit-Remaining", strconv.FormatInt(hourly-used, 10))
			h.Set("X-RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10))
			h.Set("X-RateLimit-Resource", "core")
		}
		t := token(r)
		if strings.Contains(t, "limited") {
			limit(hourly, now().Add(time.Minute))
			refuse(w, http.StatusForbidden, "API rate limit exceeded for user ID 99.")
			return
		}
		// The count goes round instead of running out: a load test is no abuse.
		limit(used.Add(1)%hourly, now().Truncate(time.Hour).Add(time.Hour))
		switch {
		case t == "":
			refuse(w, http.StatusUnauthorized, "Requires authentication")
		case !strings.HasPrefix(t, prefix):
			refuse(w, http.StatusUnauthorized, "Bad credentials")
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// token is what the request is authorised with.
func token(r *http.Request) string {
	scheme, t, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "token") {
		return ""
	}
	return strings.TrimSpace(t)
}

func listRepositories(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	perPage := min(positive(q, "per_page", 30), 100)
	page := positive(q, "page", 1)
	all := repositoriesOf(token(r))
	last := (len(all) + perPage - 1) / perPage
	if links := links(r, page, last); links != "" {
		w.Header().Set("Link", links)
	}
	// Beyond the last page there is nothing, and that is no error.
	from := min((page-1)*perPage, len(all))
	write(w, http.StatusOK, all[from:min(from+perPage, len(all))])
}

// positive is a number of the query. GitHub takes what is none for the default.
func positive(q url.Values, name string, without int) int {
	n, err := strconv.Atoi(q.Get(name))
	if err != nil || n < 1 || n > 1<<20 {
		return without
	}
	return n
}

// links lead to the other pages.
// https://docs.github.com/en/rest/using-the-rest-api/using-pagination-in-the-rest-api
func links(r *http.Request, page, last int) string {
	var all []string
	add := func(rel string, to int) {
		u := url.URL{Scheme: "https", Host: r.Host, Path: r.URL.Path}
		q := r.URL.Query()
		q.Set("page", strconv.Itoa(to))
		u.RawQuery = q.Encode()
		all = append(all, fmt.Sprintf("<%s>; rel=%q", u.String(), rel))
	}
	if page > 1 {
		add("prev", min(page-1, last))
	}
	if page < last {
		add("next", page+1)
		add("last", last)
	}
	if page > 1 {
		add("first", 1)
	}
	return strings.Join(all, ", ")
}

func refuse(w http.ResponseWriter, status int, message string) {
	write(w, status, map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)})
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away
}
