package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust"
)

// inputs are what the workflow asks for: one field for each input of action.yml, by its tag.
type inputs struct {
	Intent       string              `input:"intent"`       // path; "" is the demo's
	Phases       []string            `input:"phases"`       // none: all
	ClusterName  string              `input:"cluster-name"` // "" is the intent's
	Kubeconfig   string              `input:"kubeconfig"`   // path; "" makes a kind cluster
	Registry     string              `input:"registry"`
	Install      bool                `input:"install"`
	Workers      int                 `input:"workers"`
	Images       string              `input:"images"`
	Mirrors      map[string][]string `input:"mirrors"`
	Vault        string              `input:"vault"`
	Kubernetes   string              `input:"kubernetes-version"` // "" is zerotrust's choice
	Cilium       string              `input:"cilium-version"`
	Timeout      time.Duration       `input:"timeout"`
	PhaseTimeout time.Duration       `input:"phase-timeout"`
	Mutate       bool                `input:"mutate"`
	FailOn       string              `input:"fail-on"`
	Cleanup      string              `input:"cleanup"`
	Reports      []string            `input:"reports"`
	ReportDir    string              `input:"report-dir"`
	Summary      bool                `input:"summary"`
	Annotations  bool                `input:"annotations"`
}

// What fail-on and cleanup can be.
const (
	failNotProven = "not-proven"
	failFailed    = "failed"
	failNever     = "never"

	cleanupAlways    = "always"
	cleanupOnSuccess = "on-success"
	cleanupNever     = "never"
)

// The phases that can be asked for. An intent that runs no Vault has no secrets, and 4A is the
// demo's alone; what the cluster at hand does not have is refused when it is known.
var (
	kindPhases = []string{"preflight", "images", "cluster", "cilium", "spire", "identities", "secrets", "apps",
		"4A-frontend-proxy", "4B-network-architecture", "4C-cilium-spiffe", "4D-network-policies", "mutations"}
	installPhases = []string{"cluster", "images", "registry", "cilium", "spire", "identities", "secrets", "apps",
		"4B-network-architecture", "4C-cilium-spiffe", "permissions", "mesh", "workloads", "probers", "4D-network-policies", "4D-from-outside"}
	existingPhases = []string{"prober-image", "permissions", "mesh", "workloads", "probers", "4D-network-policies", "4D-from-outside"}
)

// Inputs that a cluster which is there already leaves no room for: those about the cluster, and
// those about what runs in it, unless that is installed.
var (
	kindOnly    = []string{"cluster-name", "workers", "kubernetes-version", "mutate", "cleanup"}
	installOnly = []string{"images", "mirrors", "vault", "cilium-version"}
)

// parseInputs reads all inputs by way of get, which returns "" for one that is not set. The
// error has every fault, not only the first, and names what is valid.
func parseInputs(get func(string) string) (inputs, error) {
	r := reader{get: get}
	in := inputs{
		Intent:       r.path("intent", ""),
		ClusterName:  r.text("cluster-name", clusterName, "lower-case letters, digits, \"-\" and \".\", at most 50"),
		Kubeconfig:   r.path("kubeconfig", ""),
		Registry:     r.registry("registry"),
		Install:      r.boolean("install", false),
		Workers:      r.number("workers", 2, 1, 20),
		Images:       r.choice("images", "auto", "auto", "registry", "fromsource"),
		Mirrors:      r.mirrors("mirrors"),
		Vault:        r.choice("vault", "vault", "vault", "openbao"),
		Kubernetes:   r.version("kubernetes-version", "", zerotrust.CheckKubernetes),
		Cilium:       r.version("cilium-version", cilium.DefaultVersion, cilium.CheckVersion),
		Timeout:      r.duration("timeout", 90*time.Minute),
		PhaseTimeout: r.duration("phase-timeout", 15*time.Minute),
		Mutate:       r.boolean("mutate", false),
		FailOn:       r.choice("fail-on", failNotProven, failNotProven, failFailed, failNever),
		Cleanup:      r.choice("cleanup", cleanupAlways, cleanupAlways, cleanupOnSuccess, cleanupNever),
		Reports:      r.choices("reports", reportNames(), reportNames()),
		ReportDir:    r.path("report-dir", "zerotrust-report"),
		Summary:      r.boolean("summary", true),
		Annotations:  r.boolean("annotations", true),
	}
	valid := kindPhases
	switch {
	case in.Kubeconfig != "" && in.Install:
		valid = installPhases
	case in.Kubeconfig != "":
		valid = existingPhases
	}
	in.Phases = r.choices("phases", nil, valid)
	r.together(in)
	return in, errors.Join(r.faults...)
}

