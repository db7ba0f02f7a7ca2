package spire

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// mine is w as it lies on the server after Sync created it.
func mine(w Entry) Entry {
	w.ID = EntryID("me", w)
	w.RevisionNumber, w.CreatedAt = 3, time.Unix(1e9, 0)
	return w
}

func with(e Entry, change func(*Entry)) Entry {
	e.Selectors = slices.Clone(e.Selectors)
	change(&e)
	return e
}

func TestDiff(t *testing.T) {
	a, b := WorkloadEntry(td, "c", "ns", "a"), WorkloadEntry(td, "c", "ns", "b")
	foreign := func(e Entry) Entry { e.ID = "5d3f6a7c-1111-4222-8333-444444444444"; return e }
	cilium := Entry{
		ID: "me.looks-like-ours", SPIFFEID: spiffeid.RequireFromPath(td, "/identity/77"),
		ParentID: CiliumOperatorID(td), Selectors: []Selector{{"cilium", "mutual-auth"}},
	}
	for _, test := range []struct {
		name       string
		have, want []Entry
		plan       string // of the kinds of steps and their entries' service accounts
	}{
		{"nothing at all", nil, nil, ""},
		{"create", nil, []Entry{a, b}, "+a +b"},
		{"unchanged", []Entry{mine(a)}, []Entry{a}, "=1"},
		{"order and repetition of selectors", []Entry{mine(a)},
			[]Entry{with(a, func(e *Entry) { e.Selectors = []Selector{e.Selectors[1], e.Selectors[0], e.Selectors[1]} })}, "=1"},
		{"update", []Entry{mine(a)}, []Entry{with(a, func(e *Entry) { e.Hint, e.X509TTL = "h", time.Hour })}, "~a[X509TTL Hint]"},
		{"order of DNS names counts", []Entry{mine(with(a, func(e *Entry) { e.DNSNames = []string{"x", "y"} }))},
			[]Entry{with(a, func(e *Entry) { e.DNSNames = []string{"y", "x"} })}, "~a[DNSNames]"},
		{"delete", []Entry{mine(a), mine(b)}, []Entry{b}, "-a =1"},
		{"selectors changed: new before old", []Entry{mine(a)},
			[]Entry{with(a, func(e *Entry) { e.Selectors[0].Value = "ns:other" })}, "+a -a"},
		{"edited by hand", []Entry{with(mine(a), func(e *Entry) { e.Selectors[0].Value = "ns:other" })}, []Entry{a}, "~a[Selectors]"},
		{"ours by another ID is kept", []Entry{with(mine(a), func(e *Entry) { e.ID = "me.by-hand" })}, []Entry{a}, "=1"},
		{"ours twice", []Entry{with(mine(a), func(e *Entry) { e.ID = "me.by-hand" }), mine(a)}, []Entry{a}, "-a =1"},
		{"foreign stays", []Entry{foreign(b)}, []Entry{a}, "+a /1"},
		{"foreign twin", []Entry{foreign(a)}, []Entry{a}, "!a /1"},
		{"foreign twin of one we have", []Entry{foreign(a), mine(a)}, []Entry{a}, "=1 /1"},
		{"another owner with our name as prefix", []Entry{with(mine(b), func(e *Entry) { e.ID = EntryID("me2", b) })}, nil, "/1"},
		{"Cilium's identities, whatever their ID", []Entry{cilium}, nil, "/1"},
		{"wanted twice", nil, []Entry{a, a}, "+a !a"},
		{"invalid, but there", []Entry{mine(a)}, []Entry{with(a, func(e *Entry) { e.JWTTTL = 1 })}, "!a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := Diff(test.have, test.want, "me")
			if got := short(p); got != test.plan {
				t.Errorf("Diff = %q, want %q\n%s", got, test.plan, p)
			}
		})
	}
}

