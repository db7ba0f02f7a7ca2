package report

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// reports are what every renderer has to cope with.
func reports() map[string]phase.Report {
	return map[string]phase.Report{
		"mixed": mixed(), "proven": proven(), "empty": {}, "cancelled": cancelled(), "fleet": fleet(), "hostile": hostile(nasty),
	}
}

// shown says that what is made of a report is short enough to be read in a golden file.
func shown(name string) bool { return name != "fleet" && name != "hostile" }

// mixed is a report with one of everything.
func mixed() phase.Report {
	at := time.Date(2020, 1, 2, 3, 4, 5, 6_000_000, time.FixedZone("", 3600))
	after := func(s float64) time.Time { return at.Add(time.Duration(s * float64(time.Second))) }
	d := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return phase.Report{
		Started: at, Ended: after(125.4567),
		Metadata: map[string]string{"kubernetes": "v1.37.2", "image <a>": "sha256:0"},
		Phases: []phase.Result{
			{Name: "cluster", Doc: "A cluster runs.", Status: phase.Passed, Started: at, Duration: d(61.2), Apply: d(60),
				Checks: []phase.CheckResult{{Name: "nodes ready", Doc: "All are.", Status: phase.Passed, Started: after(60), Duration: d(1.2),
					Evidence: phase.Evidence{Want: "3", Got: "3", Details: []string{"a", "b", "c"}, Source: "GET /api/v1/nodes"}}}},
			{Name: "verify-only", Status: phase.Passed, Started: at, Duration: d(0.0004), Checks: []phase.CheckResult{{Name: "bare", Status: phase.Passed, Started: at}}},
			{Name: "edges", Needs: []string{"cluster"}, Status: phase.Failed, Started: after(61.2), Duration: d(12),
				Checks: []phase.CheckResult{
					{Name: "a → b:80", Hint: "See the policies.", Edge: &phase.Edge{From: "a", To: "b", Port: "80"}, Status: phase.Failed, Started: after(61.2), Duration: d(4),
						Err:      phase.Want("dropped", "an answer with \x1b[31mescapes\x1b[0m\nand lines"),
						Evidence: phase.Evidence{Want: "dropped", Got: "an answer with \x1b[31mescapes\x1b[0m\nand lines", Details: []string{"flow 1", "flow 2"}, Source: "Hubble"}},
					{Name: "b → a:80", Edge: &phase.Edge{From: "b", To: "a", Port: "80", Allowed: true}, Status: phase.Unknown, Started: after(61.2), Duration: d(12), Err: errors.New("no flow was heard")},
					{Name: "c → a:80", Edge: &phase.Edge{From: "c", To: "a", Port: "80", Allowed: true, Authenticated: true}, Status: phase.Passed, Started: after(61.2), Duration: d(1)},
					{Name: "c → b:53/UDP", Edge: &phase.Edge{From: "c", To: "b", Port: "53/UDP"}, Status: phase.Passed, Started: after(61.2), Duration: d(2)},
				}},
			{Name: "apps", Needs: []string{"cluster"}, Status: phase.Failed, Started: after(61.2), Duration: d(30), Apply: d(30), Err: errors.New("apply Deployment a/b: no image"),
				Checks: []phase.CheckResult{{Name: "run", Status: phase.Unknown, Err: errors.New("not run: the phase was not applied")}}},
			{Name: "slow", Status: phase.Cancelled, Started: after(61.2), Duration: d(30), Apply: d(30), Err: fmt.Errorf("interrupted: %w", context.Canceled),
				Checks: []phase.CheckResult{{Name: "run", Status: phase.Unknown, Err: errors.New("not run: the phase was not applied")}}},
			{Name: "journey", Needs: []string{"apps", "edges"}, Status: phase.Skipped, Err: errors.New(`it needs "apps", which failed`),
				Checks: []phase.CheckResult{{Name: "login", Status: phase.Unknown, Err: errors.New("not run: the phase was skipped")}}},
		},
	}
}

func proven() phase.Report {
	r := mixed()
	r.Phases = r.Phases[:2]
	r.VerifyOnly = true
	r.Metadata = nil
	return r
}

