package ciliumjudge

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/labelsfilter"
	"github.com/cilium/cilium/pkg/option"
	"github.com/cilium/cilium/pkg/u8proto"
)

func TestMain(m *testing.M) {
	// The agent does so when it starts: the labels that make an identity are the default ones.
	if err := labelsfilter.ParseLabelPrefixCfg(quiet, nil, nil, ""); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// everything has one of each kind of edge.
const everything = `
version: 1
name: everything
trustDomain: demo.local
workloads:
- {name: site, namespace: web, ports: [3000], healthPort: 8080}
- {name: api, namespace: apps, serviceAccount: robot, ports: [8000, 8000/UDP]}
- {name: vault, namespace: safe, runs: vault, ports: [8200]}
- {name: cron, namespace: jobs}
edges:
- {from: outside, to: site, port: 3000}
- {from: site, to: api, port: 8000, authenticated: true}
- {from: "namespace:jobs", to: api, port: 8000/UDP}
- {from: api, to: vault, port: 8200, authenticated: true}
- {from: api, to: "dns:api.example.com", port: 443}
`

// derived is an intent, which must be valid, and its policies.
func derived(t *testing.T, file string) (intent, []byte) {
	t.Helper()
	stream, invalid := derive(t, []byte(file))
	if invalid != "" {
		t.Fatal(invalid)
	}
	return parse(t, []byte(file)), stream
}

// holds has the policies of an intent judged: they allow what it says, ask for
// authentication where it says so, and deny all else, at every port.
func holds(t *testing.T, in intent, stream []byte) {
	t.Helper()
	wrong, err := differences(in, stream)
	if err != nil {
		t.Errorf("%v\nin\n%s", err, stream)
	}
	if len(wrong) > 0 {
		t.Errorf("%s\nby the policies of\n%s", strings.Join(wrong, "\n"), in.file(t))
	}
}

func TestEverything(t *testing.T) {
	in, stream := derived(t, everything)
	holds(t, in, stream)
}

func TestPrecinct99(t *testing.T) {
	file, err := os.ReadFile("../../zerotrust/precinct99.yaml")
	if err != nil {
		t.Fatal(err)
	}
	in, stream := derived(t, string(file))
	holds(t, in, stream)
}

func TestRandomIntents(t *testing.T) {
	const seeds, enough = 300, 200
	judged, with := 0, map[string]int{}
	for seed := range uint64(seeds) {
		in := random(seed)
		stream, invalid := derive(t, in.file(t))
		if invalid != "" {
			continue
		}
		if holds(t, in, stream); t.Failed() {
			t.Fatalf("this was seed %d", seed)
		}
		judged++
		for kind := range in.kinds() {
			with[kind]++
		}
	}
	if judged < enough {
		t.Errorf("%d of %d intents were valid, want %d", judged, seeds, enough)
	}
	for _, kind := range []string{"outside", "namespace", "host", "authenticated", "UDP", "vault", "postgres", "no edge"} {
		if with[kind] < 10 {
			t.Errorf("%d of %d intents have %s, want 10", with[kind], judged, kind)
		}
	}
	t.Logf("judged %d of %d intents; with each kind: %v", judged, seeds, with)
}

// kinds are what the intent has, of what makes a difference to policies.
func (in intent) kinds() map[string]bool {
	all := map[string]bool{}
	if len(in.Edges) == 0 {
		all["no edge"] = true
	}
	for _, w := range in.Workloads {
		if w.Runs != "" {
			all[w.Runs] = true
		}
	}
	for _, e := range in.Edges {
		if e.From == "outside" {
			all["outside"] = true
		}
		if strings.HasPrefix(e.From, "namespace:") {
			all["namespace"] = true
		}
		if strings.HasPrefix(e.To, "dns:") {
			all["host"] = true
		}
		if e.Authenticated {
			all["authenticated"] = true
		}
		if e.Port.proto == u8proto.UDP {
			all["UDP"] = true
		}
	}
	return all
}

// FuzzIntents goes on where TestRandomIntents ends.
func FuzzIntents(f *testing.F) {
	derive(f, random(0).file(f)) // what derives is up before the time of an input begins
	f.Add(uint64(0))
	f.Fuzz(func(t *testing.T, seed uint64) {
		in := random(seed)
		if stream, invalid := derive(t, in.file(t)); invalid == "" {
			holds(t, in, stream)
		}
	})
}

// The agent lets the pod's own node in at every port, policies or not, for the kubelet's
// health checks. It lets no other node in, and no intent depends on it otherwise: all other
// tests judge without.
func TestOwnNodeReachesHealthPort(t *testing.T) {
	was := option.Config.UnsafeDaemonConfigOption
	t.Cleanup(func() { option.Config.UnsafeDaemonConfigOption = was })
	option.Config.UnsafeDaemonConfigOption.AllowLocalhost = option.AllowLocalhostAlways
	in, stream := derived(t, everything)
	peers := in.peers()
	j, err := newJudge(stream, peers)
	if err != nil {
		t.Fatal(err)
	}
	site := peers[slices.IndexFunc(peers, func(p *peer) bool { return p.workload == "site" })]
	for _, p := range peers {
		if got, want := j.ingress(p, site, tcp(8080)).allowed, p.id == identity.ReservedIdentityHost; got != want {
			t.Errorf("%s reaches the health port: %t, want %t", p, got, want)
		}
	}
}
