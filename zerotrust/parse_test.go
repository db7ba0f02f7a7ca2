package zerotrust

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	sigsyaml "sigs.k8s.io/yaml"
)

const shop = `version: 1
name: shop
trustDomain: shop.example
workloads:
  - name: web
    namespace: shop
    ports: [8080]
  - {name: dns, namespace: shop, ports: ["53/UDP", 53]}
edges:
  - {from: outside, to: web, port: 8080}
  - {from: namespace:ops, to: dns, port: 53/UDP}
  - {from: web, to: "dns:api.example.com", port: 443}
`

func TestParseIntent(t *testing.T) {
	got, err := ParseIntent("shop.yaml", []byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	want := Intent{
		Name: "shop", TrustDomain: "shop.example",
		Workloads: []Workload{
			{Name: "web", Namespace: "shop", Ports: []Port{TCP(8080)}},
			{Name: "dns", Namespace: "shop", Ports: []Port{UDP(53), TCP(53)}},
		},
		Edges: []Edge{
			{From: Outside, To: "web", Port: TCP(8080)},
			{From: "namespace:ops", To: "dns", Port: UDP(53)},
			{From: "web", To: "dns:api.example.com", Port: TCP(443)},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What is written is what is read.
func TestIntentYAML(t *testing.T) {
	small, err := ParseIntent("shop.yaml", []byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []Intent{Precinct99(), small} {
		text, err := in.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseIntent("again.yaml", text)
		if d := cmp.Diff(in, again); d != "" || err != nil {
			t.Errorf("%v\n%s\n%s", err, d, text)
		}
	}
}

// All that is wrong is told at once, each with its place.
func TestParseIntentFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want []string // all of them, in their order; "…" stands for any end
	}{
		"empty":         {"", []string{"x.yaml:1:1: the file is empty…"}},
		"only comments": {"# nothing\n", []string{"x.yaml:1:1: the file is empty…"}},
		"no YAML":       {"a: b\n c: [\n", []string{"x.yaml:2:1: this is no YAML…"}},
		"no mapping":    {"- a\n", []string{"x.yaml:1:1: the file: want keys with values"}},
		"two documents": {shop + "---\na: b\n", []string{"x.yaml:1:1: the file holds more than one document"}},
		"another version": {strings.Replace(shop, "version: 1", "version: 2", 1),
			[]string{"x.yaml:1:10: version 2: this is read by version 1 alone"}},
		"no version": {strings.Replace(shop, "version: 1\n", "", 1), []string{"x.yaml:1:1: version 0…"}},
		"the shape": {`version: one
name: 12
label: x
name: shop
workloads:
  - name: web
    ports: 8080
    replicas: 1.5
    mtls: "yes"
    publish: [1]
  - - a
edges: [{port: http}, {port: [80]}]
`, []string{
			`x.yaml:1:10: version: want a whole number`,
			`x.yaml:2:7: name: want a text…`,
			`x.yaml:3:1: unknown key "label": known here are edges, name, trustDomain, version, workloads`,
			`x.yaml:4:1: key "name" is given twice, first in line 2`,
			`x.yaml:7:12: workloads[0].ports: want a list`,
			`x.yaml:8:15: workloads[0].replicas: want a whole number`,
			`x.yaml:9:11: workloads[0].mtls: want true or false`,
			`x.yaml:10:14: workloads[0].publish: want keys with values`,
			`x.yaml:11:5: workloads[1]: want keys with values`,
			`x.yaml:12:16: edges[0].port: port "http": want a number such as 8000, or 53/UDP`,
			`x.yaml:12:30: edges[1].port: want keys with values`,
		}},
		"the sense": {`version: 1
name: Shop!
trustDomain: spiffe://shop
workloads:
  - {name: web, namespace: shop, ports: [8080, 8080, 0]}
  - {name: web2, namespace: shop, serviceAccount: web}
edges:
  - {from: wbe, to: web, port: 8080}
  - {from: web2, to: web, port: 80}
  - {from: web2, to: web, port: 8080/UDP}
  - {from: outside, to: web, port: 8080, authenticated: true}
  - {from: outside, to: dns:x.y, port: 80}
  - {from: namespace:shop, to: web, port: 8080}
  - {from: web2, to: web, port: 8080}
  - {from: web2, to: "dns:not a host", port: 443}
  - {from: web2, to: "dns:10.0.0.1", port: 443}
  - {from: web2, to: "dns:web.shop.svc.cluster.local", port: 443}
`, []string{
			`x.yaml:2:7: name "Shop!"…`,
			`x.yaml:3:14: trust domain "spiffe://shop"…`,
			`x.yaml:5:48: workload "web": port 8080 is named twice`,
			`x.yaml:5:54: workload "web": port 0 is not between…`,
			`x.yaml:6:5: workloads "web" and "web2" share the service account shop/web…`,
			`x.yaml:8:12: edge wbe → web:8080: no workload "wbe"`,
			`x.yaml:9:33: edge web2 → web:80: web serves [8080 8080 0], not port 80`,
			`x.yaml:10:33: edge web2 → web:8080/UDP: web serves…`,
			`x.yaml:11:57: edge outside → web:8080: what is outside the cluster has no identity to authenticate`,
			`x.yaml:12:5: edge outside → dns:x.y:80: what is outside needs no edge to get out`,
			`x.yaml:14:5: edge web2 → web:8080: some of it is in edge namespace:shop → web:8080 already`,
			`x.yaml:15:22: edge web2 → dns:not a host:443: host "not a host"…`,
			`x.yaml:16:22: edge web2 → dns:10.0.0.1:443: 10.0.0.1 is an address, and no DNS name`,
			`x.yaml:17:22: edge web2 → dns:web.shop.svc.cluster.local:443: web.shop.svc.cluster.local is inside the cluster: name its workload`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseIntent("x.yaml", []byte(tc.text))
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("error: %v", err)
			}
			got := strings.Split(err.Error(), "\n")
			same := slices.EqualFunc(got, tc.want, func(got, want string) bool {
				start, open := strings.CutSuffix(want, "…")
				return got == want || open && strings.HasPrefix(got, start)
			})
			if !same {
				t.Errorf("got\n%s\nwant\n%s", err, strings.Join(tc.want, "\n"))
			}
		})
	}
}

// The schema knows each key, and takes what the parser takes.
func TestIntentSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(IntentSchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("intent.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("intent.json")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(text string) error {
		asJSON, err := sigsyaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value)
	}
	for _, good := range []string{string(precinct99), shop} {
		if err := validate(good); err != nil {
			t.Error(err)
		}
	}
	for _, change := range [][2]string{
		{"version: 1", "version: 2"}, {"name: shop", "nme: shop"}, {"ports: [8080]", "ports: [http]"}, {"ports: [8080]", "port: 8080"},
		{"namespace: shop", "namespace: Shop"}, {"from: outside", "from: out side"}, {"port: 443", "port: 70000"},
	} {
		if bad := strings.Replace(shop, change[0], change[1], 1); validate(bad) == nil {
			t.Errorf("the schema takes %q", change[1])
		}
	}
	var tree struct {
		Properties map[string]any `json:"properties"`
		Defs       map[string]struct {
			Properties map[string]struct {
				Properties map[string]any `json:"properties"`
			} `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(IntentSchema(), &tree); err != nil {
		t.Fatal(err)
	}
	workload := tree.Defs["workload"].Properties
	for _, tc := range []struct {
		of   any
		have []string
	}{
		{document{}, slices.Collect(maps.Keys(tree.Properties))},
		{Workload{}, slices.Collect(maps.Keys(workload))},
		{Edge{}, slices.Collect(maps.Keys(tree.Defs["edge"].Properties))},
		{Publish{}, slices.Collect(maps.Keys(workload["publish"].Properties))},
		{Access{}, slices.Collect(maps.Keys(workload["access"].Properties))},
	} {
		want := slices.Sorted(maps.Keys(fieldsOf(reflect.ValueOf(tc.of))))
		if slices.Sort(tc.have); !slices.Equal(tc.have, want) {
			t.Errorf("%T: the schema has %v, the type %v", tc.of, tc.have, want)
		}
	}
}

// FuzzParseIntent needs minutes to compile, as the go command instruments every package
// below this one; TestParseIntentOfMutants asks the same of less clever texts in each run.
func FuzzParseIntent(f *testing.F) {
	for _, text := range seeds {
		f.Add(text)
	}
	f.Fuzz(parsesOrTells)
}

var seeds = []string{string(precinct99), shop, "a: &a [*a]\n", "version: 1\n<<: {name: x}\n"}

func TestParseIntentOfMutants(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 99))
	understood := 0
	for range 10000 {
		text := []byte(seeds[r.IntN(len(seeds))])
		for range 1 + r.IntN(3) {
			text = mutant(r, text)
		}
		if _, err := ParseIntent("m.yaml", text); err == nil {
			understood++
		}
		parsesOrTells(t, string(text))
		if t.Failed() {
			t.Fatalf("the text:\n%s", text)
		}
	}
	if understood < 200 || understood > 9800 {
		t.Errorf("%d of 10000 mutants are intents: they are too much alike", understood)
	}
}

// mutant has a line or some bytes of the text elsewhere, twice, not at all, or another.
func mutant(r *rand.Rand, text []byte) []byte {
	if len(text) == 0 {
		return []byte("version: 1\n")
	}
	from := r.IntN(len(text))
	to := min(len(text), from+1+r.IntN(12))
	if r.IntN(2) == 0 { // whole lines
		from = bytes.LastIndexByte(text[:from], '\n') + 1
		if end := bytes.IndexByte(text[from:], '\n'); end >= 0 {
			to = from + end + 1
		}
	}
	part := slices.Clone(text[from:to])
	at := r.IntN(len(text))
	switch r.IntN(4) {
	case 0:
		return slices.Delete(slices.Clone(text), from, to)
	case 1:
		return slices.Insert(slices.Clone(text), at, part...)
	case 2:
		other := slices.Clone(text)
		other[at] = byte(r.IntN(256))
		return other
	}
	return slices.Insert(slices.Clone(text), at, []byte([]string{"null", "[]", "{}", "-1", "&x ", "*x", "!!str ", "\t", ": ", "~"}[r.IntN(10)])...)
}

// parsesOrTells wants, whatever the text, an intent that can be written and read again, or
// faults with places.
func parsesOrTells(t *testing.T, text string) {
	in, err := ParseIntent("f.yaml", []byte(text))
	if err != nil {
		var faults Faults
		if !errors.As(err, &faults) || len(faults) == 0 {
			t.Fatalf("error: %v", err)
		}
		for _, fault := range faults {
			if fault.Line < 1 || fault.Column < 1 || fault.Text == "" {
				t.Errorf("%+v", fault)
			}
		}
		return
	}
	again, err := in.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseIntent("g.yaml", again); err != nil || normalised(in) != normalised(back) {
		t.Errorf("%v\n%s", err, cmp.Diff(in, back))
	}
}

// normalised tells no empty list from none.
func normalised(in Intent) string {
	if len(in.Edges) == 0 {
		in.Edges = nil
	}
	text, _ := json.Marshal(in)
	return string(text)
}

// The demo with GitHub's own API is the demo but for that.
func TestGitHubIntent(t *testing.T) {
	const file = "../examples/precinct/github.yaml"
	got, err := ReadIntent(file)
	if err != nil {
		t.Fatal(err)
	}
	want := Precinct99()
	want.Workloads = slices.DeleteFunc(want.Workloads, func(w Workload) bool { return w.Name == "githubstub" })
	want.Workloads[1].Env = map[string]string{"GITHUB_API_URL": "https://api.github.com/"}
	for i, e := range want.Edges {
		if e.To == "githubstub" {
			want.Edges[i] = Edge{From: "backend", To: "dns:api.github.com", Port: TCP(443)}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// The README's intent is one.
func TestREADMEIntent(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "    # yaml-language-server")
	if !found {
		t.Fatal("README.md has no intent")
	}
	text, _, _ = strings.Cut("    # yaml-language-server"+text, "\n\n")
	if _, err := ParseIntent("README.md", []byte(strings.ReplaceAll(text, "\n    ", "\n"))); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}