// cancelled is a run that was cancelled before any of it started, so that no check
// failed.
func cancelled() phase.Report {
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	var r phase.Report
	r.Started, r.Ended = at, at.Add(time.Millisecond)
	for _, p := range mixed().Phases {
		p.Status, p.Err = phase.Skipped, fmt.Errorf("the run was cancelled before it started: %w", context.Canceled)
		p.Started, p.Duration, p.Apply = time.Time{}, 0, 0
		for i, c := range p.Checks {
			p.Checks[i] = phase.CheckResult{Name: c.Name, Edge: c.Edge, Err: errors.New("not run: the phase was skipped")}
		}
		r.Phases = append(r.Phases, p)
	}
	return r
}

// fleet is a run with a matrix of twelve workloads, each of which tries one port of
// each other, and two of those that have two.
func fleet() phase.Report {
	type server struct{ name, ports string }
	servers := []server{
		{"gateway", "8443"}, {"shop", "8000"}, {"cart", "8000"}, {"catalog", "8000"}, {"payments", "9443"}, {"ledger", "9443"},
		{"mailer", "2525"}, {"dns", "53/UDP"}, {"postgres", "5432 5433"}, {"vault", "8200"}, {"metrics", "9090"}, {"intruder", "8080"},
	}
	allowed := map[string]string{ // "*": after authentication
		"gateway shop:8000": "*", "gateway catalog:8000": "*", "gateway dns:53/UDP": "", "shop cart:8000": "*", "shop payments:9443": "*", "shop catalog:8000": "",
		"cart postgres:5432": "*", "cart vault:8200": "*", "payments ledger:9443": "*", "payments mailer:2525": "", "payments vault:8200": "*",
		"ledger postgres:5432": "*", "ledger vault:8200": "*", "catalog postgres:5432": "", "vault postgres:5433": "",
		"metrics shop:8000": "", "ledger gateway:8443": "*",
	}
	at := time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)
	edges := phase.Result{Name: "4D-edges", Doc: "Every workload tries every port of every other one: what the intent names gets through, and nothing else does.",
		Needs: []string{"4C-identities"}, Status: phase.Failed, Started: at.Add(212 * time.Second), Duration: 93 * time.Second}
	for i, from := range servers {
		for j, to := range servers {
			if i == j {
				continue
			}
			for _, port := range strings.Fields(to.ports) {
				name := fmt.Sprintf("%s → %s:%s", from.name, to.name, port)
				proof, ok := allowed[fmt.Sprintf("%s %s:%s", from.name, to.name, port)]
				c := phase.CheckResult{Name: "edge " + name, Edge: &phase.Edge{From: from.name, To: to.name, Port: port, Allowed: ok, Authenticated: proof != ""},
					Status: phase.Passed, Started: edges.Started, Duration: 2100 * time.Millisecond,
					Evidence: phase.Evidence{Want: "dropped by policy, by Hubble's account", Got: "POLICY_DENIED", Source: "probe in the pod; Hubble Relay",
						Details: []string{fmt.Sprintf("from pod %s-7d9f: timeout after 2s", from.name)}}}
				if ok {
					c.Evidence.Want, c.Evidence.Got, c.Evidence.Details = "connected, and forwarded by Hubble's account", "connected", nil
				}
				switch name {
				case "intruder → metrics:9090": // a hole
					c.Status, c.Evidence.Got = phase.Failed, "it got through: connected in 3ms"
					c.Hint = "Something lets this traffic through that the intent does not name: look for other policies (kubectl get cnp,ccnp,netpol -A)."
				case "payments → mailer:2525":
					c.Status, c.Evidence.Got = phase.Failed, "dropped: POLICY_DENIED"
					c.Hint = "See the policies of both workloads (kubectl get cnp -A)."
				case "shop → catalog:8000", "metrics → dns:53/UDP":
					c.Status, c.Evidence.Got, c.Err = phase.Unknown, "", errors.New("the name could not be looked up, so nothing is known of the edge")
				}
				if c.Status == phase.Failed {
					c.Evidence.Details = nil
					c.Err = phase.Want(c.Evidence.Want, c.Evidence.Got)
				}
				edges.Checks = append(edges.Checks, c)
			}
		}
	}
	passed := func(name, doc string, needs []string, start, apply, took int, checks ...string) phase.Result {
		p := phase.Result{Name: name, Doc: doc, Needs: needs, Status: phase.Passed, Started: at.Add(time.Duration(start) * time.Second),
			Duration: time.Duration(took) * time.Second, Apply: time.Duration(apply) * time.Second}
		for _, c := range checks {
			p.Checks = append(p.Checks, phase.CheckResult{Name: c, Status: phase.Passed, Started: p.Started.Add(p.Apply), Duration: p.Duration - p.Apply,
				Evidence: phase.Evidence{Want: "as declared", Got: "as declared", Source: "kubectl get --raw /"}})
		}
		return p
	}
	return phase.Report{
		Started: at, Ended: at.Add(305 * time.Second),
		Metadata: map[string]string{"kubernetes": "v1.37.2", "cilium": "1.20.2", "spire": "1.15.1",
			"image ghcr.io/org/shop": "sha256:6f1e0b7c6e8f3d0f7a4d9f4f2a1b6c3d5e7f8091a2b3c4d5e6f708192a3b4c5d"},
		Phases: []phase.Result{
			passed("1-cluster", "A cluster of three nodes runs without kube-proxy.", nil, 0, 62, 65, "nodes ready", "no kube-proxy"),
			passed("2-cilium", "Cilium enforces policies by default.", []string{"1-cluster"}, 65, 48, 54, "agents healthy", "default deny"),
			passed("3-images", "The images are those that were built.", []string{"1-cluster"}, 65, 81, 84, "digests match"),
			passed("4A-spire", "SPIRE attests every node.", []string{"2-cilium"}, 119, 40, 47, "agents attested", "bundle published"),
			passed("4C-identities", "Every workload has its SVID and no other.", []string{"4A-spire", "3-images"}, 166, 22, 46, "entries", "svids", "wrong identity is refused"),
			edges,
			{Name: "5-journey", Doc: "A user can log in and buy.", Needs: []string{"4D-edges"}, Status: phase.Skipped, Err: errors.New(`it needs "4D-edges", which failed`),
				Checks: []phase.CheckResult{{Name: "login", Err: errors.New("not run: the phase was skipped")}}},
		},
	}
}