func short(p Plan) string {
	var s []string
	sa := func(e Entry) string { return e.SPIFFEID.Path()[strings.LastIndexByte(e.SPIFFEID.Path(), '/')+1:] }
	for _, c := range p.Create {
		s = append(s, "+"+sa(c.Want))
	}
	for _, c := range p.Update {
		s = append(s, fmt.Sprintf("~%s%v", sa(c.Want), c.Fields))
	}
	for _, c := range p.Delete {
		s = append(s, "-"+sa(c.Have))
	}
	for _, c := range p.Conflicts {
		s = append(s, "!"+sa(c.Want))
	}
	if p.Unchanged > 0 {
		s = append(s, fmt.Sprintf("=%d", p.Unchanged))
	}
	if p.Foreign > 0 {
		s = append(s, fmt.Sprintf("/%d", p.Foreign))
	}
	return strings.Join(s, " ")
}

func TestPlanString(t *testing.T) {
	a, b, c := WorkloadEntry(td, "c", "ns", "a"), WorkloadEntry(td, "c", "ns", "b"), WorkloadEntry(td, "c", "ns", "c")
	twin := c
	twin.ID = "somebody"
	p := Diff([]Entry{mine(a), mine(b), twin}, []Entry{with(a, func(e *Entry) { e.Hint = "h" }), c, NodeAlias(td, "c")}, "me")
	want := `entries of me: 1 to create, 1 to update, 1 to delete, 1 in conflict; 0 unchanged, 1 of others
+ spiffe://demo.local/node/c (parent spiffe://demo.local/spire/server, selectors k8s_psat:cluster:c)
~ spiffe://demo.local/ns/ns/sa/a (parent spiffe://demo.local/node/c, selectors k8s:ns:ns k8s:sa:a)
    Hint: "" -> "h"
- spiffe://demo.local/ns/ns/sa/b (parent spiffe://demo.local/node/c, selectors k8s:ns:ns k8s:sa:b)
! spiffe://demo.local/ns/ns/sa/c (parent spiffe://demo.local/node/c, selectors k8s:ns:ns k8s:sa:c): entry somebody of somebody else already has this SPIFFE ID, parent and selectors
`
	if got := p.String(); got != want {
		t.Errorf("Plan.String:\n%s\nwant:\n%s", got, want)
	}
	if p.Empty() || !Diff([]Entry{mine(a)}, []Entry{a}, "me").Empty() {
		t.Error("Empty is wrong")
	}
}

// TestDiffProperty applies plans for random tables to a model of the server. The
// entries come from so few keys that all collisions occur.
func TestDiffProperty(t *testing.T) {
	const rounds = 5000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	steps := 0
	for round := range rounds {
		have, want := randomTable(r), randomWant(r)
		plan := Diff(have, want, "me")
		steps += len(plan.Create) + len(plan.Update) + len(plan.Delete) + len(plan.Conflicts)

		after, err := model(have, plan)
		if err != nil {
			t.Fatalf("round %d: %v\nhave %v\nwant %v\n%s", round, err, have, want, plan)
		}
		if msg := wrong(have, want, after, plan); msg != "" {
			t.Fatalf("round %d: %s\nhave %v\nwant %v\nafter %v\n%s", round, msg, have, want, after, plan)
		}
		again := Diff(after, want, "me")
		if len(again.Create)+len(again.Update)+len(again.Delete) > 0 {
			t.Fatalf("round %d: a second plan is not empty:\n%s\nafter the first:\n%s", round, again, plan)
		}
	}
	if steps < rounds {
		t.Errorf("only %d steps in %d rounds: the generator is too tame", steps, rounds)
	}
}

func randomEntry(r *rand.Rand) Entry {
	e := Entry{
		SPIFFEID:  spiffeid.RequireFromPath(td, []string{"/a", "/b", "/c", "/identity/1"}[r.IntN(4)]),
		ParentID:  NodeAliasID(td, []string{"x", "y"}[r.IntN(2)]),
		Selectors: []Selector{{"k8s", []string{"ns:1", "ns:2"}[r.IntN(2)]}},
	}
	if r.IntN(2) == 0 {
		e.Selectors = append(e.Selectors, Selector{"a", "b"})
	}
	if r.IntN(2) == 0 {
		e.Hint = "hint"
	}
	e.Admin = r.IntN(4) == 0
	return e
}

