package spire

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

var td = spiffeid.RequireTrustDomainFromString("demo.local")

func TestEntryIDIsAFunctionOfTheKeyAlone(t *testing.T) {
	e := WorkloadEntry(td, "c", "ns", "sa", Selector{"k8s", "pod-label:a:b"})
	id := EntryID("me", e)
	if !strings.HasPrefix(id, "me.") || len(id) != len("me.")+32 {
		t.Fatalf("EntryID = %q, want me. and 32 characters", id)
	}
	same := e
	same.Selectors = []Selector{e.Selectors[2], e.Selectors[0], e.Selectors[1], e.Selectors[0]}
	same.ID, same.Hint, same.X509TTL, same.Admin = "x", "hint", time.Hour, true
	if got := EntryID("me", same); got != id {
		t.Errorf("EntryID with other order and attributes = %q, want %q", got, id)
	}
	for name, change := range map[string]func(*Entry){
		"SPIFFE ID": func(e *Entry) { e.SPIFFEID = CiliumAgentID(td) },
		"parent":    func(e *Entry) { e.ParentID = NodeAliasID(td, "d") },
		"selectors": func(e *Entry) { e.Selectors = e.Selectors[:2] },
		"shifted separator": func(e *Entry) {
			e.Selectors = []Selector{e.Selectors[0], e.Selectors[1], {"k8s:pod-label", "a:b"}}
		},
	} {
		other := e
		change(&other)
		if EntryID("me", other) == id {
			t.Errorf("EntryID is the same after a change of %s", name)
		}
	}
	if got := EntryID("", e); !strings.HasPrefix(got, DefaultOwner+".") {
		t.Errorf("EntryID of the default owner = %q", got)
	}
}

func TestOwnedNeedsTheWholeOwnerName(t *testing.T) {
	e := WorkloadEntry(td, "c", "ns", "sa")
	for id, want := range map[string]bool{
		"me.abc": true, "me2.abc": false, "me": false, "": false, "meabc": false,
		"c7a1f6de-9b0e-4f1a-8d2c-5d8a7e0b1c2d": false,
	} {
		e.ID = id
		if got := owned(e, "me"); got != want {
			t.Errorf("owned(%q, me) = %v, want %v", id, got, want)
		}
	}
	e.ID, e.SPIFFEID = "me.abc", spiffeid.RequireFromPath(td, "/identity/1234")
	if owned(e, "me") {
		t.Error("an entry below /identity/ is owned, want it left to Cilium")
	}
}

func TestValidOwner(t *testing.T) {
	for owner, ok := range map[string]bool{
		"": true, "me": true, "a-b_C9": true, "a.b": false, "a/b": false, "é": false, strings.Repeat("x", 65): false,
	} {
		if err := validOwner(owner); (err == nil) != ok {
			t.Errorf("validOwner(%q) = %v, want ok %v", owner, err, ok)
		}
	}
}

func TestValidate(t *testing.T) {
	good := WorkloadEntry(td, "c", "ns", "sa")
	good.X509TTL, good.DNSNames, good.ExpiresAt = time.Hour, []string{"a", "b"}, time.Unix(2e9, 0)
	if err := Validate(good); err != nil {
		t.Fatalf("Validate(good) = %v", err)
	}
	other := spiffeid.RequireTrustDomainFromString("other.test")
	for want, change := range map[string]func(*Entry){
		"SPIFFE ID is missing":     func(e *Entry) { *e = WorkloadEntry(td, "c", "", "") },
		"reserved for SPIRE":       func(e *Entry) { e.SPIFFEID = spiffeid.RequireFromPath(td, "/spire/x") },
		"Cilium's operator":        func(e *Entry) { e.SPIFFEID = spiffeid.RequireFromPath(td, "/identity/7") },
		"has no path":              func(e *Entry) { e.SPIFFEID = td.ID() },
		"parent ID is missing":     func(e *Entry) { e.ParentID = spiffeid.ID{} },
		"another trust domain":     func(e *Entry) { e.ParentID = NodeAliasID(other, "c") },
		"selectors are missing":    func(e *Entry) { e.Selectors = nil },
		"type without colon":       func(e *Entry) { e.Selectors = []Selector{{"a:b", "c"}} },
		"all must be of one":       func(e *Entry) { e.StoreSVID = true; e.Selectors = append(e.Selectors, Selector{"unix", "uid:1"}) },
		"X509TTL 1.5s":             func(e *Entry) { e.X509TTL = 1500 * time.Millisecond },
		"JWTTTL -1s":               func(e *Entry) { e.JWTTTL = -time.Second },
		"hint has 1025 bytes":      func(e *Entry) { e.Hint = strings.Repeat("h", 1025) },
		`DNS name "a" is empty or`: func(e *Entry) { e.DNSNames = []string{"a", "a"} },
		"whole seconds after 1970": func(e *Entry) { e.ExpiresAt = time.Unix(5, 5) },
	} {
		e := good
		change(&e)
		if err := Validate(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want an error with %q", err, want)
		}
	}
}

