package api

import (
	"strings"
	"time"
)

const prefix = "ghp_demo_"

// profile is a user as GitHub tells it.
type profile struct {
	Login       string `json:"login"`
	ID          int64  `json:"id"`
	Type        string `json:"type"`
	Name        string `json:"name"`
	Company     string `json:"company"`
	Bio         string `json:"bio"`
	AvatarURL   string `json:"avatar_url"`
	HTMLURL     string `json:"html_url"`
	PublicRepos int    `json:"public_repos"`
	Followers   int    `json:"followers"`
}

// people by the end of their token: ghp_demo_amy is Amy's.
var people = map[string]profile{
	"jake":    {Login: "jake-peralta", ID: 9901, Name: "Jake Peralta", Bio: "The best detective. Ask anyone. Ask me.", Followers: 1988},
	"amy":     {Login: "amy-santiago", ID: 9902, Name: "Amy Santiago", Bio: "Every repository has a binder.", Followers: 412},
	"rosa":    {Login: "rosa-diaz", ID: 9903, Name: "Rosa Diaz", Bio: "No.", Followers: 6},
	"terry":   {Login: "terry-jeffords", ID: 9904, Name: "Terry Jeffords", Bio: "Terry loves clean builds.", Followers: 731},
	"holt":    {Login: "raymond-holt", ID: 9905, Name: "Raymond Holt", Bio: "Captain. These are my repositories.", Followers: 99},
	"charles": {Login: "charles-boyle", ID: 9906, Name: "Charles Boyle", Bio: "Food, friends, feature branches.", Followers: 57},
}

// profileOf is who a token is of; Jake's unless it says otherwise.
func profileOf(token string) profile {
	p, ok := people[strings.TrimPrefix(token, prefix)]
	if !ok {
		p = people["jake"]
	}
	p.Type, p.Company = "User", "Precinct 99"
	p.HTMLURL = "https://github.example/" + p.Login
	for _, r := range catalogue {
		if !r.private {
			p.PublicRepos++
		}
	}
	return p
}

// repository is one as GitHub tells it.
type repository struct {
	ID              int64     `json:"id"`
	Name            string    `json:"name"`
	FullName        string    `json:"full_name"`
	Private         bool      `json:"private"`
	Description     string    `json:"description"`
	Language        string    `json:"language"`
	StargazersCount int       `json:"stargazers_count"`
	HTMLURL         string    `json:"html_url"`
	UpdatedAt       time.Time `json:"updated_at"`
	Owner           owner     `json:"owner"`
}

type owner struct {
	Login string `json:"login"`
	ID    int64  `json:"id"`
	Type  string `json:"type"`
}

func repositoriesOf(token string) []repository {
	p := profileOf(token)
	newest := time.Date(2026, 1, 2, 2, 22, 0, 0, time.UTC)
	list := make([]repository, 0, len(catalogue))
	for i, r := range catalogue {
		list = append(list, repository{
			ID: int64(99000 + i), Name: r.name, FullName: p.Login + "/" + r.name, Private: r.private,
			Description: r.description, Language: r.language, StargazersCount: r.stars,
			HTMLURL: p.HTMLURL + "/" + r.name, UpdatedAt: newest.Add(-time.Duration(i) * 31 * time.Hour),
			Owner: owner{Login: p.Login, ID: p.ID, Type: "User"},
		})
	}
	return list
}

// catalogue is invented, newest first: enough for two pages of GitHub's thirty.
var catalogue = []struct {
	name, description, language string
	stars                       int
	private                     bool
}{
	{"halloween-heist", "Plans for the heist. Not in the evidence room", "Go", 990, true},
	{"case-tracker", "Open cases, closed cases and the ones under the desk", "Go", 412, false},
	{"binder-index", "A table of contents for the tables of contents", "Python", 287, false},
	{"yogurt-inventory", "How much is left, and who ate it", "TypeScript", 731, false},
	{"evidence-locker", "Chain of custody, signed at each step", "Go", 318, true},
	{"interrogation-playlist", "Songs for line-ups", "Shell", 1204, false},
	{"cheddar-cam", "Watches a corgi. Pages when he barks", "Rust", 2048, false},
	{"kwazy-cupcakes-bot", "Plays so that you can work", "Python", 64, false},
	{"night-shift-rota", "Who works nights, and whose fault that is", "Go", 21, false},
	{"paintball-physics", "How far, how fast, which wall", "C++", 77, false},
	{"bomb-squad-checklist", "Read all of it first", "Markdown", 501, false},
	{"vulture-alarm", "Says when a solved case is about to be taken over", "Go", 199, false},
	{"title-of-your-tape", "A linter for meeting notes", "JavaScript", 1999, false},
	{"precinct-coffee-api", "Status of the machine: 418 most of the time", "Go", 418, false},
	{"wario-detector", "Finds people who are worse copies of other people", "Python", 33, false},
	{"undercover-names", "Generates names that are not Larry", "Rust", 145, false},
	{"stakeout-snacks", "Weighted by noise when opened", "TypeScript", 88, false},
	{"lost-jackets", "Leather, black, do not touch", "C", 6, true},
	{"perp-sketch", "Vector drawings from bad descriptions", "JavaScript", 54, false},
	{"radio-codes", "All of them, in alphabetical order", "Python", 301, false},
	{"motorcycle-maintenance", "Torque tables", "C", 12, true},
	{"desk-fort-planner", "Load-bearing pillows", "Rust", 260, false},
	{"harpsichord-metronome", "Straight time only", "Go", 99, false},
	{"philharmonic-tickets", "Waits in line without excitement", "Go", 9, true},
	{"twin-naps", "When both sleep: a scheduler with two constraints", "Python", 611, false},
	{"fantasy-novel-plots", "Dragons by chapter", "Markdown", 42, false},
	{"sourdough-starter", "Starter for starters: a template repository", "Makefile", 130, false},
	{"pizza-rankings", "With mouthfeel", "Python", 872, false},
	{"crossword-solver", "Seven letters, 'a captain'", "Haskell", 115, false},
	{"false-alarms", "Statistics of", "R", 18, false},
	{"patrol-routes", "Shortest ways round a parade", "Go", 176, false},
	{"sergeant-exam-notes", "Laminated", "Markdown", 404, false},
	{"karaoke-queue", "First in, never out", "Erlang", 73, false},
	{"parking-appeals", "Templates for appeals that are refused", "Markdown", 3, false},
	{"jimmy-jab-scoreboard", "The games, live", "TypeScript", 555, false},
	{"cold-case-cache", "Least recently solved", "Go", 240, false},
	{"zero-trust-99", "Nobody gets past the front desk without an SVID", "Go", 99, false},
}
