package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func given(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestParseInputs(t *testing.T) {
	in, err := parseInputs(given(map[string]string{
		"intent": " zerotrust.yaml\n", "phases": "cilium, spire\nspire\n", "cluster-name": "mine", "workers": "3", "images": "fromsource",
		"mirrors": "quay.io=a.example/q\nquay.io=http://b.example:5000\r\nghcr.io=a.example/g,", "vault": "openbao", "kubernetes-version": "v1.36.4", "cilium-version": "1.19.7", "timeout": "1h", "phase-timeout": "90s",
		"mutate": "True", "fail-on": "never", "cleanup": "on-success", "reports": "junit,html", "report-dir": "/tmp/r", "summary": "false", "annotations": "FALSE",
	}))
	want := inputs{
		Intent: "zerotrust.yaml", Phases: []string{"cilium", "spire"}, ClusterName: "mine", Workers: 3, Images: "fromsource",
		Mirrors: map[string][]string{"quay.io": {"a.example/q", "http://b.example:5000"}, "ghcr.io": {"a.example/g"}}, Vault: "openbao",
		Kubernetes: "1.36.4", Cilium: "1.19.7",
		Timeout: time.Hour, PhaseTimeout: 90 * time.Second, Mutate: true, FailOn: "never", Cleanup: "on-success", Reports: []string{"junit", "html"}, ReportDir: "/tmp/r",
	}
	if err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(want, in); d != "" {
		t.Error(d)
	}
	if in, err = parseInputs(given(map[string]string{"reports": "none"})); err != nil || in.Reports != nil {
		t.Errorf("reports none is %v, %v", in.Reports, err)
	}
	in, err = parseInputs(given(map[string]string{"kubeconfig": "/k", "registry": "localhost:5000/a/b", "phases": "workloads"}))
	if err != nil || in.Registry != "localhost:5000/a/b" {
		t.Errorf("an existing cluster is %+v, %v", in, err)
	}
	in, err = parseInputs(given(map[string]string{"kubeconfig": "/k", "registry": "r.example", "install": "true", "phases": "registry, cilium", "images": "registry", "vault": "openbao", "mirrors": "quay.io=b.example"}))
	if err != nil || !in.Install || in.Vault != "openbao" {
		t.Errorf("one to be installed in is %+v, %v", in, err)
	}
}

// malformed are, for each input, what the fault must say and values that it cannot have.
var malformed = map[string][]string{
	"intent":             {"line breaks", "a\nb", "a\x00b", "version: 1\nname: x"},
	"phases":             {"cilium, spire", "cillium", "cilium;spire", "cilium spire", "none", "Cilium", "cilium,*"},
	"cluster-name":       {"lower-case letters", "No Name", "-a", "a-", "a_b", "a/b", "../a", strings.Repeat("a", 51), "é"},
	"kubeconfig":         {"want the path", "apiVersion: v1\ntoken: hunter2", "a\x1bb"},
	"registry":           {"HOST or HOST/PATH", "user:hunter2@registry.example", "team", "registry.example/a:tag", "registry.example/A", "https://registry.example", "registry.example/a b", "registry.example/a@sha256:00", "/a", "registry.example//", "http:/registry.example"},
	"install":            {"true or false", "please", "1", "yes"},
	"workers":            {"1 to 20", "two", "0", "21", "-1", "1.5", "1e1", "0x2", "２", "99999999999999999999", "1 2"},
	"images":             {"auto, registry, fromsource", "latest", "Auto", "auto,registry"},
	"mirrors":            {"HOST=MIRROR", "quay.io", "=a.example", "quay.io=", "quay.io=https://", "qu ay.io=a.example", "quay.io=a b", "quay.io=A.EXAMPLE/Q"},
	"vault":              {"vault, openbao", "consul", "Vault"},
	"kubernetes-version": {"whole version such as 1.37.2", "1.36", "latest", "1.36.x", "1.36.4+k3s1", "1.36.4@sha256:00", "1..4"},
	"cilium-version":     {"whole version such as 1.20.2", "latest", "1.20", "v", "1.20.2.1"},
	"timeout":            {"such as 90m", "-1m", "0", "90", "1h-30m", "1d", "9999999h", "NaN"},
	"phase-timeout":      {"such as 90m", "soon", "0s", "15 m"},
	"mutate":             {"true or false", "yes", "1", "truefalse", "tRue"},
	"fail-on":            {"not-proven, failed, never", "error", "Never", "failed,never"},
	"cleanup":            {"always, on-success, never", "sometimes", "on_success"},
	"reports":            {"html, json, junit, markdown", "pdf", "html,none", "html json", "../html"},
	"report-dir":         {"control characters", "a\x1b[31m", "a\nb", "a\x00"},
	"summary":            {"true or false", "1", "no"},
	"annotations":        {"true or false", "off", "0"},
}

func TestEveryMalformedInputIsRefused(t *testing.T) {
	all := map[string]string{}
	for _, input := range fieldNames(inputs{}) {
		bad := malformed[input]
		if len(bad) < 2 {
			t.Errorf("no malformed value of %s is tried", input)
			continue
		}
		all[input] = bad[1]
		for _, value := range bad[1:] {
			in, err := parseInputs(given(map[string]string{input: value}))
			if err == nil || !strings.Contains(err.Error(), "input "+input+": ") || !strings.Contains(err.Error(), bad[0]) {
				t.Errorf("%s=%q gives %+v, %v, want a fault that says %q", input, value, fieldOf(in, input), err, bad[0])
			}
		}
	}
	// All at once, and no secret in it.
	_, err := parseInputs(given(all))
	for input := range malformed {
		if err == nil || !strings.Contains(err.Error(), "input "+input+": ") {
			t.Errorf("among all faults, none is of %s: %v", input, err)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret is in %v", err)
	}
}

// A version that is one, and cannot be had, is refused with the reason.
func TestVersionsOutOfRange(t *testing.T) {
	for input, tt := range map[string][2]string{
		"kubernetes-version": {"1.32.14", "1.33 or later"},
		"cilium-version":     {"1.21.0", "removed after 1.20"},
	} {
		if _, err := parseInputs(given(map[string]string{input: tt[0]})); err == nil || !strings.Contains(err.Error(), tt[1]) {
			t.Errorf("%s=%s gives %v", input, tt[0], err)
		}
	}
}

func TestInputsThatDoNotGoTogether(t *testing.T) {
	existing := map[string]string{"kubeconfig": "k", "registry": "r.example"}
	for name, tt := range map[string]struct {
		more map[string]string
		base map[string]string
		want string
	}{
		"a registry for kind":          {map[string]string{"registry": "r.example"}, nil, "existing cluster"},
		"mutations unasked":            {map[string]string{"phases": "mutations"}, nil, "mutate: true"},
		"no registry":                  {map[string]string{"registry": ""}, existing, "required with kubeconfig"},
		"kind's phases":                {map[string]string{"phases": "cilium"}, existing, "prober-image, permissions"},
		"workers":                      {map[string]string{"workers": "3"}, existing, "input workers"},
		"a Kubernetes":                 {map[string]string{"kubernetes-version": "1.36.4"}, existing, "input kubernetes-version"},
		"a Cilium":                     {map[string]string{"cilium-version": "1.19.7"}, existing, "input cilium-version"},
		"a name":                       {map[string]string{"cluster-name": "a"}, existing, "input cluster-name"},
		"mirrors":                      {map[string]string{"mirrors": "a.example=b.example"}, existing, "input mirrors"},
		"installing nowhere":           {map[string]string{"install": "true"}, nil, "existing cluster"},
		"workers to be installed on":   {map[string]string{"install": "true", "workers": "3"}, existing, "input workers"},
		"a browser elsewhere":          {map[string]string{"install": "true", "phases": "4A-frontend-proxy"}, existing, "cluster, images, registry"},
		"a store that is not made":     {map[string]string{"vault": "openbao"}, existing, "install: true"},
		"what is not to be removed":    {map[string]string{"cleanup": "never"}, existing, "input cleanup"},
		"mutations of somebody else's": {map[string]string{"mutate": "true"}, existing, "input mutate"},
	} {
		t.Run(name, func(t *testing.T) {
			values := map[string]string{}
			for _, m := range []map[string]string{tt.base, tt.more} {
				for k, v := range m {
					values[k] = v
				}
			}
			if _, err := parseInputs(given(values)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a fault that says %q", err, tt.want)
			}
		})
	}
}

// Whatever an input holds, what is said of it is on lines of its own, without control
// characters, and not long.
func TestFaultsOfHostileInputs(t *testing.T) {
	for _, evil := range []string{"x\n::set-output name=result::passed", "x%0A::warning::y", "\x1b[2J\x1b[31m", "end-AAAA\nresult<<end-AAAA", strings.Repeat("a", 100_000), "##[error]x", "a\u2028b"} {
		for _, input := range fieldNames(inputs{}) {
			in, err := parseInputs(given(map[string]string{input: evil}))
			if err == nil {
				// A path may be long and odd.
				if input != "intent" && input != "kubeconfig" && input != "report-dir" {
					t.Errorf("%s took %.40q as %+v", input, evil, in)
				}
				continue
			}
			for l := range strings.Lines(err.Error()) {
				if strings.HasPrefix(strings.TrimSpace(l), "::") || strings.ContainsAny(l, "\x1b\r") || len(l) > 600 {
					t.Errorf("%s=%.40q gives the line %.300q", input, evil, l)
				}
			}
		}
	}
}