func TestParseSelector(t *testing.T) {
	got, err := ParseSelector("k8s:pod-label:app:x")
	if err != nil || got != (Selector{"k8s", "pod-label:app:x"}) || got.String() != "k8s:pod-label:app:x" {
		t.Errorf("ParseSelector = %v, %v", got, err)
	}
	for _, bad := range []string{"", "k8s", ":x", "k8s:"} {
		if _, err := ParseSelector(bad); err == nil {
			t.Errorf("ParseSelector(%q) succeeded", bad)
		}
	}
}

func TestWireRoundTrip(t *testing.T) {
	e := WorkloadEntry(td, "c", "ns", "sa")
	e.ID, e.X509TTL, e.JWTTTL = "me.1", time.Hour, time.Minute
	e.Admin, e.Downstream, e.StoreSVID = true, true, true
	e.FederatesWith = []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("other.test")}
	e.DNSNames, e.Hint, e.ExpiresAt = []string{"b", "a"}, "h", time.Unix(2e9, 0).UTC()
	got, err := fromProto(toProto(e))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got, cmp.AllowUnexported(spiffeid.ID{}, spiffeid.TrustDomain{})); diff != "" {
		t.Errorf("entry changed on the wire (-want +got):\n%s", diff)
	}
	if fields := changed(e, got); fields != nil {
		t.Errorf("changed = %v, want none", fields)
	}
}

func TestNames(t *testing.T) {
	var got []string
	for _, e := range append(CiliumEntries(td, "precinct-99"), NodeAlias(td, "precinct-99"), WorkloadEntry(td, "precinct-99", "99-apps", "api")) {
		if err := Validate(e); err != nil {
			t.Errorf("%s: %v", e, err)
		}
		got = append(got, e.String())
	}
	want := []string{
		"spiffe://demo.local/cilium-agent (parent spiffe://demo.local/node/precinct-99, selectors k8s:ns:kube-system k8s:sa:cilium)",
		"spiffe://demo.local/cilium-operator (parent spiffe://demo.local/node/precinct-99, selectors k8s:ns:kube-system k8s:sa:cilium-operator)",
		"spiffe://demo.local/node/precinct-99 (parent spiffe://demo.local/spire/server, selectors k8s_psat:cluster:precinct-99)",
		"spiffe://demo.local/ns/99-apps/sa/api (parent spiffe://demo.local/node/precinct-99, selectors k8s:ns:99-apps k8s:sa:api)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOnWireAgreesWithChanged(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	other := spiffeid.RequireTrustDomainFromString("other.test")
	equal := 0
	for range 20000 {
		a := randomEntry(r)
		b := a
		for range r.IntN(3) {
			switch r.IntN(8) {
			case 0:
				b = randomEntry(r)
			case 1:
				b.X509TTL = time.Duration(r.IntN(2)) * time.Hour
			case 2:
				b.JWTTTL = time.Duration(r.IntN(2)) * time.Hour
			case 3:
				b.DNSNames = []string{"a", "b"}[:r.IntN(3)]
			case 4:
				b.FederatesWith = []spiffeid.TrustDomain{other, td}[:r.IntN(3)]
			case 5:
				b.Downstream = r.IntN(2) == 0
			case 6:
				b.StoreSVID = r.IntN(2) == 0
			case 7:
				b.ExpiresAt = fromUnix(int64(r.IntN(2)) * 1e9)
			}
		}
		want := len(changed(a, b)) == 0
		if got := onWire(encode(t, toProto(a)), b); got != want {
			t.Fatalf("onWire = %v, want %v:\n%+v\n%+v", got, want, a, b)
		}
		if want {
			equal++
		}
	}
	if equal < 1000 {
		t.Errorf("only %d equal pairs: the generator is too wild", equal)
	}
	// A server may list a set in another order than it was given: no, but not changed.
	e := WorkloadEntry(td, "c", "ns", "sa")
	p := toProto(e)
	p.Selectors[0], p.Selectors[1] = p.Selectors[1], p.Selectors[0]
	if h, err := fromProto(p); err != nil || onWire(encode(t, p), e) || changed(h, e) != nil {
		t.Errorf("selectors in another order: onWire %v, changed %v, %v", onWire(encode(t, p), e), changed(h, e), err)
	}
}

// encode is p on the wire, with what only the server sets and fields of a newer one.
func encode(t *testing.T, p *types.Entry) []byte {
	t.Helper()
	p = proto.CloneOf(p)
	p.RevisionNumber, p.CreatedAt = 7, 1e9
	b, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, 99, protowire.VarintType), 1)
	return protowire.AppendFixed32(protowire.AppendTag(b, 100, protowire.Fixed32Type), 1)
}
