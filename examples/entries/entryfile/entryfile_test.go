package entryfile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/spire"
)

// want is what each file of testdata holds.
func want() []spire.Entry {
	td := spiffeid.RequireTrustDomainFromString("demo.local")
	cart := spire.Entry{
		SPIFFEID: spiffeid.RequireFromPath(td, "/ns/shop/sa/cart"), ParentID: spiffeid.RequireFromPath(td, "/node/c1"),
		Selectors: []spire.Selector{{Type: "k8s", Value: "ns:shop"}, {Type: "k8s", Value: "sa:cart"}},
		X509TTL:   time.Hour, JWTTTL: 5 * time.Minute, Admin: true, Downstream: true, StoreSVID: true,
		FederatesWith: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("other.test")},
		DNSNames:      []string{"cart.shop.svc", "cart"}, Hint: "internal",
		ExpiresAt: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	return []spire.Entry{cart, {
		SPIFFEID: spiffeid.RequireFromPath(td, "/db"), ParentID: spiffeid.RequireFromPath(td, "/node/c1"),
		Selectors: []spire.Selector{{Type: "unix", Value: "uid:1000"}},
	}}
}

func TestRead(t *testing.T) {
	files, err := filepath.Glob("testdata/*")
	if err != nil || len(files) < 4 {
		t.Fatalf("testdata: %v, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := Read(file, data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		got, err := Join(entries)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		want := want()
		if filepath.Base(file) == "manifests.yaml" { // a ClusterStaticEntry has no expiry
			want[0].ExpiresAt = time.Time{}
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(spiffeid.ID{}, spiffeid.TrustDomain{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", file, d)
		}
	}
}

// The sample has the shape that encoding/json, which
// spire-server uses, reads.
func TestServerFormatIsJSON(t *testing.T) {
	data, err := os.ReadFile("testdata/spire-server.json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Entries []map[string]any }
	if err := json.Unmarshal(data, &list); err != nil || len(list.Entries) != 2 {
		t.Errorf("%d entries, %v", len(list.Entries), err)
	}
}

func TestReadFaults(t *testing.T) {
	const good = "spiffeID: spiffe://demo.local/a, parentID: spiffe://demo.local/n, selectors: [unix:uid:1]"
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"# nothing\n---\n", ""},
		{"entries: []", ""},
		{"entries:", ""},
		{"entries: [{" + good + "}]", ""},
		{"entries: [", "f: neither YAML nor JSON: yaml: line 1"},
		{"- a", "f:1:1: document: want a mapping, this is a list"},
		{"hello", `f:1:1: document: want a mapping, this is "hello"`},
		{"a: 1", `f:1:1: document: want "entries", a list, or kind: ClusterStaticEntry`},
		{"entries: 7", `f:1:10: entries: want a list, this is "7"`},
		{"entries: []\nowner: me", "f:2:1: unknown field owner"},
		{"entries:\n- 7", `f:2:3: entry: want a mapping, this is "7"`},
		{"entries: [{" + good + ", hint: a, hint: b}]", "hint is there twice"},
		{"entries:\n- {" + good + ", spiffeId: x}", "f:2:95: unknown field spiffeId: it is called spiffeID"},
		{"entries: [{" + good + ", colour: red}]", "unknown field colour: there are admin, dnsNames"},
		{"entries: [{spiffeID: http://a}]", `spiffeID: "http://a": scheme is missing or invalid`},
		{"entries: [{" + good + ", admin: 1}]", `admin: want true or false, this is "1"`},
		{"entries: [{" + good + ", admin: 'true'}]", `admin: want true or false, this is "true"`},
		{"entries: [{" + good + ", x509TTL: 3600}]", "x509TTL: 3600 has no unit: want a duration such as 1h or 3600s"},
		{"entries: [{" + good + ", jwtTTL: soon}]", `jwtTTL: want a duration such as 1h or 30m, this is "soon"`},
		{"entries: [{" + good + ", jwtTTL: 1500ms}]", "f:1:11: JWTTTL 1.5s: want whole seconds"},
		{"entries: [{" + good + ", dnsNames: a}]", `dnsNames: want a list, this is "a": write [a]`},
		{"entries: [{" + good + ", expiresAt: tomorrow}]", "expiresAt: want a time such as 2030-01-01T00:00:00Z"},
		{"entries: [{" + good + ", federatesWith: ['a b']}]", "federatesWith: "},
		{"entries:\n- spiffeID: spiffe://demo.local/a\n  parentID: spiffe://demo.local/n\n  selectors:\n  - unix:uid:1\n  - nonsense", `f:6:5: selectors: selector "nonsense": want type:value`},
		{"entries: [{spiffeID: spiffe://demo.local/a, parentID: spiffe://demo.local/n}]", "f:1:11: selectors are missing"},
		{"entries: [{}]", "SPIFFE ID is missing\nf:1:11: parent ID is missing"},
		{`{"entries": [{"spiffe_id": "spiffe://demo.local/a", "ttl": 5}]}`, "unknown field ttl"},
		{`{"entries": [{"spiffe_id": "spiffe://demo.local/a", "x509_svid_ttl": -5}]}`, `x509_svid_ttl: want a whole number, zero or more, this is "-5"`},
		{`{"entries": [{"spiffe_id": "spiffe://demo.local/a", "x509_svid_ttl": 5000000000}]}`, "5000000000 seconds are too many"},
		{`{"entries": [{"spiffe_id": "spiffe://demo.local/a", "selectors": ["unix:uid:1"]}]}`, `selectors: want type and value, this is "unix:uid:1"`},
		{`{"entries": [{"spiffe_id": "spiffe://demo.local/a", "selectors": [{"type": "a", "valeu": "b"}]}]}`, "unknown field valeu"},
		{"kind: Pod\napiVersion: v1", "f:1:7: want kind ClusterStaticEntry of spire.spiffe.io/v1alpha1, this is Pod of \"v1\""},
		{"kind: ClusterStaticEntry\napiVersion: spire.spiffe.io/v1alpha1\nmetadata: {name: x}", "ClusterStaticEntry x: spec is missing"},
		{"kind: ClusterStaticEntry\napiVersion: spire.spiffe.io/v1alpha1\nspec: {x509TTL: 1h}", "unknown field x509TTL"},
		{"kind: List\napiVersion: v1", "items are missing"},
		{"entries: &x [{" + good + "}]\n---\nentries: [*y]", "unknown anchor"},
	} {
		_, err := Read("f", []byte(test.in))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("Read(%q) = %v", test.in, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("Read(%q) = %v\nwant an error with %q", test.in, err, test.want)
		}
	}
}

func TestJoinNamesBothPlaces(t *testing.T) {
	one, err := Read("one.yaml", []byte("entries: [{spiffeID: spiffe://demo.local/a, parentID: spiffe://demo.local/n, selectors: [unix:uid:1]}]"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := Read("two.json", []byte(`{"entries": [{"spiffe_id": "spiffe://demo.local/a", "parent_id": "spiffe://demo.local/n", "hint": "h", "selectors": [{"type": "unix", "value": "uid:1"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(one, two); err == nil || !strings.Contains(err.Error(), "two.json:1:14: the same SPIFFE ID, parent and selectors as at one.yaml:1:11: spiffe://demo.local/a") {
		t.Errorf("Join = %v", err)
	}
}

func FuzzRead(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.*")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := Read("f", data)
		if err != nil && len(entries) > 0 {
			t.Error("entries beside an error")
		}
		for _, e := range entries {
			if err := spire.Validate(e.Entry); err != nil {
				t.Errorf("%s: %v", e.At, err)
			}
		}
	})
}