// nasty is what a pod may say to whoever reads its output.
const nasty = "</script></style></title><img src=https://evil.example/x onerror=alert(1)>" +
	"\"'`a|b\\|c``` &amp; <!-- ]]> \x1b[31mred\x1b[0m\x00\x07\x9b2J\u202e\u2028 \xff\xfe #35; www.evil.example {{.}} ${x} *b* _i_ [l](https://evil.example)\n\n# heading\r\n```mermaid\n|x|\n"

// hostile has s in every place that takes a string, with every outcome.
func hostile(s string) phase.Report {
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	ev := phase.Evidence{Want: s, Got: s + " ", Details: []string{s, "", s}, Source: s}
	edge := func(allowed, authenticated bool) *phase.Edge {
		return &phase.Edge{From: s, To: s + "2", Port: s, Allowed: allowed, Authenticated: authenticated}
	}
	check := func(status phase.Status, e *phase.Edge, err error) phase.CheckResult {
		return phase.CheckResult{Name: s, Doc: s, Hint: s, Edge: e, Status: status, Evidence: ev, Err: err, Started: at, Duration: time.Second}
	}
	never := check(phase.Unknown, edge(true, true), errors.New(s))
	never.Started = time.Time{}
	checks := []phase.CheckResult{
		check(phase.Passed, edge(true, true), nil), check(phase.Passed, edge(false, false), nil), check(phase.Failed, edge(true, false), phase.Want(s, s+"!")),
		check(phase.Failed, edge(false, false), errors.New(s)), check(phase.Unknown, nil, errors.New(s)), never,
	}
	r := phase.Report{Started: at, Ended: at.Add(time.Minute), Metadata: map[string]string{s: s, s + "2": ""}}
	for _, status := range []phase.Status{phase.Failed, phase.Unknown, phase.Skipped, phase.Cancelled, phase.Passed} {
		r.Phases = append(r.Phases, phase.Result{Name: s, Doc: s, Needs: []string{s}, Status: status, Err: errors.New(s), Started: at, Duration: time.Minute, Apply: time.Second, Checks: checks})
	}
	return r
}
