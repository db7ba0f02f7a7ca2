package zerotrust

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/precinct"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

func TestEncrypted(t *testing.T) {
	got := map[string]bool{}
	for _, w := range Precinct99().Workloads {
		for _, p := range w.listens() {
			got[w.Name+":"+p.String()] = encrypted(w, p)
		}
	}
	if want := map[string]bool{
		"frontend:3000": false, "frontend:8080": false, "backend:8000": true, "backend:8080": false, "githubstub:8443": true, "githubstub:8080": false,
		"postgres:5432": true, "postgres:5433": true, "vault:8200": true,
	}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// shopWire has one plain edge and two that are encrypted.
func shopWire() (Intent, wire) {
	in := Intent{
		Name: "shop", TrustDomain: "shop.example",
		Workloads: []Workload{
			{Name: "web", Namespace: "shop", Ports: []Port{TCP(80)}, Publish: &Publish{HostPort: 3000, NodePort: 30080}},
			{Name: "api", Namespace: "shop", Ports: []Port{TCP(8000)}, MTLS: true, HealthPort: 8080},
			{Name: "db", Namespace: "shop", Runs: Postgres, Ports: []Port{TCP(5432), TCP(5433)}},
		},
		Edges: []Edge{{From: Outside, To: "web", Port: TCP(80)}, {From: "web", To: "api", Port: TCP(8000)}, {From: "api", To: "db", Port: TCP(5432)}},
	}
	w := wire{clients: map[netip.Addr]string{}, servers: map[socket]service{}}
	for i, name := range []string{"web", "api", "db"} {
		to, _ := in.Workload(name)
		pod, svc := netip.AddrFrom4([4]byte{10, 244, 0, byte(i + 1)}), netip.AddrFrom4([4]byte{10, 96, 0, byte(i + 1)})
		w.clients[pod] = name
		w.add(pod, to)
		w.add(svc, to)
	}
	w.servers[socket{"tcp", netip.MustParseAddrPort("172.18.0.2:30080")}] = service{"web", TCP(80)}
	return in, w
}

func flowOf(src, dst string, packets int, hits ...int) probe.Flow {
	return probe.Flow{Protocol: "tcp", Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Packets: packets, Bytes: 100 * packets, Hits: hits}
}

func TestJudge(t *testing.T) {
	const (
		user = "172.18.0.1:50000"
		web  = "10.244.0.1:40001"
		api  = "10.244.0.2:40002"
	)
	good := []probe.Flow{
		flowOf(user, "172.18.0.2:30080", 3, 2, 0), flowOf("172.18.0.2:30080", user, 2, 0, 1),
		flowOf(user, "10.244.0.1:80", 3, 2, 0),
		flowOf(web, "10.96.0.2:8000", 4, 0, 0), flowOf("10.244.0.2:8000", web, 4, 0, 0),
		flowOf(api, "10.244.0.3:5432", 5, 0, 0),
		flowOf("172.18.0.2:41000", "10.244.0.2:8080", 1, 0, 0), // the kubelet
		flowOf("172.18.0.2:6443", "172.18.0.3:41001", 9, 0, 0),
		{Protocol: "other", Packets: 1, Bytes: 60, Hits: []int{0, 0}},
	}
	without := func(peer string) []probe.Flow {
		return slices.DeleteFunc(slices.Clone(good), func(f probe.Flow) bool { return f.Src.String() == peer || f.Dst.String() == peer })
	}
	with := func(f ...probe.Flow) []probe.Flow { return slices.Concat(good, f) }
	carried := map[string][]string{"first-mark-1": {"outside → web:80", "web → api:8000"}, "second-mark-2": {"outside → web:80", "api → db:5432"}}
	for what, tt := range map[string]struct {
		flows  []probe.Flow
		marks  map[string][]string
		t      probe.Traffic
		failed bool
		says   string // of the error; "" passes
	}{
		"as it should be":             {good, carried, probe.Traffic{}, false, ""},
		"in what an edge carries":     {with(flowOf(web, "10.244.0.2:8000", 1, 1, 0)), carried, probe.Traffic{}, true, "web → api:8000: 1 hits in the clear"},
		"in the answer":               {with(flowOf("10.96.0.3:5432", api, 1, 0, 3)), carried, probe.Traffic{}, true, "api → db:5432: 3 hits in the clear"},
		"by one who has no edge":      {with(flowOf("10.244.0.3:40003", "10.244.0.2:8000", 1, 1, 0)), carried, probe.Traffic{}, true, "db → api:8000, which is no edge: 1 hits"},
		"to a port beside":            {with(flowOf("172.18.0.2:40003", "10.244.0.2:8080", 1, 1, 0)), carried, probe.Traffic{}, true, "outside → api:8080, which is no edge: 1 hits"},
		"between others":              {with(flowOf("172.18.0.2:40003", "172.18.0.3:8472", 1, 1, 0)), carried, probe.Traffic{}, true, "tcp from 172.18.0.2:40003 to 172.18.0.3:8472, which is no edge"},
		"over another protocol":       {with(probe.Flow{Protocol: "udp", Src: netip.MustParseAddrPort(user), Dst: netip.MustParseAddrPort("10.244.0.1:80"), Packets: 1, Bytes: 99, Hits: []int{1, 0}}), carried, probe.Traffic{}, true, "udp from"},
		"in what is not understood":   {with(probe.Flow{Protocol: "other", Packets: 1, Bytes: 99, Hits: []int{1, 0}}), carried, probe.Traffic{}, true, "other from"},
		"and packets were lost":       {with(flowOf(web, "10.244.0.2:8000", 1, 1, 0)), carried, probe.Traffic{Packets: 9, Dropped: 1}, true, "could not look at 1 of 9"},
		"packets were lost":           {good, carried, probe.Traffic{Packets: 9, Dropped: 1}, false, "node a could not look at 1 of 9 packets"},
		"packets were cut short":      {good, carried, probe.Traffic{Packets: 9, Truncated: 2}, false, "node a could not look at 2 of 9 packets"},
		"an edge without traffic":     {without(api), carried, probe.Traffic{}, false, "api → db:5432: there was no traffic"},
		"no control":                  {slices.DeleteFunc(slices.Clone(good), func(f probe.Flow) bool { return f.Hits[0] > 0 }), carried, probe.Traffic{}, false, "first-mark-1 was not seen on a plain edge"},
		"no traffic at all":           {nil, carried, probe.Traffic{}, false, "second-mark-2 was not seen on a plain edge"},
		"nothing crosses an edge":     {good, map[string][]string{"first-mark-1": carried["first-mark-1"], "second-mark-2": {"outside → web:80"}}, probe.Traffic{}, false, "api → db:5432: none of the texts is said to cross it"},
		"edges that are none, marked": {good, map[string][]string{"first-mark-1": {"web → db:1"}, "second-mark-2": {"outside → web:80"}}, probe.Traffic{}, false, "web → api:8000: none of the texts"},
	} {
		in, w := shopWire()
		tt.t.Flows = tt.flows
		ev, err := w.judge(in, tt.marks, map[string]probe.Traffic{"a": tt.t, "b": {}}, phase.Evidence{})
		_, failed := errors.AsType[*phase.Mismatch](err)
		if (err == nil) != (tt.says == "") || failed != tt.failed || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, failed %t; want failed %t and %q", what, err, failed, tt.failed, tt.says)
		}
		if err == nil && (ev.Got != "2 encrypted edges with traffic and no hit; 4 and 1 hits on plain ones" ||
			!slices.Contains(ev.Details, "encrypted web → api:8000: 8 packets with payload, 800 bytes, 0 hits") ||
			!slices.Contains(ev.Details, "plain outside → web:80: 8 packets with payload, 800 bytes, 5 hits")) {
			t.Errorf("%s: %s\n%s", what, ev.Got, strings.Join(ev.Details, "\n"))
		}
	}
	in, w := shopWire()
	if _, err := w.judge(in, carried, nil, phase.Evidence{}); err == nil || !strings.Contains(err.Error(), "no node listened") {
		t.Errorf("without nodes: %v", err)
	}
	in.Workloads[1].MTLS, in.Workloads[2].Runs, in.Edges = false, "", in.Edges[:1]
	if _, err := w.judge(in, carried, map[string]probe.Traffic{"a": {Flows: good}}, phase.Evidence{}); err == nil || !strings.Contains(err.Error(), "no edge of the intent is encrypted") {
		t.Errorf("without encrypted edges: %v", err)
	}
}

// What the demo's site carries crosses every encrypted edge of the demo, and no edge that
// there is not.
func TestMarksOfPrecinct(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"server_user":"v-jwt-spif-backend-abcdef-1234567890"}`)
	}))
	defer server.Close()
	var site Marked = precinct.NewSite(server.URL)
	marks, err := site.Marks(t.Context(), "abcdefghijklmnop")
	if err != nil || len(marks["abcdefghijklmnop"]) == 0 {
		t.Fatal(marks, err)
	}
	crossed := map[string]bool{}
	for _, edges := range marks {
		for _, e := range edges {
			crossed[e] = true
		}
	}
	for _, e := range Precinct99().Edges {
		if !crossed[e.String()] {
			t.Errorf("nothing crosses %s", e)
		}
		delete(crossed, e.String())
	}
	if len(crossed) > 0 {
		t.Errorf("no edges: %v", crossed)
	}
}