// clusterName is what kind takes, and room for what it adds.
var clusterName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,48}[a-z0-9])?$`)

// reader takes inputs and keeps what is wrong with them.
type reader struct {
	get    func(string) string
	faults []error
}

func (r *reader) fault(input, format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf("input %s: %s", input, fmt.Sprintf(format, args...)))
}

func (r *reader) value(input string) string { return strings.TrimSpace(r.get(input)) }

// shown is a value as it may be quoted: on one line, without control characters, not long.
func shown(s string) string {
	runes := []rune(s)
	if len(runes) > 60 {
		s = string(runes[:60]) + "…"
	}
	return strconv.Quote(s)
}

// path is a file's name. The value is not quoted where it has lines: it may be the file
// itself, and secret.
func (r *reader) path(input, fallback string) string {
	v := r.value(input)
	switch {
	case v == "":
		return fallback
	case strings.ContainsFunc(v, unicode.IsControl):
		r.fault(input, "want the path of a file or folder, got a text with line breaks or control characters")
		return fallback
	}
	return v
}

func (r *reader) text(input string, form *regexp.Regexp, valid string) string {
	v := r.value(input)
	if v != "" && !form.MatchString(v) {
		r.fault(input, "want %s; got %s", valid, shown(v))
		return ""
	}
	return v
}

// version is a version without its "v".
func (r *reader) version(input, fallback string, check func(string) error) string {
	v := r.value(input)
	if v == "" {
		return fallback
	}
	if len(v) > 60 {
		r.fault(input, "want a version; got %s", shown(v))
		return fallback
	}
	if err := check(v); err != nil {
		r.fault(input, "%v", err) // which quotes the version
		return fallback
	}
	return strings.TrimPrefix(v, "v")
}

func (r *reader) choice(input, fallback string, valid ...string) string {
	v := r.value(input)
	switch {
	case v == "":
		return fallback
	case !slices.Contains(valid, v):
		r.fault(input, "want one of %s; got %s", strings.Join(valid, ", "), shown(v))
		return fallback
	}
	return v
}

// choices is a list by commas or lines, without repetitions. "none", where there is a fallback, is
// the empty list.
func (r *reader) choices(input string, fallback, valid []string) []string {
	v := r.value(input)
	switch {
	case v == "":
		return fallback
	case v == "none" && fallback != nil:
		return nil
	}
	var all []string
	for _, item := range list(v) {
		switch {
		case !slices.Contains(valid, item):
			r.fault(input, "want a list of %s; got %s", strings.Join(valid, ", "), shown(item))
		case !slices.Contains(all, item):
			all = append(all, item)
		}
	}
	return all
}

// list splits at commas and line breaks.
func list(s string) []string {
	var all []string
	for item := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == ',' || c == '\n' || c == '\r' }) {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

func (r *reader) boolean(input string, fallback bool) bool {
	switch v := r.value(input); v {
	case "":
		return fallback
	case "true", "True", "TRUE":
		return true
	case "false", "False", "FALSE":
		return false
	default:
		r.fault(input, "want true or false; got %s", shown(v))
		return fallback
	}
}

func (r *reader) number(input string, fallback, least, most int) int {
	v := r.value(input)
	if v == "" {
		return fallback
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least || n > most {
		r.fault(input, "want a number from %d to %d; got %s", least, most, shown(v))
		return fallback
	}
	return n
}

func (r *reader) duration(input string, fallback time.Duration) time.Duration {
	v := r.value(input)
	if v == "" {
		return fallback
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		r.fault(input, "want a duration above zero, such as 90m or 1h30m; got %s", shown(v))
		return fallback
	}
	return d
}

func (r *reader) registry(input string) string {
	v := r.value(input)
	if v == "" {
		return ""
	}
	_, err := name.NewRepository(v)
	bare := strings.TrimSuffix(v, "/")
	host, _, _ := strings.Cut(bare, "/")
	elements := strings.Split(bare, "/") // an empty one is an address, or a mistake
	if err != nil || strings.ContainsAny(v, "@ ") || slices.Contains(elements, "") || strings.HasSuffix(host, ":") || !strings.ContainsAny(host, ".:") && host != "localhost" {
		// A name without a host would be one of Docker Hub, which hardly anybody means.
		r.fault(input, "want HOST or HOST/PATH without a tag, such as registry.example:5000/zerotrust; got %s", shown(withoutUser(v)))
		return ""
	}
	return bare
}

// withoutUser hides what stands before an @: it may be a password.
func withoutUser(s string) string {
	if i := strings.LastIndex(s, "@"); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

func (r *reader) mirrors(input string) map[string][]string {
	var all map[string][]string
	for _, item := range list(r.value(input)) {
		host, mirror, ok := strings.Cut(item, "=")
		host, mirror = strings.TrimSpace(host), strings.TrimSpace(mirror)
		bare := strings.TrimPrefix(strings.TrimPrefix(mirror, "https://"), "http://")
		_, badHost := name.NewRegistry(host, name.StrictValidation)
		_, badMirror := name.NewRepository(strings.TrimSuffix(bare, "/") + "/image")
		switch {
		case strings.Contains(item, "@"):
			r.fault(input, "a mirror takes no credentials here: log in with docker login before this step; got %s", shown(withoutUser(item)))
		case !ok || host == "" || bare == "" || badHost != nil || badMirror != nil:
			r.fault(input, "want HOST=MIRROR, one a line, such as quay.io=mirror.example/quay; got %s", shown(item))
		default:
			if all == nil {
				all = map[string][]string{}
			}
			all[host] = append(all[host], mirror)
		}
	}
	return all
}

// together finds what is wrong with inputs that each are right.
func (r *reader) together(in inputs) {
	if in.Kubeconfig == "" {
		if in.Registry != "" {
			r.fault("registry", "it is for an existing cluster, which kubeconfig names; nodes of a kind cluster are given their images directly")
		}
		if in.Install {
			r.fault("install", "it is for an existing cluster, which kubeconfig names; a kind cluster is made with everything in it")
		}
		if slices.Contains(in.Phases, "mutations") && !in.Mutate {
			r.fault("phases", "mutations are run with the input mutate: true alone")
		}
		return
	}
	if in.Registry == "" {
		r.fault("registry", "it is required with kubeconfig: the cluster's nodes pull the prober's image from there, and with install every image")
	}
	usual, _ := parseInputs(func(string) string { return "" })
	given := func(input string) bool { return fmt.Sprint(fieldOf(in, input)) != fmt.Sprint(fieldOf(usual, input)) }
	for _, input := range kindOnly {
		if given(input) {
			r.fault(input, "it is for a kind cluster, and kubeconfig names one that is there already")
		}
	}
	for _, input := range installOnly {
		if given(input) && !in.Install {
			r.fault(input, "nothing is installed in the cluster that kubeconfig names, unless with install: true")
		}
	}
}