func randomWant(r *rand.Rand) []Entry {
	byID := map[string]Entry{}
	for range r.IntN(8) {
		if e := randomEntry(r); Validate(e) == nil {
			byID[EntryID("me", e)] = e
		}
	}
	want := slices.Collect(maps.Values(byID))
	slices.SortFunc(want, func(a, b Entry) int { return strings.Compare(EntryID("me", a), EntryID("me", b)) })
	r.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
	return want
}

func randomTable(r *rand.Rand) []Entry {
	var table []Entry
	ids := map[string]bool{}
	for i := range r.IntN(12) {
		e := randomEntry(r)
		switch r.IntN(4) {
		case 0:
			e.ID = fmt.Sprintf("foreign-%d", i)
		case 1: // ours, by a name that is not of its key
			e.ID = fmt.Sprintf("me.%d", i)
		case 2: // ours, edited so that it imitates another
			e.ID = EntryID("me", randomEntry(r))
		default:
			e.ID = EntryID("me", e)
		}
		if !ids[e.ID] {
			ids[e.ID] = true
			table = append(table, e)
		}
	}
	return table
}

func key(e Entry) string { return EntryID("key", e) }

// model does what a server does with a plan in Apply's order, and fails where the
// server would.
func model(have []Entry, p Plan) ([]Entry, error) {
	table := slices.Clone(have)
	find := func(id string) int { return slices.IndexFunc(table, func(e Entry) bool { return e.ID == id }) }
	for _, c := range p.Update {
		i := find(c.Want.ID)
		if i < 0 {
			return nil, fmt.Errorf("update of %s: not found", c.Want.ID)
		}
		table[i] = c.Want
	}
	for _, c := range p.Create {
		for _, e := range table {
			if e.ID == c.Want.ID || key(e) == key(c.Want) {
				return nil, fmt.Errorf("create of %s %s: %s exists", c.Want.ID, c.Want, e.ID)
			}
		}
		table = append(table, c.Want)
	}
	for _, c := range p.Delete {
		i := find(c.Have.ID)
		if i < 0 {
			return nil, fmt.Errorf("delete of %s: not found", c.Have.ID)
		}
		table = slices.Delete(table, i, i+1)
	}
	return table, nil
}

// wrong says what about the table after a plan is not as promised.
func wrong(have, want, after []Entry, p Plan) string {
	conflicts := map[string]bool{}
	for _, c := range p.Conflicts {
		conflicts[key(c.Want)] = true
	}
	expect := map[string]Entry{}
	for _, w := range want {
		if !conflicts[key(w)] {
			expect[key(w)] = w
		}
	}
	foreign := map[string]Entry{}
	for _, h := range have {
		if !owned(h, "me") {
			foreign[h.ID] = h
		}
	}
	for k := range conflicts {
		if !slices.ContainsFunc(slices.Collect(maps.Values(foreign)), func(e Entry) bool {
			return key(e) == k || strings.TrimPrefix(e.ID, "me.") == strings.TrimPrefix(k, "key.")
		}) {
			return "a conflict with nobody"
		}
	}
	for _, e := range after {
		if !owned(e, "me") {
			f, ok := foreign[e.ID]
			if !ok || len(changed(f, e)) > 0 {
				return "foreign entry " + e.ID + " was touched"
			}
			delete(foreign, e.ID)
			continue
		}
		w, ok := expect[key(e)]
		if !ok {
			return "entry " + e.ID + " is not wanted or there twice"
		}
		if fields := changed(e, w); len(fields) > 0 {
			return fmt.Sprintf("entry %s differs in %v", e.ID, fields)
		}
		delete(expect, key(e))
	}
	if len(foreign)+len(expect) > 0 {
		return fmt.Sprintf("missing: foreign %v, wanted %v", foreign, expect)
	}
	return ""
}
